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

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE'])
# Keeping all costs no more than keeping what took 0.3 s; a second run on a
# directory that is kept takes 0.6 of the time of the first.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

# What takes longest is begun first, so that no process has much left to do when
# the others have ended.
_LONGEST = (
  'experiments/test_benchmark', 'models/test_accelerated',
  'experiments/test_oneshot_launcher', 'experiments/test_search_launcher',
  'oneshot/test_search', 'oneshot/test_steps', 'losses/test_ctc_crf',
  'search/test_learned', 'experiments/test_accelerators',
  'kernels/test_conv_kernels', 'training/test_mesh', 'oneshot/test_planted',
  'benchmark/test_workers', 'benchmark/test_killed_runs',
  'training/test_ctc_crf_training', 'models/test_st_nas',
  'models/test_network', 'training/test_population',
  'search/test_algorithms', 'benchmark/test_sizing', 'spaces/test_any_space',
  'experiments/test_examples', 'experiments/test_table_notebook',
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
