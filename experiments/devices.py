"""The flags that choose devices, shared by the launchers."""

import os

import command
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_integer(
  'cpu_devices',
  None,
  'CPU devices over which members are spread; one a core if not given. '
  'Accelerators are always all used.',
  lower_bound=1,
)
flags.DEFINE_string(
  'compilation_cache',
  '.cache/jax',
  'Where compiled programs are kept for the next run; empty for nowhere.',
)


def configure(most):
  """Makes the settings that must stand before the first computation.

  Args:
    most: networks that are trained together: with more CPU devices than these,
      some would only train padding.
  """
  import jax

  cores = min(len(os.sched_getaffinity(0)), most)
  jax.config.update('jax_num_cpu_devices', FLAGS.cpu_devices or cores)
  if FLAGS.compilation_cache:
    cache = command.directory('compilation_cache').absolute()
    jax.config.update('jax_compilation_cache_dir', str(cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
