"""The flags that choose devices, shared by the launchers."""

import os

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_integer(
  'cpu_devices',
  None,
  'CPU devices, each a worker that trains shards of its own; one a core if '
  'not given. '
  'Accelerators are always all used.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'data_devices',
  1,
  'Devices among which each batch is divided; members are spread over the '
  'rest. For networks or batches too large for one device.',
  lower_bound=1,
)
flags.DEFINE_float(
  'device_features_gb',
  None,
  'GB of training features that a device holds; a larger split visits it in '
  'pieces, half of this each, the next on its way while one trains. All of it '
  'if not given. It changes the order of utterances, and so results.',
  lower_bound=1e-6,
)
flags.DEFINE_string(
  'compilation_cache',
  '.cache/jax',
  'Where compiled programs are kept for the next run; empty for nowhere.',
)


def configure(most):
  """Makes the settings that must stand before the first computation.

  Args:
    most: networks that are trained together: with more CPU devices than these
      need, some would only train padding.

  Raises:
    ValueError: --data_devices does not divide --cpu_devices.
  """
  import jax

  data = FLAGS.data_devices
  if FLAGS.cpu_devices and FLAGS.cpu_devices % data:
    raise ValueError(
      f'--data_devices={data} does not divide --cpu_devices='
      f'{FLAGS.cpu_devices}; take a divisor of it'
    )
  cores = max(1, min(len(os.sched_getaffinity(0)) // data, most)) * data
  jax.config.update('jax_num_cpu_devices', FLAGS.cpu_devices or cores)
  cache()


def cache():
  """Keeps compiled programs where the flag says."""
  import jax

  if FLAGS.compilation_cache:
    place = command.directory('compilation_cache').absolute()
    jax.config.update('jax_compilation_cache_dir', str(place))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def meshes(topology=None):
  """Returns the meshes of all workers, each of devices of its own.

  Accelerators train every population together. CPU devices gain nothing from
  keeping step: each is a worker (or --data_devices of them are).

  Args:
    topology: of `chips.devices`, to plan for chips that are not there.

  Raises:
    ValueError: --data_devices does not divide the devices.
  """
  import jax

  from nasjax.programs import chips
  from nasjax.training import population

  data = FLAGS.data_devices
  all_devices = chips.devices(topology) if topology else jax.devices()
  size = data if all_devices[0].platform == 'cpu' else len(all_devices)
  try:
    return [
      population.member_mesh(all_devices[start : start + size], data)
      for start in range(0, len(all_devices), size)
    ]
  except ValueError as e:
    raise ValueError(f'--data_devices={data}: {e}') from None
