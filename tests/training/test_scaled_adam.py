"""ScaledAdam against its rule, step by step in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_corpus

from nasjax.training import optimisers
from nasjax.training.optimisers import scaled

BETA1, BETA2, EPS = 0.9, 0.98, 1e-8


class Rule:
  """The rule of one list of tensors, in float64, a tensor after the other."""

  def __init__(self, params, lr, clipping=2.0, period=4, window=100):
    self.params = [np.array(p, np.float64) for p in params]
    self.lr, self.clipping, self.period = lr, clipping, period
    self.window, self.step = window, 0
    self.m = [np.zeros_like(p) for p in self.params]
    self.v = [np.zeros_like(p) for p in self.params]
    self.rms = [0.0] * len(params)
    self.a = [0.0] * len(params)
    self.s = [np.zeros(period) for _ in params]
    self.norms, self.threshold, self.clips, self.grown = [], None, [], []

  def clip(self, grads):
    if self.clipping is None or self.step == 0:
      return 1.0
    total = sum(
      ((0.1 * g if g.size == 1 else g * r) ** 2).sum()
      for g, r in zip(grads, self.rms)
    )
    self.norms.append(np.sqrt(total))
    last = sorted(self.norms[-self.window :])
    median = last[min(len(last) - 1, len(last) // 4 * 2)]
    if self.step % self.window == 0:
      self.threshold = self.clipping * median
    elif self.step in (10, 20, 40) and self.step < self.window:
      self.threshold = 2 * self.clipping * median
    if self.threshold is None:
      return 1.0
    return min(1.0, self.threshold / (self.norms[-1] + 1e-20))

  def __call__(self, grads):
    grads = [np.array(g, np.float64) for g in grads]
    clip, t, period = self.clip(grads), self.step, self.period
    self.clips.append(clip)
    for n, g in enumerate(grads):
      g, p = clip * g, self.params[n]
      self.v[n] = BETA2 * self.v[n] + (1 - BETA2) * g**2
      bias = 1 - BETA2 ** (t + 1)
      v = self.v[n] / bias if bias < 0.99 else self.v[n]
      delta = -self.lr * g / (np.sqrt(v) + EPS)
      if p.size == 1:
        self.m[n] = BETA1 * self.m[n] + (1 - BETA1) * 0.1 * delta
        self.params[n] = np.clip(p + self.m[n], -10, 10)
        continue
      if t == 0 or t % period == period - 1:
        self.rms[n] = np.sqrt((p**2).mean())
      self.s[n][t % period] = (p * g).sum()
      r = self.rms[n]
      delta = delta * max(r, 1e-5)
      if t % period == period - 1:
        beta = BETA2**period
        self.a[n] = beta * self.a[n] + (1 - beta) * (self.s[n] ** 2).mean()
        fix = 1 - beta ** ((t + 1) / period)
        grow = -0.1 * self.lr * np.sqrt(fix) * self.s[n].sum()
        grow /= np.sqrt(self.a[n]) + EPS
        grow = 0.0 if r < 1e-5 else np.clip(grow, -0.1, 0.1)
        grow = min(grow, (3 - r) / r) if r else grow
        self.grown.append(grow)
        delta = delta + grow * p
      self.m[n] = BETA1 * self.m[n] + (1 - BETA1) * delta
      self.params[n] = p + self.m[n]
    self.step += 1
    return self.params


def tensors(seed=0):
  """A matrix, a vector, one near nothing, one at nothing, and two scalars."""
  rng = np.random.default_rng(seed)
  return [
    rng.normal(size=(3, 4)).astype(np.float32),
    rng.normal(size=5).astype(np.float32) * 0.01,
    np.full(3, 2e-6, np.float32),
    np.zeros(2, np.float32),
    np.float32(9.99),
    np.array([0.3], np.float32),
  ]


def run(pair, params, grads):
  """Parameters after each step, and the last state."""
  state, found = pair.init(params), []
  update = jax.jit(pair.update)
  for step in grads:
    updates, state = update(step, state, params)
    params = jax.tree.map(lambda p, u: p + u, params, updates)
    found.append(params)
  return found, state


def drawn(steps, seed=1):
  """Gradients, some of them many times the others."""
  rng = np.random.default_rng(seed)
  large = np.where(rng.random(steps) < 0.2, 20.0, 1.0)
  return [
    [(c * rng.normal(size=np.shape(p)) - 0.3).astype(np.float32)
     for p in tensors()]
    for c in large
  ]  # fmt: skip


def test_every_step_follows_the_rule():
  rule = Rule(tensors(), lr=0.05, window=30)
  grads = drawn(64)
  pair = optimisers.scaled_adam(0.05, clipping_update_period=30)
  found, state = run(pair, tensors(), grads)
  for step, params in zip(grads, found):
    for ours, expected in zip(params, rule(step)):
      np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=1e-7)
  assert state.count == 64
  np.testing.assert_allclose(state.threshold, rule.threshold, rtol=1e-4)
  # All of it took place: clipping, growth and its bounds, the scalar's.
  assert 5 < np.sum(np.array(rule.clips) < 1) < 60
  assert rule.clips[:10] == [1.0] * 10
  assert np.ptp(rule.grown) > 0.005 and 0 in rule.grown
  assert np.abs(found[-1][4]) <= 10
  assert max(float(p[4]) for p in found) == 10


@pytest.mark.slow
def test_the_rule_over_two_windows_of_the_recipe():
  rule = Rule(tensors(), lr=0.02)
  grads = drawn(220)
  found, state = run(optimisers.scaled_adam(0.02), tensors(), grads)
  for step in grads:
    expected = rule(step)
  np.testing.assert_allclose(state.threshold, rule.threshold, rtol=1e-3)
  for ours, theirs in zip(found[-1], expected):
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-6)


def test_five_steps_of_two_numbers_by_hand():
  # One gradient throughout: Adam's step is the rate, times rms 5/sqrt(2).
  params = {'w': jnp.array([3.0, 4.0])}
  grads = [{'w': jnp.array([1.0, -1.0])}] * 5
  found, _ = run(
    optimisers.scaled_adam(0.01, clipping_scale=None), params, grads
  )
  rms = np.sqrt(12.5)
  first = 0.1 * 0.01 * rms
  np.testing.assert_allclose(found[0]['w'], [3 - first, 4 + first], rtol=1e-6)
  second = first * 1.9
  np.testing.assert_allclose(
    found[1]['w'], [3 - first - second, 4 + first + second], rtol=1e-6
  )
  # By the fourth step the size moves: above 3 down at once, by all that is too
  # much.
  before = np.array(found[2]['w'], np.float64)
  size = np.sqrt((before**2).mean())
  grow = (3 - size) / size
  third = before - np.array(found[1]['w'], np.float64)
  step = 0.9 * third + 0.1 * (0.01 * size * np.array([-1, 1]) + grow * before)
  np.testing.assert_allclose(found[3]['w'], before + step, rtol=1e-5)
  fifth = 0.9 * step + 0.1 * 0.01 * size * np.array([-1, 1])
  np.testing.assert_allclose(found[4]['w'] - found[3]['w'], fifth, rtol=1e-3)


def test_larger_parameters_move_in_proportion():
  params, grads = tensors()[:2], drawn(12)
  grads = [step[:2] for step in grads]
  pair = optimisers.scaled_adam(0.03)
  plain, _ = run(pair, params, grads)
  scaled_by = 0.25
  other, _ = run(
    pair,
    [scaled_by * p for p in params],
    [[g / scaled_by for g in step] for step in grads],
  )
  for one, more in zip(plain[-1], other[-1]):
    np.testing.assert_allclose(more, scaled_by * one, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_sizes_stop_growing_at_three():
  params = [np.full((2, 2), 2.9, np.float32)]
  # Adam's steps turn; by the size all gradients agree.
  signs = np.float32([[1, -1], [-1, 1]])
  grads = [[-np.ones((2, 2), np.float32) + 0.5 * c * signs]
           for c in (1, -1) * 60]  # fmt: skip
  largest = []
  for bound in (3.0, 9.0):
    pair = optimisers.scaled_adam(
      1e-3, scalar_lr_scale=20.0, param_max_rms=bound
    )
    found, _ = run(pair, params, grads)
    largest.append(max(np.sqrt(np.mean(p[0] ** 2)) for p in found))
  # What is left of the average of steps carries it past the bound a little.
  assert 2.99 < largest[0] < 3.1 and largest[1] > 3.3


def test_what_is_not_finite_is_clipped_to_nothing():
  grads = drawn(13)
  grads[11] = [np.full_like(g, np.nan) for g in grads[11]]
  found, _ = run(optimisers.scaled_adam(0.01), tensors(), grads)
  assert all(np.isfinite(p).all() for p in found[-1])


def test_rates_by_schedule_and_lower_precision():
  params, grads = tensors(), drawn(5)
  pair = optimisers.scaled_adam(lambda count: 0.01 * (count + 1))
  by_schedule, _ = run(pair, params, grads)
  rule = Rule(params, lr=0.0)
  for n, step in enumerate(grads):
    rule.lr = 0.01 * (n + 1)
    expected = rule(step)
  for ours, theirs in zip(by_schedule[-1], expected):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)
  half = [jnp.asarray(p, jnp.bfloat16) for p in params]
  updates, _ = jax.eval_shape(pair.update, half, pair.init(half), half)
  assert all(u.dtype == jnp.bfloat16 for u in updates)


@pytest.mark.slow
def test_members_of_a_population_are_each_as_if_alone():
  params, grads = tensors(), drawn(1)[0]
  pair = optimisers.scaled_adam(0.02)

  def step(params, grads):
    return pair.update(grads, pair.init(params), params)[0]

  mapped = jax.jit(jax.vmap(step))(
    [np.stack([p, 2 * p]) for p in params],
    [np.stack([g, -g]) for g in grads],
  )
  for n, (size, sign) in enumerate(((1, 1), (2, -1))):
    alone = jax.jit(step)([size * p for p in params], [sign * g for g in grads])
    chex.assert_trees_all_close([u[n] for u in mapped], alone, rtol=1e-5)


def test_beside_another_optimiser_and_without_any_tensor():
  params = {'a': np.ones(2), 'b': 3.0}  # of float64, and no array
  scaled_pair = optimisers.scaled_adam(0.1)
  alone, _ = scaled_pair.update(params, scaled_pair.init(params), params)
  np.testing.assert_allclose(alone['a'], -0.01, rtol=1e-5)
  np.testing.assert_allclose(alone['b'], -0.001, atol=1e-6)
  for labels in ({'a': 'scaled', 'b': 'other'}, {'a': 'other', 'b': 'other'}):
    pair = optax.multi_transform(
      {'scaled': scaled_pair, 'other': optax.sgd(0.1)}, labels
    )
    both, _ = pair.update(params, pair.init(params), params)
    expected = -0.01 if labels['a'] == 'scaled' else -0.1
    np.testing.assert_allclose(both['a'], expected, rtol=1e-5)


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match='size_update_period is 0'):
    optimisers.scaled_adam(0.1, size_update_period=0)
  pair = optimisers.scaled_adam(0.1)
  with pytest.raises(ValueError, match='by the parameters'):
    pair.update(tensors(), pair.init(tensors()))


def test_recipes_may_name_it():
  recipe = tiny_corpus.variant(optimiser='scaled_adam', clip=1e30)
  params, grads = tensors(), drawn(1)[0]
  pair = optimisers.of(recipe, lr=0.05)
  updates, expected = (
    [p - q for p, q in zip(run(pair, params, [grads])[0][0], params)]
    for pair in (pair, optimisers.scaled_adam(0.05))
  )
  chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_eden_comes_up_and_down():
  np.testing.assert_allclose(scaled.eden(0, 0), 0.0225, rtol=1e-6)
  np.testing.assert_allclose(scaled.eden(0, 0, start=0.1), 0.0045, rtol=1e-6)
  expected = 0.045 * 2**-0.5
  np.testing.assert_allclose(scaled.eden(7500, 3.5), expected, rtol=1e-6)
  np.testing.assert_allclose(
    scaled.eden(250, 0), 0.045 * 0.75 * (1 + 1 / 900) ** -0.25, rtol=1e-6
  )


def test_what_is_no_scale_is_not_scaled():
  rng = np.random.default_rng(0)
  params = {
    'layer': {'frequency': np.pi * np.arange(32.0), 'kernel': np.ones((4, 4))}
  }
  params = jax.tree.map(jnp.float32, params)

  def moved(**options):
    pair = optimisers.scaled_adam(0.045, clipping_scale=None, **options)
    new, state = params, pair.init(params)
    for _ in range(12):
      grads = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params
      )
      updates, state = pair.update(grads, state, new)
      new = optax.apply_updates(new, updates)
    return jax.tree.map(jnp.subtract, new, params)['layer']

  # Larger than any tensor may be, it would be shrunk.
  assert abs(moved()['frequency']).max() > 30
  own = moved(plain=('frequency',))
  assert 1e-4 < abs(own['frequency']).max() < 12 * 1e-3
  assert abs(own['kernel']).max() > 0.02
  assert abs(moved(plain=('frequency', 'kernel'))['kernel']).max() < 12 * 1e-3
