"""ST-NAS's family: time-delay networks."""

import functools

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
)
