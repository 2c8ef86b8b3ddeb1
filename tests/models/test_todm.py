"""Tests of nasjax/models/todm: sizes of the paper, and one part by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.decoding import transducer as decoding
from nasjax.layers import ssm
from nasjax.losses import transducer as losses
from nasjax.models.todm import cost, network


def sizes(net, features):
  """Parameters of each part, counted in the modules' shapes."""
  return {
    part: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
    for part, tree in network.shapes(net, features).items()
  }


def paper(hidden):
  return network.Transducer(network.Encoder(hidden), network.Predictor(4097))


@pytest.mark.parametrize(
  'hidden, millions',
  [((4096,) * 16, 99.82), ((512,) * 9, 29.05), ((512,) * 16, 41.04)],
)
def test_parameters_are_those_of_the_paper(hidden, millions):
  net = paper(hidden)
  counted = cost.params(net, 512)
  assert round(sum(counted.values()) / 1e6, 2) == millions


@pytest.mark.slow
@pytest.mark.parametrize('hidden', [(512,) * 9, (4096,) * 16])
def test_modules_have_the_parameters_of_the_paper(hidden):
  net = paper(hidden)
  assert sizes(net, 512) == cost.params(net, 512)


def test_shares_are_those_of_the_paper():
  net = paper((4096,) * 16)
  counted = cost.params(net, 512)
  total = sum(counted.values())
  shares = {part: round(100 * n / total, 1) for part, n in counted.items()}
  assert shares == {'encoder': 86.9, 'predictor': 8.9, 'joiner': 4.2}
  ffn = cost.feed_forward(512, 4096) / cost.layer(net.encoder, 4096)
  assert round(100 * ffn, 1) == 78.0
  # An auxiliary head is another output of the encoder.
  assert round(cost.dense(512, 1024) / 1e6, 2) == 0.53


@pytest.mark.parametrize(
  'encoder, predictor',
  [
    ({'heads': 2, 'gate': 'sigmoid', 'stacked': 3}, {'kind': 'stateless'}),
    ({'heads': 4, 'causal': True, 'depth': 1}, {'depth': 1}),
    ({}, {}),
  ],
)
def test_the_formula_counts_what_the_modules_have(encoder, predictor):
  net = network.Transducer(
    network.Encoder((5, (2, 7)), channels=8, joined=6, states=4, **encoder),
    network.Predictor(9, channels=4, joined=6, **predictor),
  )
  assert sizes(net, 5) == cost.params(net, 5)


TINY = {
  kind: network.Transducer(
    network.Encoder((6,), channels=4, joined=5, stacked=2, states=4, depth=1),
    network.Predictor(7, channels=4, joined=5, kind=kind, depth=2),
  )
  for kind in network.PREDICTORS
}


def inputs(batch=3):
  rng = np.random.default_rng(0)
  x_btf = rng.normal(size=(batch, 9, 3)).astype(np.float32)
  labels_bl = rng.integers(1, 7, (batch, 4)).astype(np.int32)
  return x_btf, np.array([9, 6, 1]), labels_bl, np.array([4, 2, 0])


@functools.cache
def trained(kind):
  x_btf, len_b, labels_bl, _ = inputs()
  rng = np.random.default_rng(1)
  start = jax.jit(TINY[kind].init)(jax.random.key(0), x_btf, len_b, labels_bl)[
    'params'
  ]
  return jax.tree.map(
    lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), start
  )


@functools.partial(jax.jit, static_argnames='kind')
def apply(kind, params, x_btf, len_b, labels_bl):
  return TINY[kind].apply({'params': params}, x_btf, len_b, labels_bl)


@pytest.mark.parametrize('kind', network.PREDICTORS)
def test_the_predictor_says_the_same_label_by_label(kind):
  _, _, labels_bl, _ = inputs()
  predictor = TINY[kind].predictor
  params = jax.jit(predictor.init)(jax.random.key(0), labels_bl)['params']
  # Nothing is cut off at 0.
  params['out']['bias'] += 1
  if kind == 'stateless':
    params['embed']['embedding'] = jnp.abs(params['embed']['embedding'])
    params['taps'] = jnp.abs(params['taps'])
  run = jax.jit(lambda x: predictor.apply({'params': params}, x))
  pred_bud = run(labels_bl)
  start, predict, _ = network.decoding(TINY[kind], {'predictor': params})
  predict, state, said = jax.jit(predict), start(3), []
  for label_b in np.pad(labels_bl, ((0, 0), (1, 0))).T:
    state, pred_bd = predict(state, jnp.asarray(label_b))
    said.append(pred_bd)
  np.testing.assert_allclose(np.stack(said, 1), pred_bud, atol=2e-6)
  # Two labels ago an LSTM remembers, a window of two does not; three ago two of
  # these on one another do not.
  labels_bl[:, 0] = labels_bl[:, 0] % 6 + 1
  other_bud = run(labels_bl)
  same_u = np.isclose(other_bud, pred_bud, atol=1e-7).all(axis=(0, 2))
  expected = [True] + [False] * 4
  if kind != 'lstm':
    first = {'stateless': 3, 'separable': 4}[kind]
    expected[first:] = [True] * (5 - first)
  np.testing.assert_array_equal(same_u, expected)


@pytest.mark.slow
def test_padding_reaches_neither_loss_nor_gradient():
  x_btf, len_b, labels_bl, label_len_b = inputs()
  params = trained('lstm')

  @jax.jit
  def loss_and_grad(params, x_btf, labels_bl):
    def total(params):
      enc_btd, enc_len_b, pred_bud = apply(
        'lstm', params, x_btf, len_b, labels_bl
      )
      loss_b, feasible_b = losses.chunked_transducer_loss(
        *(network.join, params['joiner'], enc_btd, pred_bud),
        *(enc_len_b, labels_bl, label_len_b),
        chunk=2,
      )
      return loss_b.sum(), (loss_b, feasible_b, enc_len_b)

    return jax.grad(total, has_aux=True)(params)

  grads, (loss_b, feasible_b, enc_len_b) = loss_and_grad(
    params, x_btf, labels_bl
  )
  np.testing.assert_array_equal(enc_len_b, [5, 3, 1])
  assert feasible_b.all() and (loss_b > 0).all()
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
  x_btf[np.arange(9)[None] >= len_b[:, None]] = np.nan
  labels_bl[np.arange(4)[None] >= label_len_b[:, None]] = 99
  others, (other_b, *_) = loss_and_grad(params, x_btf, labels_bl)
  np.testing.assert_array_equal(other_b, loss_b)
  for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(others)):
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_it_is_decoded():
  x_btf, len_b, labels_bl, _ = inputs()
  params = trained('lstm')

  @jax.jit
  def transcripts(params):
    enc_btd, enc_len_b, _ = apply('lstm', params, x_btf, len_b, labels_bl)
    model = decoding.Model(*network.decoding(TINY['lstm'], params))
    found = decoding.beam_search(model, enc_btd, enc_len_b, 4, max_labels=4)
    return enc_btd, enc_len_b, found

  enc_btd, enc_len_b, (labels_bu, length_b, score_b) = transcripts(params)
  _, _, pred_bud = apply('lstm', params, x_btf, len_b, labels_bu)
  loss_b, _ = losses.transducer_loss(
    network.join(params['joiner'], enc_btd[:, :, None], pred_bud[:, None]),
    *(enc_len_b, labels_bu, length_b),
  )
  # The beam sums some of a transcript's paths, the loss all.
  assert (score_b <= -loss_b + 1e-4).all()
  assert np.abs(score_b + loss_b).min() < 1e-3


@pytest.mark.slow
def test_encoders_stream():
  rng = np.random.default_rng(0)
  x_btf = rng.normal(size=(2, 12, 3)).astype(np.float32)
  len_b = np.array([12, 7])
  whole = network.Encoder(*((6, 3), 4, 5, 2, 1, 1), states=4, causal=True)
  variables = jax.jit(whole.init)(jax.random.key(0), x_btf, len_b)
  expected_btd, enc_len_b = jax.jit(whole.apply)(variables, x_btf, len_b)
  streaming = whole.clone(form='scan')
  state = tuple(ssm.initial_state(whole, 2, 4) for _ in whole.hidden)
  found = []
  step = jax.jit(
    lambda x, n, state: streaming.apply(variables, x, n, None, state)
  )
  for start in range(0, 12, 4):
    left_b = np.clip(len_b - start, 0, 4)
    enc_btd, _, state = step(x_btf[:, start : start + 4], left_b, state)
    found.append(enc_btd)
  found_btd = np.concatenate(found, 1)
  for b, frames in enumerate(enc_len_b):
    np.testing.assert_allclose(
      found_btd[b, :frames], expected_btd[b, :frames], atol=1e-5
    )


def test_an_unknown_predictor_is_named():
  net = network.Transducer(
    network.Encoder((2,), 4, 5), network.Predictor(7, 4, 5, kind='gru')
  )
  with pytest.raises(ValueError, match="kind is 'gru'"):
    network.shapes(net, 4)
