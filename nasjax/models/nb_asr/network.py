"""Macro networks: blocks of cells, an LSTM and a dense output."""

import chex
import flax.linen as nn

from nasjax.layers import dropout as drop
from nasjax.layers import modules
from nasjax.models import macros
from nasjax.models.nb_asr import cell as cell_lib
from nasjax.models.nb_asr import ops as ops_lib


class Network(nn.Module):
  """Features to logits.

  Attributes:
    macro: the numbers.
    ops: candidate operations of each node of every cell, as in `cell.Cell`.
    rate: dropout of the cells' operations and of the LSTM's input.
    conv_dropout: whether the cells' convolutions drop, too.
    kernels: what `kernels.choose` returned, or 'twice', for native kernels that
      can be differentiated twice; this module itself runs others as 'xla'.
    precision: of dense products, as in `ops.matmul`.
    mode: how several candidates are put together, of `mixed_op.MODES`.
    checkpoint: whether accelerators compute each cell again for its gradient
      (`accelerated`).
  """

  macro: macros.Cells
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
    chex.assert_shape(x_btf, (None, None, macro.features))
    chex.assert_shape(len_b, x_btf.shape[:1])
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
      norm = modules.LayerNorm(
        macro.epsilon, self.kernels, name=f'block{block}_norm'
      )
      x_btc = norm(x_btc)
      for i in range(macro.cells[block]):
        cell = cell_lib.Cell(
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
      x_btc = modules.LSTM(macro.lstm, self.precision, name='lstm')(x_btc)
    head = modules.Dense(macro.outputs, self.precision, name='head')
    return head(x_btc), len_b


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
