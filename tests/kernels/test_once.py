"""The wall that XLA moves no arithmetic across."""

import jax
import jax.numpy as jnp
import native
import numpy as np

from nasjax import kernels

pytestmark = native.needed


def test_values_and_derivatives_go_through():
  x_n = jnp.arange(1.0, 6.0)

  def cubes(x_n):
    return (kernels.once(x_n) ** 3).sum()

  slope = jax.grad(cubes)
  np.testing.assert_allclose(jax.jit(slope)(x_n), 3 * x_n**2, rtol=1e-6)
  twice = jax.grad(lambda x_n: slope(x_n).sum())
  np.testing.assert_allclose(jax.jit(twice)(x_n), 6 * x_n, rtol=1e-6)
  x_pn = jnp.stack([x_n, 2 * x_n])
  found_pn = jax.jit(jax.vmap(slope))(x_pn)
  np.testing.assert_allclose(found_pn, 3 * x_pn**2, rtol=1e-6)
  # In place or not, what is read again is what it was.
  y_n, z_n = jax.jit(lambda x_n: (kernels.once(x_n), x_n + 1))(x_n)
  np.testing.assert_array_equal(y_n, x_n)
  np.testing.assert_array_equal(z_n, x_n + 1)


def test_what_is_read_at_several_places_is_computed_once():
  x_n = jnp.arange(8.0)

  def neighbours(held, x_n):
    y_n = held(x_n * x_n + x_n)
    return jnp.maximum(y_n[:-1], y_n[1:]), y_n[::-1] - x_n

  def products(held):
    run = jax.jit(lambda x_n: neighbours(held, x_n))
    return run.lower(x_n).compile().as_text().count(' multiply(')

  assert products(kernels.once) == 1
  assert products(lambda x_n: x_n) > 1
