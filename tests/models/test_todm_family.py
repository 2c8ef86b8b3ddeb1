"""Tests of nasjax/models/todm/family.py: transducers as a family."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import tiny_todm

from nasjax import cost, spaces, table
from nasjax.benchmark import running
from nasjax.losses import transducer
from nasjax.models import common, families, macros
from nasjax.spaces import todm

SPACE, MACRO = tiny_todm.SPACE, tiny_todm.MACRO


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_todm.registered():
    yield


@pytest.mark.parametrize(
  'arch, millions',
  [
    ([3] * 16 + [0], 99.82), ([0] * 16 + [2], 29.05), ([0] * 16 + [0], 41.04),
    # Widths that are not there cost nothing.
    ([0] * 9 + [3] * 7 + [2], 29.05),
  ],
)  # fmt: skip
def test_parameters_are_those_of_the_paper(arch, millions):
  counted = cost.params(spaces.TODM, arch, macros.TODM)
  assert round(counted / 1e6, 2) == millions


# Of the same two layers, products of low rank.
RANKED = todm.elastic('ranked_todm', 2, (4, 8), (2, 1), (1, 3))


@contextlib.contextmanager
def ranked():
  families.add(RANKED, families.family(SPACE))
  yield
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    del names[RANKED.name]


def test_ranks_make_networks_with_fewer_weights():
  with ranked():
    ops = families.family(RANKED).ops
    assert ops(RANKED, [0, 1, 1, 0]) == ('4r3', '8r3')
    for arch in ([0, 1, 1, 0], [1, 0, 0, 1]):
      found = cost.params(RANKED, arch, tiny_todm.CTC)
      assert found == counted(RANKED, arch, tiny_todm.CTC)
      assert cost.macs(RANKED, arch, tiny_todm.CTC, 12) > 0
    # Of two layers of 8 channels each product has 2 (8 + width) fewer.
    few, many = (
      cost.params(RANKED, [0, 1, rank, 0], tiny_todm.CTC) for rank in (0, 1)
    )
    assert many - few == 2 * 2 * ((8 + 4) + (8 + 8))


def counted(space, arch, macro):
  network = families.single(space, arch, macro)
  shapes = jax.eval_shape(
    lambda: common.initial_params(network, jax.random.key(0), ())
  )
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  'space, macro, arch',
  [
    (SPACE, MACRO, [0, 1, 0]),
    (SPACE, tiny_todm.CTC, [1, 0, 1]),
    pytest.param(
      spaces.TODM_SMALL, macros.TODM_SMALL, [0, 1, 2, 0, 1, 2, 1],
      marks=pytest.mark.slow,
    ),
  ],
)  # fmt: skip
def test_the_formula_counts_what_there_is(space, macro, arch):
  assert cost.params(space, arch, macro) == counted(space, arch, macro)
  few, many = (cost.macs(space, arch, macro, n) for n in (12, 24))
  assert few > 0 and many == 2 * few
  largest = todm.largest(space)
  assert cost.macs(space, largest, macro, 24) > many


@pytest.mark.slow
def test_labels_are_among_a_transducer_s_inputs():
  network = families.single(SPACE, [0, 1, 0], MACRO)
  x_btf, len_b = np.ones((2, 6, 8), np.float32), np.array([6, 3])
  labels_bl = np.array([[1, 2], [3, 0]])
  params = jax.jit(
    lambda key: common.initial_params(network, key, ())
  )(jax.random.key(0))  # fmt: skip

  @jax.jit
  def run(params, labels_bl):
    return network.apply({'params': params}, x_btf, len_b, (), None, labels_bl)

  said, silent = run(params, labels_bl), jax.eval_shape(run, params, None)
  assert said.enc_btd.shape == (2, 3, 8) and said.pred_bud.shape == (2, 3, 8)
  assert silent.pred_bud is None
  assert silent.enc_btd.shape == said.enc_btd.shape
  np.testing.assert_array_equal(said.len_b, [3, 2])
  # The joiner's scores are those of the loss.
  logits_btuv = said.join(
    said.joiner, said.enc_btd[:, :, None], said.pred_bud[:, None]
  )
  assert logits_btuv.shape == (2, 3, 3, 6)
  loss_b, _ = transducer.transducer_loss(
    logits_btuv, said.len_b, labels_bl, np.array([2, 1])
  )
  assert np.isfinite(loss_b).all()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The directory of a shard of two transducers of one architecture."""
  out = tmp_path_factory.mktemp('todm')
  job = tiny_todm.job()
  # One network: the second layer is not there.
  members = [([0, 1, 1], 1), ([0, 0, 1], 2)]
  (shard,) = running.plan(job, members, 2)
  assert shard.signature == ('4',)
  prepared = tiny_corpus.prepared(job.recipe)
  assert running.run_shard(job, shard, prepared, out)
  return out


def test_a_population_of_transducers_learns(trained):
  t = table.open(trained)
  assert len(t) == 2 and t.space is SPACE
  row = t.to_arrow().to_pylist()[0]
  losses = row['train_loss']
  assert losses[-1] < 0.9 * losses[0], losses
  assert 0 < row['test_per'] < 2
  assert row['params'] == cost.params(SPACE, row['arch'], MACRO)


@pytest.mark.slow
def test_it_comes_back_and_hears(trained):
  import nasjax

  network = nasjax.load_network(trained, seed=2)
  split = tiny_corpus.corpus().test
  (heard, *_) = network.hear(split)
  assert heard.logprobs_tv is None and heard.alignment is None
  assert heard.logprob is None
  (best,) = network.hear([split.x_tf(0)], decoder='beam', beam_width=2)
  assert best.logprob < 0


def test_losses_want_the_outputs_that_they_read():
  for macro, loss, words in (
    (MACRO, 'ctc', "give loss='transducer'"),
    (tiny_todm.CTC, 'transducer', 'wants a predictor'),
  ):
    with pytest.raises(ValueError) as caught:
      families.network(SPACE, [0] * 3, macro, tiny_corpus.variant(loss=loss))
    assert words in str(caught.value)
  with pytest.raises(ValueError, match='wants a predictor'):
    families.network(
      spaces.ST_NAS, [0] * 6, macros.ST_NAS_TINY,
      tiny_corpus.variant(loss='transducer'),
    )  # fmt: skip


def test_candidates_are_not_mixed():
  ops = SPACE.choices
  with pytest.raises(ValueError, match='are not mixed'):
    families.supernet(SPACE, ops, MACRO, tiny_todm.RECIPE, 'mixed')


def test_macro_networks_of_other_sizes_are_refused():
  with pytest.raises(ValueError, match='2 blocks, space todm_small has 6'):
    families.check(spaces.TODM_SMALL, MACRO)
  with pytest.raises(ValueError, match='predictor is'):
    macros.Todm('odd', predictor='gru')
  with pytest.raises(ValueError, match='not to be padded'):
    macros.Todm('odd', padded=True, stacked=7)


@pytest.mark.slow
def test_the_elastic_network_is_made_of_the_others():
  elastic = families.elastic(SPACE)
  network = families.elastic_network(SPACE, MACRO, tiny_todm.RECIPE)
  gates = elastic.gates(SPACE, elastic.largest(SPACE))
  params = jax.jit(
    lambda key: common.initial_params(network, key, gates)
  )(jax.random.key(0))  # fmt: skip
  params = jax.tree.map(lambda p: p + 0.05, params)
  x_btf = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
  len_b = np.array([8, 5])

  @jax.jit
  def run(gates):
    return network.apply({'params': params}, x_btf, len_b, gates).enc_btd

  for arch in ([0, 1, 0], [0, 1, 1]):
    own = elastic.extract(SPACE, arch, MACRO, params)
    alone = families.single(SPACE, arch, MACRO)
    expected = jax.jit(alone.apply)({'params': own}, x_btf, len_b, ()).enc_btd
    found = run(elastic.gates(SPACE, arch))
    np.testing.assert_allclose(found, expected, atol=1e-5)
  assert run._cache_size() == 1
  np.testing.assert_allclose(run(None), run(gates), atol=1e-5)
  kernel = jnp.asarray(params['encoder']['layer0']['ffn']['into']['kernel'])
  # A network that ends early has an output of its own there.
  exits = families.elastic_network(SPACE, MACRO, tiny_todm.RECIPE, exits=(1,))
  made = params['encoder'] | {
    'exit1': jax.tree.map(lambda p: p + 1, params['encoder']['out'])
  }
  given = {'params': params | {'encoder': made}}, x_btf, len_b
  early = elastic.gates(SPACE, [0, 0, 1])
  ends, inner = jax.jit(
    lambda gates: exits.apply(*given, gates, method='with_exits')
  )(early)
  own = elastic.extract(SPACE, [0, 0, 1], MACRO, given[0]['params'])
  assert 'exit1' not in own['encoder'] and len(inner) == 1
  expected = jax.jit(families.single(SPACE, [0, 0, 1], MACRO).apply)(
    {'params': own}, x_btf, len_b, ()
  )
  np.testing.assert_allclose(ends.enc_btd, expected.enc_btd, atol=1e-5)
  np.testing.assert_array_equal(ends.enc_btd, inner[0].enc_btd)
  cut = elastic.extract(SPACE, [0, 0, 1], MACRO, jax.device_get(params))
  view = cut['encoder']['layer0']['ffn']['into']['kernel']
  assert view.shape == (8, 4) and view.base is not None
  np.testing.assert_array_equal(view, kernel[:, :4])


@pytest.mark.slow
def test_networks_of_low_rank_are_parts_of_the_largest():
  macro, recipe = tiny_todm.CTC, tiny_todm.CTC_RECIPE
  with ranked():
    elastic = families.elastic(RANKED)
    network = families.elastic_network(RANKED, macro, recipe)
    params = jax.jit(lambda key: common.initial_params(network, key, None))(
      jax.random.key(0)
    )
    params = jax.tree.map(lambda p: p + 0.05, params)
    x_btf = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    len_b = np.array([8, 5])

    def total(network, params, gates):
      logits_btv, _ = network.apply({'params': params}, x_btf, len_b, gates)
      return jnp.sin(logits_btv).sum(), logits_btv

    run = jax.jit(jax.grad(total, 1, has_aux=True), static_argnums=0)
    for arch in ([0, 1, 0, 0], [1, 0, 1, 1]):
      gates = elastic.gates(RANKED, arch)
      grads, logits_btv = run(network, params, gates)
      own = elastic.extract(RANKED, arch, macro, params)
      alone = families.single(RANKED, arch, macro)
      own_grads, own_btv = run(alone, own, ())
      np.testing.assert_allclose(logits_btv, own_btv, atol=1e-5)
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        elastic.extract(RANKED, arch, macro, grads),
        own_grads,
      )
    # One program for all of the elastic one, and each alone.
    assert run._cache_size() == 3
