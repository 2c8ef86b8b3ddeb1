"""The NB-ASR cell: three nodes, each the sum of one operation and skips."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nasjax import kernels as kernels_lib
from nasjax import ops as ops_lib


class Gates(NamedTuple):
  """What tells one cell from another inside one program.

  Attributes:
    op_no: for each node, the weights of its candidates (float32 [candidates]);
      a node with one candidate ignores them.
    skip_nm: float32 [nodes, nodes], 1 where an identity joins node m to node
      n + 1 (m <= n).
    place_nuk: float32 [nodes, 10, 7], which frames the taps of a node's
      convolution read (`ops.placement`).
  """

  op_no: tuple
  skip_nm: jax.Array
  place_nuk: jax.Array


def gates(space, arch):
  """Returns the `Gates` (NumPy) of one architecture of `space`."""
  names = space.main_ops(arch)
  return Gates(
    op_no=tuple(np.ones(1, np.float32) for _ in names),
    skip_nm=np.asarray(space.skip_matrix(arch), np.float32),
    place_nuk=np.stack([ops_lib.placement(name) for name in names]),
  )


def stack(gates_p):
  """Stacks the gates of members along a leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *gates_p)


def signature(space, arch):
  """Returns for each node which arithmetic it needs.

  Cells of equal signature run in one program without a wasted product:
  'linear', 'conv' (any of the four: their taps are data) or 'zero'.
  """
  return tuple(
    'conv' if name in ops_lib.CONVOLUTIONS else name
    for name in space.main_ops(arch)
  )


class Cell(nn.Module):
  """A directed acyclic graph of nodes, each the sum of its incoming edges.

  Attributes:
    ops: candidate operations of each node's main edge, by name (`ops.OPS`).
      One candidate makes a plain network, several a supernet.
    width: channels in and out.
    groups: of the convolutions.
    rate: of dropout.
    site: number of the first dropout site in the network.
    epsilon: of the layer normalisation.
    conv_dropout: whether convolutions drop, too.
    kernels: 'native' or 'xla', as `ops.Conv` has it.
    precision: of dense products, as in `ops.matmul`.
  """

  ops: tuple[tuple[str, ...], ...]
  width: int
  groups: int
  rate: float = 0.0
  site: int = 0
  epsilon: float = 1e-3
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc, len_b, gates, key=None):
    """Runs the cell.

    Args:
      x_btc: input of the first node.
      len_b: valid frames of each utterance.
      gates: `Gates` of one network.
      key: uint32 (2,) of dropout, None to switch it off.

    Returns:
      y_btc, the layer-normalised output of the last node.
    """
    xs = [x_btc]
    site = self.site
    for n, names in enumerate(self.ops):
      ys = []
      for name in names:
        drops = self.conv_dropout or 'conv' not in name
        op = ops_lib.OPS[name](
          self.width,
          self.groups,
          self.rate if drops else 0.0,
          site,
          self.kernels,
          self.precision,
          name=f'node{n}_{name}',
        )
        ys.append(op(xs[-1], len_b, gates.place_nuk[n], key))
        site += 1
      if len(ys) == 1:
        y_btc = ys[0]
      else:
        y_btc = sum(g * y for g, y in zip(gates.op_no[n], ys, strict=True))
      for m, x in enumerate(xs):
        y_btc = y_btc + gates.skip_nm[n, m] * x
      xs.append(y_btc)
    return LayerNorm(self.epsilon, self.kernels, name='norm')(xs[-1])


class LayerNorm(nn.Module):
  """Layer normalisation over channels, in two passes for accuracy.

  Attributes:
    epsilon: added to the variance.
    kernels: 'native' or 'xla', as `ops.Conv` has it.
  """

  epsilon: float = 1e-3
  kernels: str = 'xla'

  @nn.compact
  def __call__(self, x_btc):
    width = x_btc.shape[-1]
    scale_c = self.param('scale', nn.initializers.ones, (width,))
    bias_c = self.param('bias', nn.initializers.zeros, (width,))
    if self.kernels == 'native':
      return kernels_lib.layer_norm(x_btc, scale_c, bias_c, self.epsilon)
    x_btc = x_btc - jnp.mean(x_btc, -1, keepdims=True)
    variance = jnp.mean(jnp.square(x_btc), -1, keepdims=True)
    y_btc = x_btc * jax.lax.rsqrt(variance + self.epsilon)
    return y_btc * scale_c[None, None] + bias_c[None, None]
