"""Tests of the launcher that merges tables."""

import json

import pytest
import tiny_run
from table_rows import row

from nasjax import table

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]


@pytest.fixture
def two(tmp_path):
  """Runs of two contributors, who have one training in common."""
  table.write_shard(tmp_path / 'ann' / 'table', 'a', [row(LINEAR), row(MIXED)])
  table.write_shard(tmp_path / 'bob', 'b', [row(LINEAR, 7), row(MIXED)])
  (tmp_path / 'ann' / 'run.json').write_text('{"corpus": "digits"}')
  return tmp_path / 'ann', tmp_path / 'bob'


def test_each_contributor_is_told_of(two, tmp_path):
  out, path = tmp_path / 'out', tmp_path / 'report.json'
  again = [*map(str, two), f'--out={out}', f'--json={path}', '--compact']
  # The second time changes nothing.
  results = tiny_run.tried([again, again], 'merge')
  assert [status for status, _, _ in results] == [0, 0], results
  assert '4 rows in 2 shards of 2 contributors' in results[1][1]
  t = table.open(out)
  assert [s.name for s in t.shards] == ['a', 'b'] and len(t) == 4
  assert len(list((out / 'table').glob('*.parquet'))) == 1
  ann, bob = json.loads((out / 'sources.json').read_text())
  assert (ann['name'], ann['shards'], ann['rows']) == ('ann', ['a'], 2)
  assert ann['run'] == {'corpus': 'digits'} and bob['run'] is None
  assert bob['versions'] == [{'nasjax': '0.1.0'}] and bob['shards'] == ['b']
  report = json.loads(path.read_text())
  assert report['conflicts'] == [] and report['packs'] == []
  assert [s['name'] for s in report['sources']] == ['ann', 'bob']
  # A third one joins; what he merged himself comes with him.
  third = tmp_path / 'third'
  flags = [str(out), str(two[0]), f'--out={third}']
  ((status, output, errors),) = tiny_run.tried([flags], 'merge')
  assert status == 0 and '4 rows in 2 shards' in output, errors
  first, _ = json.loads((third / 'sources.json').read_text())
  assert [s['name'] for s in first['sources']] == ['ann', 'bob']


def test_conflicts_are_named_and_nothing_is_written(two, tmp_path):
  other, out, path = (tmp_path / n for n in ('eve', 'out', 'report.json'))
  rows = [row(LINEAR, test_per=0.5), row(MIXED, params=3), row(LINEAR, 8)]
  table.write_shard(other, 'e', rows)
  flags = [str(two[0]), str(other), f'--out={out}', f'--json={path}']
  ((status, output, errors),) = tiny_run.tried([flags], 'merge')
  assert status == 1
  assert errors.startswith('merge.py: 2 trainings have different results')
  good = row(LINEAR)['test_per']
  assert (
    f'cell {LINEAR}, seed 1234, recipe e40: test_per {good:.6f} in {two[0]} '
    f'(shard a), 0.500000 in {other} (shard e); they differ in test_per'
  ) in output
  assert 'they differ in params' in output
  assert not list(out.iterdir())
  found = json.loads(path.read_text())['conflicts']
  assert {tuple(f['differing']) for f in found} == {('test_per',), ('params',)}
  assert [s['table'] for s in found[0]['sides']] == [str(two[0]), str(other)]
  # The same name for other results, too; and what stands counts as well.
  table.write_shard(tmp_path / 'mal', 'a', [row(LINEAR, test_per=0.4)])
  flags = [str(two[0]), f'--out={out}'], [str(tmp_path / 'mal'), f'--out={out}']
  (good, bad) = tiny_run.tried(flags, 'merge')
  assert good[0] == 0 and bad[0] == 1 and '0.400000' in bad[1]
  assert len(table.open(out)) == 2


def test_wrong_words_get_a_line(two, tmp_path):
  tries = [
    ([], 'name the tables'),
    (list(map(str, two)), '--out is missing'),
    ([str(tmp_path / 'no'), f'--out={tmp_path / "out"}'], 'does not exist'),
  ]
  results = tiny_run.tried([words for words, _ in tries], 'merge')
  for (status, _, errors), (_, told) in zip(results, tries, strict=True):
    assert status == 1 and told in errors and errors.count('\n') == 1


def test_one_table_is_compacted_in_place(tmp_path):
  for name in 'ab':
    table.write_shard(tmp_path, name, [row(LINEAR, ord(name))])
  flags = [str(tmp_path), '--compact']
  results = tiny_run.tried([flags, flags], 'merge')
  assert [output.split(';')[0] for _, output, _ in results] == [
    '1 new packs',
    '0 new packs',
  ]
  assert len(table.open(tmp_path)) == 2
