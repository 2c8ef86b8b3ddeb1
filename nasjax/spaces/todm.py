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

RANK, DEPTH = 'rank', 'depth'


def _written(depths, digits):
  """The widths of the layers that there are, as numbers of their choices.

  Behind them that of the rank, where there is one.
  """
  *others, depth = digits
  kept = *others[: depths[depth]], *others[depths[0] :]
  return ' '.join(map(str, kept))


def elastic(name, layers, widths, depths, ranks=()):
  """Makes a space of encoders of one largest network.

  Args:
    name: of the space.
    layers: of the largest network.
    widths: channels of the feed-forward part of a layer, increasing.
    depths: numbers of layers, decreasing from `layers` on.
    ranks: of the products of all feed-forward parts, increasing, each the
      product of two matrices then; none for whole ones.

  Returns:
    `Space` with the decisions width1, width2, .., rank if there are any, and
    depth.

  Raises:
    ValueError: widths, ranks or depths are in another order.
  """
  if list(widths) != sorted(set(widths)) or not widths or min(widths) < 1:
    raise ValueError(f'{name}: widths are {widths}; they must increase from 1')
  if list(ranks) != sorted(set(ranks)) or (ranks and min(ranks) < 1):
    raise ValueError(f'{name}: ranks are {ranks}; they must increase from 1')
  if list(depths) != sorted(set(depths), reverse=True) or not depths:
    raise ValueError(f'{name}: depths are {depths}; they must decrease')
  if depths[0] != layers or depths[-1] < 1:
    raise ValueError(
      f'{name}: depths are {depths}; they must decrease from {layers} layers '
      'to at least 1'
    )
  fields = {f'width{n + 1}': tuple(map(str, widths)) for n in range(layers)}
  if ranks:
    fields[RANK] = tuple(map(str, ranks))
  fields[DEPTH] = tuple(map(str, depths))
  key = functools.partial(_written, tuple(depths))
  return Space(name, fields, key, key)


def widths(space, arch):
  """Returns the widths of the layers that an architecture has, ints."""
  *names, depth = space.names_of_choices(arch)
  return tuple(map(int, names[: int(depth)]))


def rank(space, arch):
  """Returns the rank of an architecture's products; None for whole ones."""
  named = dict(zip(space.fields, space.names_of_choices(arch)))
  return int(named[RANK]) if RANK in named else None


def ranks(space):
  """Returns the ranks that there are; () where products are whole."""
  named = dict(zip(space.fields, space.choices))
  return tuple(map(int, named.get(RANK, ())))


def depths(space):
  """Returns the numbers of layers that there are, from the largest down."""
  return tuple(map(int, space.choices[-1]))


def layers(space):
  """Returns how many layers the largest network has."""
  return depths(space)[0]


def networks(space):
  """Counts the architectures that differ: those of `space.key`."""
  choices, each = space.sizes[: layers(space)], max(1, len(ranks(space)))
  return sum(
    each * int(np.prod(choices[:n], dtype=object)) for n in depths(space)
  )


def canonical(space, arch):
  """Returns arch_d with the first width wherever there is no layer, int8."""
  arch_d = np.array(read(space, arch), np.int8)
  arch_d[depths(space)[arch_d[-1]] : layers(space)] = 0
  return arch_d


def largest(space):
  """Returns the architecture of which all others are a part, int8."""
  return space.parse([size - 1 for size in space.sizes[:-1]] + [0])


def smallest(space):
  """Returns the one that is a part of all others, int8."""
  return space.parse([0] * (len(space.fields) - 1) + [space.sizes[-1] - 1])


# Of the paper.
TODM = elastic('todm', 16, (512, 1024, 2048, 4096), (16, 13, 9))
# For AN4 on two cores.
TODM_SMALL = elastic('todm_small', 6, (64, 128, 256), (6, 5, 4))
TODM_LOW_RANK = elastic(
  'todm_low_rank', 6, (64, 128, 256), (6, 5, 4), (8, 16, 32)
)
