"""Shards on disk, read so that damage shows.

A table is a directory. A shard is `<name>.parquet`, its rows, and
`_<name>.json`, its commit mark, which holds the size and the SHA-256 of the
rows and a digest of itself. Each appears by rename after fsync, the mark last:
a shard without a mark is not data, and a file whose name begins with a dot
never is.

Readers of folders of Parquet files, such as pandas, pyarrow and Spark, skip
names that begin with `_` or `.`: what they see of a table are the rows of its
runs. Latencies, whose columns are others, therefore lie in `_latency/`, and end
in `.pq`, for DuckDB reads every `.parquet` below a folder; errors of eight bits
lie with them. Older tables have
marks `<name>.json` and latencies among the runs; they are read, and the next
writer moves both (see `writing.tidy`).

Many small shards may stand in one large file instead, a pack: see `contents`.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import stat
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nasjax.table import schema

FORMAT = 'nasjax-table'
LATENCIES, LATENCY_SUFFIX = '_latency', '.pq'
PACKS, PACK_PREFIX = '_packed', 'packed-'
# Refused unread beyond these, whatever a file says of itself.
MAX_MARK_BYTES = 16 << 20
MAX_ROWS = 10_000_000
MAX_VALUES = 1_000_000_000
MAX_THRIFT = 64 << 20
BATCH_ROWS = 8192


class Shard(NamedTuple):
  """What the commit mark of a shard says."""

  name: str
  path: pathlib.Path  # of the Parquet file
  sha256: str
  size: int  # bytes
  rows: int
  meta: dict
  first: int = 0  # row of the file where it begins, if it stands in a pack

  @property
  def packed(self):
    """Whether it stands in a pack; digest and size are those it once had."""
    return self.path.stem != self.name


def locate(path):
  """Returns the directory of shards: `path`, or `path/table` of a run."""
  path = pathlib.Path(path)
  if not path.exists():
    raise schema.TableError(f'{path} does not exist; give a table or a run')
  if not path.is_dir():
    raise schema.TableError(f'{path} is a file; give the directory it is in')
  inner = path / 'table'
  if any(path.glob('*.parquet')) or not inner.is_dir():
    return path
  if path.resolve() not in inner.resolve().parents:
    raise schema.TableError(
      f'{inner} is a link out of {path}; give {inner.resolve()} itself'
    )
  return inner


def marks(directory):
  """Returns the paths of the commit marks of a table, in no order.

  Beside rows of its name any JSON file is a mark, however damaged; alone, one
  that names the format.
  """
  found = []
  for place in folders(directory):
    # One listing: a look at each file takes a second where there are 100,000.
    names = listed(place)
    for name in names:
      if name.endswith('.json') and not name.startswith('.'):
        path = place / name
        if rows_of(path).name in names or _names_format(path):
          found.append(path)
  return found


def listed(directory):
  """Returns the names in a directory, a set; none where there is none."""
  try:
    return set(os.listdir(directory))
  except (FileNotFoundError, NotADirectoryError):
    return set()


def folders(directory):
  """Returns the directories in which shards of a table may lie."""
  directory = pathlib.Path(directory)
  inner = directory / LATENCIES
  if inner.is_dir() and not inner.is_symlink():
    return directory, inner
  return (directory,)


def rows_path(directory, name):
  """Returns where the rows of a shard go."""
  directory = pathlib.Path(directory)
  if schema.kind_of(name) is not schema.RUNS:
    return directory / LATENCIES / f'{name}{LATENCY_SUFFIX}'
  return directory / f'{name}.parquet'


def mark_path(rows):
  """Returns where the commit mark of a file of rows goes."""
  if rows.name.startswith(PACK_PREFIX):
    # Apart, so that whoever looks for a shard need not list all of a table.
    return rows.parent / PACKS / f'{rows.stem}.json'
  return rows.with_name(f'_{rows.stem}.json')


def rows_of(mark):
  """Returns the path of the rows that a commit mark is of."""
  name = name_of(mark)
  if mark.parent.name == PACKS:
    return mark.parent.parent / f'{name}.parquet'
  if mark.name.startswith('_') and schema.kind_of(name) is not schema.RUNS:
    return mark.with_name(f'{name}{LATENCY_SUFFIX}')
  return mark.with_name(f'{name}.parquet')


def name_of(path):
  """Returns the name of the shard that a file of rows or a mark is of."""
  return path.stem.removeprefix('_')


def find_mark(directory, name):
  """Returns the path of the commit mark of a shard, or where it would go.

  The older place comes first: a writer that moves a mark meanwhile has it in
  the newer by then.
  """
  wanted = mark_path(rows_path(directory, name))
  old = pathlib.Path(directory) / f'{name}.json'
  return old if os.path.lexists(old) else wanted


def load(directory, name, digest=True):
  """Returns the Shard of that name after checking both of its files.

  Args:
    directory: the table.
    name: name of the shard.
    digest: whether to read the rows' file in full and compare its SHA-256.
      Size, schema, version and number of rows are always checked.

  Raises:
    DamagedShardError: a file is missing, a link, or not what was committed.
    SchemaError: the files are whole, but of another version or schema.
  """
  shard = read_mark(directory, name)
  check(shard, digest)
  return shard


def check(shard, digest=True):
  """Checks the rows' file of a Shard that is as its mark says; see `load`."""
  size = _plain_file(shard.path).st_size
  if size != shard.size:
    raise damaged(shard.path, f'has {size} bytes, {shard.size} committed')
  if digest:
    with shard.path.open('rb') as f:
      found = hashlib.file_digest(f, 'sha256').hexdigest()
    if found != shard.sha256:
      raise damaged(
        shard.path, f'has SHA-256 {found}, {shard.sha256} committed'
      )
  _check_parquet(shard)


def read(shard):
  """Returns the Arrow table of a Shard."""
  try:
    with _parquet(shard.path) as f:
      if not shard.packed:
        return f.read(use_threads=False)
      groups, first = _groups_of(f.metadata, shard.first, shard.rows)
      rows = f.read_row_groups(groups, use_threads=False)
      return rows.slice(first, shard.rows)
  except (pa.ArrowException, OSError) as e:
    raise damaged(shard.path, f'cannot be read: {e}') from e


def _groups_of(footer, first, rows):
  """Returns the row groups that hold rows, and where in them these begin."""
  groups, at, skipped = [], 0, 0
  for g in range(footer.num_row_groups):
    there = footer.row_group(g).num_rows
    if at + there <= first:
      skipped += there
    elif at < first + rows:
      groups.append(g)
    at += there
  return groups, first - skipped


def files_of(shards_):
  """Returns which rows of which files Shards are, and how these are ordered.

  Args:
    shards_: Shards in the order in which their rows are wanted.

  Returns:
    dict from paths to lists of (first, stop), rising, none touching the next;
    and of each wanted row its place among those of the files, one file after
    another; None where it is its own.
  """
  parts, wanted = {}, 0
  for shard in shards_:
    span = (shard.first, shard.first + shard.rows, wanted)
    parts.setdefault(shard.path, []).append(span)
    wanted += shard.rows
  files, order_w, place, moved = {}, [], 0, False
  for path, spans in parts.items():
    spans.sort()
    merged = files[path] = []
    for first, stop, at in spans:
      if merged and merged[-1][1] == first:
        merged[-1] = (merged[-1][0], stop)
      else:
        merged.append((first, stop))
      moved |= at != place
      order_w.append((at, place, stop - first))
      place += stop - first
  if not moved:
    return files, None
  order = np.empty(wanted, np.int64)
  for at, place, rows in order_w:
    order[at : at + rows] = np.arange(place, place + rows)
  return files, order


def read_all(shards_):
  """Returns the Arrow table of Shards, in their order."""
  files, order = files_of(shards_)
  wholes, parts = [], []
  for path, spans in files.items():
    try:
      with _parquet(path) as f:
        whole = f.read(use_threads=False)
    except (pa.ArrowException, OSError) as e:
      raise damaged(path, f'cannot be read: {e}') from e
    parts += [whole.slice(first, stop - first) for first, stop in spans]
    if len(parts) >= 256:
      # A small table takes ten times the room of its values.
      wholes.append(pa.concat_tables(parts).combine_chunks())
      parts = []
  table = pa.concat_tables(wholes + parts)
  return table if order is None else table.take(pa.array(order))


def rows_in(path):
  """Returns how many rows a Parquet file declares."""
  try:
    with _parquet(path) as f:
      return f.metadata.num_rows
  except (pa.ArrowException, OSError) as e:
    raise damaged(path, f'is no Parquet file: {e}') from e


def batches(path, spans, fields):
  """Yields columns of a file as Arrow arrays, some thousand rows each.

  Args:
    path: of the Parquet file.
    spans: (first, stop), the rows that are wanted, in order; of a shard that
      has the file to itself all, and there must be no more.
    fields: of the columns; strings come as codes and a dictionary.
  """
  names = [field.name for field in fields]
  texts = [f.name for f in fields if pa.types.is_string(f.type)]
  rows, last = 0, spans[-1][1]
  whole = len(spans) == 1 and spans[0][0] == 0
  try:
    with _parquet(path, texts) as f:
      for batch in f.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
        begin, rows = rows, rows + batch.num_rows
        if whole and rows <= last:
          yield [batch.column(name) for name in names]
          continue
        for first, stop in spans:
          low, high = max(first, begin), min(stop, rows)
          if low < high:
            part = batch.slice(low - begin, high - low)
            yield [part.column(name) for name in names]
  except (pa.ArrowException, OSError) as e:
    raise damaged(path, f'cannot be read: {e}') from e
  packed = path.name.startswith(PACK_PREFIX)
  if rows < last or (rows > last and not packed):
    raise damaged(path, f'has {rows} rows, {last} committed')


def mark_bytes(shard):
  """Returns the commit mark of a Shard: JSON that holds its own digest."""
  content = {
    'format': FORMAT,
    'schema_version': schema.VERSION,
    'shard': shard.name,
    'sha256': shard.sha256,
    'size': shard.size,
    'rows': shard.rows,
    'meta': shard.meta,
  }
  try:
    mark = seal(json.loads(_canonical(content)))
  except (TypeError, ValueError) as e:
    raise schema.SchemaError(
      f'meta of shard {shard.name!r} is not plain JSON: {e}'
    ) from e
  if len(mark) > MAX_MARK_BYTES:
    raise schema.SchemaError(
      f'meta of shard {shard.name!r} takes {len(mark)} bytes; '
      f'at most {MAX_MARK_BYTES} are read back'
    )
  return mark


def seal(content):
  """Returns the bytes of a mark; a digest covers every one of them."""
  digest = hashlib.sha256(_canonical(content)).hexdigest()
  return _canonical(content | {'mark_sha256': digest})


def _canonical(content):
  text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
  return (text + '\n').encode()


def _names_format(path):
  """Tells a commit mark without rows from a stray JSON file."""
  try:
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_MARK_BYTES:
      return False
    return FORMAT.encode() in path.read_bytes()
  except FileNotFoundError:
    return False  # moved meanwhile


def read_mark(directory, name):
  """Returns the Shard that a commit mark describes."""
  path = find_mark(directory, name)
  size = _plain_file(path).st_size
  if size > MAX_MARK_BYTES:
    raise damaged(path, f'has {size} bytes, too many for a commit mark')
  raw = path.read_bytes()
  try:
    content = json.loads(raw)
    digest = content.pop('mark_sha256')
    whole = seal(content) == raw
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
    raise damaged(path, f'is no commit mark ({type(e).__name__})') from e
  if not whole:
    raise damaged(path, f'does not have the digest it names ({digest})')
  if content.get('format') != FORMAT or content.get('shard') != name:
    raise damaged(
      path,
      f'is of format {content.get("format")!r}, shard {content.get("shard")!r}',
    )
  version = content.get('schema_version')
  if version != schema.VERSION:
    raise schema.SchemaError(
      f'{path} has schema version {version!r}; this nasjax reads '
      f'{schema.VERSION}. Read it with the nasjax that wrote it, or upgrade'
    )
  try:
    return Shard(
      name,
      rows_of(path),
      content['sha256'],
      content['size'],
      content['rows'],
      content['meta'],
    )
  except KeyError as e:
    raise damaged(path, f'lacks {e}') from e


def _check_parquet(shard):
  """Checks what the Parquet footer declares before any value is read."""
  try:
    with _parquet(shard.path) as f:
      found, footer = f.schema_arrow, f.metadata
      rows = footer.num_rows
      values = max(
        (_values(footer, c) for c in range(footer.num_columns)), default=0
      )
  except (pa.ArrowException, OSError) as e:
    raise damaged(shard.path, f'is no Parquet file: {e}') from e
  if rows != shard.rows or rows > MAX_ROWS or values > MAX_VALUES:
    raise damaged(
      shard.path,
      f'declares {rows} rows and {values} values in a column; '
      f'{shard.rows} rows were committed',
    )
  if problem := _schema_difference(found, schema.kind_of(shard.name).schema):
    raise schema.SchemaError(
      f'{shard.path} is not of schema {schema.VERSION}: {problem}. '
      'Generate it again with this nasjax'
    )


def _values(footer, column):
  """Returns how many values a column has, by the footer of its file."""
  return sum(
    footer.row_group(g).column(column).num_values
    for g in range(footer.num_row_groups)
  )


def _schema_difference(found, wanted):
  """Returns the first difference of a schema from the wanted one, or None."""
  if found.equals(wanted):
    return None
  for field in wanted:
    if found.names.count(field.name) != 1:
      return f'column {field.name!r} is there {found.names.count(field.name)}x'
    if not found.field(field.name).equals(field):
      return f'a column is {found.field(field.name)}, not {field}'
  if extra := set(found.names) - set(wanted.names):
    return f'column {min(extra)!r} is unknown'
  return f'columns are in the order {found.names}'


@contextlib.contextmanager
def _parquet(path, read_dictionary=None):
  """Opens a Parquet file; Arrow's own way to it keeps 4 MB for itself."""
  with (
    path.open('rb', buffering=0) as f,
    pq.ParquetFile(
      f,
      read_dictionary=read_dictionary,
      thrift_string_size_limit=MAX_THRIFT,
      thrift_container_size_limit=MAX_THRIFT,
      page_checksum_verification=True,
      arrow_extensions_enabled=False,
      pre_buffer=False,
    ) as parquet,
  ):
    yield parquet


def _plain_file(path):
  """Returns the stat of a plain file; links could lead out of the table."""
  try:
    info = path.lstat()
  except FileNotFoundError as e:
    raise damaged(path, 'is missing') from e
  if not stat.S_ISREG(info.st_mode):
    what = 'a link' if stat.S_ISLNK(info.st_mode) else 'no plain file'
    raise damaged(path, f'is {what}, which is not followed')
  return info


def damaged(path, what):
  return schema.DamagedShardError(
    f'{path} {what}; table.repair() sets shard {name_of(path)!r} aside, '
    'then run its generator again'
  )
