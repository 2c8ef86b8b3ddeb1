"""The flags that say how networks make shards, and OUT/shards.json.

The plan follows from flags alone, and is the same whoever makes it. What stands
in OUT goes on as it began.
"""

import json
from typing import NamedTuple

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_integer(
  'members_per_shard',
  None,
  'Largest number of networks trained together, as one shard; 8 if not given, '
  'and as OUT/shards.json has it when a run goes on.',
  lower_bound=1,
)
flags.DEFINE_list(
  'shard',
  None,
  'Names of shards in OUT/shards.json: train these alone, beside other '
  'processes that train others there. All shards, and alone, if not given.',
)
flags.DEFINE_bool(
  'claim',
  False,
  'Take shards of the plan, one after the other, beside any processes that do '
  'the same on machines that share --out, until all are done.',
)
flags.DEFINE_float(
  'lease_seconds',
  90.0,
  'How long a process may give no sign of life before others take over the '
  'shards that it trains. Longer than --out caches attributes (acregmax).',
  lower_bound=0.5,
)
flags.DEFINE_bool(
  'plan_only',
  False,
  'Write OUT/shards.json, the list of shards, and stop; with --claim only if '
  'there is none, and refuse one of other flags.',
)


class Planned(NamedTuple):
  """A plan, and what of it is to be done.

  Attributes:
    plan: `shards.Plan`.
    chosen: its shards that the flags name; all where they name none.
    reason: why shards are of this size, in words.
    path: of the file.
    new: whether the file is still to be written.
  """

  plan: object
  chosen: list
  reason: str
  path: object
  new: bool


def check(out):
  """Looks for what is wrong with these flags, as far as can be said at once.

  Raises:
    ValueError: --shard names nothing, or a shard that is not in a plan that is
      there; that plan is damaged; or flags do not go together.
  """
  path = out / 'shards.json'
  for name in ('shard', 'dry_run'):
    if FLAGS.plan_only and FLAGS[name].value:
      raise ValueError(f'--plan_only does not go with --{name}')
  if FLAGS.claim and FLAGS.shard is not None:
    raise ValueError('--claim does not go with --shard: it takes any shard')
  if FLAGS.shard is None:
    return
  if not FLAGS.shard:
    raise ValueError(f'--shard is empty; name shards of {path}')
  if path.exists():
    from nasjax.benchmark import shards

    plain = shards.contents(path)['shards']
    shards.check_names(path, [shard['name'] for shard in plain], FLAGS.shard)


def beside():
  """Tells whether other processes may train other shards of the directory."""
  return FLAGS.claim or bool(FLAGS.shard)


def hold(out):
  """Holds a directory: against all others, or where they may stand beside.

  A courtesy between processes that see each other's locks; leases keep those
  apart that do not.
  """
  return command.shared(out) if beside() else command.exclusive(out)


def leases(out):
  """Returns the `Leases` of a directory."""
  from nasjax.storage import leases as leases_lib

  return leases_lib.Leases(out / 'leases', FLAGS.lease_seconds)


def hold_shards(out, held):
  """Takes the shards of --shard, if it is given.

  Args:
    out: directory of the run.
    held: its `Leases`.

  Raises:
    ValueError: another process trains one of them, and lives.
  """
  for name in sorted(set(FLAGS.shard or ())):
    if not held.wait(name):
      who = held.who(name) or 'another process'
      raise ValueError(f'--shard={name}: {who} is training it in {out}')


def plan(job, members, out, devices):
  """Returns what OUT/shards.json says, or shall say; writes nothing.

  Without --shard or --claim a plan of other flags is replaced: a table may have
  the rows of several.

  Args:
    job: `running.Job`.
    members: pairs of architecture and seed.
    out: directory of the run.
    devices: of a worker. A run that began before plans were files cut its
      shards by them, and goes on so.

  Returns:
    Planned.

  Raises:
    ValueError: the file is damaged or, with --shard or --claim, the plan of
      other flags; or a shard is not in it.
  """
  from nasjax.benchmark import shards

  path = out / 'shards.json'
  number, multiple = FLAGS.members_per_shard, 1
  source = 'the flag' if number else None
  if path.exists():
    try:
      found = shards.read(path, job, members, number)
      return _chosen(found, source or path, path, False)
    except shards.OtherPlanError:
      if beside():
        raise
    if not number:
      number = shards.contents(path)['members_per_shard']
      source = path
  elif (out / 'run.json').exists():
    if not number:
      number, source = _noted(out / 'run.json'), out / 'run.json'
    multiple = devices if _before_plans(out / 'run.json') else 1
  if not number:
    number = shards.MEMBERS_PER_SHARD
  made = shards.plan(job, members, number, multiple)
  return _chosen(shards.Plan(number, made), source, path, True)


def _chosen(found, source, path, new):
  from nasjax.benchmark import shards

  chosen, number = found.shards, found.members_per_shard
  reason = f'at most {number} members a shard'
  if source is not None:
    reason = f'{reason}, as {source} says'
  if FLAGS.shard:
    chosen = shards.named(path, chosen, FLAGS.shard)
    reason = f'{len(chosen)} of the {len(found.shards)} shards of {path}'
  return Planned(found, chosen, reason, path, new)


def _noted(path):
  return command.noted(
    path,
    'members_per_shard',
    'the members of a shard; give --members_per_shard, or another --out',
  )


def _before_plans(path):
  """Tells whether a run.json is of a run that had no file for its plan."""
  try:
    return 'plan' not in json.loads(path.read_text())
  except (ValueError, TypeError):
    return False


def write(job, members, planned):
  """Writes the plan, unless it is there.

  Raises:
    ValueError: another process has just begun with other flags.
  """
  from nasjax.benchmark import shards

  if planned.new and not shards.write(
    planned.path, job, planned.plan, replace=not beside()
  ):
    shards.read(planned.path, job, members, planned.plan.members_per_shard)


def print_todo(planned, done):
  """Prints what would be done with each shard of --shard.

  Args:
    planned: Planned.
    done: names of the shards whose rows stand.
  """
  from common.console import CONSOLE

  for shard in planned.chosen if FLAGS.shard else ():
    what = 'would be trained'
    if shard.name in done:
      what = 'is done; nothing would be trained'
    CONSOLE.print(f'shard {shard.name} ({len(shard.members)} networks) {what}')


def print_done(planned, done):
  """Prints how much of the plan is done; the arguments are as above."""
  from common.console import CONSOLE

  shards = planned.plan.shards
  count = sum(shard.name in done for shard in shards)
  CONSOLE.print(
    f'{count} of {len(shards)} shards are done; the same command without '
    f'--{"claim" if FLAGS.claim else "shard"} draws the figures'
  )


def check_failed(queue, out):
  """Raises ValueError where shards of a `claims.Claims` have failed."""
  failed = queue.failed
  if failed:
    name = min(failed)
    raise ValueError(
      f'{len(failed)} shards failed, such as {name}: {failed[name]}; '
      f'{out / "failures"} has them all; the same command tries them again'
    )


# What results depend on beyond TRAINING_VERSION, be it by rounding.
_VERSIONS = ('nasjax', 'jax', 'flax')


def check_versions(out):
  """Refuses other versions of the code beside those that began a run.

  Raises:
    ValueError: naming them.
  """
  path = out / 'run.json'
  if not beside() or not path.exists():
    return
  import importlib.metadata

  from nasjax import __version__

  begun = command.noted(path, 'versions', 'its versions; give another --out')
  own = {'nasjax': __version__}
  own |= {n: importlib.metadata.version(n) for n in _VERSIONS if n not in own}
  others = [
    f'{name} {begun.get(name)}, not {own[name]}'
    for name in _VERSIONS
    if begun.get(name) != own[name]
  ]
  if others:
    raise ValueError(
      f'{out} was begun with other versions ({", ".join(others)}); take those, '
      'or give the command once without --claim and --shard, which goes on '
      'with these'
    )
