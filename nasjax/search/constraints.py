"""Searches for networks that must not cost more than a limit.

Costs are positive numbers, such as seconds of a pass. Penalties change the
error rate that searchers are told, so they go with every searcher: `penalised`
does so in a landscape, `Penalised` around whatever answers a search. Evolution
can also be kept from ever suggesting what costs more (`limit`).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from nasjax.search import landscape
from nasjax.search.algorithms import base

# Architectures that are asked for their cost one by one.
MOST_ASKED = 20_000


def _one_sided(error, excess, weight):
  return error + weight * np.maximum(excess, 0)


def _two_sided(error, excess, weight):
  return error + weight * np.abs(excess)


def _product(error, excess, weight):
  return 1 - (1 - error) * (1 + excess) ** -weight


def _hard(error, excess, weight):
  del weight
  return np.where(excess > 0, landscape.FAILED, error)


# Functions of the error rate, cost / limit - 1 and a weight. 'one_sided' adds
# what is beyond the limit; 'two_sided' also what is below it, for who wants a
# certain cost; 'product' is the reward of Tan et al. 2019 and of ProxylessNAS
# (Cai et al. 2019), accuracy * (limit / cost)^weight; 'hard' is no weight's
# business: what costs more has failed.
PENALTIES = {
  'one_sided': _one_sided,
  'two_sided': _two_sided,
  'product': _product,
  'hard': _hard,
}


class Constraint(NamedTuple):
  """A limit and how searchers are told of it.

  Attributes:
    limit: of the cost.
    penalty: of `PENALTIES`.
    weight: of the penalty.
  """

  limit: float
  penalty: str = 'one_sided'
  weight: float = 0.1

  def told(self, error, cost):
    """Returns the error rates that searchers are told; arrays of one shape."""
    excess = np.asarray(cost, np.float64) / self.limit - 1
    told = PENALTIES[self.penalty](np.asarray(error), excess, self.weight)
    return told.astype(np.float32)


def _shown(cost):
  whole = float(cost).is_integer() and cost >= 1000
  return f'{cost:,.0f}' if whole else f'{cost:g}'


def check(constraint, space, archs_nd, cost_n, unit=''):
  """Refuses a limit that no architecture meets, and unknown penalties.

  Args:
    constraint: Constraint.
    space: search space.
    archs_nd: all architectures that there are to find.
    cost_n: theirs.
    unit: of the costs, for people.

  Raises:
    ValueError: naming the cheapest architecture there is.
  """
  if constraint.penalty not in PENALTIES:
    raise ValueError(
      f'penalty {constraint.penalty!r} is unknown; there are '
      f'{", ".join(PENALTIES)}'
    )
  for name in ('limit', 'weight'):
    value = getattr(constraint, name)
    if not 0 < value < math.inf:
      raise ValueError(f'{name} is {value}; want a number above 0')
  least = int(np.argmin(cost_n))
  if cost_n[least] > constraint.limit:
    raise ValueError(
      f'no architecture has at most {_shown(constraint.limit)}{unit}; the '
      f'smallest that there is has {_shown(cost_n[least])}{unit}: '
      f'{space.names(archs_nd[least])}'
    )


def cheapest(values, of_archs):
  """Returns all architectures of some values, or one near the cheapest, [n, d].

  Where they are too many to ask for each, one digit after the other is set to
  its cheapest value until none gets cheaper: exact where costs add up.
  """
  sizes = [len(v) for v in values]
  if math.prod(sizes) <= MOST_ASKED:
    return landscape.archs_of(values, landscape.vectors_of(values))
  vector, least = np.zeros(len(sizes), int), np.inf
  while True:
    before = least
    for d, size in enumerate(sizes):
      tried = np.repeat(vector[None], size, axis=0)
      tried[:, d] = np.arange(size)
      cost_n = of_archs(landscape.archs_of(values, tried))
      vector, least = tried[int(np.argmin(cost_n))], float(np.min(cost_n))
    if least >= before:
      return landscape.archs_of(values, vector[None])


def penalised(scape, cost_c, constraint):
  """Returns a landscape whose searchers are told of the constraint.

  What is judged, the error rate on test, stays.

  Args:
    scape: `landscape.Landscape`.
    cost_c: of its cells.
    constraint: Constraint.
  """
  cost_cre = np.broadcast_to(cost_c[:, None, None], scape.val_cre.shape)
  return scape._replace(val_cre=constraint.told(scape.val_cre, cost_cre))


class Penalised:
  """Answers of a search, its searcher told of a constraint.

  Args:
    answers: a `driver.Lookup`, `driver.Training`, or the like.
    cost_of: vectors [n, d] -> cost_n.
    constraint: Constraint.
  """

  def __init__(self, answers, cost_of, constraint):
    self.sizes, self.epochs = answers.sizes, answers.epochs
    self._answers, self._cost_of = answers, cost_of
    self._constraint = constraint

  def __call__(self, arch_nd, epochs_n, bits_n):
    """Returns the Answer, its errors on validation those told."""
    answer = self._answers(arch_nd, epochs_n, bits_n)
    told_n = self._constraint.told(answer.val_n, self._cost_of(answer.arch_nd))
    return answer._replace(val_n=told_n)


def limit(sizes, cost_of, most):
  """Returns the `base.Limit` of searchers that suggest what meets it alone.

  Every vector is asked for its cost once: a space must be small enough for its
  vectors to be listed.

  Args:
    sizes: how many values each digit takes.
    cost_of: vectors [n, d] -> cost_n.
    most: the limit.

  Raises:
    ValueError: there are too many; none meets it.
  """
  vector_ad = landscape.vectors_of(tuple(tuple(range(s)) for s in sizes))
  cost_a = np.asarray(cost_of(vector_ad), np.float64)
  least = int(np.argmin(cost_a))
  if not cost_a[least] <= most:  # a limit that is no number, too
    raise ValueError(
      f'no vector has a cost of at most {most:g}; the lowest is '
      f'{cost_a[least]:g}, of {vector_ad[least].tolist()}'
    )
  meets_a = cost_a <= most
  strides_d = np.cumprod([1, *sizes[:-1]]).astype(np.int32)

  def meets(arch_nd):
    place_n = (arch_nd * strides_d[None]).sum(axis=1)
    return jnp.asarray(meets_a)[place_n]

  return base.Limit(meets, tuple(vector_ad[least].tolist()))


class Chosen(NamedTuple):
  """What repeats of a search chose, arrays [repeat]; NaN for nothing.

  Attributes:
    test_r: its error rate on test.
    cost_r: its cost.
    meets_r: whether it meets the limit.
    beyond_r: share of the trainings that went to what does not.
  """

  test_r: np.ndarray
  cost_r: np.ndarray
  meets_r: np.ndarray
  beyond_r: np.ndarray


def chosen(trace, scape, cost_c, most, budget):
  """Returns what each repeat chose: of those that meet, the best it was told.

  Of all, where none that was trained to the end meets the limit.

  Args:
    trace: `landscape.Trace`.
    scape: the landscape that was searched.
    cost_c: of its cells.
    most: the limit.
    budget: in trained models.
  """
  rows = []
  for place_n, val_n, test_n, epochs_n in zip(*trace):
    paid_n = np.cumsum(epochs_n) <= budget * scape.epochs + 1e-6
    cost_n = cost_c[scape.cell_a[place_n.astype(int)]]
    trained_n = paid_n & (epochs_n > 0)
    full_n = paid_n & (epochs_n == scape.epochs)
    if not full_n.any():
      rows.append((np.nan, np.nan, False, np.nan))
      continue
    able_n = full_n & (cost_n <= most)
    able_n = able_n if able_n.any() else full_n
    at = int(np.argmin(np.where(able_n, val_n, np.inf)))
    beyond = float(np.mean(cost_n[trained_n] > most))
    rows.append((test_n[at], cost_n[at], cost_n[at] <= most, beyond))
  return Chosen(*map(np.array, zip(*rows)))
