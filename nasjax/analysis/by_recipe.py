"""What a table says of one recipe, as arrays by cell and by seed."""

from typing import NamedTuple

import numpy as np


class Results(NamedTuple):
  """Error rates of one recipe.

  A run that is in the table but did not end well is NaN in both rates, whatever
  it had reached before: a rate of fewer epochs is none of this recipe.

  Attributes:
    recipe: its name.
    epochs: how many it has.
    archs_nd: the cells, int8; of all recipes of the table.
    seeds: the seeds of the table, one a column.
    has_ns: whether there is a run.
    val_ns: lowest validation error rate of its epochs, by what decides in the
      table, a fraction; NaN if none.
    test_ns: error rate on test at that epoch, a fraction; NaN if none.
    params_n: parameters; NaN where this recipe has no run of the cell.
    macs_n: multiply-accumulates for 200 frames, as `params_n`.
    status: how many runs ended how.
  """

  recipe: str
  epochs: int
  archs_nd: np.ndarray
  seeds: tuple[int, ...]
  has_ns: np.ndarray
  val_ns: np.ndarray
  test_ns: np.ndarray
  params_n: np.ndarray
  macs_n: np.ndarray
  status: dict[str, int]

  @property
  def failed(self):
    """How many runs are there, but have no error rates."""
    return int((self.has_ns & np.isnan(self.test_ns)).sum())

  @property
  def missing(self):
    """How many pairs of cell and seed were not run."""
    return int((~self.has_ns).sum())

  @property
  def val_n(self):
    """`means` of the validation error rate."""
    return means(self.val_ns, self.has_ns)

  @property
  def test_n(self):
    """`means` of the error rate on test."""
    return means(self.test_ns, self.has_ns)


def results(table, recipe=None, metric=None):
  """Returns the Results of a recipe of a table.

  Args:
    table: a `table.Table` of one space, macro network and corpus.
    recipe: name; may be left out if there is one only.
    metric: name of the error rate on test, one of `table.metrics`; None for
      what decides. Validation is always by what decides.

  Raises:
    ValueError: the table mixes networks or corpora, or recipes under one name;
      has one training twice, or no such recipe or metric.
  """
  for name in ('macro', 'corpus_fingerprint'):
    there = sorted(set(table.column(name)))
    if len(there) > 1:
      raise ValueError(
        f'{table.path} has {len(there)} values of {name!r}: {there}; choose '
        f'one with select({name}={there[0]!r})'
      )
  table.check_recipes()
  if recipe is None and len(table.recipes) > 1:
    raise ValueError(f'give recipe=, one of {list(table.recipes)}')
  part = table.select(recipe=table.recipes[0] if recipe is None else recipe)
  space, archs_nd, seeds = table.space, table.archs, table.seeds
  # Both are in the order of the space.
  cell_r = np.searchsorted(
    space.indices(archs_nd), space.indices(part.row_archs)
  )
  seed_r = np.searchsorted(seeds, part.column('seed'))
  status_r = part.column('status').astype(str)
  ended_r = status_r == 'ok'

  val_re = part.curves('val_per')
  val_r = np.where(np.isnan(val_re), np.inf, val_re).min(axis=1, initial=np.inf)
  has_ns, val_ns = by_cell(
    cell_r, seed_r, np.where(ended_r, val_r, np.nan), len(archs_nd), len(seeds)
  )
  test_r = np.where(ended_r, part.errors(metric), np.nan)
  _, test_ns = by_cell(cell_r, seed_r, test_r, len(archs_nd), len(seeds))
  costs = []
  for name in ('params', 'macs'):
    cost_n = np.full(len(archs_nd), np.nan)
    cost_n[cell_r] = part.column(name)
    costs.append(cost_n)
  names, counts = np.unique(status_r, return_counts=True)
  return Results(
    part.recipes[0],
    int(part.column('epochs').max()),
    archs_nd,
    seeds,
    has_ns,
    val_ns,
    test_ns,
    *costs,
    dict(zip(names.tolist(), counts.tolist())),
  )


def by_cell(cell_r, seed_r, value_r, cells, seeds):
  """Returns has_ns and value_ns of values given by row.

  Args:
    cell_r, seed_r: place of each row's cell and seed.
    value_r: NaN where the run failed.
    cells, seeds: how many there are.

  Raises:
    ValueError: two rows are of one cell and seed.
  """
  count_ns = np.zeros((cells, seeds), np.int64)
  np.add.at(count_ns, (cell_r, seed_r), 1)
  if (count_ns > 1).any():
    n, s = np.argwhere(count_ns > 1)[0]
    raise ValueError(
      f'{count_ns[n, s]} rows are of cell {n}, seed {s}; merge them, or keep '
      'one'
    )
  value_ns = np.full((cells, seeds), np.nan)
  value_ns[cell_r, seed_r] = value_r
  return count_ns > 0, value_ns


def means(value_ns, has_ns):
  """Returns the mean over the seeds that each cell has.

  NaN where one of them failed, for the mean of the rest would flatter the cell,
  or where there is none.
  """
  count_n = has_ns.sum(axis=1)
  total_n = np.where(has_ns, value_ns, 0).sum(axis=1)
  return np.where(count_n > 0, total_n / np.maximum(count_n, 1), np.nan)


def latencies(table, archs, setting):
  """Returns seconds of cells in one setting, NaN where none was measured.

  Args:
    table: a `table.Table`.
    archs: cells [n, d].
    setting: one of `table.latencies`.
  """
  device, batch, frames, macro = setting
  where = {
    'device': device, 'batch': batch, 'frames': frames, 'macro': macro
  }  # fmt: skip
  measured = table.space.semantic_keys(table.latency_archs(**where))
  has_n = np.isin(table.space.semantic_keys(archs), measured)
  seconds_n = np.full(len(has_n), np.nan)
  if has_n.any():
    seconds_n[has_n] = table.latency(np.asarray(archs)[has_n], **where)
  return seconds_n
