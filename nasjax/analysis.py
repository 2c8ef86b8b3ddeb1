"""What a table says: Pareto fronts, rank correlation, what separates cells.

Functions of arrays. Error rates are fractions, lower is better; NaN stands for
a run that failed, and is counted, never averaged.
"""

from typing import NamedTuple

import numpy as np


class Correlation(NamedTuple):
  """A correlation and its bootstrap interval, over n pairs."""

  value: float
  low: float
  high: float
  n: int


class Group(NamedTuple):
  """Error rates of a group of cells, each the mean over the cell's runs.

  Attributes:
    label: what the cells have in common.
    cells: how many cells have at least one run that did not fail.
    runs: how many runs did not fail.
    failed: how many did.
    best, median, mean, worst: over cells; NaN where there are none.
  """

  label: str
  cells: int
  runs: int
  failed: int
  best: float
  median: float
  mean: float
  worst: float


class Spread(NamedTuple):
  """Standard deviations of an error rate.

  Attributes:
    cells: of the cells' means, over cells; NaN for fewer than two.
    seeds: of the runs about the mean of their cell, pooled over cells that have
      several runs; NaN if none has.
    repeated: how many cells have several runs.
  """

  cells: float
  seeds: float
  repeated: int


class Separation(NamedTuple):
  """What separates the cells of a table.

  Attributes:
    spread: between cells and between seeds.
    by_skip_path: with, then without a path of skips from input to output.
    by_op: for each operation, groups by how many nodes have it.
    by_skips: groups by the number of skips.
  """

  spread: Spread
  by_skip_path: tuple[Group, ...]
  by_op: dict[str, tuple[Group, ...]]
  by_skips: tuple[Group, ...]


def pareto_front(cost_n, error_n):
  """Marks what nothing else beats in both cost and error.

  A point is beaten by one that is no worse in both and better in one. Equal
  points stand or fall together; NaN or infinity in either never stands.

  Returns:
    front_n, bool.
  """
  cost_n, error_n = _pairs(cost_n, error_n)
  front_n = np.zeros(len(cost_n), bool)
  finite = np.flatnonzero(np.isfinite(cost_n) & np.isfinite(error_n))
  order = finite[np.lexsort((error_n[finite], cost_n[finite]))]
  best = (np.inf, np.inf)  # cost and error of the last point on the front
  for n in order:
    if error_n[n] < best[1] or (cost_n[n], error_n[n]) == best:
      best = (cost_n[n], error_n[n])
      front_n[n] = True
  return front_n


def spearman(x_n, y_n):
  """Returns Spearman's rank correlation; equal values share their mean rank.

  NaN for fewer than two points or a constant.

  Raises:
    ValueError: lengths differ, or a value is NaN: a failed run has no rank, and
      whether it counts as the worst or not at all is for the caller to say.
  """
  x_n, y_n = _pairs(x_n, y_n)
  if np.isnan(x_n).any() or np.isnan(y_n).any():
    raise ValueError(
      f'{np.isnan(x_n).sum()} and {np.isnan(y_n).sum()} of {len(x_n)} values '
      'are NaN, which has no rank; leave failed runs out, or make them inf'
    )
  x_n, y_n = _ranks(x_n), _ranks(y_n)
  if len(x_n) < 2 or np.ptp(x_n) == 0 or np.ptp(y_n) == 0:
    return float('nan')
  x_n, y_n = x_n - x_n.mean(), y_n - y_n.mean()
  return float((x_n @ y_n) / np.sqrt((x_n @ x_n) * (y_n @ y_n)))


def bootstrap_interval(statistic, arrays, seed=0, repeats=1000, level=0.95):
  """Returns the percentile bootstrap interval of a statistic.

  Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
  Resamples in which the statistic is NaN (all points equal, say) are left out.

  Args:
    statistic: function of the arrays that returns a number.
    arrays: a tuple of arrays [n, ..], resampled together.
    seed: of the resampling; equal seeds give equal intervals.
    repeats: number of resamples.
    level: probability that the interval is to cover.

  Returns:
    low, high; NaN if the statistic is NaN in every resample.
  """
  count = len(arrays[0])
  if count == 0 or any(len(a) != count for a in arrays):
    raise ValueError(
      f'arrays have {[len(a) for a in arrays]} rows; want as many each, not 0'
    )
  if not 0 < level < 1 or repeats < 1:
    raise ValueError(f'level={level}, repeats={repeats}; want 0 < level < 1')
  rng = np.random.default_rng(seed)
  arrays = [np.asarray(a) for a in arrays]
  draws = np.empty(repeats)
  for i in range(repeats):
    picks = rng.integers(count, size=count)
    draws[i] = statistic(*(a[picks] for a in arrays))
  draws = draws[~np.isnan(draws)]
  if not len(draws):
    return float('nan'), float('nan')
  tail = (1 - level) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return float(low), float(high)


def rank_correlation(x_n, y_n, seed=0, repeats=1000, level=0.95):
  """Returns the Correlation of two columns: Spearman's, with its interval."""
  value = spearman(x_n, y_n)
  if not len(x_n):
    return Correlation(value, value, value, 0)
  interval = bootstrap_interval(spearman, (x_n, y_n), seed, repeats, level)
  return Correlation(value, *interval, len(x_n))


def spread(group_r, error_r):
  """Returns the Spread of error rates between groups (cells) and within.

  Args:
    group_r: number or name of the group of each run.
    error_r: error rate of each run; NaN is left out.
  """
  error_r = np.asarray(error_r, np.float64)
  ran_r = ~np.isnan(error_r)
  _, group_r = np.unique(np.asarray(group_r)[ran_r], return_inverse=True)
  error_r = error_r[ran_r]
  count_g = np.bincount(group_r)
  mean_g = np.bincount(group_r, error_r) / count_g
  freedom = len(error_r) - len(count_g)
  squares = ((error_r - mean_g[group_r]) ** 2).sum()
  return Spread(
    float(mean_g.std(ddof=1)) if len(mean_g) > 1 else float('nan'),
    float(np.sqrt(squares / freedom)) if freedom else float('nan'),
    int((count_g > 1).sum()),
  )


def separate(space, archs_rd, error_r):
  """Groups the runs of a table by what their cells contain.

  Args:
    space: the search space.
    archs_rd: cell of each run; a cell has as many rows as it has seeds.
    error_r: error rate of each run, NaN where it failed.

  Returns:
    A Separation, without the groups that have no runs at all.
  """
  archs_rd = space.parse_all(archs_rd)
  error_r = np.asarray(error_r, np.float64)
  if error_r.shape != (len(archs_rd),):
    raise ValueError(
      f'{len(archs_rd)} cells but error rates of shape {error_r.shape}; '
      'want one a row'
    )
  cell_r = space.indices(archs_rd)
  path_r = space.has_skip_paths(archs_rd)
  ops_rn = archs_rd[:, list(space.op_positions)]
  skips_r = space.skip_matrices(archs_rd).sum(axis=(1, 2)).astype(int)

  def by_count(count_r, what):
    return tuple(
      _group(f'{count} {what}', cell_r, error_r, count_r == count)
      for count in np.unique(count_r)
    )

  return Separation(
    spread(cell_r, error_r),
    tuple(
      _group(f'{label} a path of skips', cell_r, error_r, path_r == has)
      for label, has in (('with', True), ('without', False))
      if (path_r == has).any()
    ),
    {
      name: by_count((ops_rn == o).sum(axis=1), name)
      for o, name in enumerate(space.ops)
    },
    by_count(skips_r, 'skips'),
  )


def _group(label, cell_r, error_r, in_r):
  """Returns the Group of the runs that a mask picks."""
  ran_r = in_r & ~np.isnan(error_r)
  failed = int(in_r.sum() - ran_r.sum())
  if not ran_r.any():
    return Group(label, 0, 0, failed, *(float('nan'),) * 4)
  _, cell_r = np.unique(cell_r[ran_r], return_inverse=True)
  error_c = np.bincount(cell_r, error_r[ran_r]) / np.bincount(cell_r)
  return Group(
    label,
    len(error_c),
    int(ran_r.sum()),
    failed,
    float(error_c.min()),
    float(np.median(error_c)),
    float(error_c.mean()),
    float(error_c.max()),
  )


def _pairs(x_n, y_n):
  """Returns both as float64 vectors of one length."""
  x_n, y_n = np.asarray(x_n, np.float64), np.asarray(y_n, np.float64)
  if x_n.ndim != 1 or x_n.shape != y_n.shape:
    raise ValueError(
      f'shapes {x_n.shape} and {y_n.shape}; want two vectors of one length'
    )
  return x_n, y_n


def _ranks(x_n):
  """Returns ranks from 1, equal values sharing the mean of theirs."""
  _, place_n, count_k = np.unique(x_n, return_inverse=True, return_counts=True)
  return (np.cumsum(count_k) - (count_k - 1) / 2)[place_n]
