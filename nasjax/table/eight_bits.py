"""Which measurement of eight bits answers for a row."""

import numpy as np

from nasjax.table import shards

# What a measurement shares with the training that it is of.
_TRAINING = ('seed', 'recipe', 'macro', 'corpus_fingerprint')
METRIC = 'int8'


def errors(table):
  """Returns int8_error of each row, float64 [r]; NaN where nobody measured it.

  Args:
    table: a Table, of one space.
  """
  found = {}
  for shard in table.int8_shards:
    for row in shards.read(shard).to_pylist():
      if row['space'] == table.space.name:
        key = _key(row, row['arch'])
        found[key] = max(
          found.get(key, ('', 0)), (row['created'], row['int8_error'])
        )
  columns = {name: table.column(name).tolist() for name in _TRAINING}
  rows = (
    {name: values[r] for name, values in columns.items()}
    for r in range(len(table))
  )
  return np.array(
    [
      found.get(_key(row, arch), ('', np.nan))[1]
      for row, arch in zip(rows, table.row_archs.tolist(), strict=True)
    ]
  )


def _key(row, arch):
  return tuple(arch), *(row[name] for name in _TRAINING)
