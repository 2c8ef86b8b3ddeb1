import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch_weights

from nasjax import ops

# Compiled as a whole: one operation at a time, a test takes seconds.
_grouped_conv = jax.jit(ops.grouped_conv, static_argnums=2)


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, params, x_btc, len_b, place_uk=None):
  return module.apply({'params': params}, x_btc, len_b, place_uk, None)


@functools.partial(jax.jit, static_argnums=3)
def _pull(x_btc, kernel, dy_btc, shifts):
  _, pull = jax.vjp(lambda x, w: ops.grouped_conv(x, w, shifts), x_btc, kernel)
  return pull(dy_btc)


def _slow_grouped(x_btc, kernel_kijg, shifts):
  """One multiplication at a time."""
  taps, c, _, groups = kernel_kijg.shape
  b, frames, _ = x_btc.shape
  y_btc = np.zeros_like(x_btc)
  for n in range(b):
    for t in range(frames):
      for k in range(taps):
        source = t + shifts[k]
        if 0 <= source < frames:
          x_ig = x_btc[n, source].reshape(c, groups)
          y_btc[n, t] += np.einsum('ig,ijg->jg', x_ig, kernel_kijg[k]).ravel()
  return y_btc


@pytest.mark.parametrize(
  'op, expected',
  [('conv5', (0, 4)), ('conv5d2', (4, 4)), ('conv7', (2, 4)),
   ('conv7d2', (8, 4))],
)  # fmt: skip
def test_reach_of_the_cell_convolutions(op, expected):
  assert ops.reach(*ops.CONVOLUTIONS[op]) == expected
  assert (-min(*ops.offsets(op), 0), max(ops.offsets(op))) == expected


def test_reach_of_the_block_convolutions():
  assert ops.reach(8, 1, 1) == (3, 4)
  assert ops.reach(8, 1, 2) == (5, 2)


@reference.needed
@pytest.mark.parametrize('frames', [1, 3, 7, 12, 13])
@pytest.mark.parametrize('op', ['linear', *ops.CONVOLUTIONS])
def test_op_equals_reference(op, frames):
  order = torch_weights.order(100)
  with np.load(reference.DIRECTORY / 'nb-asr' / 'ops_reference.npz') as stored:
    x_btc = stored[f'x_F100_T{frames}'].transpose(0, 2, 1)[..., order]
    expected = stored[f'{op}/y_T{frames}'].transpose(0, 2, 1)[..., order]
    kind = 'linear' if op == 'linear' else 'conv'
    weight = stored[f'{op}/{kind}.weight']
    bias = stored[f'{op}/{kind}.bias'][order]
  if op == 'linear':
    params = {'Dense_0': {'kernel': weight[order][:, order].T, 'bias': bias}}
  else:
    params = {'kernel': torch_weights.grouped_kernel(weight), 'bias': bias}
  module = ops.OPS[op](100, 100, 0.0, 0)
  y_btc = _apply(module, params, x_btc, jnp.full(1, frames))
  np.testing.assert_allclose(y_btc, expected, atol=1e-4)


@reference.needed
@pytest.mark.parametrize('frames', [1, 3, 7, 12, 13])
@pytest.mark.parametrize('stride', [1, 2])
def test_block_convolution_equals_reference(stride, frames):
  with np.load(reference.DIRECTORY / 'nb-asr' / 'ops_reference.npz') as stored:
    x_btc = stored[f'x_F100_T{frames}'].transpose(0, 2, 1)
    expected = stored[f'block_s{stride}/y_T{frames}'].transpose(0, 2, 1)
    weight = stored[f'block_s{stride}/conv.weight']
    bias = stored[f'block_s{stride}/conv.bias']
  kernel = torch_weights.macro_kernel(weight, np.arange(100), np.arange(20))
  apply = jax.jit(ops.MacroConv(20, 8, stride).apply)
  y_btc, len_b = apply(
    {'params': {'kernel': kernel, 'bias': bias}}, x_btc, jnp.full(1, frames)
  )
  assert len_b[0] == y_btc.shape[1] == -(-frames // stride)
  np.testing.assert_allclose(y_btc, expected, atol=1e-4)


@pytest.mark.parametrize('c, groups', [(1, 5), (2, 3), (3, 2)])
@pytest.mark.parametrize('batch', [1, 6])
def test_grouped_conv_and_its_gradient(c, groups, batch):
  rng = np.random.default_rng(c)
  shifts = (-3, -1, 0, 2)
  x_btc = rng.normal(size=(batch, 7, c * groups)).astype(np.float32)
  kernel = rng.normal(size=(4, c, c, groups)).astype(np.float32)
  expected = _slow_grouped(x_btc, kernel, shifts)
  np.testing.assert_allclose(
    _grouped_conv(x_btc, kernel, shifts), expected, atol=1e-5
  )
  # The function is bilinear: its directional derivatives are itself.
  dy = rng.normal(size=x_btc.shape).astype(np.float32)
  dx, dw = _pull(x_btc, kernel, dy, shifts)
  for _ in range(3):
    vx = rng.normal(size=x_btc.shape).astype(np.float32)
    vw = rng.normal(size=kernel.shape).astype(np.float32)
    left = np.sum(dx * vx) + np.sum(dw * vw)
    right = np.sum(dy * _slow_grouped(vx, kernel, shifts))
    right += np.sum(dy * _slow_grouped(x_btc, vw, shifts))
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def _by_data_init(module, x_btc, len_b, place_uk):
  key = jax.random.key(1)
  return module.init(key, x_btc, len_b, place_uk, None)['params']


@functools.partial(jax.jit, static_argnums=0)
def _square_gradient(module, params, x_btc, len_b, place_uk):
  def objective(params):
    y_btc = module.apply({'params': params}, x_btc, len_b, place_uk, None)
    return jnp.sum(jnp.square(y_btc))

  return jax.grad(objective)(params)


@pytest.mark.parametrize('op', ops.CONVOLUTIONS)
def test_convolution_by_data_equals_the_static_one(op):
  rng = np.random.default_rng(0)
  x_btc = rng.normal(size=(2, 19, 8)).astype(np.float32)
  len_b = jnp.array([19, 12])
  fixed = ops.OPS[op](8, 4, 0.0, 0)
  by_data = ops.Conv(8, 4, 0.0, 0)
  place_uk = ops.placement(op)
  params = _by_data_init(by_data, x_btc, len_b, place_uk)
  taps = ops.CONVOLUTIONS[op][0]
  kernel = params['kernel']
  assert not np.any(kernel[taps:])
  cut = {'kernel': kernel[:taps], 'bias': params['bias']}
  y1 = _apply(by_data, params, x_btc, len_b, place_uk)
  y2 = _apply(fixed, cut, x_btc, len_b)
  np.testing.assert_allclose(y1, y2, atol=1e-5)
  gradient = _square_gradient(by_data, params, x_btc, len_b, place_uk)['kernel']
  assert np.any(gradient[:taps]) and not np.any(gradient[taps:])


def test_clipping_at_twenty():
  x = jnp.array([-1.0, 0.5, 19.0, 21.0])
  np.testing.assert_array_equal(ops.clipped_relu(x), [0, 0.5, 19, 20])


def test_lstm_against_a_plain_loop():
  rng = np.random.default_rng(2)
  x_btc = rng.normal(size=(2, 6, 5)).astype(np.float32)
  lstm = ops.LSTM(4)
  params = jax.jit(lstm.init)(jax.random.key(0), x_btc)
  wx, wh, bias = (
    np.asarray(params['params'][name])
    for name in ('input_kernel', 'recurrent_kernel', 'bias')
  )

  def sigmoid(z):
    return 1 / (1 + np.exp(-z))

  h, c = np.zeros((2, 4)), np.zeros((2, 4))
  expected = []
  for t in range(6):
    z = x_btc[:, t] @ wx + h @ wh + bias
    i, f, g, o = z[:, :4], z[:, 4:8], z[:, 8:12], z[:, 12:]
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    expected.append(h)
  y_btc = jax.jit(lstm.apply)(params, x_btc)
  np.testing.assert_allclose(y_btc, np.stack(expected, 1), atol=1e-5)
