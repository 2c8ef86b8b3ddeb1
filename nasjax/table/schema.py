"""The columns of a benchmark table, its errors, and the check of new rows."""

import json
import numbers

import numpy as np
import pyarrow as pa

from nasjax import spaces

VERSION = 1
STATUSES = ('ok', 'diverged', 'oom')
SPACES = {space.name: space for space in (spaces.NB_ASR,)}


class TableError(ValueError):
  """Anything wrong with a table or a question to it; names file and remedy."""

  def __str__(self):
    # KeyError, which MissingEntryError also is, would print the repr.
    return str(self.args[0]) if self.args else ''


class SchemaError(TableError):
  """Rows or files whose columns, types or version are not ours."""


class DamagedShardError(TableError):
  """A committed shard whose files are not what was committed."""


class ConflictError(TableError):
  """Two different results for what must be one."""


class QueryError(TableError):
  """A question that is malformed or has more than one meaning."""


class MissingEntryError(TableError, KeyError):
  """A question about something the table does not hold."""


def _fields():
  curve_f32, curve_f64 = pa.list_(pa.float32()), pa.list_(pa.float64())
  # Name, type, may be null.
  columns = (
    ('space', pa.string(), False),  # name of the search space
    ('arch', pa.list_(pa.int8()), False),  # the cell, flat
    ('key', pa.string(), False),  # the released hash
    ('semantic_key', pa.string(), False),  # equal for one function
    ('seed', pa.int32(), False),
    ('recipe', pa.string(), False),  # short name, such as e40
    ('recipe_json', pa.string(), False),  # the recipe in full
    ('macro', pa.string(), False),  # name of the macro network
    ('corpus', pa.string(), False),
    ('corpus_fingerprint', pa.string(), False),
    ('epochs', pa.int32(), False),  # of the recipe, run or not
    ('train_loss', curve_f32, False),  # one value an epoch, as the next four
    ('val_loss', curve_f32, False),
    ('val_per', curve_f64, False),  # fraction, corpus level
    ('learning_rate', curve_f32, False),
    ('epoch_seconds', curve_f32, False),
    ('test_per', pa.float64(), False),  # fraction; NaN where none was reached
    ('test_loss', pa.float32(), False),
    ('best_epoch', pa.int32(), True),  # from 1; the one that was tested
    ('params', pa.int64(), False),
    ('macs', pa.int64(), False),  # at 200 frames
    ('seconds', pa.float64(), False),  # this member's share of wall time
    ('status', pa.string(), False),  # one of STATUSES
    ('diverged_epoch', pa.int32(), True),  # from 1
    ('shard', pa.string(), False),
    ('versions', pa.string(), False),  # JSON: nasjax, jax, flax, python, device
    ('commit', pa.string(), False),
    ('created', pa.string(), False),  # ISO 8601
  )
  return [pa.field(name, kind, nullable=null) for name, kind, null in columns]


SCHEMA = pa.schema(_fields())
CURVES = tuple(
  f.name for f in SCHEMA if pa.types.is_list(f.type) and f.name != 'arch'
)
# What two honest runs of one member may differ in.
VOLATILE = (
  'epoch_seconds',
  'seconds',
  'shard',
  'versions',
  'commit',
  'created',
)
# What makes a row a row of its own. `semantic_key` is not among them: two
# encodings of one function are two trainings.
IDENTITY = (
  'space',
  'arch',
  'seed',
  'recipe',
  'macro',
  'corpus',
  'corpus_fingerprint',
)


def from_rows(rows, shard):
  """Returns the Arrow table of new rows, each value checked.

  Args:
    rows: a list of dicts, one a row, or a dict of equally long columns. Values
      may be Python or NumPy scalars, sequences and one-dimensional arrays.
      `shard` may be left out.
    shard: name of the shard, which becomes the column of that name.

  Raises:
    SchemaError: naming the field and the row of what is missing, unknown, of
      the wrong type, out of range or said twice.
  """
  columns = _columns(rows)
  count = len(next(iter(columns.values()), ()))
  if not count:
    raise SchemaError(f'shard {shard!r} has no rows; write at least one')
  columns.setdefault('shard', [shard] * count)
  if missing := [f.name for f in SCHEMA if f.name not in columns]:
    raise SchemaError(
      f'shard {shard!r} lacks {missing[0]!r}; give every row it'
    )
  if extra := [name for name in columns if name not in SCHEMA.names]:
    raise SchemaError(
      f'shard {shard!r} has {extra[0]!r}, which is no column; '
      f'columns are {", ".join(SCHEMA.names)}'
    )
  arrays = [_array(field, columns[field.name]) for field in SCHEMA]
  table = pa.Table.from_arrays(arrays, schema=SCHEMA)
  _check_rows(table, shard)
  return table


def _columns(rows):
  """Returns a dict of columns from either form of rows."""
  if isinstance(rows, dict):
    sizes = {name: len(values) for name, values in rows.items()}
    if len(set(sizes.values())) > 1:
      raise SchemaError(f'columns differ in length: {sizes}')
    return dict(rows)
  columns = {}
  for r, row in enumerate(rows):
    names = list(columns) if columns else list(row)
    for name in names:
      if name not in row:
        raise SchemaError(f'row {r} lacks {name!r}, which row 0 has')
      columns.setdefault(name, []).append(row[name])
    if extra := [name for name in row if name not in columns]:
      raise SchemaError(f'row {r} has {extra[0]!r}, which row 0 lacks')
  return columns


def _array(field, values):
  """Returns the Arrow array of one column; Arrow alone would cut 1.5 to 1."""
  if pa.types.is_list(field.type):
    return _list_array(field, values)
  if pa.types.is_integer(field.type):
    kinds = numbers.Integral
  elif pa.types.is_floating(field.type):
    kinds = (numbers.Real, np.floating, np.integer)
  else:
    kinds = str
  plain = []
  for r, value in enumerate(values):
    value = _scalar(value)
    if value is None and field.nullable:
      plain.append(None)
      continue
    if isinstance(value, bool) or not isinstance(value, kinds):
      raise SchemaError(
        f'{field.name!r} of row {r} is {value!r}; it must be of type '
        f'{field.type}{" or None" if field.nullable else ""}'
      )
    plain.append(value)
  try:
    return pa.array(plain, type=field.type)
  except (pa.ArrowInvalid, OverflowError) as e:
    raise SchemaError(f'{field.name!r} does not fit {field.type}: {e}') from e


def _scalar(value):
  """Returns a Python scalar from a NumPy or JAX one, and the rest unchanged."""
  if getattr(value, 'shape', None) == () and hasattr(value, 'item'):
    return value.item()
  return value


def _list_array(field, values):
  """Returns the Arrow array of a column of lists."""
  kinds = 'iu' if pa.types.is_integer(field.type.value_type) else 'fiu'
  wanted = field.type.value_type.to_pandas_dtype()
  parts = []
  for r, value in enumerate(values):
    try:
      part = np.asarray(value)
    except ValueError:  # ragged
      part = np.asarray(None)
    if part.shape == (0,):
      part = part.astype(wanted)
    if part.ndim != 1 or part.dtype.kind not in kinds:
      raise SchemaError(
        f'{field.name!r} of row {r} is {value!r}; it must be a flat sequence '
        f'of {field.type.value_type}'
      )
    if kinds == 'iu' and np.any(part != part.astype(wanted)):
      raise SchemaError(f'{field.name!r} of row {r} is {value!r}: out of range')
    with np.errstate(over='ignore'):  # the loss of a diverged run
      parts.append(part.astype(wanted))
  offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
  return pa.ListArray.from_arrays(
    pa.array(offsets, pa.int32()),
    pa.array(np.concatenate(parts)),
    type=field.type,
  )


def _check_rows(table, shard):
  """Raises a SchemaError where a row contradicts itself or another row."""
  seen = {}
  for r, row in enumerate(table.to_pylist()):
    problem = _problem(row, shard)
    if problem:
      raise SchemaError(f'row {r} of shard {shard!r}: {problem}')
    first = seen.setdefault(identity(row), r)
    if first != r:
      raise SchemaError(
        f'rows {first} and {r} of shard {shard!r} are both cell {row["arch"]}, '
        f'seed {row["seed"]}, recipe {row["recipe"]!r}; keep one'
      )


def _problem(row, shard):
  """Returns what is wrong with a row of plain values, or None."""
  epochs, status = row['epochs'], row['status']
  if row['shard'] != shard:
    return f'its shard is {row["shard"]!r}'
  if status not in STATUSES:
    return f'status {status!r} is none of {STATUSES}'
  if epochs < 1:
    return f'epochs is {epochs}; at least 1 is needed'
  for name in CURVES:
    length = len(row[name])
    if length > epochs or (status == 'ok' and length < epochs):
      return f'{name!r} has {length} values for {epochs} epochs'
  for name in ('best_epoch', 'diverged_epoch'):
    if row[name] is not None and not 1 <= row[name] <= epochs:
      return f'{name!r} is {row[name]}, not in 1..{epochs}'
  if status == 'ok' and row['best_epoch'] is None:
    return "'best_epoch' is None, but status is 'ok'"
  if status == 'ok' and not np.isfinite(row['test_per']):
    return f"'test_per' is {row['test_per']}, but status is 'ok'"
  if status == 'diverged' and row['diverged_epoch'] is None:
    return "'diverged_epoch' is None, but status is 'diverged'"
  for name in ('recipe_json', 'versions'):
    try:
      json.loads(row[name])
    except ValueError:
      return f'{name!r} is no JSON: {row[name]!r}'
  return _cell_problem(row)


def _cell_problem(row):
  """Returns what is wrong with the cell of a row, or None."""
  space = SPACES.get(row['space'])
  if space is None:
    return None
  try:
    arch_d = space.parse(row['arch'])
  except ValueError as e:
    return str(e)
  keys = {
    'key': space.key(arch_d),
    'semantic_key': space.semantic_key(arch_d),
  }
  for name, key in keys.items():
    if row[name] != key:
      return f'{name!r} is {row[name]!r}, but its cell has {key!r}'
  return None


def identity(row):
  """Returns the hashable name of a row of plain values."""
  return tuple(tuple(row[n]) if n == 'arch' else row[n] for n in IDENTITY)


def same_results(row, other):
  """Tells whether two rows of plain values agree in all that is not volatile.

  NaN equals NaN. Floats are compared exactly: a shard run again on the same
  device gives the same bits.
  """
  return all(
    np.array_equal(row[n], other[n], equal_nan=True)
    if n in CURVES
    else row[n] == other[n] or (row[n] != row[n] and other[n] != other[n])
    for n in SCHEMA.names
    if n not in VOLATILE
  )
