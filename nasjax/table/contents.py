"""What a table holds: shards with files of their own, and those in packs.

A pack is one large Parquet file, `packed-<digest>.parquet`, in which many small
shards stand one after another. Its commit mark, `_packed/packed-<digest>.json`,
is sealed like any other and lists them: name, digest and size that each once
had, rows, meta. From the moment that it stands there the pack is what counts,
and files of these shards are no longer looked at, whether they are removed yet
or not: who looks sees each shard once, in the one place or the other.
"""

import functools
import json
import pathlib
import time
from typing import NamedTuple

from nasjax.storage import disk
from nasjax.table import schema, shards

# What a mark says of a shard, in lists of one entry a shard.
_FIELDS = ('shard', 'sha256', 'size', 'rows')


class Report(NamedTuple):
  """What `verify` found.

  Attributes:
    shards: the intact ones.
    problems: by shard name, the error of each that is not.
    uncommitted: names of Parquet files without a commit mark.
    leftovers: names of files that a killed writer left.
    size: bytes of the intact shards, all of them digested.
    seconds: wall time.
  """

  shards: tuple[shards.Shard, ...]
  problems: dict[str, schema.TableError]
  uncommitted: tuple[str, ...]
  leftovers: tuple[str, ...]
  size: int
  seconds: float

  @property
  def mb_per_s(self):
    return self.size / 1e6 / max(self.seconds, 1e-9)


class Whole(NamedTuple):
  """What `load_all` found.

  Attributes:
    shards: the intact ones, by name.
    problems: by shard name, the error of each that is not.
  """

  shards: tuple[shards.Shard, ...]
  problems: dict[str, schema.TableError]


def committed(directory, kind=schema.RUNS):
  """Returns the names of the shards that have a commit mark, sorted.

  There are none where there is no such directory. That a mark is there does not
  say that its shard is intact: see `load`. A pack whose mark is damaged stands
  for its shards.

  Args:
    directory: the table.
    kind: `schema.RUNS`, `schema.LATENCY` or `schema.INT8`; None for all.
  """
  directory = pathlib.Path(directory)
  # In this order: what is no longer in the one is in the other.
  names = {shards.name_of(p) for p in shards.marks(directory)}
  for pack in packs(directory):
    path = shards.find_mark(directory, pack)
    try:
      info = path.stat()
      names |= _names(path, info.st_ino, info.st_mtime_ns, info.st_size)
    except (schema.TableError, OSError):
      names.add(pack)
  return tuple(sorted(n for n in names if kind in (None, schema.kind_of(n))))


def is_committed(directory, name):
  """Tells whether a shard has a commit mark, without listing the table."""
  directory = pathlib.Path(directory)
  mark = shards.find_mark(directory, name)
  return mark.is_file() or _pack_of(directory, name) is not None


def uncommitted(directory):
  """Returns the names of Parquet files without a commit mark, sorted."""
  directory = pathlib.Path(directory)
  names = {
    name.rpartition('.')[0]
    for place in shards.folders(directory)
    for name in shards.listed(place)
    if name.endswith(('.parquet', shards.LATENCY_SUFFIX)) and name[0] != '.'
  }
  names.difference_update(committed(directory, kind=None), packs(directory))
  return tuple(sorted(names))


def packs(directory):
  """Returns the names of the packs that have a commit mark, sorted."""
  place = pathlib.Path(directory) / shards.PACKS
  if place.is_symlink():
    return ()
  names = (n for n in shards.listed(place) if n.endswith('.json'))
  return tuple(sorted(n[: -len('.json')] for n in names if n[0] != '.'))


def copy_of(rows):
  """Returns where a second mark of a pack goes."""
  return shards.mark_path(rows).with_suffix('.copy')


def folders(directory):
  """Returns the directories in which files of a table may lie."""
  place = pathlib.Path(directory) / shards.PACKS
  there = place.is_dir() and not place.is_symlink()
  return (*shards.folders(directory), *([place] if there else []))


def load(directory, name, digest=True):
  """Returns the Shard of that name after checking what it stands in.

  Args:
    directory: the table.
    name: name of the shard.
    digest: whether to read the file in full and compare its SHA-256. Size,
      schema, version and number of rows are always checked.

  Raises:
    DamagedShardError: a file is missing, a link, or not what was committed.
    SchemaError: the files are whole, but of another version or schema.
  """
  directory = pathlib.Path(directory)
  pack = _pack_of(directory, name)
  try:
    if pack is None:
      return shards.load(directory, name, digest)
    found = load_pack(directory, pack, digest)
  except schema.DamagedShardError:
    if pack is None and _pack_of(directory, name) is not None:
      return load(directory, name, digest)  # it has been packed meanwhile
    if pack is None or not shards.find_mark(directory, name).is_file():
      raise
    return shards.load(directory, name, digest)
  return next(shard for shard in found if shard.name == name)


def load_all(directory, kind=None, digest=True, names=None):
  """Returns all shards as Whole, each file checked once; sorted by name.

  Args:
    directory: the table.
    kind: as in `committed`.
    digest: as in `load`.
    names: those that are wanted; all if not given.
  """
  directory = pathlib.Path(directory)
  names = None if names is None else frozenset(names)
  while True:
    # In this order: what is no longer in the one is in the other.
    marks, there = shards.marks(directory), packs(directory)
    found, problems = {}, {}
    for pack in there:
      if kind not in (None, schema.RUNS):
        break
      for name, shard in _of_pack(directory, pack, digest).items():
        if isinstance(shard, schema.TableError):
          problems.setdefault(name, shard)
        else:
          found.setdefault(name, shard)
    for mark in marks:
      name = shards.name_of(mark)
      wanted = kind in (None, schema.kind_of(name))
      if (
        name in found or not wanted or (names is not None and name not in names)
      ):
        continue
      try:
        found[name] = shards.load(directory, name, digest)
        problems.pop(name, None)
      except schema.TableError as e:
        problems[name] = e
    if not problems or packs(directory) == there:
      break
    # What was missing may stand in a pack since.
  for name in found:
    problems.pop(name, None)
  if names is not None:
    found = {n: shard for n, shard in found.items() if n in names}
    problems = {n: e for n, e in problems.items() if n in names}
  return Whole(tuple(found[n] for n in sorted(found)), problems)


def moved(shards_):
  """Returns Shards where they lie now; the same object if none has moved."""
  gone = [s for s in shards_ if not s.packed and not s.path.exists()]
  now = {}
  for directory in {s.path.parent for s in gone}:
    names = {s.name for s in gone if s.path.parent == directory}
    for shard in load_all(directory, digest=False, names=names).shards:
      if shard.packed:
        now[directory, shard.name, shard.sha256] = shard
  if not now:
    return shards_
  return tuple(now.get((s.path.parent, s.name, s.sha256), s) for s in shards_)


def verify(path):
  """Checks every shard, digests included, and returns a Report."""
  start = time.perf_counter()
  directory = shards.locate(path)
  good, problems = load_all(directory)
  files = {shard.path for shard in good}
  return Report(
    good,
    problems,
    uncommitted(directory),
    tuple(n for place in folders(directory) for n in disk.leftovers(place))
    + tuple(path.name for path in superseded(directory)),
    sum(path.stat().st_size for path in files),
    time.perf_counter() - start,
  )


def superseded(directory):
  """Returns the files of shards that stand in an intact pack as well, sorted.

  A compaction that was killed leaves them; they are not looked at.
  """
  directory = pathlib.Path(directory)
  listed, found = shards.listed(directory), []
  for pack in packs(directory):
    try:
      names = [shard.name for shard in members(directory, pack)]
      files = [
        directory / file
        for name in names
        for file in (f'_{name}.json', f'{name}.json', f'{name}.parquet')
        if file in listed
      ]
      if files:
        load_pack(directory, pack)
    except schema.TableError:
      continue
    found += files
  return sorted(found)


def load_pack(directory, pack, digest=True):
  """Returns the Shards of a pack after checking its files, as `load` does."""
  mark = shards.read_mark(directory, pack)
  shards.check(mark, digest)
  return _members(mark)


def packed_meta(found):
  """Returns the meta of a pack's mark: what there is to say of its Shards.

  As one string, for that is read and sealed at once; of meta each value once.
  """
  plain = {
    'shard': [s.name for s in found],
    'sha256': [s.sha256 for s in found],
    'size': [s.size for s in found],
    'rows': [s.rows for s in found],
  }
  metas, places = {}, {}
  for n, shard in enumerate(found):
    for key, value in shard.meta.items():
      values, at = metas.setdefault(key, ([], [-1] * len(found)))
      text = json.dumps(value, sort_keys=True)
      if (key, text) not in places:
        places[key, text] = len(values)
        values.append(value)
      at[n] = places[key, text]
  text = json.dumps(plain | {'meta': metas}, separators=(',', ':'))
  return {'packed': text}


def members(directory, pack):
  """Returns the Shards of a pack, by its mark alone.

  Raises:
    DamagedShardError: of the mark.
  """
  return _members(shards.read_mark(directory, pack))


def _members(mark):
  """Returns the Shards that the mark of a pack, read as a Shard, lists."""
  try:
    plain = json.loads(mark.meta['packed'])
    columns = [plain[name] for name in _FIELDS]
    metas = [{} for _ in columns[0]]
    for key, (values, at) in plain['meta'].items():
      for meta, place in zip(metas, at, strict=True):
        if place >= 0:
          meta[key] = values[place]
    found, first = [], 0
    for (name, sha256, size, rows), meta in zip(
      zip(*columns, strict=True), metas, strict=True
    ):
      found.append(
        shards.Shard(name, mark.path, sha256, size, rows, meta, first)
      )
      first += rows
    if first != mark.rows or not found:
      raise ValueError(f'{first} rows, {mark.rows} committed')
  except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
    path = shards.mark_path(mark.path)
    raise shards.damaged(path, f'is no mark of a pack ({e})') from e
  return found


def _of_pack(directory, pack, digest):
  """Returns what a pack holds by name: Shards, or the error that it has."""
  try:
    mark = shards.read_mark(directory, pack)
    found = _members(mark)
  except schema.TableError as e:
    return {pack: e}
  try:
    shards.check(mark, digest)
  except schema.TableError as e:
    return {shard.name: e for shard in found}
  return {shard.name: shard for shard in found}


def _pack_of(directory, name):
  """Returns the name of the pack that has a shard, or None."""
  for pack in packs(directory):
    path = shards.find_mark(directory, pack)
    try:
      info = path.stat()
      if name in _names(path, info.st_ino, info.st_mtime_ns, info.st_size):
        return pack
    except (schema.TableError, OSError):
      continue
  return None


# A mark never changes but by another file in its place.
@functools.lru_cache(maxsize=1024)
def _names(path, *_):
  found = members(path.parent.parent, shards.name_of(path))
  return frozenset(shard.name for shard in found)
