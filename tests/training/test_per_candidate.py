"""Optimisers of shared weights against optax, NumPy and what must not move."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_corpus

from nasjax.training.optimisers import per_candidate

# Two groups that may rest, and what always runs.
GROUPS = {'a': {'w': 0, 'b': 0}, 'b': {'w': 1}, 'shared': -1}
SHAPES = {'a': {'w': (2, 3), 'b': (3,)}, 'b': {'w': (4,)}, 'shared': (2, 2)}
COUNT, LR, STEPS = 2, 0.05, 12
NO_CLIP = tiny_corpus.variant(clip=float('inf'), adam_epsilon=1e-7)
CLIPPED = tiny_corpus.variant(clip=0.5, adam_epsilon=1e-3)
MOMENTUM, DECAY = 0.9, 0.01


def _tree(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: rng.normal(size=shape).astype(np.float32),
    SHAPES,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


def _make(kind, recipe=CLIPPED):
  return per_candidate.make(
    kind, (recipe, MOMENTUM, DECAY), lambda tree: GROUPS, COUNT, jnp.float32(LR)
  )


@functools.cache
def _step(kind, recipe):
  apply = _make(kind, recipe).apply
  return jax.jit(
    lambda grads, state, params, active_g, ok: apply(
      grads, state, params, ok, active_g=active_g
    )
  )


def _gradients(active_g, seed):
  """Drawn where something ran, 0 elsewhere, as differentiation has it."""
  runs_g = np.append(active_g, True)
  return jax.tree.map(
    lambda leaf, group: leaf * np.float32(runs_g[group]), _tree(seed), GROUPS
  )


def _pattern(seed=7):
  return np.random.default_rng(seed).random((STEPS, COUNT)) < 0.5


def _norm(grads):
  squares = [np.square(np.float64(g)).sum() for g in jax.tree.leaves(grads)]
  return np.sqrt(sum(squares))


def _played(kind, recipe, pattern):
  params = _tree(0)
  state = _make(kind).init(params)
  step = _step(kind, recipe)
  for s, active_g in enumerate(pattern):
    grads = _gradients(active_g, 100 + s)
    params, state, made = step(grads, state, params, active_g, True)
    assert made
  return jax.device_get((params, state))


def _leaves_of(tree, group):
  leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(GROUPS), strict=True)
  return [leaf for leaf, owner in leaves if owner == group]


@pytest.mark.parametrize('recipe', [NO_CLIP, CLIPPED])
def test_adam_is_that_of_optax_over_the_steps_that_ran(recipe):
  pattern = _pattern()
  assert pattern.sum(0).min() > 1 and pattern.sum(0).max() < STEPS
  params, state = _played('adam', recipe, pattern)
  tx = optax.adam(LR, eps=recipe.adam_epsilon)
  for group in (0, 1, -1):
    expected = _leaves_of(_tree(0), group)
    opt_state = tx.init(expected)
    for s, active_g in enumerate(pattern):
      if not np.append(active_g, True)[group]:
        continue
      grads = _gradients(active_g, 100 + s)
      # The norm is that of all gradients together.
      scale = min(1.0, recipe.clip / _norm(grads))
      mine = [np.float32(scale) * g for g in _leaves_of(grads, group)]
      updates, opt_state = tx.update(mine, opt_state)
      expected = optax.apply_updates(expected, updates)
    for found, want in zip(_leaves_of(params, group), expected, strict=True):
      np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    moments = opt_state[0]
    assert state.count_g[group] == moments.count
    for trees, want in ((state.first, moments.mu), (state.second, moments.nu)):
      for leaf, expected_leaf in zip(_leaves_of(trees, group), want):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('kind', ['sgd', 'nesterov'])
@pytest.mark.parametrize('recipe', [NO_CLIP, CLIPPED])
def test_momentum_and_decay_in_float64(kind, recipe):
  pattern = _pattern()
  params, state = _played(kind, recipe, pattern)
  assert state.second is None
  for group in (0, 1, -1):
    w = [np.float64(leaf) for leaf in _leaves_of(_tree(0), group)]
    velocity = [np.zeros_like(leaf) for leaf in w]
    for s, active_g in enumerate(pattern):
      if not np.append(active_g, True)[group]:
        continue
      grads = _gradients(active_g, 100 + s)
      scale = min(1.0, recipe.clip / _norm(grads))
      for i, grad in enumerate(_leaves_of(grads, group)):
        # The decay comes behind the clip, and into the momentum.
        slope = scale * grad + DECAY * w[i]
        velocity[i] = MOMENTUM * velocity[i] + slope
        ahead = slope + MOMENTUM * velocity[i]
        w[i] = w[i] - LR * (ahead if kind == 'nesterov' else velocity[i])
    for found, want in zip(_leaves_of(params, group), w, strict=True):
      np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    for found, want in zip(_leaves_of(state.first, group), velocity):
      np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', per_candidate.KINDS)
def test_what_never_runs_keeps_every_bit(kind):
  never = np.tile([True, False], (STEPS, 1))
  params, state = _played(kind, CLIPPED, never)
  first = _make(kind).init(_tree(0))
  for found, old in (
    (params, _tree(0)),
    (state.first, first.first),
    *([(state.second, first.second)] if kind == 'adam' else []),
  ):
    for leaf, old_leaf in zip(_leaves_of(found, 1), _leaves_of(old, 1)):
      np.testing.assert_array_equal(leaf, old_leaf)
    for leaf, old_leaf in zip(_leaves_of(found, 0), _leaves_of(old, 0)):
      assert (leaf != old_leaf).any()
  np.testing.assert_array_equal(state.count_g, [STEPS, 0, STEPS])


@pytest.mark.parametrize('kind', per_candidate.KINDS)
def test_rest_after_work_keeps_every_bit(kind):
  # Momentum, decay and counts would all move what rests.
  work, rest = np.tile([True, True], (5, 1)), np.tile([True, False], (4, 1))
  params, state = _played(kind, CLIPPED, work)
  after, later = _played(kind, CLIPPED, np.concatenate([work, rest]))
  pairs = [(after, params), (later.first, state.first)]
  if kind == 'adam':
    pairs.append((later.second, state.second))
  for found, old in pairs:
    for leaf, old_leaf in zip(_leaves_of(found, 1), _leaves_of(old, 1)):
      np.testing.assert_array_equal(leaf, old_leaf)
      assert (leaf != 0).any()
  np.testing.assert_array_equal(later.count_g, [9, 5, 9])


@pytest.mark.parametrize('kind', per_candidate.KINDS)
def test_it_is_a_pair_of_optax(kind):
  """What rests has an update that changes no bit, not even a zero's sign."""
  pair, params = _make(kind), _tree(0)
  params['b']['w'][:] = -0.0
  params_two, state = params, pair.init(params)
  state_two, step = state, _step(kind, CLIPPED)
  update = jax.jit(
    lambda grads, state, params, active_g, ok: pair.update(
      grads, state, params, active_g=active_g, ok=ok
    )
  )
  for s, rests in enumerate((False, True)):
    active_g = np.array([True, not rests])
    grads = _gradients(active_g, s)
    updates, state = update(grads, state, params, active_g, True)
    after = optax.apply_updates(params, updates)
    if rests:
      chex.assert_trees_all_equal(after['b'], params['b'])
      assert np.signbit(updates['b']['w']).all()
    params = after
    params_two, state_two, _ = step(
      grads, state_two, params_two, active_g, True
    )
  chex.assert_trees_all_close(params, params_two, rtol=1e-5, atol=1e-7)
  chex.assert_trees_all_close(state, state_two, rtol=1e-6)
  updates, later = update(grads, state, params, active_g, False)
  chex.assert_trees_all_equal(later, state)
  assert all(np.signbit(leaf).all() for leaf in jax.tree.leaves(updates))


def _refused(grads, ok):
  params, active_g = _tree(0), np.array([True, True])
  state = _make('adam').init(params)
  step = _step('adam', CLIPPED)
  params, state, _ = step(_tree(1), state, params, active_g, True)
  after, later, made = step(grads, state, params, active_g, ok)
  chex.assert_trees_all_equal((after, later), (params, state))
  return not made


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_no_step_is_made_from_a_gradient_that_is_not_finite(bad):
  grads = _tree(2)
  grads['b']['w'][1] = bad
  assert _refused(grads, True)


def test_no_step_is_made_where_none_may_be():
  assert _refused(_tree(2), False)


def test_a_gradient_of_zero_is_no_division_by_zero():
  params = _tree(0)
  state = _make('sgd').init(params)
  grads = jax.tree.map(np.zeros_like, params)
  found, _, made = _step('sgd', CLIPPED)(
    grads, state, params, np.array([True, True]), True
  )
  assert made
  decayed = jax.tree.map(lambda leaf: leaf * (1 - LR * DECAY), params)
  chex.assert_trees_all_close(found, decayed, rtol=1e-6)


def test_an_unknown_kind_is_named():
  with pytest.raises(ValueError, match="'adamw'.*must be one of.*'nesterov'"):
    _make('adamw')
