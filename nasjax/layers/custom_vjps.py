"""Functions of the networks whose gradients are written out.

XLA's own would transpose weights in memory, draw masks twice, sum the LSTM's
weight gradient at every step, or take a slow path (grouped convolutions);
experiments/PERFORMANCE.md has the measurements. All map over members and can
be differentiated twice.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.layers import dropout as drop

CLIP = 20.0


def clipped_relu(x):
  """min(max(x, 0), 20), out of place."""
  return jnp.clip(x, 0, CLIP)


def _product(a, b, axes, precision):
  """Contracts one axis of each; bfloat16 rounds them, and sums in float32."""
  if precision == 'bfloat16':
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
  dimensions = (((axes[0],), (axes[1],)), ((), ()))
  # Sums are wider only where both factors are.
  wide = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
  return jax.lax.dot_general(a, b, dimensions, preferred_element_type=wide)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x_btk, kernel_kn, precision='float32'):
  """Dense product of frames and a kernel.

  The gradient is written out because XLA would transpose the kernel's in
  memory, and so that bfloat16 rounds the factors of all three products.

  Args:
    x_btk: float32.
    kernel_kn: float32.
    precision: 'float32', or 'bfloat16' to round the factors; sums are float32
      in either case.

  Returns:
    y_btn, float32.
  """
  return _product(x_btk, kernel_kn, (2, 0), precision)


def _matmul_fwd(x_btk, kernel_kn, precision):
  y_btn = matmul(x_btk, kernel_kn, precision)
  if precision == 'bfloat16':
    x_btk = x_btk.astype(jnp.bfloat16)
  return y_btn, (x_btk, kernel_kn)


def _matmul_bwd(precision, residuals, dy_btn):
  x_btk, kernel_kn = residuals
  dx_btk = _product(dy_btn, kernel_kn, (2, 1), precision)
  x_rk = x_btk.reshape(-1, kernel_kn.shape[0])
  dy_rn = dy_btn.reshape(-1, kernel_kn.shape[1])
  return dx_btk, _product(x_rk, dy_rn, (0, 0), precision)


matmul.defvjp(_matmul_fwd, _matmul_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def clip_dropout(x_btc, key, site, rate):
  """Clipped ReLU, then dropout; its gradient needs the output alone.

  So nothing but the output is kept for it, and no mask is drawn twice.
  """
  return drop.dropout(clipped_relu(x_btc), key, site, rate)


def _clip_dropout_fwd(x_btc, key, site, rate):
  y_btc = clip_dropout(x_btc, key, site, rate)
  return y_btc, (y_btc, key)


def _clip_dropout_bwd(site, rate, residuals, dy_btc):
  del site
  y_btc, key = residuals
  scale = 1.0 if key is None else 1 / (1 - rate)
  # What was dropped or clipped is 0 or at the cap, rounded as the output was.
  top = np.float32(CLIP) * np.float32(scale)
  passed_btc = (y_btc > 0) & (y_btc < top)
  return jnp.where(passed_btc, dy_btc * scale, 0), None


clip_dropout.defvjp(_clip_dropout_fwd, _clip_dropout_bwd)


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


def grouped_conv(
  x_btc, kernel_kijg, shifts, precision='float32', kernels='xla'
):
  """Grouped convolution in time, output as long as the input.

  XLA's own grouped convolution has a gradient that is slower by an order of
  magnitude on CPUs, more so under `vmap`. Groups of one or two channels are
  multiply-adds of whole tensors; their number grows with the square of the
  group, so larger groups are block-diagonal matrix products.

  Args:
    x_btc: input, channels in (c, G) order.
    kernel_kijg: weight of tap k from channel i to channel j of group g.
    shifts: frame offset that each tap reads, a tuple of ints.
    precision: of the matrix products, as in `matmul`.
    kernels: what `kernels.choose` returned; accelerators take their libraries'
      grouped convolution instead.

  Returns:
    y_btc with y[b, t, (j, g)] = sum_ki x[b, t + shifts[k], (i, g)] w[k,i,j,g].
  """
  if kernels in ('tpu', 'gpu'):
    return _library_conv(x_btc, kernel_kijg, shifts, precision)
  if kernel_kijg.shape[1] > 2:
    return _block_products(x_btc, kernel_kijg, shifts, precision)
  return _multiply_adds(x_btc, kernel_kijg, shifts)


def _library_conv(x_btc, kernel_kijg, shifts, precision):
  """The convolution as XLA and the libraries of accelerators have it."""
  taps, c, _, groups = kernel_kijg.shape
  b, frames, width = x_btc.shape
  left, right = max(0, -min(shifts)), max(0, max(shifts))
  dtype = jnp.bfloat16 if precision == 'bfloat16' else x_btc.dtype
  # All frames between the first and the last tap; those not read weigh 0.
  dense = jnp.zeros((left + right + 1, c, c, groups), kernel_kijg.dtype)
  dense = dense.at[jnp.array([left + s for s in shifts])].set(kernel_kijg)
  x_btgi = jnp.swapaxes(x_btc.reshape(b, frames, c, groups), 2, 3)
  kernel_kigj = jnp.swapaxes(dense, 2, 3)
  y_btn = jax.lax.conv_general_dilated(
    x_btgi.reshape(x_btc.shape).astype(dtype),
    kernel_kigj.reshape(-1, c, width).astype(dtype),
    (1,),
    [(left, right)],
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=groups,
  )
  y_btgj = y_btn.astype(jnp.float32).reshape(b, frames, groups, c)
  return jnp.swapaxes(y_btgj, 2, 3).reshape(x_btc.shape)


def _block_products(x_btc, kernel_kijg, shifts, precision):
  """The convolution as products of block-diagonal matrices.

  Larger blocks multiply more zeros; five groups a block were fastest.
  """
  taps, c, _, groups = kernel_kijg.shape
  b, frames, _ = x_btc.shape
  size = next(s for s in range(5, 0, -1) if groups % s == 0)
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
  if precision == 'bfloat16':
    x_kbtins = x_kbtins.astype(jnp.bfloat16)
    kernel_kijnsr = kernel_kijnsr.astype(jnp.bfloat16)
  y_btjnr = jnp.einsum(
    'kbtins,kijnsr->btjnr',
    x_kbtins,
    kernel_kijnsr,
    preferred_element_type=jnp.promote_types(x_kbtins.dtype, jnp.float32),
  )
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


def depthwise_conv(x_btc, kernel_kc, shifts, kernels='xla'):
  """One filter a channel over time, output as long as the input.

  `grouped_conv` of as many groups as channels, for many taps: that one's
  gradient by the kernel has sums of whole tensors for every tap, side by side
  (15 taps, 64 channels, on a CPU: compiled in 1.8 s and run in 28 ms).

  Args:
    x_btc: input.
    kernel_kc: weight of tap k.
    shifts, kernels: as in `grouped_conv`.

  Returns:
    y_btc with y[b, t, c] = sum_k x[b, t + shifts[k], c] w[k, c].
  """
  if kernels in ('tpu', 'gpu'):
    return _library_conv(x_btc, kernel_kc[:, None, None], shifts, 'float32')
  return _depthwise(x_btc, kernel_kc, shifts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x_btc, kernel_kc, shifts):
  return _shifted_sum(x_btc, kernel_kc[:, None, None], shifts)


def _depthwise_fwd(x_btc, kernel_kc, shifts):
  return _depthwise(x_btc, kernel_kc, shifts), (x_btc, kernel_kc)


def _depthwise_bwd(shifts, residuals, dy_btc):
  x_btc, kernel_kc = residuals
  back = tuple(-s for s in shifts)
  dx_btc = _shifted_sum(dy_btc, kernel_kc[:, None, None], back)
  frames, channels = x_btc.shape[1:]
  left, right = max(0, -min(shifts)), max(0, max(shifts))
  padded_btc = jnp.pad(x_btc, ((0, 0), (left, right), (0, 0)))
  # A product with ones: CPUs reduce leading axes by themselves very slowly.
  ones_r = jnp.ones(x_btc.shape[0] * frames, dy_btc.dtype)

  def slope(start):
    read_btc = jax.lax.dynamic_slice_in_dim(padded_btc, start, frames, 1)
    return ones_r @ (read_btc * dy_btc).reshape(-1, channels)

  starts_k = jnp.array([left + s for s in shifts], jnp.int32)
  return dx_btc, jax.lax.map(slope, starts_k)


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def recurrence(z_tbh, wh_hh, precision=None):
  """Runs the LSTM's steps over what the input says to its gates.

  The gradient is written out so that the recurrent kernel's is one product
  behind the loop; differentiated by XLA, it would be summed in memory at every
  step, which takes longer than all the rest of the loop.

  Args:
    z_tbh: what the input says to the gates i, f, g, o.
    wh_hh: recurrent kernel.
    precision: of its products, a `lax.Precision`; None is the device's own,
      which rounds factors on accelerators.

  Returns:
    h_tbh, the hidden states.
  """
  return _recurrence_fwd(z_tbh, wh_hh, precision)[0]


def _recurrence_fwd(z_tbh, wh_hh, precision):
  product = functools.partial(jnp.matmul, precision=precision)

  def step(carry, z_bh):
    h_bh, c_bh = carry
    i, f, g, o = jnp.split(z_bh + product(h_bh, wh_hh), 4, axis=-1)
    i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
    g = jnp.tanh(g)
    new_bh = f * c_bh + i * g
    h_bh = o * jnp.tanh(new_bh)
    return (h_bh, new_bh), (h_bh, c_bh, new_bh, (i, f, g, o))

  _, batch, width = z_tbh.shape
  zeros_bh = jnp.zeros((batch, width // 4), z_tbh.dtype)
  _, (h_tbh, *rest) = jax.lax.scan(step, (zeros_bh, zeros_bh), z_tbh)
  return h_tbh, (h_tbh, rest, wh_hh)


def _recurrence_bwd(precision, residuals, dh_tbh):
  product = functools.partial(jnp.matmul, precision=precision)
  h_tbh, rest, wh_hh = residuals
  back_hh = wh_hh.T

  def step(carry, frame):
    dh_bh, dc_bh = carry
    dy_bh, (before_bh, c_bh, (i, f, g, o)) = frame
    dh_bh = dh_bh + dy_bh
    tanh_bh = jnp.tanh(c_bh)
    dc_bh = dc_bh + dh_bh * o * (1 - tanh_bh * tanh_bh)
    dz_bh = jnp.concatenate(
      [
        dc_bh * g * i * (1 - i),
        dc_bh * before_bh * f * (1 - f),
        dc_bh * i * (1 - g * g),
        dh_bh * tanh_bh * o * (1 - o),
      ],
      -1,
    )
    return (product(dz_bh, back_hh), dc_bh * f), dz_bh

  zeros_bh = jnp.zeros_like(h_tbh[0])
  _, dz_tbh = jax.lax.scan(
    step, (zeros_bh, zeros_bh), (dh_tbh, rest), reverse=True
  )
  hidden, width = wh_hh.shape
  dwh_hh = product(
    h_tbh[:-1].reshape(-1, hidden).T, dz_tbh[1:].reshape(-1, width)
  )
  return dz_tbh, dwh_hh


recurrence.defvjp(_recurrence_fwd, _recurrence_bwd)
