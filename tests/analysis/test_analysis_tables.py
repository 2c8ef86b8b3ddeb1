"""What a table becomes, and what its cells are made of."""

import json

import numpy as np
import planted_table
import pytest
import table_rows

from nasjax import analysis, table
from nasjax.search import landscape

SPACE = planted_table.SPACE
NAN = float('nan')


@pytest.fixture(scope='module')
def planted(tmp_path_factory):
  path = tmp_path_factory.mktemp('planted')
  return planted_table.write(path, planted_table.cells(150), failed=4)


def test_results_are_what_queries_answer(planted):
  for recipe in planted.recipes:
    found = analysis.results(planted, recipe)
    assert found.recipe == recipe
    assert found.epochs == table_rows.RECIPES[recipe]
    np.testing.assert_array_equal(found.archs_nd, planted.archs)
    assert found.has_ns.all() and found.seeds == (1, 2, 3)
    assert found.status == {'diverged': 4, 'ok': 446}
    assert found.failed == 4 and found.missing == 0
    for s, seed in enumerate(found.seeds):
      np.testing.assert_array_equal(
        found.test_ns[:, s],
        planted.query(found.archs_nd, 'test_per', seed=seed, recipe=recipe),
      )
    np.testing.assert_allclose(
      found.test_n,
      planted.query(found.archs_nd, 'test_per', seed='mean', recipe=recipe),
    )
    np.testing.assert_array_equal(
      found.params_n,
      planted.query(found.archs_nd, 'params', seed='min', recipe=recipe),
    )


def test_a_run_that_did_not_end_well_is_nan_whatever_it_reached(tmp_path):
  archs = planted_table.cells(3)
  rows = [planted_table.row(arch, seed) for arch in archs for seed in (1, 2)]
  # Diverged after a low validation PER; and out of memory, with a test PER.
  rows[0] = table_rows.diverged(archs[0], 30, 1)
  rows[3] |= {'status': 'oom'}
  table.write_shard(tmp_path, 'rows', rows)
  found = analysis.results(table.open(tmp_path))
  assert np.isnan(found.val_ns).tolist() == [
    [True, False], [False, True], [False, False]
  ]  # fmt: skip
  np.testing.assert_array_equal(np.isnan(found.test_ns), np.isnan(found.val_ns))
  assert found.failed == 2
  assert np.isnan(found.test_n).tolist() == [True, True, False]
  row = rows[5]
  assert found.val_ns[2, 1] == row['val_per'].min()


def test_recipes_share_cells_and_seeds_though_they_have_not_all(tmp_path):
  archs = planted_table.cells(4)
  full = [planted_table.row(a, s) for a in archs[:3] for s in (1, 2)]
  part = [planted_table.row(a, 2, 'e5') for a in archs[1:]]
  table.write_shard(tmp_path, 'full', full)
  table.write_shard(tmp_path, 'part', part)
  t = table.open(tmp_path)
  low, high = (analysis.results(t, name) for name in t.recipes)
  assert (low.recipe, high.recipe) == ('e5', 'e40')
  assert low.seeds == high.seeds == (1, 2)
  np.testing.assert_array_equal(low.archs_nd, high.archs_nd)
  assert high.has_ns.sum() == 6 and high.missing == 2
  assert low.has_ns[:, 0].sum() == 0 and low.missing == 5
  assert np.isnan(high.params_n[3]) and np.isnan(high.test_n[3])
  assert low.failed == high.failed == 0
  # The mean of a cell is over the seeds that it has.
  assert low.test_n[3] == pytest.approx(part[2]['test_per'])
  with pytest.raises(ValueError, match=r"\['e5', 'e40'\]"):
    analysis.results(t)


def test_results_refuse_a_mixture(tmp_path):
  arch = planted_table.cells(1)[0]
  rows = [planted_table.row(arch, 1), planted_table.row(arch, 1)]
  rows[1]['macro'] = 'LARGE'
  table.write_shard(tmp_path, 'rows', rows)
  t = table.open(tmp_path)
  with pytest.raises(ValueError, match="select\\(macro='LARGE'\\)"):
    analysis.results(t)
  assert analysis.results(t.select(macro='LARGE')).test_ns.shape == (1, 1)


def test_by_cell_takes_no_run_twice():
  has_ns, value_ns = analysis.by_cell([0, 2], [1, 0], [0.5, NAN], 3, 2)
  assert has_ns.tolist() == [[False, True], [False, False], [True, False]]
  assert value_ns[0, 1] == 0.5 and np.isnan(value_ns).sum() == 5
  with pytest.raises(ValueError, match='2 rows are of cell 1, seed 0'):
    analysis.by_cell([1, 1], [0, 0], [0.1, 0.2], 2, 1)


def test_means_count_what_is_not_there_and_spoil_what_failed():
  has_ns = np.array([[True, True], [True, False], [True, True], [False] * 2])
  value_ns = np.array([[1, 3], [5, NAN], [1, NAN], [NAN, NAN]])
  np.testing.assert_array_equal(
    analysis.means(value_ns, has_ns), [2, 5, NAN, NAN]
  )


def test_composition_by_hand():
  archs = [
    [[0, 1], [1, 0, 1], [5, 0, 0, 0]],
    [[0, 1], [2, 0, 0], [5, 0, 1, 1]],
    [[4, 0], [1, 0, 1], [5, 1, 0, 0]],
    [[0, 1], [1, 0, 0], [5, 0, 0, 0]],
  ]
  found = analysis.composition(SPACE, archs)
  assert found.cells == 4
  shares = [
    {name: e.value for name, e in node.items() if e.value} for node in found.ops
  ]
  assert shares == [
    {'linear': 0.75, 'conv7d2': 0.25},
    {'conv5': 0.75, 'conv5d2': 0.25},
    {'zero': 1.0},
  ]
  assert {name: e.value for name, e in found.skips.items()} == {
    't0 to t1': 0.75, 't0 to t2': 0, 't1 to t2': 0.5,
    't0 to t3': 0.25, 't1 to t3': 0.25, 't2 to t3': 0.25,
  }  # fmt: skip
  counts = {c: e.value for c, e in found.counts.items()}
  assert counts == {0: 0, 1: 0.25, 2: 0.5, 3: 0.25, 4: 0, 5: 0, 6: 0}
  assert all(e.low <= e.value <= e.high for e in found.skips.values())
  nobody = analysis.composition(SPACE, SPACE.enumerate()[:0])
  assert nobody.cells == 0 and np.isnan(nobody.skips['t0 to t1'].value)


def test_counts_are_those_of_the_names():
  archs = SPACE.enumerate()[::97]
  found = analysis.counts(SPACE, archs)
  for n, arch in enumerate(archs):
    ops = SPACE.main_ops(arch)
    assert found['linear'][n] == ops.count('linear')
    assert found['zero'][n] == ops.count('zero')
    assert found['convolution'][n] == sum('conv' in op for op in ops)
    assert found['skips'][n] == SPACE.skip_matrix(arch).sum()


def test_ranking_finds_what_was_planted(planted):
  found = analysis.results(planted, 'e40')
  by_kind = {
    kind: analysis.ranking(count_n, found.test_n, repeats=200)
    for kind, count_n in analysis.counts(SPACE, found.archs_nd).items()
  }
  assert by_kind['linear'].correlation.low > 0
  assert by_kind['skips'].correlation.high < 0
  assert by_kind['convolution'].correlation.high < 0
  ranked = np.flatnonzero(~np.isnan(found.test_n))
  for ranking in by_kind.values():
    rows = np.concatenate([level.rows for level in ranking.levels])
    assert sorted(rows) == ranked.tolist()
    for level in ranking.levels:
      assert (np.diff(found.test_n[level.rows]) >= 0).all()
      expected = np.median(found.test_n[level.rows])
      assert level.median.value == pytest.approx(expected)


def test_groups_find_what_was_planted(planted):
  found = analysis.results(planted, 'e40')
  ranked = np.flatnonzero(~np.isnan(found.test_n))
  parts = analysis.slices(found.test_n[ranked], 0.3)
  best, worst = (
    analysis.composition(SPACE, found.archs_nd[ranked[parts[part]]])
    for part in ('top', 'bottom')
  )
  linear = [
    sum(node['linear'].value for node in group.ops) for group in (best, worst)
  ]
  assert linear[0] < linear[1]
  assert best.skips['t0 to t3'].low > worst.skips['t0 to t3'].high


def test_ranking_of_nothing():
  found = analysis.ranking([1, 2], [NAN, NAN])
  assert found.levels == () and found.correlation.n == 0


def test_latencies_are_those_of_the_function_or_none(tmp_path):
  archs = planted_table.cells(5)
  t = planted_table.write(tmp_path, archs, (1,), ('e5',))
  assert t.latencies == ()
  rows = [
    table_rows.latency_row(arch, device=device)
    for n, arch in enumerate(archs[1:4])
    for device in ('here', 'there')[: 1 + (n == 0)]
  ]
  table.write_shard(tmp_path, 'latency-a', rows)
  t = table.open(tmp_path)
  here, there = t.latencies
  first, _, second, third = (row['median'] for row in rows)
  np.testing.assert_allclose(
    analysis.latencies(t, t.archs, here), [NAN, first, second, third, NAN]
  )
  np.testing.assert_allclose(
    analysis.latencies(t, t.archs, there), [NAN, first, NAN, NAN, NAN]
  )


def test_a_decision_that_matters_is_told_from_those_that_do_not():
  archs = SPACE.product(['linear', 'conv5', 'conv7'], ['s00', 's11', 's20'])
  rng = np.random.default_rng(0)
  field = SPACE.fields.index('s20')
  # Two points of noise, ten of one skip, and up to 4.5 of an operation with it.
  value_ns = 0.3 + 0.02 * rng.normal(size=(len(archs), 3))
  value_ns += 0.1 * (archs[:, [field]] == 0)
  value_ns += 0.015 * archs[:, [0]] * (archs[:, [field]] == 1)
  first, *others, skips = analysis.decisions(SPACE, archs, value_ns, repeats=50)
  assert first.name == 's20' and 0.8 < first.explains < 1
  assert {one.name for one in others} == {'op1', 'op2', 'op3', 's00', 's11'}
  assert all(abs(one.explains) < 0.1 for one in others)
  assert skips.name == 'all skips' and skips.explains > 0.8
  without, with_it = first.parts
  assert without.cells == with_it.cells == len(archs) // 2
  assert abs(without.mean - with_it.mean - 0.08) < 0.005
  # All seeds agree on all cells, on those without the skip not at all.
  ceiling = analysis.noise_ceiling(value_ns, repeats=50).single
  assert ceiling.value > 0.7 > 0.5 > with_it.seeds.value > 0.2
  assert abs(without.seeds.value) < 0.2
  assert with_it.spread.cells > 1.3 * without.spread.cells


def test_what_chance_explains_is_nothing():
  rng = np.random.default_rng(1)
  shares = [
    analysis.explained(rng.normal(size=60), rng.integers(20, size=60))
    for _ in range(400)
  ]
  assert abs(np.mean(shares)) < 3 * np.std(shares) / 20
  # By hand: squares of 2 within, of 10 in all, 2 and 3 degrees of freedom.
  assert analysis.explained([1, 3, 4, 4], [0, 0, 1, 1]) == 1 - (2 / 2) / (6 / 3)
  assert np.isnan(analysis.explained([1, 2], [0, 1]))
  assert np.isnan(analysis.explained([1, 1, 1], [0, 0, 1]))


def test_cells_without_all_seeds_are_left_out_of_decisions(planted):
  r = analysis.results(planted, 'e40')
  found = analysis.decisions(SPACE, r.archs_nd, r.test_ns, repeats=20)
  whole = (~np.isnan(r.test_ns)).all(1).sum()
  assert whole < len(r.archs_nd)
  for one in found[:-1]:
    assert sum(part.cells for part in one.parts) <= whole


def test_recipes_that_share_a_name_are_never_compared(tmp_path):
  """Such as one with SpecAugment beside one without, of two contributors."""
  archs = planted_table.cells(3)
  rows = [planted_table.row(arch, seed) for arch in archs for seed in (1, 2)]
  masked = json.loads(rows[0]['recipe_json']) | {'time_masks': 2}
  rows[4]['recipe_json'] = json.dumps(masked)
  table.write_shard(tmp_path, 'rows', rows)
  mixed = table.open(tmp_path)
  for compare in analysis.results, landscape.landscape:
    with pytest.raises(table.ConflictError) as e:
      compare(mixed)
    told = str(e.value)
    assert "recipe 'e40' in" in told and '"time_masks": 2' in told
    assert 'give each its own name' in told and '\n' not in told
