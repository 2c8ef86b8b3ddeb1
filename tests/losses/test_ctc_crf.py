"""Tests of nasjax/losses/ctc_crf.py against sums over all paths."""

import functools
import itertools

import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
from transcripts import every_transcript, log_softmax

from nasjax import kernels
from nasjax.losses import ctc, ctc_crf, ngram

SYMBOLS = 4
MODELS = ('bigram', 'trigram', 'pruned', 'unsmoothed')
# A bigram has no native kernel.
WAYS = [(name, 'xla') for name in MODELS]
WAYS += [
  pytest.param(name, 'native', marks=native.needed) for name in MODELS[1:]
]
each_way = pytest.mark.parametrize('name, kind', WAYS)


@functools.cache
def model(name, symbols=SYMBOLS):
  rng = np.random.default_rng(7)
  drawn = [
    rng.integers(1, symbols, rng.integers(1, 7)) for _ in range(5 * symbols)
  ]
  drawn += [np.array([1, 1]), np.array([2]), np.array([], int)]
  if name in ('bigram', 'trigram'):
    return ngram.estimate(drawn, symbols, 2 + (name == 'trigram'))
  return ngram.estimate_pruned(
    drawn, symbols, 4, symbols, smoothed=name == 'pruned'
  )


@functools.cache
def denominator(name, symbols=SYMBOLS):
  return ctc_crf.denominator(model(name, symbols))


def log_z_by_enumeration(logits_tv, lm):
  """log Z, and how probable each symbol is in each frame."""
  logprobs_tv = log_softmax(np.asarray(logits_tv, np.float64))
  frames = np.arange(len(logprobs_tv))
  score = functools.cache(lambda labels: ngram.log_prob(lm, labels))
  symbols = range(logprobs_tv.shape[1])
  paths = np.array(list(itertools.product(symbols, repeat=frames.size)), int)
  scores = logprobs_tv[frames, paths].sum(axis=1)
  scores += [
    score(tuple(int(v) for v, _ in itertools.groupby(path) if v))
    for path in paths
  ]
  log_z = np.logaddexp.reduce(scores)
  occupancy_tv = np.zeros_like(logprobs_tv)
  for path, weight in zip(paths, np.exp(scores - log_z)):
    occupancy_tv[frames, path] += weight
  return log_z, occupancy_tv


@functools.partial(jax.jit, static_argnames=('kind',))
def partition_and_grad(logits_btv, logit_len_b, den, kind):
  def total(logits_btv):
    log_z_b = ctc_crf.log_partition(logits_btv, logit_len_b, den, kind)
    return log_z_b.sum(), log_z_b

  grad_btv, log_z_b = jax.grad(total, has_aux=True)(logits_btv)
  return log_z_b, grad_btv


@functools.partial(jax.jit, static_argnames=('kind',))
def loss_and_grad(
  logits_btv, logit_len_b, labels_bu, label_len_b, den, ctc_weight, kind
):
  def total(logits_btv):
    loss_b, feasible_b = ctc_crf.ctc_crf_loss(
      *(logits_btv, logit_len_b, labels_bu, label_len_b, den, ctc_weight),
      kernels=kind,
    )
    return loss_b.sum(), (loss_b, feasible_b)

  grad_btv, (loss_b, feasible_b) = jax.grad(total, has_aux=True)(logits_btv)
  return loss_b, feasible_b, grad_btv


def example(seed=0, batch=11, frames=17, labels=4):
  """More utterances than a vector has lanes, of all lengths."""
  rng = np.random.default_rng(seed)
  label_len_b = rng.integers(1, labels + 1, batch).astype(np.int32)
  return (
    rng.normal(size=(batch, frames, SYMBOLS)).astype(np.float32) * 3,
    rng.integers(2 * labels, frames + 1, batch).astype(np.int32),
    rng.integers(1, SYMBOLS, (batch, labels)).astype(np.int32),
    label_len_b,
  )


def ragged_and_tiny():
  """In arrays of the shape of `example`, for one program to take both."""
  logits_btv, *_ = example(1)
  return logits_btv, np.array([6, 0, 3, 5, 1] + [0] * 6, np.int32)


@each_way
def test_partition_and_gradient_equal_enumeration(name, kind):
  logits_btv, logit_len_b = ragged_and_tiny()
  log_z_b, grad_btv = partition_and_grad(
    logits_btv, logit_len_b, denominator(name), kind
  )
  for b, frames in enumerate(logit_len_b):
    log_z, occupancy_tv = log_z_by_enumeration(
      logits_btv[b, :frames], model(name)
    )
    np.testing.assert_allclose(log_z_b[b], log_z, rtol=2e-6, atol=2e-6)
    softmax_tv = np.exp(log_softmax(logits_btv[b, :frames].astype(np.float64)))
    np.testing.assert_allclose(
      grad_btv[b, :frames], occupancy_tv - softmax_tv, atol=2e-6
    )
    assert (np.asarray(grad_btv[b, frames:]) == 0).all()


def test_gradient_equals_that_of_the_recursion():
  logits_btv, logit_len_b, _, _ = example()

  def log_z(logits_btv):
    q_btv, _ = ctc_crf._scores(logits_btv, logit_len_b)
    chunks = ctc_crf._chunks(q_btv)
    return ctc_crf._forward(denominator('trigram'), chunks)[0].sum()

  expected_btv = jax.jit(jax.grad(log_z))(logits_btv)
  _, grad_btv = partition_and_grad(
    logits_btv, logit_len_b, denominator('trigram'), 'xla'
  )
  np.testing.assert_allclose(grad_btv, expected_btv, atol=3e-6)


@each_way
def test_probabilities_of_all_transcripts_add_up_to_one(name, kind):
  frames = 4
  rows, labels_bu, label_len_b = every_transcript(SYMBOLS - 1, frames)
  rng = np.random.default_rng(2)
  logits_tv = rng.normal(size=(frames, SYMBOLS)).astype(np.float32) * 2
  logits_btv = np.tile(logits_tv, (len(rows), 1, 1))
  loss_b, feasible_b, _ = loss_and_grad(
    *(logits_btv, np.full(len(rows), frames), labels_bu, label_len_b),
    *(denominator(name), 0.0, kind),
  )
  log_lm_b = np.array([ngram.log_prob(model(name), labels) for labels in rows])
  nll_b = np.asarray(loss_b, np.float64) - log_lm_b
  feasible_b = np.asarray(feasible_b)
  assert (nll_b[feasible_b] >= -1e-6).all()
  np.testing.assert_allclose(np.exp(-nll_b[feasible_b]).sum(), 1.0, rtol=2e-6)
  assert 0 < feasible_b.sum() < len(rows)


@each_way
def test_occupancies_add_up_to_one_and_padding_has_none(name, kind):
  logits_btv, logit_len_b, _, _ = example()
  log_z_b, grad_btv = partition_and_grad(
    logits_btv, logit_len_b, denominator(name), kind
  )
  valid_bt = np.arange(17)[None] < logit_len_b[:, None]
  # Less a softmax, which has the same sum.
  np.testing.assert_allclose(grad_btv.sum(axis=2), 0.0, atol=1e-6)
  occupancy_btv = grad_btv + np.exp(log_softmax(logits_btv))
  assert (occupancy_btv[valid_bt] > -1e-6).all()
  assert (np.asarray(grad_btv)[~valid_bt] == 0).all()
  assert (np.asarray(log_z_b) < 1e-6).all()
  # The language model matters.
  assert np.abs(grad_btv).max() > 0.1


@each_way
def test_padding_changes_nothing(name, kind):
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  rest = (labels_bu, label_len_b, denominator(name), 0.1, kind)
  loss_b, _, grad_btv = loss_and_grad(logits_btv, logit_len_b, *rest)
  beyond_bt = np.arange(17)[None] >= logit_len_b[:, None]
  assert beyond_bt.any()
  for garbage in (7.0, np.nan, np.inf):
    logits_btv[beyond_bt] = garbage
    padded = loss_and_grad(logits_btv, logit_len_b, *rest)
    np.testing.assert_array_equal(padded[0], loss_b)
    np.testing.assert_array_equal(padded[2], grad_btv)
  longer_btv = np.pad(logits_btv, ((0, 0), (0, 9), (0, 0)))
  padded = loss_and_grad(longer_btv, logit_len_b, *rest)
  np.testing.assert_allclose(padded[0], loss_b, rtol=2e-6)
  np.testing.assert_allclose(padded[2][:, :17], grad_btv, atol=2e-6)


@each_way
def test_vmap_equals_the_loop(name, kind):
  logits_btv, *rest = example()
  rest += [denominator(name), 0.1]
  logits_pbtv = np.stack([logits_btv, -logits_btv, 0.3 * logits_btv])
  mapped = jax.vmap(
    functools.partial(loss_and_grad, kind=kind), in_axes=(0, *[None] * 5)
  )(logits_pbtv, *rest)
  for p, logits_btv in enumerate(logits_pbtv):
    alone = loss_and_grad(logits_btv, *rest, kind)
    np.testing.assert_allclose(mapped[0][p], alone[0], rtol=2e-6)
    np.testing.assert_allclose(mapped[2][p], alone[2], atol=2e-6)


@native.needed
@pytest.mark.parametrize('name', MODELS[1:])
def test_native_equals_xla_where_blocks_do_not_fit(name):
  """More symbols than a block, or two, have sums."""
  for symbols in (16, 31):
    rng = np.random.default_rng(symbols)
    logits_btv = rng.normal(size=(19, 23, symbols)).astype(np.float32) * 2
    logit_len_b = rng.integers(1, 24, 19).astype(np.int32)
    found, expected = (
      partition_and_grad(
        logits_btv, logit_len_b, denominator(name, symbols), kind
      )
      for kind in kernels.KINDS
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=3e-6)


@each_way
def test_long_and_confident_utterances_keep_their_precision(name, kind):
  logits_btv, *_ = example(3, batch=2, frames=400)
  logits_btv *= 5
  logit_len_b = np.array([400, 333])
  log_z_b, grad_btv = partition_and_grad(
    logits_btv, logit_len_b, denominator(name), kind
  )
  assert np.isfinite(log_z_b).all() and np.isfinite(grad_btv).all()
  np.testing.assert_allclose(grad_btv.sum(axis=2), 0.0, atol=1e-6)
  step = 0.02
  direction_btv = example(4, batch=2, frames=400)[0] / 4
  slope_b = [
    partition_and_grad(
      logits_btv + sign * step * direction_btv,
      *(logit_len_b, denominator(name), kind),
    )[0]
    for sign in (1, -1)
  ]
  expected_b = np.asarray(slope_b[0] - slope_b[1]) / (2 * step)
  found_b = np.sum(np.asarray(grad_btv) * direction_btv, axis=(1, 2))
  np.testing.assert_allclose(found_b, expected_b, rtol=5e-3, atol=0.05)


def test_loss_is_both_losses_and_grows_with_the_weight():
  inputs = example()
  nll_b, _ = ctc.ctc_loss(*inputs)
  log_z_b, _ = partition_and_grad(*inputs[:2], denominator('bigram'), 'xla')
  losses = []
  for ctc_weight in (0.0, 0.01, 0.1, 1.0):
    loss_b, feasible_b, _ = loss_and_grad(
      *inputs, denominator('bigram'), ctc_weight, 'xla'
    )
    assert feasible_b.all()
    np.testing.assert_allclose(
      loss_b, log_z_b + (1 + ctc_weight) * nll_b, rtol=1e-6
    )
    losses.append(loss_b)
  assert (np.diff(losses, axis=0) > 0).all()


@each_way
def test_certain_transcripts_have_no_gradient(name, kind):
  labels = [1, 1, 2]
  path = [1, 1, 0, 1, 2, 2, 0]
  # Each row alike, and padded as `example` is.
  logits_btv = np.zeros((11, 17, SYMBOLS), np.float32)
  logits_btv[:, np.arange(len(path)), path] = 60
  loss_b, feasible_b, grad_btv = loss_and_grad(
    *(logits_btv, np.full(11, len(path), np.int32)),
    *(np.tile(np.int32([*labels, 1]), (11, 1)), np.full(11, 3, np.int32)),
    *(denominator(name), 0.1, kind),
  )
  log_lm = ngram.log_prob(model(name), labels)
  if log_lm == -np.inf:
    # The one path there is has no sentence in the model.
    assert name == 'unsmoothed'
    return
  assert feasible_b.all()
  np.testing.assert_allclose(loss_b, log_lm, rtol=1e-5)
  np.testing.assert_allclose(grad_btv, 0.0, atol=1e-5)


@each_way
def test_what_cannot_be_gives_exactly_nothing(name, kind):
  logits_btv, logit_len_b, labels_bu, label_len_b = example()
  labels_bu[0], label_len_b[0], logit_len_b[0] = 1, 4, 5
  loss_b, feasible_b, grad_btv = loss_and_grad(
    *(logits_btv, logit_len_b, labels_bu, label_len_b),
    *(denominator(name), 0.1, kind),
  )
  np.testing.assert_array_equal(feasible_b, np.arange(11) > 0)
  assert loss_b[0] == 0 and (np.asarray(grad_btv[0]) == 0).all()
  assert (np.abs(grad_btv[1:]).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize('kind', native.KINDS)
def test_frames_without_a_sentence_are_infeasible(kind):
  # No sentence has fewer than three labels.
  lm = ngram.estimate_pruned([[1, 2, 3], [2, 3, 1, 2]], 4, smoothed=False)
  logits_btv, _, labels_bu, _ = example()
  logit_len_b = np.array([2] + [9] * 10)
  loss_b, feasible_b, grad_btv = loss_and_grad(
    *(logits_btv, logit_len_b, labels_bu, np.full(11, 1)),
    *(ctc_crf.denominator(lm), 0.1, kind),
  )
  np.testing.assert_array_equal(feasible_b, np.arange(11) > 0)
  assert loss_b[0] == 0 and (np.asarray(grad_btv[0]) == 0).all()
  assert np.isfinite(grad_btv).all() and (np.abs(grad_btv[1:]) > 0).any()


@each_way
def test_a_broken_row_leaves_the_others_alone(name, kind):
  inputs = example()
  rest = (denominator(name), 0.1, kind)
  loss_b, _, grad_btv = loss_and_grad(*inputs, *rest)
  inputs[0][2, 3, 1] = np.nan
  inputs[0][4, 0, 1] = np.inf
  broken_b, _, broken_btv = loss_and_grad(*inputs, *rest)
  is_broken_b = np.isin(np.arange(11), [2, 4])
  np.testing.assert_array_equal(np.isnan(broken_b), is_broken_b)
  np.testing.assert_array_equal(broken_b[~is_broken_b], loss_b[~is_broken_b])
  np.testing.assert_array_equal(
    broken_btv[~is_broken_b], grad_btv[~is_broken_b]
  )


@each_way
def test_half_precision_is_raised_first(name, kind):
  logits_btv, logit_len_b, _, _ = example()
  half_btv = jnp.asarray(logits_btv, jnp.bfloat16)
  half = partition_and_grad(half_btv, logit_len_b, denominator(name), kind)
  full = partition_and_grad(
    half_btv.astype(jnp.float32), logit_len_b, denominator(name), kind
  )
  assert half[0].dtype == jnp.float32 and half[1].dtype == jnp.bfloat16
  np.testing.assert_allclose(half[0], full[0], rtol=1e-6)


def test_mean_is_over_the_feasible_rows_with_weight():
  inputs = example()
  logits_btv, logit_len_b, labels_bu, label_len_b = inputs
  labels_bu[1], label_len_b[1], logit_len_b[1] = 1, 4, 5
  logits_btv[5] = np.nan
  weight_b = np.ones(11, np.float32)
  weight_b[2], weight_b[5] = 2, 0
  den = denominator('bigram')
  loss_b, feasible_b, _ = map(
    np.asarray, loss_and_grad(*inputs, den, 0.1, 'xla')
  )
  counted = [b for b in (*range(11), 2) if b not in (1, 5)]
  divisors = {
    'frames_plus_one': logit_len_b + 1,
    'labels': label_len_b,
    'none': np.ones(11),
  }
  means_and_grads = jax.jit(
    lambda x: [
      jax.value_and_grad(ctc_crf.mean_ctc_crf_loss)(
        *(x, *inputs[1:], den, 0.1, weight_b, normalise), kernels='xla'
      )
      for normalise in divisors
    ]
  )(logits_btv)
  for (mean, grad_btv), divisor_b in zip(means_and_grads, divisors.values()):
    np.testing.assert_allclose(
      mean, (loss_b / divisor_b)[counted].mean(), rtol=1e-6
    )
    assert np.isfinite(grad_btv).all()
    assert (np.asarray(grad_btv)[np.array([1, 5])] == 0).all()
  assert not feasible_b[1]


def test_bad_arguments_are_named():
  inputs = example()
  with pytest.raises(ValueError, match='order 4'):
    ctc_crf.denominator(ngram.estimate([[1]], 4, 4))
  with pytest.raises(ValueError, match='4 symbols and the language model 7'):
    ctc_crf.ctc_crf_loss(*inputs, denominator('pruned', 7))
  with pytest.raises(ValueError, match='shapes of logits and lengths'):
    ctc_crf.log_partition(inputs[0], inputs[1][:3], denominator('bigram'))
  with pytest.raises(ValueError, match="kernels is 'fast'"):
    ctc_crf.log_partition(*inputs[:2], denominator('bigram'), 'fast')
  with pytest.raises(ValueError, match="normalise is 'frames'"):
    ctc_crf.mean_ctc_crf_loss(
      *inputs, denominator('bigram'), normalise='frames'
    )
