"""Networks taken from a supernet are its networks, and come by their bounds."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import tiny_todm

import nasjax
from nasjax import cost, deploying
from nasjax.models import common, families
from nasjax.storage import checkpoints
from nasjax.training import portable, recipes

SPACE, MACRO, RECIPE = tiny_todm.SPACE, tiny_todm.MACRO, tiny_todm.RECIPE
# The last has one layer: how wide the second would be is nothing.
ARCHS = [1, 1, 0], [0, 1, 0], [0, 0, 1]
ERRORS = 0.2, 0.3, 0.5
NAME = 'abc'


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_todm.registered():
    yield


def params_of(arch):
  return cost.params(SPACE, arch, MACRO)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """A study's directory with one supernet, and the weights of that."""
  out = tmp_path_factory.mktemp('study')
  elastic = families.elastic(SPACE)
  network = families.elastic_network(SPACE, MACRO, RECIPE)
  gates = elastic.gates(SPACE, elastic.largest(SPACE))
  params = jax.jit(lambda key: common.initial_params(network, key, gates))(
    jax.random.key(0)
  )
  params = jax.tree.map(lambda leaf: np.asarray(leaf + 0.05), params)
  place = out / 'supernets' / NAME
  with checkpoints.manager(place, keep=2) as saved:
    saver = checkpoints.Saver(saved, place)
    saver.save(2, {'params': params, 'step': np.array(7)}, {'of': 'tests'})
    saver.finish()
  portable.keep(place, tiny_corpus.prepared(RECIPE), {'of': 'tests'})
  store = {
    'name': NAME, 'way': 'D', 'seed': 4, 'space': SPACE.name,
    'macro': dataclasses.asdict(MACRO), 'recipe': recipes.describe(RECIPE),
    'corpus': 'tiny', 'fingerprint': tiny_corpus.corpus().fingerprint,
    'store': [
      {
        'arch': arch, 'names': SPACE.names(arch), 'params': params_of(arch),
        'validation': error,
      }
      for arch, error in zip(ARCHS, ERRORS)
    ],
  }  # fmt: skip
  (out / 'supernets' / f'{NAME}.json').write_text(json.dumps(store))
  return out, network, params


@pytest.mark.parametrize(
  'n', [*(pytest.param(n, marks=pytest.mark.slow) for n in range(2)), 2]
)
def test_the_best_within_a_bound_comes_with_its_own_weights(study, n):
  out, elastic, params = study
  found = nasjax.best(out, max_params=params_of(ARCHS[n]))
  assert found.arch.tolist() == ARCHS[n] and found.error == ERRORS[n]
  assert (found.way, found.seed, found.latency) == ('D', 4, None)
  network = nasjax.load_network(found)
  leaves = jax.tree.leaves(network.params)
  assert sum(leaf.size for leaf in leaves) == found.params
  assert network.seed == 4 and network.epoch == 2 and not network.notes
  # By itself it says what it says within the largest one.
  x_btf = np.random.default_rng(n).normal(size=(2, 12, 8)).astype(np.float32)
  arguments = jnp.asarray(x_btf), jnp.asarray([12, 7])
  gates = families.elastic(SPACE).gates(SPACE, ARCHS[n])
  inside = jax.jit(elastic.apply)({'params': params}, *arguments, gates)
  alone = jax.jit(network.module.apply)(
    {'params': network.params}, *arguments, network.gates
  )
  np.testing.assert_allclose(alone.enc_btd, inside.enc_btd, atol=1e-5)


def test_it_hears_and_is_not_written_twice(study):
  out, _, _ = study
  found = nasjax.best(out, params_of(ARCHS[2]))
  before = {p: p.stat().st_mtime_ns for p in found.place.rglob('*')}
  assert nasjax.best(out, params_of(ARCHS[2])) == found
  assert {p: p.stat().st_mtime_ns for p in found.place.rglob('*')} == before
  network = nasjax.load_network(found)
  (heard,) = network.hear([tiny_corpus.corpus().test.x_tf(0)])
  assert set(heard.symbols) <= set(tiny_corpus.SYMBOLS)
  with pytest.raises(ValueError, match='of its supernets by nasjax.best'):
    nasjax.load_network(out)
  # Nothing half written is left.
  assert not list((out / 'networks').glob('.*'))


def test_what_no_network_is_within_is_one_line_with_the_smallest(study):
  out, _, _ = study
  least = params_of(ARCHS[2])
  with pytest.raises(ValueError) as e:
    nasjax.best(out, max_params=least - 1)
  assert str(e.value) == (
    f'{out}: no network has at most {least - 1:,} parameters; the smallest has '
    f'{least:,}: {SPACE.names(ARCHS[2])}'
  )
  with pytest.raises(ValueError, match="no supernet of way 'B1' and seed 3; "
                     'there are D, seed 4'):  # fmt: skip
    nasjax.best(out, way='B1', seed=3)
  with pytest.raises(ValueError, match='no supernet that was searched'):
    nasjax.best(out / 'networks')
  for bound in '3', 0, float('nan'):
    with pytest.raises(ValueError, match=f'max_latency is {bound!r}; want a'):
      nasjax.best(out, max_latency=bound)


def test_latency_is_a_bound_and_the_best_is_timed_first(study, monkeypatch):
  out, _, _ = study
  asked = []

  class Watch:
    def __init__(self, space, macro, batch, frames):
      assert (space, macro, batch, frames) == (SPACE, MACRO, 1, 500)

    def time(self, arch):
      asked.append(arch.tolist())
      median = 0.1 * (1 + sum(arch.tolist()[:2]))
      return deploying.latency.Timing(median, median, median, 50, 10)

  monkeypatch.setattr(deploying.latency, 'Stopwatch', Watch)
  found = nasjax.best(out, max_latency=0.25)
  assert found.arch.tolist() == ARCHS[1] and found.latency == 0.2
  assert asked == [*ARCHS[:2]]
  with pytest.raises(ValueError, match='the fastest takes 0.1 s and has'):
    nasjax.best(out, max_latency=0.05)


def test_a_damaged_file_is_named(study, tmp_path):
  place = tmp_path / 'supernets'
  place.mkdir()
  named = dict.fromkeys(deploying._STORE)
  for told, said in (
    ({'way': 'D'}, 'store'),
    ({'store': []}, 'no name, way, .*, fingerprint'),
    (named | {'store': [{'arch': [0], 'names': ''}]}, 'no params, validation'),
  ):
    (place / 'x.json').write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f'x.json is damaged .*{said}'):
      nasjax.best(tmp_path)
  (place / 'x.json').write_text(json.dumps(named | {'store': []}))
  with pytest.raises(ValueError, match='kept no network, .* diverged'):
    nasjax.best(tmp_path)


def test_statistics_of_networks_lie_beside_their_supernet(tmp_path):
  (tmp_path / 'supernets').mkdir()
  own = {
    (1, 0): {'layer0': {'norm': {'mean': np.ones(3, np.float32)}}},
    (1, 1): {'layer0': {'norm': {'mean': np.zeros(3, np.float32)}}},
  }
  deploying.keep_statistics(tmp_path, NAME, own)
  for arch, tree in own.items():
    found = deploying._own_statistics(tmp_path, NAME, np.array(arch, np.int8))
    jax.tree.map(np.testing.assert_array_equal, found, tree)
  with pytest.raises(ValueError, match=r'no statistics of \[0, 1\]; take a'):
    deploying._own_statistics(tmp_path, NAME, [0, 1])
  with pytest.raises(ValueError, match='give the command of the study again'):
    deploying._own_statistics(tmp_path, 'other', [0, 1])
