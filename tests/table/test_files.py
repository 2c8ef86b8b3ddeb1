"""Shards on disk: damage, hostile files, merge and repair."""

import hashlib
import json
import os
import pathlib
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_rows import Bomb, file, reseal, row

from nasjax import table
from nasjax.table import schema, shards

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]


@pytest.fixture
def two(tmp_path):
  """A directory of two shards."""
  table.write_shard(tmp_path, 'a', [row(LINEAR), row(MIXED)], {'note': 'x'})
  table.write_shard(tmp_path, 'b', [row(LINEAR, 1235)])
  return tmp_path


def results(directory):
  """Returns all rows of a table by shard, as plain values."""
  found = table.open(directory).to_arrow().to_pylist()
  return sorted(json.dumps(r, sort_keys=True) for r in found)


def test_writing_again_keeps_what_stands(two):
  before = {p.name: p.read_bytes() for p in two.glob('*.*')}
  late = [row(LINEAR, seconds=77.0, commit='f'), row(MIXED, versions='{}')]
  shard = table.write_shard(two, 'a', late[::-1], {'note': 'late'})
  assert shard.meta == {'note': 'x'} and shard == table.load(two, 'a')
  for rows in ([row(LINEAR), row(MIXED, test_per=0.5)], [row(LINEAR)]):
    with pytest.raises(table.ConflictError, match='a.parquet'):
      table.write_shard(two, 'a', rows)
  assert {p.name: p.read_bytes() for p in two.glob('*.*')} == before


@pytest.mark.parametrize(
  'name', ['', '../a', 'a/b', '.a', 'a' * 129, None, 'é']
)
def test_shard_names(tmp_path, name):
  with pytest.raises(table.TableError, match='name'):
    table.write_shard(tmp_path / 'in', name, [row(LINEAR)])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('meta', [{'x': float('nan')}, {'x': {1}}, {'x': b''}])
def test_meta_must_be_plain(tmp_path, meta):
  with pytest.raises(table.SchemaError, match='meta'):
    table.write_shard(tmp_path, 'a', [row(LINEAR)], meta)
  assert not list(tmp_path.glob('*.*'))


def test_uncommitted_rows_are_no_data(two):
  expected = [r for r in results(two) if '"shard": "b"' in r]
  (two / '_a.json').unlink()
  (two / '.b.parquet.0badcafe.tmp').write_bytes(b'PAR1')
  (two / 'notes.json').write_text('{"a": 1}')
  (two / 'table.csv').write_text('1,2')
  t = table.open(two)
  assert t.uncommitted == ('a',)
  assert results(two) == expected
  report = table.verify(two)
  assert report.leftovers == ('.b.parquet.0badcafe.tmp',)
  assert not report.problems
  assert report.size == report.shards[0].size and report.mb_per_s > 0
  (two / '_b.json').unlink()
  with pytest.raises(table.TableError, match='uncommitted: a, b'):
    table.open(two)


def test_paths(two, tmp_path_factory):
  run = tmp_path_factory.mktemp('run')
  (run / 'plan.json').write_text('{}')
  with pytest.raises(table.TableError, match='no committed shard'):
    table.open(run)
  (run / 'table').symlink_to(two)
  with pytest.raises(table.TableError, match='link out of'):
    table.open(run)
  (run / 'table').unlink()
  table.merge([two], run / 'table')
  assert results(run) == results(two) == results(str(run / 'table'))
  with pytest.raises(table.TableError, match='does not exist'):
    table.open(run / 'nowhere')
  with pytest.raises(table.TableError, match='is a file'):
    table.open(two / 'a.parquet')


def test_every_flipped_bit_is_found(two):
  rng = random.Random(0)
  files = sorted(two.glob('*[ab].*'))
  for k in range(60):
    path = files[k % len(files)]
    good = path.read_bytes()
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    path.write_bytes(bad)
    with pytest.raises(table.DamagedShardError, match=str(path)):
      table.open(two)
    assert list(table.verify(two).problems) == [path.stem.removeprefix('_')]
    path.write_bytes(good)
  assert len(table.open(two)) == 3


def test_without_digests_values_are_right_or_refused(two):
  expected = results(two)
  path = two / 'a.parquet'
  good = path.read_bytes()
  rng = random.Random(1)
  refused = 0
  for _ in range(60):
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    path.write_bytes(bad)
    try:
      found = table.open(two, verify=False).to_arrow().to_pylist()
    except table.TableError as e:
      refused += 1
      assert 'a.parquet' in str(e)
    else:
      found = sorted(json.dumps(r, sort_keys=True) for r in found)
      assert found == expected
  assert refused > 30


@pytest.mark.parametrize('verify', [True, False])
def test_truncated_files(two, verify):
  for path, step in ((two / 'a.parquet', 101), (two / '_a.json', 7)):
    good = path.read_bytes()
    for length in [*range(0, len(good), step), len(good) - 1]:
      path.write_bytes(good[:length])
      with pytest.raises(table.DamagedShardError, match=path.name):
        table.open(two, verify=verify)
    path.write_bytes(good + b'\n')
    with pytest.raises(table.DamagedShardError, match=path.name):
      table.open(two, verify=verify)
    path.write_bytes(good)
  (two / 'a.parquet').unlink()
  with pytest.raises(table.DamagedShardError, match='a.parquet is missing'):
    table.open(two, verify=verify)


def test_shards_do_not_answer_for_each_other(two):
  for suffix in ('.json', '.parquet'):
    file(two, 'a', suffix).replace(file(two, 'c', suffix))
  with pytest.raises(table.DamagedShardError, match="shard 'a'"):
    table.open(two)


def drop(t):
  return t.drop_columns(['test_per'])


def retype(t):
  seed = t.schema.get_field_index('seed')
  return t.set_column(seed, 'seed', t.column('seed').cast(pa.int64()))


def extend(t):
  return t.append_column('loot', pa.array([1] * t.num_rows))


def reorder(t):
  return t.select(t.column_names[::-1])


def double(t):
  return t.append_column(t.schema.field('seed'), t.column('seed'))


@pytest.mark.parametrize(
  'change, named',
  [
    (drop, 'test_per'),
    (retype, 'int64'),
    (extend, 'loot'),
    (reorder, 'order'),
    (double, 'seed'),
  ],
)
@pytest.mark.parametrize('verify', [True, False])
def test_foreign_schemas(two, change, named, verify):
  changed = change(pq.read_table(two / 'a.parquet'))
  pq.write_table(changed, two / 'a.parquet')
  reseal(two, 'a')
  with pytest.raises(table.SchemaError, match=f'a.parquet.*{named}'):
    table.open(two, verify=verify)


@pytest.mark.parametrize('version', [0, 2, 10**9, '1', None, 1.5])
def test_other_versions(two, version):
  reseal(two, 'a', schema_version=version)
  for verify in (True, False):
    with pytest.raises(table.SchemaError, match='a.json.*upgrade'):
      table.open(two, verify=verify)
  # Not damaged: neither set aside nor overwritten.
  assert table.repair(two) == ()
  with pytest.raises(table.SchemaError):
    table.write_shard(two, 'a', [row(LINEAR), row(MIXED)])
  assert (two / 'a.parquet').exists()


@pytest.mark.parametrize('verify', [True, False])
@pytest.mark.parametrize('suffix', ['.parquet', '.json'])
def test_pickles_are_not_run(two, suffix, verify):
  payload = pickle.dumps(Bomb(two / 'exploded'))
  file(two, 'a', suffix).write_bytes(payload)
  if suffix == '.parquet':
    reseal(two, 'a')
  with pytest.raises(table.DamagedShardError, match=f'a{suffix}'):
    table.open(two, verify=verify)
  assert not (two / 'exploded').exists()
  sources = pathlib.Path(table.__file__).parent.glob('*.py')
  assert all('pickle' not in source.read_text() for source in sources)


def test_declared_sizes_are_not_believed(two):
  path = two / 'a.parquet'
  good = path.read_bytes()
  for length in (2**31 - 1, 2**32 - 1, len(good), len(good) - 7):
    path.write_bytes(good[:-8] + length.to_bytes(4, 'little') + b'PAR1')
    reseal(two, 'a')
    with pytest.raises(table.DamagedShardError, match='a.parquet'):
      table.open(two)
  path.write_bytes(good)
  reseal(two, 'a', rows=10**10)
  with pytest.raises(table.DamagedShardError, match='10000000000'):
    table.open(two)
  huge = pa.nulls(shards.MAX_ROWS + 1, pa.int8())
  pq.write_table(pa.table({'seed': huge}), path)
  assert path.stat().st_size < 2**20
  reseal(two, 'a', rows=len(huge))
  with pytest.raises(table.DamagedShardError, match='declares'):
    table.open(two)


@pytest.mark.parametrize('suffix', ['.parquet', '.json'])
def test_huge_sparse_files_are_not_read(two, suffix):
  with file(two, 'a', suffix).open('r+b') as f:
    f.truncate(10 << 30)
  with pytest.raises(table.DamagedShardError, match='10737418240 bytes'):
    table.open(two)


def test_deep_json_is_refused(two):
  (two / '_a.json').write_text('[' * 100_000)
  with pytest.raises(table.DamagedShardError, match='_a.json'):
    table.open(two)


@pytest.mark.parametrize('suffix', ['.parquet', '.json'])
def test_links_are_not_followed(two, tmp_path_factory, suffix):
  elsewhere = tmp_path_factory.mktemp('elsewhere') / f'a{suffix}'
  path = file(two, 'a', suffix)
  path.replace(elsewhere)
  path.symlink_to(elsewhere)
  for verify in (True, False):
    with pytest.raises(table.DamagedShardError, match='link'):
      table.open(two, verify=verify)
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(table.DamagedShardError, match='no plain file'):
    table.open(two)
  path.unlink()
  path.symlink_to(elsewhere)
  # Writing replaces the link, and leaves alone what it led to.
  before = elsewhere.read_bytes()
  table.write_shard(two, 'a', [row(LINEAR), row(MIXED)])
  assert elsewhere.read_bytes() == before
  assert len(table.open(two)) == 3


def test_repair_sets_aside_only_the_damaged(two):
  expected = results(two)
  path = two / 'a.parquet'
  path.write_bytes(path.read_bytes()[:-9])
  (two / '.b.json.0badcafe.tmp').write_bytes(b'{')
  assert table.repair(two) == ('a',)
  assert len(list((two / '_damaged').iterdir())) == 2
  assert table.committed(two) == ('b',)
  assert len(table.open(two)) == 1
  table.write_shard(two, 'a', [row(LINEAR), row(MIXED)], {'note': 'x'})
  assert results(two) == expected
  report = table.verify(two)
  assert not report.problems and not report.leftovers
  assert table.repair(two) == ()


def test_merge(two, tmp_path_factory):
  out = tmp_path_factory.mktemp('out') / 'merged'
  other = tmp_path_factory.mktemp('other')
  table.write_shard(other, 'c', [row(MIXED, 1235), row(LINEAR, macro='NB_ASR')])
  table.write_shard(other, 'a', [row(MIXED), row(LINEAR, seconds=3.0)])
  for _ in range(2):  # the second time changes nothing
    t = table.merge([two, other], out)
    assert [s.name for s in t.shards] == ['a', 'b', 'c']
    assert len(t) == 5
  for suffix in ('.json', '.parquet'):
    for source, name in ((two, 'a'), (two, 'b'), (other, 'c')):
      copy, original = (file(d, name, suffix) for d in (out, source))
      assert copy.read_bytes() == original.read_bytes()
  with pytest.raises(table.TableError, match='at least one'):
    table.merge([], out)


@pytest.mark.parametrize('name', ['a', 'd'])
def test_merge_refuses_conflicts(two, tmp_path_factory, name):
  other = tmp_path_factory.mktemp('other')
  out = tmp_path_factory.mktemp('out')
  table.write_shard(other, 'ahead', [row(MIXED, 7)])
  table.write_shard(other, name, [row(LINEAR, test_per=0.5), row(MIXED)])
  with pytest.raises(table.ConflictError, match="a.parquet|'d' and 'a'"):
    table.merge([other, two], out)
  assert not list(out.iterdir())
  table.merge([two], out)
  with pytest.raises(table.ConflictError):
    table.merge([other], out)
  assert table.committed(out) == ('a', 'b')
  (other / 'ahead.parquet').write_bytes(b'')
  with pytest.raises(table.DamagedShardError, match='ahead'):
    table.merge([other], out)


def test_the_schema_is_the_one_written_down(two):
  footer = pq.read_schema(two / 'a.parquet')
  assert footer.equals(schema.SCHEMA)
  mark = json.loads((two / '_a.json').read_text())
  assert mark['rows'] == 2 and mark['schema_version'] == schema.VERSION
  payload = (two / 'a.parquet').read_bytes()
  assert mark['sha256'] == hashlib.sha256(payload).hexdigest()
