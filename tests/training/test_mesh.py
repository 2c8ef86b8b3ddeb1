"""Several devices: what a run makes does not depend on how it is spread."""

import os
import subprocess
import sys

import chex
import jax
import mesh_runs
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_corpus
import tiny_run

from nasjax import table
from nasjax.losses import ctc
from nasjax.training import population

OTHERS = [mesh for mesh in mesh_runs.MESHES if mesh != (1, 1)]
# What `population` promises of other devices.
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The directory of runs on all meshes."""
  out = tmp_path_factory.mktemp('meshes')
  environment = os.environ | {'PYTHONPATH': tiny_run.PYTHONPATH}
  environment['XLA_FLAGS'] = tiny_run.UNOPTIMISED
  # Devices that wait for each other would wait for ever.
  done = subprocess.run(
    [sys.executable, tiny_run.SUPPORT / 'mesh_runs.py', str(out)],
    env=environment,
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr
  return out


def _checkpoint(out, mesh):
  place = mesh_runs.place(out, mesh)
  (shard,) = table.open(place).shards
  with ocp.CheckpointManager(place / 'checkpoints' / shard.name) as manager:
    assert manager.latest_step() == 2
    return manager.restore(2, args=ocp.args.StandardRestore())


@pytest.mark.parametrize('mesh', OTHERS)
def test_states_equal_those_of_one_device(finished, mesh):
  one, other = _checkpoint(finished, (1, 1)), _checkpoint(finished, mesh)
  del one['seconds'], other['seconds']
  assert (one['members']['step'] == 8).all() and one['members']['alive'].all()
  chex.assert_trees_all_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)
  np.testing.assert_array_equal(
    one['curves']['val_per'], other['curves']['val_per']
  )


@pytest.mark.parametrize('mesh', OTHERS)
def test_rows_equal_those_of_one_device(finished, mesh):
  one, other = (
    tiny_corpus.results(mesh_runs.place(finished, m)) for m in ((1, 1), mesh)
  )
  assert len(one) == 3
  tiny_corpus.assert_same_rows(one, other, TOLERANCE)


def test_an_evaluation_does_not_depend_on_the_number_of_devices(finished):
  """Of the same weights: error rates to the bit, losses but for rounding."""
  one, *others = (
    np.load(finished / f'{devices}.npz') for devices in mesh_runs.EVALUATED
  )
  # Networks that answer, with several kinds of errors.
  assert (one['rate'] > 0).all() and (one['edits'].sum(0) > 0).sum() >= 2
  for other in others:
    np.testing.assert_array_equal(one['rate'], other['rate'])
    np.testing.assert_array_equal(one['edits'], other['edits'])
    np.testing.assert_allclose(one['loss'], other['loss'], rtol=1e-6)


@pytest.mark.parametrize('mesh', mesh_runs.MESHES)
def test_padding_is_reported(finished, mesh):
  (shard,) = table.open(mesh_runs.place(finished, mesh)).shards
  members, data = mesh
  assert shard.meta['members'] == 3
  assert shard.meta['padding'] == -3 % members
  assert shard.meta['mesh'] == {'member': members, 'data': data}


def test_a_shard_has_one_name_on_all_meshes(finished):
  assert (
    len(
      {
        table.open(mesh_runs.place(finished, mesh)).shards[0].name
        for mesh in mesh_runs.MESHES
      }
    )
    == 1
  )


def test_shares_of_a_loss_sum_to_the_mean():
  """Devices of empty rows, and of transcripts that have no alignment."""
  rng = np.random.default_rng(0)
  logits_btv = rng.normal(size=(6, 9, 5)).astype(np.float32)
  labels_bl = rng.integers(1, 5, (6, 4))
  arguments = (
    logits_btv,
    np.array([9, 7, 1, 9, 8, 8]),
    labels_bl,
    np.array([4, 1, 4, 3, 2, 2]),
    np.array([1, 1, 1, 1, 0, 0], np.float32),
  )
  mean, grad_btv = jax.value_and_grad(ctc.mean_ctc_loss)(*arguments)

  def share(logits_btv, *rest):
    return ctc.mean_ctc_loss(logits_btv, *rest, axis='data')

  spread = [value.reshape(3, 2, *value.shape[1:]) for value in arguments]
  share_d, grad_dbtv = jax.vmap(jax.value_and_grad(share), axis_name='data')(
    *spread
  )
  assert mean > 0 and share_d[2] == 0
  np.testing.assert_allclose(share_d.sum(), mean, rtol=1e-6)
  np.testing.assert_allclose(
    grad_dbtv.reshape(grad_btv.shape), grad_btv, rtol=1e-5, atol=1e-7
  )


@pytest.mark.parametrize('data', [0, -1, 3])
def test_a_mesh_must_come_out_even(data):
  with pytest.raises(
    ValueError, match=f'{data} devices a batch do not divide the 2'
  ):
    population.member_mesh(jax.devices()[:2], data)
