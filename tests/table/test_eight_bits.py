"""Errors of eight bits in a table: by row, by question, refused, merged."""

import numpy as np
import pytest
from table_rows import SPACE, latency_row, row

from nasjax import table

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]


def _int8(arch, **changes):
  own = row(arch)
  names = ('space', 'arch', 'semantic_key', 'seed', 'recipe', 'macro')
  names += ('corpus_fingerprint', 'versions', 'commit', 'created')
  return {name: own[name] for name in names} | {
    'calibration': 64,
    'utterances': 100,
    'float_error': 0.25,
    'int8_error': 0.26,
    'rounded': 'products',
  } | changes  # fmt: skip


@pytest.fixture
def made(tmp_path):
  rows = [row(LINEAR), row(MIXED), row(LINEAR, seed=1)]
  table.write_shard(tmp_path, 'a', rows)
  table.write_shard(tmp_path, 'latency-a', [latency_row(LINEAR)])
  later = _int8(LINEAR, int8_error=0.3, created='2026-11-21T12:00:00Z')
  table.write_shard(tmp_path, 'int8-b', [later | {'calibration': 8}])
  table.write_shard(tmp_path, 'int8-c', [_int8(LINEAR)])
  return tmp_path


def test_rows_have_the_last_measurement_of_their_training(made):
  t = table.open(made)
  rates_r = t.rates('int8')
  known_r = t.column('seed') == 1234
  known_r &= [SPACE.nested(arch) == LINEAR for arch in t.row_archs]
  np.testing.assert_array_equal(rates_r[known_r], [0.3])
  assert np.isnan(rates_r[~known_r]).all()
  asked = {'column': 'test_per', 'seed': 1234}
  assert t.query(LINEAR, **asked, metric='INT8') == 0.3
  assert np.isnan(t.query(MIXED, **asked, metric='int8'))
  assert t.query(LINEAR, **asked) == row(LINEAR)['test_per']
  # Nothing else of the table is another.
  assert t.metrics == ('per',) and len(t) == 3 and len(t.latencies) == 1
  assert table.committed(made) == ('a',)
  assert [s.name for s in t.int8_shards] == ['int8-b', 'int8-c']
  assert len(table.verify(made).shards) == 4


def test_a_table_without_any_knows_no_such_metric(tmp_path):
  table.write_shard(tmp_path, 'a', [row(LINEAR)])
  t = table.open(tmp_path)
  assert np.isnan(t.rates('int8')).all()
  with pytest.raises(table.MissingEntryError, match="no metric 'int8'"):
    t.query(LINEAR, 'test_per', seed=1234, metric='int8')


def test_they_are_merged_and_packed_with_their_rows(made, tmp_path_factory):
  out = tmp_path_factory.mktemp('merged') / 'out'
  merged = table.merge([made], out)
  assert len(merged.int8_shards) == 2
  table.compact(out)
  np.testing.assert_array_equal(
    table.open(out).rates('int8'), table.open(made).rates('int8')
  )


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'int8_error': -0.1}, "'int8_error' is -0.1"),
    ({'float_error': np.nan}, "'float_error' is nan"),
    ({'calibration': 0}, "'calibration' is 0"),
    ({'created': 'today'}, "'created' is 'today'"),
    ({'semantic_key': 'x'}, "'semantic_key' is 'x'"),
    ({'test_per': 0.1}, "'test_per', which is no column"),
  ],
)
def test_wrong_rows_are_refused(changes, said, tmp_path):
  with pytest.raises(table.SchemaError, match=said):
    table.write_shard(tmp_path, 'int8-a', [_int8(LINEAR, **changes)])
  assert not list(tmp_path.rglob('*.pq'))
