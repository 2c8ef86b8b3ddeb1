"""What separates the cells of a table, and what their seeds do."""

from typing import NamedTuple

import numpy as np


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
    by_skip_path: with, then without an identity path from input to output.
    by_op: for each operation, groups by how many nodes have it; of a space that
      is no chain, for each decision groups by its choice.
    by_skips: groups by the number of skips; as `by_skip_path`, of chains alone.
  """

  spread: Spread
  by_skip_path: tuple[Group, ...]
  by_op: dict[str, tuple[Group, ...]]
  by_skips: tuple[Group, ...]


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
  if not hasattr(space, 'skips'):  # no chain
    groups = {
      field: tuple(
        _group(f'{field}={choice}', cell_r, error_r, archs_rd[:, d] == o)
        for o, choice in enumerate(choices)
        if (archs_rd[:, d] == o).any()
      )
      for d, (field, choices) in enumerate(zip(space.fields, space.choices))
    }
    return Separation(spread(cell_r, error_r), (), groups, ())
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
      _group(f'{label} an identity path', cell_r, error_r, path_r == has)
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
