"""Expected latency: its gradient, and where it takes a search."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import toy_supernet

from nasjax.oneshot import expected, methods, stages
from nasjax.oneshot import search as searching
from nasjax.oneshot import steps as steps_lib
from nasjax.predictors import latency
from nasjax.training import batches

SECONDS = ((0.001, 0.004, 0.0), (0.002, 0.002, 0.0), (0.003, 0.001, 0.0))
SECONDS += ((0.0, 0.0005),)


def made(**changed):
  values = {'seconds_e': SECONDS, 'base': 0.001, 'reference': 0.004}
  return expected.Latency(**(values | changed))


@pytest.mark.parametrize('form', expected.FORMS)
def test_the_gradient_is_that_of_finite_differences(form):
  minds, rng = made(form=form, weight=0.3), np.random.default_rng(0)
  alpha_e = tuple(rng.normal(size=len(s)) for s in SECONDS)

  def value(alpha_e):
    return minds.added(2.5, alpha_e)

  with jax.enable_x64(True):
    grads = jax.grad(value)(tuple(map(jnp.asarray, alpha_e)))
    for e, alpha_k in enumerate(alpha_e):
      for k in range(len(alpha_k)):
        moved = []
        for step in (1e-5, -1e-5):
          other = [a.copy() for a in alpha_e]
          other[e][k] += step
          moved.append(float(value(tuple(map(jnp.asarray, other)))))
        slope = (moved[0] - moved[1]) / 2e-5
        assert grads[e][k] == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_it_is_the_mean_over_all_networks():
  alpha_e = tuple(jnp.zeros(len(s)) for s in SECONDS)
  mean = 0.001 + sum(np.mean(s) for s in SECONDS)
  assert made().expected(alpha_e) == pytest.approx(mean, rel=1e-6)
  sure_e = tuple(jnp.zeros(len(s)).at[1].set(50.0) for s in SECONDS)
  assert made().expected(sure_e) == pytest.approx(0.0085, rel=1e-5)


def _moved(method, monkeypatch, steps=4):
  """Architecture parameters after some steps in which latency is all."""
  toy_supernet.install(monkeypatch)
  minds = made(weight=1e4)
  method = dataclasses.replace(
    method, latency=minds, alpha_lr=0.1, alpha_decay=0.0, arch_every=1
  )
  supernet, weights = toy_supernet.SUPERNET, toy_supernet.WEIGHTS
  state = steps_lib.init(supernet, method, weights, jax.random.key(0))
  prepared = tiny_corpus.prepared(toy_supernet.RECIPE)
  data, buckets = prepared.train.example(), prepared.buckets
  joint = method.single_level
  make = steps_lib.make_joint_step if joint else steps_lib.make_arch_step
  step = jax.jit(make(supernet, method, weights))
  for s in range(steps):
    held, batch = (
      batches.gather(data, first + np.arange(4), buckets[0])
      for first in (4 * s, 4 * s + 4)
    )
    given = (held, 0.0, 1.0) if joint else (held, batch, 0.0, 1.0)
    before = minds.expected(state.alpha_e)
    state, *_ = step(state, *given)
    assert minds.expected(state.alpha_e) < before
  return state.alpha_e


ALL = [m for m in methods.METHODS.values() if m.searches]


@pytest.mark.parametrize(
  'method',
  [
    m if m.name == 'gdas' else pytest.param(m, marks=pytest.mark.slow)
    for m in ALL
    if m.order == 1 and m.arch_mode != 'pair'
  ],
  ids=lambda m: m.name,
)
def test_architecture_parameters_move_to_what_is_cheap(method, monkeypatch):
  alpha_e = _moved(method, monkeypatch)
  for alpha_k, seconds_k in zip(alpha_e, SECONDS):
    assert np.argmax(alpha_k) == np.argmin(seconds_k)


def test_searches_without_it_keep_their_names():
  def described(method):
    own = toy_supernet.SUPERNET, method, toy_supernet.WEIGHTS
    return searching.Search(*own, stages.fixed(1, 1, 0.1), 0).describe()

  plain = described(methods.GDAS)
  assert 'latency' not in plain['method']
  minding = described(dataclasses.replace(methods.GDAS, latency=made()))
  assert minding['method'].pop('latency')['reference'] == 0.004
  assert minding == plain
  json.dumps(minding)


def test_seconds_come_from_a_table_of_operations():
  supernet = toy_supernet.SUPERNET
  space = supernet.space
  rng = np.random.default_rng(0)
  archs = np.stack([rng.integers(size, size=60) for size in space.sizes], 1)
  effect_dk = [0.001 * rng.random(size) for size in space.sizes]
  seconds_n = 0.01 + sum(e[archs[:, d]] for d, e in enumerate(effect_dk))
  table = latency.operations(
    latency.Profile(
      space, supernet.macro, 'bench', 1, 100, archs.astype(np.int8), seconds_n
    )
  )
  minds = expected.from_operations(table, supernet, 0.01)
  assert [len(s) for s in minds.seconds_e] == [3, 3, 3, 2]
  # Of one network it is what the whole table says.
  chosen = [1, 0, 2, 1]
  sure_e = tuple(
    jnp.zeros(len(s)).at[k].set(60.0) for s, k in zip(minds.seconds_e, chosen)
  )
  arch = supernet.arch(chosen)
  wanted = 0.01 + sum(e[v] for e, v in zip(effect_dk, arch))
  assert minds.expected(sure_e) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
  'changed, words',
  [
    ({'weight': 0.0}, 'weight is 0.0'),
    ({'reference': -1.0}, 'reference is -1.0'),
    ({'form': 'cubic'}, "form 'cubic'"),
    ({'seconds_e': ((float('nan'),),)}, 'seconds of candidates'),
    ({'base': float('nan')}, 'base is nan'),
    ({'form': 'product', 'reference': 5e-4}, 'more than a millisecond'),
  ],
)
def test_what_is_wrong_is_told(changed, words):
  with pytest.raises(ValueError, match=words):
    made(**changed)
