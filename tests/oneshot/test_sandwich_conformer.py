"""Supernets of conformer-like encoders: paths, and statistics of batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_conformer
import tiny_corpus

from nasjax.models import families
from nasjax.oneshot import sandwich
from nasjax.training import batches

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
  # It errs by itself as it does within the largest.
  archs = [arch, trainer.training.largest, trainer.training.smallest]
  error_n = trainer.evaluate(archs)
  assert (error_n > 0).all() and trainer.programs_compiled() == 1
  np.testing.assert_array_equal(trainer.evaluate(archs[::-1]), error_n[::-1])
  assert np.isfinite(trainer.evaluate(archs[:2], int8=True)).all()
  again = sandwich.restore(training(), prepared, 'tiny', tmp_path)
  np.testing.assert_array_equal(again.evaluate(archs), error_n)


@pytest.mark.slow
def test_a_path_is_one_network_that_trains_alone(tmp_path):
  one = training('paths')
  trainer = sandwich.run(one, tiny_corpus.prepared(RECIPE), 'tiny', tmp_path)
  history = trainer.state.history
  archs_esnd = history['archs']
  assert archs_esnd.shape[2] == 1 and (archs_esnd >= 0).all()
  assert len(np.unique(archs_esnd.reshape(-1, len(SPACE.fields)), axis=0)) > 4
  assert np.isfinite(history['train_loss']).all()
  assert np.isnan(history['smallest_loss']).all()


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
