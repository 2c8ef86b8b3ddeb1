"""How well one ranking of cells agrees with another.

Validation with test, few epochs with many, one seed with another: the questions
of Mehrotra et al., NAS-Bench-ASR, ICLR 2021, Tables 2 and 3, and how high any
answer can be. All correlations are Spearman's.
"""

from typing import NamedTuple

import numpy as np

from nasjax.analysis import statistics

# The paper looks at the 1,000 best of its 8,242 cells; a table of any size has
# as large a share.
TOP_SHARE = 1000 / 8242


class Ceiling(NamedTuple):
  """How far the noise of seeds lets rankings agree.

  Attributes:
    single: the correlation of one seed with another, the mean over all pairs.
    of_mean: the same of means over that many seeds, by Spearman and Brown.
    seeds: how many seeds.
    pairs: ((s, t), Correlation) for each pair of columns.
    left_out: cells that lack a seed or failed with one.
  """

  single: statistics.Correlation
  of_mean: statistics.Correlation
  seeds: int
  pairs: tuple
  left_out: int


def slices(per_n, share=TOP_SHARE):
  """Returns parts of a ranking, best first: {name: rows}.

  All; the best `share`; the best twentieth; as many as the best `share` around
  the middle, and at the end. Equal cells stay in the order in which they came.

  Args:
    per_n: error rates without NaN.
    share: of the cells, above 0 and at most 1.
  """
  per_n = np.asarray(per_n, np.float64)
  if np.isnan(per_n).any():
    raise ValueError(
      f'{np.isnan(per_n).sum()} of {len(per_n)} error rates are NaN, which '
      'has no rank; leave failed runs out'
    )
  if not 0 < share <= 1:
    raise ValueError(f'share={share}; want it above 0 and at most 1')
  order_n = np.argsort(per_n, kind='stable')
  count = _part(share, len(order_n))
  first = (len(order_n) - count) // 2
  return {
    'all': order_n,
    'top': order_n[:count],
    'top 5 %': order_n[: _part(0.05, len(order_n))],
    'middle': order_n[first : first + count],
    'bottom': order_n[len(order_n) - count :],
  }


def _part(share, whole):
  return min(whole, max(1, round(share * whole)))


def by_slice(rank_n, other_n, share=TOP_SHARE, seed=0, repeats=1000):
  """Correlates two rankings within the `slices` of the first.

  The slices are cut once; intervals resample the cells within a slice.

  Args:
    rank_n: error rates by which slices are cut, such as validation PER.
    other_n: error rates to compare with; cells where either is NaN are left
      out.
    share: see `slices`.
    seed, repeats: of the bootstrap.

  Returns:
    {name of the slice: Correlation}.
  """
  rank_n, other_n = statistics.pairs(rank_n, other_n)
  both_n = ~np.isnan(rank_n) & ~np.isnan(other_n)
  rank_n, other_n = rank_n[both_n], other_n[both_n]
  return {
    name: statistics.rank_correlation(
      rank_n[rows], other_n[rows], seed, repeats
    )
    for name, rows in slices(rank_n, share).items()
  }


def by_seed(first_ns, second_ns, seed=0, repeats=1000):
  """Correlates two tables of error rates, seed by seed.

  Args:
    first_ns, second_ns: such as of two recipes; cells where either is NaN are
      left out of that seed.
    seed, repeats: of the bootstrap.

  Returns:
    a list of one Correlation a seed.
  """
  found = []
  for first_n, second_n in zip(np.transpose(first_ns), np.transpose(second_ns)):
    both_n = ~np.isnan(first_n) & ~np.isnan(second_n)
    found.append(
      statistics.rank_correlation(
        first_n[both_n], second_n[both_n], seed, repeats
      )
    )
  return found


def noise_ceiling(value_ns, seed=0, repeats=1000):
  """Correlates seeds with each other, over the cells that have them all.

  Intervals resample cells, the seeds being kept: with few seeds they say what
  other cells would do, not what other seeds would.

  Args:
    value_ns: error rates, NaN where a run failed or is not there.
    seed, repeats: of the bootstrap.

  Returns:
    A Ceiling; its correlations are NaN for fewer than two seeds.
  """
  value_ns = np.asarray(value_ns, np.float64)
  whole_n = ~np.isnan(value_ns).any(axis=1)
  value_ns = value_ns[whole_n]
  cells, seeds = value_ns.shape
  left_out = int((~whole_n).sum())
  if seeds < 2 or not cells:
    none = statistics.Correlation(*(float('nan'),) * 3, cells)
    return Ceiling(none, none, seeds, (), left_out)
  s, t = np.triu_indices(seeds, 1)
  value_p = statistics.correlation_matrix(value_ns)[s, t]
  draws_bp = statistics.resampled_correlations(value_ns, seed, repeats)[:, s, t]
  single = float(value_p.mean())
  of_mean = spearman_brown(single, seeds)
  draws_b = draws_bp.mean(axis=1)
  return Ceiling(
    statistics.correlation(single, draws_b, cells),
    statistics.correlation(of_mean, spearman_brown(draws_b, seeds), cells),
    seeds,
    tuple(
      ((int(a), int(b)), statistics.correlation(float(v), d, cells))
      for a, b, v, d in zip(s, t, value_p, draws_bp.T)
    ),
    left_out,
  )


def noise_ceiling_at_top(value_ns, share=TOP_SHARE, seed=0, repeats=1000):
  """Correlates seeds with each other, among the best cells.

  For each pair of seeds the best are those by the mean of the other seeds. Cut
  by the two themselves, or by a mean with them, a part would show less
  agreement than there is, or even the reverse: who did badly with one had to do
  well with the other to be in it.

  Args:
    value_ns: error rates, NaN where a run failed or is not there.
    share: of the cells, see `slices`.
    seed, repeats: of the bootstrap, which resamples the cells of each part.

  Returns:
    A Correlation, the mean over pairs; NaN for fewer than three seeds.
  """
  value_ns = np.asarray(value_ns, np.float64)
  value_ns = value_ns[~np.isnan(value_ns).any(axis=1)]
  cells, seeds = value_ns.shape
  if seeds < 3 or not cells:
    return statistics.Correlation(*(float('nan'),) * 3, 0)
  values, draws = [], []
  for pair in zip(*np.triu_indices(seeds, 1)):
    others_n = np.delete(value_ns, pair, axis=1).mean(axis=1)
    rows = slices(others_n, share)['top']
    pair_n2 = value_ns[:, pair]
    values.append(statistics.correlation_matrix(pair_n2[rows])[0, 1])
    draws.append(
      statistics.resampled_correlations(pair_n2, seed, repeats, rows)[:, 0, 1]
    )
  return statistics.correlation(
    float(np.mean(values)), np.mean(draws, axis=0), len(rows)
  )


def spearman_brown(correlation, runs):
  """Returns the correlation of means over `runs` from that of single ones.

  Spearman, and Brown, British Journal of Psychology 3, 1910: m r / (1 + (m - 1)
  r), exact for Pearson's correlation and runs of equal noise, approximate for
  ranks. NaN where it has no meaning, at or below -1 / (m - 1).
  """
  scale = 1 + (runs - 1) * np.asarray(correlation, np.float64)
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(scale > 0, runs * np.asarray(correlation) / scale, np.nan)[
      ()
    ]


def attainable(correlation):
  """Returns the highest correlation a score without noise can have with a run.

  The root of the correlation of two runs (classical test theory; approximate
  for ranks); NaN below 0.
  """
  return float(np.sqrt(correlation)) if correlation >= 0 else float('nan')
