"""Optimisers by name: any pair of optax trains, behind the recipe's clip."""

import chex
import jax
import numpy as np
import optax
import pytest
import tiny_corpus

from nasjax.training import optimisers, recipes
from nasjax.training import step as step_lib
from nasjax.training.optimisers import one_pass

PAIR = (
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 9),
)
PARAMS = {'w': np.ones((2, 3), np.float32), 'b': np.zeros(3, np.float32)}


@pytest.mark.parametrize(
  'name, make',
  [
    ('adamw', lambda recipe, kernels, lr: optax.adamw(lr)),
    ('sgd', lambda recipe, kernels, lr: optax.sgd(lr, momentum=0.9)),
    pytest.param(
      'scaled_adam',
      optimisers.OPTIMISERS['scaled_adam'],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_pairs_of_optax_train_populations(name, make, monkeypatch):
  monkeypatch.setitem(optimisers.OPTIMISERS, name, make)
  recipe = tiny_corpus.variant(optimiser=name, clip=0.5)
  trainer = tiny_corpus.trainer(PAIR, recipe)
  state = trainer.initial()
  first = jax.tree.map(np.array, state.members.params)
  for epoch in (1, 2):
    state = trainer.epoch(state, epoch)
  assert state.members.alive.all() and (state.members.step == 10).all()
  losses_pe = state.curves['train_loss']
  assert (losses_pe[:, 1] < losses_pe[:, 0]).all()
  moved = jax.tree.map(
    lambda one, other: np.abs(one - other).max(), first, state.members.params
  )
  assert moved['head']['kernel'] > 0
  # A member of rate 0 stays as it is, and so does one whose loss is no number.
  before = jax.tree.map(np.array, state.members)
  poisoned = jax.tree.map(np.array, before.params)
  poisoned['head']['bias'][1] = np.nan
  sick = before._replace(params=poisoned)
  arguments = trainer.train_arguments(
    sick, trainer.plan(1), np.array([0, 1e-2], np.float32)
  )
  after, _ = trainer.programs.train(*arguments)
  chex.assert_trees_all_equal(after._replace(alive=0), sick._replace(alive=0))
  np.testing.assert_array_equal(after.alive, [True, False])


def test_the_rate_is_that_of_the_schedule_and_the_clip_that_of_the_recipe(
  monkeypatch,
):
  monkeypatch.setitem(
    optimisers.OPTIMISERS, 'sgd', lambda recipe, kernels, lr: optax.sgd(lr)
  )
  recipe = tiny_corpus.variant(optimiser='sgd', clip=1.0)
  grads = jax.tree.map(lambda leaf: np.full_like(leaf, 2.0), PARAMS)
  pair = optimisers.of(recipe, lr=0.25)
  params, _, made = one_pass.step(pair, grads, pair.init(PARAMS), PARAMS, True)
  # The norm of nine numbers of 2 is 6.
  chex.assert_trees_all_close(
    params, jax.tree.map(lambda leaf: leaf - 0.25 / 3, PARAMS), rtol=1e-6
  )
  assert made


def test_an_unknown_optimiser_is_named():
  recipe = tiny_corpus.variant(optimiser='lion')
  with pytest.raises(ValueError, match="pocket: optimiser='lion'.*adam"):
    optimisers.of(recipe)
  assert recipes.describe(recipe)['optimiser'] == 'lion'
  assert 'optimiser' not in recipes.describe(tiny_corpus.RECIPE)


def test_moments_are_laid_out_as_parameters_are():
  pair = optax.chain(optax.adamw(1.0), optax.trace(0.9))
  state = step_lib.Member(PARAMS, pair.init(PARAMS), 0, True, None)
  packed = step_lib.reordered(state, lambda tree: {'both': tree})
  adam, trace = packed.opt_state[0][0], packed.opt_state[1]
  for tree in (packed.params, adam.mu, adam.nu, trace.trace):
    assert list(tree) == ['both']
  assert adam.count == 0


def test_updates_that_do_not_fit_are_refused():
  rows = optax.stateless(
    lambda updates, params: jax.tree.map(lambda leaf: leaf[..., :1], updates)
  )
  with pytest.raises(AssertionError, match='(?s)shape.*3'):
    one_pass.step(rows, PARAMS, rows.init(PARAMS), PARAMS, True)
