"""Reads an architecture written down by people or by other programs.

Only what is an architecture is read. A value that merely resembles one (1.0,
True, -1, which Python would take for the last operation) is refused, because a
table would answer for a cell that nobody asked for.
"""

import operator
from collections.abc import Mapping

import numpy as np


def shown(value):
  """The value as a message shows it: what was given, and not too long."""
  text = repr(value)
  return text if len(text) <= 120 else text[:117] + '...'


def read(space, arch):
  """The digits of one architecture.

  Args:
    space: the `Space` whose layout the architecture follows.
    arch: flat, a mapping, or for a `Chain` nested, one list, tuple or array a
      node: see `Space.parse`.

  Returns:
    A list of int, every one within its range.

  Raises:
    ValueError: naming the position and the value, or the node or vector of the
      wrong length.
  """
  if hasattr(arch, '__array__'):
    arch = _listed(np.asarray(arch))
  if isinstance(arch, Mapping):
    arch = _by_name(space, arch)
  wanted = f'{len(space.sizes)} integers'
  skips = getattr(space, 'skips', None)
  if not isinstance(arch, list | tuple):
    if skips is not None:
      wanted = f'{len(skips)} nodes or {wanted}'
    raise ValueError(
      f'{space.name}: want {wanted}, got {type(arch).__name__} {shown(arch)}'
    )
  values = arch
  if skips is not None and any(map(_is_sequence, arch)):
    values = _flattened(space, arch)
  elif len(arch) != len(space.sizes):
    if skips is not None:
      wanted = f'{wanted}, or {len(skips)} nodes'
    raise ValueError(
      f'{space.name}: want {wanted}, got {len(arch)} values: {shown(arch)}'
    )
  return [
    value
    if type(value) is int and 0 <= value < size
    else _read_digit(space, d, value)
    for d, (value, size) in enumerate(zip(values, space.sizes))
  ]


def _listed(array):
  # Integers become plain ones. The rest stays as it is, so that a message shows
  # np.float32(1.0) and not another number.
  if array.ndim == 0 or array.dtype.kind in 'iu':
    return array.tolist()
  return list(array)


def _is_sequence(value):
  return isinstance(value, (list, tuple)) or getattr(value, 'ndim', 0) > 0


def _by_name(space, arch):
  """The values of an architecture that is given by the names of decisions."""
  for what, names in (
    ('no', [name for name in space.fields if name not in arch]),
    ('the unknown', [name for name in arch if name not in space.fields]),
  ):
    if names:
      raise ValueError(
        f'{space.name}: {type(arch).__name__} {shown(arch)} has {what} '
        f'decision {shown(names[0])}; want {", ".join(space.fields)}'
      )
  return [
    names.index(arch[name]) if arch[name] in names else arch[name]
    for name, names in zip(space.fields, space.choices)
  ]


def _flattened(space, arch):
  """The values of a nested architecture, each node's length checked."""
  if len(arch) != space.nodes:
    raise ValueError(
      f'{space.name}: want {space.nodes} nodes, got {len(arch)}: {shown(arch)}'
    )
  values = []
  for n, (node, count) in enumerate(zip(arch, space.skips), start=1):
    if not _is_sequence(node):
      raise ValueError(
        f'{space.name}: node {n} is {shown(node)}; want a list of an op and '
        f'{count} skips'
      )
    if len(node) != 1 + count:
      raise ValueError(
        f'{space.name}: node {n} has {len(node)} values, want an op and '
        f'{count} skips: {shown(node)}'
      )
    values.extend(node)
  return values


def _read_digit(space, d, value):
  """One digit that is not a plain int within its range, or an error."""
  # operator.index reads every kind of integer and no float. Booleans are
  # integers to Python, but a flag in place of an operation is a mistake.
  if not isinstance(value, bool | np.bool_):
    try:
      digit = operator.index(value)
    except TypeError:
      digit = -1
    if 0 <= digit < space.sizes[d]:
      return digit
  names = space.choices[d]
  if names == ('0', '1'):
    wanted = 'the integer 0 or 1'
  else:
    listed = ', '.join(f'{i} {name}' for i, name in enumerate(names))
    wanted = f'an integer: {listed}'
  raise ValueError(
    f'{space.name}: position {d} ({space.fields[d]}) is {shown(value)}; want '
    f'{wanted}'
  )
