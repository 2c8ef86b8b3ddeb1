"""Macro spaces of conformer-like encoders: layers that may differ.

A layer is attention, a convolution in time and a feed-forward part, each on a
sum (Gulati et al. 2020, "Conformer"). What is searched of each layer: how many
heads its attention has, how many taps its convolution, either of which may not
be there, how much wider than the network its feed-forward part is, what
activates, what normalises, and, of every second layer, whether it is left out.
One decision of the whole network is before which layer frames are halved: all
networks of a space keep the same frames, at different costs.

Heads are of one size and the choices of sizes rise, so that a smaller network
is a part of a larger one.
"""

import functools
from typing import NamedTuple

import numpy as np

from nasjax.spaces.base import Space

NONE = 'none'
ACTIVATIONS = ('relu', 'gelu', 'swish')
NORMS = ('layer', 'batch')
DOWNSAMPLE = 'downsample'
# Decisions of a layer, as the fields are called, the layer's number behind.
_PARTS = ('heads', 'kernel', 'expansion', 'activation', 'norm')


class Layer(NamedTuple):
  """What an architecture says of a layer that is there.

  Attributes:
    heads: of attention; 0 for no attention.
    kernel: taps of the convolution, odd; 0 for no convolution.
    expansion: channels within the feed-forward part, as a multiple of those
      between layers.
    activation: of `ACTIVATIONS`.
    norm: of `NORMS`.
  """

  heads: int
  kernel: int
  expansion: float
  activation: str
  norm: str


def space(name, count, heads, kernels, expansions, downsamples):
  """Makes a space.

  Args:
    name: of the space.
    count: layers of the largest network.
    heads, kernels: numbers that a layer may have, rising; either may begin with
      `NONE`.
    expansions: likewise.
    downsamples: numbers of layers, from 1, before which frames are halved,
      rising; count + 1 is behind the last.

  Returns:
    `Space` with the decisions heads1, kernel1, expansion1, activation1, norm1,
    heads2, .., skip2, .. and downsample.

  Raises:
    ValueError: numbers that do not rise, or that are none a layer can have.
  """
  _check(name, count, heads, kernels, expansions, downsamples)
  sizes = [tuple(map(str, values)) for values in (heads, kernels, expansions)]
  fields = {}
  for n in range(1, count + 1):
    choices = (*sizes, ACTIVATIONS, NORMS)
    fields |= {f'{part}{n}': names for part, names in zip(_PARTS, choices)}
    if n % 2 == 0:
      fields[f'skip{n}'] = ('yes', 'no')
  fields[DOWNSAMPLE] = tuple(map(str, downsamples))
  fields_ = tuple(fields)
  places = tuple(downsamples)
  return Space(
    name,
    fields,
    functools.partial(_written, fields_, places, False),
    functools.partial(_written, fields_, places, True),
  )


def _check(name, count, heads, kernels, expansions, downsamples):
  numbers = {
    'heads': [h for h in heads if h != NONE],
    'kernels': [k for k in kernels if k != NONE],
    'expansions': list(expansions),
    'downsamples': list(downsamples),
  }
  for what, values in numbers.items():
    if not values or values != sorted(set(values)) or not values[0] > 0:
      raise ValueError(f'{name}: {what} are {values}; they must rise from 1 on')
  for what, values in (('heads', heads), ('kernels', kernels)):
    if NONE in tuple(values)[1:]:
      raise ValueError(f'{name}: {what} are {values}; {NONE!r} must come first')
  even = [k for k in numbers['kernels'] if k % 2 == 0]
  if even:
    raise ValueError(f'{name}: kernels of {even} taps have no middle')
  if not 1 <= downsamples[-1] <= count + 1:
    raise ValueError(
      f'{name}: frames are halved before layer {downsamples[-1]}; there are '
      f'{count}'
    )


def _written(fields, places, by_function, digits):
  """Writes the digits of the layers that are there, and where frames halve.

  By function, layers that are left out make no difference to the place.
  """
  layers, before = [], 0
  place = places[digits[-1]]
  rows = {}
  for field, digit in zip(fields[:-1], digits):
    number = int(field.lstrip('abcdefghijklmnopqrstuvwxyz'))
    rows.setdefault(number, {})[field.rstrip('0123456789')] = digit
  for number, row in rows.items():
    if row.pop('skip', 1):
      layers.append('.'.join(map(str, row.values())))
      before += number < place
    elif not by_function:
      layers.append('-')
  return ' '.join([*layers, f'/{before if by_function else place}'])


def count(space):
  """Returns how many layers the largest network has."""
  return sum(field.startswith('expansion') for field in space.fields)


def layers(space, arch):
  """Returns a `Layer` for each layer, None for one that is left out."""
  chosen = dict(zip(space.fields, space.names_of_choices(arch)))
  found = []
  for n in range(1, count(space) + 1):
    if chosen.get(f'skip{n}') == 'yes':
      found.append(None)
      continue
    heads, kernel, expansion, *rest = (chosen[f'{p}{n}'] for p in _PARTS)
    found.append(
      Layer(_number(heads), _number(kernel), float(expansion), *rest)
    )
  return tuple(found)


def _number(name):
  return 0 if name == NONE else int(name)


def downsample(space, arch):
  """Returns the layer, from 1, before which an architecture halves frames."""
  return int(space.names_of_choices(arch)[-1])


def downsamples(space):
  """Returns all layers before which frames may be halved, rising."""
  return tuple(map(int, space.choices[-1]))


def thousandths(expansion):
  """Returns an expansion as an int, for sizes that are data."""
  return round(1000 * expansion)


def hidden(thousandths, width):
  """Returns the channels within a feed-forward part: integers, or arrays."""
  return (thousandths * width + 500) // 1000


def largest(space):
  """Returns the architecture of which all others are a part, int8."""
  return space.parse([size - 1 for size in space.sizes])


def smallest(space):
  """Returns the one of the fewest weights and the fewest frames, int8."""
  return space.parse(np.zeros(len(space.sizes), np.int8))


CONFORMER = space(
  'conformer',
  12,
  (NONE, 4, 8, 16),
  (NONE, 3, 5, 7, 9, 11, 13, 15),
  (1.5, 2, 3, 4, 6),
  (1, 2, 3, 5, 7),
)
# For two cores.
CONFORMER_SMALL = space(
  'conformer_small', 4, (NONE, 4, 8, 16), (NONE, 3, 7, 15), (1.5, 3, 6),
  (1, 2, 3),
)  # fmt: skip
