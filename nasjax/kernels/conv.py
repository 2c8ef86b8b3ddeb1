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
  y_btc = _call_forward(
    x_btc, kernel_kijg, bias_c, taps_n, len_b, key, site, rate, cap
  )
  return y_btc, (x_btc, kernel_kijg, taps_n, len_b, y_btc)


def _call_forward(
  x_btc, kernel_kijg, bias_c, taps_n, len_b, key, site, rate, cap
):
  building.require()
  return jax.ffi.ffi_call(
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


def _backward(site, rate, cap, residuals, dy_btc):
  del site
  x_btc, kernel_kijg, taps_n, len_b, y_btc = residuals
  found = _call_backward(
    x_btc, kernel_kijg, taps_n, len_b, y_btc, dy_btc, rate, cap
  )
  return *found, None, None, None


def _call_backward(x_btc, kernel_kijg, taps_n, len_b, y_btc, dy_btc, rate, cap):
  return jax.ffi.ffi_call(
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


conv_clip_dropout.defvjp(_forward, _backward)


# To the kernels: no activation.
_NO_CAP = -1.0


@jax.custom_vjp
def conv(x_btc, kernel_kijg, bias_c, taps_n, len_b):
  """The grouped convolution and its bias alone.

  Args as of `conv_clip_dropout`. Maps over members and can be differentiated
  any number of times: it is linear in input and weights, so each derivative is
  made of the same two kernels. The gradient keeps input and weights only.
  """
  key = jnp.zeros(2, jnp.uint32)
  return _call_forward(
    x_btc, kernel_kijg, bias_c, taps_n, len_b, key, 0, 0.0, _NO_CAP
  )


def _conv_fwd(x_btc, kernel_kijg, bias_c, taps_n, len_b):
  y_btc = conv(x_btc, kernel_kijg, bias_c, taps_n, len_b)
  return y_btc, (x_btc, kernel_kijg, taps_n, len_b)


def _conv_bwd(residuals, dy_btc):
  return *_conv_grad(*residuals, dy_btc), None, None


@jax.custom_vjp
def _conv_grad(x_btc, kernel_kijg, taps_n, len_b, dy_btc):
  """Gradients by input, kernel and bias."""
  # Without an activation the output is not looked at.
  return tuple(
    _call_backward(
      x_btc, kernel_kijg, taps_n, len_b, dy_btc, dy_btc, 0.0, _NO_CAP
    )
  )


def _conv_grad_fwd(x_btc, kernel_kijg, taps_n, len_b, dy_btc):
  arguments = x_btc, kernel_kijg, taps_n, len_b, dy_btc
  return _conv_grad(*arguments), arguments


def _conv_grad_bwd(arguments, cotangents):
  x_btc, kernel_kijg, taps_n, len_b, dy_btc = arguments
  cx_btc, ckernel_kijg, cbias_c = cotangents
  by_dy_btc = conv(
    cx_btc, kernel_kijg, jnp.zeros_like(cbias_c), taps_n, len_b
  ) + conv(x_btc, ckernel_kijg, cbias_c, taps_n, len_b)
  _, by_kernel_kijg, _ = _conv_grad(cx_btc, kernel_kijg, taps_n, len_b, dy_btc)
  by_x_btc, _, _ = _conv_grad(x_btc, ckernel_kijg, taps_n, len_b, dy_btc)
  return by_x_btc, by_kernel_kijg, None, None, by_dy_btc


conv.defvjp(_conv_fwd, _conv_bwd)
_conv_grad.defvjp(_conv_grad_fwd, _conv_grad_bwd)
