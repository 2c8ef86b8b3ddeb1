"""Layers of the networks on an accelerator, each with a gradient of its own.

Activations are kept as the recipe computes: bfloat16 or float32. Sums,
statistics and gradients of weights are float32 in either case, but for the
weights of `long_conv`. What a layer keeps for its gradient is its input and its
output, and the output is the next layer's input: no mask, no statistics, no
unfolded frames.

`x_` has axes [t, b, lanes] where `time_axis` is 0 and [b, t, lanes] where it is
1; the suffix says `ntl` for either.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax.kernels.taps import reach
from nasjax.layers import dropout as drop
from nasjax.layers.custom_vjps import CLIP
from nasjax.models.nb_asr.accelerated import channels


def precision_of(dtype):
  """How factors of products are rounded: not at all in float32."""
  if dtype == jnp.float32:
    return lax.Precision.HIGHEST
  return lax.Precision.DEFAULT


def product(a, b, axes, dtype):
  """Contracts one axis of each; factors of `dtype`, sums in float32."""
  dot = functools.partial(
    lax.dot_general,
    dimension_numbers=(((axes[0],), (axes[1],)), ((), ())),
    precision=precision_of(dtype),
    preferred_element_type=jnp.float32,
  )
  # XLA's CPUs cannot run all products of bfloat16 that are summed in float32;
  # those of the same values in float32 are the same.
  return lax.platform_dependent(
    a.astype(dtype),
    b.astype(dtype),
    cpu=lambda a, b: dot(a.astype(jnp.float32), b.astype(jnp.float32)),
    default=dot,
  )


def masked(x_ntl, len_b, time_axis):
  """Zeroes the frames past each utterance's end."""
  frames = x_ntl.shape[time_axis]
  if time_axis:
    valid = jnp.arange(frames)[None] < len_b[:, None]
  else:
    valid = jnp.arange(frames)[:, None] < len_b[None]
  return jnp.where(valid[:, :, None], x_ntl, jnp.zeros((), x_ntl.dtype))


class Product(NamedTuple):
  """A layer's product with its weights, and the way back.

  Attributes:
    forward: function of (x_ntl, kernel, context) that returns z, linear in
      both x_ntl and kernel.
    backward: function of (x_ntl, kernel, context, dz) that returns the
      gradients of x_ntl and kernel; dz has the dtype of x_ntl.
  """

  forward: callable
  backward: callable


class Rest(NamedTuple):
  """What follows a product.

  Attributes:
    lanes: `channels.Lanes` of the output.
    time_axis: 0 or 1.
    rate: of dropout.
  """

  lanes: channels.Lanes
  time_axis: int
  rate: float


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def activated(op, rest, x_ntl, kernel, bias_l, context, draw):
  """Product, bias, clipped ReLU, dropout.

  Args:
    op: `Product`.
    rest: `Rest`.
    x_ntl: activations.
    kernel, bias_l: float32.
    context: what else the product needs, not differentiated.
    draw: (key, site) of dropout, None to switch it off.

  Returns:
    y_ntl, of the dtype of x_ntl.
  """
  return _activated_forward(op, rest, x_ntl, kernel, bias_l, context, draw)[0]


def _activated_forward(op, rest, x_ntl, kernel, bias_l, context, draw):
  z_ntl = op.forward(x_ntl, kernel, context).astype(jnp.float32)
  y_ntl = jnp.clip(z_ntl + bias_l[None, None], 0, CLIP)
  y_ntl = dropout(y_ntl, draw, rest).astype(x_ntl.dtype)
  return y_ntl, (x_ntl, y_ntl, kernel, context, draw is not None)


def _activated_backward(op, rest, residuals, dy_ntl):
  x_ntl, y_ntl, kernel, context, dropped = residuals
  scale = np.float32(1 / (1 - rest.rate) if dropped else 1)
  # What was dropped or clipped is 0 or at the cap, rounded as the output was.
  top = (np.float32(CLIP) * scale).astype(y_ntl.dtype)
  passed_ntl = (y_ntl > 0) & (y_ntl < top)
  dz_ntl = jnp.where(passed_ntl, dy_ntl.astype(jnp.float32) * scale, 0)
  dx_ntl, dkernel = op.backward(
    x_ntl, kernel, context, dz_ntl.astype(x_ntl.dtype)
  )
  return (
    dx_ntl.astype(x_ntl.dtype),
    dkernel.astype(jnp.float32),
    jnp.sum(dz_ntl, (0, 1)),
    None,
    None,
  )


activated.defvjp(_activated_forward, _activated_backward)


def dropout(x_ntl, draw, rest):
  """Dropout with the bits of `dropout.keep_mask` on [b, t, c] in `ops`."""
  if draw is None or not rest.rate:
    return x_ntl
  key, site = draw
  row = key[2] if key.shape[0] == 3 else jnp.uint32(0)
  at = channels.positions(x_ntl.shape, rest.lanes, rest.time_axis, row)
  keep = drop.survives(at, key, site, rest.rate)
  scaled = x_ntl.astype(jnp.float32) * np.float32(1 / (1 - rest.rate))
  return jnp.where(keep, scaled, 0).astype(x_ntl.dtype)


def _linear(x_ntl, kernel_kn, context):
  del context
  return product(x_ntl, kernel_kn, (2, 0), x_ntl.dtype)


def _linear_back(x_ntl, kernel_kn, context, dz_ntl):
  del context
  dtype, columns = x_ntl.dtype, x_ntl.shape[-1]
  dx_ntl = product(dz_ntl, kernel_kn, (2, 1), dtype)
  x_rk = x_ntl.reshape(-1, columns)
  dz_rn = dz_ntl.reshape(-1, dz_ntl.shape[-1])
  return dx_ntl, product(x_rk, dz_rn, (0, 0), dtype)


LINEAR = Product(_linear, _linear_back)


@jax.custom_vjp
def dense(x_ntk, kernel_kn):
  """Dense product of frames, float32 sums; factors as x_ntk has them."""
  return _linear(x_ntk, kernel_kn, None)


def _dense_back(residuals, dy_ntn):
  x_ntk, kernel_kn = residuals
  dx_ntk, dkernel_kn = _linear_back(
    x_ntk, kernel_kn, None, dy_ntn.astype(x_ntk.dtype)
  )
  return dx_ntk.astype(x_ntk.dtype), dkernel_kn


dense.defvjp(lambda x, kernel: (dense(x, kernel), (x, kernel)), _dense_back)


@functools.cache
def block_conv(stride):
  """Returns the `Product` of the strided convolution that opens a block.

  Its kernel is [k, i, o]; its context is len_b, past which frames count as
  zeros; it has ceil(frames / stride) output frames. Activations are
  [t, b, lanes].
  """
  return Product(
    functools.partial(_convolve, stride),
    functools.partial(_convolve_back, stride),
  )


def _padding(frames, kernel, stride):
  left, _ = reach(kernel, 1, stride)
  out = -(-frames // stride)
  return left, (out - 1) * stride + kernel - left - frames


def _convolve(stride, x_tbi, kernel_kio, len_b):
  dtype, frames = x_tbi.dtype, len(x_tbi)
  return lax.conv_general_dilated(
    masked(x_tbi, len_b, 0),
    kernel_kio.astype(dtype),
    (stride,),
    [_padding(frames, kernel_kio.shape[0], stride)],
    dimension_numbers=('WNC', 'WIO', 'WNC'),
    precision=precision_of(dtype),
    preferred_element_type=jnp.float32,
  )


def _convolve_back(stride, x_tbi, kernel_kio, len_b, dz_tbo):
  # By hand: JAX's own needs one dtype for sums and factors.
  dtype, taps = x_tbi.dtype, kernel_kio.shape[0]
  frames, out = len(x_tbi), len(dz_tbo)
  left, right = _padding(frames, taps, stride)
  exact = {
    'precision': precision_of(dtype),
    'preferred_element_type': jnp.float32,
  }
  # Frame t is read by tap k of output s where t = s * stride + k - left.
  dx_tbi = lax.conv_general_dilated(
    dz_tbo,
    jnp.flip(kernel_kio, 0).astype(dtype),
    (1,),
    [(taps - 1 - left, frames + left - 1 - (out - 1) * stride)],
    lhs_dilation=(stride,),
    dimension_numbers=('WNC', 'WOI', 'WNC'),
    **exact,
  )
  # Contracts batch and output frames; its window slides over the taps.
  dkernel_kio = lax.conv_general_dilated(
    masked(x_tbi, len_b, 0),
    dz_tbo,
    (1,),
    [(left, right)],
    rhs_dilation=(stride,),
    dimension_numbers=('WCN', 'WIO', 'WNC'),
    **exact,
  )
  return masked(dx_tbi, len_b, 0), dkernel_kio


@functools.cache
def unfolded_conv(stride):
  """As `block_conv`, of activations [b, t, lanes]: products of unfolded frames.

  Products are what GPUs compile fast and members share well; convolutions are
  tried out one after the other when they are compiled, for minutes.
  """
  return Product(
    functools.partial(_unfold_convolve, stride),
    functools.partial(_unfold_back, stride),
  )


def _unfolded(stride, taps, x_bti, len_b):
  """What each output frame reads: [b, s, taps * i]."""
  b, frames, width = x_bti.shape
  out = -(-frames // stride)
  # Of the last frame less may be read than there is.
  left, right = _padding(frames, taps, stride)
  x_bti = jnp.pad(
    masked(x_bti, len_b, 1), ((0, 0), (left, max(0, right)), (0, 0))
  )
  x_bski = jnp.stack(
    [x_bti[:, k : k + (out - 1) * stride + 1 : stride] for k in range(taps)], 2
  )
  return x_bski.reshape(b, out, taps * width)


def _unfold_convolve(stride, x_bti, kernel_kio, len_b):
  taps, width, _ = kernel_kio.shape
  x_bsn = _unfolded(stride, taps, x_bti, len_b)
  kernel_no = kernel_kio.reshape(taps * width, -1)
  return product(x_bsn, kernel_no, (2, 0), x_bti.dtype)


def _unfold_back(stride, x_bti, kernel_kio, len_b, dz_bso):
  (taps, width, outputs), dtype = kernel_kio.shape, x_bti.dtype
  b, frames, _ = x_bti.shape
  out = dz_bso.shape[1]
  x_bsn = _unfolded(stride, taps, x_bti, len_b)
  dkernel_no = product(
    x_bsn.reshape(b * out, -1), dz_bso.reshape(b * out, -1), (0, 0), dtype
  )
  # What each output frame sends back to the frames that it read.
  kernel_no = kernel_kio.reshape(taps * width, -1)
  dx_bsn = product(dz_bso, kernel_no, (2, 1), dtype).astype(dtype)
  dx_bski = dx_bsn.reshape(b, out, taps, width).astype(jnp.float32)
  left, right = _padding(frames, taps, stride)
  total_bti = jnp.zeros((b, left + frames + max(0, right), width))
  for k in range(taps):
    last = k + (out - 1) * stride + 1
    total_bti += lax.pad(
      dx_bski[:, :, k],
      np.float32(0),
      ((0, 0, 0), (k, total_bti.shape[1] - last, stride - 1), (0, 0, 0)),
    )
  dx_bti = total_bti[:, left : left + frames]
  return masked(dx_bti, len_b, 1), dkernel_no.reshape(taps, width, outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(x_ntl, scale_l, bias_l, lanes, epsilon):
  """Layer normalisation over the channels that there are.

  Args:
    x_ntl: activations, zero where a lane has no channel.
    scale_l, bias_l: float32, zero there, too.
    lanes: `channels.Lanes`.
    epsilon: added to the variance.

  Returns:
    y_ntl, like x_ntl.
  """
  return _norm_forward(x_ntl, scale_l, bias_l, lanes, epsilon)[0]


def _real(x_ntl, lanes):
  """Zeroes lanes without a channel."""
  real_l = lanes.channel_l >= 0
  return x_ntl if real_l.all() else jnp.where(real_l[None, None], x_ntl, 0)


def _statistics(x_ntl, lanes, epsilon):
  """Mean and reciprocal deviation of each frame, float32 [.., 1]."""
  rounded, width = x_ntl.dtype != jnp.float32, len(lanes.lane_c)
  x_ntl = x_ntl.astype(jnp.float32)
  mean = jnp.sum(x_ntl, -1, keepdims=True) / width
  if rounded:
    # One pass over memory; x is no better than what is lost.
    squares = jnp.sum(jnp.square(x_ntl), -1, keepdims=True) / width
    variance = jnp.maximum(squares - jnp.square(mean), 0)
    return mean, lax.rsqrt(variance + epsilon)
  squares = jnp.square(_real(x_ntl - mean, lanes))
  variance = jnp.sum(squares, -1, keepdims=True) / width
  return mean, lax.rsqrt(variance + epsilon)


def _norm_forward(x_ntl, scale_l, bias_l, lanes, epsilon):
  mean, factor = _statistics(x_ntl, lanes, epsilon)
  y_ntl = (x_ntl - mean) * factor * scale_l[None, None] + bias_l[None, None]
  return y_ntl.astype(x_ntl.dtype), (x_ntl, scale_l)


def _norm_backward(lanes, epsilon, residuals, dy_ntl):
  x_ntl, scale_l = residuals
  dy_ntl, width = dy_ntl.astype(jnp.float32), len(lanes.lane_c)
  mean, factor = _statistics(x_ntl, lanes, epsilon)
  normal_ntl = (x_ntl - mean) * factor
  dnormal_ntl = dy_ntl * scale_l[None, None]
  # Spare lanes have no scale, so no part in these sums.
  along = jnp.sum(dnormal_ntl * normal_ntl, -1, keepdims=True) / width
  level = jnp.sum(dnormal_ntl, -1, keepdims=True) / width
  dx_ntl = factor * (dnormal_ntl - level - normal_ntl * along)
  return (
    # What stands in a spare lane would reach other layers by the skips.
    _real(dx_ntl, lanes).astype(x_ntl.dtype),
    jnp.sum(dy_ntl * normal_ntl, (0, 1)),
    jnp.sum(dy_ntl, (0, 1)),
  )


layer_norm.defvjp(_norm_forward, _norm_backward)
