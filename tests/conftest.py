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
_CACHE = tempfile.TemporaryDirectory(prefix='nasjax-compiled-')
os.environ.setdefault('NASJAX_TEST_CACHE', _CACHE.name)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE'])
# Keeping all costs no more than keeping what took 0.3 s; a second run on a
# directory that is kept takes 0.6 of the time of the first.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)

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
