"""Modules that families of networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax import kernels as kernels_lib
from nasjax.layers import eight_bits
from nasjax.layers.custom_vjps import matmul, recurrence


def mask_frames(x_btc, len_b):
  """Zeroes the frames past each utterance's end."""
  valid_bt = jnp.arange(x_btc.shape[1])[None] < len_b[:, None]
  return jnp.where(valid_bt[:, :, None], x_btc, 0)


def glorot(fan_in, fan_out):
  """Uniform initialiser of given fans, which may be traced values."""

  def init(key, shape, dtype=jnp.float32):
    limit = jnp.sqrt(6 / (fan_in + fan_out)).astype(dtype)
    return limit * jax.random.uniform(key, shape, dtype, -1, 1)

  return init


class Dense(nn.Module):
  """Affine map of each frame; `precision` as `recipes.Recipe` has it."""

  width: int
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btk):
    shape = (x_btk.shape[-1], self.width)
    kernel_kn = self.param('kernel', nn.initializers.glorot_uniform(), shape)
    bias_n = self.param('bias', nn.initializers.zeros, (self.width,))
    x_btk = eight_bits.inputs(self, 'input', x_btk, self.precision)
    kernel_kn = eight_bits.weights(kernel_kn, self.precision)
    return matmul(x_btk, kernel_kn, self.precision) + bias_n[None, None]


class LayerNorm(nn.Module):
  """Layer normalisation over channels, in two passes for accuracy.

  Attributes:
    epsilon: added to the variance.
    kernels: 'native' or 'xla', of `kernels.choose`.
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


def orthonormal_rows(key, shape, dtype=jnp.float32):
  """Draws a wide matrix uniformly from those with orthonormal rows.

  It is the polar factor of a Gaussian one, found by the iteration of Newton
  and Schulz, so by products alone: LAPACK's QR, run on several CPU devices at
  once, waits for itself for ever. Singular values of a Gaussian matrix four
  times as wide as high lie within 1 to 3, and reach 1 in ten iterations.
  """
  rows, columns = shape
  x_rc = jax.random.normal(key, shape, dtype) / (rows**0.5 + columns**0.5)

  def improve(_, x_rc):
    return 1.5 * x_rc - 0.5 * (x_rc @ x_rc.T) @ x_rc

  return jax.lax.fori_loop(0, 14, improve, x_rc)


def _forget_one(key, shape, dtype=jnp.float32):
  """Zero bias but for the forget gate's, which starts at 1."""
  del key
  hidden = shape[0] // 4
  return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


def _gates(module, x_btc):
  """Returns what the input says to an LSTM's gates, and its recurrent kernel.

  The parameters are those of the module, which has `width` and `precision`.
  """
  channels, hidden = x_btc.shape[-1], module.width
  wx_ch = module.param(
    'input_kernel', glorot(channels, 4 * hidden), (channels, 4 * hidden)
  )
  wh_hh = module.param(
    'recurrent_kernel', orthonormal_rows, (hidden, 4 * hidden)
  )
  bias_h = module.param('bias', _forget_one, (4 * hidden,))
  # Of an LSTM the weights alone, as in files (`export.quantise`).
  wx_ch = eight_bits.weights(wx_ch, module.precision)
  wh_hh = eight_bits.weights(wh_hh, module.precision)
  return matmul(x_btc, wx_ch, module.precision) + bias_h[None, None], wh_hh


class LSTM(nn.Module):
  """One unidirectional LSTM layer; gates in the order i, f, g, o.

  Initialised as Keras does: Glorot input kernel, orthogonal recurrent kernel,
  one bias with the forget gate at 1.
  """

  width: int
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc, state=None):
    """Runs it.

    Args:
      x_btc: input.
      state: what the call before returned, hidden states and cells [bh] each,
        to go on from; None for the beginning.

    Returns:
      h_bth; where a state is given, h_bth and the next one.
    """
    z_bth, wh_hh = _gates(self, x_btc)
    z_tbh = jnp.swapaxes(z_bth, 0, 1)
    if state is None:
      return jnp.swapaxes(recurrence(z_tbh, wh_hh), 0, 1)

    def step(state, z_bh):
      h_bh, c_bh = state
      i, f, g, o = jnp.split(z_bh + h_bh @ wh_hh, 4, axis=-1)
      c_bh = nn.sigmoid(f) * c_bh + nn.sigmoid(i) * jnp.tanh(g)
      h_bh = nn.sigmoid(o) * jnp.tanh(c_bh)
      return (h_bh, c_bh), h_bh

    state, h_tbh = jax.lax.scan(step, tuple(state), z_tbh)
    return jnp.swapaxes(h_tbh, 0, 1), state


def reversed_frames(x_btc, len_b):
  """Turns the valid frames of each utterance round; the others stay."""
  frame_t = jnp.arange(x_btc.shape[1])[None]
  back_bt = len_b[:, None] - 1 - frame_t
  index_bt = jnp.where(back_bt >= 0, back_bt, frame_t)
  return jnp.take_along_axis(x_btc, index_bt[:, :, None], axis=1)


class _Direction(nn.Module):
  """The weights of an LSTM, and what they make of each frame alone."""

  width: int
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc):
    return _gates(self, x_btc)


class BiLSTM(nn.Module):
  """One LSTM layer in both directions, each of its own weights.

  The second one begins with an utterance's last valid frame, so that valid
  frames of the output do not depend on padding. Both take their steps together.
  """

  width: int
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc, len_b):
    """Returns h_bth, `width` channels of each direction side by side."""
    made = [
      _Direction(self.width, self.precision, name=name)(x_btc)
      for name in ('forward', 'backward')
    ]
    (ahead_bth, _), (back_bth, _) = made
    z_dbth = jnp.stack([ahead_bth, reversed_frames(back_bth, len_b)])
    wh_dhh = jnp.stack([wh_hh for _, wh_hh in made])
    h_dtbh = jax.vmap(recurrence)(jnp.swapaxes(z_dbth, 1, 2), wh_dhh)
    ahead_bth, back_bth = jnp.swapaxes(h_dtbh, 1, 2)
    return jnp.concatenate([ahead_bth, reversed_frames(back_bth, len_b)], -1)
