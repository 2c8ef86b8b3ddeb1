"""The best cells of a table, and which of them can be told apart."""

from typing import NamedTuple

import numpy as np
import scipy.special

from nasjax.analysis import agreement, by_recipe


class Best(NamedTuple):
  """Cells by error rate.

  Attributes:
    order: cells that have an error rate, best first.
    half_n: half the width of each mean's interval; NaN if no seed is repeated.
    tied: how many cells have an interval that overlaps that of the first, the
      first among them; None if there are no intervals.
    seed_sd: standard deviation of one run about its cell's mean, pooled over
      the best `agreement.TOP_SHARE` of the cells; NaN if no seed is repeated.
  """

  order: np.ndarray
  half_n: np.ndarray
  tied: int | None
  seed_sd: float


def expected_best(val_n, test_n, count):
  """Returns the expected test error of the best by validation of some drawn.

  Exact: of the cells `count` different ones are drawn, any as likely as any
  other. Of several of one validation error any may be taken.

  Args:
    val_n, test_n: error rates of all cells.
    count: how many are drawn, at most as many as there are.

  Raises:
    ValueError: an error rate is NaN, or there are not so many cells.
  """
  val_n, test_n = (np.asarray(x_n, np.float64) for x_n in (val_n, test_n))
  if not 1 <= count <= len(val_n):
    raise ValueError(f'{count} of {len(val_n)} cells; want 1 to all')
  if np.isnan(val_n).any() or np.isnan(test_n).any():
    raise ValueError('an error rate is NaN; count what failed as 1.0')
  _, group_n = np.unique(val_n, return_inverse=True)
  cells_v = np.bincount(group_n)
  mean_v = np.bincount(group_n, test_n) / cells_v
  # As many are no better; the chance that all that are drawn are among them.
  left_v = np.append(np.cumsum(cells_v[::-1])[::-1], 0)[:, None]
  drawn = np.arange(count)
  chance_v = np.prod(np.maximum(left_v - drawn, 0) / (len(val_n) - drawn), 1)
  return float((chance_v[:-1] - chance_v[1:]) @ mean_v)


def best(value_ns, has_ns, level=0.95):
  """Ranks cells by their mean over seeds, with an interval of Student's t.

  The noise is pooled over the best cells, for three runs of one say little, and
  cells that hardly train scatter by more. The intervals do not know that the
  first was chosen for being first.

  Args:
    value_ns: error rates, NaN where a run failed or is not there.
    has_ns: whether there is a run; cells with a failed one are not ranked.
    level: probability that an interval is to cover.
  """
  count_n = has_ns.sum(axis=1)
  mean_n = by_recipe.means(value_ns, has_ns)
  order = np.argsort(mean_n, kind='stable')
  order = order[~np.isnan(mean_n[order])]
  half_n = np.full(len(value_ns), np.nan)
  if not len(order):
    return Best(order, half_n, None, float('nan'))

  near = agreement.slices(mean_n[order])['top']
  # Of two or three cells the pooled noise would be as uncertain as each.
  near = order[near] if len(near) >= 5 else order
  freedom = int((count_n[near] - 1).sum())
  if not freedom:
    return Best(order, half_n, None, float('nan'))
  off_ns = np.where(has_ns[near], value_ns[near] - mean_n[near, None], 0)
  seed_sd = float(np.sqrt((off_ns**2).sum() / freedom))
  quantile = scipy.special.stdtrit(freedom, (1 + level) / 2)
  half_n[order] = quantile * seed_sd / np.sqrt(count_n[order])
  first = order[0]
  apart = mean_n[order] - half_n[order] > mean_n[first] + half_n[first]
  return Best(order, half_n, int((~apart).sum()), seed_sd)
