"""What good and bad cells are made of.

Mehrotra et al., NAS-Bench-ASR, ICLR 2021, Figure 6 and Figures 9 to 11.
"""

from typing import NamedTuple

import numpy as np

from nasjax.analysis import statistics


class Composition(NamedTuple):
  """Shares among the cells of a group, each an Estimate.

  Attributes:
    cells: how many there are.
    ops: for each node the share of cells with each operation, by name; of a
      space that is no chain, for each decision that with each choice.
    skips: the share of cells that have each skip, by its ends: 't0 to t2'.
    counts: the share of cells with each number of skips; as `skips`, of chains
      alone.
    places: what `ops` are of: 'node 1', or the names of the decisions.
  """

  cells: int
  ops: tuple[dict[str, statistics.Estimate], ...]
  skips: dict[str, statistics.Estimate]
  counts: dict[int, statistics.Estimate]
  places: tuple[str, ...] = ()


class Level(NamedTuple):
  """Cells that have something the same number of times, or one choice.

  Attributes:
    count: how many times, or the name of the choice.
    rows: which cells, best first.
    median: Estimate of their median error rate.
  """

  count: int | str
  rows: np.ndarray
  median: statistics.Estimate


class Ranking(NamedTuple):
  """How error rates rank by the number of something.

  Attributes:
    correlation: of the number and the error rate; above 0 if more is worse.
      None of choices, which have no order.
    levels: one for each number that occurs, lowest first; of choices in the
      order of the space.
  """

  correlation: statistics.Correlation | None
  levels: tuple[Level, ...]


def composition(space, archs):
  """Returns the Composition of some cells."""
  archs_nd = space.parse_all(archs)
  cells = len(archs_nd)
  if not hasattr(space, 'skips'):  # no chain
    shares = tuple(
      {
        name: statistics.share(int((archs_nd[:, d] == o).sum()), cells)
        for o, name in enumerate(names)
      }
      for d, names in enumerate(space.choices)
    )
    return Composition(cells, shares, {}, {}, space.fields)
  skip_of = {
    f't{m} to t{k + 1}': start + 1 + m
    for k, (start, count) in enumerate(zip(space.op_positions, space.skips))
    for m in range(count)
  }
  skips_n = archs_nd[:, list(skip_of.values())].sum(axis=1)
  return Composition(
    cells,
    tuple(
      {
        name: statistics.share(int((archs_nd[:, d] == o).sum()), cells)
        for o, name in enumerate(space.ops)
      }
      for d in space.op_positions
    ),
    {
      ends: statistics.share(int(archs_nd[:, d].sum()), cells)
      for ends, d in skip_of.items()
    },
    {
      count: statistics.share(int((skips_n == count).sum()), cells)
      for count in range(len(skip_of) + 1)
    },
    tuple(f'node {n + 1}' for n in range(space.nodes)),
  )


def counts(space, archs):
  """Returns how often cells have what the paper ranks them by.

  Returns:
    {'linear', 'convolution', 'zero', 'skips': count_n}, of the operations only
    those that the space has; a convolution is what is named conv.
  """
  archs_nd = space.parse_all(archs)
  op_nk = archs_nd[:, list(space.op_positions)]
  kinds = {
    'linear': lambda name: name == 'linear',
    'convolution': lambda name: name.startswith('conv'),
    'zero': lambda name: name == 'zero',
  }
  found = {}
  for kind, belongs in kinds.items():
    members = [o for o, name in enumerate(space.ops) if belongs(name)]
    if members:
      found[kind] = np.isin(op_nk, members).sum(axis=1)
  found['skips'] = space.skip_matrices(archs_nd).sum(axis=(1, 2)).astype(int)
  return found


def choices(space, archs, per_n, seed=0, repeats=1000):
  """Returns the Ranking of cells by the choice at each decision, by its name.

  Of any space; cells whose error rate is NaN are left out, and choices that
  none of the others has.

  Args:
    space: the search space.
    archs: cells.
    per_n: their error rates.
    seed, repeats: of the bootstrap.
  """
  archs_nd = space.parse_all(archs)
  found = {}
  for field, names, digit_n in zip(space.fields, space.choices, archs_nd.T):
    ranked = ranking(digit_n, per_n, seed, repeats)
    levels = tuple(v._replace(count=names[v.count]) for v in ranked.levels)
    found[field] = Ranking(None, levels)
  return found


def ranking(count_n, per_n, seed=0, repeats=1000):
  """Returns the Ranking of cells; those whose error rate is NaN are left out.

  Args:
    count_n: integers.
    per_n: error rates.
    seed, repeats: of the bootstrap.
  """
  count_n, per_n = statistics.pairs(count_n, per_n)
  order = np.argsort(per_n, kind='stable')
  order = order[~np.isnan(per_n[order])]
  return Ranking(
    statistics.rank_correlation(count_n[order], per_n[order], seed, repeats),
    tuple(
      Level(
        int(count),
        rows := order[count_n[order] == count],
        statistics.median(per_n[rows], seed, repeats),
      )
      for count in np.unique(count_n[order])
    ),
  )
