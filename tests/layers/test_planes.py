"""Convolutions on planes: their gradients, and what CPUs run of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.layers import planes


def _problem(side, inputs=3, outputs=4):
  rng = np.random.default_rng(side)
  shapes = (2, 9, 7, inputs), (side, side, inputs, outputs), (2, 9, 7, outputs)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize('side', [3, 5])
@pytest.mark.parametrize('dilation', [1, 2])
def test_the_gradient_is_that_of_the_convolution(side, dilation):
  x_btfc, kernel_hwcn, dy_btfn = _problem(side)

  def plain(x_btfc, kernel_hwcn):
    return jax.lax.conv_general_dilated(
      x_btfc, kernel_hwcn, (1, 1), 'SAME', rhs_dilation=(dilation, dilation),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip

  want_btfn, pull = jax.vjp(plain, x_btfc, kernel_hwcn)
  found_btfn, own_pull = jax.vjp(
    lambda x, k: planes.conv(x, k, dilation), x_btfc, kernel_hwcn
  )
  np.testing.assert_array_equal(found_btfn, want_btfn)
  for found, want in zip(own_pull(dy_btfn), pull(dy_btfn), strict=True):
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_second_derivatives():
  x_btfc, kernel_hwcn, _ = _problem(3)

  def slope(kernel_hwcn):
    run = jax.grad(lambda k: jnp.square(planes.conv(x_btfc, k)).sum())
    return run(kernel_hwcn).sum()

  # Of squares: linear in the kernel, so any difference quotient is exact.
  found = jax.grad(slope)(kernel_hwcn)
  step = jnp.zeros_like(kernel_hwcn).at[1, 0, 2, 1].set(1.0)
  quotient = slope(kernel_hwcn + step) - slope(kernel_hwcn)
  np.testing.assert_allclose(found[1, 0, 2, 1], quotient, rtol=1e-4)


def test_in_a_loop_cpus_have_their_library_run_it():
  """It takes convolutions of this layout alone, and others 20 times as long."""
  x_btfc, kernel_hwcn, _ = _problem(3, 3, 3)

  def loss(both):
    y_btfn = planes.conv(planes.conv(both[0], both[1]), both[1], 2)
    return jnp.square(y_btfn).sum()

  def step(both, _):
    return jax.tree.map(jnp.subtract, both, jax.grad(loss)(both)), None

  run = jax.jit(lambda both: jax.lax.scan(step, both, length=3)[0])
  text = run.lower((x_btfc, kernel_hwcn)).compile().as_text()
  layouts = re.findall(r'dim_labels=(\S+?),? ', text)
  assert len(layouts) == 6
  assert set(layouts) == {'b01f_01io->b01f'}


def test_patches_are_a_convolution_of_its_own_stride():
  x_btfc, kernel_hwcn, _ = _problem(3, 1)
  bias_n = jnp.arange(4.0)
  found = planes.patches(x_btfc[..., 0], kernel_hwcn, bias_n)
  past = [(0, 0), (0, 0), (0, 2), (0, 0)]
  want = jax.lax.conv_general_dilated(
    jnp.pad(x_btfc, past), kernel_hwcn, (3, 3), 'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip
  want = want + bias_n[None, None, None]
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_pools_and_moments_of_half_precision(dtype):
  rng = np.random.default_rng(4)
  # A sum of them all is past float16's largest number.
  x_btfc = jnp.asarray(rng.normal(300, 9, (2, 15, 20, 1)), dtype)
  len_b = jnp.array([15, 6], jnp.uint8)
  masked = planes.mask(x_btfc, len_b)
  whole = masked.astype(jnp.float32)
  for run in planes.avg_pool, planes.max_pool, planes.halved, planes.moments:
    found, want = (jax.tree.leaves(run(x, len_b)) for x in (masked, whole))
    for own, other in zip(found, want, strict=True):
      # What is past the end means nothing; a step of bfloat16 is 2 from 256 on.
      valid = np.s_[:, :3] if own.ndim == 4 else ...
      np.testing.assert_allclose(
        np.asarray(own, np.float32)[valid], other[valid], atol=12
      )
  _, half_b = planes.halved(masked, len_b)
  assert half_b.tolist() == [8, 3]
