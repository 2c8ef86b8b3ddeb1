"""Measures latency of a table's cells on the machine at hand.

  python experiments/latency.py --table=results/quickstart --frames=200

Seconds of a forward pass, median and quartiles of --runs, go into the same
table, shard by shard: `t.latency(archs, batch=1, frames=200)` answers. Killed
and started again with the same command, it goes on. Quiet machines measure
best: training beside it makes everything look slow.
"""

import os

from absl import flags
from common import (
  command,
  device_flags,  # noqa: F401  (--compilation_cache)
)

from nasjax.models import macros

FLAGS = flags.FLAGS

flags.DEFINE_string('table', None, 'The table, or the run that it stands in.')
flags.DEFINE_integer('batch', 1, 'Utterances of a pass.', lower_bound=1)
flags.DEFINE_integer('frames', 200, 'Frames of 10 ms each.', lower_bound=1)
flags.DEFINE_enum(
  'macro',
  None,
  macros.names(),
  'The macro network; that of the table if not given.',
)
flags.DEFINE_string(
  'cells',
  'all',
  'How many cells, drawn so that more contain fewer; or all.',
)
flags.DEFINE_string(
  'device', None, 'What the table calls this machine, if not its own name.'
)
flags.DEFINE_integer(
  'cores', None, 'Use so many CPU cores; all if not given.', lower_bound=1
)
flags.DEFINE_integer('runs', 50, 'Timed passes a cell.', lower_bound=50)
flags.DEFINE_integer('warmup', 10, 'Passes before them.', lower_bound=1)
flags.DEFINE_integer(
  'cells_per_shard', 64, 'Cells written at a time.', lower_bound=1
)
flags.declare_key_flag('compilation_cache')


def chosen(t):
  """Returns the cells that --cells means, int8 [n, d]."""
  import numpy as np

  text = FLAGS.cells
  if text == 'all':
    return t.archs
  if not text.isdecimal() or not 1 <= int(text) <= len(t.archs):
    raise ValueError(
      f'--cells={text}: want all, or a number from 1 to {len(t.archs)}'
    )
  order = np.random.default_rng(0).permutation(len(t.archs))
  return t.archs[order[: int(text)]]


def configure():
  """Makes the settings that must stand before the first computation."""
  if FLAGS.cores:
    there = sorted(os.sched_getaffinity(0))
    if FLAGS.cores > len(there):
      raise ValueError(f'--cores={FLAGS.cores}: there are {len(there)}')
    os.sched_setaffinity(0, there[: FLAGS.cores])
  import jax

  if FLAGS.compilation_cache:
    cache = command.directory('compilation_cache').absolute()
    jax.config.update('jax_compilation_cache_dir', str(cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def show(t, setting):
  """Prints what the table now has of a setting."""
  import numpy as np

  archs = t.latency_archs(**setting._asdict())
  ms = 1e3 * t.latency(archs, **setting._asdict())
  spread = t.latency(archs, **setting._asdict(), quantile=0.75)
  spread -= t.latency(archs, **setting._asdict(), quantile=0.25)
  print(
    f'{len(archs)} cells of {setting.macro} on {setting.device}, batch '
    f'{setting.batch}, {setting.frames} frames: {ms.min():.2f} to '
    f'{ms.max():.2f} ms, median {np.median(ms):.2f} ms; interquartile range '
    f'{np.median(1e3 * spread / ms):.1%} of a median'
  )


def run():
  """Opens the table, measures what is missing, says what there is."""
  if not FLAGS.table:
    raise ValueError('--table is empty; name a table or a run')
  from nasjax import table

  t = table.open(FLAGS.table)
  archs = chosen(t)
  configure()
  from common import console

  from nasjax.benchmark import latency
  from nasjax.models import families

  named = families.family(t.space).macros.get(FLAGS.macro)
  macro = named or latency.macro_of(t)
  device = FLAGS.device or latency.device_name()
  setting = table.Setting(device, FLAGS.batch, FLAGS.frames, macro.name)
  with console.counter(f'measuring on {device}') as tick:
    count = latency.measure(
      t,
      archs,
      macro,
      setting,
      runs=FLAGS.runs,
      warmup=FLAGS.warmup,
      cells_per_shard=FLAGS.cells_per_shard,
      on_cell=tick,
    )
  print(f'{count} cells measured')
  show(table.open(FLAGS.table), setting)


if __name__ == '__main__':
  command.run(run)
