"""Trains populations of cells on a corpus and writes a benchmark table.

  python experiments/benchmark.py --flagfile=experiments/flags/quickstart.flags

Killed at any moment and started again with the same command, it goes on from
the last epoch. --dry_run prints the plan and a projection of the time.
"""

import json
import os
import pathlib
import sys

from absl import flags
from common import (
  command,
  corpus_flags,
  device_flags,
  jobs,
  planning,
  training_flags,
)

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'out', 'results/benchmark', 'Where the table, checkpoints and figures go.'
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
flags.DEFINE_integer(
  'checkpoint_every',
  1,
  'Epochs between two that are saved. A run that is killed loses at most so '
  'many; a disk that many devices share has less to take.',
  lower_bound=1,
)
flags.DEFINE_string(
  'initial',
  None,
  'Begin with the weights of this run, or of one of the directories in its '
  'checkpoints/, instead of drawn ones: those of the same cell and seed (of '
  'its best seed, if it has not that one). The head is drawn anew where the '
  'corpus has other symbols.',
)
flags.DEFINE_string(
  'plan_for',
  None,
  'With --dry_run: plan for accelerators that are not there, such as v5e:2x2 '
  'or h100 (see accelerators.py).',
)
flags.adopt_module_key_flags(corpus_flags)
flags.adopt_module_key_flags(device_flags)
flags.adopt_module_key_flags(planning)
flags.adopt_module_key_flags(training_flags)


def sizes(job, shards, done, prepareds):
  """Returns what stands on the devices at a time, and why, in words.

  Where CPUs train shards of a size that the user chose, all of a shard does.

  Args:
    job: `running.Job`.
    shards: those that are to be trained.
    done: names of those whose rows stand.
    prepareds: of `running.device_corpus`, one for each worker.

  Returns:
    what `workers.run` takes last: the networks which run as one program (None
    for all that fit), whether they compute cells again, and those that fit
    (None for all); the reason; and the `sizing.Step`s that decided it, if any.
  """
  on_cpu = prepareds[0].mesh.devices.flat[0].platform == 'cpu'
  todo = any(shard.name not in done for shard in shards)
  if on_cpu and (FLAGS.members_per_shard or not todo):
    return (None, True, None), '', ()
  from nasjax.benchmark import sizing

  size = sizing.choose(job, shards, prepareds[0], FLAGS.at_once)
  together = None if on_cpu else size.together
  return (together, size.checkpoint, size.fitting), f'; {size}', size.steps


def write_record(job, builder, planned, out):
  """Writes run.json: what this run is, and where its corpus lies.

  Of processes that train some shards each, the first writes it.
  """
  if planning.beside() and (out / 'run.json').exists():
    return
  from nasjax.benchmark import running
  from nasjax.storage import disk, provenance

  own_flags = FLAGS.get_key_flags_for_module(sys.argv[0])
  own = ('shard', 'claim', 'lease_seconds')  # of a process, not of the run
  record = running.describe(job) | {
    'flags': {f.name: f.value for f in own_flags if f.name not in own},
    'metric': job.metric,
    'members_per_shard': planned.plan.members_per_shard,
    'plan': planned.path.name,
    'prepared_corpus': str(pathlib.Path(builder.data_dir).absolute()),
    'left_out': list(job.left_out),
    'notes': list(job.notes),
    'versions': provenance.versions(),
    'commit': provenance.commit(),
    'environment': provenance.environment(),
  }
  if job.initial is not None:
    record['initial'] = [
      {'arch': list(arch), 'seed': seed, **job.initial.described(arch, seed)}
      for shard in planned.plan.shards
      for arch, seed in shard.members
    ]
  disk.publish(out / 'run.json', json.dumps(record, indent=1).encode())


def _plan_for():
  """Makes the compiler of --plan_for ready, before JAX is imported."""
  if not FLAGS.dry_run:
    raise ValueError(
      f'--plan_for={FLAGS.plan_for} is for planning; give --dry_run, too'
    )
  from nasjax.programs import chips

  os.environ.update(chips.environment(FLAGS.plan_for))


def run(members=None, finish=None, check=None):
  """The whole way: corpus, plan, shards, table, figures.

  Args:
    members: (architecture, seed) pairs; those of the flags if not given.
    finish: called with the table of what was trained, and the directory, when
      all of it is there; the summary of a table if not given.
    check: called with the `jobs.Work`, before anything is planned; raises a
      ValueError to stop.
  """
  # What can be wrong is looked for before anything slow is imported.
  recipe = training_flags.recipe()
  if members is None:
    members = training_flags.members()
  corpus_flags.check()
  if FLAGS.plan_for:
    _plan_for()
  out = command.directory('out')
  planning.check(out)
  with planning.hold(out):
    most = len(FLAGS.shard or ()) or FLAGS.members_per_shard or len(members)
    planning.check_versions(out)
    work = jobs.prepare(
      recipe,
      most,
      topology=FLAGS.plan_for,
      initial=FLAGS.initial,
      members=members,
    )
    if check:
      check(work)
    from common import console

    from nasjax import table
    from nasjax.benchmark import running

    job, prepareds = work.job, work.prepareds
    planned = planning.plan(job, members, out, work.mesh.shape['member'])
    shards = planned.chosen
    running.check_table(job, planned.plan.shards, out)
    if FLAGS.plan_only:
      planning.write(job, members, planned)
      told = f'{len(shards)} shards in {planned.path}'
      console.CONSOLE.print(told, soft_wrap=True)
      return
    done = table.committed(out / 'table')
    way, reason, steps = sizes(job, shards, done, prepareds)
    reason = planned.reason + reason
    console.print_plan(job, work.corpus, shards, prepareds, reason)
    console.print_steps(steps)
    if FLAGS.plan_for:
      console.print_absent(job, shards, prepareds[0], *way[:2])
      return
    if FLAGS.dry_run:
      planning.print_todo(planned, done)
      todo = [shard for shard in shards if shard.name not in done]
      console.print_projection(job, todo, prepareds)
      return
    planning.write(job, members, planned)
    with planning.leases(out) as leases:
      planning.hold_shards(out, leases)
      train(work, planned, way, out, leases, finish)


def train(work, planned, way, out, leases, finish=None):
  """Trains what is planned; figures are for who has all of it."""
  from common import console
  from summaries import summary

  from nasjax import table
  from nasjax.benchmark import claims, workers

  write_record(work.job, work.builder, planned, out)
  chosen, say = planned.chosen, console.CONSOLE.print
  queue = claims.Claims(chosen, leases, out, say, alone=not FLAGS.claim)
  with console.Bar(chosen, work.job) as bar:
    workers.run(
      *(work.job, chosen, work.prepareds, out, bar, say, *way),
      queue=queue,
      every=FLAGS.checkpoint_every,
    )
  if planning.beside():
    planning.print_done(planned, table.committed(out / 'table'))
    planning.check_failed(queue, out)
  else:
    rows = jobs.rows(work.job, table.open(out))
    (finish or summary.write)(rows, out)


if __name__ == '__main__':
  command.run(run)
