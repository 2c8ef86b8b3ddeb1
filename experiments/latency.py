"""Measures latency on the machine at hand: of a table's cells, or of any.

  python experiments/latency.py --table=results/quickstart --frames=200
  python experiments/latency.py --random_cells=100 --space=nb_asr \\
    --macro=quick --json=results/profile.json

Seconds of a forward pass, median and quartiles of --runs. Those of a table's
cells go into the table, shard by shard: `t.latency(archs, batch=1, frames=200)`
answers; killed and started again with the same command, it goes on. Those of
random architectures of any space, a profile, go to --json, with real-time
factor and peak memory, and say how well predictors do on networks that they
have not seen. With --runtime=onnx it is ONNX Runtime that runs them, as files
like those of export.py, each in a process of its own. A chunk of a stream is
--batch=1 --frames=N. Quiet machines measure best: training beside it makes
everything look slow.
"""

import dataclasses
import os

from absl import flags
from common import (
  command,
  device_flags,  # noqa: F401  (--compilation_cache)
)

from nasjax.models import macros

FLAGS = flags.FLAGS

flags.DEFINE_string('table', None, 'The table, or the run that it stands in.')
flags.DEFINE_integer(
  'random_cells',
  None,
  'Without --table: profile so many random architectures of --space.',
  lower_bound=1,
)
flags.DEFINE_string('space', 'nb_asr', 'Of --random_cells.')
flags.DEFINE_integer('profile_seed', 0, 'Of --random_cells.', lower_bound=0)
flags.DEFINE_integer('batch', 1, 'Utterances of a pass.', lower_bound=1)
flags.DEFINE_integer('frames', 200, 'Frames of 10 ms each.', lower_bound=1)
flags.DEFINE_enum(
  'macro',
  None,
  macros.names(),
  'The macro network; that of the table, or the usual one of the space, if not '
  'given.',
)
flags.DEFINE_string(
  'cells',
  'all',
  'How many cells of the table, drawn so that more contain fewer; or all.',
)
flags.DEFINE_list(
  'predictors',
  None,
  'Names of predictors to try on a profile, of operations, macs, boosting, '
  'forest and gcn; all if not given (none of a table), none if empty.',
)
flags.DEFINE_integer(
  'folds', 5, 'Parts of a profile, each predicted by the others.', lower_bound=2
)
flags.DEFINE_string(
  'device', None, 'What tables and profiles call this machine, if not its name.'
)
flags.DEFINE_integer(
  'cores', None, 'Use so many CPU cores; all if not given.', lower_bound=1
)
flags.DEFINE_enum('runtime', 'jax', ['jax', 'onnx'], 'What runs the networks.')
flags.DEFINE_integer(
  'threads', None, 'Of --runtime=onnx; one a core if not given.', lower_bound=1
)
flags.DEFINE_integer('runs', 50, 'Timed passes a cell.', lower_bound=50)
flags.DEFINE_integer('warmup', 10, 'Passes before them.', lower_bound=1)
flags.DEFINE_integer(
  'cells_per_shard', 64, 'Cells written at a time.', lower_bound=1
)
flags.DEFINE_string(
  'json', None, 'Where what is printed goes, and the profile.'
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


def macro_of(space, otherwise):
  """Returns the macro network of --macro, or what `otherwise()` gives.

  Raises:
    ValueError: it is none of the space.
  """
  from nasjax.models import families

  known = families.family(space).macros
  if FLAGS.macro is None:
    return otherwise()
  if FLAGS.macro not in known:
    raise ValueError(
      f'--macro={FLAGS.macro} is no network of space {space.name}; give '
      f'--macro={" or ".join(known)}'
    )
  return known[FLAGS.macro]


def watch_of(space, macro, setting):
  """Returns what --runtime times networks with; None for JAX."""
  if FLAGS.runtime == 'jax':
    return None
  from studies import onnx_latency

  return onnx_latency.Stopwatch(
    *(space, macro, setting.batch, setting.frames, threads()),
    *(FLAGS.runs, FLAGS.warmup),
  )


def threads():
  return FLAGS.threads or len(os.sched_getaffinity(0))


def device():
  """Returns what tables and profiles call the machine and its runtime."""
  from nasjax.benchmark import latency

  if FLAGS.device:
    return FLAGS.device
  name = latency.device_name()
  if FLAGS.runtime == 'onnx':
    name += f', ONNX Runtime with {threads()} threads'
  return name


def measured(t, macro, setting):
  """Measures what a table lacks, and returns what it now has, as a summary."""
  import numpy as np
  from common import console

  from nasjax import table
  from nasjax.benchmark import latency
  from nasjax.predictors import latency as predictors

  with console.counter(f'measuring on {setting.device}') as tick:
    count = latency.measure(
      t,
      chosen(t),
      macro,
      setting,
      runs=FLAGS.runs,
      warmup=FLAGS.warmup,
      cells_per_shard=FLAGS.cells_per_shard,
      on_cell=tick,
      watch=watch_of(t.space, macro, setting),
    )
  print(f'{count} cells measured')
  t = table.open(FLAGS.table)
  archs = t.latency_archs(**setting._asdict())
  seconds, low, high = (
    t.latency(archs, **setting._asdict(), quantile=q) for q in (0.5, 0.25, 0.75)
  )
  summary = summarised(setting, seconds, high - low)
  cells = zip(archs, seconds, low, high)
  names = 'seconds', 'quartile_low', 'quartile_high'
  own = chosen(t)
  found = predictors.Profile(
    t.space, macro, setting.device, setting.batch, setting.frames, own,
    t.latency(own, **setting._asdict()),
  )  # fmt: skip
  return summary | {
    'space': t.space.name,
    'macro': dataclasses.asdict(macro),
    'predictors': judged(found),
    'cells': [
      {'arch': t.space.nested(arch)} | dict(zip(names, np.array(v).tolist()))
      for arch, *v in cells
    ],
  }


def summarised(setting, seconds, spread):
  """Prints how long passes of a setting take; returns it for JSON."""
  import numpy as np

  ms = 1e3 * np.asarray(seconds)
  relative = float(np.median(1e3 * np.asarray(spread) / ms))
  audio = 0.01 * setting.batch * setting.frames
  print(
    f'{len(ms)} cells of {setting.macro} on {setting.device}, batch '
    f'{setting.batch}, {setting.frames} frames: {ms.min():.2f} to '
    f'{ms.max():.2f} ms, median {np.median(ms):.2f} ms; interquartile range '
    f'{relative:.1%} of a median; real-time factor '
    f'{np.median(ms) / 1e3 / audio:.5f}'
  )
  return {
    'device': setting.device,
    'batch': setting.batch,
    'frames': setting.frames,
    'interquartile_share': relative,
    'real_time_factor': float(np.median(ms) / 1e3 / audio),
  }


def profiled(space, macro, setting):
  """Profiles random architectures; returns all that --json is to have."""
  import jax
  import numpy as np
  from common import console

  from nasjax.benchmark import latency
  from nasjax.predictors import latency as predictors

  drawn = space.sample(jax.random.key(FLAGS.profile_seed), FLAGS.random_cells)
  archs = np.asarray(drawn)
  with console.counter(f'measuring on {setting.device}') as tick:
    cells = latency.profile(
      space, archs, macro, setting.batch, setting.frames,
      runs=FLAGS.runs, warmup=FLAGS.warmup, on_cell=tick,
      watch=watch_of(space, macro, setting),
    )  # fmt: skip
  seconds = np.array([cell['seconds'] for cell in cells])
  spread = [cell['quartile_high'] - cell['quartile_low'] for cell in cells]
  record = summarised(setting, seconds, spread)
  peak = max(cell['peak_bytes'] for cell in cells) / 1e6
  what = 'a program' if FLAGS.runtime == 'jax' else 'a process, for its network'
  print(f'peak memory of {what}: at most {peak:.1f} MB')
  made = predictors.Profile(
    space, macro, setting.device, setting.batch, setting.frames, archs, seconds
  )
  return record | {
    'space': space.name,
    'macro': dataclasses.asdict(macro),
    'cells': cells,
    'predictors': judged(made),
  }


def judged(profile):
  """Prints how well each predictor does on held-out networks; returns it."""
  from studies import latency_predictors

  names = FLAGS.predictors
  if names is None:
    names = [] if FLAGS.table else list(latency_predictors.NAMES)
  if not names:
    return {}
  if len(profile.seconds_n) < 2 * FLAGS.folds:
    print(
      f'{len(profile.seconds_n)} networks are too few to hold any out: '
      f'--folds={FLAGS.folds} wants two a fold'
    )
    return {}
  return latency_predictors.judged(names, profile, FLAGS.folds, print)


def check():
  """Refuses flags that contradict each other."""
  if not FLAGS.table and not FLAGS.random_cells:
    raise ValueError(
      '--table is empty; name a table or a run, or --random_cells'
    )
  if FLAGS.table and FLAGS.random_cells:
    raise ValueError('--random_cells goes without --table; leave one out')
  if FLAGS.threads and FLAGS.runtime == 'jax':
    raise ValueError(
      f'--threads={FLAGS.threads} is for --runtime=onnx; JAX takes --cores'
    )
  from studies import latency_predictors

  known = latency_predictors.NAMES
  for name in FLAGS.predictors or ():
    if name not in known:
      raise ValueError(f'--predictors: {name!r}; there are {", ".join(known)}')


def run():
  """Measures, says what there is, writes it."""
  check()
  from nasjax import spaces, table

  t = table.open(FLAGS.table) if FLAGS.table else None
  if not t and FLAGS.space not in spaces.SPACES:
    raise ValueError(
      f'--space={FLAGS.space}: there are {", ".join(spaces.SPACES)}'
    )
  if t:
    chosen(t)
  configure()
  from nasjax.benchmark import latency

  space = t.space if t else spaces.SPACES[FLAGS.space]
  macro = macro_of(
    space,
    lambda: (
      latency.macro_of(t)
      if t
      else macros.BY_SPACE[space.name][macros.default(space)]
    ),
  )
  setting = table.Setting(device(), FLAGS.batch, FLAGS.frames, macro.name)
  found = measured(t, macro, setting) if t else profiled(space, macro, setting)
  if FLAGS.json:
    command.publish_json(FLAGS.json, found, allow_nan=False)


if __name__ == '__main__':
  command.run(run)
