"""Macro networks: blocks of cells, an LSTM and a dense output."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax import cells as cells_lib
from nasjax import dropout as drop
from nasjax import ops as ops_lib
from nasjax.macros import COMPACT as COMPACT
from nasjax.macros import NB_ASR as NB_ASR
from nasjax.macros import NB_ASR_49 as NB_ASR_49
from nasjax.macros import QUICK as QUICK
from nasjax.macros import SMALL as SMALL
from nasjax.macros import TINY as TINY
from nasjax.macros import Cells as Macro

MACROS = {m.name: m for m in (NB_ASR, NB_ASR_49, SMALL, COMPACT, QUICK, TINY)}


class Network(nn.Module):
  """Features to logits.

  Attributes:
    macro: the numbers.
    ops: candidate operations of each node of every cell, as in `cells.Cell`.
    rate: dropout of the cells' operations and of the LSTM's input.
    conv_dropout: whether the cells' convolutions drop, too.
    kernels: what `kernels.choose` returned; this module itself runs all but
      'native' as 'xla'.
    precision: of dense products, as in `ops.matmul`.
    mode: how several candidates are put together, of `mixing.MODES`.
    checkpoint: whether accelerators compute each cell again for its gradient
      (`accelerated`).
  """

  macro: Macro
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'
  checkpoint: bool = False

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None):
    """Runs one network.

    Args:
      x_btf: normalised log-mel features.
      len_b: valid frames; whatever lies beyond never reaches valid logits.
      gates: `cells.Gates`.
      key: uint32 (2,) of dropout, None to switch it off.

    Returns:
      logits_btv and their valid lengths (ceil(len / reduction)).
    """
    macro = self.macro
    sites = len(self.ops)  # one a node, whatever runs there
    number = 0
    x_btc = x_btf
    for block, width in enumerate(macro.filters):
      conv = ops_lib.MacroConv(
        width,
        macro.kernel,
        macro.strides[block],
        self.precision,
        name=f'block{block}_conv',
      )
      x_btc, len_b = conv(x_btc, len_b)
      norm = cells_lib.LayerNorm(
        macro.epsilon, self.kernels, name=f'block{block}_norm'
      )
      x_btc = norm(x_btc)
      for i in range(macro.cells[block]):
        cell = cells_lib.Cell(
          self.ops,
          width,
          macro.groups,
          self.rate,
          number * sites,
          macro.epsilon,
          self.conv_dropout,
          self.kernels,
          self.precision,
          self.mode,
          name=f'block{block}_cell{i}',
        )
        x_btc = cell(x_btc, len_b, gates, key)
        number += 1
    if macro.lstm:
      x_btc = drop.dropout(x_btc, key, number * sites, self.rate)
      x_btc = ops_lib.LSTM(macro.lstm, self.precision, name='lstm')(x_btc)
    head = ops_lib.Dense(macro.outputs, self.precision, name='head')
    return head(x_btc), len_b


def single(space, arch, macro, rate=0.0):
  """Returns the plain `Network` of one architecture, its ops fixed."""
  names = space.main_ops(arch)
  return Network(macro, tuple((name,) for name in names), rate)


def initial_params(network, key, gates):
  """Initialises one network; `vmap` it over keys and gates for many."""
  x_btf = jnp.zeros((1, network.macro.reduction * 2, network.macro.features))
  len_b = jnp.full((1,), x_btf.shape[1])
  return network.init(key, x_btf, len_b, gates)['params']


def conv_kernel_norm(params):
  """Sum of squares of all convolution kernels: what L2 decays.

  Those are the parameters called `kernel` of modules whose name has 'conv' or
  'tdnn' in it.
  """
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [entry.key for entry in path]
    convolves = 'conv' in names[-2] or 'tdnn' in names[-2]
    if names[-1] == 'kernel' and convolves:
      total = total + jnp.sum(jnp.square(leaf))
  return total


def unpack(space, arch, params):
  """Cuts a population member's parameters to the tree of its own network.

  In a population every convolution has room for seven taps; the network that
  `single` returns has as many as its operation.
  """
  taps = {
    f'node{n}_conv': (f'node{n}_{name}', ops_lib.CONVOLUTIONS[name][0])
    for n, name in enumerate(space.main_ops(arch))
    if name in ops_lib.CONVOLUTIONS
  }

  def cut(tree):
    if not isinstance(tree, dict):
      return tree
    out = {}
    for name, child in tree.items():
      if name in taps:
        new, count = taps[name]
        out[new] = {'kernel': child['kernel'][:count], 'bias': child['bias']}
      else:
        out[name] = cut(child)
    return out

  return cut(params)
