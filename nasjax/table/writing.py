"""Writing shards so that a kill never shows; setting damaged ones aside."""

import hashlib
import json
import os
import pathlib
import re
import secrets

import pyarrow as pa
import pyarrow.parquet as pq

from nasjax.storage import disk
from nasjax.table import checking, schema, shards

QUARANTINE = '_damaged'
_OLD_QUARANTINE = 'damaged'
# Of the meta of a shard, what others read in the Parquet file.
_TOLD = ('left_out', 'notes')
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,127}')


def write_shard(directory, name, rows, meta=None):
  """Writes a shard, whole or not at all.

  Killed at any moment, it leaves either no shard of that name or a complete
  one. Written again with the same results it keeps what stands (timings,
  commit and versions may differ), so running a shard twice is harmless; a
  damaged one is replaced.

  Args:
    directory: the table; made if need be.
    name: letters, digits, `.`, `_` and `-`, at most 128. One that begins with
      `latency-` is a shard of latencies, any other one of runs.
    rows: see `checking.from_rows`.
    meta: a dict of plain values that is kept in the commit mark. `metric`, what
      the error rates are called, is in the Parquet file, too, and so are
      `left_out` and `notes`, of the corpus, as JSON.

  Returns:
    The Shard that stands.

  Raises:
    SchemaError: the rows do not fit the schema.
    ConflictError: an intact shard of that name holds other results.
    OSError: the disk is full or cannot be written; nothing is committed.
  """
  if not isinstance(name, str) or not _NAME.fullmatch(name):
    raise schema.TableError(
      f'shard name {name!r}: use letters, digits, ".", "_" and "-"'
    )
  table = checking.from_rows(rows, name)
  meta = dict(meta or {})
  if isinstance(meta.get('metric'), str):
    told = {key: json.dumps(meta[key]) for key in _TOLD if meta.get(key)}
    table = table.replace_schema_metadata({'metric': meta['metric']} | told)
  sink = pa.BufferOutputStream()
  pq.write_table(table, sink, compression='zstd', write_page_checksum=True)
  payload = sink.getvalue().to_pybytes()
  shard = shards.Shard(
    name,
    shards.rows_path(directory, name),
    hashlib.sha256(payload).hexdigest(),
    len(payload),
    table.num_rows,
    meta,
  )
  return put(pathlib.Path(directory), shard, payload, table)


def put(directory, shard, payload, table):
  """Commits the bytes of a shard unless the same results stand already.

  Args:
    directory: the table.
    shard: the Shard to be.
    payload: the bytes of its Parquet file.
    table: their Arrow table.

  Returns:
    The Shard that stands.
  """
  shards.mark_bytes(shard)  # raises where there can be none
  disk.make_directory(directory)
  with disk.lock(directory) as locked:
    if locked:
      tidy(directory)
    marked = shards.is_committed(directory, shard.name)
    standing = _standing(directory, shard.name)
    if standing is not None:
      check_same(standing, table)
      return standing
    disk.make_directory(shard.path.parent)
    if locked:  # then whoever left these is dead
      disk.clear(shard.path.parent, f'.{shard.name}.')
      disk.clear(shard.path.parent, f'._{shard.name}.')
    if marked:  # but damaged; the mark must not vouch for new rows
      disk.remove(shards.find_mark(directory, shard.name))
      disk.remove(shard.path)
    # Neither step trusts the lock: machines may not see each other's, and who
    # was stopped here goes on later.
    if not disk.publish_new(shard.path, payload):
      shard = _adopted(shard, payload, table)
    disk.publish(shards.mark_path(shard.path), shards.mark_bytes(shard))
  return shard


def _adopted(shard, payload, table):
  """Returns the Shard of rows that another writer has left, without a mark.

  Where they are the same results they stand, for their writer may be about to
  vouch for them; others are replaced.
  """
  raw = shard.path.read_bytes()
  digest = hashlib.sha256(raw).hexdigest()
  found = shard._replace(sha256=digest, size=len(raw))
  try:
    check_same(found, table)
  except (schema.DamagedShardError, schema.ConflictError):
    disk.publish(shard.path, payload)
    return shard
  return found


def repair(path):
  """Moves damaged shards into `_damaged/`; removes what killed writers left.

  Whoever generates the table then makes these shards again and no others.
  Shards of another schema version are whole, and stay. An older table then lies
  as `tidy` says.

  Returns:
    The names of the shards moved, sorted.
  """
  directory = shards.locate(path)
  with disk.lock(directory) as locked:
    if locked:
      tidy(directory)
    problems = shards.verify(directory).problems
    moved = tuple(
      sorted(
        name
        for name, error in problems.items()
        if isinstance(error, schema.DamagedShardError)
      )
    )
    for name in moved:
      _quarantine(directory, name)
    if locked:
      for place in shards.folders(directory):
        disk.clear(place, '.')
  return moved


def tidy(directory):
  """Puts the files of an older table where other readers expect them.

  They had marks and latencies among the rows of runs, which `pandas` and others
  took for rows. The lock must be held. Killed at any moment, each shard is
  whole in the one place or the other.

  Args:
    directory: the table.
  """
  for mark in shards.marks(directory):
    rows = shards.rows_path(directory, shards.name_of(mark))
    old = shards.rows_of(mark)
    if mark.name.startswith('_'):
      continue
    if rows != old:
      disk.make_directory(rows.parent)
      if old.is_file() and not old.is_symlink():
        disk.publish(rows, old.read_bytes())
    os.replace(mark, shards.mark_path(rows))
    disk.sync_directory(rows.parent)
  for old in directory.glob(f'{schema.LATENCY_PREFIX}*.parquet'):
    rows = shards.rows_path(directory, old.stem)
    if os.path.lexists(rows):
      disk.remove(old)
    else:  # no data, for want of a mark
      disk.make_directory(rows.parent)
      os.replace(old, rows)
  aside = directory / _OLD_QUARANTINE
  if aside.is_dir() and not aside.is_symlink():
    (directory / QUARANTINE).mkdir(exist_ok=True)
    for path in aside.iterdir():
      os.replace(path, directory / QUARANTINE / f'{path.name}.damaged')
    aside.rmdir()


def check_same(standing, table):
  """Raises a ConflictError unless a Shard holds the results of a table."""
  kind = schema.kind_of(standing.name)
  old, new = (
    {schema.identity(row, kind): row for row in rows.to_pylist()}
    for rows in (shards.read(standing), table)
  )
  differing = [
    row
    for i, row in (old | new).items()
    if i not in old
    or i not in new
    or not schema.same_results(old[i], new[i], kind)
  ]
  if differing:
    row = differing[0]
    rest = [n for n in kind.identity if n not in ('space', 'arch')]
    raise schema.ConflictError(
      f'{standing.path} stands with other results for {len(differing)} rows, '
      f'the first of cell {row["arch"]}, '
      f'{", ".join(f"{n} {row[n]!r}" for n in rest)}; it was kept. Remove it '
      'to write it anew'
    )


def _standing(directory, name):
  """Returns the intact Shard of a name, or None where there is none."""
  if not shards.is_committed(directory, name):
    return None
  try:
    return shards.load(directory, name)
  except schema.DamagedShardError:
    return None


def _quarantine(directory, name):
  """Moves both files of a shard away, the commit mark first."""
  aside = directory / QUARANTINE
  aside.mkdir(exist_ok=True)
  tag = secrets.token_hex(4)
  mark = shards.find_mark(directory, name)
  for source in (mark, shards.rows_of(mark)):
    if os.path.lexists(source):
      os.replace(source, aside / f'{name}.{tag}{source.suffix}.damaged')
      disk.sync_directory(source.parent)
