"""Whether a ranking of cells on one corpus holds on another.

The experiment of NAS-Bench-ASR (Mehrotra et al. 2021, section 5.3 and Figure
7): cells that are best, worst, and drawn on a small corpus are trained on a
large one.
"""

from typing import NamedTuple

import numpy as np

from nasjax.analysis import agreement, statistics

GROUPS = ('best', 'random', 'worst')


class Chosen(NamedTuple):
  """Cells for a transfer.

  Attributes:
    cell_n: places in the table's cells, the best first.
    group_n: a name of GROUPS for each.
    left_out: cells of the table that failed, or whose error rate is too high.
  """

  cell_n: np.ndarray
  group_n: tuple[str, ...]
  left_out: int


class Transfer(NamedTuple):
  """How two corpora rank the same cells; over cells, not over networks.

  Attributes:
    pearson, spearman, kendall: {'val', 'test'} to Correlation: of the source's
      error rate with the target's on validation, and on test.
    ceiling: {'source', 'target'} to {'val', 'test'} to what `noise_ceiling`
      says of seeds; 'attainable' to {'val', 'test'}: the highest correlation
      that the noise of seeds leaves, the root of both reliabilities' product
      (Spearman, American Journal of Psychology 15, 1904); NaN where a side has
      one seed.
    left_out: cells that failed on the target.
  """

  pearson: dict
  spearman: dict
  kendall: dict
  ceiling: dict
  left_out: int


def choose(val_n, best=20, random=70, worst=10, seed=0, most=0.5):
  """Chooses cells by their error rate on the source's validation split.

  Args:
    val_n: error rates, means over seeds; NaN where a run failed.
    best, random, worst: how many; those at random are drawn from the rest.
    seed: of the draw.
    most: cells above this error rate are left out.

  Returns:
    Chosen.

  Raises:
    ValueError: there are not so many cells.
  """
  val_n = np.asarray(val_n, np.float64)
  good_n = np.flatnonzero(val_n <= most)  # NaN is not.
  ranked = good_n[np.argsort(val_n[good_n], kind='stable')]
  wanted = best + random + worst
  if wanted > len(ranked):
    raise ValueError(
      f'{best} best, {random} random and {worst} worst are {wanted} cells; '
      f'{len(ranked)} of the {len(val_n)} have an error rate of at most '
      f'{most:.0%} on validation; ask for fewer'
    )
  rest = ranked[best : len(ranked) - worst]
  drawn = np.random.default_rng(seed).choice(len(rest), random, replace=False)
  groups = (
    ranked[:best],
    rest[np.sort(drawn)],
    ranked[len(ranked) - worst :],
  )
  return Chosen(
    np.concatenate(groups),
    tuple(
      name for name, cells in zip(GROUPS, groups, strict=True) for _ in cells
    ),
    len(val_n) - len(good_n),
  )


def transfer(source, target, seed=0, repeats=1000):
  """Compares two corpora's error rates of the same cells.

  The source is represented by its error rate on test, which had no part in the
  choice of cells: the error rate on validation of those that were chosen for it
  flatters them.

  Args:
    source, target: `Results` of the same cells in the same order.
    seed, repeats: of the bootstrap, which resamples cells.

  Returns:
    Transfer.
  """
  source_n = source.test_n
  by_split = {'val': target.val_n, 'test': target.test_n}
  whole_n = ~np.isnan(source_n)
  for target_n in by_split.values():
    whole_n &= ~np.isnan(target_n)
  found = {'pearson': {}, 'spearman': {}, 'kendall': {}}
  for split, target_n in by_split.items():
    pair = source_n[whole_n], target_n[whole_n]
    found['pearson'][split] = pearson(*pair, seed, repeats)
    found['spearman'][split] = statistics.rank_correlation(*pair, seed, repeats)
    found['kendall'][split] = statistics.kendall_correlation(
      *pair, seed, repeats
    )
  ceiling = {
    name: {
      'val': agreement.noise_ceiling(results.val_ns, seed, repeats),
      'test': agreement.noise_ceiling(results.test_ns, seed, repeats),
    }
    for name, results in (('source', source), ('target', target))
  }
  of_source = ceiling['source']['test'].of_mean.value
  ceiling['attainable'] = {
    split: agreement.attainable(
      of_source * ceiling['target'][split].of_mean.value
    )
    for split in by_split
  }
  return Transfer(**found, ceiling=ceiling, left_out=int((~whole_n).sum()))


def pearson(x_n, y_n, seed=0, repeats=1000):
  """Returns the Correlation of two columns: Pearson's, with its interval."""
  n = len(x_n)

  def value(x_n, y_n):
    if len(x_n) < 2 or np.ptp(x_n) == 0 or np.ptp(y_n) == 0:
      return np.nan
    return float(np.corrcoef(x_n, y_n)[0, 1])

  if n < statistics.MIN_VALUES:
    return statistics.Correlation(value(x_n, y_n), np.nan, np.nan, n)
  low, high = statistics.bootstrap_interval(value, (x_n, y_n), seed, repeats)
  return statistics.Correlation(value(x_n, y_n), low, high, n)


def of_cells(results, archs_nd):
  """Returns the `by_recipe.Results` of some cells, in their order.

  Raises:
    ValueError: a cell is not there.
  """
  place = {arch.tobytes(): n for n, arch in enumerate(results.archs_nd)}
  archs_nd = np.asarray(archs_nd, results.archs_nd.dtype)
  missing = [a.tolist() for a in archs_nd if a.tobytes() not in place]
  if missing:
    raise ValueError(
      f'{len(missing)} of {len(archs_nd)} cells are not in recipe '
      f'{results.recipe}, the first {missing[0]}'
    )
  at = np.array([place[a.tobytes()] for a in archs_nd])
  rows = ('archs_nd', 'has_ns', 'val_ns', 'test_ns', 'params_n', 'macs_n')
  return results._replace(**{name: getattr(results, name)[at] for name in rows})
