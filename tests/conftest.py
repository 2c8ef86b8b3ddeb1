"""Settings of every test: two CPU devices, strict ranks, shared compilations.

Programs here are compiled once and run a few times, so LLVM does not optimise
them.

Compiled programs are kept in one directory for the whole run, its subprocesses
and the processes that share out the tests included, so that what several tests
need is compiled once.
"""

import os
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=2',
    '--xla_backend_optimization_level=0',
  ]
)
_CACHE = tempfile.TemporaryDirectory(prefix='nasjax-compiled-')
os.environ.setdefault('NASJAX_TEST_CACHE', _CACHE.name)

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE'])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
