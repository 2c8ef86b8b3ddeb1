"""Spaces that are dense graphs: every node reads all that stand before it.

Tensor 0 is the input. Node i, counted from 1, is the sum over all j < i of an
operation of tensor j; an architecture has the operation of each of these edges,
the edges of node 1 first, then those of node 2, ..
"""

import dataclasses
from collections.abc import Mapping

from nasjax.spaces.base import Space
from nasjax.spaces.reading import read


@dataclasses.dataclass(frozen=True, init=False)
class Dense(Space):
  """A `Space` whose decisions are the operations of a dense graph's edges.

  The edge from tensor j to node i is called 'e<j>_<i>'. No two vectors count as
  one function: the nodes' outputs stand side by side in the network's tensor,
  so that nodes that change places change it.

  Attributes:
    nodes: how many nodes there are, the input left out.
  """

  fields: tuple[str, ...] = dataclasses.field(init=False)
  choices: tuple[tuple[str, ...], ...] = dataclasses.field(init=False)
  nodes: int

  def __init__(self, name: str, nodes: int, ops):
    """
    Args:
      name: of the space.
      nodes: at least 1.
      ops: the names of the candidates that every edge has; or, for edges with
        candidates of their own, a mapping from all edges (j, i) to these.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
      raise ValueError(f'{name}: nodes is {nodes!r}; want a number from 1 on')
    edges = _edges(nodes)
    if isinstance(ops, Mapping):
      if set(ops) != set(edges):
        raise ValueError(
          f'{name}: candidates of the edges {sorted(ops)}; want those of '
          f'{list(edges)}'
        )
    else:
      ops = dict.fromkeys(edges, ops)
    super().__init__(name, {f'e{j}_{i}': ops[j, i] for j, i in edges})
    object.__setattr__(self, 'nodes', nodes)

  @property
  def edges(self):
    """The edges in the order of the digits: pairs (j, i), j < i."""
    return _edges(self.nodes)

  def _words(self, arch):
    # Of 'n1 conv3x3, n2 skip conv3x3 [6,0,..]' what is before the vector: the
    # operations that a node sums, by the tensor that they read.
    chosen = dict(zip(self.edges, self.names_of_choices(read(self, arch))))
    return [
      f'n{i} ' + ' '.join(chosen[j, i] for j in range(i))
      for i in range(1, self.nodes + 1)
    ]


def _edges(nodes):
  return tuple((j, i) for i in range(1, nodes + 1) for j in range(i))
