"""Trains populations of cells on a corpus and writes a benchmark table.

  python experiments/benchmark.py --flagfile=experiments/flags/quickstart.flags

Killed at any moment and started again with the same command, it goes on from
the last epoch. --dry_run prints the plan and a projection of the time.
"""

import json
import os
import pathlib
import sys

import command
import corpora
import devices
import jobs
import training
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'out', 'results/benchmark', 'Where the table, checkpoints and figures go.'
)
flags.DEFINE_integer(
  'members_per_shard',
  None,
  'Largest number of networks trained together; by the free memory if not '
  'given, and as run.json has it when a run goes on.',
  lower_bound=1,
)
flags.DEFINE_bool(
  'dry_run', False, 'Print the plan and a projection of the time, and stop.'
)
flags.DEFINE_integer(
  'at_once',
  None,
  'Networks of an accelerator that one program trains, while the others of a '
  "shard wait; by the compiler's figures if not given. On CPUs each trains "
  'alone.',
  lower_bound=1,
)
flags.DEFINE_string(
  'plan_for',
  None,
  'With --dry_run: plan for accelerators that are not there, such as v5e:2x2 '
  'or h100 (see accelerators.py).',
)
flags.adopt_module_key_flags(corpora)
flags.adopt_module_key_flags(devices)
flags.adopt_module_key_flags(training)


def members_per_shard(job, members, prepareds, out):
  """Returns how many networks a shard may have, and why, in words.

  A run that goes on keeps the number that it began with, whatever memory is
  free today, for it makes the shards.

  Returns:
    the number; that of networks which run as one program (None for all that
    fit), and whether they compute cells again; the reason; and the
    `sizing.Step`s that decided it, if any.
  """
  number, path = FLAGS.members_per_shard, out / 'run.json'
  reason = f'at most {number} members a shard, as the flag says'
  if not number and path.exists() and not FLAGS.plan_for:
    number = command.noted(
      path,
      'members_per_shard',
      'the members of a shard; give --members_per_shard, or another --out',
    )
    reason = f'at most {number} members a shard, as {path} says'
  on_cpu = prepareds[0].mesh.devices.flat[0].platform == 'cpu'
  if number and on_cpu:
    return number, (None, True), reason, ()
  from nasjax import sizing

  # No worker should wait for another's last shard.
  share = number or -(-len(members) // len(prepareds))
  size = sizing.choose(job, members, prepareds[0], share, FLAGS.at_once)
  if on_cpu:
    return size.members, (None, True), str(size), ()
  way = size.together, size.checkpoint
  if number:
    return number, way, f'{reason}; {size}', size.steps
  return size.members, way, str(size), size.steps


def write_record(job, builder, number, out):
  """Writes run.json: what this run is, and where its corpus lies."""
  from nasjax import provenance, runs
  from nasjax.table import disk

  own_flags = FLAGS.get_key_flags_for_module(sys.argv[0])
  record = runs.describe(job) | {
    'flags': {flag.name: flag.value for flag in own_flags},
    'metric': job.metric,
    'members_per_shard': number,
    'prepared_corpus': str(pathlib.Path(builder.data_dir).absolute()),
    'left_out': list(job.left_out),
    'notes': corpora.notes(builder),
    'versions': provenance.versions(),
    'commit': provenance.commit(),
    'environment': provenance.environment(),
  }
  disk.publish(out / 'run.json', json.dumps(record, indent=1).encode())


def _plan_for():
  """Makes the compiler of --plan_for ready, before JAX is imported."""
  if not FLAGS.dry_run:
    raise ValueError(
      f'--plan_for={FLAGS.plan_for} is for planning; give --dry_run, too'
    )
  from nasjax import chips

  os.environ.update(chips.environment(FLAGS.plan_for))


def run():
  """The whole way: corpus, plan, shards, table, figures."""
  # What can be wrong is looked for before anything slow is imported.
  recipe, members = training.recipe(), training.members()
  corpora.check()
  if FLAGS.plan_for:
    _plan_for()
  out = command.directory('out')
  with command.exclusive(out):
    most = FLAGS.members_per_shard or len(members)
    work = jobs.prepare(recipe, most, topology=FLAGS.plan_for)
    import monitor
    import summary

    from nasjax import runs, table, workers

    job, prepareds = work.job, work.prepareds
    number, way, reason, steps = members_per_shard(job, members, prepareds, out)
    shards = runs.plan(job, members, number, work.mesh.shape['member'])
    runs.check_table(job, shards, out)
    monitor.print_plan(job, work.corpus, shards, prepareds, reason)
    monitor.print_steps(steps)
    if FLAGS.plan_for:
      monitor.print_absent(job, shards, prepareds[0], *way)
      return
    if FLAGS.dry_run:
      done = table.committed(out / 'table')
      todo = [shard for shard in shards if shard.name not in done]
      monitor.print_projection(job, todo, prepareds)
      return
    write_record(job, work.builder, number, out)
    with monitor.Bar(shards, job) as bar:
      say = monitor.CONSOLE.print
      workers.run(job, shards, prepareds, out, bar, say, *way)
    summary.write(jobs.rows(job, table.open(out)), out)


if __name__ == '__main__':
  command.run(run)
