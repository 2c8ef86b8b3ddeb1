"""Putting the shards of several tables into one."""

import hashlib
import json
import pathlib

import numpy as np

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
  for shard in (s for t in tables for s in t.every_shard):
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


def conflicts(paths):
  """Returns the trainings of which tables have different results.

  Args:
    paths: tables or runs.

  Returns:
    list of dicts: cell, seed, recipe, macro and corpus of a training, the
    columns that differ, and of either side its table, shard, test_per and when
    and with what it was trained.

  Raises:
    ConflictError: one name stands for two recipes.
    TableError: a table cannot be opened.
  """
  tables = [reader.open_table(path) for path in paths]
  of_shard, seen = [], set()
  for path, one in zip(paths, tables, strict=True):
    for shard in one.shards:
      if (shard.name, shard.sha256) not in seen:
        seen.add((shard.name, shard.sha256))
        of_shard.append((str(path), shard))
  whole = reader.Table(tables[0].path, tuple(shard for _, shard in of_shard))
  ends = np.cumsum([shard.rows for _, shard in of_shard])
  found = []
  contexts = zip(*(whole.column(name) for name in reader.CONTEXT))
  for values in sorted(set(contexts)):
    part = whole.select(**dict(zip(reader.CONTEXT, values)))
    if not part.conflicts:
      continue
    rows = part.to_arrow()
    for pair in part.conflicts:
      two = rows.take(list(pair)).to_pylist()
      places = np.searchsorted(ends, part.rows[list(pair)], side='right')
      found.append(_conflict(part.space, two, [of_shard[p][0] for p in places]))
  return found


def _conflict(space, two, paths):
  """Says in plain values what two rows of one training differ in."""
  row, other = two
  return {
    'cell': space.nested(np.array(row['arch'], np.int8)),
    **{name: row[name] for name in ('seed', 'recipe', 'macro', 'corpus')},
    'differing': [
      name
      for name in schema.SCHEMA.names
      if name not in schema.VOLATILE
      and not schema.same_results(
        row, other | {n: row[n] for n in row if n != name}
      )
    ],
    'sides': [
      {'table': path}
      | {n: side[n] for n in ('shard', 'created', 'versions', 'commit')}
      | {
        'test_per': None if np.isnan(side['test_per']) else side['test_per'],
      }
      for path, side in zip(paths, two, strict=True)
    ],
  }


def source(path):
  """Returns where the shards of a table come from, plain values for JSON.

  Its name, its shards with a digest of all of theirs, what trained them and
  when, the `run.json` of the run, and what that was itself merged from.
  """
  one = reader.open_table(path)
  every = sorted(one.every_shard)
  lines = ''.join(f'{shard.name} {shard.sha256}\n' for shard in every)
  root = one.path.parent if one.path.name == 'table' else one.path
  return {
    'name': root.resolve().name,
    'digest': hashlib.sha256(lines.encode()).hexdigest(),
    'shards': [shard.name for shard in every],
    'rows': len(one),
    'trained': [min(one.column('created')), max(one.column('created'))],
    'versions': [json.loads(v) for v in sorted(one.codes('versions').names)],
    'commits': sorted(one.codes('commit').names),
    'run': plain(root / 'run.json'),
    'sources': plain(root / 'sources.json'),
  }


def plain(path):
  """Returns what a file of JSON says; None where there is none of the kind."""
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError, RecursionError):
    return None
