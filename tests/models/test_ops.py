import functools

import chex
import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
import reference
import torch_weights

from nasjax.layers import custom_vjps, dropout, modules
from nasjax.models.nb_asr import ops

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


@functools.partial(jax.jit, static_argnums=0)
def _conv_pulled(module, params, x_btc, len_b, place_uk, key, dy_btc):
  def apply(params, x_btc):
    return module.apply({'params': params}, x_btc, len_b, place_uk, key)

  y_btc, pull = jax.vjp(apply, params, x_btc)
  return y_btc, *pull(dy_btc)


def _native_equals_xla(c, groups, taps, place_uk=None, **fields):
  """Compares values and gradients; returns those of the kernel."""
  rng = np.random.default_rng(c)
  x_btc, dy_btc = rng.normal(size=(2, 4, 19, c * groups)).astype(np.float32)
  len_b = np.array([19, 12, 0, 1])
  x_btc[np.arange(19) >= len_b[:, None]] = np.nan
  params = {
    'kernel': rng.normal(size=(taps, c, c, groups)).astype(np.float32),
    'bias': rng.normal(size=c * groups).astype(np.float32),
  }
  results = []
  for kind in ('xla', 'native'):
    module = ops.Conv(c * groups, groups, 0.2, 5, kind, **fields)
    key = np.array([7, 8], np.uint32)
    results.append(
      _conv_pulled(module, params, x_btc, len_b, place_uk, key, dy_btc)
    )
  chex.assert_trees_all_close(
    *results,
    rtol=1e-5,
    atol=1e-4,
  )
  _, gradients, dx_btc = results[1]
  assert np.any(dx_btc[1, :12]) and not np.any(dx_btc[1, 12:])
  return gradients['kernel']


@native.needed
@pytest.mark.parametrize(
  'op, c', [('conv5', 1), ('conv5d2', 2), ('conv7', 3), ('conv7d2', 6)]
)
def test_native_convolution_equals_xla(op, c):
  gradient = _native_equals_xla(c, 5, ops.CONVOLUTIONS[op][0], op=op)
  assert np.all(gradient)


@native.needed
@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('op', ops.CONVOLUTIONS)
def test_native_convolution_by_data_equals_xla(op, c):
  taps, place_uk = ops.CONVOLUTIONS[op][0], ops.placement(op)
  gradient = _native_equals_xla(c, 5, 7, place_uk)
  assert np.all(np.any(gradient[:taps], (1, 2, 3)))
  assert not np.any(gradient[taps:])


def test_clipping_at_twenty():
  x = jnp.array([-1.0, 0.5, 19.0, 21.0])
  np.testing.assert_array_equal(ops.clipped_relu(x), [0, 0.5, 19, 20])


@functools.partial(jax.jit, static_argnums=(0, 4))
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, None))
def _bent(function, x, key, dy, rate):
  """Value, gradient, and a gradient of the gradient, for each member."""

  def slope(x):
    y, pull = jax.vjp(lambda x: function(x, key, 4, rate), x)
    return pull(dy * y)[0], y

  (dx, y), curve = slope(x), jax.grad(lambda x: jnp.sum(slope(x)[0] * dy))(x)
  return y, dx, curve


def _plain_bend(x, key, site, rate):
  return dropout.dropout(ops.clipped_relu(x), key, site, rate)


@pytest.mark.parametrize('rate', [0, 0.2, 0.5])
def test_clip_dropout_against_its_parts(rate):
  rng = np.random.default_rng(0)
  x, dy = rng.normal(10, 15, (2, 3, 4, 9, 5)).astype(np.float32)
  assert np.all((x != 0) & (x != 20)) and np.any(x < 0) and np.any(x > 20)
  keys = jax.random.key_data(jax.random.split(jax.random.key(1), 3))
  ours = _bent(ops.clip_dropout, x, keys, dy, rate)
  plain = _bent(_plain_bend, x, keys, dy, rate)
  np.testing.assert_array_equal(ours[0], plain[0])
  for a, b in zip(ours[1:], plain[1:], strict=True):
    assert 0.2 < np.mean(a != 0) < 0.8
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_no_rate_lets_a_gradient_through_the_cap():
  x, key = jnp.full(64, 30.0), jnp.array([1, 2], jnp.uint32)

  def gradients(x):
    return [
      jax.grad(lambda x, r=r: jnp.sum(ops.clip_dropout(x, key, 0, r)))(x)
      for r in (0.01, 0.03, 0.1, 0.11, 0.2, 0.3, 0.7, 0.9)
    ]

  assert not np.any(jax.jit(gradients)(x))


def test_clip_dropout_without_a_key():
  x = jnp.array([-1.0, 0.5, 19.0, 21.0, jnp.nan])
  y, pull = jax.vjp(lambda x: ops.clip_dropout(x, None, 0, 0.5), x)
  np.testing.assert_array_equal(y, [0, 0.5, 19, 20, np.nan])
  np.testing.assert_array_equal(pull(jnp.full(5, 3.0))[0][:4], [0, 3, 3, 0])
  # A diverged member must be noticed with dropout, too.
  dropped = ops.clip_dropout(x * jnp.nan, jnp.ones(2, jnp.uint32), 0, 0.1)
  assert np.any(np.isnan(dropped))


def _curves(function, *args):
  """Value, gradients, and gradients of these, along drawn directions."""
  rng = np.random.default_rng(9)

  def slopes(*args):
    y, pull = jax.vjp(function, *args)
    return y, pull(jnp.sin(y) + 1)

  y, gradients = slopes(*args)
  along = [rng.normal(size=g.shape).astype(np.float32) for g in gradients]

  def sloping(*args):
    return sum(
      jnp.sum(g * v) for g, v in zip(slopes(*args)[1], along, strict=True)
    )

  return y, gradients, jax.grad(sloping, tuple(range(len(args))))(*args)


_curves_of = jax.jit(_curves, static_argnums=0)


def _assert_close(results, expected, rtol=1e-4, atol=2e-5):
  chex.assert_trees_all_close(
    results,
    expected,
    rtol=rtol,
    atol=atol,
  )


def _rounded(x):
  return jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)


def test_products_and_their_gradients():
  rng = np.random.default_rng(0)
  x_btk, dy_btn = rng.normal(size=(2, 2, 5, 6)).astype(np.float32)
  kernel_kn = rng.normal(size=(6, 6)).astype(np.float32)
  _assert_close(
    _curves_of(ops.matmul, x_btk, kernel_kn),
    _curves_of(lambda x, w: x @ w, x_btk, kernel_kn),
  )
  # Every factor is rounded, of the gradients' products too; no sum is.
  y, pull = jax.vjp(lambda x, w: ops.matmul(x, w, 'bfloat16'), x_btk, kernel_kn)
  x, w, dy = _rounded(x_btk), _rounded(kernel_kn), _rounded(dy_btn)
  expected = (x @ w, (dy @ w.T, jnp.einsum('btk,btn->kn', x, dy)))
  _assert_close((y, pull(dy_btn)), expected, 1e-6, 1e-5)
  assert np.max(np.abs(y - x_btk @ kernel_kn)) > 1e-3


def _plain_recurrence(z_tbh, wh_hh):
  def step(carry, z_bh):
    h_bh, c_bh = carry
    i, f, g, o = jnp.split(z_bh + h_bh @ wh_hh, 4, axis=-1)
    c_bh = jax.nn.sigmoid(f) * c_bh + jax.nn.sigmoid(i) * jnp.tanh(g)
    h_bh = jax.nn.sigmoid(o) * jnp.tanh(c_bh)
    return (h_bh, c_bh), h_bh

  zeros_bh = jnp.zeros((z_tbh.shape[1], wh_hh.shape[0]))
  return jax.lax.scan(step, (zeros_bh, zeros_bh), z_tbh)[1]


@pytest.mark.parametrize('frames', [1, 6])
def test_gradients_of_the_recurrence_against_a_plain_scan(frames):
  rng = np.random.default_rng(4)
  z_tbh = rng.normal(size=(frames, 2, 12)).astype(np.float32)
  wh_hh = rng.normal(size=(3, 12)).astype(np.float32)
  results = _curves_of(custom_vjps.recurrence, z_tbh, wh_hh)
  _assert_close(results, _curves_of(_plain_recurrence, z_tbh, wh_hh))
  assert np.any(results[1][0]) and np.any(results[1][1]) == (frames > 1)


def test_the_recurrence_maps_over_members():
  rng = np.random.default_rng(5)
  z_ptbh = rng.normal(size=(3, 4, 2, 12)).astype(np.float32)
  wh_phh = rng.normal(size=(3, 3, 12)).astype(np.float32)

  def gradients(function):
    def objective(z_tbh, wh_hh):
      return jnp.sum(jnp.square(function(z_tbh, wh_hh)))

    return jax.jit(jax.vmap(jax.grad(objective, (0, 1))))(z_ptbh, wh_phh)

  _assert_close(gradients(custom_vjps.recurrence), gradients(_plain_recurrence))


def test_lstm_against_a_plain_loop():
  rng = np.random.default_rng(2)
  x_btc = rng.normal(size=(2, 6, 5)).astype(np.float32)
  lstm = modules.LSTM(4)
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
