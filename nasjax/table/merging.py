"""Putting the shards of several tables into one."""

import pathlib

from nasjax.table import (
  compaction,
  contents,
  questions,
  reader,
  schema,
  shards,
  writing,
)


def merge(paths, out):
  """Copies the shards of tables into a directory, byte by byte.

  Nothing is written unless everything fits: each shard is verified, and no
  training may come with two different results, neither from two of the tables
  nor from what is in `out` already. Killed and called again, it goes on.

  Args:
    paths: tables or runs.
    out: directory; made if need be.

  Returns:
    The Table of `out`.

  Raises:
    ConflictError: naming the shards that disagree.
    TableError: a table cannot be opened.
  """
  out = pathlib.Path(out)
  tables = [reader.open_table(path) for path in paths]
  if not tables:
    raise schema.TableError('no tables to merge; give at least one')
  standing, problems = contents.load_all(out)
  for error in problems.values():
    raise error
  names = {shard.name for shard in standing}
  by_name = {shard.name: shard for shard in standing}
  for shard in (s for t in tables for s in t.shards + t.latency_shards):
    other = by_name.setdefault(shard.name, shard)
    if other.sha256 != shard.sha256:
      writing.check_same(other, shards.read(shard))
  runs = (s for s in by_name.values() if schema.kind_of(s.name) is schema.RUNS)
  _check_conflicts(reader.Table(out, tuple(runs)))
  new = [shard for shard in by_name.values() if shard.name not in names]
  _copy(new, out)
  return reader.open_table(out)


def _copy(new, out):
  """Copies Shards that are not in a table into it."""
  of_pack = {}
  for shard in new:
    if shard.packed:
      of_pack.setdefault(shard.path, []).append(shard)
      continue
    writing.put(
      out,
      shard._replace(path=shards.rows_path(out, shard.name)),
      shard.path.read_bytes(),
      shards.read(shard),
    )
  for path, found in of_pack.items():
    whole = contents.members(path.parent, path.stem)
    if len(whole) == len(found):
      compaction.copy_pack(path, out)
      continue
    for shard in found:
      alone, payload = compaction.own_file(shard)
      alone = alone._replace(path=shards.rows_path(out, shard.name))
      writing.put(out, alone, payload, shards.read(shard))


def _check_conflicts(table):
  """Raises a ConflictError if two shards disagree about a training."""
  contexts = zip(*(table.column(name) for name in reader.CONTEXT))
  for values in sorted(set(contexts)):
    part = table.select(**dict(zip(reader.CONTEXT, values)))
    if part.conflicts:
      raise schema.ConflictError(questions.conflict_message(part))
