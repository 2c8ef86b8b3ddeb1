"""A search space as a supernet: its edges, and the networks that share weights.

An edge is a place where the search chooses: the main operation of a node, or a
skip, which is absent or present. An architecture is one candidate an edge.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.models import families
from nasjax.oneshot import estimators
from nasjax.spaces import Chain


@dataclasses.dataclass(frozen=True)
class Supernet:
  """The part of a space that is searched, on a macro network.

  Attributes:
    space: `spaces.Space`.
    macro: of a network that the space goes with.
    ops: of a chain: names of candidate operations; every node has them all.
    skips: of a chain: names of the skips that are searched; the others are
      absent. Of any other space all decisions are searched.
    kept: of any other space, for each decision the choices that are searched,
      by name and in the order of the space; all if not given.
  """

  space: object
  macro: object
  ops: tuple[str, ...] = ()
  skips: tuple[str, ...] = ()
  kept: tuple[tuple[str, ...], ...] = ()

  def __post_init__(self):
    families.check(self.space, self.macro)
    self._check_kept()
    if not self._is_chain:
      if self.ops or self.skips:
        raise ValueError(
          f'{self.space.name} is no chain: all its decisions are searched, '
          'without operations or skips to be named'
        )
      return
    # Also says what is wrong with the names.
    self.space.allowed(self.ops, self.skips)
    if len(self.ops) < 2:
      raise ValueError(
        f'a supernet of {self.space.name} needs two operations to choose '
        f'from, got {self.ops}'
      )

  def _check_kept(self):
    if not self.kept:
      return
    known = self.space.choices
    if self._is_chain or len(self.kept) != len(known):
      raise ValueError(
        f'{self.space.name}: kept has choices of {len(self.kept)} decisions; '
        f'want those of {len(known)}, of a space that is no chain'
      )
    for field, names, own in zip(self.space.fields, known, self.kept):
      if not own or tuple(n for n in names if n in own) != tuple(own):
        raise ValueError(
          f'{self.space.name}: kept choices {own} of {field} are not some of '
          f'{names}, in their order'
        )

  @property
  def _is_chain(self):
    return isinstance(self.space, Chain)

  @property
  def mains(self):
    """The edges whose candidates have parameters; the first of `edges`."""
    if not self._is_chain:
      return tuple(zip(self.space.fields, self.kept or self.space.choices))
    return tuple((f'op{n + 1}', self.ops) for n in range(self.space.nodes))

  @property
  def edges(self):
    """For each edge its name and its candidates, in the order of alpha."""
    return (*self.mains, *((name, ('absent', name)) for name in self.skips))

  @property
  def size(self):
    """How many architectures there are, counted as choices."""
    return math.prod(len(names) for _, names in self.edges)

  def alpha(self, key, deviation):
    """Returns first architecture parameters, deviation * N(0, 1)."""
    return tuple(
      deviation * jax.random.normal(jax.random.fold_in(key, e), (len(names),))
      for e, (_, names) in enumerate(self.edges)
    )

  def arch(self, index_e):
    """Returns the architecture vector of the candidates chosen, int8."""
    if not self._is_chain:
      return self.space.parse(
        {name: own[int(i)] for i, (name, own) in zip(index_e, self.mains)}
      )
    space, digits = self.space, np.zeros(len(self.space.sizes), np.int8)
    index_e = [int(index) for index in index_e]
    for d, index in zip(space.op_positions, index_e[: space.nodes]):
      digits[d] = space.ops.index(self.ops[index])
    for name, index in zip(self.skips, index_e[space.nodes :], strict=True):
      digits[space.fields.index(name)] = index
    return digits

  def choices(self, arch):
    """Returns index_e, int32: the candidate that `arch` has at each edge.

    Raises:
      ValueError: naming what of it is not searched.
    """
    space = self.space
    arch_d = space.parse(arch)
    if not self._is_chain:
      return self._places(arch_d)
    for d, field in enumerate(space.fields):
      here = d in space.op_positions
      if here and space.ops[arch_d[d]] not in self.ops:
        raise ValueError(
          f'{space.names(arch_d)}: {space.ops[arch_d[d]]} is not among the '
          f'candidates {self.ops}'
        )
      if not here and arch_d[d] and field not in self.skips:
        raise ValueError(
          f'{space.names(arch_d)}: skip {field} is not among {self.skips}'
        )
    mains = [self.ops.index(space.ops[arch_d[d]]) for d in space.op_positions]
    skips = [arch_d[space.fields.index(name)] for name in self.skips]
    return np.array([*mains, *skips], np.int32)

  def _places(self, arch_d):
    """Returns the place of each choice among those that are searched."""
    found = []
    chosen = self.space.names_of_choices(arch_d)
    for name, (field, own) in zip(chosen, self.mains):
      if name not in own:
        raise ValueError(
          f'{self.space.names(arch_d)}: {name} of {field} is not among {own}'
        )
      found.append(own.index(name))
    return np.array(found, np.int32)

  def gates(self, edge_e):
    """Returns the gates of the network from one `mixed_op.Edge` an edge."""
    family = families.family(self.space)
    return family.supernet_gates(self.space, self.edges, edge_e)

  def gates_of(self, index_e):
    """Returns the gates of one architecture, from its choices."""
    return self.gates(
      tuple(
        estimators.fixed(index, len(names))
        for index, (_, names) in zip(index_e, self.edges)
      )
    )

  def network(self, recipe, mode, twice=False):
    """Returns the network of all candidates, as `families.supernet` does."""
    ops = tuple(names for _, names in self.mains)
    return families.supernet(self.space, ops, self.macro, recipe, mode, twice)

  def groups(self, params):
    """Says which candidate each parameter belongs to.

    Returns:
      a tree like `params` of ints: candidates are numbered through the nodes;
      -1 for what every network has.
    """
    return families.groups(self.space, self.edges, params)

  @property
  def group_count(self):
    return sum(len(names) for _, names in self.mains)

  def active(self, edge_e):
    """Returns bool [group_count]: the candidates that run at each node."""
    return jnp.concatenate(
      [
        jax.nn.one_hot(edge.index, len(names)) > 0
        for edge, (_, names) in zip(edge_e, self.mains)
      ]
    )

  def executions(self, mode):
    """How many candidate operations a forward pass runs, a node counted once.

    The cells of a macro network repeat a node; each repetition is left out.
    """
    if mode in ('mixed', 'straight', 'recomputed'):
      return self.group_count
    return len(self.mains) * (2 if mode == 'pair' else 1)

  def price(self, mode):
    """Cost of a training step in a mode, that of one network being 1.

    In candidate operations, a backward pass counted as two forward passes.
    """
    forward = self.executions(mode) / len(self.mains)
    backward = forward if mode == 'mixed' else 1
    return (forward + 2 * backward) / 3
