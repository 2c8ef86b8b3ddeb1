"""Settings of every test: two CPU devices, strict ranks, shared compilations.

Programs here are compiled once and run a few times, so compiling shall be fast.

Compiled programs are kept in one directory for the whole run, its subprocesses
and the processes that share out the tests included, so that what several tests
need is compiled once.
"""

import gc
import os
import pathlib
import tempfile

import tiny_run

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=2',
    tiny_run.UNOPTIMISED,
  ]
)
# What the processes that share out the tests have in common, for this run.
_PLACE = tempfile.TemporaryDirectory(prefix='nasjax-tests-')
os.environ.setdefault('NASJAX_TEST_PLACE', _PLACE.name)
os.environ.setdefault(
  'NASJAX_TEST_CACHE', os.path.join(os.environ['NASJAX_TEST_PLACE'], 'compiled')
)
# Python, too, compiles what launchers import once, and not at every start.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)

# Garbage is looked for less often: traces are many objects that stay. It took
# 6 % of the time, most of it on what had been imported.
gc.set_threshold(50_000)

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Keeping all costs no more than keeping what took 0.3 s; a second run on a
# directory that is kept takes 0.6 of the time of the first.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

# What takes longest is begun first, so that no process has much left to do when
# the others have ended.
_LONGEST = (
  'models/test_accelerated', 'experiments/test_benchmark',
  'oneshot/test_search', 'oneshot/test_steps', 'losses/test_ctc_crf',
  'search/test_learned', 'experiments/test_oneshot_launcher',
  'experiments/test_search_launcher', 'oneshot/test_planted',
  'experiments/test_accelerators', 'models/test_network',
  'training/test_population', 'models/test_st_nas', 'benchmark/test_workers',
  'spaces/test_any_space', 'search/test_algorithms', 'training/test_mesh',
  'benchmark/test_killed_runs', 'benchmark/test_sizing',
  'kernels/test_conv_kernels', 'training/test_ctc_crf_training',
  'experiments/test_notebook', 'benchmark/test_exhausted',
  'training/test_plateau_training', 'experiments/test_table_notebook',
  'programs/test_chips', 'decoding/test_ctc', 'decoding/test_metrics',
  'tests/test_listening', 'benchmark/test_claims', 'launch/test_slurm',
  'launch/test_ray_cluster', 'experiments/test_examples',
)  # fmt: skip


def pytest_configure(config):
  # pytest-xdist would begin with the files of many tests, however short.
  if hasattr(config.option, 'loadscopereorder'):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
  order = {name: n for n, name in enumerate(_LONGEST)}

  def place(item):
    path = f'{item.path.parent.name}/{item.path.stem}'
    return order.get(path, len(order))

  items.sort(key=place)


def pytest_collection_finish():
  # Not before: all processes compile what files need to be collected at one
  # moment, and JAX would read what another has half written.
  place = os.environ['NASJAX_TEST_CACHE']
  jax.config.update('jax_compilation_cache_dir', place)
  compilation_cache.reset_cache()
  gc.collect()
  gc.freeze()


# A process may have 65,530 on most machines, and XLA ends by a fault of
# addresses where it gets no more.
_MAPPINGS = pathlib.Path('/proc/self/maps')
_MOST_MAPPINGS = 10_000


@pytest.fixture(autouse=True, scope='module')
def _compiled_programs_go():
  """Lets the programs of earlier files go when there are many.

  Each has ten mappings of memory or so, for as long as it can be called.
  """
  yield
  if not _MAPPINGS.exists():
    return
  with _MAPPINGS.open('rb') as lines:
    mappings = sum(1 for _ in lines)
  if mappings > _MOST_MAPPINGS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def emitters_of_users(monkeypatch):
  """Compiles the programs of populations as users do, where bits are promised.

  By the older emitters a member is rounded otherwise in another population.
  """
  from nasjax.training import population

  population._programs.cache_clear()
  monkeypatch.setitem(population._COMPILER, 'cpu', tiny_run.OF_USERS)
  yield
  population._programs.cache_clear()
