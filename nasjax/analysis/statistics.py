"""Rank correlations and intervals."""

from typing import NamedTuple

import numpy as np
import scipy.special

# Of fewer values, resamples are too much alike: ordered pairs, say, are ordered
# in each of them, and the interval would claim a certainty that few cells lack.
MIN_VALUES = 10


class Correlation(NamedTuple):
  """A correlation and its bootstrap interval, over n pairs.

  The interval is NaN for fewer than MIN_VALUES pairs.
  """

  value: float
  low: float
  high: float
  n: int


class Estimate(NamedTuple):
  """A statistic of n values and an interval; both NaN where there is none."""

  value: float
  low: float
  high: float
  n: int


def spearman(x_n, y_n):
  """Returns Spearman's rank correlation; equal values share their mean rank.

  NaN for fewer than two points or a constant.

  Raises:
    ValueError: lengths differ, or a value is NaN: a failed run has no rank, and
      whether it counts as the worst or not at all is for the caller to say.
  """
  x_n, y_n = pairs(x_n, y_n)
  if np.isnan(x_n).any() or np.isnan(y_n).any():
    raise ValueError(
      f'{np.isnan(x_n).sum()} and {np.isnan(y_n).sum()} of {len(x_n)} values '
      'are NaN, which has no rank; leave failed runs out, or make them inf'
    )
  x_n, y_n = ranks(x_n), ranks(y_n)
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
  draws_bkk = resampled_correlations(np.stack([x_n, y_n], 1), seed, repeats)
  return correlation(value, draws_bkk[:, 0, 1], len(x_n), level)


def kendall_correlation(x_n, y_n, seed=0, repeats=1000):
  """Returns the Correlation of two columns: Kendall's tau-b, with its interval.

  Kendall, The treatment of ties in ranking problems, Biometrika 33, 1945. Every
  pair is compared once: how often a resample has it is the product of how often
  it has the two. The resamples are those of `bootstrap_interval`.
  """
  n = len(x_n)
  sign_x_nn = np.sign(x_n[:, None] - x_n[None, :])
  sign_y_nn = np.sign(y_n[:, None] - y_n[None, :])
  rng = np.random.default_rng(seed)
  times_bn = [np.ones(n)]
  for _ in range(repeats if n else 0):
    times_bn.append(np.bincount(rng.integers(n, size=n), minlength=n))
  times_bn = np.array(times_bn, np.float64)
  agree_b, x_b, y_b = (
    np.einsum('bn,bn->b', times_bn @ pairs_nn, times_bn)
    for pairs_nn in (sign_x_nn * sign_y_nn, sign_x_nn**2, sign_y_nn**2)
  )
  with np.errstate(invalid='ignore'):
    tau_b = agree_b / np.sqrt(x_b * y_b)
  return correlation(float(tau_b[0]), tau_b[1:], n)


def correlation(value, draws_b, n, level=0.95):
  """Returns the Correlation of a value, its resamples and a number of pairs."""
  draws_b = draws_b[~np.isnan(draws_b)]
  if n < MIN_VALUES or not len(draws_b):
    return Correlation(value, float('nan'), float('nan'), n)
  tail = (1 - level) / 2
  low, high = np.quantile(draws_b, [tail, 1 - tail])
  return Correlation(value, float(low), float(high), n)


def correlation_matrix(value_nk):
  """Returns Spearman's correlations of all columns, [k, k]; see `spearman`."""
  value_nk = _columns(value_nk)
  once_bn = np.ones((1, len(value_nk)), np.int64)
  return _weighted(_places(value_nk), once_bn)[0]


def resampled_correlations(value_nk, seed=0, repeats=1000, rows=None):
  """Returns `correlation_matrix` of bootstrap resamples of the rows.

  The resamples are those of `bootstrap_interval`. A row drawn several times is
  several equal values, so its rank follows from counts, and nothing is sorted
  twice: 1,000 resamples of 8,242 rows in two columns took 0.9 s of a core.

  Args:
    value_nk: columns, without NaN.
    seed: of the resampling.
    repeats: number of resamples.
    rows: which rows are correlated; None: all. All are resampled, so that parts
      of one table, called for one by one, are resampled together.

  Returns:
    draws_bkk; NaN where a column is constant.
  """
  value_nk = _columns(value_nk)
  count = len(value_nk)
  if not count or repeats < 1:
    raise ValueError(
      f'{count} rows, repeats={repeats}; want at least 1 of each'
    )
  rows = np.arange(count) if rows is None else np.asarray(rows)
  rng = np.random.default_rng(seed)
  places = _places(value_nk[rows])
  at_once = max(1, 2**19 // count)  # a few MB, which caches still hold
  parts = []
  for first in range(0, repeats, at_once):
    some = range(min(at_once, repeats - first))
    times_bn = np.stack(
      [
        np.bincount(rng.integers(count, size=count), minlength=count)
        for _ in some
      ]
    )
    parts.append(_weighted(places, times_bn[:, rows]))
  return np.concatenate(parts)


def compare(first, second):
  """Says how one estimate lies to another.

  Returns:
    'below' or 'above' if the intervals are apart, 'overlapping' if they are
    not, 'unknown' if one of them is NaN.
  """
  if np.isnan([*first[1:3], *second[1:3]]).any():
    return 'unknown'
  if first.high < second.low:
    return 'below'
  return 'above' if first.low > second.high else 'overlapping'


def mean(x_n, seed=0, repeats=1000):
  """Returns the Estimate of a mean; the interval needs MIN_VALUES values."""
  return _estimate(np.mean, x_n, seed, repeats)


def student_mean(x_n, level=0.95):
  """Returns the Estimate of a mean of two or more values by Student's t.

  For the few seeds of a search, of which resamples are too much alike. NaN
  among the values is left out, and not counted.
  """
  x_n = np.asarray(x_n, np.float64)
  x_n = x_n[np.isfinite(x_n)]
  n = len(x_n)
  if n < 2:
    value = float(x_n[0]) if n else float('nan')
    return Estimate(value, float('nan'), float('nan'), n)
  half = scipy.special.stdtrit(n - 1, (1 + level) / 2)
  half *= x_n.std(ddof=1) / np.sqrt(n)
  return Estimate(float(x_n.mean()), x_n.mean() - half, x_n.mean() + half, n)


def median(x_n, seed=0, repeats=1000):
  """Returns the Estimate of a median; the interval needs MIN_VALUES values."""
  return _estimate(np.median, x_n, seed, repeats)


def _estimate(statistic, x_n, seed, repeats):
  x_n = np.asarray(x_n, np.float64)
  value = float(statistic(x_n)) if len(x_n) else float('nan')
  interval = (float('nan'), float('nan'))
  if len(x_n) >= MIN_VALUES:
    interval = bootstrap_interval(statistic, (x_n,), seed, repeats)
  return Estimate(value, *interval, len(x_n))


def share(count, n, level=0.95):
  """Returns the Estimate of a share, its interval Wilson's.

  Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
  JASA 22, 1927.
  """
  if n == 0:
    return Estimate(*(float('nan'),) * 3, 0)
  z2 = scipy.special.ndtri((1 + level) / 2) ** 2
  p = count / n
  middle = (p + z2 / (2 * n)) / (1 + z2 / n)
  half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
  return Estimate(float(p), float(middle - half), float(middle + half), int(n))


def pairs(x_n, y_n):
  """Returns both as float64 vectors of one length."""
  x_n, y_n = np.asarray(x_n, np.float64), np.asarray(y_n, np.float64)
  if x_n.ndim != 1 or x_n.shape != y_n.shape:
    raise ValueError(
      f'shapes {x_n.shape} and {y_n.shape}; want two vectors of one length'
    )
  return x_n, y_n


def ranks(x_n):
  """Returns ranks from 1, equal values sharing the mean of theirs."""
  _, place_n, count_k = np.unique(x_n, return_inverse=True, return_counts=True)
  return (np.cumsum(count_k) - (count_k - 1) / 2)[place_n]


class _Places(NamedTuple):
  """A column in order: rows sorted, where levels start, level of each row."""

  order_n: np.ndarray
  start_l: np.ndarray
  level_n: np.ndarray


def _columns(value_nk):
  """Returns columns as float64, none of them with NaN."""
  value_nk = np.asarray(value_nk, np.float64)
  if value_nk.ndim != 2 or np.isnan(value_nk).any():
    raise ValueError(
      f'shape {value_nk.shape}, {np.isnan(value_nk).sum()} values NaN; want '
      '[n, k] without NaN: leave failed runs out'
    )
  return value_nk


def _places(value_nk):
  places = []
  for value_n in value_nk.T:
    _, level_n, count_l = np.unique(
      value_n, return_inverse=True, return_counts=True
    )
    start_l = np.cumsum(count_l) - count_l
    places.append(_Places(np.argsort(level_n, kind='stable'), start_l, level_n))
  return places


def _weighted(places, times_bn):
  """Returns rank correlations [b, k, k] of rows that are there so often."""
  size = times_bn.sum(axis=1, keepdims=True)
  root_bn = np.sqrt(times_bn)
  centred_bkn = np.empty((len(times_bn), len(places), times_bn.shape[1]))
  for k, (order_n, start_l, level_n) in enumerate(places):
    if not len(order_n):
      continue
    count_bl = np.add.reduceat(times_bn[:, order_n], start_l, axis=1)
    rank_bl = np.cumsum(count_bl, axis=1) - (count_bl - 1) / 2
    centred_bkn[:, k] = (rank_bl[:, level_n] - (size + 1) / 2) * root_bn
  cov_bkk = centred_bkn @ centred_bkn.transpose(0, 2, 1)
  square_bk = np.diagonal(cov_bkk, axis1=1, axis2=2)
  scale_bkk = np.sqrt(square_bk[:, :, None] * square_bk[:, None, :])
  with np.errstate(invalid='ignore'):
    return np.where(scale_bkk > 0, cov_bkk / scale_bkk, np.nan)
