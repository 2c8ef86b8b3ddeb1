"""Tests of nasjax/layers/attention.py against loops over frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.layers import attention


def seen_by_hand(t, s, length, mode, chunk, left):
  if s >= length:
    return False
  if mode == 'full':
    return True
  if mode == 'causal':
    return s <= t
  return s // chunk <= t // chunk and s // chunk >= t // chunk - left


@pytest.mark.parametrize('mode', attention.MODES)
@pytest.mark.parametrize('left', [0, 1, 9])
def test_each_frame_sees_what_its_mode_says(mode, left):
  found = attention.seen(7, jnp.array([7, 4]), mode, 2, left)
  for b, length in enumerate((7, 4)):
    for t in range(7):
      row = [seen_by_hand(t, s, length, mode, 2, left) for s in range(7)]
      assert found[b, t].tolist() == row
  # How large chunks are may be data.
  same = jax.jit(lambda c: attention.seen(7, jnp.array([7, 4]), mode, c, left))
  np.testing.assert_array_equal(same(2), found)


def test_all_chunks_before_are_seen_unless_told():
  found = attention.seen(9, jnp.array([9]), 'chunked', 2)
  assert found[0, 8].all() and found[0, 0].tolist() == [True] * 2 + [False] * 7
  with pytest.raises(ValueError, match="mode is 'past'"):
    attention.seen(9, jnp.array([9]), 'past')


def test_attention_is_the_mean_of_what_is_seen():
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, 2, 5, 3, 4)).astype(np.float32)
  seen = np.array(attention.seen(5, jnp.array([5, 3]), 'causal'))
  found = attention.attended(q, k, v, seen)
  for b in range(2):
    for t in range(5):
      for h in range(3):
        at = np.flatnonzero(seen[b, t])
        weight = np.exp(k[b, at, h].astype(float) @ q[b, t, h] / 2)
        mean = (weight / weight.sum()) @ v[b, at, h]
        np.testing.assert_allclose(found[b, t, h], mean, atol=1e-5)


def test_a_rotation_tells_distances_alone():
  rng = np.random.default_rng(1)
  q, k = rng.normal(size=(2, 1, 1, 1, 6)).astype(np.float32)
  many = jnp.broadcast_to(q, (1, 9, 1, 6)), jnp.broadcast_to(k, (1, 9, 1, 6))
  q_bthd, k_bthd = map(attention.rotated, many)
  scores = jnp.einsum('bthd,bshd->ts', q_bthd, k_bthd)
  for ago in range(-8, 9):
    along = np.diagonal(scores, ago)
    np.testing.assert_allclose(along, along[0], atol=1e-5)
  assert np.ptp(np.diagonal(scores[::-1])) > 0.1
  norm = jnp.linalg.norm(q_bthd, axis=-1)
  np.testing.assert_allclose(norm, np.linalg.norm(q), rtol=1e-6)


def test_fewer_heads_are_a_beginning_of_more():
  rng = np.random.default_rng(2)
  x_btc = jnp.asarray(rng.normal(size=(2, 6, 8)), jnp.float32)
  seen = attention.seen(6, jnp.array([6, 4]))
  whole = attention.SelfAttention(4, 2)
  params = jax.jit(whole.init)(jax.random.key(0), x_btc, seen)['params']
  params = jax.tree.map(lambda p: p + 0.1, params)
  found = jax.jit(whole.apply)({'params': params}, x_btc, seen, 3)
  own = {'params': attention.sliced(params, 6)}
  alone = jax.jit(attention.SelfAttention(3, 2).apply)(own, x_btc, seen)
  np.testing.assert_allclose(found, alone, atol=1e-6)
  with pytest.raises(ValueError, match='2 heads of 3 channels'):
    attention.SelfAttention(2, 3).init(jax.random.key(0), x_btc, seen)
