"""Operations on planes of time and frequency, masked by length.

A plane is x_btfc; time is valid up to len_b, frequency all along. Every
operation takes planes that are zero past an utterance's end (`mask`), so that
an utterance's end is padded as a plane's border is, and its valid frames do not
depend on its batch. What it leaves past the end is finite and has no meaning.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from nasjax.layers.custom_vjps import matmul

_NHWC = 'NHWC', 'HWIO', 'NHWC'


def _valid(x_btfc, len_b):
  """Returns bool [b, t, 1, 1]."""
  valid_bt = jnp.arange(x_btfc.shape[1])[None] < len_b[:, None]
  return valid_bt[:, :, None, None]


def mask(x_btfc, len_b):
  """Zeroes the frames past each utterance's end."""
  return jnp.where(_valid(x_btfc, len_b), x_btfc, 0)


def _product(x_btfc, kernel_hwcn, dilation):
  return lax.conv_general_dilated(
    x_btfc, kernel_hwcn, (1, 1), 'SAME', rhs_dilation=(dilation, dilation),
    dimension_numbers=_NHWC,
  )  # fmt: skip


def _canonical_pull(dilation, x_btfc, kernel_hwcn, dy_btfn):
  """The gradient as convolutions of batch, height, width and channels.

  In a loop, where training is, XLA's compiler for CPUs hands no others to its
  library; its own loops take 20 times as long.
  """
  turned_hwnc = kernel_hwcn[::-1, ::-1].swapaxes(2, 3)
  # Channels as a batch, of whose planes those of dy are the taps.
  reach = [(dilation * (side // 2),) * 2 for side in kernel_hwcn.shape[:2]]
  dkernel_chwn = lax.conv_general_dilated(
    x_btfc.transpose(3, 1, 2, 0), dy_btfn.transpose(1, 2, 0, 3),
    (dilation, dilation), reach, dimension_numbers=_NHWC,
  )  # fmt: skip
  return (
    _product(dy_btfn, turned_hwnc, dilation),
    dkernel_chwn.transpose(1, 2, 0, 3),
  )


def _derived_pull(dilation, x_btfc, kernel_hwcn, dy_btfn):
  run = functools.partial(_product, dilation=dilation)
  return jax.vjp(run, x_btfc, kernel_hwcn)[1](dy_btfn)


def _rounded(precision, *factors):
  """Rounds factors to bfloat16, if that is what the precision is."""
  dtype = jnp.bfloat16 if precision == 'bfloat16' else jnp.float32
  return tuple(x.astype(dtype) for x in factors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x_btfc, kernel_hwcn, dilation=1, precision='float32'):
  """Convolution, as large as its input.

  Args:
    x_btfc: float32.
    kernel_hwcn: float32, weights of the taps along time, then frequency, an odd
      number along either.
    dilation: distance of taps.
    precision: 'float32', or 'bfloat16' to round factors and products, in both
      passes.

  Returns:
    y_btfn, float32.
  """
  return _conv_fwd(x_btfc, kernel_hwcn, dilation, precision)[0]


def _conv_fwd(x_btfc, kernel_hwcn, dilation, precision):
  kept = _rounded(precision, x_btfc, kernel_hwcn)
  return _product(*kept, dilation).astype(jnp.float32), kept


def _conv_bwd(dilation, precision, kept, dy_btfn):
  grads = lax.platform_dependent(
    *kept, *_rounded(precision, dy_btfn),
    cpu=functools.partial(_canonical_pull, dilation),
    default=functools.partial(_derived_pull, dilation),
  )  # fmt: skip
  return tuple(grad.astype(jnp.float32) for grad in grads)


conv.defvjp(_conv_fwd, _conv_bwd)


def patches(x_btf, kernel_hwcn, bias_n, precision='float32'):
  """Projects patches of a plane of one channel that tile it, to channels.

  Args:
    x_btf: features, zero past each utterance's end.
    kernel_hwcn: square; its side is what either axis is divided by.
    bias_n: added.
    precision: as in `conv`.

  Returns:
    y_btfn, both axes ceil(size / side) long.
  """
  side = kernel_hwcn.shape[0]
  pad = [(0, 0), *((0, -size % side) for size in x_btf.shape[1:])]
  x_btf = jnp.pad(x_btf, pad)
  batch, frames, height = x_btf.shape
  shape = batch, frames // side, side, height // side, side
  x_btfhw = x_btf.reshape(shape).swapaxes(2, 3)
  x_brk = x_btfhw.reshape(batch, -1, side * side)
  y_brn = matmul(x_brk, kernel_hwcn.reshape(side * side, -1), precision)
  return y_brn.reshape(batch, shape[1], shape[3], -1) + bias_n[None, None, None]


def _lowest(x_btfc):
  """Returns what is not there, where the largest is looked for.

  Finite, so that what has no gradient does not make NaN of it.
  """
  return jnp.finfo(x_btfc.dtype).min


def _neighbours(x_btfc, axis, join, outside):
  """Joins each element of an axis with both of its neighbours."""
  pad = [(0, 0, 0)] * 4
  pad[axis] = 1, 1, 0
  padded = lax.pad(x_btfc, jnp.asarray(outside, x_btfc.dtype), pad)
  size = x_btfc.shape[axis]
  before, itself, after = (
    lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3)
  )
  return join(join(before, itself), after)


@jax.checkpoint
def avg_pool(x_btfc, len_b):
  """Mean of the 3 by 3 elements around each, of those that are there."""
  y_btfc = x_btfc
  for axis in 1, 2:
    y_btfc = _neighbours(y_btfc, axis, jnp.add, 0)
  _, frames, height, _ = x_btfc.shape
  frame_t, place_f = jnp.arange(frames), jnp.arange(height)
  around_bt = (
    1 + (frame_t > 0)[None] + (frame_t[None] + 1 < len_b[:, None])
  )  # fmt: skip
  around_f = 1 + (place_f > 0) + (place_f < height - 1)
  count_btf = around_bt[:, :, None] * around_f[None, None]
  return y_btfc / count_btf[..., None].astype(y_btfc.dtype)


@jax.checkpoint
def max_pool(x_btfc, len_b):
  """Largest of the 3 by 3 elements around each; zero past the end."""
  valid, low = _valid(x_btfc, len_b), _lowest(x_btfc)
  y_btfc = jnp.where(valid, x_btfc, low)
  for axis in 1, 2:
    y_btfc = _neighbours(y_btfc, axis, jnp.maximum, low)
  return jnp.where(valid, y_btfc, 0)


@jax.checkpoint
def halved(x_btfc, len_b):
  """Largest of each 2 by 2 elements: half as long and half as high.

  Returns:
    y_btfc, both axes ceil(size / 2) long, and the valid frames, ceil(len / 2).
  """
  low = _lowest(x_btfc)
  x_btfc = jnp.where(_valid(x_btfc, len_b), x_btfc, low)
  for axis in 1, 2:
    pad = [(0, 0, 0)] * 4
    pad[axis] = 0, x_btfc.shape[axis] % 2, 0
    x_btfc = lax.pad(x_btfc, low, pad)
    x_btfc = jnp.maximum(
      *(
        lax.slice_in_dim(x_btfc, k, None, stride=2, axis=axis) for k in range(2)
      )
    )
  len_b = len_b // 2 + len_b % 2  # of integers without a sign, too
  return mask(x_btfc, len_b), len_b


def moments(x_btfc, len_b):
  """Returns mean_c and variance_c (biased) over the valid elements.

  In two passes and float32, for accuracy; zeros where nothing is valid.
  """
  valid, x_btfc = _valid(x_btfc, len_b), x_btfc.astype(jnp.float32)
  count = jnp.maximum(jnp.sum(jnp.minimum(len_b, x_btfc.shape[1])), 1)
  count = (count * x_btfc.shape[2]).astype(jnp.float32)
  mean_c = jnp.sum(jnp.where(valid, x_btfc, 0), (0, 1, 2)) / count
  apart = jnp.where(valid, x_btfc - mean_c[None, None, None], 0)
  return mean_c, jnp.sum(jnp.square(apart), (0, 1, 2)) / count


def norm_params(width):
  """Returns the parameters of a batch normalisation before any training.

  `mean` and `variance` are running statistics: evaluation reads them, and what
  trains replaces them (`models.families.observed`).
  """
  return {
    'scale': jnp.ones(width), 'shift': jnp.zeros(width),
    'mean': jnp.zeros(width), 'variance': jnp.ones(width),
  }  # fmt: skip


def norm_factors(params, x_btfc, len_b, trains, epsilon):
  """Returns a_c and b_c: batch normalisation is a_c x + b_c.

  Args:
    params: of `norm_params`.
    x_btfc: its input.
    len_b: valid frames; statistics are of these.
    trains: whether statistics are the batch's; else the running ones.
    epsilon: added to the variance.
  """
  if trains:
    mean_c, variance_c = moments(x_btfc, len_b)
  else:
    mean_c, variance_c = params['mean'], params['variance']
  a_c = params['scale'] * lax.rsqrt(variance_c + epsilon)
  return a_c, params['shift'] - a_c * mean_c


def moved(params, statistics, momentum):
  """Returns the running statistics after a batch of these (mean, variance)."""
  return {
    name: (1 - momentum) * params[name] + momentum * batch_c
    for name, batch_c in zip(('mean', 'variance'), statistics, strict=True)
  }
