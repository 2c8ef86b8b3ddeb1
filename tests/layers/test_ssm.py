"""Tests of nasjax/layers/ssm.py against the recurrence in complex float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.layers import modules, ssm

CHANNELS = 6


def speech(seed=0, frames=30):
  x_btc = np.random.default_rng(seed).normal(size=(3, frames, CHANNELS))
  return x_btc.astype(np.float32), np.array([frames, frames // 2, 1])


def init(module, x_btc, len_b):
  """Parameters, all of them away from where they begin."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32),
    jax.jit(module.init)(jax.random.key(0), x_btc, len_b),
  )


@functools.partial(jax.jit, static_argnames='module')
def apply(module, params, x_btc, len_b, state=None):
  return module.apply(params, x_btc, len_b, state=state)


def s4d_by_recurrence(params, x_tc):
  """The definition: one complex state after the other."""
  p = {k: np.asarray(v, np.float64) for k, v in params['params'].items()}
  a_cn = -np.exp(p['log_decay']) + 1j * p['frequency']
  step_c1 = np.exp(p['log_step'])
  c_cn = p['output'][..., 0] + 1j * p['output'][..., 1]
  h_cn, ys = np.zeros_like(a_cn), []
  for x_c in x_tc.astype(np.float64):
    h_cn = np.exp(step_c1 * a_cn) * h_cn
    h_cn = h_cn + (np.exp(step_c1 * a_cn) - 1) / a_cn * x_c[:, None]
    ys.append(2 * (c_cn * h_cn).sum(axis=1).real + p['skip'] * x_c)
  return np.array(ys)


def test_both_forms_are_the_recurrence():
  x_btc, len_b = speech(frames=200)
  len_b = np.array([200, 100, 1])
  params = init(ssm.S4D(8), x_btc, len_b)
  for form in ssm.FORMS:
    y_btc = apply(ssm.S4D(8, form), params, x_btc, len_b)
    for b, frames in enumerate(len_b):
      expected = s4d_by_recurrence(params, x_btc[b, :frames])
      np.testing.assert_allclose(y_btc[b, :frames], expected, atol=1e-5)


def test_parameters_begin_where_they_should():
  start = jax.jit(ssm.S4D(8).init)(jax.random.key(3), *speech())['params']
  np.testing.assert_allclose(np.exp(start['log_decay']), 0.5, rtol=1e-6)
  np.testing.assert_allclose(
    start['frequency'], np.pi * np.arange(4)[None] * np.ones((CHANNELS, 1)),
    rtol=1e-6,
  )  # fmt: skip
  steps = np.exp(start['log_step'])
  assert steps.min() >= 1e-3 and steps.max() <= 1e-1 and np.ptp(steps) > 0


def test_reversal_knows_lengths():
  x_btc = np.arange(12).reshape(2, 6, 1)
  turned = ssm.reverse(x_btc, np.array([4, 0]))[:, :, 0]
  np.testing.assert_array_equal(
    turned, [[3, 2, 1, 0, 4, 5], [6, 7, 8, 9, 10, 11]]
  )


MODULES = {
  'gated': ssm.MHSSM(heads=2, gate='sigmoid', states=4, depth=1),
  'layer': ssm.SSMLayer(5, states=4),
  'causal': ssm.MHSSM(heads=3, states=4, depth=1, causal=True),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', MODULES)
def test_padding_changes_nothing_and_the_recurrence_is_the_convolution(name):
  module = MODULES[name]
  x_btc, len_b = speech()
  params = init(module, x_btc, len_b)
  y_btc = np.asarray(apply(module, params, x_btc, len_b))
  recurrent_btc = apply(module.clone(form='scan'), params, x_btc, len_b)
  x_btc[np.arange(30)[None] >= len_b[:, None]] = np.nan
  again_btc = apply(module, params, x_btc, len_b)
  for row, frames in enumerate(len_b):
    valid = np.s_[row, :frames]
    np.testing.assert_array_equal(again_btc[valid], y_btc[valid])
    np.testing.assert_allclose(recurrent_btc[valid], y_btc[valid], atol=1e-5)
  assert np.std(y_btc[0]) > 0.01


def test_padding_reaches_no_gradient():
  module = MODULES['gated']
  x_btc, len_b = speech()
  params = init(module, x_btc, len_b)

  @jax.jit
  @jax.grad
  def grad(params, x_btc):
    y_btc = module.apply(params, x_btc, len_b)
    return modules.mask_frames(y_btc, len_b).sum()

  whole = grad(params, x_btc)
  x_btc[np.arange(30)[None] >= len_b[:, None]] = np.nan
  jax.tree.map(np.testing.assert_array_equal, grad(params, x_btc), whole)


@pytest.mark.slow
def test_an_utterance_of_a_batch_is_as_if_alone():
  x_btc, len_b = speech()
  module = ssm.SSM(4)
  params = init(module, x_btc, len_b)
  run = jax.jit(module.apply)
  y_btc = run(params, x_btc, len_b)
  b, frames = 1, len_b[1]
  alone_btc = run(params, x_btc[b : b + 1, :frames], len_b[b : b + 1])
  np.testing.assert_allclose(y_btc[b, :frames], alone_btc[0], atol=1e-5)


@pytest.mark.parametrize(
  'form', ['fft', pytest.param('scan', marks=pytest.mark.slow)]
)
def test_what_is_causal_has_no_gradient_from_the_future(form):
  x_btc, len_b = speech()
  module = ssm.MHSSM(depth=1, states=4, causal=True, form=form)
  params = init(module, x_btc, len_b)

  @functools.partial(jax.jit, static_argnames='module')
  def grad(module, params, x_btc):
    return jax.grad(lambda x: module.apply(params, x, len_b)[0, 9].sum())(x_btc)

  grad_btc = np.abs(grad(module, params, x_btc))
  assert (grad_btc[0, :10] > 0).all()
  # A transform of Fourier leaves rounding, a recurrence nothing.
  bound = 1e-6 if form == 'fft' else 0
  assert grad_btc[0, 10:].max() <= bound and (grad_btc[1:] == 0).all()
  if form == 'scan':
    both = ssm.MHSSM(depth=1, states=4)
    params = init(both, x_btc, len_b)
    assert (np.abs(grad(both, params, x_btc))[0] > 0).all()


@pytest.mark.slow
def test_streaming_pieces_are_the_whole():
  x_btc, _ = speech()
  len_b = np.array([30, 30, 17])
  module = ssm.SSMLayer(5, heads=2, gate='sigmoid', states=4, causal=True)
  params = init(module, x_btc, len_b)
  expected_btc = apply(module, params, x_btc, len_b)
  streaming = module.clone(form='scan')
  state, pieces = ssm.initial_state(module, 3, CHANNELS), []
  for start in range(0, 30, 10):
    left_b = np.clip(len_b - start, 0, 10)
    piece = x_btc[:, start : start + 10]
    y_btc, state = apply(streaming, params, piece, left_b, state)
    pieces.append(y_btc)
  found_btc = np.concatenate(pieces, axis=1)
  np.testing.assert_allclose(found_btc, expected_btc, atol=1e-5)


@pytest.mark.slow
def test_dropout_needs_a_key():
  x_btc, len_b = speech()
  module = ssm.SSMLayer(5, states=4, rate=0.5)
  params = init(module, x_btc, len_b)
  run = jax.jit(lambda key: module.apply(params, x_btc, len_b, key))
  dropped = run(jnp.array([1, 2], jnp.uint32))
  again = run(jnp.array([1, 2], jnp.uint32))
  np.testing.assert_array_equal(dropped, again)
  plain = apply(module.clone(rate=0.0), params, x_btc, len_b)
  assert not np.allclose(dropped, plain, atol=1e-2)
  np.testing.assert_array_equal(apply(module, params, x_btc, len_b), plain)


@pytest.mark.parametrize(
  'module, words',
  [
    (ssm.MHSSM(heads=4), '4 heads do not share 6'),
    (ssm.MHSSM(heads=3, gate='sigmoid'), 'even number'),
    (ssm.MHSSM(gate='relu'), "gate is 'relu'"),
    (ssm.S4D(form='loop'), "form is 'loop'"),
    (ssm.MHSSM(states=7), 'states is 7; it must be even'),
  ],
)
def test_bad_attributes_are_named(module, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(module.init, jax.random.key(0), *speech())


def test_what_keeps_no_state_says_so():
  x_btc, len_b = speech()
  for module, words in (
    (ssm.MHSSM(form='scan'), 'causal=True'),
    (ssm.MHSSM(causal=True), "take 'scan'"),
  ):
    state = ssm.initial_state(module, 3, CHANNELS)
    with pytest.raises(ValueError, match=words):
      jax.eval_shape(module.init, jax.random.key(0), x_btc, len_b, state)
