"""Tests of what all searchers do, over the table of searchers."""

import functools
from typing import NamedTuple

import jax
import landscapes
import numpy as np
import pytest
from landscapes import planted

from nasjax.search import SEARCHERS, Suggestion

SIZES = landscapes.SMALL
EPOCHS = landscapes.EPOCHS
BUDGET = landscapes.BUDGET
REPEATS = 100


class Plan(NamedTuple):
  """How to try a searcher on a planted landscape.

  Attributes:
    steps: suggestions of one architecture.
    within: in how many trained models the optimum is looked for.
    share: of repeats that have found it by then, at least.
    settings: other than the defaults.
  """

  steps: int = BUDGET
  within: int = 200
  share: float = 0.6
  settings: dict = {}


# What differs from the usual. By chance 29 of 100 repeats find the optimum
# within 200 models and 50 within 400.
PLANS = {
  'random': Plan(within=400, share=0.35),
  'local_search': Plan(within=100, share=0.9),
  'hyperband': Plan(steps=1100, within=400),
  'successive_halving': Plan(steps=1800, within=400, share=0.7),
  'reinforce': Plan(
    settings={'controller': 'independent', 'learning_rate': 0.05}
  ),
}


# The graph network takes graphs of a space's cells, which these vectors have
# not: tests/search/test_learned.py tries it on such, and the LSTM controller.
@pytest.fixture(params=[name for name in SEARCHERS if name != 'gcn'])
def name(request):
  """The name of each searcher in turn."""
  return request.param


def plan_of(name):
  return PLANS.get(name, Plan())


def made(name, batch=1):
  return landscapes.made(name, batch, **plan_of(name).settings)


@functools.cache
def upside_down():
  return landscapes.inverted(planted())


@functools.cache
def searched(name, landscape_of=planted, seed=0):
  """The trace of all repeats on a landscape."""
  landscape = landscape_of()
  steps = plan_of(name).steps
  return landscapes.run(made(name), landscape, steps, REPEATS, seed)


def assert_in_range(arch, epochs):
  assert arch.dtype == np.int32 and epochs.dtype == np.int32
  assert (arch >= 0).all() and (arch < np.array(SIZES)).all()
  assert (epochs >= 0).all() and (epochs <= EPOCHS).all()


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


# What all searchers do.


@pytest.mark.parametrize('landscape_of', [planted, upside_down])
def test_finds_the_planted_optimum(name, landscape_of):
  """In most repeats, and but for random search by more than three errors."""
  plan = plan_of(name)
  trace = searched(name, landscape_of)
  share = landscapes.found(trace, landscape_of(), plan.within).mean()
  assert share >= plan.share
  if name != 'random':
    by_chance = landscapes.chance(landscape_of(), plan.within)
    error = np.sqrt(by_chance * (1 - by_chance) / REPEATS)
    assert share > by_chance + 3 * error


@pytest.mark.parametrize('landscape_of', [planted, upside_down])
def test_minimises(name, landscape_of):
  """What is trained to the end is better than the space; its like is not.

  One landscape is the other upside down: who took the sign wrongly would lie
  above the mean of both.
  """
  trace = searched(name, landscape_of)
  per_c = landscape_of().per_ce[:, -1]
  newest_rs = np.s_[:, trace.epochs_rsn.shape[1] // 2 :]
  full = trace.epochs_rsn[newest_rs] == EPOCHS
  mean = trace.test_rsn[newest_rs][full].mean()
  error = per_c.std() / np.sqrt(full.sum())
  if name == 'random':
    assert abs(mean - per_c.mean()) < 4 * error
  else:
    assert mean < per_c.mean() - 0.25 * per_c.std()


def test_one_seed_one_trace(name):
  steps = plan_of(name).steps
  again = landscapes.run(made(name), planted(), steps, REPEATS, seed=0)
  assert_same(again, searched(name))


def test_seeds_and_repeats_differ(name):
  trace = searched(name)
  other = landscapes.run(
    made(name), planted(), plan_of(name).steps, REPEATS, seed=1
  )
  firsts = {arch_sd[:20].tobytes() for arch_sd in trace.arch_rsnd}
  assert len(firsts) == REPEATS
  assert firsts.isdisjoint(
    arch_sd[:20].tobytes() for arch_sd in other.arch_rsnd
  )


def test_stays_in_range(name):
  for landscape_of in planted, upside_down:
    trace = searched(name, landscape_of)
    assert_in_range(trace.arch_rsnd, trace.epochs_rsn)
    assert (trace.epochs_rsn > 0).any(2).all()


def test_goes_on_when_all_fail(name):
  """Nothing but failures, told as 1: no step is lost, no number breaks."""
  failing = planted()._replace(per_ce=np.ones_like(planted().per_ce))
  trace = landscapes.run(made(name), failing, plan_of(name).steps, REPEATS)
  assert_in_range(trace.arch_rsnd, trace.epochs_rsn)
  assert len(np.unique(trace.arch_rsnd[0, :, 0], axis=0)) > 10


def test_finds_the_optimum_among_failures(name):
  """Every third vector fails; half the usual share is still found."""
  fails = np.arange(len(planted().per_ce)) % 3 == 0
  fails[np.ravel_multi_index(planted().best, SIZES)] = False
  per_ce = np.where(fails[:, None], np.float32(1), planted().per_ce)
  landscape = planted()._replace(per_ce=per_ce)
  plan = plan_of(name)
  trace = landscapes.run(made(name), landscape, plan.steps, REPEATS)
  found = landscapes.found(trace, landscape, plan.within)
  assert found.mean() >= plan.share / 2


def test_asks_in_batches(name):
  """Four at a time: in range, never empty, and better towards the end."""
  assert made(name, 4).batch == 4 and made(name).batch == 1
  fulls = []
  for told, per_n, _ in landscapes.walk(made(name, 4), planted(), 60):
    assert told.arch_nd.shape == (4, len(SIZES))
    assert told.epochs_n.shape == (4,)
    assert_in_range(*told)
    assert (told.epochs_n > 0).any()
    fulls += list(per_n[told.epochs_n == EPOCHS])
  if name != 'random':
    assert np.mean(fulls[len(fulls) // 2 :]) < planted().per_ce[:, -1].mean()


def test_ignores_padding(name):
  """What has no epochs changes nothing, whatever stands there."""
  tell = jax.jit(made(name, 4).tell)
  told, per_n, state = landscapes.walk(made(name, 4), planted(), 12)[-1]
  told = Suggestion(told.arch_nd, np.array([EPOCHS, 0, EPOCHS, 0], np.int32))
  other = np.array(told.arch_nd)
  other[1::2] = np.array(SIZES) - 1 - other[1::2]
  one = tell(state, told, np.where(told.epochs_n > 0, per_n, 0.0))
  two = tell(
    state,
    Suggestion(other, told.epochs_n),
    np.where(told.epochs_n > 0, per_n, 1.0).astype(np.float32),
  )
  assert_same(one, two)


def test_learns_of_what_was_evaluated(name):
  """The driver replaces what is suggested by a vector nearby, then tells."""

  def nearest(arch_nd):
    return np.concatenate([arch_nd[:, :-1], 0 * arch_nd[:, -1:]], axis=1)

  fulls = []
  for told, per_n, _ in landscapes.walk(made(name, 4), planted(), 60, nearest):
    assert_in_range(*told)
    fulls += list(per_n[told.epochs_n == EPOCHS])
  if name != 'random':
    assert np.mean(fulls[len(fulls) // 2 :]) < planted().per_ce[:, -1].mean()


@pytest.mark.parametrize(
  ('changed', 'named'),
  [
    ({'sizes': ()}, 'sizes'),
    ({'sizes': (1, 1)}, 'sizes'),
    ({'sizes': (3, 0)}, 'sizes'),
    ({'epochs': 0}, 'epochs=0'),
    ({'budget': 0}, 'budget=0'),
    ({'batch': 0}, 'batch=0'),
  ],
)
def test_refuses_by_name(name, changed, named):
  usual = {'sizes': SIZES, 'epochs': EPOCHS, 'budget': BUDGET, 'batch': 1}
  with pytest.raises(ValueError, match=named):
    SEARCHERS[name](**(usual | changed))


@pytest.mark.parametrize(
  ('name', 'setting', 'value'),
  [
    ('evolution', 'population', 0),
    ('evolution', 'sample', 0),
    ('hyperband', 'eta', 1),
    ('successive_halving', 'eta', 2.5),
    ('q_learning', 'alpha', 0.0),
    ('q_learning', 'gamma', 1.5),
    ('q_learning', 'epsilon', -0.1),
    ('q_learning', 'exploring', 0),
  ],
)
def test_refuses_settings(name, setting, value):
  with pytest.raises(ValueError, match=f'{setting}={value}'):
    SEARCHERS[name](SIZES, EPOCHS, BUDGET, **{setting: value})
