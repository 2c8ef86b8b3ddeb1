"""Rankings on two corpora: choice of cells, correlations, ceiling."""

import numpy as np
import pytest
import scipy.stats

from nasjax import analysis


def results(val_ns, test_ns):
  val_ns, test_ns = np.asarray(val_ns, float), np.asarray(test_ns, float)
  cells, seeds = val_ns.shape
  archs_nd = np.arange(cells, dtype=np.int8)[:, None]
  cost_n = np.full(cells, 1.0)
  has_ns = np.ones(val_ns.shape, bool)
  return analysis.Results(
    'e', 1, archs_nd, tuple(range(seeds)), has_ns, val_ns, test_ns, cost_n,
    cost_n, {},
  )  # fmt: skip


def test_cells_are_chosen_by_rank_and_by_lot():
  rng = np.random.default_rng(0)
  val_n = rng.permutation(np.linspace(0.1, 0.6, 101))
  val_n[rng.choice(np.flatnonzero(val_n < 0.4), 3, replace=False)] = np.nan
  chosen = analysis.choose(val_n, best=5, random=20, worst=4, seed=3)
  ranked = [n for n in np.argsort(val_n) if val_n[n] <= 0.5]
  assert chosen.cell_n[:5].tolist() == ranked[:5]
  assert chosen.cell_n[-4:].tolist() == ranked[-4:]
  drawn = chosen.cell_n[5:25]
  assert len(set(drawn)) == 20 and set(drawn) <= set(ranked[5:-4])
  assert chosen.group_n == ('best',) * 5 + ('random',) * 20 + ('worst',) * 4
  assert chosen.left_out == len(val_n) - len(ranked)
  again = analysis.choose(val_n, best=5, random=20, worst=4, seed=3)
  np.testing.assert_array_equal(chosen.cell_n, again.cell_n)
  other = analysis.choose(val_n, best=5, random=20, worst=4, seed=4)
  assert (chosen.cell_n != other.cell_n).any()
  whole = analysis.choose(val_n, best=0, random=len(ranked), worst=0)
  assert sorted(whole.cell_n) == sorted(ranked)


def test_more_cells_than_there_are_are_refused():
  with pytest.raises(ValueError, match='are 7 cells; 4 of the 6 .* 50%'):
    analysis.choose([0.1, 0.2, 0.3, 0.5, 0.6, np.nan], 2, 4, 1)


def test_correlations_are_scipys_over_cells():
  rng = np.random.default_rng(1)
  source_ns = rng.uniform(0.2, 0.5, (40, 3))
  target_ns = source_ns[:, :2] + rng.normal(0, 0.1, (40, 2))
  target_ns[7, 1] = np.nan
  found = analysis.transfer(
    results(source_ns + 1, source_ns), results(target_ns * 2, target_ns)
  )
  keep = np.arange(40) != 7
  x, y = source_ns.mean(1)[keep], target_ns.mean(1)[keep]
  for name, function in [
    ('pearson', scipy.stats.pearsonr),
    ('spearman', scipy.stats.spearmanr),
    ('kendall', scipy.stats.kendalltau),
  ]:
    for split in ('val', 'test'):
      c = getattr(found, name)[split]
      assert c.value == pytest.approx(function(x, y).statistic)
      assert c.low < c.value < c.high and c.n == 39
  assert found.left_out == 1


def test_the_ceiling_is_what_noise_leaves():
  """Equal cells on both sides correlate as high as seeds allow."""
  rng = np.random.default_rng(2)
  truth_n1 = rng.normal(0.3, 0.05, (600, 1))
  source = truth_n1 + rng.normal(0, 0.03, (600, 3))
  target = truth_n1 + rng.normal(0, 0.05, (600, 2))
  found = analysis.transfer(
    results(source, source), results(target, target), repeats=2
  )
  assert found.spearman['test'].value == pytest.approx(
    found.ceiling['attainable']['test'], abs=0.05
  )
  one = target[:, :1]
  alone = analysis.transfer(
    results(source, source), results(one, one), repeats=2
  )
  assert np.isnan(alone.ceiling['attainable']['test'])


def test_cells_are_found_by_what_they_are():
  whole = results([[0.1], [0.2], [0.3]], [[0.4], [0.5], [0.6]])
  part = analysis.of_cells(whole, [[2], [0]])
  assert part.test_n.tolist() == [0.6, 0.4]
  with pytest.raises(ValueError, match=r'1 of 2 cells are not in recipe e'):
    analysis.of_cells(whole, [[2], [5]])
