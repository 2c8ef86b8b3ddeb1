import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.layers import dropout

SHAPE = (8, 32, 64)
_mask = jax.jit(dropout.keep_mask, static_argnums=(1, 2, 3))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _masks(keys_n2, site, shape, rate):
  return jax.vmap(lambda key: dropout.keep_mask(key, site, shape, rate))(
    keys_n2
  )


def _keys(count, seed=0):
  """Keys as members have them in their first step."""
  key = jax.random.key(seed)
  return jax.random.key_data(jax.random.split(key, count))


def _steps(count, seed=0):
  """Keys of the successive steps of one member."""
  key = jax.random.key(seed)
  return jax.vmap(lambda step: dropout.step_key(key, step))(jnp.arange(count))


def _scores(a_n, b_n, rate):
  """Correlations of masks along the last axis, in standard deviations."""
  a_n, b_n = np.asarray(a_n, float), np.asarray(b_n, float)
  covariance = np.mean((a_n - (1 - rate)) * (b_n - (1 - rate)), -1)
  return covariance / (rate * (1 - rate)) * np.sqrt(a_n.shape[-1])


def _assert_independent(scores):
  """Independent scores are standard normal: no outlier, no common shift."""
  scores = np.ravel(scores)
  assert np.abs(scores).max() < 5
  assert abs(scores.mean()) < 4.5 / np.sqrt(scores.size)
  assert abs(np.mean(scores**2) - 1) < 4.5 * np.sqrt(2 / scores.size)


@pytest.mark.parametrize('rate', [0.01, 0.1, 0.2, 0.5, 0.9])
def test_rate_is_within_binomial_bounds(rate):
  dropped_n = ~np.asarray(_masks(_keys(64), 3, SHAPE, rate)).reshape(64, -1)
  size = dropped_n.shape[1]
  scores = (dropped_n.sum(1) - size * rate) / np.sqrt(size * rate * (1 - rate))
  _assert_independent(scores)


def test_every_element_is_dropped_as_often_as_any_other():
  steps, rate = 2000, 0.2
  dropped_en = ~np.asarray(_masks(_steps(steps), 0, (3, 5, 7), rate))
  counts = dropped_en.reshape(steps, -1).sum(0)
  variance = steps * rate * (1 - rate)
  # Chi-squared with 105 degrees of freedom: standard deviation 14.5.
  assert abs(np.sum((counts - steps * rate) ** 2) / variance - 105) < 65


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_members_and_steps_are_independent(rate):
  for keys in (_keys(24), _steps(24)):
    masks = np.asarray(_masks(keys, 2, SHAPE, rate)).reshape(24, -1)
    pairs = np.array(list(itertools.combinations(range(24), 2)))
    _assert_independent(_scores(masks[pairs[:, 0]], masks[pairs[:, 1]], rate))


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_sites_are_independent(rate):
  sites = range(16)

  def draw(key):
    return [dropout.keep_mask(key, site, SHAPE, rate) for site in sites]

  masks_sn = np.stack(jax.jit(jax.vmap(draw))(_keys(12))).reshape(16, 12, -1)
  for a, b in ((0, 1), (0, 2), (3, 4), (0, 15), (13, 14)):
    _assert_independent(_scores(masks_sn[a], masks_sn[b], rate))
  pairs = np.array(list(itertools.combinations(sites, 2)))
  _assert_independent(
    _scores(masks_sn[pairs[:, 0], 0], masks_sn[pairs[:, 1], 0], rate)
  )


@pytest.mark.parametrize('rate', [0.1, 0.5])
@pytest.mark.parametrize('axis', [1, 2, 3])
def test_neighbours_are_independent(axis, rate):
  masks = np.asarray(_masks(_keys(64), 1, SHAPE, rate))
  masks = np.moveaxis(masks, axis, 1)
  for lag in (1, 2, 4):
    a, b = masks[:, lag:].reshape(64, -1), masks[:, :-lag].reshape(64, -1)
    _assert_independent(_scores(a, b, rate))


def test_expectation_is_kept():
  x = jnp.linspace(0.5, 2, 64)[None, None] * jnp.ones(SHAPE)
  drop = jax.jit(jax.vmap(lambda key: dropout.dropout(x, key, 0, 0.2)))
  y = np.asarray(drop(_keys(64)))
  # What stays is scaled up, the rest is exactly 0.
  np.testing.assert_allclose(
    y, np.where(y != 0, np.asarray(x)[None] / 0.8, 0), rtol=1e-6
  )
  # Deviation of the mean: 0.5 a draw, 16,384 draws a channel, 64 channels.
  np.testing.assert_allclose(
    y.mean((0, 1, 2)), np.asarray(x)[0, 0], rtol=4.5 * 0.5 / 128
  )


def test_gradient_passes_through_what_stays():
  key, x = _keys(1)[0], jnp.ones((4, 9))

  @jax.jit
  def gradient(x):
    return jax.grad(lambda x: jnp.sum(dropout.dropout(x, key, 5, 0.5)))(x)

  expected = np.asarray(_mask(key, 5, x.shape, 0.5)) * 2.0
  np.testing.assert_array_equal(gradient(x), expected)


def test_no_key_or_no_rate_changes_nothing():
  x = jnp.ones((2, 3))
  assert dropout.dropout(x, None, 0, 0.5) is x
  assert dropout.dropout(x, _keys(1)[0], 0, 0) is x


@pytest.mark.parametrize('shape', [(7,), (3, 5), SHAPE])
def test_a_mask_is_the_same_mapped_and_alone(shape):
  keys = _keys(5)
  mapped = np.asarray(_masks(keys, 4, shape, 0.3))
  for i in range(5):
    np.testing.assert_array_equal(_mask(keys[i], 4, shape, 0.3), mapped[i])
  reversed_ = np.asarray(_masks(keys[::-1], 4, shape, 0.3))
  np.testing.assert_array_equal(reversed_[::-1], mapped)


def test_masks_are_these():
  """What a seed drops is part of what a table's results mean."""
  mask = _mask(jnp.array([1, 2], jnp.uint32), 3, (4, 16), 0.5)
  bits = np.packbits(np.asarray(mask), axis=1)
  assert bits.tolist() == [[111, 140], [42, 1], [96, 60], [111, 45]]
  key = dropout.step_key(jax.random.key(7), 11)
  assert np.asarray(key).tolist() == [2796958904, 1911163382]


def _mix(h):
  h = ((h ^ (h >> 16)) * 0x7FEB352D) % 2**32
  h = ((h ^ (h >> 15)) * 0x846CA68B) % 2**32
  return h ^ (h >> 16)


def test_mask_follows_the_written_recipe():
  key, site, shape, rate = (0xDEADBEEF, 0x12345678), 7, (3, 4, 5), 0.35
  salt = _mix(key[1] ^ (site * 0x9E3779B9) % 2**32)
  expected = [
    _mix((_mix(n ^ key[0]) + salt) % 2**32) >= round(rate * 2**32)
    for n in range(60)
  ]
  mask = _mask(np.array(key, np.uint32), site, shape, rate)
  np.testing.assert_array_equal(np.ravel(mask), expected)


@pytest.mark.parametrize('shape', [(6,), (6, 5), (6, 3, 4)])
def test_rows_of_a_batch_drop_what_the_whole_batch_does(shape):
  key = _keys(1)[0]
  whole = np.asarray(_mask(key, 3, shape, 0.4))
  assert 0 < whole.mean() < 1
  for first, last in ((0, 6), (0, 2), (2, 6), (5, 6)):
    own = dropout.from_row(key, jnp.int32(first))
    rows = _mask(own, 3, (last - first, *shape[1:]), 0.4)
    np.testing.assert_array_equal(rows, whole[first:last])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_type_is_kept(dtype):
  x = jnp.ones((4, 4), dtype)
  assert dropout.dropout(x, _keys(1)[0], 0, 0.5).dtype == dtype
