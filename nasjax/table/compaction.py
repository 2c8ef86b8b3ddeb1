"""Many small shards into few large files.

Each file of a table costs an opening, a digest and a footer: a table of 100,000
shards takes minutes to open, the same rows in packs a second.
"""

import hashlib

import pyarrow as pa

from nasjax.storage import disk
from nasjax.table import contents, schema, shards, writing

# Rows of a pack, and of the groups in it that are read, and lost, together.
PACK_ROWS, GROUP_ROWS = 16_384, 1024


def compact(path, pack_rows=PACK_ROWS):
  """Puts the small shards of runs into packs (`contents`).

  All answers stay as they are: names, order, meta, and the digests that the
  shards once had, by which `repair` and `merge` know them again. Killed at any
  moment, each shard stands in the one place or the other, and called again, it
  goes on. Damaged shards stay where they are. Others may read meanwhile, and
  write. (Readers that know nothing of packs, such as pandas, may see rows twice
  until it has ended.)

  Args:
    path: table or run.
    pack_rows: at most so many rows in a pack, but for a shard that has more.

  Returns:
    The names of the packs that were made; none where there are not two shards
    to be put together.

  Raises:
    TableError: there is no table, or its file system knows no locks.
    OSError: the disk is full or cannot be written; nothing is lost.
  """
  directory = shards.locate(path)
  with disk.lock(directory) as locked:
    if not locked:
      raise schema.TableError(
        f'the lock of {directory} cannot be had, which compacting needs: its '
        'file system knows no locks, or a writer that was stopped holds it; '
        'copy the table elsewhere, and compact it there'
      )
    writing.tidy(directory)
    finish(directory)
    small = [
      shard
      for shard in contents.load_all(directory, schema.RUNS).shards
      if not shard.packed
    ]
    groups = [group for group in _cut(small, pack_rows) if len(group) > 1]
    return tuple(_pack(directory, group) for group in groups)


def finish(directory):
  """Removes what a compaction left that was killed; the lock must be held.

  These are unfinished files, files of shards that stand in an intact pack, and
  packs without a mark whose shards all stand elsewhere.
  """
  for place in contents.folders(directory):
    disk.clear(place, '.')
  for path in contents.superseded(directory):
    path.unlink(missing_ok=True)
  for name in contents.uncommitted(directory):
    if not name.startswith(shards.PACK_PREFIX):
      continue
    path = shards.rows_path(directory, name)
    try:
      names = _names_in(path)
    except schema.TableError:
      continue
    if names <= {s.name for s in contents.load_all(directory).shards}:
      path.unlink()
      contents.copy_of(path).unlink(missing_ok=True)
  disk.sync_directory(directory)


def own_file(shard):
  """Returns a Shard of a pack by itself, and the bytes of its Parquet file.

  They are those that it once had, and the digest of its mark is theirs, unless
  another version of Arrow wrote them.

  Raises:
    DamagedShardError: its rows cannot be read.
  """
  table = shards.read(shard).cast(schema.SCHEMA)
  payload = writing.payload_of(table, shard.meta)
  alone = shard._replace(
    path=shards.rows_path(shard.path.parent, shard.name),
    sha256=hashlib.sha256(payload).hexdigest(),
    size=len(payload),
    first=0,
  )
  return alone, payload


def readable(directory, pack):
  """Yields what `own_file` returns for the shards of a pack that are whole.

  That is, whose rows can be read and make the file that they once had. Nothing
  where the mark of the pack is damaged.
  """
  try:
    members = contents.members(directory, pack)
  except schema.TableError:
    return
  for shard in members:
    try:
      alone, payload = own_file(shard)
    except schema.TableError:
      continue
    if alone.sha256 == shard.sha256:
      yield alone, payload


def with_mark(directory, pack):
  """Puts the second mark of a pack in place of a damaged one.

  Returns:
    whether the pack is intact now.
  """
  rows = shards.rows_path(directory, pack)
  try:
    disk.publish(shards.mark_path(rows), contents.copy_of(rows).read_bytes())
    contents.load_pack(directory, pack)
  except (OSError, schema.TableError):
    return False
  return True


def _cut(small, pack_rows):
  """Returns lists of neighbouring shards of at most so many rows together."""
  groups, rows = [], pack_rows
  for shard in small:
    if rows + shard.rows > pack_rows:
      groups.append([])
      rows = 0
    groups[-1].append(shard)
    rows += shard.rows
  return groups


def _pack(directory, group):
  """Puts shards into one pack, and removes their files; returns its name."""
  name = write_pack(directory, group, shards.read_all(group))
  # From here on the pack is what counts.
  for shard in group:
    shards.find_mark(directory, shard.name).unlink(missing_ok=True)
    shard.path.unlink(missing_ok=True)
  disk.sync_directory(directory)
  return name


def write_pack(directory, group, table):
  """Writes a pack; the lock must be held.

  Args:
    directory: the table.
    group: Shards in the order in which they shall stand in it.
    table: all their rows in this order, an Arrow table.

  Returns:
    its name.

  Raises:
    DamagedShardError: it does not come back as it was written.
  """
  meta = contents.packed_meta(group)
  table = table.cast(schema.SCHEMA)
  payload = writing.payload_of(table, _common(group), GROUP_ROWS)
  digest = hashlib.sha256(payload).hexdigest()
  name = f'{shards.PACK_PREFIX}{digest[:16]}'
  rows = shards.rows_path(directory, name)
  pack = shards.Shard(name, rows, digest, len(payload), table.num_rows, meta)
  mark = shards.mark_bytes(pack)
  disk.publish(rows, payload)
  if not _alike(shards.read(pack), table):
    raise schema.DamagedShardError(
      f'{rows} does not come back as it was; the shards stay as they are. Look '
      'after disk and memory of this machine'
    )
  disk.make_directory(shards.mark_path(rows).parent)
  # Twice, for a mark that is lost would take thousands of trainings with it.
  for path in (contents.copy_of(rows), shards.mark_path(rows)):
    disk.publish(path, mark)
  return name


def copy_pack(rows, directory):
  """Copies a pack into another table, which must have none of its shards.

  Args:
    rows: path of its Parquet file.
    directory: the table; made if need be.
  """
  disk.make_directory(directory)
  with disk.lock(directory):
    new = shards.rows_path(directory, rows.stem)
    disk.make_directory(shards.mark_path(new).parent)
    disk.publish(new, rows.read_bytes())
    mark = shards.mark_path(rows).read_bytes()
    for path in (contents.copy_of(new), shards.mark_path(new)):
      disk.publish(path, mark)
  contents.load_pack(directory, rows.stem)


def _common(group):
  """Returns what the metas of all shards agree in."""
  first = group[0].meta
  return {
    key: value
    for key, value in first.items()
    if all(shard.meta.get(key) == value for shard in group)
  }


def _alike(one, other):
  """Tells whether two Arrow tables have the same bits, NaN and all."""
  return one.num_rows == other.num_rows and all(
    _bits(one[name]).equals(_bits(other[name])) for name in one.column_names
  )


def _bits(column):
  """Returns a column with integers in place of floats, for NaN equals NaN."""
  array = column.combine_chunks()
  if pa.types.is_list(array.type):
    values = _integers(array.values)
    return pa.ListArray.from_arrays(array.offsets, values)
  return _integers(array)


def _integers(array):
  kinds = {pa.float32(): pa.int32(), pa.float64(): pa.int64()}
  return array.view(kinds[array.type]) if array.type in kinds else array


def _names_in(path):
  """Returns the names of the shards whose rows a Parquet file has."""
  count = shards.rows_in(path)
  field = schema.SCHEMA.field('shard')
  found = set()
  for (array,) in shards.batches(path, [(0, count)], [field]):
    found.update(array.to_pylist())
  return found
