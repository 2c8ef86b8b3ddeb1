"""Gate estimators against the laws that they draw from, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nasjax.oneshot import estimators

ALPHA_K = np.array([0.3, -1.0, 1.2, 0.0], np.float32)
COEFFICIENT_K = np.array([1.0, 2.0, -3.0, 0.5], np.float32)
PI_K = np.exp(np.float64(ALPHA_K)) / np.exp(np.float64(ALPHA_K)).sum()
STRAIGHT = ('straight_through', 'binary')
GDAS = ('gdas', 'gdas_all')
DRAWS = 20_000


# One program an estimator: compiling is what costs.
@functools.cache
def _program(name):
  estimator = getattr(estimators, name)

  def value(alpha_k, key, temperature):
    edge = estimator(key, alpha_k, temperature)
    return jnp.vdot(edge.weight_k, COEFFICIENT_K), edge

  draw = jax.vmap(jax.grad(value, has_aux=True), (None, 0, None))
  return jax.jit(draw)


@functools.cache
def _drawn(name, temperature=1.0, alpha=tuple(ALPHA_K)):
  """Gradients by alpha of sum_k c_k weight_k, and the edges, of many draws."""
  keys = jax.random.split(jax.random.key(0), DRAWS)
  alpha_k = np.array(alpha, np.float32)
  return jax.device_get(_program(name)(alpha_k, keys, np.float32(temperature)))


def _assert_law(index_d, probability_k):
  """Chi-square test; by chance it fails for one in a hundred thousand keys."""
  count_k = np.bincount(index_d, minlength=len(probability_k))
  found = stats.chisquare(count_k, probability_k * len(index_d))
  assert found.pvalue > 1e-5, (count_k, probability_k)


@pytest.mark.parametrize('name', [*STRAIGHT, *GDAS, 'gumbel_softmax'])
@pytest.mark.parametrize('temperature', [10.0, 0.1])
def test_what_runs_has_the_law_pi_at_any_temperature(name, temperature):
  _, edge = _drawn(name, temperature)
  assert edge.index.dtype == np.int32
  _assert_law(edge.index, PI_K)
  with pytest.raises(AssertionError):
    _assert_law(edge.index, np.full(4, 0.25))


def test_uniform_draws_ignore_the_parameters():
  grads_dk, edge = _drawn('uniform')
  _assert_law(edge.index, np.full(4, 0.25))
  np.testing.assert_array_equal(edge.weight_k, np.eye(4)[edge.index])
  assert not grads_dk.any()


@pytest.mark.parametrize('name', [*STRAIGHT, *GDAS, 'binary_pair'])
@pytest.mark.parametrize('temperature', [10.0, 0.1])
def test_what_runs_has_weight_one_exactly(name, temperature):
  _, edge = _drawn(name, temperature)
  np.testing.assert_array_equal(edge.weight_k, np.eye(4)[edge.index])


def test_a_pair_is_two_candidates_without_replacement():
  _, edge = _drawn('binary_pair')
  assert (edge.index != edge.other).all()
  # Either of the two may have been drawn first; then the pair's softmax picks.
  law_ko = np.zeros((4, 4))
  for k, o in np.argwhere(~np.eye(4, dtype=bool)):
    drawn = PI_K[k] * PI_K[o] * (1 / (1 - PI_K[k]) + 1 / (1 - PI_K[o]))
    law_ko[k, o] = drawn * PI_K[k] / (PI_K[k] + PI_K[o])
  np.testing.assert_allclose(law_ko.sum(), 1)
  legal = ~np.eye(4, dtype=bool)
  number_of = np.cumsum(legal.ravel()) - 1
  _assert_law(number_of[edge.index * 4 + edge.other], law_ko[legal])


def test_a_pair_has_the_gradient_of_its_own_softmax():
  grads_dk, edge = _drawn('binary_pair')
  rows, c_k = np.arange(DRAWS), np.float64(COEFFICIENT_K)
  p_d = PI_K[edge.index] / (PI_K[edge.index] + PI_K[edge.other])
  expected_dk = np.zeros((DRAWS, 4))
  slope_d = p_d * (1 - p_d) * (c_k[edge.index] - c_k[edge.other])
  expected_dk[rows, edge.index], expected_dk[rows, edge.other] = (
    slope_d,
    -slope_d,
  )
  np.testing.assert_allclose(grads_dk, expected_dk, atol=1e-6)


@pytest.mark.parametrize('name', ['softmax', *STRAIGHT])
def test_weights_have_the_gradient_of_pi(name):
  # By differences of the softmax, in float64.
  def expected(alpha_k):
    pi_k = np.exp(alpha_k) / np.exp(alpha_k).sum()
    return pi_k @ np.float64(COEFFICIENT_K)

  step, alpha_k = 1e-6, np.float64(ALPHA_K)
  slope_k = [
    (expected(alpha_k + e) - expected(alpha_k - e)) / (2 * step)
    for e in step * np.eye(4)
  ]
  grads_dk, _ = _drawn(name)
  np.testing.assert_allclose(grads_dk, np.tile(slope_k, (DRAWS, 1)), atol=1e-6)


def test_softmax_is_pi_for_every_key():
  _, edge = _drawn('softmax')
  np.testing.assert_allclose(
    edge.weight_k, np.tile(PI_K, (DRAWS, 1)), rtol=1e-6
  )


def test_relaxed_draws_sum_to_one_and_harden():
  for temperature in (1e4, 10.0, 1.0, 0.1, 0.01):
    _, edge = _drawn('gumbel_softmax', temperature)
    np.testing.assert_allclose(edge.weight_k.sum(1), 1, rtol=1e-5)
    # What the same noise picks at once.
    largest_d = edge.weight_k[np.arange(DRAWS), edge.index]
    np.testing.assert_array_equal(largest_d, edge.weight_k.max(1))
  soft, hard = _drawn('gumbel_softmax', 1e4), _drawn('gumbel_softmax', 0.01)
  assert np.abs(soft[1].weight_k - 0.25).max() < 1e-2
  assert (hard[1].weight_k.max(1) > 0.99).mean() >= 0.95


def test_reparametrised_gradients_are_those_of_the_expectation():
  step, slope_k = 0.02, []
  for k in range(4):
    means = []
    for sign in (1, -1):
      moved_k = ALPHA_K.copy()
      moved_k[k] += np.float32(sign * step)
      _, edge = _drawn('gumbel_softmax', 1.0, tuple(moved_k))
      means.append((np.float64(edge.weight_k) @ COEFFICIENT_K).mean())
    slope_k.append((means[0] - means[1]) / (2 * step))
  grads_dk, _ = _drawn('gumbel_softmax', 1.0)
  np.testing.assert_allclose(grads_dk.mean(0), slope_k, atol=1e-3)
  assert (grads_dk.std(0) < 2 * np.abs(COEFFICIENT_K).max()).all()


@pytest.mark.parametrize('name', GDAS)
@pytest.mark.parametrize('temperature', [10.0, 1.0, 0.1])
def test_gradients_of_gdas_sum_to_zero_over_an_edge(name, temperature):
  grads_dk, _ = _drawn(name, temperature)
  assert np.isfinite(grads_dk).all() and np.abs(grads_dk).max() > 1e-2
  np.testing.assert_allclose(grads_dk.sum(1), 0, atol=1e-5 / temperature)


def test_of_gdas_only_what_runs_has_a_gradient():
  # One edge: the noise that the estimator draws, then the formula.
  noise_dk = jax.vmap(lambda key: estimators.gumbel(key, (4,)))(
    jax.random.split(jax.random.key(0), DRAWS)
  )
  noisy_dk, temperature = np.log(PI_K) + np.float64(noise_dk), 0.5
  raised_dk = noisy_dk - noisy_dk.max(1, keepdims=True)
  p_dk = np.exp(raised_dk / temperature)
  p_dk /= p_dk.sum(1, keepdims=True)
  (some_dk, edge), (all_dk, same) = (_drawn(name, temperature) for name in GDAS)
  np.testing.assert_array_equal(edge.index, noisy_dk.argmax(1))
  np.testing.assert_array_equal(edge.index, same.index)
  c_k = np.float64(COEFFICIENT_K)
  runs_dk = np.eye(4)[edge.index]
  for found_dk, c_dk in ((some_dk, runs_dk * c_k), (all_dk, c_k[None])):
    expected_dk = p_dk * (c_dk - (p_dk * c_dk).sum(1, keepdims=True))
    expected_dk = expected_dk / temperature
    np.testing.assert_allclose(found_dk, expected_dk, atol=1e-5)


def test_a_pair_keeps_its_mass():
  rng = np.random.default_rng(0)
  kept = jax.jit(estimators.keep_pair_mass)
  for _ in range(20):
    old_k = rng.normal(size=5).astype(np.float32)
    pair = rng.permutation(5)[:2]
    edge = estimators.Edge(old_k, *pair)
    # What an optimiser does to the two; the others stay.
    new_k = old_k.copy()
    new_k[pair] += rng.normal(size=2).astype(np.float32)
    kept_k = np.float64(kept(old_k, new_k, edge))
    others = np.setdiff1d(np.arange(5), pair)
    np.testing.assert_array_equal(kept_k[others], old_k[others])
    mass = np.exp(np.float64(old_k)[pair]).sum()
    np.testing.assert_allclose(np.exp(kept_k[pair]).sum(), mass, rtol=1e-5)
    # One offset for both: their difference is what the optimiser made it.
    offset_2 = kept_k[pair] - new_k[pair]
    np.testing.assert_allclose(offset_2[0], offset_2[1], atol=1e-6)
    assert np.abs(offset_2).max() > 1e-4


def test_noise_is_gumbel():
  noise_d = np.asarray(estimators.gumbel(jax.random.key(0), (DRAWS,)))
  assert stats.kstest(noise_d, 'gumbel_r').pvalue > 1e-5


@pytest.mark.parametrize('u', [0.0, 2.0**-23, 1 - 2.0**-24, 1.0])
def test_noise_at_the_ends_of_the_uniform_draw_is_finite(u, monkeypatch):
  def draw(key, shape, minval, maxval):
    del key
    return jnp.full(shape, jnp.clip(jnp.float32(u), minval, maxval))

  monkeypatch.setattr(jax.random, 'uniform', draw)
  assert np.isfinite(estimators.gumbel(jax.random.key(0), (3,))).all()


def test_every_edge_has_a_key_of_its_own():
  alpha_e = (jnp.asarray(ALPHA_K),) * 6
  edges = estimators.draw(
    estimators.gumbel_softmax, jax.random.key(0), alpha_e, 1.0
  )
  first = np.array([edge.weight_k[0] for edge in edges])
  assert len(np.unique(first)) == 6


def test_the_edge_of_one_network_is_a_constant():
  edge = estimators.fixed(2, 4)
  np.testing.assert_array_equal(edge.weight_k, [0, 0, 1, 0])
  assert edge.index == 2


def test_temperatures_begin_and_end_where_they_should():
  assert estimators.linear(10.0, 0.1, 0.0) == 10.0
  assert estimators.linear(10.0, 0.1, 1.0) == 0.1
  assert estimators.exponential(1.0, 0.03, 0.0) == 1.0
  assert estimators.exponential(1.0, 0.03, 1.0) == 0.03


def test_temperatures_fall_in_equal_steps_or_equal_ratios():
  shares = np.linspace(0, 1, 7)
  linear = [estimators.linear(10.0, 0.1, share) for share in shares]
  np.testing.assert_allclose(np.diff(linear), (0.1 - 10) / 6)
  falling = np.array([estimators.exponential(2.0, 0.02, s) for s in shares])
  np.testing.assert_allclose(falling[1:] / falling[:-1], 0.01 ** (1 / 6))
