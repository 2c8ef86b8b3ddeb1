"""Operations of the NB-ASR networks (Mehrotra et al. 2021, section 3).

Layout. A grouped convolution with G groups of c channels each holds channel
(i, g) at position i * G + g, so that a tensor reshapes to [b, t, c, G] without
moving data and the groups fill the vector units. Dense layers mix all channels
and layer normalisation treats them alike, so this is the published network
with its channels renamed.

Padding (`taps`). Every convolution zeroes the frames past an utterance's end
before it reads them, so an utterance's output does not depend on its batch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax import dropout as drop
from nasjax.taps import CONVOLUTIONS, MAX_TAPS, UNION, offsets, reach
from nasjax.taps import placement as placement

CLIP = 20.0


def clipped_relu(x):
  """min(max(x, 0), 20), out of place."""
  return jnp.clip(x, 0, CLIP)


def mask_frames(x_btc, len_b):
  """Zeroes the frames past each utterance's end."""
  valid_bt = jnp.arange(x_btc.shape[1])[None] < len_b[:, None]
  return jnp.where(valid_bt[:, :, None], x_btc, 0)


def _split(x_btc, groups, pad):
  """Pads in time and splits channels: [b, pad + t + pad, c, G]."""
  b, _, channels = x_btc.shape
  x_btc = jnp.pad(x_btc, ((0, 0), pad, (0, 0)))
  return x_btc.reshape(b, -1, channels // groups, groups)


def _shifted_sum(x_btc, kernel_kijg, shifts):
  """Sum over taps and input channels, as multiply-adds over whole tensors."""
  taps, c, _, groups = kernel_kijg.shape
  frames = x_btc.shape[1]
  left, right = max(0, -min(shifts)), max(0, max(shifts))
  x_btig = _split(x_btc, groups, (left, right))
  y_btjg = 0
  for k in range(taps):
    start = left + shifts[k]
    x_k = x_btig[:, start : start + frames]
    for i in range(c):
      y_btjg = y_btjg + x_k[:, :, i, None, :] * kernel_kijg[None, None, k, i]
  return y_btjg.reshape(x_btc.shape)


def grouped_conv(x_btc, kernel_kijg, shifts):
  """Grouped convolution in time, output as long as the input.

  XLA's own grouped convolution has a gradient that is slower by an order of
  magnitude on CPUs, more so under `vmap`. Groups of one or two channels are
  multiply-adds of whole tensors; their number grows with the square of the
  group, so larger groups are block-diagonal matrix products.

  Args:
    x_btc: input, channels in (c, G) order.
    kernel_kijg: weight of tap k from channel i to channel j of group g.
    shifts: frame offset that each tap reads, a tuple of ints.

  Returns:
    y_btc with y[b, t, (j, g)] = sum_ki x[b, t + shifts[k], (i, g)] w[k,i,j,g].
  """
  if kernel_kijg.shape[1] > 2:
    return _block_products(x_btc, kernel_kijg, shifts)
  return _multiply_adds(x_btc, kernel_kijg, shifts)


def _block_products(x_btc, kernel_kijg, shifts, most=5):
  """The convolution as products of blocks of up to `most` groups."""
  taps, c, _, groups = kernel_kijg.shape
  b, frames, _ = x_btc.shape
  size = next(s for s in range(most, 0, -1) if groups % s == 0)
  blocks = groups // size
  left, right = max(0, -min(shifts)), max(0, max(shifts))
  x_btig = _split(x_btc, groups, (left, right))
  x_kbtins = jnp.stack(
    [x_btig[:, left + s : left + s + frames] for s in shifts]
  ).reshape(taps, b, frames, c, blocks, size)
  # Zero between different groups of a block.
  kernel_kijns = kernel_kijg.reshape(taps, c, c, blocks, size)
  kernel_kijnsr = (
    kernel_kijns[..., None] * jnp.eye(size)[None, None, None, None]
  )
  y_btjnr = jnp.einsum('kbtins,kijnsr->btjnr', x_kbtins, kernel_kijnsr)
  return y_btjnr.reshape(x_btc.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply_adds(x_btc, kernel_kijg, shifts):
  return _shifted_sum(x_btc, kernel_kijg, shifts)


def _multiply_adds_fwd(x_btc, kernel_kijg, shifts):
  return _shifted_sum(x_btc, kernel_kijg, shifts), (x_btc, kernel_kijg)


def _multiply_adds_bwd(shifts, residuals, dy_btc):
  x_btc, kernel_kijg = residuals
  dx_btc = _shifted_sum(
    dy_btc, jnp.swapaxes(kernel_kijg, 1, 2), tuple(-s for s in shifts)
  )
  groups = kernel_kijg.shape[-1]
  frames = x_btc.shape[1]
  left, right = max(0, -min(shifts)), max(0, max(shifts))
  x_btig = _split(x_btc, groups, (left, right))
  dy_btjg = _split(dy_btc, groups, (0, 0))
  # A reduction over leading axes alone is 13 times slower on CPUs than sums
  # of whole tensors: add up to 16 slices of the batch first, then reduce.
  batch = x_btc.shape[0]
  parts = next(n for n in range(min(16, batch), 0, -1) if batch % n == 0)
  size = batch // parts
  partial_k = []
  for shift in shifts:
    start = left + shift
    total = 0
    for p in range(parts):
      rows = slice(p * size, (p + 1) * size)
      x_p = x_btig[rows, start : start + frames, :, None, :]
      total = total + x_p * dy_btjg[rows, :, None]
    partial_k.append(total)
  return dx_btc, jnp.sum(jnp.stack(partial_k), (1, 2))


_multiply_adds.defvjp(_multiply_adds_fwd, _multiply_adds_bwd)


def glorot(fan_in, fan_out):
  """Uniform initialiser of given fans, which may be traced values."""

  def init(key, shape, dtype=jnp.float32):
    limit = jnp.sqrt(6 / (fan_in + fan_out)).astype(dtype)
    return limit * jax.random.uniform(key, shape, dtype, -1, 1)

  return init


class Linear(nn.Module):
  """Dense, clipped ReLU, dropout: applied to each frame."""

  width: int
  groups: int
  rate: float
  site: int

  @nn.compact
  def __call__(self, x_btc, len_b, place_uk, key):
    del len_b, place_uk
    y_btc = nn.Dense(self.width, kernel_init=nn.initializers.glorot_uniform())(
      x_btc
    )
    return drop.dropout(clipped_relu(y_btc), key, self.site, self.rate)


class Conv(nn.Module):
  """Grouped convolution, clipped ReLU, dropout.

  Attributes:
    width: channels in and out.
    groups: divides `width`.
    rate, site: of dropout.
    op: one of `CONVOLUTIONS`, or None to take the taps from `place_uk`.
  """

  width: int
  groups: int
  rate: float
  site: int
  op: str | None = None

  @nn.compact
  def __call__(self, x_btc, len_b, place_uk, key):
    c = self.width // self.groups
    if self.op:
      taps = CONVOLUTIONS[self.op][0]
      shape, shifts, used_k = (taps, c, c, self.groups), offsets(self.op), None
    else:
      shape, shifts = (MAX_TAPS, c, c, self.groups), UNION
      used_k = jnp.sum(place_uk, 0)
      taps = jnp.sum(used_k)

    def init(rng, shape):
      kernel_kijg = glorot(taps * c, taps * self.width)(rng, shape)
      if used_k is None:
        return kernel_kijg
      return kernel_kijg * used_k[:, None, None, None]

    kernel_kijg = self.param('kernel', init, shape)
    if not self.op:
      kernel_kijg = jnp.einsum('uk,kijg->uijg', place_uk, kernel_kijg)
    bias_c = self.param('bias', nn.initializers.zeros, (self.width,))
    y_btc = grouped_conv(mask_frames(x_btc, len_b), kernel_kijg, shifts)
    y_btc = clipped_relu(y_btc + bias_c[None, None])
    return drop.dropout(y_btc, key, self.site, self.rate)


class Zero(nn.Module):
  """Returns zeros: the edge is absent."""

  width: int
  groups: int
  rate: float
  site: int

  def __call__(self, x_btc, len_b, place_uk, key):
    del len_b, place_uk, key
    return jnp.zeros_like(x_btc)


OPS = {
  'linear': Linear,
  **{op: functools.partial(Conv, op=op) for op in CONVOLUTIONS},
  'zero': Zero,
  # Any of the four convolutions, chosen by data: what populations run.
  'conv': Conv,
}


class MacroConv(nn.Module):
  """Strided dense convolution and clipped ReLU that open a block.

  Written as one matrix product over unfolded frames, which maps over members
  as a batched product.
  """

  width: int
  kernel: int
  stride: int

  @nn.compact
  def __call__(self, x_btc, len_b):
    b, frames, channels = x_btc.shape
    if self.kernel % self.stride:
      raise ValueError(
        f'kernel {self.kernel} is not a multiple of stride {self.stride}'
      )
    out_frames = -(-frames // self.stride)
    steps = self.kernel // self.stride
    left, _ = reach(self.kernel, 1, self.stride)
    total = (out_frames + steps - 1) * self.stride
    x_btc = mask_frames(x_btc, len_b)
    right = total - left - frames
    x_btc = jnp.pad(x_btc, ((0, 0), (left, max(right, 0)), (0, 0)))[:, :total]
    # Frames in strides of `stride`: every tap pair is then a plain slice.
    x_bsc = x_btc.reshape(b, out_frames + steps - 1, self.stride * channels)
    x_btk = jnp.concatenate(
      [x_bsc[:, k : k + out_frames] for k in range(steps)], -1
    )
    kernel_kc = self.param(
      'kernel',
      glorot(self.kernel * channels, self.kernel * self.width),
      (self.kernel * channels, self.width),
    )
    bias_c = self.param('bias', nn.initializers.zeros, (self.width,))
    y_btc = clipped_relu(x_btk @ kernel_kc + bias_c[None, None])
    return y_btc, -(-len_b // self.stride)


def _forget_one(key, shape, dtype=jnp.float32):
  """Zero bias but for the forget gate's, which starts at 1."""
  del key
  hidden = shape[0] // 4
  return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


class LSTM(nn.Module):
  """One unidirectional LSTM layer; gates in the order i, f, g, o.

  Initialised as Keras does: Glorot input kernel, orthogonal recurrent kernel,
  one bias with the forget gate at 1.
  """

  width: int

  @nn.compact
  def __call__(self, x_btc):
    b, _, channels = x_btc.shape
    hidden = self.width
    wx_ch = self.param(
      'input_kernel', glorot(channels, 4 * hidden), (channels, 4 * hidden)
    )
    wh_hh = self.param(
      'recurrent_kernel', nn.initializers.orthogonal(), (hidden, 4 * hidden)
    )
    bias_h = self.param('bias', _forget_one, (4 * hidden,))
    z_tbh = jnp.swapaxes(x_btc @ wx_ch + bias_h[None, None], 0, 1)

    def step(carry, z_bh):
      h_bh, c_bh = carry
      i, f, g, o = jnp.split(z_bh + h_bh @ wh_hh, 4, axis=-1)
      c_bh = jax.nn.sigmoid(f) * c_bh + jax.nn.sigmoid(i) * jnp.tanh(g)
      h_bh = jax.nn.sigmoid(o) * jnp.tanh(c_bh)
      return (h_bh, c_bh), h_bh

    zeros = jnp.zeros((b, hidden), x_btc.dtype)
    _, y_tbh = jax.lax.scan(step, (zeros, zeros), z_tbh)
    return jnp.swapaxes(y_tbh, 0, 1)
