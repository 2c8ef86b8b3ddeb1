"""The record of a search space, and everything that follows from its layout.

An architecture is a vector of named decisions: one int8 vector `arch_d` that
has for each field the number of the choice taken. Spaces may have any size;
only what lists all of their architectures is bounded (`MOST_LISTED`).

JAX is imported inside the functions that draw at random, so that reading a
table or planning a run needs NumPy only and starts at once.
"""

import dataclasses
import functools
import itertools
import json
import operator
from collections.abc import Callable, Mapping

import numpy as np

from nasjax.spaces.reading import read, shown

# Architectures that are listed or gone through one by one.
MOST_LISTED = 1_000_000
# Places in a space are numbers of 64 bits.
_MOST_PLACES = 2**63


def written_digits(digits):
  """The vector itself as text: '0 3 1'. The key where a space has no other."""
  return ' '.join(map(str, digits))


@dataclasses.dataclass(frozen=True, init=False)
class Space:
  """A search space: what the digits of an architecture mean.

  Methods named in the singular take one architecture in any form that `parse`
  reads; those in the plural take many, an integer array [n, d] or a sequence of
  such forms, and return arrays. All raise the ValueError of `parse` on bad
  input.

  Attributes:
    name: short name, as tables and messages show it.
    fields: names of the decisions, in order.
    choices: for each decision the names of its choices.
    key_of: the name of an architecture in published files, from its digits.
    semantic_key_of: a text equal for two architectures exactly when they
      compute the same function, from their digits.
  """

  name: str
  fields: tuple[str, ...]
  choices: tuple[tuple[str, ...], ...]
  key_of: Callable[[tuple], str]
  semantic_key_of: Callable[[tuple], str]

  def __init__(
    self,
    name: str,
    fields: Mapping,
    key_of: Callable[[tuple], str] = written_digits,
    semantic_key_of: Callable[[tuple], str] = written_digits,
  ):
    """
    Args:
      name: of the space.
      fields: for each decision, by its name, the names of its choices, 1 to
        127 of them; at least one decision must have two.
      key_of, semantic_key_of: see the attributes.
    """
    if not isinstance(fields, Mapping):
      raise ValueError(
        f'{name}: fields is {type(fields).__name__} {shown(fields)}; want a '
        'mapping from the name of each decision to the names of its choices'
      )
    choices = tuple(map(tuple, fields.values()))
    for field, names in zip(fields, choices):
      if isinstance(fields[field], str) or not 1 <= len(names) <= 127:
        raise ValueError(
          f'{name}: {field} has the choices {shown(fields[field])}; want a '
          'list of 1 to 127 names'
        )
      if len(set(names)) < len(names):
        raise ValueError(
          f'{name}: {field} has one of the choices {shown(names)} twice'
        )
    if max(map(len, choices), default=0) < 2:
      raise ValueError(
        f'{name}: no decision has two choices, so there is nothing to search'
      )
    for attribute, value in {
      'name': name,
      'fields': tuple(fields),
      'choices': choices,
      'key_of': key_of,
      'semantic_key_of': semantic_key_of,
    }.items():
      object.__setattr__(self, attribute, value)

  # The layout.

  @functools.cached_property
  def sizes(self):
    """How many values each digit takes, in order."""
    return tuple(map(len, self.choices))

  @functools.cached_property
  def size(self):
    """How many architectures there are, counted as vectors."""
    size = 1
    for values in self.sizes:
      size *= values
    return size

  def names_of_choices(self, arch):
    """The choice at each decision, a tuple of str."""
    return tuple(
      names[digit] for names, digit in zip(self.choices, read(self, arch))
    )

  # One architecture in and out.

  def parse(self, arch):
    """Reads one architecture, and accepts nothing that is not one.

    Args:
      arch: a list, tuple, NumPy or JAX array of integers; or a mapping from
        every decision's name to the name or number of its choice. Booleans and
        floats are refused even where they equal an integer.

    Returns:
      arch_d, int8.

    Raises:
      ValueError: naming the position and the value, or the vector of the wrong
        length.
    """
    return np.array(read(self, arch), np.int8)

  def nested(self, arch):
    """The architecture as plain integers, as people write it."""
    return read(self, arch)

  def index(self, arch):
    """The place of the architecture in `enumerate`, an int."""
    return sum(map(operator.mul, read(self, arch), self._strides))

  def from_index(self, index):
    """The architecture at a place of `enumerate`, int8 (d,).

    An integer array of places [..] gives [.., d].
    """
    self._check_places()
    index_p = np.asarray(index)
    if index_p.dtype.kind not in 'iu':
      raise ValueError(f'{self.name}: index {shown(index)} is not an integer')
    outside_p = index_p[(index_p < 0) | (index_p >= self.size)]
    if outside_p.size:
      raise ValueError(
        f'{self.name}: index {outside_p[0]} is outside 0 to {self.size - 1}'
      )
    digits = np.unravel_index(index_p, self.sizes, order='F')
    return np.stack(digits, axis=-1).astype(np.int8)

  # Many architectures.

  def parse_all(self, archs):
    """Reads many architectures, int8 [n, d]; the error names the row too."""
    if hasattr(archs, '__array__'):
      archs = np.asarray(archs)
      # An array of objects may hold one nested list, or vector, an entry.
      if archs.ndim != 2 and not (archs.ndim == 1 and archs.dtype.kind == 'O'):
        raise ValueError(
          f'{self.name}: want architectures as rows, (n, {len(self.sizes)}), '
          f'got an array of shape {archs.shape}'
        )
      if archs.dtype.kind in 'iu' and archs.shape[1] == len(self.sizes):
        bad_p = ((archs < 0) | (archs >= np.array(self.sizes))).any(axis=1)
        if not bad_p.any():
          return archs.astype(np.int8)
    elif not isinstance(archs, list | tuple):
      raise ValueError(
        f'{self.name}: want a list or array of architectures, got '
        f'{type(archs).__name__} {shown(archs)}'
      )
    archs_pd = np.empty((len(archs), len(self.sizes)), np.int8)
    for row, arch in enumerate(archs):
      try:
        archs_pd[row] = read(self, arch)
      except ValueError as error:
        raise ValueError(f'row {row}: {error}') from None
    return archs_pd

  def indices(self, archs):
    """Places of many architectures in `enumerate`, int64 [n]."""
    self._check_places()
    return self.parse_all(archs).astype(np.int64) @ np.array(self._strides)

  def enumerate(self):
    """All architectures, int8 [size, d], the first digit changing fastest.

    Raises:
      ValueError: there are more than `MOST_LISTED`.
    """
    check_listed(f'{self.name} has', self.size)
    return self.from_index(np.arange(self.size))

  def neighbours(self, arch):
    """All that differ in one digit, int8 [n, d], by position, then value."""
    arch_d = self.parse(arch)
    rows = []
    for d, size in enumerate(self.sizes):
      for value in range(size):
        if value != arch_d[d]:
          row = arch_d.copy()
          row[d] = value
          rows.append(row)
    return np.array(rows, np.int8)

  def unique(self, by='key'):
    """One architecture of each class, the first in the order of `enumerate`.

    Args:
      by: 'key' for the classes of published files, which may merge different
        functions and keep one for the empty graph; 'semantic' for functions.

    Returns:
      archs_pd, int8 [classes, d], in the order of `enumerate`.

    Raises:
      ValueError: as `enumerate`.
    """
    if by not in ('key', 'semantic'):
      raise ValueError(f"{self.name}: by={by!r}; want 'key' or 'semantic'")
    archs_pd = self.enumerate()
    keys_p = (
      self.keys(archs_pd) if by == 'key' else self.semantic_keys(archs_pd)
    )
    _, first_p = np.unique(keys_p, return_index=True)
    return archs_pd[np.sort(first_p)]

  def among(self, allowed):
    """All architectures whose digits are of some values, one of each function.

    Args:
      allowed: for each decision, the numbers of the choices it may have.

    Returns:
      archs_pd, int8, in the order of `enumerate`.

    Raises:
      ValueError: they are more than `MOST_LISTED`.
    """
    allowed = [sorted(set(map(int, values))) for values in allowed]
    count = 1
    for values in allowed:
      count *= len(values)
    check_listed(f'{self.name}, some choices:', count)
    # The first digit changes fastest, as in `enumerate`.
    rows = [row[::-1] for row in itertools.product(*allowed[::-1])]
    archs_pd = np.array(rows, np.int8).reshape(-1, len(self.sizes))
    _, first_p = np.unique(self.semantic_keys(archs_pd), return_index=True)
    return archs_pd[np.sort(first_p)]

  # Which architectures are the same.

  def key(self, arch):
    """The architecture's name in published files, a str."""
    return self.key_of(self._split(read(self, arch)))

  def keys(self, archs):
    """`key` of many architectures, an array of str [n]."""
    rows = self.parse_all(archs).tolist()
    return np.array([self.key_of(self._split(row)) for row in rows], np.str_)

  def semantic_key(self, arch):
    """A str equal for two architectures exactly when they are one function.

    Two architectures are one function when they give the same output for every
    input, weights being matched: all applications of one kind of operation to
    one value have the same weights, whichever node they stand at.
    """
    return self.semantic_key_of(self._split(read(self, arch)))

  def semantic_keys(self, archs):
    """`semantic_key` of many architectures, an array of str [n]."""
    rows = self.parse_all(archs).tolist()
    keys = [self.semantic_key_of(self._split(row)) for row in rows]
    return np.array(keys, np.str_)

  # For people.

  def names(self, arch, between=' '):
    """The architecture as people read it: 'depth=12, kernel=31 [1,2]'.

    What is chosen, and the vector, which is to be typed. All texts, tables and
    figures have this notation and no other; `between` is what stands between
    its halves, such as a line feed where a column is narrow.
    """
    vector = json.dumps(self.nested(arch), separators=(',', ':'))
    return ', '.join(self._words(arch)) + between + vector

  def _words(self, arch):
    """What is chosen, a list of str."""
    chosen = self.names_of_choices(arch)
    return [f'{field}={name}' for field, name in zip(self.fields, chosen)]

  def describe(self, arch):
    """The architecture in a few lines, for people."""
    return '\n'.join(
      (
        f'{self.names(arch)}',
        f'  place     index {self.index(arch)}',
        f'  function  {self.semantic_key(arch)}',
        f'  key       {self.key(arch)}',
      )
    )

  # Random architectures. All of it works under jit and vmap.

  def sample(self, key, n):
    """Draws architectures, every vector equally likely, with replacement.

    Args:
      key: a JAX random key.
      n: how many; static under jit.

    Returns:
      archs_pd, an int8 JAX array [n, d].
    """
    import jax

    shape = (n, len(self.sizes))
    sizes_pd = np.broadcast_to(np.array(self.sizes, np.int32), shape)
    # Drawn in 32 bits: eight would favour the low digits measurably.
    return jax.random.randint(key, shape, 0, sizes_pd).astype(np.int8)

  def mutate(self, key, arch):
    """Gives one digit, drawn uniformly, another value, drawn uniformly.

    Args:
      key: a JAX random key.
      arch: one architecture in any form `parse` reads. Inside jit or vmap,
        where values are unknown, only its shape and type can be checked.

    Returns:
      arch_d, an int8 JAX array at Hamming distance 1.
    """
    import jax
    import jax.numpy as jnp

    arch_d = self._traced(arch)
    # Decisions of one choice only cannot change.
    free = jnp.array([d for d, size in enumerate(self.sizes) if size > 1])
    k_digit, k_shift = jax.random.split(key)
    d = free[jax.random.randint(k_digit, (), 0, len(free))]
    size = jnp.array(self.sizes, jnp.int32)[d]
    shift = jax.random.randint(k_shift, (), 1, size)
    return arch_d.at[d].set((arch_d[d] + shift) % size).astype(jnp.int8)

  def crossover(self, key, a, b):
    """Draws each digit from one of two architectures, both equally likely.

    Args:
      key: a JAX random key.
      a, b: as in `mutate`.

    Returns:
      arch_d, an int8 JAX array.
    """
    import jax
    import jax.numpy as jnp

    first_d = jax.random.bernoulli(key, shape=(len(self.sizes),))
    child_d = jnp.where(first_d, self._traced(a), self._traced(b))
    return child_d.astype(jnp.int8)

  def _traced(self, arch):
    """Returns an architecture as an int32 JAX array, checked as far as it is.

    Inside jit or vmap its values are not known.
    """
    import jax
    import jax.numpy as jnp

    if not isinstance(arch, jax.core.Tracer):
      return jnp.asarray(self.parse(arch), jnp.int32)
    shape = (len(self.sizes),)
    if arch.shape != shape or not jnp.issubdtype(arch.dtype, jnp.integer):
      raise ValueError(
        f'{self.name}: want integers of shape {shape}, got {arch.dtype} of '
        f'shape {arch.shape}; vmap over rows'
      )
    return arch.astype(jnp.int32)

  @functools.cached_property
  def _strides(self):
    return tuple(itertools.accumulate((1, *self.sizes[:-1]), operator.mul))

  def _check_places(self):
    if self.size > _MOST_PLACES:
      raise ValueError(
        f'{self.name} has {self.size:,} architectures; their places are '
        f'numbers of arrays up to {_MOST_PLACES:,} only'
      )

  def _split(self, digits):
    """Checked digits as the functions that make keys take them."""
    return tuple(digits)


def check_listed(what, count):
  """Raises a ValueError where there are too many architectures to list."""
  if count > MOST_LISTED:
    raise ValueError(
      f'{what} {count:,} architectures, of which at most {MOST_LISTED:,} are '
      'listed; draw some with sample(key, n), or name fewer choices'
    )
