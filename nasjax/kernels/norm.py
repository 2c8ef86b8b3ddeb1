"""The native layer normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.kernels import building


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x_btc, scale_c, bias_c, epsilon):
  """Layer normalisation over channels.

  Maps over members; has a first derivative and no second one.

  Args:
    x_btc: input, float32.
    scale_c, bias_c: float32, of the normalised channels.
    epsilon: added to the variance.

  Returns:
    y_btc, what `modules.LayerNorm` says.
  """
  return _forward(x_btc, scale_c, bias_c, epsilon)[0]


def _forward(x_btc, scale_c, bias_c, epsilon):
  building.require()
  of_frames = jax.ShapeDtypeStruct(x_btc.shape[:-1], jnp.float32)
  y_btc, mean_bt, rstd_bt = jax.ffi.ffi_call(
    'nasjax_norm_forward',
    (jax.ShapeDtypeStruct(x_btc.shape, jnp.float32), of_frames, of_frames),
    vmap_method='broadcast_all',
  )(x_btc, scale_c, bias_c, epsilon=np.float32(epsilon))
  return y_btc, (x_btc, scale_c, mean_bt, rstd_bt)


def _backward(epsilon, residuals, dy_btc):
  del epsilon
  x_btc, scale_c, _, _ = residuals
  return jax.ffi.ffi_call(
    'nasjax_norm_backward',
    tuple(
      jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
      for leaf in (x_btc, scale_c, scale_c)
    ),
    vmap_method='broadcast_all',
  )(*residuals, dy_btc)


layer_norm.defvjp(_forward, _backward)
