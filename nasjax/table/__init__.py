"""The benchmark table: write shards, verify, merge, repair, query.

  t = table.open('runs/first')
  t.query([[1, 0], [1, 0, 0], [1, 0, 0, 0]], 'test_per', seed=1234)
  t.latency([[1, 0], [1, 0, 0], [1, 0, 0, 0]], batch=1, frames=200)

A table is a directory of Parquet shards, each with a commit mark beside it that
holds its SHA-256; see `shards` for the layout and `schema` for the columns.
Shards whose names begin with `latency-` hold measured latencies, those with
`int8-` errors of eight bits (`query(..., metric='int8')`), all others runs.
`pandas.read_parquet` and others open the directory as it is.
"""

from nasjax.table.compaction import compact
from nasjax.table.contents import (
  Report,
  committed,
  is_committed,
  load,
  load_all,
  verify,
)
from nasjax.table.latency import Setting
from nasjax.table.merging import merge
from nasjax.table.reader import Table
from nasjax.table.reader import open_table as open
from nasjax.table.releasing import check_release, release, unpack
from nasjax.table.repairing import repair
from nasjax.table.schema import (
  CURVES,
  INT8_SCHEMA,
  LATENCY_SCHEMA,
  SCHEMA,
  STATUSES,
  ConflictError,
  DamagedShardError,
  MissingEntryError,
  QueryError,
  SchemaError,
  TableError,
)
from nasjax.table.shards import Shard
from nasjax.table.writing import write_shard

__all__ = [
  'CURVES',
  'ConflictError',
  'DamagedShardError',
  'INT8_SCHEMA',
  'LATENCY_SCHEMA',
  'MissingEntryError',
  'QueryError',
  'Report',
  'SCHEMA',
  'STATUSES',
  'SchemaError',
  'Setting',
  'Shard',
  'Table',
  'TableError',
  'check_release',
  'committed',
  'compact',
  'is_committed',
  'load',
  'load_all',
  'merge',
  'open',
  'release',
  'repair',
  'unpack',
  'verify',
  'write_shard',
]
