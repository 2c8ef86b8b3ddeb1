"""Predictors of latency on planted profiles; what they refuse."""

import dataclasses
import json

import numpy as np
import pytest

from nasjax import spaces
from nasjax.models import macros
from nasjax.predictors import latency

SPACE, MACRO = spaces.NB_ASR, macros.TINY


def planted(count=80, noise=0.0, seed=0):
  """Operations and skips that add up, one of them a surprise to MACs."""
  rng = np.random.default_rng(seed)
  archs = np.stack([rng.integers(size, size=count) for size in SPACE.sizes], 1)
  effect_dk = [np.linspace(0, 1e-3, size) for size in SPACE.sizes]
  seconds_n = 4e-3 + sum(e[archs[:, d]] for d, e in enumerate(effect_dk))
  seconds_n = seconds_n * np.exp(noise * rng.normal(size=count))
  return latency.Profile(
    SPACE, MACRO, 'bench', 1, 200, archs.astype(np.int8), seconds_n
  )


def test_a_table_of_operations_is_exact_where_costs_add_up():
  profile = planted()
  told_n = latency.held_out('operations', profile)
  np.testing.assert_allclose(told_n, profile.seconds_n, rtol=1e-9)
  table = latency.operations(profile)
  for d, size in enumerate(SPACE.sizes):
    np.testing.assert_allclose(
      table.seconds_dk[d], np.linspace(0, 1e-3, size), atol=1e-12
    )
  assert table.base == pytest.approx(4e-3)


@pytest.mark.parametrize('name, error', [('macs', 0.25), ('forest', 0.15)])
def test_others_come_near(name, error):
  if name == 'forest':
    pytest.importorskip('sklearn')
  profile = planted(noise=0.01)
  told_n = latency.held_out(name, profile, folds=2)
  assert np.median(np.abs(told_n / profile.seconds_n - 1)) < error


def test_a_graph_network_learns_the_planted_profile():
  profile = planted(60)
  recipe = latency.RECIPE._replace(hidden=32, layers=2, epochs=150)
  recipe = recipe._replace(learning_rate=4e-3)
  apply = latency._by_gcn(profile, profile.seconds_n, 0, recipe)
  told_n = apply(profile.archs_nd)
  spread = np.std(profile.seconds_n)
  assert np.abs(told_n - profile.seconds_n).mean() < 0.6 * spread


def test_unknown_operations_and_devices_are_refused():
  profile = planted()
  zero = SPACE.ops.index('zero')
  without = (profile.archs_nd[:, SPACE.op_positions[0]] != zero).nonzero()[0]
  predictor = latency.fit('operations', profile.take(without))
  known = profile.archs_nd[without[:2]]
  assert predictor.predict(known, 'bench').shape == (2,)
  with pytest.raises(ValueError, match="device 'phone'.*of 'bench'"):
    predictor.predict(known, 'phone')
  new = known.copy()
  new[:, SPACE.op_positions[0]] = zero
  with pytest.raises(ValueError, match='unknown operation op1=zero'):
    predictor.predict(new)
  table = latency.operations(profile.take(without))
  with pytest.raises(ValueError, match="unknown operation 'conv99'"):
    table.of_edges((('op1', ('linear', 'conv99')),))
  with pytest.raises(ValueError, match='op1=zero'):
    table.of_edges((('op1', ('linear', 'zero')),))
  with pytest.raises(
    ValueError, match="'trees' is unknown; there are operations"
  ):
    latency.fit('trees', profile)
  two = profile.take(np.arange(2))
  for wrong in 0.0, np.nan, np.inf:
    with pytest.raises(ValueError, match='1 of them without'):
      latency.fit('macs', two._replace(seconds_n=np.r_[wrong, 1.0]))
  with pytest.raises(ValueError, match='80 networks, times of 2'):
    latency.fit('operations', profile._replace(seconds_n=np.ones(2)))
  for folds, words in (1, 'folds is 1; want 2'), (41, 'want two a fold'):
    with pytest.raises(ValueError, match=words):
      latency.held_out('operations', profile, folds)


def written(path, **changed):
  profile = planted(12)
  record = {
    'space': 'nb_asr',
    'macro': dataclasses.asdict(MACRO),
    'device': 'bench',
    'batch': 1,
    'frames': 200,
    'cells': [
      {'arch': SPACE.nested(arch), 'seconds': seconds}
      for arch, seconds in zip(profile.archs_nd, profile.seconds_n)
    ],
  }
  path.write_text(json.dumps(record | changed))
  return profile


def test_a_profile_is_read_as_it_was_written(tmp_path):
  path = tmp_path / 'profile.json'
  profile = written(path)
  found = latency.read(path)
  assert found[:5] == profile[:5]
  np.testing.assert_array_equal(found.archs_nd, profile.archs_nd)
  np.testing.assert_array_equal(found.seconds_n, profile.seconds_n)
  cell = {'arch': SPACE.nested(profile.archs_nd[0]), 'seconds': -1}
  for changed, words in (
    ({'space': 'moon'}, "profile.json: space 'moon'"),
    ({'cells': [cell]}, 'profile.json, cell 1: seconds is -1'),
    ({'cells': [{'arch': [9]}]}, 'profile.json, cell 1'),
    ({'space': ['nb_asr']}, 'profile.json: space '),
    *(
      (damaged, 'profile.json: macro, batch, frames or cells are damaged')
      for damaged in ({'macro': 'tiny'}, {'cells': None}, {'batch': 'one'})
    ),
  ):
    written(path, **changed)
    with pytest.raises(ValueError, match=words):
      latency.read(path)
  path.write_text('[]')
  with pytest.raises(ValueError, match='profile.json lacks space, macro'):
    latency.read(path)
  with pytest.raises(ValueError, match='No such file or directory; name a'):
    latency.read(tmp_path / 'none.json')
