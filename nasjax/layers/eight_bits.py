"""Factors of dense products as eight bits have them, in floats.

The numbers are those of a file that `export.quantise` writes: inputs of a
product in 256 steps of one range that has 0 in it, weights in 127 steps to
either side of 0, a scale for each output. Gradients pass straight through the
rounding (Bengio, Leonard and Courville 2013, section 4; Jacob et al. 2018,
section 3), and stop where an input is out of its range.

A module rounds where its precision is 'int8'. The steps of its inputs are those
of the collection `STEPS`; where nobody gives any, of the range that the batch
at hand has, padding and all. Who makes the collection `SEEN` mutable is told
what is read in each frame (`export.rounding` makes the one of the other).
"""

import jax
import jax.numpy as jnp
import numpy as np

STEPS, SEEN = 'steps', 'seen'
PRECISION = 'int8'


def steps(low, high):
  """Returns the size of a step and the number of the one that is 0, float32.

  As ONNX Runtime has it: of a range from `low` to `high` that is made to have 0
  in it; in double precision, so NumPy.
  """
  low, high = min(float(low), 0.0), max(float(high), 0.0)
  size = (high - low) / 255
  if size < np.finfo(np.float32).tiny:
    return np.array([1, 0], np.float32)
  return np.array([size, np.round(-low / size)], np.float32)


def _batch_steps(x):
  low, high = jnp.minimum(x.min(), 0), jnp.maximum(x.max(), 0)
  size = (high - low) / 255
  size = jnp.where(size > 0, size, 1)
  return jnp.stack([size, jnp.round(-low / size)])


def _straight(x, rounded):
  """Returns `rounded`, whose gradient is that of x."""
  return x - jax.lax.stop_gradient(x) + jax.lax.stop_gradient(rounded)


def rounded(x, step_2):
  """Rounds inputs of a product to steps; see `steps`."""
  size, zero = step_2
  low, high = -zero * size, (255 - zero) * size
  whole = jnp.clip(jnp.round(x / size) + zero, 0, 255)
  return _straight(jnp.clip(x, low, high), (whole - zero) * size)


def inputs(module, name, x_btc, precision):
  """Returns what a product of a module reads, rounded if it is to be.

  Args:
    module: the linen module.
    name: of the product in it.
    x_btc: float32.
    precision: of the module.
  """
  if module.is_mutable_collection(SEEN) and not module.is_initializing():
    seen_bt2 = jnp.stack([x_btc.min(-1), x_btc.max(-1)], -1)
    module.put_variable(SEEN, name, seen_bt2)
  if precision != PRECISION:
    return x_btc
  step_2 = module.get_variable(STEPS, name)
  if step_2 is None:
    step_2 = _batch_steps(jax.lax.stop_gradient(x_btc))
  return rounded(x_btc, step_2)


def weights(kernel, precision):
  """Returns a kernel, its last axis outputs, rounded if it is to be."""
  if precision != PRECISION:
    return kernel
  axes = tuple(range(kernel.ndim - 1))
  size_n = jnp.abs(kernel).max(axes, keepdims=True) / 127
  size_n = jax.lax.stop_gradient(jnp.where(size_n > 0, size_n, 1))
  return _straight(kernel, jnp.round(kernel / size_n) * size_n)
