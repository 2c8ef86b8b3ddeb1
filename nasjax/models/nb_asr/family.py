"""The family of NB-ASR: cells behind strided convolutions, an LSTM, a head."""

import functools

import jax.numpy as jnp

from nasjax import kernels
from nasjax.models import base, common, macros
from nasjax.models.nb_asr import accelerated, cost, network
from nasjax.models.nb_asr import cell as cell_lib


def _skips(space, edges, edge_e):
  """Returns skip_nm of a supernet, from its edges behind the main ones."""
  nodes = space.nodes
  skip_nm = jnp.zeros((nodes, nodes))
  for (name, _), edge in zip(edges[nodes:], edge_e[nodes:], strict=True):
    n, m = int(name[1]), int(name[2])
    skip_nm = skip_nm.at[n, m].set(edge.weight_k[1])
  return skip_nm


def _cell_gates(space, edges, edge_e):
  op_no, index_n, other_n = common.stacked(edge_e[: space.nodes])
  skip_nm = _skips(space, edges, edge_e)
  return cell_lib.Gates(op_no, skip_nm, None, index_n, other_n)


def _cell_form(network):
  return accelerated.make(network) if accelerated.supports(network) else None


def _cells_alone(space, arch):
  # XLA alone has a program for each dilation.
  if kernels.choose() == 'xla':
    return space.main_ops(arch)
  return cell_lib.signature(space, arch)


FAMILY = base.Family(
  macros=macros.BY_SPACE['nb_asr'],
  Network=network.Network,
  ops=common.main_ops,
  signature=cell_lib.signature,
  gates=cell_lib.gates,
  unpack=network.unpack,
  params=cost.params,
  macs=cost.macs,
  supernet_gates=_cell_gates,
  candidate=functools.partial(common.candidate, 'node'),
  form=_cell_form,
  spared_flops=accelerated.spared_flops,
  alone=_cells_alone,
  eight_bits=True,
)
