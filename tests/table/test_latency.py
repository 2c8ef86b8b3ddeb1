"""Latencies in a table: questions, new rows, hostile and damaged shards."""

import json
import os
import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_rows import SPACE, Bomb, file, latency_row, reseal, row

from nasjax import table
from nasjax.table import shards

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]
ZERO = [[5, 1], [2, 0, 1], [3, 0, 0, 1]]
ALIKE = [[5, 1], [2, 1, 0], [3, 0, 0, 1]]  # the function of ZERO
CELLS = (LINEAR, MIXED, ZERO)
LAST = 'latency-z'


def fill(directory):
  """Writes runs of three cells and latencies of them in two settings."""
  table.write_shard(directory, 'a', [row(cell) for cell in CELLS])
  table.write_shard(
    directory, 'latency-a', [latency_row(cell) for cell in CELLS]
  )
  many = [latency_row(c, batch=8, median=0.1) for c in CELLS[:2]]
  many = [r | {'quartile_low': 0.1, 'quartile_high': 0.1} for r in many]
  table.write_shard(directory, LAST, many, {'note': 'x'})


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp('whole')
  fill(directory)
  return table.open(directory)


@pytest.fixture
def spoilt(tmp_path):
  """The same, to be damaged."""
  fill(tmp_path)
  return tmp_path


# Questions.


def test_what_there_is(whole):
  one = table.Setting('abacus', 1, 200, 'SMALL')
  assert whole.latencies == (one, one._replace(batch=8))
  assert [s.name for s in whole.latency_shards] == ['latency-a', LAST]
  archs = whole.latency_archs(batch=8)
  assert archs.dtype == np.int8
  expected = sorted(CELLS[:2], key=SPACE.index)
  assert [SPACE.nested(a) for a in archs] == expected
  # Runs are as they were.
  assert len(whole) == 3 and [s.name for s in whole.shards] == ['a']
  assert whole.columns == tuple(table.SCHEMA.names)
  assert whole.to_arrow().schema == table.SCHEMA
  assert table.committed(whole.path) == ('a',)
  assert [s.name for s in table.verify(whole.path).shards] == [
    'a',
    'latency-a',
    LAST,
  ]


@pytest.mark.parametrize(
  'quantile, name',
  [(0.25, 'quartile_low'), (0.5, 'median'), (0.75, 'quartile_high')],
)
def test_seconds_come_back_exactly(whole, quantile, name):
  expected = [latency_row(cell)[name] for cell in CELLS]
  how = {'device': 'abacus', 'batch': 1, 'frames': 200, 'macro': 'SMALL'}
  how['quantile'] = quantile
  many = whole.latency(list(CELLS), **how)
  assert isinstance(many, np.ndarray) and many.tolist() == expected
  one = whole.latency(MIXED, **how)
  assert type(one) is float and one == expected[1]
  assert whole.latency(np.array([SPACE.parse(MIXED)]), **how) == [one]
  assert whole.latency(np.zeros((0, 9), np.int8), **how).shape == (0,)


def test_what_leaves_one_choice_may_be_left_out(whole):
  assert whole.latency(LINEAR, batch=8) == 0.1
  assert whole.latency(LINEAR, batch=np.int32(8), frames=200) == 0.1


def test_all_cells_of_a_function_answer_alike(whole):
  expected = latency_row(ZERO)['median']
  assert whole.latency(ALIKE, batch=1) == expected
  archs = SPACE.enumerate()
  alike = archs[SPACE.semantic_keys(archs) == SPACE.semantic_key(ZERO)]
  assert len(alike) > 1
  assert set(whole.latency(alike, batch=1)) == {expected}


def test_first_of_the_encodings_and_last_of_the_measurements(tmp_path):
  first, second = sorted((ZERO, ALIKE), key=SPACE.index)
  table.write_shard(tmp_path, 'a', [row(ZERO)])

  def put(name, cell, seconds, hour):
    seconds = dict.fromkeys(
      ('quartile_low', 'median', 'quartile_high'), seconds
    )
    created = f'2026-11-20T{hour}:00:00+00:00'
    rows = [latency_row(cell, created=created, **seconds)]
    table.write_shard(tmp_path, name, rows)
    return table.open(tmp_path).latency(ZERO)

  assert put('latency-d', second, 0.4, 12) == 0.4
  assert put('latency-c', first, 0.3, 11) == 0.3
  assert put('latency-a', first, 0.1, 13) == 0.1
  assert put('latency-b', first, 0.2, 12) == 0.1
  t = table.open(tmp_path)
  assert [SPACE.nested(a) for a in t.latency_archs()] == [first]


@pytest.mark.parametrize(
  'how, error, named',
  [
    ({}, table.QueryError, r'give batch=, one of \[1, 8\]'),
    ({'batch': 2}, table.MissingEntryError, 'batch=1, frames=200.*batch=8'),
    ({'device': 'H200'}, table.MissingEntryError, "device='H200'.*abacus"),
    ({'macro': 'tiny'}, table.MissingEntryError, "macro='tiny'.*'SMALL'"),
    ({'frames': 100, 'batch': 8}, table.MissingEntryError, 'frames=100.*200'),
    ({'batch': 1.0}, table.QueryError, 'batch=1.0'),
    ({'batch': True}, table.QueryError, 'batch=True'),
    ({'frames': '200'}, table.QueryError, "frames='200'"),
    ({'device': 3}, table.QueryError, 'device=3'),
    ({'batch': 1, 'quantile': 0.9}, table.QueryError, '0.25, 0.5, 0.75'),
  ],
)
def test_bad_questions(whole, how, error, named):
  with pytest.raises(error, match=named):
    whole.latency(LINEAR, **how)
  assert issubclass(error, ValueError)


def test_cells_that_were_not_measured(whole):
  for cell in (ZERO, [[1, 1], [1, 1, 1], [1, 1, 1, 1]]):
    for arch in (cell, [LINEAR, cell]):
      with pytest.raises(table.MissingEntryError, match='2 functions have'):
        whole.latency(arch, batch=8)
  with pytest.raises(ValueError, match='position 0'):
    whole.latency([[9, 1], [0, 0, 1], [0, 1, 0, 0]], batch=8)


def test_without_latencies(tmp_path):
  table.write_shard(tmp_path, 'a', [row(LINEAR)])
  t = table.open(tmp_path)
  assert t.latencies == ()
  for ask in (lambda: t.latency(LINEAR), t.latency_archs):
    with pytest.raises(table.MissingEntryError, match='latency.py measures'):
      ask()


def test_the_macro_is_that_of_the_rows(tmp_path):
  table.write_shard(tmp_path, 'a', [row(LINEAR), row(LINEAR, macro='NB_ASR')])
  big = dict.fromkeys(('quartile_low', 'median', 'quartile_high'), 0.7)
  rows = [latency_row(LINEAR), latency_row(LINEAR, macro='NB_ASR', **big)]
  table.write_shard(tmp_path, 'latency-a', rows)
  t = table.open(tmp_path)
  with pytest.raises(table.QueryError, match="several|values of|'NB_ASR'"):
    t.latency(LINEAR)
  assert t.latency(LINEAR, macro='NB_ASR') == 0.7
  assert t.select(macro='NB_ASR').latency(LINEAR) == 0.7
  assert t.select(macro='SMALL').latency(LINEAR) == rows[0]['median']


# New rows.


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'median': 0.0, 'quartile_low': 0.0}, 'above 0'),
    ({'median': np.nan}, 'nan'),
    ({'quartile_high': np.inf}, 'inf'),
    ({'quartile_low': 1.0}, 'order'),
    ({'quartile_high': 1e-4}, 'order'),
    ({'median': None}, 'median'),
    ({'batch': 0}, 'batch'),
    ({'frames': -1}, 'frames'),
    ({'batch': 1.0}, 'batch'),
    ({'runs': 0}, 'runs'),
    ({'warmup': -1}, 'warmup'),
    ({'device': ' '}, 'device'),
    ({'device': None}, 'device'),
    ({'semantic_key': 'x'}, 'semantic_key'),
    ({'arch': [0, 1, 0, 0, 1, 0, 1, 0, 2]}, 'position 8'),
    ({'versions': '{'}, 'versions'),
    ({'created': 'yesterday'}, 'created'),
    ({'created': '2026-11-20T12:00:00'}, 'zone'),
    ({'seed': 1}, 'seed'),
  ],
)
def test_rows_that_are_refused(tmp_path, changes, named):
  with pytest.raises(table.SchemaError, match=named):
    table.write_shard(tmp_path, 'latency-a', [latency_row(LINEAR) | changes])
  assert not list(tmp_path.rglob('*.*'))


def test_rows_of_one_kind_are_none_of_the_other(tmp_path):
  with pytest.raises(table.SchemaError, match="lacks 'key'"):
    table.write_shard(tmp_path, 'a', [latency_row(LINEAR)])
  with pytest.raises(table.SchemaError, match="lacks 'device'"):
    table.write_shard(tmp_path, 'latency-a', [row(LINEAR)])
  with pytest.raises(table.SchemaError, match='rows 0 and 1.*abacus'):
    table.write_shard(tmp_path, 'latency-a', [latency_row(LINEAR)] * 2)


def test_writing_again_keeps_what_stands(spoilt):
  before = {p.name: p.read_bytes() for p in spoilt.rglob('*.*')}
  late = [latency_row(c, quartile_low=1e-4, runs=99) for c in CELLS[::-1]]
  table.write_shard(spoilt, 'latency-a', late)
  with pytest.raises(table.ConflictError, match='latency-a.pq'):
    table.write_shard(spoilt, 'latency-a', late[:2])
  with pytest.raises(table.ConflictError, match="device 'abacus'"):
    table.write_shard(
      spoilt, 'latency-a', [latency_row(LINEAR, device='tablet')]
    )
  assert {p.name: p.read_bytes() for p in spoilt.rglob('*.*')} == before


# Files.


def test_every_flipped_bit_is_found(spoilt):
  rng = random.Random(0)
  files = sorted((spoilt / '_latency').iterdir())
  for k in range(40):
    path = files[k % len(files)]
    good = path.read_bytes()
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    path.write_bytes(bad)
    with pytest.raises(table.DamagedShardError, match=str(path)):
      table.open(spoilt)
    assert list(table.verify(spoilt).problems) == [path.stem.removeprefix('_')]
    path.write_bytes(good)
  assert len(table.open(spoilt).latencies) == 2


def test_without_digests_values_are_right_or_refused(spoilt):
  path = file(spoilt, 'latency-a')
  good = path.read_bytes()
  expected = [latency_row(cell)['median'] for cell in CELLS]
  rng, refused = random.Random(1), 0
  for _ in range(60):
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    path.write_bytes(bad)
    try:
      t = table.open(spoilt, verify=False)
      found = t.latency(list(CELLS), batch=1).tolist()
    except table.TableError as e:
      refused += 1
      assert 'latency-a.pq' in str(e)
    else:
      assert found == expected
  assert refused > 15


@pytest.mark.parametrize('verify', [True, False])
def test_truncated_files(spoilt, verify):
  for suffix, step in (('.parquet', 307), ('.json', 31)):
    path = file(spoilt, LAST, suffix)
    good = path.read_bytes()
    for length in [*range(0, len(good), step), len(good) - 1]:
      path.write_bytes(good[:length])
      with pytest.raises(table.DamagedShardError, match=path.name):
        table.open(spoilt, verify=verify)
    path.write_bytes(good)
  file(spoilt, LAST).unlink()
  with pytest.raises(table.DamagedShardError, match=f'{LAST}.pq is miss'):
    table.open(spoilt, verify=verify)


@pytest.mark.parametrize('verify', [True, False])
def test_foreign_schemas(spoilt, verify):
  path = file(spoilt, 'latency-a')
  whole = pq.read_table(path)
  batch = whole.schema.get_field_index('batch')
  for changed, named in (
    (whole.drop_columns(['median']), 'median'),
    (whole.set_column(batch, 'batch', whole['batch'].cast('int64')), 'int64'),
    (whole.append_column('loot', pa.array([1] * 3)), 'loot'),
    (whole.select(whole.column_names[::-1]), 'order'),
    (pq.read_table(spoilt / 'a.parquet'), 'semantic_key|median|device|arch'),
  ):
    pq.write_table(changed, path)
    reseal(spoilt, 'latency-a')
    with pytest.raises(table.SchemaError, match=f'latency-a.pq.*{named}'):
      table.open(spoilt, verify=verify)


@pytest.mark.parametrize('verify', [True, False])
def test_one_kind_does_not_pass_for_the_other(spoilt, verify):
  for suffix in ('.json', '.parquet'):
    file(spoilt, 'a', suffix).rename(file(spoilt, 'latency-b', suffix))
    file(spoilt, 'latency-a', suffix).rename(file(spoilt, 'b', suffix))
  with pytest.raises(table.DamagedShardError, match="shard 'latency-a'"):
    table.open(spoilt, verify=verify)
  # Even under a mark that vouches for it.
  reseal(spoilt, 'b', shard='b')
  with pytest.raises(table.SchemaError, match='b.parquet'):
    table.open(spoilt, verify=verify)


@pytest.mark.parametrize('suffix', ['.parquet', '.json'])
def test_pickles_are_not_run(spoilt, suffix):
  payload = pickle.dumps(Bomb(spoilt / 'exploded'))
  file(spoilt, LAST, suffix).write_bytes(payload)
  if suffix == '.parquet':
    reseal(spoilt, LAST)
  for verify in (True, False):
    with pytest.raises(
      table.DamagedShardError, match=file(spoilt, LAST, suffix).name
    ):
      table.open(spoilt, verify=verify)
  assert not (spoilt / 'exploded').exists()


def test_declared_sizes_are_not_believed(spoilt):
  path = file(spoilt, LAST)
  good = path.read_bytes()
  for length in (2**31 - 1, 2**32 - 1, len(good), len(good) - 7):
    path.write_bytes(good[:-8] + length.to_bytes(4, 'little') + b'PAR1')
    reseal(spoilt, LAST)
    with pytest.raises(table.DamagedShardError, match=f'{LAST}.pq'):
      table.open(spoilt)
  path.write_bytes(good)
  reseal(spoilt, LAST, rows=10**10)
  with pytest.raises(table.DamagedShardError, match='10000000000'):
    table.open(spoilt)
  with file(spoilt, LAST, '.json').open('r+b') as f:
    f.truncate(10 << 30)
  with pytest.raises(table.DamagedShardError, match='10737418240 bytes'):
    table.open(spoilt)
  assert shards.MAX_MARK_BYTES < 10 << 30


@pytest.mark.parametrize('suffix', ['.parquet', '.json'])
def test_links_are_not_followed(spoilt, tmp_path_factory, suffix):
  elsewhere = tmp_path_factory.mktemp('elsewhere') / f'{LAST}{suffix}'
  path = file(spoilt, LAST, suffix)
  path.replace(elsewhere)
  path.symlink_to(elsewhere)
  for verify in (True, False):
    with pytest.raises(table.DamagedShardError, match='link'):
      table.open(spoilt, verify=verify)
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(table.DamagedShardError, match='no plain file'):
    table.open(spoilt)


def test_repair_sets_aside_only_the_damaged(spoilt):
  runs = (spoilt / 'a.parquet').read_bytes()
  path = file(spoilt, 'latency-a')
  path.write_bytes(path.read_bytes()[:-9])
  assert table.repair(spoilt) == ('latency-a',)
  assert len(list((spoilt / '_damaged').iterdir())) == 2
  t = table.open(spoilt)
  assert [setting.batch for setting in t.latencies] == [8]
  assert (spoilt / 'a.parquet').read_bytes() == runs
  rows = [latency_row(cell) for cell in CELLS]
  table.write_shard(spoilt, 'latency-a', rows)
  assert table.open(spoilt).latency(ZERO, batch=1) == rows[2]['median']
  assert not table.verify(spoilt).problems


def test_latencies_alone_are_no_table(spoilt):
  """The generator must not take them for shards of its own."""
  for suffix in ('.json', '.parquet'):
    file(spoilt, 'a', suffix).unlink()
  assert table.committed(spoilt) == ()
  with pytest.raises(table.TableError, match='no committed shard'):
    table.open(spoilt)


def test_merge_brings_latencies_along(spoilt, tmp_path_factory):
  other = tmp_path_factory.mktemp('other')
  table.write_shard(other, 'b', [row(LINEAR, 7)])
  table.write_shard(other, 'latency-b', [latency_row(LINEAR, device='tablet')])
  out = tmp_path_factory.mktemp('out')
  for _ in range(2):
    t = table.merge([spoilt, other], out)
    assert [s.device for s in t.latencies] == ['abacus', 'abacus', 'tablet']
    assert len(t) == 4
  for suffix in ('.json', '.parquet'):
    copy, original = (file(d, LAST, suffix) for d in (out, spoilt))
    assert copy.read_bytes() == original.read_bytes()
  again = tmp_path_factory.mktemp('again')
  table.write_shard(again, 'c', [row(LINEAR, 8)])
  table.write_shard(again, 'latency-a', [latency_row(LINEAR)])
  with pytest.raises(table.ConflictError, match='latency-a'):
    table.merge([again, spoilt], tmp_path_factory.mktemp('none'))


def test_the_mark_is_the_one_of_runs(whole):
  mark = json.loads(file(whole.path, LAST, '.json').read_text())
  assert mark['rows'] == 2 and mark['meta'] == {'note': 'x'}
  footer = pq.read_schema(file(whole.path, LAST))
  assert footer.equals(table.LATENCY_SCHEMA)
