"""Which networks run the architectures of which space: families.

A family is one record of pure functions, an entry of one dict. Nobody else asks
which space or which macro network it has.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nasjax import (
  accelerated,
  cells,
  cells_cost,
  kernels,
  macros,
  models,
  spaces,
  tdnn,
  tdnn_cost,
)
from nasjax.cells import stack as stack


class Numbers(NamedTuple):
  """What a network is made of beside its macro network and its operations.

  Attributes:
    rate: of dropout.
    conv_dropout: whether convolutions drop, too.
    kernels: what `kernels.choose` returned.
    precision: of dense products, as in `functions.matmul`.
    mode: how several candidates are put together, of `mixing.MODES`.
  """

  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'


PLAIN = Numbers()


def _fits(space, macro):
  del space, macro


def _nothing(*_):
  return None


@dataclasses.dataclass(frozen=True)
class Family:
  """The networks of some spaces.

  A macro network is a frozen dataclass of plain values, for JSON, with `name`,
  `features` (input channels), `outputs`, `reduction` (input frames for each of
  the output), `output_frames(frames)` and `with_outputs(outputs)`.

  Attributes:
    macros: macro networks by name, all of one class.
    Network: class of linen modules whose attributes are the macro network,
      `ops` (for each place the names of its candidates) and the `Numbers`;
      called with x_btf, len_b, gates and a dropout key, it returns what the
      criterion reads: logits_btv and their lengths.
    ops: (space, arch) -> the operation at each place of the plain network.
    signature: (space, arch) -> tuple of str, the arithmetic that each place
      needs: architectures of equal signature run in one program.
    gates: (space, arch) -> what tells `arch` apart in that program, NumPy.
    unpack: (space, arch, params) -> parameters of the plain network from those
      of a member of the program.
    params: (space, arch, macro) -> how many there are.
    macs: (space, arch, macro, frames) -> multiply-accumulates.
    l2: params -> the sum of squares that L2 decays.
    fits: (space, macro); raises a ValueError where they do not go together.
    supernet_gates: (space, edges, edge_e) -> gates of a supernet, from the
      `mixing.Edge` of each of its edges (pairs of a name and candidates).
    candidate: (path, edges) -> edge and candidate that a parameter belongs to,
      or None; path are the names that lead to it.
    form: network -> its `accelerated.Form`, None where it runs as it stands.
    spared_flops: (network, ops, frames, batch) -> FLOPs of a step that kernels
      name and do not run.
    alone: (space, arch) -> what tells which program runs one architecture by
      itself; `signature` if not given.
    baselines: architectures by name that people made, to be beaten.
  """

  macros: Mapping[str, Any]
  Network: type
  ops: Callable
  signature: Callable
  gates: Callable
  unpack: Callable
  params: Callable
  macs: Callable
  l2: Callable = models.conv_kernel_norm
  fits: Callable = _fits
  supernet_gates: Callable = _nothing
  candidate: Callable = _nothing
  form: Callable = _nothing
  spared_flops: Callable = lambda *_: 0
  alone: Callable | None = None
  baselines: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _main_ops(space, arch):
  return space.main_ops(arch)


def _skips(space, edges, edge_e):
  """Returns skip_nm of a supernet, from its edges behind the main ones."""
  nodes = space.nodes
  skip_nm = jax.numpy.zeros((nodes, nodes))
  for (name, _), edge in zip(edges[nodes:], edge_e[nodes:], strict=True):
    n, m = int(name[1]), int(name[2])
    skip_nm = skip_nm.at[n, m].set(edge.weight_k[1])
  return skip_nm


def _stacked(edge_e):
  """Weights, and which candidates run, of the main edges of a chain."""
  return (
    tuple(edge.weight_k for edge in edge_e),
    jax.numpy.stack([edge.index for edge in edge_e]),
    jax.numpy.stack([edge.other for edge in edge_e]),
  )


def _cell_gates(space, edges, edge_e):
  op_no, index_n, other_n = _stacked(edge_e[: space.nodes])
  skip_nm = _skips(space, edges, edge_e)
  return cells.Gates(op_no, skip_nm, None, index_n, other_n)


def _tdnn_gates(space, edges, edge_e):
  del edges
  op_no, index_n, other_n = _stacked(edge_e[: space.nodes])
  return tdnn.Gates(op_no, None, index_n, other_n)


def _candidate(prefix, path, edges):
  """Looks for the module <prefix><node>_<operation> in a parameter's path."""
  for e, (field, names) in enumerate(edges):
    for k, name in enumerate(names):
      if f'{prefix}{e}_{name}' in path and field.startswith('op'):
        return e, k
  return None


def _cell_form(network):
  return accelerated.make(network) if accelerated.supports(network) else None


def _cells_alone(space, arch):
  # XLA alone has a program for each dilation.
  if kernels.choose() == 'xla':
    return space.main_ops(arch)
  return cells.signature(space, arch)


def _blocks(space, macro):
  if macro.before + macro.after != space.nodes:
    raise ValueError(
      f'macro {macro.name!r} has {macro.before} + {macro.after} blocks, space '
      f'{space.name} has {space.nodes}'
    )


CELLS = Family(
  macros=macros.BY_SPACE['nb_asr'],
  Network=models.Network,
  ops=_main_ops,
  signature=cells.signature,
  gates=cells.gates,
  unpack=models.unpack,
  params=cells_cost.params,
  macs=cells_cost.macs,
  supernet_gates=_cell_gates,
  candidate=functools.partial(_candidate, 'node'),
  form=_cell_form,
  spared_flops=accelerated.spared_flops,
  alone=_cells_alone,
)
TDNNS = Family(
  macros=macros.BY_SPACE['st_nas'],
  Network=tdnn.Network,
  ops=_main_ops,
  signature=tdnn.signature,
  gates=tdnn.gates,
  unpack=tdnn.unpack,
  params=tdnn_cost.params,
  macs=tdnn_cost.macs,
  fits=_blocks,
  supernet_gates=_tdnn_gates,
  candidate=functools.partial(_candidate, 'block'),
  baselines={'TDNN-D': spaces.TDNN_D},
)
# By the name of a space.
FAMILIES = {'nb_asr': CELLS, 'st_nas': TDNNS, 'st_nas_swbd': TDNNS}
MACROS = models.MACROS | tdnn.MACROS


def family(space):
  """Returns the `Family` of a space.

  Raises:
    ValueError: there is none.
  """
  if space.name not in FAMILIES:
    raise ValueError(
      f'no network for space {space.name!r}; there are networks for '
      f'{", ".join(FAMILIES)}'
    )
  return FAMILIES[space.name]


def _family_of(network):
  for found in FAMILIES.values():
    if type(network) is found.Network:
      return found
  raise ValueError(f'{type(network).__name__} is the Network of no family')


def check(space, macro):
  """Raises a ValueError unless `macro` is a macro network of `space`."""
  found = family(space)
  if not isinstance(macro, type(next(iter(found.macros.values())))):
    raise ValueError(
      f'macro {macro.name!r} is none of space {space.name}; take one of '
      f'{", ".join(found.macros)}'
    )
  found.fits(space, macro)


def made(space, macro, ops, numbers=PLAIN):
  """Returns the linen module of a family, once `check` let both through.

  Args:
    space: search space.
    macro: its macro network, of `Family.macros` or like one of them.
    ops: for each place the names of its candidates.
    numbers: `Numbers`.
  """
  check(space, macro)
  return family(space).Network(macro, ops, *numbers)


def _numbers(recipe, kernels_name, mode='mixed'):
  return Numbers(
    recipe.dropout, recipe.conv_dropout, kernels_name, recipe.precision, mode
  )


def network(space, arch, macro, recipe, platform=None, checkpoint=True):
  """Returns the network that all architectures of one signature share.

  Args:
    space: search space.
    arch: one architecture of it.
    macro: as in `made`.
    recipe: `Recipe`.
    platform: as in `kernels.choose`.
    checkpoint: as in `models.Network`; without a form of its own a network has
      no use for it.

  Returns:
    a linen module; see `Family.Network`.

  Raises:
    ValueError: of `check`.
  """
  ops = tuple((kind,) for kind in signature(space, arch))
  numbers = _numbers(recipe, kernels.choose(platform))
  found = made(space, macro, ops, numbers)
  if checkpoint and family(space).form(found) is not None:
    return dataclasses.replace(found, checkpoint=True)
  return found


@functools.lru_cache(maxsize=256)
def form(network):
  """Returns the `accelerated.Form` in which a network is trained and run.

  On CPUs, and where there is none for accelerators (supernets, TDNNs), that is
  the network itself.
  """
  found = _family_of(network).form(network)
  if found is not None:
    return found

  def itself(params, lead=0):
    del lead
    return params

  def apply(params, *inputs):
    return network.apply({'params': params}, *inputs)

  return accelerated.Form(itself, itself, apply)


def l2(network, params):
  """Returns the sum of squares of the parameters that L2 decays."""
  return _family_of(network).l2(params)


def spared_flops(network, space, arch, frames, batch):
  """FLOPs of a step that kernels name and do not run for `arch`.

  See `accelerated.spared_flops`; 0 where a network has no form of its own.
  """
  found = family(space)
  if found.form(network) is None:
    return 0
  return found.spared_flops(network, found.ops(space, arch), frames, batch)


def single(space, arch, macro, rate=0.0):
  """Returns the plain network of one architecture, its operations fixed."""
  ops = tuple((name,) for name in family(space).ops(space, arch))
  return made(space, macro, ops, Numbers(rate))


def unpack(space, arch, params):
  """Turns a population member's parameters into those of `single`."""
  return family(space).unpack(space, arch, params)


def gates(space, arch):
  """Returns what tells `arch` apart in the program of its signature."""
  return family(space).gates(space, arch)


def signature(space, arch):
  """Returns for each node which arithmetic it needs, a tuple of str.

  Architectures of equal signature run in one program.
  """
  return family(space).signature(space, arch)


def alone(space, arch):
  """Returns what tells which program runs one architecture by itself."""
  found = family(space)
  return (found.alone or found.signature)(space, arch)


def supernet(space, ops, macro, recipe, mode, twice=False, platform=None):
  """Returns the network of several candidates a node.

  Args:
    space: search space.
    ops: for each node, the names of its candidates.
    macro: its macro network.
    recipe: `Recipe`, for dropout and precision.
    mode: of `mixing.MODES`.
    twice: whether it will be differentiated twice.
    platform: as in `kernels.choose`.

  Returns:
    a linen module; see `Family.Network`.
  """
  kind = kernels.choose(platform)
  if twice and kind == 'native':
    kind = 'twice'
  return made(space, macro, ops, _numbers(recipe, kind, mode))


def groups(space, edges, params):
  """Says which candidate each parameter of a supernet belongs to.

  Args:
    space: search space.
    edges: pairs of a name and the names of candidates.
    params: of the supernet.

  Returns:
    a tree like `params` of ints: candidates are numbered through the edges; -1
    for what every network has.
  """
  first_e = np.cumsum([0, *(len(names) for _, names in edges)])
  find = family(space).candidate

  def group(path, leaf):
    del leaf
    found = find([entry.key for entry in path], edges)
    return -1 if found is None else int(first_e[found[0]]) + found[1]

  return jax.tree_util.tree_map_with_path(group, params)
