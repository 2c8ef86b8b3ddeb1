"""Time-delay neural networks: the networks of the ST-NAS spaces.

Zheng et al., Efficient Neural Architecture Search for End-to-end Speech
Recognition via Straight-Through Gradients, SLT 2021, section 4 and figure 3.
A layer is a convolution over time, ReLU, layer normalisation and dropout, in
this order. Searched layers (blocks), a subsampling layer and further blocks
stand in a chain without residuals, before a dense output.

Padding. Every convolution zeroes the frames past an utterance's end before it
reads them, so an utterance's logits do not depend on its batch. The released
code masks nothing, and scales lengths by the padded frames; here a layer of
stride s leaves ceil(len / s) frames.

Initialisation is that of the released code, PyTorch's default: kernels and
biases uniform within 1 / sqrt(fan in). L2 (`common.conv_kernel_norm`) reaches
the kernels of the layers as those of all convolutions; the paper has none, so
its recipe needs l2=0.
"""

import functools
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nasjax.layers import dropout as drop
from nasjax.layers import eight_bits, mixed_op
from nasjax.layers.custom_vjps import matmul
from nasjax.layers.modules import mask_frames
from nasjax.models import macros
from nasjax.spaces.st_nas import CANDIDATES

MAX_DILATION = max(dilation for _, dilation in CANDIDATES.values())
# Taps of each layer that can stand in a block: of the candidates, and of what
# populations run, where the frames that a tap reads are data.
TAPS = {name: 2 * c + 1 for name, (c, _) in CANDIDATES.items()} | {
  f'tdnn{2 * c + 1}': 2 * c + 1 for c, _ in CANDIDATES.values()
}
MAX_TAPS = max(TAPS.values())


class Gates(NamedTuple):
  """What tells one network from another inside one program.

  Attributes:
    op_no: for each block, the weights of its candidates (float32
      [candidates]); a block with one candidate ignores them.
    shift_nk: int32 [blocks, 7], the frame that each tap of a block reads,
      counted from the one it writes; 0 where there is no tap.
    index_n: int32 [blocks], the candidate that runs (`mixed_op.Edge`).
    other_n: int32 [blocks], the second of a pair of candidates.
  """

  op_no: tuple
  shift_nk: jax.Array
  index_n: jax.Array | None = None
  other_n: jax.Array | None = None


def shifts(name):
  """Returns the frames that the taps of a candidate read, a tuple of int."""
  context, dilation = CANDIDATES[name]
  return tuple(dilation * k for k in range(-context, context + 1))


def gates(space, arch):
  """Returns the `Gates` (NumPy) of one architecture of `space`."""
  names = space.main_ops(arch)
  shift_nk = np.zeros((len(names), MAX_TAPS), np.int32)
  for n, name in enumerate(names):
    shift_nk[n, : TAPS[name]] = shifts(name)
  return Gates(tuple(np.ones(1, np.float32) for _ in names), shift_nk)


def signature(space, arch):
  """Returns for each block which arithmetic it needs: 'tdnn3', 'tdnn5', ..

  Networks of equal signature run in one program: dilation is data.
  """
  return tuple(f'tdnn{TAPS[name]}' for name in space.main_ops(arch))


def _padded(x_btc, taps):
  """Pads time on both sides by as much as so many taps can reach."""
  reach = taps // 2 * MAX_DILATION
  return jnp.pad(x_btc, ((0, 0), (reach, reach), (0, 0))), reach


def _frames(padded_btc, start, frames):
  return jax.lax.dynamic_slice_in_dim(padded_btc, start, frames, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv(x_btc, kernel_kcn, shift_k, precision='float32'):
  """Convolution over time with taps anywhere, output as long as the input.

  A loop of products, one a tap: unrolled it is no faster, but XLA then holds
  the frames or the products of all taps at once (5 taps: 7 activations, in
  the loop 3). The gradient is written out so that x alone is kept for it and
  frames are read, never scattered, where members have taps of their own.

  Args:
    x_btc: float32.
    kernel_kcn: float32, the weights of each tap.
    shift_k: int32 [at least taps], the frame that each tap reads, counted from
      the one it writes; at most (taps // 2) * MAX_DILATION off.
    precision: as in `custom_vjps.matmul`.

  Returns:
    y_btn with y[b, t] = sum_k x[b, t + shift_k] @ kernel_k, x being 0 outside.
  """
  b, frames, _ = x_btc.shape
  taps, _, width = kernel_kcn.shape
  padded_btc, reach = _padded(x_btc, taps)

  def add(y_btn, tap):
    kernel_cn, shift = tap
    x_btc = _frames(padded_btc, reach + shift, frames)
    return y_btn + matmul(x_btc, kernel_cn, precision), None

  zeros_btn = jnp.zeros((b, frames, width), x_btc.dtype)
  return jax.lax.scan(add, zeros_btn, (kernel_kcn, shift_k[:taps]))[0]


def _conv_fwd(x_btc, kernel_kcn, shift_k, precision):
  y_btn = conv(x_btc, kernel_kcn, shift_k, precision)
  return y_btn, (x_btc, kernel_kcn, shift_k)


def _conv_bwd(precision, residuals, dy_btn):
  x_btc, kernel_kcn, shift_k = residuals
  frames, taps = x_btc.shape[1], len(kernel_kcn)
  padded_btc, reach = _padded(x_btc, taps)
  dpadded_btn, _ = _padded(dy_btn, taps)

  def add(dx_btc, tap):
    kernel_cn, shift = tap
    read_btc = _frames(padded_btc, reach + shift, frames)
    _, pull = jax.vjp(lambda k: matmul(read_btc, k, precision), kernel_cn)
    (dkernel_cn,) = pull(dy_btn)
    _, pull = jax.vjp(lambda x: matmul(x, kernel_cn, precision), x_btc)
    (dtap_btc,) = pull(_frames(dpadded_btn, reach - shift, frames))
    return dx_btc + dtap_btc, dkernel_cn

  dx_btc, dkernel_kcn = jax.lax.scan(
    add, jnp.zeros_like(x_btc), (kernel_kcn, shift_k[:taps])
  )
  return dx_btc, dkernel_kcn, None


conv.defvjp(_conv_fwd, _conv_bwd)


def affine(shift_k, precision, params, x_btc, context):
  """The convolution of a layer and its bias.

  Args:
    shift_k: as in `conv`.
    precision: as in `custom_vjps.matmul`.
    params: 'kernel' [taps, c, n] and 'bias' [n].
    x_btc: input.
    context: tuple whose first element is len_b.

  Returns:
    z_btn, affine in params and in the valid frames of x_btc.
  """
  x_btc = mask_frames(x_btc, context[0])
  z_btn = conv(x_btc, params['kernel'], shift_k, precision)
  return z_btn + params['bias'][None, None]


def finish(site, rate, epsilon, params, z_btc, context):
  """What follows the convolution of a layer: ReLU, layer norm, dropout.

  Args:
    site: number of the layer's dropout.
    rate: of dropout.
    epsilon: added to the variance; None for no normalisation.
    params: 'scale' [c] and 'shift' [c] of the layer normalisation.
    z_btc: what the convolution gave.
    context: tuple whose second element is the key of dropout, or None.

  Returns:
    y_btc.
  """
  x_btc = jax.nn.relu(z_btc)
  if epsilon is None:
    return drop.dropout(x_btc, context[1], site, rate)
  # In two passes, for accuracy.
  x_btc = x_btc - jnp.mean(x_btc, -1, keepdims=True)
  variance_bt1 = jnp.mean(jnp.square(x_btc), -1, keepdims=True)
  y_btc = x_btc * jax.lax.rsqrt(variance_bt1 + epsilon)
  y_btc = y_btc * params['scale'][None, None] + params['shift'][None, None]
  return drop.dropout(y_btc, context[1], site, rate)


def _subsampled(stride, precision, params, x_btc, context):
  """`affine` of the subsampling layer: frames around every stride-th one."""
  x_btc = mask_frames(x_btc, context[0])
  b, frames, channels = x_btc.shape
  out_frames = -(-frames // stride)
  total = out_frames * stride
  pad = (stride - 1) // 2, total - frames
  x_btc = jnp.pad(x_btc, ((0, 0), pad, (0, 0)))[:, :total]
  # Kernel and stride are equal, so every frame is read once at most.
  x_btk = x_btc.reshape(b, out_frames, stride * channels)
  kernel_kn = params['kernel'].reshape(stride * channels, -1)
  return matmul(x_btk, kernel_kn, precision) + params['bias'][None, None]


def _dense(key, fan_in, width):
  """Initialises an affine map, kernel [fan in, width] and bias."""
  limit = fan_in**-0.5
  # Drawn at once: each further draw takes XLA long to compile.
  drawn_kn = jax.random.uniform(
    key, (fan_in + 1, width), jnp.float32, -limit, limit
  )
  return {'kernel': drawn_kn[:-1], 'bias': drawn_kn[-1]}


def _layer(key, taps, inputs, width):
  """Initialises a layer: kernel, bias, scale and shift."""
  dense = _dense(key, taps * inputs, width)
  return {
    'kernel': dense['kernel'].reshape(taps, inputs, width),
    'bias': dense['bias'],
    'scale': jnp.ones(width),
    'shift': jnp.zeros(width),
  }


def _parted(params):
  """Splits a layer's parameters into those of `affine` and of `finish`."""
  return tuple(
    {name: params[name] for name in names}
    for names in (('kernel', 'bias'), ('scale', 'shift'))
  )


class Network(nn.Module):
  """Features to logits; called as `models.Network` is.

  The parameters of a block's layer are called block{n}_{name}, those of the
  other layers subsampling_tdnn and head.

  Attributes:
    macro: the numbers.
    ops: candidates of each block, by name (`TAPS`). One makes a plain network,
      several a supernet, whose candidates must not take their taps from data.
    rate: of dropout, in every layer; 0.5 in the paper.
    conv_dropout: not used; all layers are convolutions, and all drop.
    kernels: not used; 'xla' is what runs.
    precision: of all products, as in `custom_vjps.matmul`.
    mode: how several candidates are put together, of `mixed_op.MODES`.
  """

  macro: macros.Tdnn
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None):
    """Runs one network.

    Args:
      x_btf: normalised features.
      len_b: valid frames; whatever lies beyond never reaches valid logits.
      gates: `Gates`.
      key: uint32 (2,) of dropout, None to switch it off.

    Returns:
      logits_btv and their valid lengths (ceil(len / reduction)).

    Raises:
      ValueError: the blocks are not as many as the macro network has.
    """
    macro = self.macro
    if len(self.ops) != macro.before + macro.after:
      raise ValueError(
        f'{len(self.ops)} blocks, but macro {macro.name} has {macro.before} + '
        f'{macro.after}'
      )
    chex.assert_shape(x_btf, (None, None, macro.features))
    chex.assert_shape(len_b, x_btf.shape[:1])
    x_btc = x_btf
    for n in range(macro.before):
      x_btc = self._block(n, x_btc, (len_b, key), gates)
    x_btc = self._subsampling(x_btc, (len_b, key))
    len_b = macro.output_frames(len_b)
    for n in range(macro.before, len(self.ops)):
      x_btc = self._block(n, x_btc, (len_b, key), gates)
    head = self.param('head', _dense, macro.width, macro.outputs)
    x_btc, head = self._rounded('head', x_btc, head)
    logits_btv = matmul(x_btc, head['kernel'], self.precision)
    return logits_btv + head['bias'][None, None], len_b

  def _subsampling(self, x_btc, context):
    stride = self.macro.subsampling
    params = self.param(
      'subsampling_tdnn', _layer, stride, x_btc.shape[-1], self.macro.width
    )
    x_btc, rounded = self._rounded('subsampling_tdnn', x_btc, params)
    z_btc = _subsampled(stride, self.precision, rounded, x_btc, context)
    return self._finish(len(self.ops))(params, z_btc, context)

  def _rounded(self, name, x_btc, params):
    kernel = eight_bits.weights(params['kernel'], self.precision)
    x_btc = eight_bits.inputs(self, name, x_btc, self.precision)
    return x_btc, params | {'kernel': kernel}

  def _finish(self, site):
    return functools.partial(finish, site, self.rate, self.macro.epsilon)

  def _block(self, n, x_btc, context, gates):
    names = self.ops[n]
    params_k = [
      self.param(
        f'block{n}_{name}', _layer, TAPS[name], x_btc.shape[-1],
        self.macro.width,
      )
      for name in names
    ]  # fmt: skip
    if len(names) > 1 and not self.is_initializing():
      return self._mixed(n, params_k, x_btc, context, gates)
    shift_k = shifts(names[0]) if names[0] in CANDIDATES else gates.shift_nk[n]
    shift_k = jnp.asarray(shift_k, jnp.int32)
    name = f'block{n}_{names[0]}'
    x_btc, rounded = self._rounded(name, x_btc, params_k[0])
    z_btc = affine(shift_k, self.precision, rounded, x_btc, context)
    return self._finish(n)(params_k[0], z_btc, context)

  def _mixed(self, n, params_k, x_btc, context, gates):
    """Runs the candidates of block n, as the mode says."""
    if not set(self.ops[n]) <= set(CANDIDATES):
      raise ValueError(
        f'block {n}: candidates {self.ops[n]}; of several, each must be one of '
        f'{", ".join(CANDIDATES)}'
      )
    affines = tuple(
      functools.partial(affine, np.array(shifts(name)), self.precision)
      for name in self.ops[n]
    )
    affine_k, rest_k = zip(*map(_parted, params_k))
    return mixed_op.mix(
      self.mode,
      mixed_op.Candidates(affines, self._finish(n)),
      affine_k,
      rest_k,
      mixed_op.Edge(
        gates.op_no[n],
        None if gates.index_n is None else gates.index_n[n],
        None if gates.other_n is None else gates.other_n[n],
      ),
      x_btc,
      context,
    )


def unpack(space, arch, params):
  """Renames a population member's parameters as those of `single`."""
  renamed = {
    f'block{n}_tdnn{TAPS[name]}': f'block{n}_{name}'
    for n, name in enumerate(space.main_ops(arch))
  }
  return {renamed.get(name, name): tree for name, tree in params.items()}
