"""How much of a ranking single decisions make, and what is left without them.

Where one decision parts good cells from bad ones, a search that has found it
has found most of what there is; seeds may agree well on all cells and not at
all on those that share its best choice.
"""

from typing import NamedTuple

import numpy as np

from nasjax.analysis import agreement, separation, statistics


class Part(NamedTuple):
  """The cells of one choice.

  Attributes:
    choice: its place among the choices of the decision.
    cells: how many there are.
    mean: of their error rates.
    spread: of the cells among themselves, and of seeds (`separation.Spread`).
    seeds: rank correlation of one seed with another among them.
  """

  choice: int
  cells: int
  mean: float
  spread: separation.Spread
  seeds: statistics.Correlation


class Decision(NamedTuple):
  """One decision, or several together.

  Attributes:
    name: of the decision.
    explains: share of the variance of cell means that its choices explain, by
      degrees of freedom (adjusted R squared): what chance explains is 0.
    parts: one for each choice that occurs, in the order of the space; none of
      several decisions together.
  """

  name: str
  explains: float
  parts: tuple[Part, ...]


def explained(value_n, group_n):
  """Returns the share of the variance of values that groups explain.

  Adjusted for degrees of freedom (Ezekiel 1930), so that groups that mean
  nothing have 0 in expectation; NaN where as many groups as values, or values
  that are all alike, leave nothing to explain.

  Args:
    value_n: values without NaN.
    group_n: number of the group of each.
  """
  value_n = np.asarray(value_n, np.float64)
  _, group_n = np.unique(np.asarray(group_n), return_inverse=True)
  count_g = np.bincount(group_n)
  freedom = len(value_n) - len(count_g)
  total = value_n.var(ddof=1) if len(value_n) > 1 else 0.0
  if not freedom or not total:
    return float('nan')
  mean_g = np.bincount(group_n, value_n) / count_g
  within = ((value_n - mean_g[group_n]) ** 2).sum() / freedom
  return float(1 - within / total)


def decisions(space, archs_nd, value_ns, seed=0, repeats=1000):
  """Holds one decision after the other fixed.

  Args:
    space: the search space.
    archs_nd: cells.
    value_ns: error rate of each with each seed; cells that lack one are left
      out.
    seed, repeats: of the bootstrap of correlations.

  Returns:
    a `Decision` for each decision that has several choices among the cells, the
    one that explains most first; and the share that all skips together explain,
    as a last one called 'all skips' (chains only).
  """
  value_ns = np.asarray(value_ns, np.float64)
  whole_n = ~np.isnan(value_ns).any(axis=1)
  archs_nd, value_ns = np.asarray(archs_nd)[whole_n], value_ns[whole_n]
  mean_n = value_ns.mean(axis=1)
  found = []
  for d, name in enumerate(space.fields):
    choices = np.unique(archs_nd[:, d])
    if len(choices) < 2:
      continue
    parts = tuple(
      _part(int(o), value_ns[archs_nd[:, d] == o], seed, repeats)
      for o in choices
    )
    found.append(Decision(name, explained(mean_n, archs_nd[:, d]), parts))
  found.sort(key=lambda one: -np.nan_to_num(one.explains, nan=-np.inf))
  if found and hasattr(space, 'skip_matrices'):  # a chain
    skips_nk = space.skip_matrices(archs_nd).reshape(len(archs_nd), -1)
    _, group_n = np.unique(skips_nk, axis=0, return_inverse=True)
    if group_n.size and group_n.max():
      share = explained(mean_n, group_n.ravel())
      found.append(Decision('all skips', share, ()))
  return tuple(found)


def _part(choice, value_ns, seed, repeats):
  cells, seeds = value_ns.shape
  return Part(
    choice,
    cells,
    float(value_ns.mean()),
    separation.spread(np.repeat(np.arange(cells), seeds), value_ns.ravel()),
    agreement.noise_ceiling(value_ns, seed, repeats).single,
  )
