"""The encoders of TODM: how wide each layer is, and how many layers there are.

Shangguan et al. 2023, "TODM: Train Once Deploy Many". Layers are left out from
the last on, and what is narrower is a beginning of what is wider, so that every
network is a part of the largest. How wide a layer would be that is not there
makes no difference: `TODM` has 4^16 + 4^13 + 4^9 networks.
"""

import functools

import numpy as np

from nasjax.spaces.base import Space
from nasjax.spaces.reading import read

DEPTH = 'depth'


def _written(depths, digits):
  """The widths of the layers that there are, as numbers of their choices."""
  *widths, depth = digits
  return ' '.join(map(str, widths[: depths[depth]]))


def elastic(name, layers, widths, depths):
  """Makes a space of encoders of one largest network.

  Args:
    name: of the space.
    layers: of the largest network.
    widths: channels of the feed-forward part of a layer, increasing.
    depths: numbers of layers, decreasing from `layers` on.

  Returns:
    `Space` with the decisions width1, width2, .. and depth.

  Raises:
    ValueError: widths or depths are in another order.
  """
  if list(widths) != sorted(set(widths)) or not widths or min(widths) < 1:
    raise ValueError(f'{name}: widths are {widths}; they must increase from 1')
  if list(depths) != sorted(set(depths), reverse=True) or not depths:
    raise ValueError(f'{name}: depths are {depths}; they must decrease')
  if depths[0] != layers or depths[-1] < 1:
    raise ValueError(
      f'{name}: depths are {depths}; they must decrease from {layers} layers '
      'to at least 1'
    )
  fields = {f'width{n + 1}': tuple(map(str, widths)) for n in range(layers)}
  fields[DEPTH] = tuple(map(str, depths))
  key = functools.partial(_written, tuple(depths))
  return Space(name, fields, key, key)


def widths(space, arch):
  """Returns the widths of the layers that an architecture has, ints."""
  *names, depth = space.names_of_choices(arch)
  return tuple(map(int, names[: int(depth)]))


def depths(space):
  """Returns the numbers of layers that there are, from the largest down."""
  return tuple(map(int, space.choices[-1]))


def layers(space):
  """Returns how many layers the largest network has."""
  return len(space.fields) - 1


def networks(space):
  """Counts the architectures that differ: those of `space.key`."""
  choices = space.sizes[:-1]
  return sum(int(np.prod(choices[:n], dtype=object)) for n in depths(space))


def canonical(space, arch):
  """Returns arch_d with the first width wherever there is no layer, int8."""
  arch_d = np.array(read(space, arch), np.int8)
  arch_d[depths(space)[arch_d[-1]] : -1] = 0
  return arch_d


def largest(space):
  """Returns the architecture of which all others are a part, int8."""
  return space.parse([size - 1 for size in space.sizes[:-1]] + [0])


def smallest(space):
  """Returns the one that is a part of all others, int8."""
  return space.parse([0] * layers(space) + [space.sizes[-1] - 1])


# Of the paper.
TODM = elastic('todm', 16, (512, 1024, 2048, 4096), (16, 13, 9))
# For AN4 on two cores.
TODM_SMALL = elastic('todm_small', 6, (64, 128, 256), (6, 5, 4))
