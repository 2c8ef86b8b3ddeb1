"""Rounding to eight bits: ONNX Runtime's own numbers, straight gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.layers import eight_bits, modules


def test_steps_and_weights_are_those_of_onnx_runtime():
  pytest.importorskip('onnxruntime')
  from onnx import TensorProto
  from onnxruntime.quantization import quant_utils

  rng = np.random.default_rng(0)
  for low, high in ((-1.3, 2.7), (0.4, 3), (-5, -2), (0, 0), (-7e-3, 1e-9)):
    x = rng.uniform(low, high, 64).astype(np.float32)
    zero, size = quant_utils.compute_data_quant_params(
      x, TensorProto.UINT8, False
    )
    own = eight_bits.steps(x.min(), x.max())
    np.testing.assert_array_equal(own, [np.float32(size), zero])
    wanted = quant_utils.quantize_nparray(TensorProto.UINT8, x, size, zero)
    wanted = (wanted.astype(np.float32) - zero) * size
    np.testing.assert_array_equal(eight_bits.rounded(x, own), wanted)
  kernel_kn = rng.standard_normal((7, 3), np.float32)
  kernel_kn[:, 1] = 0
  found_kn = eight_bits.weights(jnp.array(kernel_kn), 'int8')
  for n in (0, 2):
    w = kernel_kn[:, n]
    zero, size, whole = quant_utils.quantize_data(w, TensorProto.INT8, True)
    assert zero == 0
    np.testing.assert_allclose(found_kn[:, n], whole * size, rtol=1e-6)
  assert not np.asarray(found_kn)[:, 1].any()


def test_gradients_pass_the_rounding_but_not_the_range():
  step_2 = eight_bits.steps(-1.0, 2.0)
  x = jnp.array([-5.0, -0.9, 0.0013, 1.5, 9.0])
  grad = jax.grad(lambda x: (3 * eight_bits.rounded(x, step_2)).sum())(x)
  np.testing.assert_array_equal(grad, [0, 3, 3, 3, 0])
  kernel_kn = jnp.array([[0.3, -0.2], [0.12, 0.7]])
  grad_kn = jax.grad(lambda k: (2 * eight_bits.weights(k, 'int8')).sum())
  np.testing.assert_array_equal(grad_kn(kernel_kn), np.full((2, 2), 2.0))


def test_a_module_rounds_by_its_batch_or_by_given_steps():
  x_btc = jax.random.normal(jax.random.key(0), (2, 5, 4))
  plain, dense = (modules.Dense(3, p) for p in ('float32', 'int8'))
  variables = plain.init(jax.random.key(1), x_btc)
  assert set(variables) == {'params'}
  exact_btn, seen = plain.apply(variables, x_btc, mutable=['seen'])
  np.testing.assert_array_equal(exact_btn, plain.apply(variables, x_btc))
  np.testing.assert_array_equal(seen['seen']['input'][..., 1], x_btc.max(-1))
  by_batch_btn = dense.apply(variables, x_btc)
  steps = {'input': eight_bits.steps(x_btc.min(), x_btc.max())}
  by_steps_btn = dense.apply(variables | {'steps': steps}, x_btc)
  np.testing.assert_allclose(by_batch_btn, by_steps_btn, rtol=0, atol=1e-6)
  apart = np.abs(by_steps_btn - exact_btn).max()
  assert 1e-4 < apart < 0.05
  # Of coarse steps less is left.
  steps = {'input': 20 * steps['input']}
  coarse_btn = dense.apply(variables | {'steps': steps}, x_btc)
  assert np.abs(coarse_btn - exact_btn).max() > 3 * apart
