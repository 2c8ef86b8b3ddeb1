"""The check of new rows, before they become a shard."""

import datetime
import functools
import json
import numbers

import numpy as np
import pyarrow as pa

from nasjax.table.schema import (
  CURVES,
  INT8,
  LATENCY,
  RUNS,
  SPACES,
  STATUSES,
  SchemaError,
  identity,
  kind_of,
)


def from_rows(rows, shard):
  """Returns the Arrow table of new rows, each value checked.

  Args:
    rows: a list of dicts, one a row, or a dict of equally long columns. Values
      may be Python or NumPy scalars, sequences and one-dimensional arrays.
      `shard` may be left out.
    shard: name of the shard, which becomes the column of that name, and tells
      its kind (`schema.kind_of`).

  Raises:
    SchemaError: naming the field and the row of what is missing, unknown, of
      the wrong type, out of range or said twice.
  """
  columns, schema = _columns(rows), kind_of(shard).schema
  count = len(next(iter(columns.values()), ()))
  if not count:
    raise SchemaError(f'shard {shard!r} has no rows; write at least one')
  columns.setdefault('shard', [shard] * count)
  if missing := [f.name for f in schema if f.name not in columns]:
    raise SchemaError(
      f'shard {shard!r} lacks {missing[0]!r}; give every row it'
    )
  if extra := [name for name in columns if name not in schema.names]:
    raise SchemaError(
      f'shard {shard!r} has {extra[0]!r}, which is no column; '
      f'columns are {", ".join(schema.names)}'
    )
  arrays = [_array(field, columns[field.name]) for field in schema]
  table = pa.Table.from_arrays(arrays, schema=schema)
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
  kind, seen = kind_of(shard), {}
  problem_of = {
    RUNS.name: _run_problem, LATENCY.name: _latency_problem,
    INT8.name: _int8_problem,
  }[kind.name]  # fmt: skip
  for r, row in enumerate(table.to_pylist()):
    problem = problem_of(row)
    if row['shard'] != shard:
      problem = f'its shard is {row["shard"]!r}'
    if problem:
      raise SchemaError(f'row {r} of shard {shard!r}: {problem}')
    first = seen.setdefault(identity(row, kind), r)
    if first != r:
      rest = [n for n in kind.identity if n not in ('space', 'arch')]
      raise SchemaError(
        f'rows {first} and {r} of shard {shard!r} are both cell {row["arch"]}, '
        f'{", ".join(f"{n} {row[n]!r}" for n in rest)}; keep one'
      )


def _run_problem(row):
  """Returns what is wrong with a run's row of plain values, or None."""
  epochs, status = row['epochs'], row['status']
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
  return _json_problem(row, 'recipe_json', 'versions') or _cell_problem(row)


def _latency_problem(row):
  """Returns what is wrong with a latency's row of plain values, or None."""
  if not row['device'].strip():
    return "'device' is empty; name it"
  for name in ('batch', 'frames', 'runs'):
    if row[name] < 1:
      return f'{name!r} is {row[name]}; at least 1 is needed'
  if row['warmup'] < 0:
    return f"'warmup' is {row['warmup']}; at least 0 is needed"
  low, median, high = (
    row[n] for n in ('quartile_low', 'median', 'quartile_high')
  )
  if not 0 < low <= median <= high < np.inf:
    return (
      f"'quartile_low', 'median' and 'quartile_high' are {low}, {median} and "
      f'{high}; want seconds above 0 in this order'
    )
  return (
    _time_problem(row) or _json_problem(row, 'versions') or _cell_problem(row)
  )


def _int8_problem(row):
  """Returns what is wrong with a row of errors of eight bits, or None."""
  for name in ('calibration', 'utterances'):
    if row[name] < 1:
      return f'{name!r} is {row[name]}; at least 1 is needed'
  for name in ('float_error', 'int8_error'):
    if not 0 <= row[name] < np.inf:
      return f'{name!r} is {row[name]}; want a fraction from 0 on'
  return (
    _time_problem(row) or _json_problem(row, 'versions') or _cell_problem(row)
  )


def _time_problem(row):
  """Returns what is wrong with when a row was made, or None."""
  try:
    if datetime.datetime.fromisoformat(row['created']).tzinfo is None:
      raise ValueError('no time zone')
  except ValueError:
    return f"'created' is {row['created']!r}, no ISO 8601 time with its zone"
  return None


def _json_problem(row, *names):
  """Returns which of the columns is no JSON, or None."""
  for name in names:
    try:
      json.loads(row[name])
    except ValueError:
      return f'{name!r} is no JSON: {row[name]!r}'
  return None


def _cell_problem(row):
  """Returns what is wrong with the cell of a row, or None."""
  if row['space'] not in SPACES:
    return None
  try:
    keys = _keys(row['space'], tuple(row['arch']))
  except ValueError as e:
    return str(e)
  for name, key in keys.items():
    if name in row and row[name] != key:
      return f'{name!r} is {row[name]!r}, but its cell has {key!r}'
  return None


# A cell comes with several seeds and recipes, and its keys take 0.1 ms.
@functools.lru_cache(maxsize=20_000)
def _keys(space, digits):
  space = SPACES[space]
  arch_d = space.parse(digits)
  return {
    'key': space.key(arch_d),
    'semantic_key': space.semantic_key(arch_d),
  }
