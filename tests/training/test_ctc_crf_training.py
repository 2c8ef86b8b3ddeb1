"""Training with CTC-CRF, against a loop that sums over all paths plainly."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain_training
import pytest
import tiny_corpus

from nasjax import table
from nasjax.benchmark import running
from nasjax.data import batching
from nasjax.layers import dropout
from nasjax.losses import ctc_crf, ngram
from nasjax.models import families
from nasjax.training import batches, population, recipes
from nasjax.training import step as step_lib

SPACE, MACRO = tiny_corpus.SPACE, tiny_corpus.MACRO
SYMBOLS, WEIGHT = 6, 0.3
# Adam with so large an epsilon does not blow up what is rounded.
RECIPE = tiny_corpus.variant(
  name='crf',
  epochs=6,
  decay=1.0,
  l2=0.0,
  clip=recipes.NO_CLIP,
  adam_epsilon=1e-3,
  loss_norm='none',
  loss='ctc_crf',
  ctc_weight=WEIGHT,
  lm_order=2,
)
PAIR = (
  (((2, 1), (0, 1, 1), (5, 0, 1, 1)), 7),
  (((1, 0), (0, 1, 0), (5, 1, 0, 1)), 7),
)


def _host(tree):
  return jax.tree.map(np.array, tree)


def _of(tree, p):
  return jax.tree.map(lambda leaf: leaf[p], tree)


def _runner(members, mesh, at_once=None):
  """Returns a `Trainer` with programs that map `at_once` members."""
  prepared = running.device_corpus(tiny_corpus.corpus(), RECIPE, mesh)
  size = -(-len(members) // mesh.shape['member']) * mesh.shape['member']
  trainer = running.Trainer(
    tiny_corpus.job(RECIPE), tiny_corpus.shard(members, size), prepared
  )
  trainer.programs = population.programs(
    trainer.network, RECIPE, prepared.buckets, mesh, at_once
  )
  return trainer


@functools.cache
def _trained(members, devices=1, data=1, at_once=None, epochs=1):
  """Returns the trainer, and the states before and after some epochs."""
  mesh = population.member_mesh(jax.devices()[:devices], data)
  trainer = _runner(members, mesh, at_once)
  states = [trainer.initial()]
  start = _host(states[0])
  for epoch in range(1, epochs + 1):
    states = [trainer.epoch(states[0], epoch)]
  return trainer, start, _host(states[0])


# The oracle.


@functools.cache
def _log_lm():
  """log p(w | v) of the transcripts of training, and that of the end."""
  labels = tiny_corpus.corpus().train.labels
  log_p = np.log(ngram.estimate(labels, SYMBOLS, 2).probs)
  end_v = log_p[:, 0].copy()
  log_p[:, 0] = -1e30  # the end is no label
  return log_p.astype(np.float32), end_v.astype(np.float32)


def _log_z(logprobs_tv, frames):
  """Log of the sum over all paths, in log space; differentiable by JAX.

  The states are pairs of the last label (0: none yet) and whether the last
  frame emitted it: a label may follow itself only after a blank.
  """
  log_vw, end_v = _log_lm()
  other_vw = jnp.where(jnp.eye(SYMBOLS, dtype=bool), -1e30, log_vw)

  def step(masses, inputs):
    emitted_v, blank_v = masses
    logprob_v, counts = inputs
    ways = jnp.stack([emitted_v[:, None] + other_vw, blank_v[:, None] + log_vw])
    arrived_w = jax.nn.logsumexp(ways, axis=(0, 1))
    new = (
      logprob_v + jnp.logaddexp(emitted_v, arrived_w),
      logprob_v[0] + jnp.logaddexp(emitted_v, blank_v),
    )
    return jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, masses), None

  nowhere_v = jnp.full(SYMBOLS, -1e30)
  start = (nowhere_v, nowhere_v.at[0].set(0.0))
  counts_t = jnp.arange(len(logprobs_tv)) < frames
  (emitted_v, blank_v), _ = jax.lax.scan(step, start, (logprobs_tv, counts_t))
  return jax.nn.logsumexp(jnp.stack([emitted_v + end_v, blank_v + end_v]))


def _losses(logits_btv, len_b, labels_bl, count_b):
  """log Z less 1 + WEIGHT log likelihoods of CTC, of each row."""
  beyond_bt = jnp.arange(logits_btv.shape[1])[None] >= len_b[:, None]
  beyond_bl = jnp.arange(labels_bl.shape[1])[None] >= count_b[:, None]
  nll_b = optax.ctc_loss(
    logits_btv, beyond_bt.astype(float), labels_bl, beyond_bl.astype(float)
  )
  log_z_b = jax.vmap(_log_z)(jax.nn.log_softmax(logits_btv), len_b)
  return log_z_b + (1 + WEIGHT) * nll_b


@functools.partial(jax.jit, static_argnums=0)
def _gradient(network, params, gates, key, batch):
  x_btf, frames_b, labels_bl, count_b = batch

  def objective(params):
    logits_btv, len_b = network.apply(
      {'params': params}, x_btf, frames_b, gates, key
    )
    loss_b = _losses(logits_btv, len_b, labels_bl, count_b)
    return jnp.sum(jnp.where(frames_b > 0, loss_b, 0)) / jnp.sum(frames_b > 0)

  return jax.value_and_grad(objective)(params)


def _train_plainly(trainer, member_, params):
  """Returns the mean loss of an epoch's batches, and the parameters after."""
  arch, seed = np.array(member_[0], np.int8), member_[1]
  network = families.network(SPACE, arch, MACRO, RECIPE)
  gates = families.gates(SPACE, arch)
  key = jax.random.fold_in(population.member_key(seed, SPACE.key(arch)), 1)
  tx = optax.adam(RECIPE.lr, eps=RECIPE.adam_epsilon)
  opt_state, losses = tx.init(params), []
  prepared = trainer.prepared
  plan = batching.train_plan(prepared.bucket_u, prepared.buckets, (seed,), 1)
  for step, (bucket, index_kb) in enumerate(zip(*plan)):
    bucket = prepared.buckets[bucket]
    batch = plain_training.batch_of(
      tiny_corpus.corpus().train, index_kb[0, : bucket.batch], bucket
    )
    loss, grads = _gradient(
      network, params, gates, dropout.step_key(key, step), batch
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  assert len(losses) == 5
  return np.mean(losses), params


def test_a_population_trains_as_a_plain_loop_does():
  trainer, start, state = _trained(PAIR)
  for p, member_ in enumerate(trainer.members):
    loss, params = _train_plainly(
      trainer, member_, _of(start.members.params, p)
    )
    np.testing.assert_allclose(
      state.curves['train_loss'][p, 0], loss, rtol=1e-4
    )
    jax.tree.map(
      lambda one, two, p=p: np.testing.assert_allclose(
        one[p], two, rtol=1e-4, atol=2e-5
      ),
      state.members.params,
      params,
    )
    moved = params['head']['kernel'] - start.members.params['head']['kernel'][p]
    assert np.abs(moved).max() > 1e-2


# Populations.


# In small: below, to a tolerance; test_population, of CTC; losses/test_ctc_crf,
# of the loss.
@pytest.mark.slow
def test_a_member_trains_as_if_alone(emitters_of_users):
  trained = _trained.__wrapped__
  _, _, pair = trained(PAIR)
  for p, member_ in enumerate(PAIR):
    _, _, single = trained((member_,))
    chex.assert_trees_all_equal(_of(pair[:3], p), _of(single[:3], 0))


@pytest.mark.parametrize(
  'how', [{'at_once': 2}, {'devices': 2, 'data': 2}], ids=['mapped', 'divided']
)
def test_mapped_members_and_divided_batches_change_nothing(how):
  """One denominator serves all members, and all devices of a batch."""
  (_, _, one), (_, _, other) = _trained(PAIR), _trained(PAIR, **how)
  chex.assert_trees_all_close(one[:2], other[:2], rtol=1e-4, atol=1e-5)
  for name in ('train_loss', 'val_loss'):
    np.testing.assert_allclose(
      one.curves[name][:, 0], other.curves[name][:, 0], rtol=1e-4
    )
  np.testing.assert_array_equal(one.curves['val_per'], other.curves['val_per'])


def test_it_learns():
  _, _, state = _trained(PAIR, epochs=6)
  per_pe, loss_pe = (state.curves[n] for n in ('val_per', 'val_loss'))
  assert (per_pe[:, 0] > 0.4).all()
  assert (per_pe.min(1) < 0.3).all()
  assert (loss_pe[:, -1] < loss_pe[:, 0] - 1.5).all()


# Evaluation.


def test_the_validation_loss_is_a_mean_over_what_has_an_alignment():
  """8 frames make 4 outputs: too few for 9 labels. PER counts them still."""
  tiny = tiny_corpus.corpus()
  labels = list(tiny.validation.labels)
  assert tiny.validation.frames_u[1] == 8
  labels[1] = np.array([1, 2, 1, 2, 1, 2, 1, 2, 1], np.int32)
  split = dataclasses.replace(tiny.validation, labels=tuple(labels))
  trainer, _, state = _trained(PAIR)
  changed = running.device_corpus(
    dataclasses.replace(tiny, validation=split), RECIPE, trainer.prepared.mesh
  )
  again = running.Trainer(trainer.job, trainer.shard, changed)
  again.programs = trainer.programs
  params_p = state.members.params
  loss_p, _ = again.evaluate(params_p, 'validation')
  (bucket,) = changed.buckets
  batch = plain_training.batch_of(
    split, range(len(labels)), bucket._replace(batch=len(labels))
  )

  @jax.jit
  def losses_of(params, gates, batch):
    x_btf, frames_b, labels_bl, count_b = batch
    logits_btv, len_b = trainer.network.apply(
      {'params': params}, x_btf, frames_b, gates, None
    )
    scored = (logits_btv, len_b, labels_bl, count_b)
    # What counts is what the loss itself calls feasible.
    _, feasible_b = ctc_crf.ctc_crf_loss(*scored, changed.constants)
    return _losses(*scored), feasible_b

  for p in range(2):
    loss_b, feasible_b = _host(
      losses_of(_of(params_p, p), _of(trainer.host_gates, p), batch)
    )
    assert feasible_b.tolist() == [u != 1 for u in range(len(labels))]
    np.testing.assert_allclose(loss_p[p], loss_b[feasible_b].mean(), rtol=1e-4)


# Denominators.


@pytest.mark.parametrize(
  'order, kind',
  [(2, ctc_crf.Bigram), (3, ctc_crf.Trigram), (4, ctc_crf.Sparse)],
)
def test_the_language_model_is_that_of_the_training_split(order, kind):
  tiny, mesh = tiny_corpus.corpus(), population.member_mesh(jax.devices())
  recipe = dataclasses.replace(RECIPE, lm_order=order)
  found = running.device_corpus(tiny, recipe, mesh).constants
  estimate = ngram.estimate_pruned if order == 4 else ngram.estimate
  own, other = (
    ctc_crf.denominator(estimate(split.labels, SYMBOLS, order))
    for split in (tiny.train, tiny.validation)
  )
  assert isinstance(found, kind)
  jax.tree.map(np.testing.assert_array_equal, found, own)
  one, two = jax.tree.leaves(own), jax.tree.leaves(other)
  assert not all(map(np.array_equal, one, two))
  # Every device has it: batches may be divided among them.
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding.is_fully_replicated
    assert leaf.sharding.device_set == set(jax.devices())


def test_ctc_has_none_and_ctc_crf_needs_one():
  assert tiny_corpus.prepared().constants is None
  trainer = tiny_corpus.trainer(PAIR)
  batch = batches.gather(
    trainer.prepared.train.example(), np.arange(4), trainer.prepared.buckets[0]
  )
  gates = _of(trainer.host_gates, 0)
  params = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), trainer.shapes().params
  )
  forward = functools.partial(step_lib.forward, trainer.network, RECIPE)
  with pytest.raises(ValueError, match="'ctc_crf' needs a denominator"):
    jax.eval_shape(forward, params, gates, batch)


# Tables.


def test_rows_tell_the_loss(tmp_path):
  """They hold what was found, and the recipe by which to train again."""
  job = tiny_corpus.job(RECIPE)
  (shard,) = running.plan(job, PAIR, 2)
  mesh = population.member_mesh(jax.devices()[:1])
  prepared = running.device_corpus(tiny_corpus.corpus(), job.recipe, mesh)
  assert running.run_shard(job, shard, prepared, tmp_path)
  rows = table.open(tmp_path).to_arrow().to_pylist()
  _, _, state = _trained(shard.members, epochs=RECIPE.epochs)
  for p, row in enumerate(rows):
    recipe = recipes.Recipe(**json.loads(row['recipe_json']))
    assert recipe == job.recipe and recipe.loss == 'ctc_crf'
    found = {name: v[p] for name, v in state.curves.items()}
    np.testing.assert_allclose(row['val_loss'], found['val_loss'], rtol=1e-6)
    np.testing.assert_array_equal(row['val_per'], found['val_per'])
    assert row['status'] == 'ok' and np.isfinite(row['test_loss'])
