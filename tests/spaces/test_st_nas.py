"""The spaces of ST-NAS: sizes, members, keys, and what tables do with them."""

import itertools

import numpy as np
import pytest

from nasjax import cost, spaces
from nasjax.models import families, macros
from nasjax.spaces import st_nas
from nasjax.table import schema

BOTH = (spaces.ST_NAS, spaces.ST_NAS_SWBD)
MIXED = [0, 1, 2, 3, 0, 1]


def test_sizes_are_those_of_the_paper():
  assert spaces.ST_NAS.size == 4**6 == 4096
  assert spaces.ST_NAS_SWBD.size == 6**6 == 46_656
  for space in BOTH:
    assert len(space.enumerate()) == space.size


def test_candidates_are_the_papers():
  contexts = {(c, d) for c in (1, 2) for d in (1, 2)}
  assert {st_nas.CANDIDATES[op] for op in spaces.ST_NAS.ops} == contexts
  contexts |= {(3, 1), (3, 2)}
  assert {st_nas.CANDIDATES[op] for op in spaces.ST_NAS_SWBD.ops} == contexts


@pytest.mark.parametrize('space', BOTH, ids=lambda s: s.name)
def test_flat_and_nested_are_read_alike(space):
  nested = [[op] for op in MIXED]
  np.testing.assert_array_equal(space.parse(nested), space.parse(MIXED))
  assert space.nested(MIXED) == nested
  assert space.fields == ('op1', 'op2', 'op3', 'op4', 'op5', 'op6')
  np.testing.assert_array_equal(
    space.from_index(space.index(MIXED)), space.parse(MIXED)
  )


@pytest.mark.parametrize(
  'arch, named',
  [
    ([0, 1, 2, 3, 0], '6 integers'),
    ([0, 1, 2, 3, 0, 4], 'position 5'),
    ([[0], [1], [2], [3], [0], [1, 0]], 'node 6 has 2 values'),
    ([0, 1, 2, 3, 0, True], 'True'),
  ],
)
def test_what_is_no_architecture_is_refused(arch, named):
  with pytest.raises(ValueError, match=named):
    spaces.ST_NAS.parse(arch)


def test_no_two_vectors_share_a_key():
  for by in ('key', 'semantic'):
    assert len(spaces.ST_NAS.unique(by)) == 4096
  keys = spaces.ST_NAS_SWBD.keys(spaces.ST_NAS_SWBD.enumerate())
  assert len(np.unique(keys)) == 46_656


def test_a_network_has_one_key_in_both_spaces():
  for ops in list(itertools.product(range(4), repeat=6))[::97]:
    assert spaces.ST_NAS.key(ops) == spaces.ST_NAS_SWBD.key(ops)
    assert spaces.ST_NAS.main_ops(ops) == spaces.ST_NAS_SWBD.main_ops(ops)


def test_tdnn_d_is_a_member_of_both_spaces():
  macro = macros.ST_NAS.with_outputs(46)
  for space in BOTH:
    assert space.main_ops(spaces.TDNN_D) == ('tdnn_c1d1',) * 6
    # TDNN-D-Small has 7.64 M in the paper, the nearest that any member comes.
    assert cost.params(space, spaces.TDNN_D, macro) == 7_646_126
  counts = {
    cost.params(spaces.ST_NAS, arch, macro)
    for arch in spaces.ST_NAS.product(('tdnn_c1d1', 'tdnn_c2d1'), ())
  }
  assert min(counts, key=lambda n: abs(n - 7.64e6)) == 7_646_126


def test_neighbours_mutations_and_products_stay_inside():
  assert len(spaces.ST_NAS.neighbours(MIXED)) == 6 * 3
  assert len(spaces.ST_NAS_SWBD.neighbours(MIXED)) == 6 * 5
  product = spaces.ST_NAS_SWBD.product(('tdnn_c3d1', 'tdnn_c3d2'), ())
  assert len(product) == 2**6 and (product >= 4).all()
  assert not spaces.ST_NAS.has_skip_path(MIXED)


def test_tables_know_every_space():
  assert schema.SPACES is spaces.SPACES
  assert list(spaces.SPACES) == [space.name for space in spaces.SPACES.values()]
  assert set(families.FAMILIES) == set(spaces.SPACES)
