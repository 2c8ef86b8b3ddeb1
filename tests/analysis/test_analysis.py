"""Analyses, against brute force, SciPy and numbers worked out by hand."""

import numpy as np
import pytest
import scipy.stats

from nasjax import analysis, spaces

SPACE = spaces.NB_ASR
NAN, INF = float('nan'), float('inf')


def front_by_definition(cost_n, error_n):
  points = list(zip(cost_n, error_n))
  return [
    bool(np.isfinite(p).all())
    and not any(
      q[0] <= p[0] and q[1] <= p[1] and (q[0] < p[0] or q[1] < p[1])
      for q in points
    )
    for p in points
  ]


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('levels', [3, 1000])
def test_pareto_front_is_its_definition(seed, levels):
  rng = np.random.default_rng(seed)
  cost_n, error_n = rng.integers(levels, size=(2, 40)).astype(float)
  error_n[rng.integers(40, size=5)] = NAN
  cost_n[rng.integers(40, size=3)] = rng.choice([INF, -INF, NAN])
  # A point that is not finite neither stands nor beats another.
  finite = np.isfinite(cost_n) & np.isfinite(error_n)
  expected = np.zeros(40, bool)
  expected[finite] = front_by_definition(cost_n[finite], error_n[finite])
  got = analysis.pareto_front(cost_n, error_n)
  assert got.dtype == bool
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
  'cost, error, front',
  [
    ([], [], []),
    ([1], [1], [True]),
    ([1, 1], [2, 2], [True, True]),
    ([1, 1], [2, 3], [True, False]),
    ([1, 2], [2, 2], [True, False]),
    ([2, 1, 3], [1, 2, 0], [True, True, True]),
    ([1, 2], [NAN, 5], [False, True]),
  ],
)
def test_pareto_front_by_hand(cost, error, front):
  assert analysis.pareto_front(cost, error).tolist() == front


@pytest.mark.parametrize('levels', [2, 5, 10**6])
def test_spearman_is_scipys(levels):
  rng = np.random.default_rng(levels)
  for size in (2, 3, 50):
    x_n, y_n = rng.integers(levels, size=(2, size))
    x_n[0], y_n[0], x_n[1], y_n[1] = 0, levels, levels, 0
    expected = scipy.stats.spearmanr(x_n, y_n).statistic
    assert analysis.spearman(x_n, y_n) == pytest.approx(expected, abs=1e-12)


def test_spearman_at_the_edges():
  assert analysis.spearman([1, 2, INF], [3, 5, 9]) == pytest.approx(1)
  assert analysis.spearman([1, 2, 3], [9, 5, 3]) == pytest.approx(-1)
  for x, y in (([1, 1], [1, 2]), ([1], [1]), ([], [])):
    assert np.isnan(analysis.spearman(x, y))
  with pytest.raises(ValueError, match='NaN'):
    analysis.spearman([1, NAN], [1, 2])
  with pytest.raises(ValueError, match=r'\(2,\) and \(3,\)'):
    analysis.spearman([1, 2], [1, 2, 3])


@pytest.mark.parametrize('level', [0.5, 0.9, 0.95])
def test_bootstrap_of_a_mean_is_what_theory_says(level):
  x_n = np.random.default_rng(3).normal(size=400)
  interval = analysis.bootstrap_interval(np.mean, (x_n,), 0, 8000, level)
  error = x_n.std() / 20
  expected = scipy.stats.norm.interval(level, x_n.mean(), error)
  # A quantile of 8,000 draws is off by a few hundredths of their deviation.
  np.testing.assert_allclose(interval, expected, atol=0.06 * error)


def test_bootstrap_arguments():
  x_n = np.arange(9.0)
  once = analysis.bootstrap_interval(np.mean, (x_n,), seed=1)
  assert once == analysis.bootstrap_interval(np.mean, (x_n,), seed=1)
  assert once != analysis.bootstrap_interval(np.mean, (x_n,), seed=2)
  with pytest.raises(ValueError, match=r'\[9, 8\]'):
    analysis.bootstrap_interval(analysis.spearman, (x_n, x_n[1:]))
  with pytest.raises(ValueError, match='not 0'):
    analysis.bootstrap_interval(np.mean, (x_n[:0],))
  with pytest.raises(ValueError, match='level=1'):
    analysis.bootstrap_interval(np.mean, (x_n,), level=1)


def test_rank_correlation_keeps_pairs_together():
  rng = np.random.default_rng(0)
  x_n = rng.normal(size=60)
  y_n = x_n + 0.2 * rng.normal(size=60)
  found = analysis.rank_correlation(x_n, y_n)
  assert 0.85 < found.low < found.value < found.high < 1 and found.n == 60
  nothing = analysis.rank_correlation(x_n, np.ones(60))
  assert np.isnan(nothing[:3]).all() and nothing.n == 60
  assert analysis.rank_correlation([], []).n == 0


def test_spread_by_hand():
  found = analysis.spread(['a', 'b', 'a', 'b', 'c', 'b'], [1, 4, 3, 4, 9, NAN])
  # Means 2, 4, 9; squares 1 + 1 + 0 + 0 on 2 degrees of freedom.
  assert found.cells == pytest.approx(np.std([2, 4, 9], ddof=1))
  assert found.seeds == pytest.approx(1.0)
  assert found.repeated == 2
  alone = analysis.spread([1], [0.5])
  assert np.isnan(alone.cells) and np.isnan(alone.seeds)
  nothing = analysis.spread([1], [NAN])
  assert np.isnan(nothing.cells) and nothing.repeated == 0


def test_separate_by_hand():
  path = [[0, 1], [0, 0, 1], [4, 0, 1, 0]]  # t_0 to t_1 to t_3
  none = [[0, 1], [1, 1, 1], [5, 0, 0, 0]]
  direct = [[2, 0], [3, 0, 0], [1, 1, 0, 0]]
  archs = [path, path, none, direct, none]
  found = analysis.separate(SPACE, archs, [0.2, 0.4, 0.9, 0.1, NAN])
  with_path, without = found.by_skip_path
  assert with_path.label == 'with an identity path'
  assert with_path[1:] == pytest.approx((2, 3, 0, 0.1, 0.2, 0.2, 0.3))
  assert without[1:] == (1, 1, 1, 0.9, 0.9, 0.9, 0.9)
  linear = {g.label: g.mean for g in found.by_op['linear']}
  assert linear == pytest.approx(
    {'0 linear': 0.1, '1 linear': 0.9, '2 linear': 0.3}
  )
  assert [g.label for g in found.by_op['zero']] == ['0 zero', '1 zero']
  assert [g.label for g in found.by_skips] == ['1 skips', '3 skips']
  assert found.by_skips[1].runs == 3 and found.by_skips[1].cells == 2
  assert found.spread.repeated == 1
  assert found.spread.seeds == pytest.approx(np.std([0.2, 0.4], ddof=1))
  assert found.spread.cells == pytest.approx(np.std([0.3, 0.9, 0.1], ddof=1))


def test_separate_counts_every_run_once():
  archs = SPACE.enumerate()[::7]
  rng = np.random.default_rng(0)
  error_r = rng.random(len(archs))
  error_r[::10] = NAN
  found = analysis.separate(SPACE, archs, error_r)
  for groups in (found.by_skip_path, found.by_skips, *found.by_op.values()):
    assert sum(g.runs for g in groups) == np.isfinite(error_r).sum()
    assert sum(g.failed for g in groups) == np.isnan(error_r).sum()
    assert all(g.best <= g.median <= g.worst for g in groups)
  assert len(found.by_skips) == 7
  assert [len(groups) for groups in found.by_op.values()] == [4] * 6


def test_separate_with_nothing_but_failures():
  found = analysis.separate(SPACE, SPACE.enumerate()[:2], [NAN, NAN])
  (group,) = found.by_skip_path
  assert group.failed == 2 and group.cells == 0 and np.isnan(group.best)
  assert np.isnan(found.spread.cells)


def test_separate_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match='one a row'):
    analysis.separate(SPACE, SPACE.enumerate()[:2], [0.1])
  with pytest.raises(ValueError, match='row 0'):
    analysis.separate(SPACE, [[0, 1]], [0.1])


@pytest.mark.parametrize('levels', [3, 10**6])
def test_resampled_correlations_are_those_of_resampled_rows(levels):
  rng = np.random.default_rng(levels)
  x_n = rng.integers(levels, size=37).astype(float)
  y_n = x_n + rng.integers(levels, size=37)
  value_nk = np.stack([x_n, y_n, -x_n], 1)
  draws_bkk = analysis.resampled_correlations(value_nk, seed=5, repeats=30)
  again = np.random.default_rng(5)
  for draws_kk in draws_bkk:
    picked_nk = value_nk[again.integers(37, size=37)]
    expected = scipy.stats.spearmanr(picked_nk).statistic
    np.testing.assert_allclose(draws_kk, expected, atol=1e-12)
  np.testing.assert_allclose(
    analysis.correlation_matrix(value_nk),
    scipy.stats.spearmanr(value_nk).statistic,
    atol=1e-12,
  )


def test_resampled_correlations_of_some_rows_leave_the_draws_as_they_are():
  value_nk = np.random.default_rng(0).normal(size=(40, 2))
  rows = np.array([3, 8, 9, 20, 21, 22, 30, 39])
  draws_bkk = analysis.resampled_correlations(value_nk, 2, 25, rows)
  again = np.random.default_rng(2)
  for draws_kk in draws_bkk:
    picks = again.integers(40, size=40)
    picked_nk = value_nk[picks[np.isin(picks, rows)]]
    expected = analysis.spearman(*picked_nk.T)
    np.testing.assert_allclose(draws_kk[0, 1], expected, atol=1e-12)


def test_resamples_do_not_depend_on_how_many_are_made_at_once():
  # 8,000 rows are made 65 at a time, 20 all at once.
  value_nk = np.random.default_rng(1).normal(size=(8000, 2))
  draws_bkk = analysis.resampled_correlations(value_nk, 3, 70)
  again = np.random.default_rng(3)
  picks = [again.integers(8000, size=8000) for _ in range(70)]
  for b in (0, 64, 65, 69):
    expected = analysis.spearman(*value_nk[picks[b]].T)
    assert draws_bkk[b, 0, 1] == pytest.approx(expected, abs=1e-12)


def test_interval_of_a_rank_correlation_is_the_bootstraps():
  rng = np.random.default_rng(0)
  x_n = rng.normal(size=50).round(1)
  y_n = x_n + rng.normal(size=50).round(1)
  found = analysis.rank_correlation(x_n, y_n, seed=4, repeats=200, level=0.9)
  expected = analysis.bootstrap_interval(
    analysis.spearman, (x_n, y_n), 4, 200, 0.9
  )
  assert found[1:3] == pytest.approx(expected, abs=1e-12)


def test_interval_of_a_rank_correlation_covers():
  # Normal pairs of correlation r have Spearman's 6 / pi * asin(r / 2).
  rng = np.random.default_rng(0)
  truth = 6 / np.pi * np.arcsin(0.35)
  hits = 0
  for k in range(120):
    x_n = rng.normal(size=80)
    y_n = 0.7 * x_n + np.sqrt(1 - 0.49) * rng.normal(size=80)
    found = analysis.rank_correlation(x_n, y_n, seed=k, repeats=200)
    hits += found.low <= truth <= found.high
  # 95 % of 120 is 114, give or take 2.4; the bootstrap is a little narrow.
  assert 106 <= hits <= 120


def test_few_pairs_have_no_interval():
  enough, few = analysis.MIN_VALUES, analysis.MIN_VALUES - 1
  found = analysis.rank_correlation(np.arange(few), np.arange(few))
  assert found.value == 1 and np.isnan(found.low) and found.n == few
  found = analysis.rank_correlation(np.arange(enough), np.arange(enough))
  assert found.low == found.high == pytest.approx(1)
  assert analysis.median([0.3, 0.1, 0.2]).value == 0.2
  assert np.isnan(analysis.median([0.3, 0.1, 0.2]).low)
  assert np.isnan(analysis.median([]).value)
  assert analysis.mean([0.3, 0.1]).value == 0.2
  assert np.isnan(
    [*analysis.mean([0.3, 0.1])[1:3], analysis.mean([]).value]
  ).all()
  x_n = np.arange(30.0) ** 2
  interval = analysis.bootstrap_interval(np.mean, (x_n,), 5, 99)
  assert analysis.mean(x_n, 5, 99) == (x_n.mean(), *interval, 30)
  found = analysis.median(np.arange(101.0))
  assert found.value == 50 and 30 < found.low < 50 < found.high < 70


@pytest.mark.parametrize('count, n', [(0, 1), (0, 51), (7, 51), (51, 51)])
def test_share_has_wilsons_interval(count, n):
  found = analysis.share(count, n)
  expected = scipy.stats.binomtest(count, n).proportion_ci(method='wilson')
  assert found.value == count / n and found.n == n
  assert found[1:3] == pytest.approx((expected.low, expected.high), abs=1e-12)
  assert np.isnan(analysis.share(0, 0).value)


def test_compare_calls_nothing_lower_that_overlaps():
  low, mid, high = (
    analysis.Estimate(v, v - 1, v + 1, 20) for v in (1.0, 2.5, 4.5)
  )
  touching = analysis.Estimate(3.0, 2.0, 4.0, 20)
  assert analysis.compare(low, mid) == 'overlapping'
  assert analysis.compare(low, touching) == 'overlapping'
  assert analysis.compare(low, high) == 'below'
  assert analysis.compare(high, low) == 'above'
  none = analysis.Correlation(0.9, NAN, NAN, 3)
  assert analysis.compare(low, none) == 'unknown'
  assert analysis.compare(none, high) == 'unknown'


def test_columns_with_nan_are_refused():
  with pytest.raises(ValueError, match='1 values NaN'):
    analysis.correlation_matrix([[1, NAN], [2, 3]])
  with pytest.raises(ValueError, match='0 rows'):
    analysis.resampled_correlations(np.zeros((0, 2)))


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('objectives', [2, 3, 4])
def test_fronts_and_volumes_are_pymoos(seed, objectives):
  hv = pytest.importorskip('pymoo.indicators.hv')
  sorting = pytest.importorskip('pymoo.util.nds.non_dominated_sorting')
  rng = np.random.default_rng(seed)
  # Whole numbers too, so that points are equal and tie.
  point_nk = rng.integers(1, 8, (25, objectives)) / (1 if seed % 2 else 7.3)
  reference_k = np.full(objectives, point_nk.max() * 0.9)
  front = sorting.NonDominatedSorting().do(
    point_nk, only_non_dominated_front=True
  )
  assert np.flatnonzero(analysis.non_dominated(point_nk)).tolist() == sorted(
    front
  )
  want = hv.HV(ref_point=reference_k)(point_nk)
  assert np.isclose(analysis.hypervolume(point_nk, reference_k), want, 1e-12)


def test_volume_by_hand_and_of_nothing():
  points = [[1, 3], [2, 2], [3, 1], [2, 2], [NAN, 0], [0, 9]]
  assert analysis.hypervolume(points, (4, 4)) == 6
  assert analysis.hypervolume(np.zeros((0, 3)), (1, 1, 1)) == 0
  assert analysis.non_dominated(points).tolist() == [1, 1, 1, 1, 0, 1]
  with pytest.raises(ValueError, match='reference of shape .3,. for points'):
    analysis.hypervolume(points, (1, 2, 3))


@pytest.mark.parametrize('objectives', [2, 3])
def test_volume_is_the_share_of_random_points(objectives):
  rng = np.random.default_rng(objectives)
  point_nk = rng.random((8, objectives))
  dart_mk = rng.random((40000, objectives))
  hit_m = (point_nk[:, None] <= dart_mk[None]).all(axis=2).any(axis=0)
  got = analysis.hypervolume(point_nk, np.ones(objectives))
  assert abs(got - hit_m.mean()) < 0.02


def test_non_dominated_is_the_front_of_two():
  rng = np.random.default_rng(0)
  cost_n, error_n = rng.integers(9, size=(2, 60)).astype(float)
  np.testing.assert_array_equal(
    analysis.non_dominated(np.stack([cost_n, error_n], 1)),
    analysis.pareto_front(cost_n, error_n),
  )
