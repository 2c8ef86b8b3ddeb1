"""The record of a search space, and everything that follows from its layout.

A space here is a chain of nodes. Node n reads the tensor of node n - 1 through
its main operation, one of `ops`, and adds some of the earlier tensors through
identity skips. Tensor 0 is the input of the chain, tensor n + 1 the output of
node n; the tensor of the last node is the output. An architecture is one int8
vector `arch_d`: for each node the index of its operation, then one 0/1 digit
for each of the tensors 0, 1, .. it may skip from (1 means present).

JAX is imported inside the two functions that draw at random, so that reading a
table or planning a run needs NumPy only and starts at once.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable

import numpy as np

from nasjax.spaces.reading import read, shown

# One tuple a node: the index of its operation, then its skip digits.
Nodes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Space:
  """A search space: what the digits of an architecture mean.

  Methods named in the singular take one architecture in any form that `parse`
  reads; those in the plural take many, an integer array [n, d] or a sequence of
  such forms, and return arrays. All raise the ValueError of `parse` on bad
  input.

  Attributes:
    name: short name, as tables and messages show it.
    ops: names of the candidate operations; a digit is an index into them.
    skips: for each node, how many skip digits it has (node n can skip from at
      most the n + 1 tensors before it; 0 makes a plain chain).
    key_of: the name of an architecture in published files, from its nodes.
    semantic_key_of: a text equal for two architectures exactly when they
      compute the same function, from their nodes.
  """

  name: str
  ops: tuple[str, ...]
  skips: tuple[int, ...]
  key_of: Callable[[Nodes], str]
  semantic_key_of: Callable[[Nodes], str]

  def __post_init__(self):
    for n, count in enumerate(self.skips):
      if not 0 <= count <= n + 1:
        raise ValueError(
          f'{self.name}: node {n + 1} has {count} skip digits; there are '
          f'{n + 1} tensors before it'
        )
    if not 2 <= len(self.ops) <= 127:
      raise ValueError(f'{self.name}: {len(self.ops)} ops; want 2 to 127')

  # The layout.

  @property
  def nodes(self):
    """How many nodes the chain has."""
    return len(self.skips)

  @functools.cached_property
  def sizes(self):
    """How many values each digit takes, in order."""
    return tuple(
      size for count in self.skips for size in (len(self.ops), *(2,) * count)
    )

  @functools.cached_property
  def size(self):
    """How many architectures there are, counted as vectors."""
    size = 1
    for values in self.sizes:
      size *= values
    return size

  @functools.cached_property
  def fields(self):
    """Names of the digits: opN at node N, sNM a skip of row N from tensor M."""
    return tuple(
      name
      for n, count in enumerate(self.skips)
      for name in (f'op{n + 1}', *(f's{n}{m}' for m in range(count)))
    )

  @functools.cached_property
  def op_positions(self):
    """Positions of the operation digits, one a node."""
    starts = np.cumsum([0, *(1 + count for count in self.skips)])
    return tuple(starts[:-1].tolist())

  # One architecture in and out.

  def parse(self, arch):
    """Reads one architecture, and accepts nothing that is not one.

    Args:
      arch: nested, one list or tuple a node: [op, skip, ..]; or flat, a list,
        tuple, NumPy or JAX array of integers. Booleans and floats are refused
        even where they equal an integer.

    Returns:
      arch_d, int8.

    Raises:
      ValueError: naming the position and the value, or the node or vector of
        the wrong length.
    """
    return np.array(read(self, arch), np.int8)

  def nested(self, arch):
    """The architecture as one list of plain integers a node."""
    return [list(node) for node in self._split(read(self, arch))]

  def index(self, arch):
    """The place of the architecture in `enumerate`, an int."""
    return sum(map(operator.mul, read(self, arch), self._strides))

  def from_index(self, index):
    """The architecture at a place of `enumerate`, int8 (d,).

    An integer array of places [..] gives [.., d].
    """
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
    digits = tuple(self.parse_all(archs).T.astype(np.int64))
    return np.ravel_multi_index(digits, self.sizes, order='F').astype(np.int64)

  def enumerate(self):
    """All architectures, int8 [size, d], the first digit changing fastest."""
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
    """
    if by not in ('key', 'semantic'):
      raise ValueError(f"{self.name}: by={by!r}; want 'key' or 'semantic'")
    archs_pd = self.enumerate()
    keys_p = (
      self.keys(archs_pd) if by == 'key' else self.semantic_keys(archs_pd)
    )
    _, first_p = np.unique(keys_p, return_index=True)
    return archs_pd[np.sort(first_p)]

  def product(self, ops, skips):
    """All architectures of some operations and skips, one of each function.

    Args:
      ops: names of the operations that every node may have.
      skips: names (of `fields`) of the skips that may be present; the others
        are absent.

    Returns:
      archs_pd, int8, in the order of `enumerate`.

    Raises:
      ValueError: naming an operation or a skip that is unknown or named twice.
    """
    all_skips = [name for name in self.fields if name.startswith('s')]
    for what, names, known in ('op', ops, self.ops), ('skip', skips, all_skips):
      for name in names:
        if name not in known or list(names).count(name) > 1:
          raise ValueError(
            f'{self.name}: {what} {name!r} is unknown or named twice; there '
            f'are {", ".join(known)}'
          )
    if not ops:
      raise ValueError(f'{self.name}: no operation; name at least one')
    op_digits = [self.ops.index(name) for name in ops]
    archs_pd = self.enumerate()
    allowed_p = np.ones(len(archs_pd), bool)
    for d, name in enumerate(self.fields):
      if d in self.op_positions:
        allowed_p &= np.isin(archs_pd[:, d], op_digits)
      elif name not in skips:
        allowed_p &= archs_pd[:, d] == 0
    archs_pd = archs_pd[allowed_p]
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

  # What an architecture contains.

  def main_ops(self, arch):
    """Name of the main operation of each node, a tuple of str."""
    digits = read(self, arch)
    return tuple(self.ops[digits[d]] for d in self.op_positions)

  def skip_matrix(self, arch):
    """skip_nm, float32: 1 where a skip joins tensor m to node n (m <= n).

    Counted from 0, so node n makes tensor n + 1.
    """
    return self.skip_matrices(self.parse(arch)[None])[0]

  def skip_matrices(self, archs):
    """`skip_matrix` of many architectures, float32 [p, n, m]."""
    archs_pd = self.parse_all(archs)
    skip_pnm = np.zeros((len(archs_pd), self.nodes, self.nodes), np.float32)
    for n, (start, count) in enumerate(zip(self.op_positions, self.skips)):
      skip_pnm[:, n, :count] = archs_pd[:, start + 1 : start + 1 + count]
    return skip_pnm

  def has_skip_path(self, arch):
    """Whether skips alone lead from the input to the output, a bool."""
    return bool(self.has_skip_paths(self.parse(arch)[None])[0])

  def has_skip_paths(self, archs):
    """`has_skip_path` of many architectures, bool [n]."""
    skip_pnm = self.skip_matrices(archs) > 0
    reached_pm = np.zeros((len(skip_pnm), self.nodes + 1), bool)
    reached_pm[:, 0] = True
    for n in range(self.nodes):
      through_pm = skip_pnm[:, n] & reached_pm[:, : self.nodes]
      reached_pm[:, n + 1] = through_pm.any(axis=1)
    return reached_pm[:, -1]

  def names(self, arch):
    """The architecture on one line: 'conv5:1|linear:01|zero:110'."""
    nodes = self._split(read(self, arch))
    return '|'.join(
      ':'.join(filter(None, (self.ops[op], ''.join(map(str, skips)))))
      for op, *skips in nodes
    )

  def describe(self, arch):
    """The architecture in a few lines, for people."""
    path = 'a' if self.has_skip_path(arch) else 'no'
    return '\n'.join(
      (
        f'{self.names(arch)}',
        f'  digits    {self.nested(arch)}, index {self.index(arch)}',
        f'  function  {self.semantic_key(arch)}',
        f'  key       {self.key(arch)}',
        f'  skips     {path} path of skips from input to output',
      )
    )

  # Random architectures. Both work under jit and vmap.

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

    if isinstance(arch, jax.core.Tracer):
      shape = (len(self.sizes),)
      if arch.shape != shape or not jnp.issubdtype(arch.dtype, jnp.integer):
        raise ValueError(
          f'{self.name}: want integers of shape {shape}, got {arch.dtype} of '
          f'shape {arch.shape}; vmap over rows'
        )
      arch_d = arch.astype(jnp.int32)
    else:
      arch_d = jnp.asarray(self.parse(arch), jnp.int32)
    k_digit, k_shift = jax.random.split(key)
    d = jax.random.randint(k_digit, (), 0, len(self.sizes))
    size = jnp.array(self.sizes, jnp.int32)[d]
    shift = jax.random.randint(k_shift, (), 1, size)
    return arch_d.at[d].set((arch_d[d] + shift) % size).astype(jnp.int8)

  @functools.cached_property
  def _strides(self):
    return tuple(itertools.accumulate((1, *self.sizes[:-1]), operator.mul))

  @functools.cached_property
  def _slices(self):
    return tuple(
      slice(start, start + 1 + count)
      for start, count in zip(self.op_positions, self.skips)
    )

  def _split(self, digits):
    """Checked digits as one tuple a node."""
    return tuple(tuple(digits[part]) for part in self._slices)
