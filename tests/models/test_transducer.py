"""Tests of nasjax/models/transducer: predictors and joiners as a space."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus

import nasjax
from nasjax import cost, spaces, table
from nasjax.benchmark import running
from nasjax.decoding import transducer as decoding
from nasjax.models import common, families, macros
from nasjax.spaces import transducer as space_of

SPACE = spaces.TRANSDUCER
# As many symbols as the labels below say, and one more.
MACRO = dataclasses.replace(
  macros.TRANSDUCER_TINY, outputs=6, stacked=2, features=tiny_corpus.FEATURES
)
RECIPE = tiny_corpus.variant(
  loss='transducer', l2=0.0, batch=8, batch_long=8, loss_norm='labels',
  decay=1.0,
)  # fmt: skip
# Predictor, layers, context, width, joiner: all kinds of both, few programs.
LSTM, STATELESS, SEPARABLE = [0, 1, 0, 0, 1], [1, 0, 2, 0, 0], [2, 1, 1, 0, 2]
# What is short asks the last alone; LSTMs and what is stateless TODM has, too.
ARCHS = [
  pytest.param(LSTM, id='lstm', marks=pytest.mark.slow),
  pytest.param(STATELESS, id='stateless', marks=pytest.mark.slow),
  pytest.param(SEPARABLE, id='separable'),
]
LABELS_BL = np.array([[1, 2, 3, 4], [5, 1, 4, 2], [3, 3, 1, 5]])


@functools.cache
def made(arch):
  """Returns the network of an architecture and some parameters of it."""
  network = families.single(SPACE, arch, MACRO)
  params = jax.jit(lambda key: common.initial_params(network, key, ()))(
    jax.random.key(1)
  )
  # Nothing is 0, nor cut off at 0.
  return network, jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, params)


def test_what_means_nothing_makes_no_other_network():
  assert SPACE.size == 162 and len(SPACE.unique()) == 99
  names = families.family(SPACE).ops
  one, other = (names(SPACE, [0, 1, c, 0, 0]) for c in (0, 2))
  assert one == other == ('lstm', '2', '1', '32', 'add')
  one, other = (names(SPACE, [1, n, 2, 0, 0]) for n in (0, 1))
  assert one == other == ('stateless', '1', '4', '32', 'add')
  assert space_of.canonical(SPACE, SEPARABLE) == SEPARABLE
  assert SPACE.semantic_key([0, 1, 2, 0, 0]) == SPACE.key([0, 1, 0, 0, 0])


@pytest.mark.parametrize('arch', SPACE.unique()[::7].tolist(), ids=str)
def test_the_formula_counts_what_there_is(arch):
  network = families.single(SPACE, arch, MACRO)
  shapes = jax.eval_shape(
    lambda: common.initial_params(network, jax.random.key(0), ())
  )
  there = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  assert cost.params(SPACE, arch, MACRO) == there
  few, many = (cost.macs(SPACE, arch, MACRO, n) for n in (12, 24))
  assert many == 2 * few > 0


def test_multiply_accumulates_are_those_of_the_products():
  # Of a label: an embedding of 32 brings, in two layers, an LSTM's eight
  # products, or two taps and one; both end with one of 16 numbers.
  counted = [cost.macs(SPACE, [k, 1, 1, 0, 0], MACRO, 2) for k in (0, 2)]
  assert counted[0] - counted[1] == 2 * (8 * 32 * 32 - (2 + 32) * 32)
  # A gate is another number of encoder and predictor for each there is.
  plain, gated = (cost.macs(SPACE, [1, 0, 0, 0, j], MACRO, 2) for j in (1, 2))
  assert gated - plain == (MACRO.width + 32) * MACRO.joined


@pytest.mark.parametrize('arch', ARCHS)
def test_a_prediction_rests_on_the_labels_before_it(arch):
  network, params = made(tuple(arch))
  predictor = network.bind({'params': params}).predictor.clone(
    parent=None, name=None
  )
  params = params['predictor']

  @jax.jit
  def pulls(embedding_vc):
    # Each label of the first row is said once: its vector pulls for its place.
    def said(embedding_vc):
      own = params | {'embed': {'embedding': embedding_vc}}
      pred_bud = predictor.apply({'params': own}, LABELS_BL[:1])
      return pred_bud[0].sum(axis=-1)

    return jax.jacrev(said)(embedding_vc)

  pull_uv = np.abs(pulls(params['embed']['embedding'])).max(axis=-1)
  for u, pull_v in enumerate(pull_uv):
    said, ahead = LABELS_BL[0, :u], LABELS_BL[0, u:]
    assert not pull_v[ahead].any(), u
    known = {'stateless': 4, 'separable': 1 + 2 * (2 - 1)}.get(predictor.kind)
    last = said if known is None else said[-known:]
    assert pull_v[last].all(), u
    forgotten = said[: len(said) - len(last)]
    assert not pull_v[forgotten].any(), u


@pytest.mark.parametrize('arch', ARCHS)
def test_decoded_together_is_decoded_one_by_one(arch):
  network, params = made(tuple(arch))
  rng = np.random.default_rng(0)
  # Some say more than others; the blank is not always the likeliest.
  params = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(0, 0.7, p.shape), jnp.float32), params
  )
  x_btf = rng.normal(size=(3, 12, MACRO.features)).astype(np.float32)
  len_b = np.array([12, 7, 3])

  @jax.jit
  def run(x_btf, len_b, labels_bl):
    outputs = network.apply(
      {'params': params}, x_btf, len_b, (), None, labels_bl
    )
    model = decoding.Model(*outputs.decoding())
    return outputs, decoding.greedy(
      model, outputs.enc_btd, outputs.len_b, max_labels=12
    )

  def rows(labels_bu, length_b):
    return [list(row[:n]) for row, n in zip(np.array(labels_bu), length_b)]

  outputs, said = run(x_btf, len_b, LABELS_BL)
  together = rows(*said)
  assert len({tuple(row) for row in together}) > 1
  for b, row in enumerate(together):
    one = slice(b, b + 1)
    _, said = run(x_btf[one], len_b[one], LABELS_BL[one])
    assert rows(*said) == [row]
  # Label by label the predictor says what it says to all at once.
  start, predict, join = outputs.decoding()
  predict, state, found = jax.jit(predict), start(3), []
  for label_b in np.pad(LABELS_BL, ((0, 0), (1, 0))).T:
    state, pred_bd = predict(state, jnp.asarray(label_b))
    found.append(pred_bd)
  found_bud = jnp.stack(found, axis=1)
  np.testing.assert_allclose(found_bud, outputs.pred_bud, atol=1e-5)
  logits_btuv = outputs.join(
    outputs.joiner, outputs.enc_btd[:, :, None], outputs.pred_bud[:, None]
  )
  np.testing.assert_allclose(
    join(outputs.enc_btd[:, 1], found[2]), logits_btuv[:, 1, 2], atol=1e-4
  )


def test_joiners_are_their_formulas():
  rng = np.random.default_rng(0)
  enc, pred = rng.normal(size=(2, 1, 1, 1, 6))
  share = 1 / (1 + np.exp(-(enc + pred)[..., 3:]))
  expected = {
    'add': np.tanh(enc + pred),
    'multiply': np.tanh(enc * pred),
    'gate': share * np.tanh(enc[..., :3])
    + (1 - share) * np.tanh(pred[..., :3]),
  }
  for kind, x_btud in expected.items():
    width = x_btud.shape[-1]
    params = {'out': {'kernel': np.eye(width), 'bias': np.zeros(width)}}
    found = families.transducer.network.JOINS[kind](params, enc, pred)
    np.testing.assert_allclose(found, x_btud, atol=1e-6)


def test_candidates_are_not_mixed():
  with pytest.raises(ValueError, match='transducer are not mixed; each'):
    families.supernet(SPACE, SPACE.choices, MACRO, RECIPE, 'mixed')
  with pytest.raises(ValueError, match="macro transducer_tiny .*'float32'"):
    recipe = dataclasses.replace(RECIPE, precision='bfloat16')
    common.initial_params(
      families.network(SPACE, LSTM, MACRO, recipe), jax.random.key(0), ()
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The directory of two networks of one program, and one of another."""
  out = tmp_path_factory.mktemp('transducer')
  tiny = tiny_corpus.corpus()
  job = running.Job(SPACE, MACRO, RECIPE, tiny.name, tiny.fingerprint)
  prepared = tiny_corpus.prepared(RECIPE)
  # The context of an LSTM is nothing: the first two are one network.
  members = [(LSTM, 1), ([0, 1, 2, 0, 1], 2), (SEPARABLE, 1)]
  shards = running.plan(job, members, 2)
  assert sorted(shard.signature[0] for shard in shards) == ['lstm', 'separable']
  for shard in shards:
    assert running.run_shard(job, shard, prepared, out)
  return out


@pytest.mark.slow
def test_they_learn_side_by_side_and_come_back(trained):
  t = table.open(trained)
  assert len(t) == 3 and t.space is SPACE
  for row in t.to_arrow().to_pylist():
    losses = row['train_loss']
    assert losses[-1] < losses[0], losses
    assert row['params'] == cost.params(SPACE, row['arch'], MACRO)
  network = nasjax.load_network(trained, SEPARABLE)
  (heard, *_) = network.hear(tiny_corpus.corpus().test)
  assert set(heard.symbols) <= set(tiny_corpus.SYMBOLS)
