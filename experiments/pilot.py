"""Which learning rate, decay and start epoch? Trains a grid of schedules.

  python experiments/pilot.py --flagfile=experiments/flags/quickstart.flags \\
    --seeds=1,2 --lrs=1e-3,2e-3,4e-3 --decays=0.75,0.9 --starts=4,8 \\
    --out=results/pilot

Every cell and seed trains with every schedule, all else being that of the
recipe of the flags: one program trains them as a population, schedules being
data as architectures are. The table of --out has a recipe for each. Killed at
any moment, the same command goes on from the last epoch.
"""

import dataclasses
import itertools
import math

from absl import flags
from common import (
  command,
  corpus_flags,
  device_flags,
  jobs,
  training_flags,
)

FLAGS = flags.FLAGS

flags.DEFINE_list(
  'lrs', ['3e-4', '1e-3', '3e-3'], 'Learning rates of the grid.'
)
flags.DEFINE_list(
  'decays', None, "Factors of --decay; the recipe's if not given."
)
flags.DEFINE_list(
  'starts', None, "Epochs before the decay; the recipe's if not given."
)
flags.DEFINE_integer(
  'members_per_shard', 8, 'Largest number of networks trained together.',
  lower_bound=1,
)  # fmt: skip
flags.DEFINE_string('out', 'results/pilot', 'Where the table and figure go.')
flags.DEFINE_string('json', None, 'Where the ranking goes.')
for _module in corpus_flags, device_flags, training_flags:
  flags.adopt_module_key_flags(_module)
_FREE = (
  'out', 'json', 'data_dir', 'cpu_devices', 'data_devices',
  'compilation_cache',
)  # fmt: skip


def grid(base):
  """Returns the recipes of the grid.

  Raises:
    ValueError: naming the flag that is wrong.
  """
  if base.patience:
    raise ValueError(
      f'--patience={base.patience}: rates follow losses, so there is no '
      'schedule to choose; leave it out'
    )
  axes = (
    _numbers('lrs', FLAGS.lrs, float),
    _numbers('decays', FLAGS.decays, float) or [base.decay],
    _numbers('starts', FLAGS.starts, int) or [base.start],
  )
  if not axes[0]:
    raise ValueError('--lrs is empty; name at least one')
  return [
    dataclasses.replace(
      base,
      name=f'lr{lr:g}_decay{decay:g}_start{start}',
      lr=lr,
      decay=decay,
      start=start,
    )
    for lr, decay, start in itertools.product(*axes)
  ]


def _numbers(flag, words, kind):
  found = []
  for word in words or ():
    try:
      found.append(kind(word))
    except ValueError:
      found.append(math.nan)
    if not math.isfinite(found[-1]):
      raise ValueError(f'--{flag}: {word!r} is no number of this kind')
  return list(dict.fromkeys(found))


def run():
  """Trains the grid, ranks its points."""
  base, members = training_flags.recipe(), training_flags.members()
  own = grid(base)
  corpus_flags.check()
  out = command.directory('out')
  with command.exclusive(out):
    record = command.Record(out, free=_FREE)
    work = jobs.prepare(base, FLAGS.members_per_shard)
    from common import console
    from summaries import pilot_summary

    from nasjax import table
    from nasjax.benchmark import shards, workers

    job = work.job
    planned = shards.grid(job, members, own, FLAGS.members_per_shard)
    record.write(job.metric)
    count = len(members) * len(own)
    console.CONSOLE.print(
      f'{len(own)} schedules of {len(members)} networks each: {count} in '
      f'{len(planned)} shards'
    )
    with console.Bar(planned, job) as bar:
      workers.run(job, planned, work.prepareds, out, bar, console.CONSOLE.print)
    found = pilot_summary.write(table.open(out), own, out)
    if FLAGS.json:
      command.publish_json(FLAGS.json, found)


if __name__ == '__main__':
  command.run(run)
