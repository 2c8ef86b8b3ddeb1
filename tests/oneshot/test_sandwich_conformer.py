"""Supernets of conformer-like encoders: paths, and statistics of batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_conformer
import tiny_corpus

from nasjax.models import families
from nasjax.oneshot import sandwich, sandwich_steps
from nasjax.training import batches
from nasjax.training import step as step_lib

SPACE, MACRO = tiny_conformer.SPACE, tiny_conformer.MACRO
# Key and dropout are two things: batches are normalised without any, too.
RECIPE = dataclasses.replace(tiny_conformer.RECIPE, dropout=0.0)


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_conformer.registered():
    yield


def training(row='B1', recipe=RECIPE, **changes):
  options = dataclasses.replace(sandwich.ROWS[row], **changes)
  return sandwich.Training(SPACE, MACRO, recipe, options, 3)


def own_statistics(trainer, arch):
  """Returns the mean moments of the first batches, heard by it alone."""
  single = families.single(SPACE, arch, MACRO)
  own = trainer.extract(arch)
  prepared = trainer.prepared
  plan = jax.tree.map(np.asarray, trainer._plan(1))
  seen = []

  @jax.jit
  def heard(batch):
    given = batch.x_btf, batch.len_b, (), jnp.zeros(2, jnp.uint32)
    return families.observed(single, own, *given)[1]

  data = prepared.train.example()
  for bucket, index_kb in zip(*plan):
    shape = prepared.train_buckets[bucket]
    batch = batches.gather(data, jnp.asarray(index_kb[0, : shape.batch]), shape)
    seen.append(heard(batch))
  mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *seen)
  old = families.replaced(mean, own)
  return own, jax.tree.map(
    lambda new, old: (new - 0.9 * old) / MACRO.momentum, mean, old
  )


@pytest.mark.slow
def test_each_network_has_statistics_of_its_own(tmp_path):
  prepared = tiny_corpus.prepared(RECIPE)
  trainer = sandwich.run(training(), prepared, 'tiny', tmp_path)
  history = trainer.state.history
  assert history['train_loss'][1] < history['train_loss'][0]
  arch = tiny_conformer.arch(norm1='layer', skip2='no', heads1='1', kernel2='3')
  own, expected = own_statistics(trainer, arch)
  assert set(expected) == {'layer1'}
  for name, norm in expected['layer1'].items():
    for part, value in norm.items():
      found = own['layer1'][name][part]
      np.testing.assert_allclose(found, value, atol=1e-4, rtol=1e-3)
  # By itself it says what it says within the largest.
  x_btf = np.random.default_rng(0).normal(size=(2, 12, 8)).astype(np.float32)
  given = x_btf, np.array([12, 7])
  gates = families.elastic(SPACE).gates(SPACE, arch)
  within = trainer._with_own(trainer.state.params, arch)
  shared, len_b = jax.jit(trainer.training.network().apply)(
    {'params': within}, *given, gates
  )
  alone, _ = jax.jit(families.single(SPACE, arch, MACRO).apply)(
    {'params': own}, *given, ()
  )
  for b, length in enumerate(len_b):
    np.testing.assert_allclose(shared[b, :length], alone[b, :length], atol=1e-4)
  told = trainer.statistics(arch)['layer1']['norm_ffn']['mean']
  np.testing.assert_array_equal(told, own['layer1']['norm_ffn']['mean'])
  archs = [arch, trainer.training.largest, trainer.training.smallest]
  error_n = trainer.evaluate(archs)
  assert (error_n > 0).all() and trainer.programs_compiled() == 1
  np.testing.assert_array_equal(trainer.evaluate(archs[::-1]), error_n[::-1])
  assert np.isfinite(trainer.evaluate(archs[:2], int8=True)).all()
  again = sandwich.restore(training(), prepared, 'tiny', tmp_path)
  np.testing.assert_array_equal(again.evaluate(archs), error_n)


@pytest.mark.slow
def test_a_path_is_one_network_that_trains_alone():
  one = training('paths')
  trainer = sandwich.SupernetTrainer(one, tiny_corpus.prepared(RECIPE))
  archs_snd = trainer.archs(1)
  assert archs_snd.shape[1] == 1 and len(np.unique(archs_snd, axis=0)) > 2
  assert (archs_snd != trainer.archs(2)).any()
  arch = one.smallest
  params = jax.tree.map(lambda p: p + 0.05, jax.jit(trainer._initial_params)())
  plan = jax.tree.map(np.asarray, trainer._plan(1))
  bucket = trainer.prepared.train_buckets[plan.bucket_s[0]]
  batch = batches.gather(
    trainer.prepared.train.example(), plan.index_skb[0, 0], bucket
  )
  gates_n = trainer._gates(arch[None])
  grads, log = jax.jit(sandwich_steps.make_gradients(one))(
    params, batch, gates_n, None, 1.0
  )
  assert log.loss_n.shape == (0,)
  assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads['layer1']))
  assert np.asarray(grads['layer0']['ffn_into']['kernel'][:, :12]).any()
  own = trainer.extract(arch, jax.device_get(params))
  single = families.single(SPACE, arch, MACRO)
  loss, _ = jax.jit(
    lambda own: step_lib.forward(single, RECIPE, own, (), batch)
  )(own)
  np.testing.assert_allclose(log.loss, loss, rtol=1e-5)


def test_paths_go_without_others():
  assert training('paths').options.others == 1
  assert training().options.others == 3
  with pytest.raises(ValueError, match='paths goes without others'):
    training('paths', students=2)
  # Names of what was there before stay.
  assert 'paths' not in training().describe()['options']
  assert training('paths').name('a') != training('A2', heads='none').name('a')
  macs = [
    sandwich.multiply_accumulates(t) for t in (training('paths'), training())
  ]
  assert 0 < macs[0] < macs[1]
