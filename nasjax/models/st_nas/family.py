"""ST-NAS's family: time-delay networks."""

import functools

import numpy as np

from nasjax import spaces
from nasjax.models import base, common, macros
from nasjax.models.st_nas import cost, network


def _tdnn_gates(space, edges, edge_e):
  del edges
  op_no, index_n, other_n = common.stacked(edge_e[: space.nodes])
  return network.Gates(op_no, None, index_n, other_n)


def _blocks(space, macro):
  if macro.before + macro.after != space.nodes:
    raise ValueError(
      f'macro {macro.name!r} has {macro.before} + {macro.after} blocks, space '
      f'{space.name} has {space.nodes}'
    )


def _elastic(space, macro, numbers, adaptive=True, exits=()):
  if exits:
    raise ValueError(f'macro {macro.name}: its networks have no inner exits')
  # Candidates drop alike: all have the same channels.
  del adaptive
  ops = (space.ops,) * space.nodes
  return network.Network(macro, ops, *numbers._replace(mode='path'))


def _path(space, arch):
  index_n = np.array(space.parse(arch), np.int32)
  op_no = tuple(np.eye(len(space.ops), dtype=np.float32)[index_n])
  return network.Gates(op_no, None, index_n, index_n)


def _extract(space, arch, macro, params):
  del macro
  own = {f'block{n}_{name}' for n, name in enumerate(space.main_ops(arch))}
  return {
    name: tree
    for name, tree in params.items()
    if name in own or not name.startswith('block')
  }


def _largest(space):
  # The last operations read the most frames.
  return space.parse([len(space.ops) - 1] * space.nodes)


def _smallest(space):
  return space.parse([0] * space.nodes)


# The candidates of a block are weights of their own; all else is shared.
ELASTIC = base.Elastic(
  _elastic,
  _path,
  _extract,
  _largest,
  _smallest,
  whole=lambda space: _path(space, _largest(space)),
)

FAMILY = base.Family(
  macros=macros.BY_SPACE['st_nas'],
  Network=network.Network,
  ops=common.main_ops,
  signature=network.signature,
  gates=network.gates,
  unpack=network.unpack,
  params=cost.params,
  macs=cost.macs,
  fits=_blocks,
  supernet_gates=_tdnn_gates,
  candidate=functools.partial(common.candidate, 'block'),
  baselines={'TDNN-D': spaces.TDNN_D},
  elastic=ELASTIC,
  eight_bits=True,
)
