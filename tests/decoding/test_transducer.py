"""Tests of nasjax/decoding/transducer.py against plain loops and all labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcripts import every_transcript, log_softmax

from nasjax.decoding import transducer
from nasjax.losses import transducer as losses

SYMBOLS, WIDTH = 4, 6


def parameters(seed=0, symbols=SYMBOLS):
  rng = np.random.default_rng(seed)
  shapes = {
    'embed': (symbols, WIDTH), 'carry': (WIDTH, WIDTH), 'out': (WIDTH, symbols)
  }  # fmt: skip
  params = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  params['out'] *= 1.5
  return params


def model(params):
  """A transducer whose predictor remembers all labels."""

  def predict(state, label_b):
    hidden_bd = jnp.tanh(
      state['h'] @ params['carry'] + params['embed'][label_b]
    )
    return {'h': hidden_bd}, hidden_bd

  return transducer.Model(
    lambda rows: {'h': jnp.zeros((rows, WIDTH))},
    predict,
    lambda enc_bd, pred_bd: jnp.tanh(enc_bd + pred_bd) @ params['out'],
  )


def plain(params):
  """The same a row at a time in NumPy: predict and join of one prefix."""

  def predict(labels):
    h_d = np.zeros(WIDTH)
    for label in (0, *labels):
      h_d = np.tanh(h_d @ params['carry'] + params['embed'][label])
    return h_d

  predict = functools.cache(predict)
  return lambda enc_d, labels: log_softmax(
    np.tanh(enc_d + predict(labels)) @ params['out']
  )


def speech(batch=5, frames=5, seed=1):
  enc_btd = np.random.default_rng(seed).normal(size=(batch, frames, WIDTH))
  len_b = np.array([5, 4, 3, 1, 0])
  return enc_btd.astype(np.float32) * 2, len_b


@functools.partial(jax.jit, static_argnames=('width', 'max_labels'))
def beam_search(params, enc_btd, len_b, width, max_labels=3):
  return transducer.beam_search(
    model(params), enc_btd, len_b, width, max_labels=max_labels
  )


@functools.partial(jax.jit, static_argnames=('max_labels', 'max_per_frame'))
def greedy(params, enc_btd, len_b, max_labels=3, max_per_frame=10):
  return transducer.greedy(
    *(model(params), enc_btd, len_b),
    max_labels=max_labels,
    max_per_frame=max_per_frame,
  )


def greedy_by_loop(scores, enc_td, max_labels, max_per_frame):
  """The labels, and the log probability of their path."""
  labels, total = (), 0.0
  for enc_d in enc_td:
    said = 0
    while True:
      logprobs_v = scores(enc_d, labels)
      best = int(logprobs_v.argmax())
      if best == 0 or len(labels) == max_labels:
        total += logprobs_v[0]
        break
      total += logprobs_v[best]
      labels, said = (*labels, best), said + 1
      if said == max_per_frame:
        break
  return labels, total


def beam_by_loop(scores, enc_td, width, max_labels):
  """Alignment-length synchronous search with prefixes as keys."""
  beam, ended = {(): 0.0} if len(enc_td) else {}, {}
  for step in range(len(enc_td) + max_labels):
    new = {}
    for labels, score in beam.items():
      t = step - len(labels)
      logprobs_v = scores(enc_td[t], labels)
      if t == len(enc_td) - 1:
        ended[labels] = score + logprobs_v[0]
      else:
        new.setdefault(labels, []).append(score + logprobs_v[0])
      if len(labels) < max_labels:
        for label in range(1, SYMBOLS):
          new.setdefault((*labels, label), []).append(score + logprobs_v[label])
    new = {key: np.logaddexp.reduce(ways) for key, ways in new.items()}
    beam = dict(sorted(new.items(), key=lambda item: -item[1])[:width])
  return max(ended.items(), key=lambda item: item[1]) if ended else ((), 0.0)


def as_tuples(labels_bu, length_b):
  return [
    tuple(int(v) for v in labels_u[:n])
    for labels_u, n in zip(labels_bu, length_b)
  ]


@pytest.mark.parametrize(
  'bounds', [(3, 10), pytest.param((5, 1), marks=pytest.mark.slow)]
)
def test_greedy_is_the_plain_loop(bounds):
  enc_btd, len_b = speech()
  found, spoken = [], set()
  for seed in range(3):
    params = parameters(seed)
    labels_bu, length_b = greedy(params, enc_btd, len_b, *bounds)
    found = as_tuples(labels_bu, length_b)
    expected = [
      greedy_by_loop(plain(params), enc_td[:n], *bounds)[0]
      for enc_td, n in zip(enc_btd, len_b)
    ]
    assert found == expected
    spoken |= set(found)
    assert labels_bu.dtype == length_b.dtype == jnp.int32
    # What is beyond is blank.
    beyond_bu = np.arange(labels_bu.shape[1])[None] >= length_b[:, None]
    assert (np.asarray(labels_bu)[beyond_bu] == 0).all()
  assert len(spoken) > 4


@pytest.mark.parametrize(
  'width',
  [
    pytest.param(1, marks=pytest.mark.slow),
    2,
    pytest.param(3, marks=pytest.mark.slow),
  ],
)
def test_a_narrow_beam_is_the_plain_search(width):
  enc_btd, len_b = speech()
  for seed in range(3):
    params = parameters(seed)
    labels_bu, length_b, score_b = beam_search(params, enc_btd, len_b, width)
    for b, labels in enumerate(as_tuples(labels_bu, length_b)):
      expected = beam_by_loop(plain(params), enc_btd[b, : len_b[b]], width, 3)
      assert labels == expected[0]
      np.testing.assert_allclose(score_b[b], expected[1], rtol=1e-4, atol=1e-5)


def test_a_beam_of_all_prefixes_finds_the_best_of_all_transcripts():
  enc_btd, len_b = speech()
  rows, labels_nu, length_n = every_transcript(symbols=SYMBOLS - 1, longest=3)
  rng = np.random.default_rng(0)
  flipped = 0
  for seed in range(3):
    params = parameters(seed)
    labels_bu, length_b, score_b = beam_search(
      params, enc_btd, len_b, len(rows)
    )
    scores = plain(params)
    for b in rng.permutation(4)[:3]:
      frames = len_b[b]
      logits_ntuv = np.array(
        [
          [
            [scores(enc_d, labels[:u]) for u in range(4)]
            for enc_d in enc_btd[b]
          ]
          for labels in rows
        ]
      )
      loss_n, _ = losses.transducer_loss(
        logits_ntuv, np.full(len(rows), frames), labels_nu, length_n
      )
      best = int(np.argmin(loss_n))
      assert as_tuples(labels_bu, length_b)[b] == rows[best]
      np.testing.assert_allclose(score_b[b], -loss_n[best], rtol=1e-5)
      flipped += (
        rows[best] != greedy_by_loop(scores, enc_btd[b, :frames], 3, 10)[0]
      )
  # The best transcript is not always that of the best path.
  assert flipped


@pytest.mark.slow
def test_a_beam_of_one_is_no_less_probable_than_the_greedy_path():
  enc_btd, len_b = speech()
  same = 0
  for seed in range(3):
    params = parameters(seed)
    labels_bu, length_b, score_b = beam_search(params, enc_btd, len_b, 1)
    for b, labels in enumerate(as_tuples(labels_bu, length_b)):
      expected, total = greedy_by_loop(
        plain(params), enc_btd[b, : len_b[b]], 3, 99
      )
      assert score_b[b] >= total - 1e-4
      # It ends on the way of the greedy path.
      assert labels == expected[: len(labels)]
      same += labels == expected
  assert same > 7


def test_padding_and_company_change_nothing():
  enc_btd, len_b = speech()
  params = parameters()
  expected = beam_search(params, enc_btd, len_b, 2)
  by_path = greedy(params, enc_btd, len_b)
  enc_btd[np.arange(5)[None] >= len_b[:, None]] = np.nan
  for one, other in zip(beam_search(params, enc_btd, len_b, 2), expected):
    np.testing.assert_array_equal(one, other)
  for one, other in zip(greedy(params, enc_btd, len_b), by_path):
    np.testing.assert_array_equal(one, other)
  # One utterance is broken, the others are not.
  enc_btd[1, 0] = np.nan
  labels_bu, length_b, score_b = beam_search(params, enc_btd, len_b, 2)
  np.testing.assert_array_equal(np.isnan(score_b), np.arange(5) == 1)
  assert length_b[1] == 0 and (labels_bu[1] == 0).all()
  others = np.array([0, 2, 3, 4])
  np.testing.assert_array_equal(score_b[others], expected[2][others])
  assert greedy(params, enc_btd, len_b)[1][1] == 0
  # Without frames there is nothing to hear.
  assert length_b[4] == 0 and score_b[4] == 0


@pytest.mark.slow
def test_more_labels_than_frames():
  # A blank is said after three labels, and hardly before.
  enc_btd = np.zeros((1, 1, WIDTH), np.float32)

  def predict(state, label_b):
    return {'n': state['n'] + 1}, state['n'][:, None].astype(jnp.float32)

  def join(enc_bd, pred_bd):
    logits_bv = jnp.where(pred_bd >= 3, jnp.array([[9.0, 0, 0, 0]]), 0)
    return logits_bv + jnp.array([[0.0, 0, 4, 0]]) + 0 * enc_bd[:, :1]

  counting = transducer.Model(
    lambda rows: {'n': jnp.zeros(rows, jnp.int32)}, predict, join
  )
  for decode, bound, expected in (
    (transducer.greedy, 5, 3),
    (transducer.greedy, 2, 2),
    (transducer.beam_search, 5, 3),
    # With room for two, it is likelier that nothing is said.
    (transducer.beam_search, 2, 0),
    (transducer.beam_search, 0, 0),
  ):
    labels_bu, length_b, *_ = jax.jit(
      lambda decode=decode, bound=bound: decode(
        counting, enc_btd, np.array([1]), max_labels=bound
      )
    )()
    assert length_b[0] == expected and labels_bu.shape == (1, bound)
    assert (labels_bu[0, :expected] == 2).all()


def test_bad_arguments_are_named():
  enc_btd, len_b = speech()
  inputs = model(parameters()), enc_btd, len_b
  with pytest.raises(ValueError, match='width is 0'):
    transducer.beam_search(*inputs, width=0)
  with pytest.raises(ValueError, match='max_labels is -1'):
    transducer.greedy(*inputs, max_labels=-1)
  with pytest.raises(ValueError, match='max_per_frame is 0'):
    transducer.greedy(*inputs, max_per_frame=0)
  with pytest.raises(ValueError, match='shapes of encoder output'):
    transducer.greedy(inputs[0], enc_btd, len_b[:2])
  for search in transducer.greedy, transducer.beam_search:
    with pytest.raises(ValueError, match='blank is -1; it must be .* 0 to 3'):
      search(*inputs, blank=-1)
