"""How alike searched graphs are, against what chance gives.

A graph is what a search says of each edge: a probability of every operation.
Two graphs agree on an edge by sum_k min(p_k, q_k), 1 where they say the same, 0
where they have nothing in common; their likeness is the mean over edges.

Two questions, by permutation (Fisher, The Design of Experiments, 1935), each
with as many draws as told, the observed one among them:

  of edges     do graphs of different languages put the same operations at the
               same edges? Against their own edges shuffled, which leaves what a
               graph likes all over, and takes away where.
  of labels    are graphs of one language, of different seeds, more alike than
               those of different languages? Against labels shuffled.
"""

from typing import NamedTuple

import numpy as np


class Chance(NamedTuple):
  """A number against what chance gives.

  Attributes:
    value: what is there.
    mean: what chance gives.
    low, high: where 95 % of what chance gives lies.
    p: chance of as much or more; at least 1 / draws.
  """

  value: float
  mean: float
  low: float
  high: float
  p: float


class Likeness(NamedTuple):
  """What is told of some graphs.

  Attributes:
    matrix_gg: likeness of each pair.
    same_gg: share of edges at which both have the same most probable operation.
    between: `Chance` of the mean likeness of graphs of different languages, of
      edges; None where there is one language.
    within: `Chance` of the mean likeness of graphs of one language minus that
      of different ones, of labels; None where no language has two.
  """

  matrix_gg: np.ndarray
  same_gg: np.ndarray
  between: Chance | None
  within: Chance | None


def likeness(p_gek, labels, draws=2_000, seed=0) -> Likeness:
  """Compares graphs; see the head of this file.

  Args:
    p_gek: probability of each operation at each edge of each graph.
    labels: language of each graph.
    draws: of permutations.
    seed: of these.

  Raises:
    ValueError: fewer than two graphs, not as many labels, or rows that do not
      add up to 1.
  """
  p_gek = np.asarray(p_gek, np.float64)
  if p_gek.ndim != 3 or len(p_gek) < 2 or len(labels) != len(p_gek):
    raise ValueError(
      f'graphs of shape {p_gek.shape} with {len(labels)} labels; want two or '
      'more [graph, edge, operation], a label each'
    )
  if not np.allclose(p_gek.sum(-1), 1, atol=1e-4):
    raise ValueError('probabilities of an edge do not add up to 1')
  rng = np.random.default_rng(seed)
  matrix_gg = _matrix(p_gek)
  top_ge = p_gek.argmax(-1)
  same_gg = (top_ge[:, None] == top_ge[None]).mean(-1)
  names = np.unique(labels, return_inverse=True)[1]
  other_gg = names[:, None] != names[None]
  own_gg = ~other_gg & ~np.eye(len(names), dtype=bool)
  between = within = None
  if other_gg.any():
    between = _chance(
      lambda first: _of_edges(p_gek, other_gg, rng, first), draws
    )
  if other_gg.any() and own_gg.any():
    within = _chance(
      lambda first: _of_labels(matrix_gg, names, rng, first), draws
    )
  return Likeness(matrix_gg, same_gg, between, within)


def _matrix(p_gek):
  return np.minimum(p_gek[:, None], p_gek[None]).sum(-1).mean(-1)


def _of_edges(p_gek, other_gg, rng, first):
  if not first:
    p_gek = np.stack([p_ek[rng.permutation(len(p_ek))] for p_ek in p_gek])
  return _matrix(p_gek)[other_gg].mean()


def _of_labels(matrix_gg, names, rng, first):
  if not first:
    names = rng.permutation(names)
  own_gg = names[:, None] == names[None]
  np.fill_diagonal(own_gg, False)
  other_gg = names[:, None] != names[None]
  return matrix_gg[own_gg].mean() - matrix_gg[other_gg].mean()


def _chance(draw, draws):
  """Returns the `Chance` of draw(True) among draws of draw(False)."""
  value = draw(True)
  drawn = np.array([draw(False) for _ in range(draws - 1)])
  low, high = np.quantile(drawn, (0.025, 0.975))
  # As much, but for rounding.
  p = (1 + (drawn >= value - 1e-12).sum()) / draws
  return Chance(
    float(value), float(drawn.mean()), float(low), float(high), float(p)
  )
