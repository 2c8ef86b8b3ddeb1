"""Tests of nasjax/spaces/todm.py."""

import numpy as np
import pytest

from nasjax import spaces
from nasjax.spaces import todm


def test_the_space_is_that_of_the_paper():
  space = spaces.TODM
  assert space.fields[0] == 'width1' and space.fields[-1] == 'depth'
  assert space.choices == (('512', '1024', '2048', '4096'),) * 16 + (
    ('16', '13', '9'),
  )
  assert space.size == 3 * 4**16
  assert todm.networks(space) == 4**16 + 4**13 + 4**9
  assert todm.widths(space, todm.largest(space)) == (4096,) * 16
  assert todm.widths(space, todm.smallest(space)) == (512,) * 9
  assert spaces.SPACES['todm'] is space


def test_widths_of_dropped_layers_make_no_difference():
  space = todm.elastic('tiny', 3, (2, 4), (3, 1))
  archs = space.enumerate()
  keys = space.keys(archs)
  assert len(set(keys)) == todm.networks(space) == 2**3 + 2
  assert list(space.semantic_keys(archs)) == list(keys)
  for arch, key in zip(archs, keys):
    plain = todm.canonical(space, arch)
    assert space.key(plain) == key
    assert todm.widths(space, plain) == todm.widths(space, arch)
  ones = {tuple(todm.canonical(space, arch)) for arch in archs}
  assert len(ones) == 10
  # Where all layers are there, every width counts.
  assert space.key([0, 1, 1, 0]) != space.key([0, 1, 0, 0])
  assert space.key([0, 1, 1, 1]) == space.key([0, 0, 0, 1])


def test_a_rank_is_a_further_decision():
  space = todm.elastic('tiny', 2, (2, 4), (2, 1), (1, 3))
  assert space.fields == ('width1', 'width2', 'rank', 'depth')
  assert todm.layers(space) == 2 and todm.ranks(space) == (1, 3)
  archs = space.enumerate()
  assert len(set(space.keys(archs))) == todm.networks(space) == 2 * (4 + 2)
  assert todm.rank(space, [0, 1, 1, 0]) == 3
  assert todm.widths(space, [0, 1, 1, 1]) == (2,)
  assert space.key([0, 1, 1, 1]) == space.key([0, 0, 1, 1])
  assert space.key([0, 0, 1, 1]) != space.key([0, 0, 0, 1])
  assert todm.canonical(space, [0, 1, 1, 1]).tolist() == [0, 0, 1, 1]
  assert todm.largest(space).tolist() == [1, 1, 1, 0]
  assert todm.smallest(space).tolist() == [0, 0, 0, 1]
  assert todm.rank(spaces.TODM, todm.largest(spaces.TODM)) is None


def test_it_is_drawn_from_and_read_by_names():
  import jax

  archs = np.asarray(spaces.TODM.sample(jax.random.key(0), 50))
  assert archs.shape == (50, 17) and set(archs[:, -1]) == {0, 1, 2}
  named = dict.fromkeys(spaces.TODM_SMALL.fields, '128') | {'depth': '4'}
  assert todm.widths(spaces.TODM_SMALL, named) == (128,) * 4


@pytest.mark.parametrize(
  'sizes, words',
  [
    ((2, (4, 2), (2, 1)), 'widths are (4, 2)'),
    ((2, (2, 4), (1, 2)), 'depths are (1, 2)'),
    ((2, (2, 4), (2, 1), (3, 1)), 'ranks are (3, 1)'),
    ((3, (2, 4), (2, 1)), 'from 3 layers'),
    ((2, (2, 4), (2, 0)), 'at least 1'),
  ],
)
def test_sizes_that_make_no_space_are_refused(sizes, words):
  with pytest.raises(ValueError) as caught:
    todm.elastic('odd', *sizes)
  assert words in str(caught.value)
