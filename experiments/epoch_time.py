"""Shows where the time of an epoch goes: training, data, decoding, logging.

  python experiments/epoch_time.py --flagfile=experiments/flags/an4.flags \\
    --corpus_path=AN4/manifest.jsonl --macro=small --recipe=e40

Takes the flags of benchmark.py and trains the first shard of their plan for two
epochs, the second of which is timed, part by part. With --device_features_gb
`waiting` is for pieces of the training split: the devices are idle then.
"""

import pathlib
import tempfile
import time

from absl import flags
from common import command, corpus_flags, device_flags, jobs, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_string('out', None, 'Ignored, for the flagfiles of benchmark.py.')
flags.DEFINE_integer('members_per_shard', 2, 'Networks.', lower_bound=1)
flags.DEFINE_string('json', None, 'Where the seconds of each part go.')
flags.adopt_module_key_flags(corpus_flags)
flags.adopt_module_key_flags(device_flags)
flags.adopt_module_key_flags(training_flags)


class Clock:
  """Seconds of named parts."""

  def __init__(self):
    self.parts = {}

  def time(self, name, function, *arguments):
    """Calls a function and waits for what it computes."""
    import jax

    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    seconds = time.perf_counter() - started
    self.parts[name] = self.parts.get(name, 0.0) + seconds
    return result


def measure(job, shard, prepared):
  """Returns seconds of each part of an epoch.

  Decoding is what an evaluation takes longer than one that reads the best
  symbol of each frame, which costs next to nothing.
  """
  import dataclasses

  import orbax.checkpoint as ocp

  from nasjax.benchmark import running

  greedy = dataclasses.replace(
    job, recipe=dataclasses.replace(job.recipe, decoder='greedy')
  )
  trainer, quick = (running.Trainer(j, shard, prepared) for j in (job, greedy))
  state = trainer.epoch(trainer.initial(), 1)
  quick.evaluate(state.members.params, 'validation')
  clock, members_p = Clock(), state.members
  waited = trainer.waited
  for plan, data in trainer.visits(2):
    arguments = clock.time(
      'data', trainer.train_arguments, members_p, plan, job.recipe.lr, data
    )
    members_p, _ = clock.time('training', trainer.programs.train, *arguments)
    # One piece makes room for the next.
    del arguments, data
  if prepared.train.count > 1:
    clock.parts['waiting'] = trainer.waited - waited
  clock.time('evaluation', quick.evaluate, members_p.params, 'validation')
  clock.time('both', trainer.evaluate, members_p.params, 'validation')
  clock.parts['decoding'] = max(
    0.0, clock.parts.pop('both') - clock.parts['evaluation']
  )
  state = state._replace(members=members_p)
  host = clock.time('logging', trainer.unload, state)
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory).absolute() / 'checkpoints'
    with ocp.CheckpointManager(path) as manager:
      # As in training, which does not wait for the disk either.
      clock.time(
        'logging',
        lambda: manager.save(1, args=ocp.args.StandardSave(host)),
      )
  return clock.parts


def show(parts):
  """Prints seconds and shares."""
  from common.console import CONSOLE
  from rich.table import Table

  total = sum(parts.values())
  view = Table(title='an epoch')
  for column in ('part', 'seconds', 'share'):
    view.add_column(column, justify='left' if column == 'part' else 'right')
  for name, seconds in parts.items():
    view.add_row(name, f'{seconds:.2f}', f'{seconds / total:.1%}')
  CONSOLE.print(view)
  spent = sum(parts[name] for name in ('data', 'decoding', 'logging'))
  CONSOLE.print(f'data, decoding and logging: {spent / total:.1%}')
  if 'waiting' in parts:
    idle = parts['waiting'] + parts['data']
    idle /= idle + parts['training']
    CONSOLE.print(f'devices idle while data come: {idle:.2%} of the training')
  added = parts['decoding'] / (parts['training'] + parts['evaluation'])
  CONSOLE.print(f'with decoding it takes {1 + added:.2f} times as long')


def run():
  """The way of benchmark.py up to its first shard."""
  recipe, members = training_flags.recipe(), training_flags.members()
  corpus_flags.check()
  work = jobs.prepare(recipe, 1)

  from nasjax.benchmark import running

  shard = running.plan(work.job, members, FLAGS.members_per_shard)[0]
  parts = measure(work.job, shard, work.prepareds[0])
  show(parts)
  if FLAGS.json:
    command.publish_json(FLAGS.json, parts)


if __name__ == '__main__':
  command.run(run)
