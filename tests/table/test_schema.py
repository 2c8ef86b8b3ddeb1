"""Rows on their way into a table."""

import numpy as np
import pytest
from table_rows import row

from nasjax import table

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'test_per': '0.2'}, 'test_per'),
    ({'test_per': None}, 'test_per'),
    ({'test_per': np.nan}, 'test_per'),
    ({'seed': 1.5}, 'seed'),
    ({'seed': True}, 'seed'),
    ({'seed': 2**31}, 'seed'),
    ({'params': 1.0}, 'params'),
    ({'key': '0' * 32}, "its cell has '"),
    ({'semantic_key': 'x'}, 'semantic_key'),
    ({'arch': [0, 1, 0, 0, 1, 0, 1, 0, 2]}, 'position 8'),
    ({'arch': [0, 1, 0, 0, 1, 0, 1, 0, 256]}, 'out of range'),
    ({'arch': LINEAR}, 'arch'),
    ({'arch': np.zeros(9)}, 'arch'),
    ({'val_per': [0.5] * 39}, '39 values for 40'),
    ({'val_per': [0.5] * 41}, '41 values for 40'),
    ({'val_per': [[0.5] * 40]}, 'val_per'),
    ({'val_per': 0.5}, 'val_per'),
    ({'val_per': None}, 'val_per'),
    ({'best_epoch': 41}, 'best_epoch'),
    ({'best_epoch': None}, 'best_epoch'),
    ({'epochs': 0}, 'epochs'),
    ({'status': 'failed'}, 'failed'),
    ({'status': 'diverged'}, 'diverged_epoch'),
    ({'recipe_json': '{'}, 'recipe_json'),
    ({'versions': {'jax': '0.10'}}, 'versions'),
    ({'shard': 'another'}, 'another'),
    ({'latency': 0.1}, 'latency'),
  ],
)
def test_rows_that_are_refused(tmp_path, changes, named):
  with pytest.raises(table.SchemaError, match=named):
    table.write_shard(tmp_path, 'bad', [row(LINEAR) | changes])
  assert not list(tmp_path.glob('*.*'))


@pytest.mark.parametrize(
  'name', [n for n in table.SCHEMA.names if n != 'shard']
)
def test_missing_fields_are_named(tmp_path, name):
  short = row(LINEAR)
  del short[name]
  for rows in (
    [short],
    [row(MIXED), short],
    {n: [v] for n, v in short.items()},
  ):
    with pytest.raises(table.SchemaError, match=name):
      table.write_shard(tmp_path, 'bad', rows)


def test_rows_and_columns_are_the_same(tmp_path):
  rows = [row(LINEAR), row(MIXED)]
  a = table.write_shard(tmp_path, 'a', rows)
  by_column = {name: [r[name] for r in rows] for name in rows[0]}
  b = table.write_shard(tmp_path / 'other', 'a', by_column)
  assert a.sha256 == b.sha256
  with pytest.raises(table.SchemaError, match='length'):
    table.write_shard(tmp_path, 'b', by_column | {'seed': [1]})
  with pytest.raises(table.SchemaError, match='no rows'):
    table.write_shard(tmp_path, 'b', [])
  with pytest.raises(table.SchemaError, match='rows 0 and 1'):
    table.write_shard(tmp_path, 'b', [rows[0], rows[0]])
