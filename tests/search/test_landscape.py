"""Searches on tables: the landscape, the protocol, and what it is judged by."""

import itertools

import jax.numpy as jnp
import numpy as np
import planted_table
import pytest
import table_rows

from nasjax import search, table
from nasjax.search import landscape

SPACE = table_rows.SPACE
# All functions of two operations and one skip, two of them with fewer runs.
PRODUCT = SPACE.product(['linear', 'conv5'], ['s00'])


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  path = tmp_path_factory.mktemp('product')
  table.write_shard(
    path,
    'a',
    [
      planted_table.row(arch, seed)
      for n, arch in enumerate(PRODUCT)
      for seed in ((1, 2, 3) if n > 1 else (1,))
    ],
  )
  return table.open(path)


@pytest.fixture(scope='module')
def scape(rows):
  return landscape.landscape(rows)


def _simulate(scape, name='random', repeats=3, budget=30, seed=0, **own):
  searcher = search.SEARCHERS[name](scape.sizes, scape.epochs, budget, **own)
  return landscape.simulate(searcher, scape, seed, repeats, budget)


# The landscape.


def test_digits_that_the_table_varies_are_searched(scape):
  assert scape.sizes == (2, 2, 2, 1, 1, 2, 1, 1, 1)
  assert scape.values[0] == (0, 1) and scape.values[3] == (0,)
  assert scape.epochs == 40
  assert scape.answers == {'function': 16, 'key': 0, 'nearest': 0}
  archs = scape.archs(scape.vector_ad)
  assert {tuple(a) for a in archs} == {tuple(a) for a in PRODUCT}
  np.testing.assert_array_equal(scape.cell_archs[scape.cell_a], archs)


def test_the_landscape_has_the_runs_of_the_table(rows, scape):
  assert sorted(scape.runs_c) == [1, 1] + [3] * 14
  for cell, arch in enumerate(scape.cell_archs):
    seeds = (1, 2, 3) if scape.runs_c[cell] == 3 else (1,)
    for run, seed in enumerate(seeds):
      assert scape.test_cr[cell, run] == pytest.approx(
        rows.query(arch, 'test_per', seed=seed)
      )
      # In percent of 40 epochs: the lowest so far.
      val = [
        rows.query(arch, 'val_per', seed=seed, epoch=e) for e in range(1, 41)
      ]
      np.testing.assert_allclose(
        scape.val_cre[cell, run],
        np.minimum(np.minimum.accumulate(val), 1),
        rtol=1e-6,
      )


def test_isomorphic_cells_answer_alike_and_failures_as_all_wrong(tmp_path):
  # Behind a zero nothing of the first node is left, whatever it is.
  first = [[0, 0], [5, 1, 0], [0, 0, 0, 0]]
  archs = [first, [[1, 0], [5, 1, 0], [1, 0, 0, 0]]]
  written = [planted_table.row(arch, 1) for arch in archs]
  written[1] = table_rows.diverged(archs[1], 3)
  table.write_shard(tmp_path, 'a', written)
  found = landscape.landscape(table.open(tmp_path))
  assert found.sizes == (2, 1, 1, 1, 1, 2, 1, 1, 1)
  assert found.answers == {'function': 4, 'key': 0, 'nearest': 0}
  assert len(set(found.cell_a[[0, 1]])) == 1
  assert set(found.test_cr[found.cell_a[[2, 3]], 0]) == {landscape.FAILED}
  curve = found.val_cre[found.cell_a[3], 0]
  assert curve[0] < 1 and (curve[2:] == curve[1]).all()


def test_published_keys_then_nearest_cells_answer_the_rest(tmp_path):
  keys = SPACE.unique('key')
  with_zero = keys[(keys[:, [0, 2, 5]] == 5).any(axis=1)][::4]
  archs = np.concatenate([with_zero, planted_table.cells(20)])
  archs = np.unique(archs, axis=0)
  written = [planted_table.row(arch, 1, 'e5') for arch in archs]
  table.write_shard(tmp_path, 'a', written)
  found = landscape.landscape(table.open(tmp_path))
  assert all(n > 0 for n in found.answers.values())
  assert sum(found.answers.values()) == np.prod(found.sizes)
  asked = found.archs(found.vector_ad)
  every = found.archs(landscape.vectors_of(found.values))
  same = (asked == every).all(axis=1)
  assert (~same).sum() <= found.answers['nearest']
  rng = np.random.default_rng(0)
  for a in rng.choice(len(every), 200, replace=False):
    cell = found.cell_archs[found.cell_a[a]]
    keys = (SPACE.semantic_key, SPACE.key)
    if any(key(every[a]) == key(cell) for key in keys):
      assert same[a]
    else:
      away = (found.cell_archs != every[a]).sum(axis=1)
      assert (cell != every[a]).sum() == away.min()
      np.testing.assert_array_equal(asked[a], cell)


def test_what_cannot_be_searched_is_refused(tmp_path, rows):
  with pytest.raises(table.MissingEntryError, match='e7'):
    landscape.landscape(rows, 'e7')
  table.write_shard(tmp_path, 'a', [planted_table.row(PRODUCT[0], 1)])
  with pytest.raises(ValueError, match='one cell only'):
    landscape.landscape(table.open(tmp_path))
  other = planted_table.row(PRODUCT[1], 1) | {'macro': 'OTHER'}
  table.write_shard(tmp_path, 'b', [other])
  with pytest.raises(table.QueryError, match="macro='OTHER'"):
    landscape.landscape(table.open(tmp_path))


# The protocol.


def test_an_evaluation_is_a_run_of_the_cell_suggested(scape):
  trace = _simulate(scape, 'hyperband', repeats=4)
  assert set(trace.epochs.ravel()) == {1, 4, 13, 40}
  cell = scape.cell_a[trace.place]
  at = np.maximum(trace.epochs, 1) - 1
  same = (scape.test_cr[cell] == trace.test[..., None]) & (
    scape.val_cre[cell, :, at] == trace.val[..., None]
  )
  assert same.any(axis=-1).all()
  # Each of three runs is drawn as often as another.
  run = same.argmax(axis=-1)[scape.runs_c[cell] == 3]
  count = np.bincount(run, minlength=3)
  assert (abs(count - count.mean()) < 4 * np.sqrt(count.mean())).all()


def test_a_repeat_depends_on_the_seed_and_its_number_alone(scape):
  three, five = _simulate(scape, 'evolution'), _simulate(scape, 'evolution', 5)
  for a, b in zip(three, five):
    np.testing.assert_array_equal(a, b[:3])
  assert not np.array_equal(three.place[0], three.place[1])
  other = _simulate(scape, 'evolution', seed=1)
  assert not np.array_equal(three.place, other.place)


def test_serial_repeats_are_those_that_are_mapped(scape):
  made = search.SEARCHERS['local_search'](scape.sizes, scape.epochs, 30)
  mapped = landscape.simulate(made, scape, 0, 3, 30)
  serial = landscape.simulate(made._replace(serial=True), scape, 0, 3, 30)
  for a, b in zip(mapped, serial):
    np.testing.assert_array_equal(a[:, : b.shape[1]], b)


def test_a_searcher_that_has_tried_all_ends(scape):
  vectors = landscape.candidates(scape)
  assert (
    len({scape.cell_a[v @ [1, 2, 4, 0, 0, 8, 0, 0, 0]] for v in vectors}) == 16
  )

  def ask(key, state):
    del key
    epochs = jnp.where(state < 16, 40, 0)
    arch_d = jnp.asarray(vectors)[jnp.minimum(state, 15)]
    return search.Suggestion(arch_d[None], epochs[None]), state + 1

  in_order = search.Searcher(
    lambda key: jnp.int32(0), ask, lambda state, *told: state, 1, serial=True
  )
  trace = landscape.simulate(in_order, scape, 0, 2, 40)
  assert (trace.epochs.sum(axis=1) == 16 * 40).all()
  best = landscape.best_test(trace, 40, np.array([16, 40]))
  np.testing.assert_array_equal(best[:, 0], best[:, 1])


def test_random_search_meets_its_exact_expectation(scape):
  trace = _simulate(scape, repeats=400, budget=20)
  for count in (1, 3, 20):
    found = landscape.best_test(trace, 40, np.array([count]))[:, 0]
    error = found.std() / np.sqrt(len(found))
    exact = landscape.expected_random(scape, count)
    assert abs(found.mean() - exact) < 4 * error
  # By enumeration of three draws of all (vector, run) pairs.
  weight = 1 / (16 * scape.runs_c)
  draws = [
    (scape.val_cre[c, r, -1], scape.test_cr[c, r], weight[c])
    for c in range(16)
    for r in range(scape.runs_c[c])
  ]
  exact = sum(
    np.prod([d[2] for d in three]) * min(three)[1]
    for three in itertools.product(draws, repeat=3)
  )
  assert landscape.expected_random(scape, 3) == pytest.approx(exact, rel=1e-6)
  several = landscape.expected_random(scape, np.array([1, 3]))
  assert several[1] == pytest.approx(exact, rel=1e-6) and len(several) == 2


def test_the_oracle_knows_the_means(rows, scape):
  means = rows.query(rows.archs, 'test_per', seed='mean')
  assert landscape.oracle(scape) == pytest.approx(means.min())


# What a search is judged by.

TRACE = landscape.Trace(
  place=np.arange(6)[None],
  val=np.array([[0.5, 0.1, 0.4, 0.4, 0.6, 0.3]]),
  test=np.array([[0.6, 0.2, 0.5, 0.9, 0.7, 0.8]]),
  epochs=np.array([[10, 5, 10, 10, 0, 10]]),
)


def test_only_models_trained_to_the_end_can_be_the_best():
  costs = np.array([0.9, 1, 1.5, 2.5, 3.5, 4.4, 4.5, 9])
  np.testing.assert_array_equal(
    landscape.best_test(TRACE, 10, costs),
    [[np.nan, 0.6, 0.6, 0.5, 0.5, 0.5, 0.8, 0.8]],
  )


def test_the_newest_are_averaged():
  costs = np.array([0.5, 1, 2.5, 3.5, 4.5])
  np.testing.assert_allclose(
    landscape.newest_val(TRACE, 10, costs, 2),
    [[np.nan, 0.5, 0.45, 0.4, 0.35]],
  )


def test_the_whole_space_is_searched_where_the_table_answers_for_it(tmp_path):
  archs = SPACE.unique('key')
  rng = np.random.default_rng(0)
  written = [
    planted_table.row(SPACE.from_index(0), 1, 'e5')
    | {
      'arch': arch,
      'key': SPACE.key(arch),
      'semantic_key': key,
      'test_per': float(rng.uniform()),
    }
    for arch, key in zip(archs, SPACE.semantic_keys(archs))
  ]
  table.write_shard(tmp_path, 'a', written)
  found = landscape.landscape(table.open(tmp_path))
  assert found.sizes == SPACE.sizes and found.answers['nearest'] == 0
  assert found.answers['function'] + found.answers['key'] == SPACE.size
