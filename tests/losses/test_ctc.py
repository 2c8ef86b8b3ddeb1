"""Tests of nasjax/losses/ctc.py against all paths, and against optax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transcripts import every_transcript, log_softmax

from nasjax.losses import ctc


def nll_by_enumeration(logits_tv, labels, blank=0):
  logprobs_tv = log_softmax(np.asarray(logits_tv, np.float64))
  frames, vocabulary = logprobs_tv.shape
  total = -np.inf
  for path in itertools.product(range(vocabulary), repeat=frames):
    if [v for v, _ in itertools.groupby(path) if v != blank] == list(labels):
      total = np.logaddexp(total, logprobs_tv[np.arange(frames), path].sum())
  return -total


def nll_by_recursion(logits_tv, labels, blank=0):
  """The forward recursion over 2U + 1 states in float64."""
  logprobs_tv = log_softmax(np.asarray(logits_tv, np.float64))
  states = [blank, *(s for label in labels for s in (label, blank))]
  alpha = np.full(len(states), -np.inf)
  alpha[0] = 0.0
  for t, logprobs_v in enumerate(logprobs_tv):
    new = np.full(len(states), -np.inf)
    for s, symbol in enumerate(states):
      sources = [alpha[s]]
      if s > 0 and (t > 0 or s == 1):
        sources.append(alpha[s - 1])
      if t > 0 and s > 1 and symbol not in (blank, states[s - 2]):
        sources.append(alpha[s - 2])
      new[s] = np.logaddexp.reduce(sources) + logprobs_v[symbol]
    alpha = new
  return -np.logaddexp.reduce(alpha[-2:])


def nll_by_optax(logits_btv, logit_len_b, labels_bu, label_len_b):
  frames, labels = logits_btv.shape[1], labels_bu.shape[1]
  return optax.ctc_loss(
    logits_btv,
    (jnp.arange(frames)[None] >= logit_len_b[:, None]).astype(jnp.float32),
    labels_bu,
    (jnp.arange(labels)[None] >= label_len_b[:, None]).astype(jnp.float32),
  )


@jax.jit
def loss_and_grad(logits_btv, logit_len_b, labels_bu, label_len_b):
  def total(logits_btv):
    nll_b, feasible_b = ctc.ctc_loss(
      logits_btv, logit_len_b, labels_bu, label_len_b
    )
    return nll_b.sum(), (nll_b, feasible_b)

  grad_btv, (nll_b, feasible_b) = jax.grad(total, has_aux=True)(logits_btv)
  return nll_b, feasible_b, grad_btv


def example(seed=0, batch=6, frames=20, labels=6, vocabulary=8):
  rng = np.random.default_rng(seed)
  return (
    rng.normal(size=(batch, frames, vocabulary)).astype(np.float32) * 2,
    rng.integers(frames - 6, frames + 1, batch).astype(np.int32),
    rng.integers(1, vocabulary, (batch, labels)).astype(np.int32),
    rng.integers(1, labels + 1, batch).astype(np.int32),
  )


@pytest.fixture(scope='module')
def tiny():
  """Every transcript of up to 3 of 2 labels, in 4, 3, 2, 1 or 0 frames."""
  rows, labels_bu, label_len_b = every_transcript(symbols=2, longest=3)
  rows = rows * 5
  logit_len_b = np.repeat(np.arange(5, dtype=np.int32), len(rows) // 5)
  rng = np.random.default_rng(0)
  logits_btv = rng.normal(size=(len(rows), 4, 3)).astype(np.float32) * 3
  inputs = (
    logits_btv,
    logit_len_b,
    np.tile(labels_bu, (5, 1)),
    np.tile(label_len_b, 5),
  )
  return rows, inputs, jax.tree.map(np.asarray, loss_and_grad(*inputs))


def test_loss_equals_enumeration(tiny):
  rows, (logits_btv, logit_len_b, _, _), (nll_b, feasible_b, _) = tiny
  expected = np.array(
    [
      nll_by_enumeration(logits_tv[:frames], labels)
      for logits_tv, frames, labels in zip(logits_btv, logit_len_b, rows)
    ]
  )
  np.testing.assert_array_equal(feasible_b, np.isfinite(expected))
  assert 0 < feasible_b.sum() < feasible_b.size
  expected = np.where(feasible_b, expected, 0.0)
  np.testing.assert_allclose(nll_b, expected, rtol=2e-6, atol=2e-6)


def test_gradient_equals_finite_differences(tiny):
  rows, (logits_btv, logit_len_b, _, _), (_, feasible_b, grad_btv) = tiny
  step = 1e-5
  for b in np.flatnonzero(feasible_b & (logit_len_b >= 3))[::3]:
    frames = logit_len_b[b]
    for t, v in itertools.product(range(frames), range(3)):
      high = logits_btv[b, :frames].astype(np.float64)
      low = high.copy()
      high[t, v] += step
      low[t, v] -= step
      slope = nll_by_enumeration(high, rows[b])
      slope = (slope - nll_by_enumeration(low, rows[b])) / (2 * step)
      np.testing.assert_allclose(grad_btv[b, t, v], slope, atol=2e-6)
    assert (grad_btv[b, frames:] == 0).all()


def test_infeasible_pairs_give_exactly_nothing(tiny):
  _, _, (nll_b, feasible_b, grad_btv) = tiny
  assert (nll_b[~feasible_b] == 0).all()
  assert (grad_btv[~feasible_b] == 0).all()


def test_loss_and_gradient_equal_optax():
  inputs = example()
  nll_b, feasible_b, grad_btv = loss_and_grad(*inputs)
  assert feasible_b.all()
  expected = jax.jit(
    jax.value_and_grad(lambda x: nll_by_optax(x, *inputs[1:]).sum())
  )(inputs[0])
  np.testing.assert_allclose(nll_b.sum(), expected[0], rtol=1e-5)
  np.testing.assert_allclose(grad_btv, expected[1], atol=2e-5)


def test_long_and_confident_utterances_keep_their_precision():
  rng = np.random.default_rng(3)
  logits_btv = rng.normal(size=(3, 300, 5)).astype(np.float32)
  logits_btv *= np.array([0.1, 5.0, 60.0], np.float32)[:, None, None]
  labels_bu = rng.integers(1, 5, (3, 60)).astype(np.int32)
  len_b, label_len_b = np.full(3, 300), np.full(3, 60)
  nll_b, feasible_b, grad_btv = loss_and_grad(
    logits_btv, len_b, labels_bu, label_len_b
  )
  assert feasible_b.all()
  expected = [nll_by_recursion(*pair) for pair in zip(logits_btv, labels_bu)]
  np.testing.assert_allclose(nll_b, expected, rtol=2e-5)
  # A softmax less a posterior: no frame's gradient has a sum.
  np.testing.assert_allclose(grad_btv.sum(axis=2), 0.0, atol=1e-6)


def test_certain_transcripts_have_no_negative_loss():
  inputs = example(seed=5)
  logits_btv, logit_len_b, labels_bu, label_len_b = inputs
  for b, (labels, count) in enumerate(zip(labels_bu, label_len_b)):
    path = [s for label in labels[:count] for s in (label, 0)]
    path += [0] * (logits_btv.shape[1] - len(path))
    logits_btv[b, np.arange(len(path)), path] += 40
  nll_b, _, grad_btv = loss_and_grad(*inputs)
  assert (nll_b >= 0).all() and (nll_b < 1e-4).all()
  assert np.abs(grad_btv).max() < 1e-4


@pytest.mark.parametrize('garbage', [7.0, np.nan, np.inf, -np.inf])
def test_padding_changes_nothing(garbage):
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  nll_b, _, grad_btv = loss_and_grad(*example())
  # A shape that other tests use as well, so that nothing is compiled again.
  beyond_bt = np.arange(20)[None] >= logit_len_b[:, None]
  assert beyond_bt.any()
  logits_btv[beyond_bt] = garbage
  beyond_bu = np.arange(6)[None] >= label_len_b[:, None]
  assert beyond_bu.any()
  labels_bu[beyond_bu] = -1 if np.isnan(garbage) else 99
  padded = loss_and_grad(logits_btv, logit_len_b, labels_bu, label_len_b)
  np.testing.assert_array_equal(padded[0], nll_b)
  np.testing.assert_array_equal(padded[2], grad_btv)


def test_longer_padding_changes_nothing():
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  nll_b, _, grad_btv = loss_and_grad(*example())
  padded_nll_b, feasible_b, padded_grad_btv = loss_and_grad(
    np.pad(logits_btv, ((0, 0), (0, 9), (0, 0)), constant_values=np.nan),
    logit_len_b,
    np.pad(labels_bu, ((0, 0), (0, 5)), constant_values=3),
    label_len_b,
  )
  assert feasible_b.all()
  np.testing.assert_allclose(padded_nll_b, nll_b, rtol=1e-6)
  np.testing.assert_allclose(padded_grad_btv[:, :20], grad_btv, atol=1e-6)
  assert (padded_grad_btv[:, 20:] == 0).all()


def test_vmap_equals_the_loop():
  logits_btv, *rest = example()
  logits_pbtv = np.stack([logits_btv, -logits_btv, 0.3 * logits_btv])
  mapped = jax.vmap(loss_and_grad, in_axes=(0, None, None, None))(
    logits_pbtv, *rest
  )
  for p, logits_btv in enumerate(logits_pbtv):
    alone = loss_and_grad(logits_btv, *rest)
    np.testing.assert_allclose(mapped[0][p], alone[0], rtol=1e-6)
    np.testing.assert_allclose(mapped[2][p], alone[2], atol=1e-6)


def test_a_broken_row_leaves_the_others_alone():
  inputs = example()
  nll_b, _, grad_btv = loss_and_grad(*inputs)
  inputs[0][2, 3, 4] = np.nan
  inputs[0][4, 0, 1] = np.inf
  broken_nll_b, feasible_b, broken_grad_btv = loss_and_grad(*inputs)
  assert feasible_b.all()
  np.testing.assert_array_equal(
    np.isnan(broken_nll_b), [False, False, True, False, True, False]
  )
  others = np.array([0, 1, 3, 5])
  np.testing.assert_array_equal(broken_nll_b[others], nll_b[others])
  np.testing.assert_array_equal(broken_grad_btv[others], grad_btv[others])


@pytest.mark.parametrize('label', [-1, 0, 8, 99])
def test_what_is_no_label_makes_the_loss_nan(label):
  inputs = example()
  nll_b, _, _ = loss_and_grad(*inputs)
  inputs[2][3, 0] = label
  bad_nll_b, _, bad_grad_btv = loss_and_grad(*inputs)
  others = np.arange(6) != 3
  assert np.isnan(bad_nll_b[3]) and np.isnan(bad_grad_btv[3]).any()
  np.testing.assert_array_equal(bad_nll_b[others], nll_b[others])
  assert np.isfinite(bad_grad_btv[others]).all()


def test_forbidden_labels_make_the_loss_infinite():
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  logits_btv[0, :, labels_bu[0, 0]] = -np.inf
  logits_btv[1, 3, labels_bu[1, 0]] = -np.inf
  nll_b, _, grad_btv = loss_and_grad(
    logits_btv, logit_len_b, labels_bu, label_len_b
  )
  assert nll_b[0] == np.inf and np.isfinite(nll_b[1:]).all()
  assert np.isfinite(grad_btv[1:]).all()
  expected = nll_by_recursion(
    np.maximum(logits_btv[1, : logit_len_b[1]], -1e9),
    labels_bu[1, : label_len_b[1]],
  )
  np.testing.assert_allclose(nll_b[1], expected, rtol=1e-5)


def test_second_derivatives_follow_the_first():
  logits_btv, *rest = example()
  direction_btv = example(seed=9)[0] / 4
  curvature_btv = jax.jit(
    lambda x: jax.jvp(
      jax.grad(lambda x: ctc.ctc_loss(x, *rest)[0].sum()),
      (x,),
      (direction_btv,),
    )[1]
  )(logits_btv)
  step = 0.02
  high_btv = loss_and_grad(logits_btv + step * direction_btv, *rest)[2]
  low_btv = loss_and_grad(logits_btv - step * direction_btv, *rest)[2]
  slope_btv = (high_btv - low_btv) / (2 * step)
  assert np.abs(slope_btv).max() > 0.3
  np.testing.assert_allclose(curvature_btv, slope_btv, atol=5e-4)


def test_any_blank_and_any_float_type():
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  nll_b, _, _ = loss_and_grad(logits_btv, logit_len_b, labels_bu, label_len_b)
  rolled, feasible_b = jax.jit(ctc.ctc_loss, static_argnames='blank')(
    jnp.roll(logits_btv, -1, axis=2),
    logit_len_b,
    labels_bu - 1,
    label_len_b,
    blank=7,
  )
  assert feasible_b.all()
  np.testing.assert_allclose(rolled, nll_b, rtol=1e-6)
  half_btv = jnp.asarray(logits_btv, jnp.bfloat16)
  half = loss_and_grad(half_btv, logit_len_b, labels_bu, label_len_b)
  full = loss_and_grad(
    half_btv.astype(jnp.float32), logit_len_b, labels_bu, label_len_b
  )
  assert half[0].dtype == jnp.float32 and half[2].dtype == jnp.bfloat16
  np.testing.assert_allclose(half[0], full[0], rtol=1e-6)


@jax.jit
def mean_and_grad(logits_btv, logit_len_b, labels_bu, label_len_b, weight_b):
  return jax.value_and_grad(ctc.mean_ctc_loss)(
    logits_btv, logit_len_b, labels_bu, label_len_b, weight_b
  )


def test_mean_is_over_the_feasible_rows_with_weight():
  logits_btv, logit_len_b, labels_bu, label_len_b = inputs = example()
  logit_len_b[1], label_len_b[1] = 1, 4
  label_len_b[3] = 0
  logits_btv[5] = np.nan
  weight_b = np.array([1, 1, 2, 1, 1, 0], np.float32)
  nll_b, feasible_b, _ = map(np.asarray, loss_and_grad(*inputs))
  np.testing.assert_array_equal(feasible_b, [1, 0, 1, 1, 1, 1])
  counted = np.array([0, 2, 2, 3, 4])
  divisors = {
    'frames_plus_one': logit_len_b + 1,
    'labels': np.maximum(label_len_b, 1),
    'none': np.ones(6),
  }
  means = jax.jit(
    lambda: [ctc.mean_ctc_loss(*inputs, weight_b, name) for name in divisors]
  )()
  for mean, divisor_b in zip(means, divisors.values()):
    np.testing.assert_allclose(
      mean, (nll_b / divisor_b)[counted].mean(), rtol=1e-6
    )
  mean, grad_btv = mean_and_grad(*inputs, weight_b)
  np.testing.assert_allclose(mean, means[0], rtol=1e-6)
  assert np.isfinite(grad_btv).all()
  assert (grad_btv[np.array([1, 5])] == 0).all()
  assert (np.abs(grad_btv[counted]).max(axis=(1, 2)) > 0).all()


def test_mean_of_nothing_is_zero():
  logits_btv, logit_len_b, labels_bu, label_len_b = inputs = example()
  for mean, grad_btv in (
    mean_and_grad(*inputs, np.zeros(6, np.float32)),
    mean_and_grad(
      logits_btv,
      0 * logit_len_b,
      labels_bu,
      label_len_b,
      np.ones(6, np.float32),
    ),
  ):
    assert mean == 0 and (grad_btv == 0).all()


def test_no_labels_at_all_and_no_frames_at_all():
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  nll_b, feasible_b = ctc.ctc_loss(
    logits_btv, logit_len_b, labels_bu[:, :0], 0 * label_len_b
  )
  expected = [
    -log_softmax(logits_tv[:frames])[:, 0].sum()
    for logits_tv, frames in zip(logits_btv, logit_len_b)
  ]
  assert feasible_b.all()
  np.testing.assert_allclose(nll_b, expected, rtol=1e-5)
  nll_b, feasible_b = ctc.ctc_loss(
    logits_btv[:, :0], 0 * logit_len_b, labels_bu, 0 * label_len_b
  )
  assert feasible_b.all() and (nll_b == 0).all()


def test_lengths_of_any_integer_type():
  # 200 labels, all repeats of one, take 399 frames: 8 bits do not hold those.
  rng = np.random.default_rng(0)
  logits_btv = rng.normal(size=(2, 400, 3)).astype(np.float32)
  labels_bu = np.full((2, 200), 2)
  expected = ctc.ctc_loss(logits_btv, [400, 200], labels_bu, [200, 100])
  assert expected[1].all() and np.isfinite(expected[0]).all()
  found = ctc.ctc_loss(
    logits_btv, [400, 200], labels_bu.astype(np.uint8), np.uint8([200, 100])
  )
  np.testing.assert_array_equal(found, expected)


def test_required_frames_counts_repeats_within_the_transcript():
  labels_bu = np.array([[1, 1, 1, 2], [1, 2, 1, 1], [3, 3, 3, 3]])
  np.testing.assert_array_equal(
    ctc.required_frames(labels_bu, np.array([4, 3, 0])), [6, 3, 0]
  )


def test_bad_arguments_are_named():
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  with pytest.raises(ValueError, match='shapes of logits'):
    ctc.ctc_loss(logits_btv, logit_len_b[:2], labels_bu, label_len_b)
  with pytest.raises(ValueError, match='shapes of logits'):
    ctc.ctc_loss(0.0, logit_len_b, labels_bu, label_len_b)
  with pytest.raises(ValueError, match='blank is 8'):
    ctc.ctc_loss(logits_btv, logit_len_b, labels_bu, label_len_b, blank=8)
  with pytest.raises(ValueError, match="normalise is 'frames'"):
    ctc.mean_ctc_loss(
      logits_btv, logit_len_b, labels_bu, label_len_b, normalise='frames'
    )
