"""A table's folder as other readers of Parquet open it, and older folders."""

import json
import shutil

import pandas as pd
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from table_rows import diverged, file, latency_row, row

from nasjax import table

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]


@pytest.fixture
def full(tmp_path):
  """A table with all that its folder may hold, in a path like a partition."""
  path = tmp_path / 'lr=0.1 [x]' / 'table'
  table.write_shard(path, 'a', [row(LINEAR), row(MIXED)], {'note': 'x'})
  table.write_shard(path, 'b.c', [diverged(LINEAR, 2, 5)])
  table.write_shard(path, 'bad', [row(LINEAR, 6)])
  file(path, 'bad').write_bytes(b'PAR1')
  assert table.repair(path) == ('bad',)
  table.write_shard(path, 'latency-a', [latency_row(LINEAR)])
  (path / '.a.parquet.0badcafe.tmp').write_bytes(b'PAR1')
  return path


def older(path):
  """Lays a table out as it was: marks and latencies among the rows."""
  for place in (path, path / '_latency'):
    for mark in place.glob('_*.json'):
      name = mark.stem[1:]
      file(path, name).rename(path / f'{name}.parquet')
      mark.rename(path / f'{name}.json')
  (path / '_latency').rmdir()
  (path / '_damaged').rename(path / 'damaged')


def assert_open_to_all(path):
  expected = table.open(path).to_arrow()
  assert expected.schema.equals(table.SCHEMA)
  for found in (
    pd.read_parquet(path),
    pq.read_table(path).to_pandas(),
    pyarrow.dataset.dataset(path).to_table().to_pandas(),
  ):
    pd.testing.assert_frame_equal(found, expected.to_pandas())
  assert len(expected) == 3
  # DuckDB reads all that are so called, in folders, too.
  names = [p.name for p in path.rglob('*.parquet')]
  assert sorted(names) == ['a.parquet', 'b.c.parquet']


def same(found, expected):
  pd.testing.assert_frame_equal(found.to_pandas(), expected)


def test_other_readers_see_the_rows_of_runs(full):
  assert_open_to_all(full)


def test_duckdb(full):
  duckdb = pytest.importorskip('duckdb')
  path = str(full).replace('[', '[[]')
  for place in (path, f'{path}/*.parquet'):
    assert len(duckdb.read_parquet(place).df()) == 3


@pytest.mark.parametrize('change', ['repair', 'write', 'merge'])
def test_older_tables_are_read_and_put_right(full, tmp_path, change):
  expected = table.open(full).to_pandas()
  older(full)
  with pytest.raises(pyarrow.lib.ArrowInvalid):
    pd.read_parquet(full)
  t = table.open(full)
  same(t, expected)
  assert t.latency(LINEAR) == latency_row(LINEAR)['median']
  assert table.committed(full) == ('a', 'b.c')

  if change == 'repair':
    assert table.repair(full) == ()
  elif change == 'write':  # what stands already
    table.write_shard(full, 'b.c', [diverged(LINEAR, 2, 5)])
  else:
    table.merge([full], tmp_path / 'merged')
    full = tmp_path / 'merged'
  assert_open_to_all(full)
  same(table.open(full), expected)
  assert table.open(full).latency(LINEAR) == latency_row(LINEAR)['median']
  assert not table.verify(full).problems


def test_a_damaged_shard_of_an_older_table_is_made_again(full):
  older(full)
  (full / 'a.parquet').write_bytes(b'PAR1')
  shard = table.write_shard(full, 'a', [row(LINEAR), row(MIXED)])
  assert shard == table.load(full, 'a')
  assert_open_to_all(full)


def test_a_mover_killed_half_way_is_followed_by_the_next(full):
  older(full)
  place = full / '_latency'
  place.mkdir()
  shutil.copy(
    full / 'latency-a.parquet', place / 'latency-a.pq'
  )  # then it was killed
  assert len(table.open(full).latencies) == 1
  (full / 'latency-a.json').rename(place / '_latency-a.json')  # or then
  assert len(table.open(full).latencies) == 1
  (full / 'latency-b.parquet').write_bytes(b'PAR1')  # never committed
  assert table.repair(full) == ()
  assert_open_to_all(full)
  assert len(table.open(full).latencies) == 1
  assert table.open(full).uncommitted == ('latency-b',)
  assert json.loads(file(full, 'a', '.json').read_text())['meta'] == {
    'note': 'x'
  }
