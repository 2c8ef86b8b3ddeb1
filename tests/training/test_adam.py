"""Adam behind a clip, in both forms, against NumPy in double precision."""

import functools

import chex
import jax
import jax.numpy as jnp
import native
import numpy as np
import optax
import pytest
import tiny_corpus
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from nasjax import kernels
from nasjax.training import recipes
from nasjax.training.optimisers import adam

# A block of the native kernel is 16384 numbers long.
SIZES = {'one': (), 'few': (7,), 'block': (128, 128), 'more': (40000,)}
LR = 0.25
CLIPPED, LOOSE = 3.0, 1e4


def _recipe(clip=CLIPPED, epsilon=1e-7):
  return tiny_corpus.variant(clip=clip, adam_epsilon=epsilon)


def _trees(seed, scale=1.0):
  """Returns a tree drawn of all sizes."""
  rng = np.random.default_rng(seed)
  return {
    name: (scale * rng.normal(size=shape)).astype(np.float32)
    for name, shape in SIZES.items()
  }


def _slow(recipe, params, grads_of_steps):
  """Kingma and Ba's algorithm 1 after the clip; returns params, mu and nu."""
  b1, b2 = 0.9, 0.999
  params = jax.tree.map(np.float64, params)
  mu, nu = (jax.tree.map(np.zeros_like, params) for _ in range(2))
  for t, grads in enumerate(grads_of_steps, 1):
    grads = jax.tree.map(np.float64, grads)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in grads.values()))
    for name, g in grads.items():
      g = g * min(1, recipe.clip / norm)
      mu[name] = b1 * mu[name] + (1 - b1) * g
      nu[name] = b2 * nu[name] + (1 - b2) * g**2
      first, second = mu[name] / (1 - b1**t), nu[name] / (1 - b2**t)
      step = first / (np.sqrt(second) + recipe.adam_epsilon)
      params[name] = params[name] - LR * step
  return params, mu, nu


def _update(recipe, kind):
  """Returns the jitted update of one member."""

  return jax.jit(adam.make(recipe, kind, jnp.float32(LR)).apply)


def _all_close(tree, expected, rtol=2e-6, atol=0.0):
  chex.assert_trees_all_close(tree, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize('kind', native.KINDS)
@pytest.mark.parametrize('epsilon', [1e-7, 1e-2])
@pytest.mark.parametrize('clip', [CLIPPED, LOOSE])
def test_steps_against_numpy_and_optax(clip, epsilon, kind):
  recipe = _recipe(clip, epsilon)
  drawn = [_trees(seed, 0.1 * seed) for seed in range(1, 6)]
  norms = [float(optax.tree.norm(grads)) for grads in drawn]
  assert min(norms) > CLIPPED and max(norms) < LOOSE
  params = first = _trees(0)
  state = adam.make(recipe).init(params)
  chain = optax.chain(
    optax.clip_by_global_norm(clip), optax.adam(LR, eps=epsilon)
  )
  theirs, their_state = params, chain.init(params)
  # As users compile it: bounds on rounding are those of fused multiply-adds.
  step = jax.jit(
    _update(recipe, kind),
    compiler_options={'xla_backend_optimization_level': 3},
  )
  for grads in drawn:
    params, state, made = step(grads, state, params, jnp.array(True))
    assert made
    updates, their_state = chain.update(grads, their_state, theirs)
    theirs = optax.apply_updates(theirs, updates)
  expected, mu, nu = _slow(recipe, first, drawn)
  assert state[1].count == len(drawn)
  # 1 - 0.999 ** t has lost four digits in single precision, in optax too.
  _all_close(params, expected, atol=len(drawn) * LR * 3e-5)
  _all_close(params, theirs, atol=2e-6)
  # Sums of gradients cancel.
  _all_close(state[1].mu, mu, atol=1e-8)
  _all_close(state[1].nu, nu)
  other, *_ = _slow(_recipe(clip, 3 * epsilon), first, drawn)
  moved = np.abs(other['one'] - expected['one']) > 1e-4
  assert moved == (epsilon > 1e-3)


@pytest.mark.parametrize('kind', native.KINDS)
@pytest.mark.parametrize('clip', [CLIPPED, LOOSE])
def test_nothing_to_do_changes_no_parameter(clip, kind):
  """A gradient of zero has a norm that nothing can be divided by."""
  recipe, params = _recipe(clip), _trees(0)
  zero = jax.tree.map(np.zeros_like, params)
  found, state, made = _update(recipe, kind)(
    zero, adam.make(recipe).init(params), params, jnp.array(True)
  )
  assert made and state[1].count == 1
  chex.assert_trees_all_equal(found, params)
  chex.assert_trees_all_equal((state[1].mu, state[1].nu), (zero, zero))


@pytest.mark.parametrize('kind', native.KINDS)
def test_it_is_a_pair_of_optax(kind):
  """Its updates lead where `apply` does, behind optax's own wrappers too."""
  recipe, params = _recipe(), _trees(0)
  rates = recipes.schedule(recipe, steps=2)
  pair = adam.make(recipe, kind, rates)
  theirs = optax.chain(
    optax.clip_by_global_norm(recipe.clip),
    optax.adam(rates, eps=recipe.adam_epsilon),
  )
  chained = optax.chain(pair, optax.identity())

  @jax.jit
  def step(grads, states, params_k):
    updates, one = pair.update(grads, states[0], params_k[0])
    direct, two, _ = pair.apply(grads, states[1], params_k[1], True)
    more, three = chained.update(grads, states[2], params_k[2], ok=True)
    last, four = theirs.update(grads, states[3], params_k[3])
    found = (
      optax.apply_updates(params_k[0], updates), direct,
      optax.apply_updates(params_k[2], more),
      optax.apply_updates(params_k[3], last),
    )  # fmt: skip
    return (one, two, three, four), found

  first, bad = _trees(1), _trees(2)
  bad['few'][0] = np.nan
  states = tuple(t.init(params) for t in (pair, pair, chained, theirs))
  found = (params,) * 4
  for seed in range(1, 4):
    states, found = step(_trees(seed), states, found)
  for other in found[1:]:
    _all_close(found[0], other, atol=1e-6)
  chex.assert_trees_all_equal(states[0], states[1])
  assert rates(2) < rates(0)
  # What must not move does not, down to the sign of a zero.
  still = jax.tree.map(lambda leaf: np.full_like(leaf, -0.0), params)
  for grads, ok in ((bad, True), (first, False)):
    updates, after = pair.update(grads, states[0], params, ok=ok)
    chex.assert_trees_all_equal(after, states[0])
    held = optax.apply_updates(still, updates)
    assert all(np.signbit(leaf).all() for leaf in held.values())


def _members(recipe, count=4):
  """Returns gradients, state and params of members that took a step."""
  drawn = [[_trees(10 * p + n) for n in range(3)] for p in range(count)]
  step, taken = _update(recipe, 'xla'), []
  for params, before, grads in drawn:
    state = adam.make(recipe).init(params)
    params, state, _ = step(before, state, params, jnp.array(True))
    taken.append((grads, state, params))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *taken)


def _member(tree, p):
  return jax.tree.map(lambda leaf: leaf[p], tree)


@pytest.mark.parametrize('kind', native.KINDS)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('leaf', ['one', 'more'])
def test_members_that_cannot_go_on_stay_as_they_are(leaf, bad, kind):
  recipe = _recipe()
  grads_p, state_p, params_p = _members(recipe)
  grads_p[leaf].reshape(4, -1)[2, -1] = bad
  ok_p = np.array([True, False, True, True])
  step = _update(recipe, kind)
  new_p, new_state_p, made_p = jax.vmap(step)(grads_p, state_p, params_p, ok_p)
  np.testing.assert_array_equal(made_p, [True, False, False, True])
  for p in (1, 2):
    chex.assert_trees_all_equal(
      _member((new_p, new_state_p), p), _member((params_p, state_p), p)
    )
  # What they do does not touch the others.
  for p in (0, 3):
    alone = step(*_member((grads_p, state_p, params_p, ok_p), p))
    atol = 0 if kind == 'native' else 1e-6
    _all_close(_member((new_p, new_state_p), p), alone[:2], atol, atol)
    assert new_state_p[1].count[p] == 2
    assert np.mean(new_p['more'][p] != params_p['more'][p]) > 0.99


@native.needed
def test_a_loop_writes_in_place():
  recipe, steps = _recipe(), 5
  grads_p, state_p, params_p = _members(recipe)
  grads_p['few'][1, 3] = np.nan
  step = _update(recipe, 'native')
  ok_p = jnp.ones(4, bool)

  @functools.partial(jax.jit, donate_argnums=(1, 2))
  def loop(grads_p, state_p, params_p):
    def body(n, carry):
      params_p, state_p, made_p = carry
      # The second member is stopped by its gradient, the last by `ok`.
      go_p = ok_p & (jnp.arange(4) != jnp.where(n >= 2, 3, 4))
      scaled_p = jax.tree.map(lambda leaf_p: leaf_p * (n + 1.0), grads_p)
      return jax.vmap(step)(scaled_p, state_p, params_p, go_p)

    return lax.fori_loop(0, steps, body, (params_p, state_p, ok_p))

  given = jax.tree.map(jnp.array, (state_p, params_p))
  new_p, new_state_p, made_p = loop(grads_p, *given)
  assert given[1]['more'].is_deleted() and given[0][1].mu['block'].is_deleted()
  np.testing.assert_array_equal(made_p, [True, False, True, False])
  np.testing.assert_array_equal(new_state_p[1].count, [6, 1, 6, 3])
  for p, taken in enumerate((5, 0, 5, 2)):
    grads, state, params = _member((grads_p, state_p, params_p), p)
    for n in range(taken):
      scaled = jax.tree.map(lambda leaf, n=n: leaf * np.float32(n + 1), grads)
      params, state, _ = step(scaled, state, params, jnp.array(True))
    chex.assert_trees_all_equal(
      _member((new_p, new_state_p), p), (params, state)
    )


@native.needed
def test_devices_change_no_bit():
  recipe = _recipe()
  members = (*_members(recipe), np.array([True, True, False, True]))
  members[0]['block'][3, 5] = np.inf
  spec = PartitionSpec('member')

  def run(devices):
    return jax.jit(
      jax.shard_map(
        jax.vmap(_update(recipe, 'native')),
        mesh=Mesh(np.array(devices), ('member',)),
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
      )
    )(*members)

  one, two = run(jax.devices()[:1]), run(jax.devices()[:2])
  chex.assert_trees_all_equal(
    jax.tree.map(np.asarray, two), jax.tree.map(np.asarray, one)
  )
  np.testing.assert_array_equal(one[2], [True, True, False, False])


@native.needed
def test_operands_that_do_not_fit_are_refused():
  def run(grads, mu, how_4):
    params = jnp.ones((3, 5))
    found = kernels.adam(
      {'w': grads}, {'w': params}, {'w': mu}, {'w': params}, how_4, 1.0, 0.9,
      0.99, 1e-7,
    )  # fmt: skip
    return jax.block_until_ready(found)

  w, how_4 = jnp.ones((3, 5)), jnp.ones(4)
  np.testing.assert_allclose(run(w, w, how_4)[0], np.sqrt(15), rtol=1e-6)
  for operands, what in (
    ((w, w, jnp.ones(3)), 'size of how_p4'),
    ((w[:2], w, how_4), 'sizes of leaves'),
    ((w, w[:2], how_4), 'sizes of leaves'),
  ):
    with pytest.raises(jax.errors.JaxRuntimeError, match=what):
      run(*operands)


@native.needed
def test_a_population_of_nobody_is_updated_at_once():
  recipe = _recipe()
  nobody = jax.tree.map(lambda leaf_p: leaf_p[:0], _members(recipe, 1))
  step = jax.jit(jax.vmap(_update(recipe, 'native')))
  _, state_p, params_p = nobody
  *new_p, made_p = step(*nobody, np.ones(0, bool))
  chex.assert_trees_all_equal(tuple(new_p), (params_p, state_p))
  assert made_p.shape == (0,)
