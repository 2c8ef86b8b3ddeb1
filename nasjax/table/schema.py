"""The columns of a benchmark table, its two kinds of shards, and its errors."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nasjax import spaces

VERSION = 1
STATUSES = ('ok', 'diverged', 'oom')
SPACES = spaces.SPACES
UNKNOWN_SPACE = (
  "one's own is known once its file is imported, which launchers do with --own"
)


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


def _latency_fields():
  columns = (
    ('space', pa.string()),
    ('arch', pa.list_(pa.int8())),
    ('semantic_key', pa.string()),
    ('macro', pa.string()),
    ('device', pa.string()),  # as people know it
    ('batch', pa.int32()),  # utterances of a pass
    ('frames', pa.int32()),  # of each utterance, 10 ms each
    ('median', pa.float64()),  # seconds of a pass, as the next two
    ('quartile_low', pa.float64()),
    ('quartile_high', pa.float64()),
    ('runs', pa.int32()),  # timed passes
    ('warmup', pa.int32()),  # passes before them
    ('shard', pa.string()),
    ('versions', pa.string()),
    ('commit', pa.string()),
    ('created', pa.string()),
  )
  return [pa.field(name, kind, nullable=False) for name, kind in columns]


LATENCY_SCHEMA = pa.schema(_latency_fields())


class Kind(NamedTuple):
  """A kind of shard.

  Attributes:
    name: how messages call it.
    schema: its columns.
    identity: names of the columns that make a row a row of its own.
    volatile: names of those in which two honest runs may differ.
  """

  name: str
  schema: pa.Schema
  identity: tuple[str, ...]
  volatile: tuple[str, ...]


RUNS = Kind('runs', SCHEMA, IDENTITY, VOLATILE)
LATENCY = Kind(
  'latency',
  LATENCY_SCHEMA,
  ('space', 'arch', 'macro', 'device', 'batch', 'frames'),
  (
    'median',
    'quartile_low',
    'quartile_high',
    'runs',
    'warmup',
    'shard',
    'versions',
    'commit',
    'created',
  ),
)
LATENCY_PREFIX = 'latency-'


def _int8_fields():
  columns = (
    ('space', pa.string()),
    ('arch', pa.list_(pa.int8())),
    ('semantic_key', pa.string()),
    ('seed', pa.int32()),
    ('recipe', pa.string()),
    ('macro', pa.string()),
    ('corpus_fingerprint', pa.string()),
    ('calibration', pa.int32()),  # training utterances that gave ranges
    ('utterances', pa.int32()),  # of the test split that were heard
    ('float_error', pa.float64()),  # fraction, of the weights as they are
    ('int8_error', pa.float64()),  # fraction, rounded
    ('rounded', pa.string()),  # what is, in words
    ('shard', pa.string()),
    ('versions', pa.string()),
    ('commit', pa.string()),
    ('created', pa.string()),
  )
  return [pa.field(name, kind, nullable=False) for name, kind in columns]


INT8_SCHEMA = pa.schema(_int8_fields())
INT8 = Kind(
  'int8',
  INT8_SCHEMA,
  (
    *('space', 'arch', 'seed', 'recipe', 'macro', 'corpus_fingerprint'),
    *('calibration', 'utterances'),
  ),
  # Another machine adds in another order, and what is rounded falls elsewhere.
  ('float_error', 'int8_error', 'shard', 'versions', 'commit', 'created'),
)
INT8_PREFIX = 'int8-'
# Of measurements that were made of the cells of runs.
_PREFIXES = {LATENCY_PREFIX: LATENCY, INT8_PREFIX: INT8}


def kind_of(name):
  """Returns the Kind of a shard, which its name tells.

  The commit mark names the shard, so that a file renamed from one kind to the
  other is a damaged one.
  """
  for prefix, kind in _PREFIXES.items():
    if name.startswith(prefix):
      return kind
  return RUNS


def identity(row, kind=RUNS):
  """Returns the hashable name of a row of plain values."""
  return tuple(tuple(row[n]) if n == 'arch' else row[n] for n in kind.identity)


def same_results(row, other, kind=RUNS):
  """Tells whether two rows of plain values agree in all that is not volatile.

  NaN equals NaN. Floats are compared exactly: a shard run again on the same
  device gives the same bits.
  """
  return all(
    np.array_equal(row[n], other[n], equal_nan=True)
    if n in CURVES
    else row[n] == other[n] or (row[n] != row[n] and other[n] != other[n])
    for n in kind.schema.names
    if n not in kind.volatile
  )
