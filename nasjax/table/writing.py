"""Writing shards so that a kill never shows."""

import hashlib
import json
import os
import pathlib
import re

import pyarrow as pa
import pyarrow.parquet as pq

from nasjax.storage import disk
from nasjax.table import checking, contents, schema, shards

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
  if name.startswith(shards.PACK_PREFIX):
    raise schema.TableError(
      f'shard name {name!r}: {shards.PACK_PREFIX!r} begins the names of packs'
    )
  table = checking.from_rows(rows, name)
  meta = dict(meta or {})
  payload = payload_of(table, meta)
  shard = shards.Shard(
    name,
    shards.rows_path(directory, name),
    hashlib.sha256(payload).hexdigest(),
    len(payload),
    table.num_rows,
    meta,
  )
  return put(pathlib.Path(directory), shard, payload, table)


def payload_of(table, meta, group_rows=None):
  """Returns the bytes of the Parquet file of an Arrow table.

  Args:
    table: of rows.
    meta: of their mark, some of which is in the file, too.
    group_rows: rows of a row group; Arrow's choice if not given.
  """
  told = {}
  if isinstance(meta.get('metric'), str):
    told = {key: json.dumps(meta[key]) for key in _TOLD if meta.get(key)}
    told = {'metric': meta['metric']} | told
  table = table.replace_schema_metadata(told or None)
  sink = pa.BufferOutputStream()
  pq.write_table(
    table,
    sink,
    row_group_size=group_rows,
    compression='zstd',
    write_page_checksum=True,
  )
  return sink.getvalue().to_pybytes()


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
      _tidy_now_and_then(directory)
    mark = shards.find_mark(directory, shard.name)
    marked = os.path.lexists(mark)
    standing = _standing(directory, shard.name)
    if standing is not None:
      check_same(standing, table)
      return standing
    disk.make_directory(shard.path.parent)
    if locked:  # then whoever left these is dead
      disk.clear(shard.path.parent, f'.{shard.name}.')
      disk.clear(shard.path.parent, f'._{shard.name}.')
    if marked:  # but damaged; the mark must not vouch for new rows
      disk.remove(mark)
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


def publish(directory, shard, payload, mark=None):
  """Makes the files of a shard appear, whatever stands there; under the lock.

  Args:
    directory: the table.
    shard: the Shard to be.
    payload: the bytes of its Parquet file.
    mark: those of its mark; made here if not given.
  """
  mark = shards.mark_bytes(shard) if mark is None else mark
  rows = shards.rows_path(directory, shard.name)
  # A mark that stands is of a damaged shard, and must not vouch for new rows.
  disk.remove(shards.find_mark(directory, shard.name))
  disk.publish(rows, payload)
  disk.publish(shards.mark_path(rows), mark)


# By device and inode of a table, how many writes may pass before it is tidied.
_REST = {}


def _tidy_now_and_then(directory):
  """Tidies, and clears what killed writers left; the lock must be held.

  It lists the table: where that is large, not before every write.
  """
  info = directory.stat()
  place = info.st_dev, info.st_ino
  _REST[place] = _REST.get(place, 0) - 1
  if _REST[place] > 0:
    return
  tidy(directory)
  for folder in contents.folders(directory):
    disk.clear(folder, '.')
  _REST[place] = len(shards.listed(directory)) // 64


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
    where, remedy = standing.path, 'Remove it to write it anew'
    if standing.packed:
      where = f'shard {standing.name!r} of {standing.path}'
      remedy = 'Give the new ones another table'
    raise schema.ConflictError(
      f'{where} stands with other results for {len(differing)} rows, '
      f'the first of cell {row["arch"]}, '
      f'{", ".join(f"{n} {row[n]!r}" for n in rest)}; it was kept. '
      f'{remedy}'
    )


def _standing(directory, name):
  """Returns the intact Shard of a name, or None where there is none."""
  if not contents.is_committed(directory, name):
    return None
  try:
    return contents.load(directory, name)
  except schema.DamagedShardError:
    return None
