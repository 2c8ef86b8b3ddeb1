"""Shards: members packed into populations, by a plan that is a file.

A shard is one population trained with one recipe. Its name is a hash of all
that determines its result. Which members stand together follows from the job,
the members and one number, never from the devices or the memory of a machine,
so that any process on any machine can train any shard of a plan.

  OUT/shards.json    the plan of the run that is (or was last) trained there
"""

import dataclasses
import difflib
import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

from nasjax.models import families
from nasjax.storage import disk
from nasjax.training import recipes

# Raise when a change of the code changes what a shard's result is.
TRAINING_VERSION = 2

# Raise when a change of the code changes what stands in the file.
FORMAT = 1

# Fields of a recipe in which the members of one shard may differ.
SCHEDULE = ('lr', 'decay', 'start')

# Where nobody says how many members a shard may have. One number for all
# devices: a CPU trains its members in turns and gains nothing from more of
# them, an accelerator that could hold more is told so by who has one.
MEMBERS_PER_SHARD = 8


@dataclasses.dataclass(frozen=True)
class Shard:
  """One population.

  Attributes:
    name: hash of the rest and of the corpus.
    signature: the arithmetic of each node (`families.signature`).
    members: (architecture, seed) of each member.
    size: members of the largest shard of this signature. Programs are made for
      so many, that all shards of a signature share them; what a program holds
      past `members` is padding. Who trains pads further, where devices want it.
    streams: seeds of the data streams that the program reads side by side; all
      shards of a signature have equally many, so that they share a program.
    recipes: of each member, where they differ (`pilot`); those of the job where
      empty.
  """

  name: str
  signature: tuple[str, ...]
  members: tuple[tuple[tuple[int, ...], int], ...]
  size: int
  streams: tuple[int, ...]
  recipes: tuple = ()


@dataclasses.dataclass(frozen=True)
class Job:
  """What all shards of a run share: space, macro network, recipe, corpus.

  Attributes:
    metric: what the error rate of the corpus' symbols is called; see
      `error_rates.METRICS`.
    left_out: what of the corpus was left out (`corpus_flags.left_out`).
    notes: what was done to the rest of it, lines of text.
    initial: the `training.initial.Initial` that members begin with; None for
      drawn weights.
  """

  space: object
  macro: object
  recipe: object
  corpus_name: str
  corpus_fingerprint: str
  metric: str = 'PER'
  left_out: tuple = ()
  notes: tuple = ()
  initial: object = None


class Plan(NamedTuple):
  """What `OUT/shards.json` says.

  Attributes:
    members_per_shard: the number with which members were packed.
    shards: list of `Shard`, those of one signature together.
  """

  members_per_shard: int
  shards: list


def describe(job):
  """Returns what all shards of a job share, as plain values for JSON."""
  return {
    'space': job.space.name,
    'macro': dataclasses.asdict(job.macro),
    'recipe': recipes.describe(job.recipe),
    'corpus': job.corpus_name,
    'corpus_fingerprint': job.corpus_fingerprint,
  }


def plan(job, members, members_per_shard, multiple=1):
  """Packs members into shards.

  Members of one signature share a program. They are cut into shards of equal
  size (the last may have fewer), so that each signature is compiled once.

  Args:
    job: `Job`.
    members: iterable of (architecture, seed); duplicates count once.
    members_per_shard: upper bound on a population.
    multiple: all shards but the last of a signature have a multiple of so many
      members. Runs that began before plans were files cut so, by their devices;
      nothing else should.

  Returns:
    list of `Shard`, those of one signature together.
  """
  if members_per_shard < 1:
    raise ValueError(f'members_per_shard is {members_per_shard}; at least 1')
  chunks = []
  for _, group in sorted(_groups(job, members).items()):
    # Seeds together: a population of one seed shares its batches.
    ordered = [(arch, seed) for seed, arch in sorted(group)]
    limit = max(multiple, members_per_shard // multiple * multiple)
    count = -(-len(ordered) // limit)
    size = -(-len(ordered) // count)
    size = -(-size // multiple) * multiple
    chunks += [
      tuple(ordered[start : start + size])
      for start in range(0, len(ordered), size)
    ]
  return _shards(job, chunks)


def grid(job, members, own, members_per_shard):
  """Packs members times recipes into shards: a pilot's grid.

  Hyper-parameters are mapped as architectures are: networks of one signature
  train by one program, each at the learning rates of its own recipe.

  Args:
    job: `Job`; its recipe says all that those of the grid have in common.
    members: iterable of (architecture, seed).
    own: list of `Recipe`, names apart, that differ from the job's in `lr`,
      `decay` and `start` alone.
    members_per_shard: upper bound on a population.

  Returns:
    list of `Shard`, those of one signature together.

  Raises:
    ValueError: recipes share a name, or differ in more.
  """
  names = [recipe.name for recipe in own]
  if len(set(names)) < len(names):
    raise ValueError(f'recipes of a grid want names of their own, not {names}')
  for recipe in own:
    free = {name: getattr(job.recipe, name) for name in ('name', *SCHEDULE)}
    if dataclasses.replace(recipe, **free) != job.recipe:
      raise ValueError(
        f'recipe {recipe.name} differs from {job.recipe.name} in more than '
        f'{", ".join(SCHEDULE)}, which one program cannot train'
      )
  shards = []
  for kind, group in sorted(_groups(job, members).items()):
    all_of = [
      ((arch, seed), recipe) for seed, arch in sorted(group) for recipe in own
    ]
    count = -(-len(all_of) // members_per_shard)
    size = -(-len(all_of) // count)
    chunks = [all_of[i : i + size] for i in range(0, len(all_of), size)]
    pairs = [tuple(zip(*chunk, strict=True)) for chunk in chunks]
    streams = _streams([pair_p for pair_p, _ in pairs])
    for (pair_p, recipe_p), own_streams in zip(pairs, streams, strict=True):
      described = [recipes.describe(recipe) for recipe in recipe_p]
      name = _name(job, pair_p, recipes=described)
      shards.append(Shard(name, kind, pair_p, size, own_streams, recipe_p))
  return shards


def _groups(job, members):
  """Returns sets of (seed, architecture) by signature."""
  groups = {}
  for arch, seed in members:
    arch = tuple(int(d) for d in job.space.parse(arch))
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**31:
      raise ValueError(f'seed is {seed!r}; want a whole number below 2**31')
    groups.setdefault(_signature(job, arch), set()).add((int(seed), arch))
  if not groups:
    raise ValueError('no members; name at least one cell and seed')
  return groups


def _signature(job, arch):
  return families.signature(job.space, np.array(arch, np.int8))


def _shards(job, chunks):
  """Makes shards of tuples of members, those of a signature side by side."""
  groups = {}
  for chunk in chunks:
    groups.setdefault(_signature(job, chunk[0][0]), []).append(chunk)
  shards = []
  for kind, group in groups.items():
    size = max(map(len, group))
    for chunk, streams in zip(group, _streams(group), strict=True):
      shards.append(Shard(_name(job, chunk), kind, chunk, size, streams))
  return shards


def _streams(chunks):
  """Returns `Shard.streams` of the shards of a signature, by their members."""
  seeds = [sorted({seed for _, seed in chunk}) for chunk in chunks]
  most = max(map(len, seeds))
  return [tuple(own + own[-1:] * (most - len(own))) for own in seeds]


def _name(job, members, **more):
  content = describe(job) | {'version': TRAINING_VERSION, 'members': members}
  content |= more
  if job.initial is not None:
    content['initial'] = [job.initial.digest(*member) for member in members]
  del content['corpus']  # a name, for people
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


# The file.


def write(path, job, found, replace=True):
  """Writes a `Plan`, whole or not at all; a shard a line.

  Args:
    path: of the file.
    job: `Job`.
    found: `Plan`.
    replace: whether to write over one that is there.

  Returns:
    whether it was written.
  """
  head = {
    'format': FORMAT,
    'training_version': TRAINING_VERSION,
    'run': describe(job),
    'members_per_shard': found.members_per_shard,
  }
  lines = ',\n'.join(f'  {json.dumps(_plain(s))}' for s in found.shards)
  text = f'{json.dumps(head, indent=1)[:-2]},\n "shards": [\n{lines}\n ]\n}}\n'
  if not replace:
    return disk.publish_new(path, text.encode())
  disk.publish(path, text.encode())
  return True


def _plain(shard):
  return {
    'name': shard.name,
    'signature': list(shard.signature),
    'members': [{'arch': list(arch), 'seed': s} for arch, s in shard.members],
    'streams': list(shard.streams),
  }


def contents(path):
  """Returns what the file of a plan says, as JSON has it.

  Raises:
    ValueError: it is damaged, or of another format.
  """
  path = pathlib.Path(path)
  try:
    found = json.loads(path.read_bytes())
    version = found['format']
  except (ValueError, RecursionError):
    raise _damaged(path, 'it is no JSON') from None
  except (KeyError, TypeError, IndexError):
    raise _damaged(path, 'it does not say its format') from None
  if version != FORMAT:
    raise ValueError(
      f'{path} has format {version!r}, this code reads {FORMAT}; take the '
      'nasjax that wrote it, or another --out'
    )
  if not _whole(found):
    raise _damaged(path, 'a part of it is missing')
  return found


def _whole(found):
  """Tells whether all of a plan is there, each part of its kind."""
  try:
    numbers, names = [found['members_per_shard']], []
    for plain in found['shards']:
      members = _members(plain)
      numbers += [d for arch, seed in members for d in (*arch, seed)]
      names += [plain['name']] * bool(members)
    return (
      0 < len(names) == len(found['shards'])
      and all(type(n) is int for n in numbers)
      and all(isinstance(name, str) for name in names)
      and found['members_per_shard'] > 0
      and isinstance(found['run'], dict)
      and 'training_version' in found
    )
  except (KeyError, TypeError):
    return False


def _members(plain):
  """Returns the members of a shard as the file has it."""
  return tuple((tuple(m['arch']), m['seed']) for m in plain['members'])


def _damaged(path, why):
  return ValueError(
    f'{path} is damaged: {why}; remove it, and the same command makes it again'
  )


def read(path, job, members, members_per_shard=None):
  """Returns the plan of a file.

  Args:
    path: of the file.
    job: the `Job` that it should be of.
    members: the (architecture, seed) pairs that it should be of.
    members_per_shard: the number that it should have; any if not given.

  Returns:
    Plan.

  Raises:
    OtherPlanError: it is of another job, members or number.
    ValueError: it is damaged, or of another format.
  """
  found = contents(path)
  others = _others(job, members, members_per_shard, found)
  if others:
    told = ''.join(f'{words}; ' for words in others.values() if words)
    raise OtherPlanError(
      f'{path} is the plan of another run ({", ".join(others)}); {told}'
      'give the flags and the corpus that it was made from, or another --out'
    )
  shards = _shards(job, [_members(plain) for plain in found['shards']])
  # Names are hashes of the rest: a file that somebody changed shows.
  if [_plain(shard) for shard in shards] != found['shards']:
    raise _damaged(path, 'its names are not those of its members')
  return Plan(found['members_per_shard'], shards)


class OtherPlanError(ValueError):
  """The file is whole, and the plan of another run."""


def _others(job, members, members_per_shard, found):
  """Returns what is other in the contents of a file, and in which way."""
  own = json.loads(json.dumps(describe(job)))
  others = {
    key.replace('_', ' '): _difference(key, found['run'].get(key), own[key])
    for key in own
    # The corpus is told by its fingerprint; its name is for people.
    if key != 'corpus' and own[key] != found['run'].get(key)
  }
  wanted = {
    (tuple(job.space.parse(arch).tolist()), int(seed)) for arch, seed in members
  }
  planned = [member for s in found['shards'] for member in _members(s)]
  if wanted != set(planned) or len(planned) != len(set(planned)):
    others['cells or seeds'] = _other_members(wanted, set(planned), job)
  number = found['members_per_shard']
  if members_per_shard and number != members_per_shard:
    others[f'{number} members a shard, not {members_per_shard}'] = ''
  version = found['training_version']
  if version != TRAINING_VERSION:
    words = f'training version {version!r}, not {TRAINING_VERSION}'
    others['another version of the training'] = words
  return others


def _other_members(wanted, planned, job):
  """Returns in words which members are more or fewer than were planned."""
  told = []
  for found, words in (planned - wanted, 'missing'), (wanted - planned, 'new'):
    if found:
      arch, seed = min(found)
      first = f'{job.space.names(np.array(arch, np.int8))} (seed {seed})'
      told.append(f'{len(found)} networks are {words}, such as {first}')
  return ', '.join(told)


def _difference(name, old, new):
  """Returns in words what of a value is other than it was."""
  name = name.replace('_', ' ')
  if not (isinstance(old, dict) and isinstance(new, dict)):
    return f'{name} {old!r}, not {new!r}'
  parts = [
    f'{key} {old.get(key)!r}, not {new.get(key)!r}'
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  ]
  return f'{name}: {"; ".join(parts)}'


def named(path, shards, names):
  """Returns the shards of these names, each once, in the order of the plan.

  Args:
    path: of the plan, as it is called in messages.
    shards: of the plan.
    names: of shards.

  Raises:
    ValueError: the plan has no shard of a name.
  """
  known = [shard.name for shard in shards]
  check_names(path, known, names)
  return [shard for shard in shards if shard.name in names]


def check_names(path, known, names):
  """Raises ValueError where a name is none of those known."""
  for name in names:
    if name not in known:
      close = difflib.get_close_matches(name, known, 3) or known[:3]
      more = ', ..' if len(known) > len(close) else ''
      raise ValueError(
        f'--shard={name}: {path} has no such shard; it has '
        f'{", ".join(close)}{more} ({len(known)} in all)'
      )
