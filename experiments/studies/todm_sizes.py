"""Sizes of a study of elastic networks: which there are, and by which networks.

A size is a number of parameters, 'min', 'middle', 'max', or a share of the
largest network. It stands for the evenly wide network that is nearest to it:
what one would train alone who has searched nothing.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from nasjax import cost
from nasjax.models import families

_NAMED = 'min', 'middle', 'max'


class Size(NamedTuple):
  """A size, and the network that is trained alone at it.

  Attributes:
    name: as the flag has it.
    arch: int8.
    params: of the network.
  """

  name: str
  arch: np.ndarray
  params: int


class Costs:
  """Parameters of the networks of a space, each counted once.

  Attributes:
    space, macro: of the networks.
    smallest, largest: their architectures.
    least, most: their parameters.
  """

  def __init__(self, space, macro):
    self.space, self.macro = space, macro
    elastic = families.elastic(space)
    self.smallest = elastic.smallest(space)
    self.largest = elastic.largest(space)
    self._count = functools.cache(
      lambda digits: cost.params(space, list(digits), macro)
    )
    self.least, self.most = (
      self.of(arch) for arch in (self.smallest, self.largest)
    )

  def of(self, arch):
    """Returns the parameters of one architecture."""
    return self._count(tuple(int(digit) for digit in arch))

  def __call__(self, arch_nd):
    """Returns those of many, float64."""
    return np.array([self.of(arch_d) for arch_d in arch_nd], np.float64)


def evenly(costs):
  """Returns the evenly wide networks of a space, int8 [n, d].

  Of each depth, all layers have one width, or the first ones the next.
  """
  space = costs.space
  *widths, depths = space.sizes
  found = []
  for depth in range(depths):
    for width in range(max(widths)):
      for first in range(len(widths) if width + 1 < max(widths) else 1):
        row = [min(width + (n < first), size - 1)
               for n, size in enumerate(widths)]  # fmt: skip
        found.append([*row, depth])
  archs_nd = np.array(found, np.int8)
  _, first_n = np.unique(space.keys(archs_nd), return_index=True)
  return archs_nd[np.sort(first_n)]


def check(words):
  """Raises a ValueError where words are no sizes of any space."""
  if not words:
    raise ValueError('--sizes is empty; name at least one')
  for word in words:
    if word not in _NAMED and not _number(word) > 0:
      raise ValueError(
        f'--sizes: {word!r} is no size; give {", ".join(_NAMED)}, a share as '
        '50%, or millions of parameters, as 41.1'
      )


def _number(word):
  try:
    number = float(word.removesuffix('%'))
  except ValueError:
    return math.nan
  return number if math.isfinite(number) else math.nan


def named(words, costs):
  """Returns the `Size`s that words name, the smallest first.

  Raises:
    ValueError: a word is no size, or no network has it; it says which sizes
      there are. Or none is named, or two are of one network.
  """
  check(words)
  archs_nd = evenly(costs)
  params_n = costs(archs_nd)
  found = {}
  for word in words:
    wanted = _params(word, costs)
    arch = archs_nd[np.argmin(np.abs(params_n - wanted))]
    size = Size(word, arch, costs.of(arch))
    same = [s.name for s in found.values() if s.params == size.params]
    if same:
      raise ValueError(
        f'--sizes: {same[0]} and {word} are one size, {size.params:,} '
        'parameters; name it once'
      )
    found[word] = size
  return sorted(found.values(), key=lambda size: size.params)


def _params(word, costs):
  least, most = costs.least, costs.most
  if word in _NAMED:
    return dict(zip(_NAMED, (least, (least + most) / 2, most)))[word]
  number = _number(word)
  wanted = number / 100 * most if word.endswith('%') else number * 1e6
  # What is written with a few digits may be rounded.
  slack = 0.005 * most
  if not least - slack <= wanted <= most + slack:
    raise ValueError(
      f'--sizes: {word}: no network of {costs.space.name} on macro '
      f'{costs.macro.name} has {wanted / 1e6:.4g} M parameters; there are '
      f'{least / 1e6:.4g} M ({least / most:.1%}) to {most / 1e6:.4g} M (100%)'
    )
  return wanted
