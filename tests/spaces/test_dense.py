"""Dense graphs as spaces, and those of DARTS-ASR."""

import jax
import numpy as np
import pytest

from nasjax import spaces


def test_five_nodes_have_fifteen_edges_of_seven_candidates():
  space = spaces.DARTS_ASR
  assert space.nodes == 5 and len(space.edges) == 15
  assert set(space.sizes) == {7} and space.size == 7**15
  assert space.edges[:4] == ((0, 1), (0, 2), (1, 2), (0, 3))
  assert space.fields[-1] == 'e4_5'
  assert set(space.choices[0]) == {
    'conv3x3', 'conv5x5', 'dil_conv3x3', 'dil_conv5x5', 'avg_pool3x3',
    'max_pool3x3', 'skip',
  }  # fmt: skip
  only = space.names_of_choices(spaces.DARTS_ASR_CONV3)
  assert set(only) == {'conv3x3'} and len(only) == 15


def test_vectors_are_drawn_read_and_written():
  space = spaces.DARTS_ASR
  archs = np.asarray(space.sample(jax.random.key(0), 50))
  assert archs.shape == (50, 15) and len(set(space.semantic_keys(archs))) == 50
  index = space.index(archs[3])
  np.testing.assert_array_equal(space.from_index(index), archs[3])
  assert len(space.neighbours(archs[0])) == 15 * 6
  assert space.names([6, 0, 5] + [1] * 12).startswith(
    'n1 skip, n2 conv3x3 max_pool3x3, n3 conv5x5 conv5x5 conv5x5, n4'
  )
  with pytest.raises(ValueError, match=r'position 1 \(e0_2\) is 7'):
    space.parse([0, 7] + [0] * 13)
  with pytest.raises(ValueError, match='want 15 integers, got 6 values'):
    space.parse([0] * 6)


def test_edges_may_have_candidates_of_their_own():
  space = spaces.Dense(
    'mine', 2, {(0, 1): ('a', 'b'), (0, 2): ('a', 'c', 'd'), (1, 2): ('d',)}
  )
  assert space.sizes == (2, 3, 1) and space.fields == ('e0_1', 'e0_2', 'e1_2')
  for nodes in 0, True, 1.5:
    with pytest.raises(ValueError, match='want a number from 1 on'):
      spaces.Dense('mine', nodes, ('a', 'b'))
  with pytest.raises(ValueError, match='want those of'):
    spaces.Dense('mine', 2, {(0, 1): ('a', 'b')})
