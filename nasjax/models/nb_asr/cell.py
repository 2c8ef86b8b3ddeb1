"""The NB-ASR cell: three nodes, each the sum of one operation and skips."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from nasjax.layers import custom_vjps, mixed_op
from nasjax.layers.modules import LayerNorm
from nasjax.models.nb_asr import ops as ops_lib


class Gates(NamedTuple):
  """What tells one cell from another inside one program.

  Attributes:
    op_no: for each node, the weights of its candidates (float32 [candidates]);
      a node with one candidate ignores them.
    skip_nm: float32 [nodes, nodes], 1 where an identity joins node m to node
      n + 1 (m <= n).
    place_nuk: float32 [nodes, 10, 7], which frames the taps of a node's
      convolution read (`ops.placement`); a supernet has none.
    index_n: int32 [nodes], the candidate that runs (`mixed_op.Edge`).
    other_n: int32 [nodes], the second of a pair of candidates.
  """

  op_no: tuple
  skip_nm: jax.Array
  place_nuk: jax.Array | None
  index_n: jax.Array | None = None
  other_n: jax.Array | None = None


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
    ops: candidate operations of each node's main edge, by name (`ops.module`).
      One candidate makes a plain network, several a supernet.
    width: channels in and out.
    groups: of the convolutions.
    rate: of dropout.
    site: number of the first dropout site in the network.
    epsilon: of the layer normalisation.
    conv_dropout: whether convolutions drop, too.
    kernels: 'native' or 'xla', as `ops.Conv` has it.
    precision: of dense products, as in `ops.matmul`.
    mode: how several candidates are put together, of `mixed_op.MODES`.
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
  mode: str = 'mixed'

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
    for n, names in enumerate(self.ops):
      site = self.site + n
      if len(names) > 1 and not self.is_initializing():
        y_btc = self._mixed(n, site, xs[-1], len_b, gates, key)
      else:
        place_uk = None if gates.place_nuk is None else gates.place_nuk[n]
        for name in names:
          op = self._op(n, name, site)
          y_btc = op(xs[-1], len_b, place_uk, key)
      for m, x in enumerate(xs):
        y_btc = y_btc + gates.skip_nm[n, m] * x
      xs.append(y_btc)
    return LayerNorm(self.epsilon, self.kernels, name='norm')(xs[-1])

  def _op(self, n, name, site):
    return ops_lib.module(name)(
      self.width,
      self.groups,
      self._rate(name),
      site,
      self.kernels,
      self.precision,
      name=f'node{n}_{name}',
    )

  def _rate(self, name):
    return self.rate if self.conv_dropout or 'conv' not in name else 0.0

  def _mixed(self, n, site, x_btc, len_b, gates, key):
    """Runs the candidates of node n, as the mode says."""
    names = self.ops[n]
    rates = {self._rate(name) for name in names if name != 'zero'}
    if len(rates) > 1:
      raise ValueError(
        f'candidates {names} drop at rates {sorted(rates)}; a supernet needs '
        'conv_dropout=True'
      )
    rate = rates.pop() if rates else 0.0
    affines = tuple(
      functools.partial(ops_lib.affine, name, self.precision, self.kernels)
      for name in names
    )

    def finish(params, z_btc, context):
      del params
      return custom_vjps.clip_dropout(z_btc, context[1], site, rate)

    params = self.variables.get('params', {})
    return mixed_op.mix(
      self.mode,
      mixed_op.Candidates(affines, finish),
      tuple(params.get(f'node{n}_{name}', {}) for name in names),
      ((),) * len(names),
      mixed_op.Edge(
        gates.op_no[n],
        None if gates.index_n is None else gates.index_n[n],
        None if gates.other_n is None else gates.other_n[n],
      ),
      x_btc,
      (len_b, key),
    )
