"""Agreement of rankings: parts, budgets, seeds; the best cells."""

import itertools

import numpy as np
import pytest
import scipy.stats

from nasjax import analysis

NAN = float('nan')


def noisy(cells, seeds, noise, seed=0):
  """Error rates of cells, and of their runs."""
  rng = np.random.default_rng(seed)
  truth_n = rng.normal(size=cells)
  return truth_n, truth_n[:, None] + noise * rng.normal(size=(cells, seeds))


def test_slices_by_hand():
  per_n = np.array([5, 1, 4, 2, 3, 9, 8, 7, 6, 0.0])
  found = analysis.slices(per_n, share=0.3)
  assert found['all'].tolist() == [9, 1, 3, 4, 2, 0, 8, 7, 6, 5]
  assert found['top'].tolist() == [9, 1, 3]
  assert found['top 5 %'].tolist() == [9]
  assert found['middle'].tolist() == [4, 2, 0]
  assert found['bottom'].tolist() == [7, 6, 5]


@pytest.mark.parametrize('cells', [0, 1, 2, 8242])
def test_slices_of_any_table(cells):
  found = analysis.slices(np.arange(cells)[::-1])
  assert len(found['all']) == cells
  top = min(cells, 1000 if cells == 8242 else 1)
  for part in ('top', 'middle', 'bottom'):
    assert len(found[part]) == top
  assert len(found['top 5 %']) == min(cells, 412 if cells == 8242 else 1)


def test_slices_refuse():
  with pytest.raises(ValueError, match='1 of 2 error rates are NaN'):
    analysis.slices([1, NAN])
  for share in (0, -0.1, 1.5):
    with pytest.raises(ValueError, match='share='):
      analysis.slices([1, 2], share)


def test_by_slice_is_scipys_in_each_part():
  rng = np.random.default_rng(0)
  val_n = rng.normal(size=300).round(1)
  test_n = val_n + rng.normal(size=300)
  val_n[5], test_n[6] = NAN, NAN
  found = analysis.by_slice(val_n, test_n, share=0.2, repeats=50)
  kept = np.flatnonzero(~np.isnan(val_n + test_n))
  order = kept[np.argsort(val_n[kept], kind='stable')]
  parts = {
    'all': order,
    'top': order[:60],
    'top 5 %': order[:15],
    'middle': order[119:179],
    'bottom': order[-60:],
  }
  assert list(found) == list(parts)
  for name, rows in parts.items():
    expected = scipy.stats.spearmanr(val_n[rows], test_n[rows]).statistic
    assert found[name].value == pytest.approx(expected, abs=1e-12)
    assert found[name].n == len(rows)
    assert found[name].low < expected < found[name].high
  assert found['top'].value < found['all'].value  # a narrow part agrees less


def test_by_slice_of_few_cells():
  for cells in (0, 1, 3):
    found = analysis.by_slice(np.arange(cells), np.arange(cells))
    assert found['all'].n == cells and np.isnan(found['all'].low)
  assert analysis.by_slice([NAN, 1], [1, NAN])['all'].n == 0


def test_by_seed_leaves_out_what_failed_with_that_seed():
  truth_n, first_ns = noisy(60, 3, 0.3)
  second_ns = truth_n[:, None] + 0.5 * np.random.default_rng(9).normal(
    size=(60, 3)
  )
  first_ns[0, 0], second_ns[1, 0], second_ns[2:, 2] = NAN, NAN, NAN
  found = analysis.by_seed(first_ns, second_ns, repeats=50)
  assert [c.n for c in found] == [58, 60, 2]
  expected = scipy.stats.spearmanr(first_ns[2:, 0], second_ns[2:, 0]).statistic
  assert found[0].value == pytest.approx(expected, abs=1e-12)


def test_noise_ceiling_is_the_mean_over_pairs():
  _, value_ns = noisy(90, 4, 0.4)
  value_ns[7, 2] = NAN
  found = analysis.noise_ceiling(value_ns, seed=3, repeats=40)
  whole_ns = np.delete(value_ns, 7, axis=0)
  assert found.left_out == 1 and found.seeds == 4 and found.single.n == 89

  def by_loop(value_ns):
    return np.mean(
      [
        scipy.stats.spearmanr(value_ns[:, s], value_ns[:, t]).statistic
        for s, t in itertools.combinations(range(4), 2)
      ]
    )

  assert found.single.value == pytest.approx(by_loop(whole_ns), abs=1e-12)
  interval = analysis.bootstrap_interval(by_loop, (whole_ns,), 3, 40)
  assert found.single[1:3] == pytest.approx(interval, abs=1e-12)
  assert [pair for pair, _ in found.pairs] == [
    (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
  ]  # fmt: skip
  expected = scipy.stats.spearmanr(whole_ns[:, 1], whole_ns[:, 3]).statistic
  assert found.pairs[4][1].value == pytest.approx(expected, abs=1e-12)


def test_spearman_and_brown_foretell_the_means():
  # Pearson's correlation of normal runs is 1 / (1 + noise^2), of means of m
  # runs 1 / (1 + noise^2 / m); of the truth with a run it is the root.
  noise, runs = 0.8, 3
  single = 1 / (1 + noise**2)
  expected = 1 / (1 + noise**2 / runs)
  assert analysis.spearman_brown(single, runs) == pytest.approx(expected)
  assert analysis.spearman_brown(0.5, 1) == 0.5
  assert np.isnan(analysis.spearman_brown(-0.5, 3))
  truth_n, value_ns = noisy(20_000, 2 * runs, noise)
  found = analysis.noise_ceiling(value_ns[:, :runs], repeats=2)
  halves = [value_ns[:, :runs].mean(axis=1), value_ns[:, runs:].mean(axis=1)]
  # Ranks of normal values follow within a hundredth or two.
  assert found.of_mean.value == pytest.approx(
    analysis.spearman(*halves), abs=0.02
  )
  limit = analysis.attainable(found.single.value)
  assert limit == pytest.approx(
    analysis.spearman(truth_n, value_ns[:, 0]), abs=0.02
  )
  assert np.isnan(analysis.attainable(-0.1))
  assert np.isnan(analysis.attainable(NAN))


@pytest.mark.parametrize('shape', [(0, 3), (5, 1), (0, 0), (1, 3)])
def test_noise_ceiling_of_too_little(shape):
  found = analysis.noise_ceiling(np.ones(shape))
  assert np.isnan(found.single.value) and np.isnan(found.of_mean.value)
  top = analysis.noise_ceiling_at_top(np.ones(shape))
  assert np.isnan(top.value) and np.isnan(top.low)


def test_noise_ceiling_at_top_is_not_bent_by_the_choice():
  # Within the best by other seeds, the truth still ranks: above 0, though cut
  # by the runs themselves it would seem to be below.
  _, value_ns = noisy(4000, 3, 1.0)
  found = analysis.noise_ceiling_at_top(value_ns, 0.1, repeats=100)
  assert found.n == 400
  rows = analysis.slices(value_ns[:, 2], 0.1)['top']
  one = analysis.spearman(*value_ns[rows, :2].T)
  assert found.low > 0.05 and found.value == pytest.approx(one, abs=0.1)
  bent = analysis.slices(value_ns.mean(axis=1), 0.1)['top']
  assert analysis.spearman(*value_ns[bent, :2].T) < -0.1


def test_best_by_hand():
  value_ns = np.array(
    [[4, 6], [1, 3], [2, 4], [9, NAN], [8, 8], [20, 22], [NAN, 0.0]]
  )
  has_ns = np.ones((7, 2), bool)
  has_ns[3, 1] = False  # not run, which is no failure
  found = analysis.best(value_ns, has_ns)
  assert found.order.tolist() == [1, 2, 0, 4, 3, 5]
  # The best eighth is one cell, too few: all are pooled, on 5 degrees.
  assert found.seed_sd == pytest.approx(np.sqrt((2 + 2 + 2 + 0 + 2) / 5))
  half = scipy.stats.t.ppf(0.975, 5) * found.seed_sd / np.sqrt(2)
  assert found.half_n[1] == pytest.approx(half)
  assert found.half_n[3] == pytest.approx(half * np.sqrt(2))
  assert np.isnan(found.half_n[6])
  # 2 + 2.3 reaches 3 and 5, and 9 - 3.25, not 8 - 2.3.
  assert found.tied == 3


def test_best_pools_the_noise_of_the_top():
  rng = np.random.default_rng(0)
  value_ns = np.concatenate(
    [
      np.linspace(0.2, 0.3, 100)[:, None] + 0.001 * rng.normal(size=(100, 3)),
      0.9 + 0.05 * rng.normal(size=(700, 3)),
    ]
  )
  found = analysis.best(value_ns, np.ones((800, 3), bool))
  assert found.seed_sd == pytest.approx(0.001, rel=0.2)
  # Intervals of 0.0023 on a ladder of steps of 0.001.
  assert 2 <= found.tied <= 5 and found.order[0] < 5


def test_best_without_repeats_or_cells():
  found = analysis.best(np.array([[3.0], [1.0]]), np.ones((2, 1), bool))
  assert found.order.tolist() == [1, 0] and found.tied is None
  assert np.isnan(found.half_n).all() and np.isnan(found.seed_sd)
  found = analysis.best(np.full((2, 3), NAN), np.ones((2, 3), bool))
  assert not len(found.order) and found.tied is None


def test_the_best_of_some_drawn_is_expected_as_all_draws_say():
  rng = np.random.default_rng(5)
  val_n, test_n = rng.integers(0, 4, 7) / 10, rng.uniform(size=7)
  for count in (1, 2, 3, 7):
    found = [
      # The first of several that are as good, in any order.
      test_n[min(drawn, key=lambda n: val_n[n])]
      for drawn in itertools.permutations(range(7), count)
    ]
    expected = analysis.expected_best(val_n, test_n, count)
    assert expected == pytest.approx(np.mean(found))
  for count in (0, 8):
    with pytest.raises(ValueError, match=f'{count} of 7 cells'):
      analysis.expected_best(val_n, test_n, count)
  with pytest.raises(ValueError, match='NaN'):
    analysis.expected_best([0.1, NAN], [0.1, 0.2], 1)
