"""The benchmark table: write shards, verify, merge, repair, query.

  t = table.open('runs/first')
  t.query([[1, 0], [1, 0, 0], [1, 0, 0, 0]], 'test_per', seed=1234)

A table is a directory of Parquet shards, each with a commit mark beside it that
holds its SHA-256; see `shards` for the layout and `schema` for the columns.
"""

from nasjax.table.merging import merge
from nasjax.table.reader import Table
from nasjax.table.reader import open_table as open
from nasjax.table.schema import (
  CURVES,
  SCHEMA,
  STATUSES,
  ConflictError,
  DamagedShardError,
  MissingEntryError,
  QueryError,
  SchemaError,
  TableError,
)
from nasjax.table.shards import Report, Shard, committed, load, verify
from nasjax.table.writing import repair, write_shard

__all__ = [
  'CURVES',
  'ConflictError',
  'DamagedShardError',
  'MissingEntryError',
  'QueryError',
  'Report',
  'SCHEMA',
  'STATUSES',
  'SchemaError',
  'Shard',
  'Table',
  'TableError',
  'committed',
  'load',
  'merge',
  'open',
  'repair',
  'verify',
  'write_shard',
]
