"""Spaces that are chains of nodes with skips, as cells are.

Node n reads the tensor of node n - 1 through its main operation, one of `ops`,
and adds some of the earlier tensors through identity skips. Tensor 0 is the
input of the chain, tensor n + 1 the output of node n; the tensor of the last
node is the output. An architecture has for each node the index of its
operation, then one 0/1 digit for each of the tensors 0, 1, .. it may skip from
(1 means present).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from nasjax.spaces.base import Space
from nasjax.spaces.reading import read

# One tuple a node: the index of its operation, then its skip digits.
Nodes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, init=False)
class Chain(Space):
  """A `Space` whose decisions are the operations and skips of a chain.

  `parse` also reads nested architectures, one list or tuple a node: [op, skip,
  ..]. `key_of` and `semantic_key_of` take `Nodes`.

  Attributes:
    ops: names of the candidate operations; a digit is an index into them.
    skips: for each node, how many skip digits it has.
  """

  fields: tuple[str, ...] = dataclasses.field(init=False)
  choices: tuple[tuple[str, ...], ...] = dataclasses.field(init=False)
  ops: tuple[str, ...]
  skips: tuple[int, ...]

  def __init__(
    self,
    name: str,
    ops: tuple[str, ...],
    skips: tuple[int, ...],
    key_of: Callable[[Nodes], str] = str,
    semantic_key_of: Callable[[Nodes], str] = str,
  ):
    """
    Args:
      name, key_of, semantic_key_of: see `Space`.
      ops: 2 to 127 names.
      skips: node n can skip from at most the n + 1 tensors before it; 0 makes a
        plain chain.
    """
    for n, count in enumerate(skips):
      if not 0 <= count <= n + 1:
        raise ValueError(
          f'{name}: node {n + 1} has {count} skip digits; there are {n + 1} '
          'tensors before it'
        )
    if not 2 <= len(ops) <= 127:
      raise ValueError(f'{name}: {len(ops)} ops; want 2 to 127')
    fields = {}
    for n, count in enumerate(skips):
      fields[f'op{n + 1}'] = ops
      fields |= {f's{n}{m}': ('0', '1') for m in range(count)}
    super().__init__(name, fields, key_of, semantic_key_of)
    object.__setattr__(self, 'ops', tuple(ops))
    object.__setattr__(self, 'skips', tuple(skips))

  # The layout.

  @property
  def nodes(self):
    """How many nodes the chain has."""
    return len(self.skips)

  @functools.cached_property
  def op_positions(self):
    """Positions of the operation digits, one a node."""
    starts = np.cumsum([0, *(1 + count for count in self.skips)])
    return tuple(starts[:-1].tolist())

  def nested(self, arch):
    """The architecture as one list of plain integers a node."""
    return [list(node) for node in self._split(read(self, arch))]

  def allowed(self, ops, skips):
    """Returns the values that each digit may have with some ops and skips.

    Args:
      ops: names of the operations that every node may have.
      skips: names (of `fields`) of the skips that may be present; the others
        are absent.

    Returns:
      a tuple of tuples, as `among` takes it.

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
    op_digits = tuple(self.ops.index(name) for name in ops)
    return tuple(
      op_digits if d in self.op_positions else (0, 1) if name in skips else (0,)
      for d, name in enumerate(self.fields)
    )

  def product(self, ops, skips):
    """Returns `among` the values that are `allowed`."""
    return self.among(self.allowed(ops, skips))

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

  def _words(self, arch):
    # Of 'conv5, linear, zero [[1,1],[0,0,1],[5,1,1,0]]' what is before the
    # vector, which has the skips.
    return self.main_ops(arch)

  def describe(self, arch):
    """The architecture in a few lines, for people."""
    path = 'an' if self.has_skip_path(arch) else 'no'
    return (
      f'{super().describe(arch)}\n'
      f'  skips     {path} identity path from input to output'
    )

  @functools.cached_property
  def _slices(self):
    return tuple(
      slice(start, start + 1 + count)
      for start, count in zip(self.op_positions, self.skips)
    )

  def _split(self, digits):
    """Checked digits as one tuple a node."""
    return tuple(tuple(digits[part]) for part in self._slices)
