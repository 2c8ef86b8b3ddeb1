"""The native grouped convolution with what follows it in a cell's node."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.kernels import building


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def conv_clip_dropout(
  x_btc, kernel_kijg, bias_c, taps_n, len_b, key, site, rate, cap
):
  """Grouped convolution in time, ReLU clipped at `cap`, dropout.

  Maps over members; has a first derivative by its floating-point arguments and
  no second one.

  Args:
    x_btc: input, float32, channels in (c, G) order; frames past `len_b` count
      as zeros.
    kernel_kijg: weight of tap k from channel i to channel j of group g.
    bias_c: of the outputs.
    taps_n: int32 (1 + K,): how many taps are used, and the frame offset that
      each reads. Taps past those used have no influence and gradient zero.
    len_b: int32, valid frames.
    key: uint32 words of `dropout.keep_mask`.
    site: int, of `dropout.keep_mask`.
    rate: of dropout, 0 for none.
    cap: of the ReLU.

  Returns:
    y_btc, what `ops.Conv` says, with the same mask bit for bit.
  """
  return _forward(
    x_btc, kernel_kijg, bias_c, taps_n, len_b, key, site, rate, cap
  )[0]


def _forward(x_btc, kernel_kijg, bias_c, taps_n, len_b, key, site, rate, cap):
  building.require()
  y_btc = jax.ffi.ffi_call(
    'nasjax_conv_forward',
    jax.ShapeDtypeStruct(x_btc.shape, jnp.float32),
    vmap_method='broadcast_all',
  )(
    x_btc,
    kernel_kijg,
    bias_c,
    taps_n,
    len_b.astype(jnp.int32),
    key,
    cap=np.float32(cap),
    scale=np.float32(1 / (1 - rate)),
    threshold=np.uint32(round(rate * 2**32)),
    site=np.uint32((site * 0x9E3779B9) & 0xFFFFFFFF),
  )
  return y_btc, (x_btc, kernel_kijg, taps_n, len_b, y_btc)


def _backward(site, rate, cap, residuals, dy_btc):
  del site
  x_btc, kernel_kijg, taps_n, len_b, y_btc = residuals
  dx_btc, dkernel_kijg, dbias_c = jax.ffi.ffi_call(
    'nasjax_conv_backward',
    tuple(
      jax.ShapeDtypeStruct(shape, jnp.float32)
      for shape in (x_btc.shape, kernel_kijg.shape, x_btc.shape[-1:])
    ),
    vmap_method='broadcast_all',
  )(
    x_btc,
    kernel_kijg,
    taps_n,
    len_b.astype(jnp.int32),
    y_btc,
    dy_btc,
    cap=np.float32(cap),
    scale=np.float32(1 / (1 - rate)),
  )
  return dx_btc, dkernel_kijg, dbias_c, None, None, None


conv_clip_dropout.defvjp(_forward, _backward)
