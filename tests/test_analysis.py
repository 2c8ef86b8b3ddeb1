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
  assert with_path.label == 'with a path of skips'
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
