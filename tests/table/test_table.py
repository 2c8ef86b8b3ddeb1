"""Rows, queries and whole columns; files are in test_files.py."""

import random
import subprocess
import sys

import numpy as np
import pytest
from table_rows import SPACE, diverged, row

from nasjax import table

LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
MIXED = [[1, 0], [0, 1, 0], [4, 1, 0, 1]]
ZERO = [[5, 1], [2, 0, 1], [3, 0, 0, 1]]
ALIKE = [[5, 1], [2, 1, 0], [3, 0, 0, 1]]  # t_1 = t_0: either skip will do
CELLS = (LINEAR, MIXED, ZERO)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Three cells by three seeds by two recipes, in two shards."""
  directory = tmp_path_factory.mktemp('whole')
  for recipe in ('e5', 'e40'):
    rows = [row(c, s, recipe) for c in CELLS for s in (1234, 1235, 1236)]
    table.write_shard(directory, f'shard-{recipe}', rows, {'recipe': recipe})
  return table.open(directory)


def one_shard(directory, rows):
  table.write_shard(directory, 'only', rows)
  return table.open(directory)


def test_what_there_is(whole):
  assert len(whole) == 18
  assert whole.seeds == (1234, 1235, 1236)
  assert whole.recipes == ('e5', 'e40')
  assert whole.columns == tuple(table.SCHEMA.names)
  assert whole.archs.dtype == np.int8
  expected = sorted(CELLS, key=SPACE.index)
  assert [SPACE.nested(a) for a in whole.archs] == expected
  assert whole.shards[0].meta == {'recipe': 'e40'}
  assert '18 rows, 3 cells' in repr(whole)
  assert whole.conflicts == ()


@pytest.mark.parametrize('cell', CELLS)
@pytest.mark.parametrize('recipe', ['e5', 'e40'])
def test_every_number_comes_back_exactly(whole, cell, recipe):
  written = row(cell, 1235, recipe)
  for name, value in written.items():
    if name == 'arch':
      continue
    if name in table.CURVES:
      for epoch in (1, 3, written['epochs']):
        got = whole.query(cell, name, seed=1235, recipe=recipe, epoch=epoch)
        assert type(got) is float and got == value[epoch - 1]
      last = whole.query(cell, name, seed=1235, recipe=recipe, epoch='last')
      assert last == value[-1]
    elif value is None:
      assert np.isnan(whole.query(cell, name, seed=1235, recipe=recipe))
    else:
      got = whole.query(cell, name, seed=1235, recipe=recipe)
      assert got == (np.float32(value) if name == 'test_loss' else value)


def test_best_epoch_is_the_one_tested(tmp_path):
  t = one_shard(tmp_path, [row(LINEAR, best_epoch=7)])
  got = t.query(LINEAR, 'val_per', seed=1234, epoch='best')
  assert got == row(LINEAR)['val_per'][6]


@pytest.mark.parametrize(
  'form',
  [
    lambda a: SPACE.nested(a),
    lambda a: tuple(map(tuple, SPACE.nested(a))),
    lambda a: a.tolist(),
    lambda a: tuple(a.tolist()),
    lambda a: a,
    lambda a: a.astype(np.int64),
  ],
)
def test_forms_of_a_cell(whole, form):
  arch_d = SPACE.parse(MIXED)
  got = whole.query(form(arch_d), 'test_per', seed=1236, recipe='e5')
  assert got == row(MIXED, 1236, 'e5')['test_per']
  many = whole.query([form(arch_d)] * 2, 'test_per', seed=1236, recipe='e5')
  assert isinstance(many, np.ndarray) and many.tolist() == [got, got]
  assert form(arch_d) in whole


@pytest.mark.parametrize('seed', [1234, 'mean', 'median', 'min', 'max'])
@pytest.mark.parametrize(
  'column, epoch',
  [('test_per', None), ('params', None), ('val_per', 3), ('val_per', 'best')],
)
def test_many_equal_one_by_one(whole, seed, column, epoch):
  archs = np.array([SPACE.parse(c) for c in (ZERO, ALIKE, LINEAR, MIXED)])
  how = {'seed': seed, 'recipe': 'e40', 'epoch': epoch}
  many = whole.query(archs, column, **how)
  assert many.tolist() == [whole.query(a, column, **how) for a in archs]
  nothing = whole.query(archs[:0], column, **how)
  assert nothing.shape == (0,)


@pytest.mark.parametrize('name', ['mean', 'median', 'min', 'max'])
def test_reductions_over_seeds(whole, name):
  values = [row(MIXED, s)['test_per'] for s in (1234, 1235, 1236)]
  got = whole.query(MIXED, 'test_per', seed=name, recipe='e40')
  assert got == pytest.approx(getattr(np, name)(values), abs=1e-15)
  same = whole.query(MIXED, 'test_per', reduce=name, recipe='e40')
  assert same == got
  curves = [row(MIXED, s)['val_per'][7] for s in (1234, 1235, 1236)]
  got = whole.query(MIXED, 'val_per', seed=name, recipe='e40', epoch=8)
  assert got == pytest.approx(getattr(np, name)(curves), abs=1e-15)


def test_reductions_use_the_seeds_a_cell_has(tmp_path):
  # The last row is of the shortest recipe: a seed that is missing must not be
  # taken for it.
  rows = [row(LINEAR, s) for s in (1, 2, 3)] + [row(MIXED, 2), row(MIXED, 3)]
  rows += [row(ZERO, 2), row(ZERO, 1, 'e5')]
  t = one_shard(tmp_path, rows)
  for name in ('mean', 'median', 'min', 'max'):
    for epoch in (40, 'last', 'best'):
      got = t.query(
        list(CELLS), 'val_per', seed=name, recipe='e40', epoch=epoch
      )
      seeds = ((1, 2, 3), (2, 3), (2,))
      expected = [
        getattr(np, name)([row(c, s)['val_per'][39] for s in of_cell])
        for c, of_cell in zip(CELLS, seeds)
      ]
      np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_diverged_runs_give_nan(tmp_path):
  rows = [row(LINEAR, 1), diverged(LINEAR, 4, 2), row(LINEAR, 3)]
  t = one_shard(tmp_path, rows + [diverged(MIXED, 1, 1)])
  assert t.query(LINEAR, 'status', seed=2) == 'diverged'
  assert t.query(LINEAR, 'diverged_epoch', seed=2) == 4
  assert np.isnan(t.query(LINEAR, 'diverged_epoch', seed=1))
  good = row(LINEAR, 2)['val_per']
  assert t.query(LINEAR, 'val_per', seed=2, epoch=3) == good[2]
  for epoch in (4, 40, 'last', 'best'):
    assert np.isnan(t.query(LINEAR, 'val_per', seed=2, epoch=epoch))
    assert np.isnan(t.query(MIXED, 'val_per', seed=1, epoch=epoch))
  for name in ('mean', 'median', 'min', 'max'):
    assert np.isnan(t.query(LINEAR, 'test_per', seed=name))
    assert np.isnan(t.query(LINEAR, 'val_per', seed=name, epoch=9))
    assert not np.isnan(t.query(LINEAR, 'val_per', seed=name, epoch=3))
  curves = t.curves('val_per')
  assert curves.shape == (4, 40)
  assert np.isnan(curves).sum(axis=1).tolist() == [0, 37, 0, 40]


def test_a_table_of_nothing_but_failures(tmp_path):
  t = one_shard(tmp_path, [diverged(MIXED, 1)])
  assert np.isnan(t.query(MIXED, 'val_per', seed=1234, epoch=2))
  assert np.isnan(t.query([MIXED], 'val_per', seed=1234, epoch=2)).all()


def test_all_cells_of_a_function_answer_alike(whole):
  archs = SPACE.enumerate()
  keys = SPACE.semantic_keys(archs)
  for cell in CELLS:
    alike = archs[keys == SPACE.semantic_key(cell)]
    values = whole.query(alike, 'test_per', seed=1234, recipe='e40')
    assert set(values) == {row(cell)['test_per']}
    assert len(alike) > 1 or 5 not in cell
  assert ALIKE in whole
  rest = archs[~np.isin(keys, [SPACE.semantic_key(c) for c in CELLS])]
  for arch in rest[::500]:
    assert arch not in whole
    with pytest.raises(table.MissingEntryError, match='is not in'):
      whole.query(arch, 'test_per', seed=1234, recipe='e40')


def test_one_released_hash_is_not_one_function(tmp_path):
  cell = [[5, 1], [0, 0, 1], [0, 0, 0, 0]]
  other = [[5, 1], [0, 0, 0], [0, 0, 0, 0]]
  assert SPACE.key(cell) == SPACE.key(other)
  t = one_shard(tmp_path, [row(cell)])
  with pytest.raises(table.MissingEntryError, match='released hash'):
    t.query(other, 'test_per', seed=1234)
  t = one_shard(tmp_path / 'both', [row(cell), row(other)])
  for c in (cell, other):
    assert t.query(c, 'test_per', seed=1234) == row(c)['test_per']


def test_of_two_encodings_the_first_answers(tmp_path):
  first, second = sorted((ZERO, ALIKE), key=SPACE.index)
  rows = [row(second, 1), row(first, 1), row(second, 2)]
  t = one_shard(tmp_path, rows)
  assert len(t.archs) == 2
  for cell in (ZERO, ALIKE):
    assert t.query(cell, 'test_per', seed=1) == row(first, 1)['test_per']
    assert t.query(cell, 'test_per', seed=2) == row(second, 2)['test_per']


@pytest.mark.parametrize(
  'arch, named',
  [
    ([[-1, 1], [0, 0, 1], [0, 1, 0, 0]], '-1'),
    ([[6, 1], [0, 0, 1], [0, 1, 0, 0]], '6'),
    ([[1.0, 1], [0, 0, 1], [0, 1, 0, 0]], '1.0'),
    ([[True, 1], [0, 0, 1], [0, 1, 0, 0]], 'True'),
    ([['conv5', 1], [0, 0, 1], [0, 1, 0, 0]], 'conv5'),
    ([[0, 7], [0, 0, 1], [0, 1, 0, 0]], '7'),
    ([[0, 1], [0, 0, 1]], '2'),
    ([0, 1, 0, 0, 1, 0, 1, 0], '8'),
    ([], '0'),
    (np.array([0, 1, 0, 0, 1, 0, 1, 0, 2]), '2'),
    (np.array([[0, 1, 0, 0, 1, 0, 1, 0, 2]]), '2'),
    (np.zeros((2, 8), np.int8), '8'),
    (np.zeros((2, 9)), '0.0'),
    ([[0, 1, 0, 0, 1, 0, 1, 0, 1], [0, 1]], 'row 1'),
    ([[[0, 1], [0, 0, 1], [0, 1, 0, 9]]], '9'),
    (None, 'None'),
    ('conv5', 'conv5'),
    (3, '3'),
  ],
)
def test_malformed_cells(whole, arch, named):
  with pytest.raises(ValueError, match=named):
    whole.query(arch, 'test_per', seed=1234, recipe='e40')


@pytest.mark.parametrize('epoch', [0, -3, 41, 8.5, 8.0, True, 'first', [8]])
@pytest.mark.parametrize('seed', [1234, 'mean'])
@pytest.mark.parametrize('arch', [LINEAR, [LINEAR, MIXED]])
def test_epochs_out_of_range(whole, epoch, seed, arch):
  match = 'first' if epoch == 'first' else r'1\.\.40'
  with pytest.raises(table.QueryError, match=match):
    whole.query(arch, 'val_per', seed=seed, recipe='e40', epoch=epoch)


@pytest.mark.parametrize(
  'column, how, error, named',
  [
    ('val_per', {'seed': 1}, table.MissingEntryError, '1234, 1235, 1236'),
    ('val_per', {'recipe': 'e9'}, table.MissingEntryError, "'e5', 'e40'"),
    ('wer', {}, table.MissingEntryError, 'test_per'),
    ('val_per', {'epoch': None}, table.QueryError, 'epoch='),
    ('test_per', {}, table.QueryError, 'leave out epoch=5'),
    ('test_per', {'epoch': True}, table.QueryError, 'leave out'),
    ('val_per', {'seed': None}, table.QueryError, 'give seed='),
    ('val_per', {'seed': '1234'}, table.QueryError, '1234'),
    ('val_per', {'seed': 1234.0}, table.QueryError, '1234.0'),
    ('val_per', {'seed': True}, table.QueryError, 'True'),
    ('val_per', {'seed': 'random'}, table.QueryError, 'random'),
    ('val_per', {'seed': [1234]}, table.QueryError, 'integer'),
    ('val_per', {'reduce': 'mean'}, table.QueryError, 'one of the two'),
    ('val_per', {'seed': None, 'reduce': 3}, table.QueryError, 'reduce=3'),
    ('val_per', {'recipe': None}, table.QueryError, 'recipe='),
    ('val_per', {'recipe': 40}, table.QueryError, '40'),
    ('arch', {'epoch': None}, table.QueryError, 'archs'),
    ('status', {'epoch': None, 'seed': 'mean'}, table.QueryError, 'text'),
  ],
)
def test_bad_questions(whole, column, how, error, named):
  how = {'seed': 1234, 'recipe': 'e40', 'epoch': 5} | how
  with pytest.raises(error, match=named):
    whole.query(LINEAR, column, **how)
  assert issubclass(error, ValueError) and issubclass(error, table.TableError)


def test_what_a_cell_lacks_is_said(tmp_path):
  t = one_shard(tmp_path, [row(LINEAR, 1), row(LINEAR, 2), row(MIXED, 2, 'e5')])
  with pytest.raises(table.MissingEntryError, match=r'e40 with seeds \[1, 2\]'):
    t.query(LINEAR, 'test_per', seed=1, recipe='e5')
  with pytest.raises(KeyError, match=r'e5 with seeds \[2\]'):
    t.query([LINEAR, MIXED], 'test_per', seed='mean', recipe='e40')
  # One recipe is enough to leave it out only where there is no other.
  assert t.select(recipe='e5').query(MIXED, 'seed', seed=2) == 2
  with pytest.raises(table.MissingEntryError, match='3 cells|1 cells'):
    t.select(recipe='e5').query(LINEAR, 'test_per', seed=2)


def test_networks_and_corpora_are_not_mixed(tmp_path):
  rows = [row(LINEAR), row(LINEAR, macro='NB_ASR', test_per=0.25)]
  t = one_shard(tmp_path, rows)
  with pytest.raises(table.QueryError, match="select.macro='NB_ASR'"):
    t.query(LINEAR, 'test_per', seed=1234)
  full = t.select(macro='NB_ASR')
  assert len(full) == 1
  assert full.query(LINEAR, 'test_per', seed=1234) == 0.25
  assert full.to_arrow().column('macro').to_pylist() == ['NB_ASR']
  with pytest.raises(table.MissingEntryError, match='SMALL'):
    t.select(macro='LARGE')


def test_one_recipe_name_is_one_recipe(tmp_path):
  rows = [row(LINEAR), row(MIXED, recipe_json='{"epochs": 39}')]
  t = one_shard(tmp_path, rows)
  with pytest.raises(table.ConflictError, match='e40'):
    t.query(LINEAR, 'test_per', seed=1234)


def test_one_training_in_two_shards(tmp_path):
  table.write_shard(tmp_path, 'a', [row(LINEAR), row(MIXED)])
  table.write_shard(tmp_path, 'b', [row(LINEAR, seconds=9.0, commit='f')])
  t = table.open(tmp_path)
  expected = row(LINEAR)['test_per']
  assert t.query(LINEAR, 'test_per', seed=1234) == expected
  table.write_shard(tmp_path, 'c', [row(MIXED, test_per=0.9)])
  t = table.open(tmp_path)
  assert t.query(LINEAR, 'test_per', seed=1234) == expected
  for seed in (1234, 'mean'):
    with pytest.raises(table.ConflictError, match="'a' and 'c'"):
      t.query(MIXED, 'test_per', seed=seed)


def test_whole_columns(whole):
  rows = [
    row(c, s, r)
    for r in ('e40', 'e5')
    for c in CELLS
    for s in (1234, 1235, 1236)
  ]
  assert whole.column('test_per').tolist() == [r['test_per'] for r in rows]
  assert whole.column('recipe').tolist() == [r['recipe'] for r in rows]
  np.testing.assert_array_equal(whole.row_archs, [r['arch'] for r in rows])
  curves = whole.curves('val_per')
  assert curves.shape == (18, 40)
  np.testing.assert_array_equal(curves[10, :5], rows[10]['val_per'])
  assert np.isnan(curves[10, 5:]).all()
  assert whole.to_arrow().schema == table.SCHEMA
  with pytest.raises(table.QueryError, match='curves'):
    whole.column('val_per')
  with pytest.raises(table.QueryError, match='column'):
    whole.curves('test_per')


def test_pandas_is_optional(whole):
  try:
    import pandas  # noqa: F401
  except ImportError:
    with pytest.raises(ImportError, match='pip install pandas'):
      whole.to_pandas()
  else:
    frame = whole.to_pandas()
    assert len(frame) == 18 and list(frame.columns) == list(whole.columns)


def test_no_random_state_is_touched(whole):
  def state():
    return random.getstate(), str(np.random.get_state())  # noqa: NPY002

  before = state()
  values = {
    whole.query(LINEAR, 'test_per', seed='mean', recipe='e40')
    for _ in range(100)
  }
  assert len(values) == 1
  assert state() == before


def test_reading_needs_no_jax():
  code = 'import sys; import nasjax.table; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
