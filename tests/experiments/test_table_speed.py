"""Tests of the launcher that times questions to a table."""

import json

import numpy as np
import pytest
import tiny_run as launcher
from races import table_questions as asked

from nasjax import spaces, table

ASKED = (
  'open_ms', 'query_us', 'vector_ns_per_row', 'memory_mb', 'verify_mb_per_s',
)  # fmt: skip


def _launch(*flags):
  return launcher.forked(*flags, launcher='table_speed')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A small table as the launcher makes it, and what it told of progress."""
  directory, told = tmp_path_factory.mktemp('made'), []
  asked.make(directory, 30, 18, lambda *counts: told.append(counts))
  return directory, told


def test_the_table_has_every_cell_seed_and_budget(made):
  directory, told = made
  t = table.open(directory)
  assert told == [(done, 18) for done in range(18)]
  assert len(t) == 30 * 9 and len(t.shards) == 18
  assert t.seeds == (1, 2, 3) and t.recipes == ('e5', 'e10', 'e40')
  np.testing.assert_array_equal(t.archs, spaces.NB_ASR.unique()[:30])
  drawn = t.query(t.archs, 'test_per', seed=1, recipe='e40')
  assert len(set(drawn)) == 30 and 0 < drawn.min() < drawn.max() < 1
  for epoch in (1, 40, 'best'):
    how = {'seed': 'mean', 'recipe': 'e40', 'epoch': epoch}
    assert np.isfinite(t.query(t.archs, 'val_per', **how)).all()


def test_every_kind_of_question_is_asked(made):
  t = table.open(made[0])
  for how in asked.questions():
    t.query(t.archs, recipe='e5', **how)
  columns = {how['column'] for how in asked.questions()}
  assert columns > {*table.CURVES, 'test_per', 'params', 'status'}
  assert {how.get('epoch') for how in asked.questions()} == {
    None,
    4,
    'best',
    'last',
  }


def test_the_launcher_measures_and_writes(tmp_path):
  path = tmp_path / 'results' / 'speed.json'
  kept = tmp_path / 'kept'
  status, output, errors = _launch(
    '--cells=25', f'--table={kept}', f'--json={path}'
  )
  assert status == 0, errors
  found = json.loads(path.read_text())
  assert found['rows'] == 25 * 9 and found['shards'] == 9
  for name in ASKED:
    assert found[name] > 0
    assert name in output
  assert len(found['kinds']) == len(list(asked.questions()))
  for kind in found['kinds']:
    assert kind['query_us'] > 0 and kind['vector_ns_per_row'] > 0
  for word, seed in (('', 1), ('mean_', 'mean')):
    for name in ('query_us', 'vector_ns_per_row'):
      values = [k[name] for k in found['kinds'] if k['seed'] == seed]
      assert found[word + name] == pytest.approx(np.mean(values))
  assert '72 to 77' in output and '310 to 560' in output
  assert len(table.open(kept)) == 25 * 9


def test_what_a_user_can_mend_is_one_line(tmp_path):
  file = tmp_path / 'file'
  file.write_text('x')
  for flag, error in (
    (f'--table={file}', 'is a file, not a directory'),
    ('--cells=1', 'lower bound|>= 2|greater|integer'),
  ):
    status, _, errors = _launch(flag)
    assert status == 1
    assert errors.count('\n') == 1
    assert 'table_speed.py: ' in errors, error
  assert 'cells' in errors
