"""Plans a benchmark on many devices: how long, how idle, what holds it up.

  python experiments/plan.py --devices=64 --cells=8242 --seeds=3 \\
    --recipes=e40,e10,e5 --seconds_per_epoch=13.6 --programs=8 \\
    --failures_per_device_hour=0.01 --json=results/plan.json
  python experiments/plan.py --compare=results/quickstart

A simulation of the schedule, with failures, starts and compilation. How long an
epoch of a shard takes is told by --seconds_per_epoch, or follows from --speeds,
what throughput.py or accelerators.py measured, and --steps_per_epoch. --compare
holds the simulation against a run that is done: with what its table tells of
epochs and compilation, how long should it have taken?
"""

import json
import pathlib

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_integer('devices', 8, 'How many there are.', lower_bound=1)
flags.DEFINE_list(
  'relative_speeds', ['1'], 'Of the devices, in turns: 1,0.5 for two kinds.'
)
flags.DEFINE_string(
  'cells', '8242', 'How many cells, or a file with one a line.'
)
flags.DEFINE_string('seeds', '3', 'How many seeds, or their list: 1,2,3.')
flags.DEFINE_list('recipes', ['e40', 'e10', 'e5'], 'Names, or epochs: 40,10,5.')
flags.DEFINE_integer(
  'members_per_shard', 8, 'Networks trained together.', lower_bound=1
)
flags.DEFINE_float(
  'seconds_per_epoch',
  None,
  'Of a full shard, on a device of relative speed 1.',
  lower_bound=1e-9,
)
flags.DEFINE_string(
  'speeds', None, 'What throughput.py or accelerators.py wrote with --json.'
)
flags.DEFINE_integer(
  'steps_per_epoch', 116, 'With --speeds: batches of an epoch.', lower_bound=1
)
flags.DEFINE_integer(
  'programs', 8, 'Kinds of cells, each compiled for itself.', lower_bound=1
)
flags.DEFINE_float(
  'compile_seconds', 60.0, 'Of a program, once a process.', lower_bound=0
)
flags.DEFINE_float(
  'start_seconds', 60.0, 'Until a process is ready to train.', lower_bound=0
)
flags.DEFINE_float(
  'shard_seconds', 0.002, 'Of the driver, for each shard.', lower_bound=0
)
flags.DEFINE_float(
  'failures_per_device_hour', 0.0, 'How often a device fails.', lower_bound=0
)
flags.DEFINE_float(
  'restart_seconds', 300.0, 'Until a failed device is back.', lower_bound=0
)
flags.DEFINE_integer(
  'params', 26_338_848, 'Of a network, for its checkpoints.', lower_bound=1
)
flags.DEFINE_integer(
  'checkpoint_every', 1, 'Epochs between two checkpoints.', lower_bound=1
)
flags.DEFINE_integer('checkpoints_kept', 1, 'Of a shard.', lower_bound=0)
flags.DEFINE_float(
  'storage_gb_per_second', 2.0, 'What the shared storage takes.', lower_bound=0
)
flags.DEFINE_float(
  'storage_operations_per_second',
  5000.0,
  'Files that it makes, renames or removes a second.',
  lower_bound=0,
)
flags.DEFINE_integer('simulations', 5, 'With failures: as many.', lower_bound=1)
flags.DEFINE_string('compare', None, 'A run that is done.')
flags.DEFINE_float(
  'within',
  None,
  'With --compare: fail where they differ by a larger share.',
  lower_bound=0,
)
flags.DEFINE_string('json', None, 'Where the plan goes.')


def count(flag):
  """Returns how many things a flag names: a number, a list or a file."""
  text = FLAGS[flag].value
  try:
    number = int(text)
  except ValueError:
    number = None
  if number is None and flag == 'seeds' and ',' in text:
    return len([part for part in text.split(',') if part.strip()])
  if number is None and flag == 'cells':
    try:
      lines = pathlib.Path(text).read_text().splitlines()
    except OSError as e:
      raise ValueError(f'--cells={text}: {e.strerror}') from None
    number = sum(bool(line.partition('#')[0].strip()) for line in lines)
  if number is None or number < 1:
    raise ValueError(f'--{flag}={text} is no number above 0')
  return number


def epochs():
  """Returns the epochs of each recipe."""
  found = []
  for name in FLAGS.recipes:
    if name.isdecimal() and int(name):
      found.append(int(name))
      continue
    from nasjax.training import recipes

    if name not in recipes.RECIPES:
      raise ValueError(
        f'--recipes: {name!r} is none of {", ".join(recipes.RECIPES)}, and no '
        'number of epochs'
      )
    found.append(recipes.RECIPES[name].epochs)
  if not found:
    raise ValueError('--recipes is empty; name one')
  return found


def relative_speeds(devices):
  """Returns the speed of each device."""
  try:
    speeds = [float(text) for text in FLAGS.relative_speeds]
  except ValueError:
    speeds = []
  if not speeds or min(speeds) <= 0:
    raise ValueError(
      f'--relative_speeds={",".join(FLAGS.relative_speeds)}: want numbers '
      'above 0'
    )
  return [speeds[d % len(speeds)] for d in range(devices)]


def seconds_per_epoch():
  """Returns the seconds of an epoch of a full shard.

  Raises:
    ValueError: no flag tells, or the file that one names.
  """
  if FLAGS.seconds_per_epoch:
    return FLAGS.seconds_per_epoch
  if not FLAGS.speeds:
    raise ValueError('give --seconds_per_epoch, or --speeds')
  path = pathlib.Path(FLAGS.speeds).expanduser()
  try:
    rows = json.loads(path.read_bytes())
    found = {}
    for row in rows:
      if row.get('engine') == 'torch':
        continue
      seconds = row.get('seconds_per_member_step')
      if seconds is None and row.get('roofline_ms'):
        seconds = row['roofline_ms'] / 1e3
      if seconds:
        found.setdefault(int(row['members']), []).append(float(seconds))
  except OSError as e:
    raise ValueError(f'--speeds={path}: {e.strerror}') from None
  except (ValueError, KeyError, TypeError, AttributeError):
    raise ValueError(
      f'--speeds={path} is not what throughput.py or accelerators.py writes'
    ) from None
  if not found:
    raise ValueError(f'--speeds={path} has no time of a step of nasjax')
  # The population that is nearest to a shard.
  nearest = min(found, key=lambda n: abs(n - FLAGS.members_per_shard))
  step = sum(found[nearest]) / len(found[nearest])
  return FLAGS.steps_per_epoch * FLAGS.members_per_shard * step


def make():
  """Returns the plan of the flags, plain values for JSON."""
  import numpy as np
  from common import scheduling

  seconds = seconds_per_epoch()
  tasks = scheduling.tasks(
    *(count('cells'), count('seeds'), epochs(), seconds),
    *(FLAGS.programs, FLAGS.members_per_shard),
  )
  speeds = relative_speeds(FLAGS.devices)
  times = FLAGS.simulations if FLAGS.failures_per_device_hour else 1
  outcomes = [
    scheduling.simulate(
      tasks,
      speeds,
      FLAGS.start_seconds,
      FLAGS.compile_seconds,
      FLAGS.shard_seconds,
      FLAGS.failures_per_device_hour,
      FLAGS.restart_seconds,
      seed,
      FLAGS.checkpoint_every,
    )
    for seed in range(times)
  ]
  makespans = [o.makespan for o in outcomes]
  makespan = float(np.mean(makespans))
  asked = scheduling.storage(
    tasks, FLAGS.params, FLAGS.checkpoints_kept, FLAGS.checkpoint_every
  )
  gb, operations = (
    FLAGS.storage_gb_per_second,
    FLAGS.storage_operations_per_second,
  )
  # How long each would take if all else took no time.
  bounds = {
    'devices': makespan,
    'storage_bytes': asked.written / (gb * 1e9) if gb else None,
    'storage_operations': asked.operations / operations if operations else None,
    'driver': FLAGS.shard_seconds * len(tasks),
  }
  known = {name: value for name, value in bounds.items() if value is not None}
  return {
    'devices': FLAGS.devices,
    'trainings': sum(task.members for task in tasks),
    'shards': len(tasks),
    'seconds_per_epoch': seconds,
    'makespan_seconds': makespan,
    'makespan_least': min(makespans),
    'makespan_most': max(makespans),
    'device_hours': FLAGS.devices * makespan / 3600,
    'idle_share': float(np.mean([o.idle for o in outcomes])),
    'failures': float(np.mean([o.failures for o in outcomes])),
    'hours': {
      name: float(np.mean([getattr(o, name) for o in outcomes])) / 3600
      for name in ('trained', 'lost', 'starting', 'compiling', 'down')
    },
    'files': asked.files,
    'bytes': asked.bytes,
    'bytes_written': asked.written,
    'bytes_per_second': asked.written / makespan,
    'metadata_operations': asked.operations,
    'metadata_operations_per_second': asked.operations / makespan,
    'bounds_seconds': bounds,
    'bottleneck': max(known, key=known.get),
  }


def show(plan):
  """Prints a plan."""
  from summaries.status_views import duration

  told = [
    ('trainings', f'{plan["trainings"]:,} in {plan["shards"]:,} shards'),
    ('an epoch of a shard', f'{plan["seconds_per_epoch"]:.3g} s'),
    (
      'makespan',
      f'{duration(plan["makespan_seconds"])} on {plan["devices"]} devices',
    ),
    ('device hours', f'{plan["device_hours"]:,.1f}'),
    ('idle', f'{plan["idle_share"]:.1%}'),
    ('failures', f'{plan["failures"]:,.1f}'),
    ('files in the end', f'{plan["files"]:,}, {plan["bytes"] / 1e12:,.2f} TB'),
    (
      'shared storage',
      f'{plan["bytes_per_second"] / 1e6:,.1f} MB a second, '
      f'{plan["metadata_operations_per_second"]:,.1f} operations a second',
    ),
  ]
  for name, value in told:
    print(f'{name:22}{value}')
  for name, seconds in plan['bounds_seconds'].items():
    if seconds is not None:
      print(f'{"by " + name:22}{duration(seconds)}')
  print(f'{"bottleneck":22}{plan["bottleneck"]}')


def compare(path):
  """Returns how a run that is done agrees with its simulation.

  What an epoch and compiling take is read off the run, shard by shard; who
  trained what, and when, is the simulation's.
  """
  from common import finished

  return finished.compare(path, FLAGS.devices if _given('devices') else None)


def _given(name):
  return FLAGS[name].present > 0


def run():
  """Plans, or compares."""
  if FLAGS.within is not None and not FLAGS.compare:
    raise ValueError('--within goes with --compare; name a run that is done')
  if FLAGS.compare:
    report = compare(FLAGS.compare)
    print(
      f'{report["shards"]} shards on {report["devices"]} devices took '
      f'{report["seconds"]:.1f} s; the simulation says '
      f'{report["simulated_seconds"]:.1f} s ({report["off"]:+.1%})'
    )
  else:
    report = make()
    show(report)
  if FLAGS.json:
    command.publish_json(FLAGS.json, report)
  if FLAGS.within is not None and abs(report['off']) > FLAGS.within:
    raise ValueError(
      f'simulation and run differ by {abs(report["off"]):.1%}, more than '
      f'--within={FLAGS.within}'
    )


if __name__ == '__main__':
  command.run(run)
