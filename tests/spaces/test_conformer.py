"""Tests of nasjax/spaces/conformer.py."""

import jax
import numpy as np
import pytest

from nasjax import spaces
from nasjax.spaces import conformer

SPACE = conformer.space(
  'tiny', 2, ('none', 1, 2), ('none', 3), (1.5, 3), (1, 2, 3)
)


def test_the_space_has_the_choices_of_the_guide():
  space = spaces.SPACES['conformer']
  named = dict(zip(space.fields, space.choices))
  assert named['kernel1'][1:] == ('3', '5', '7', '9', '11', '13', '15')
  assert named['heads12'] == ('none', '4', '8', '16')
  assert named['expansion7'][0] == '1.5' and named['expansion7'][-1] == '6'
  assert named['activation3'] == ('relu', 'gelu', 'swish')
  assert named['norm3'] == ('layer', 'batch')
  assert 'skip2' in named and 'skip1' not in named
  assert space.fields[-1] == 'downsample'
  assert conformer.count(space) == 12
  assert conformer.count(spaces.SPACES['conformer_small']) == 4


def test_an_architecture_says_what_its_layers_are():
  chosen = dict.fromkeys(SPACE.fields, 0) | {
    'heads1': '2', 'expansion1': '3', 'activation1': 'gelu', 'norm1': 'batch',
    'downsample': '3',
  }  # fmt: skip
  layers = conformer.layers(SPACE, chosen)
  assert layers == (conformer.Layer(2, 0, 3.0, 'gelu', 'batch'), None)
  assert conformer.downsample(SPACE, chosen) == 3
  both = conformer.layers(SPACE, chosen | {'skip2': 'no'})
  assert both[1] == conformer.Layer(0, 0, 1.5, 'relu', 'layer')
  assert conformer.layers(SPACE, conformer.smallest(SPACE))[1] is None
  whole = conformer.Layer(2, 3, 3.0, 'swish', 'batch')
  assert conformer.layers(SPACE, conformer.largest(SPACE)) == (whole,) * 2
  assert [conformer.hidden(conformer.thousandths(e), 5) for e in (1.5, 2)] == [
    8, 10
  ]  # fmt: skip


def test_what_a_left_out_layer_would_be_makes_no_difference():
  archs = np.asarray(SPACE.sample(jax.random.key(0), 400))
  keys, functions = SPACE.keys(archs), SPACE.semantic_keys(archs)
  for arch, key, function in zip(archs, keys, functions):
    changed = np.array(arch)
    if conformer.layers(SPACE, arch)[1] is not None:
      continue
    changed[5:10] = 0
    assert SPACE.key(changed) == key
    # Before or behind a layer that is not there is one place.
    place = conformer.downsample(SPACE, arch)
    changed[-1] = 1 if place == 3 else changed[-1]
    assert SPACE.semantic_key(changed) == function
    assert (SPACE.key(changed) == key) == (place != 3)
  same = {}
  for arch, function in zip(archs, functions):
    layers = [one for one in conformer.layers(SPACE, arch) if one]
    place = min(conformer.downsample(SPACE, arch), len(layers) + 1)
    same.setdefault((*layers, place), set()).add(function)
  assert all(len(found) == 1 for found in same.values())
  assert len({f for (f,) in same.values()}) == len(same)


def test_large_spaces_are_drawn_from():
  space = spaces.SPACES['conformer']
  archs = np.asarray(space.sample(jax.random.key(0), 20))
  assert len(set(space.keys(archs))) == 20 and space.size > 2**64
  arch = space.mutate(jax.random.key(1), archs[0])
  assert (np.asarray(arch) != archs[0]).sum() == 1


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'heads': (2, 1)}, 'heads are [2, 1]'),
    ({'heads': (1, 'none')}, "'none' must come first"),
    ({'kernels': (3, 4)}, 'kernels of [4] taps'),
    ({'expansions': ()}, 'expansions are []'),
    ({'downsamples': (1, 4)}, 'before layer 4; there are 2'),
    ({'downsamples': (0, 1)}, 'must rise from 1 on'),
  ],
)
def test_sizes_that_make_no_space_are_refused(changes, words):
  given = {
    'heads': (1, 2), 'kernels': (3,), 'expansions': (2,), 'downsamples': (1,)
  }  # fmt: skip
  with pytest.raises(ValueError) as caught:
    conformer.space('odd', 2, **given | changes)
  assert words in str(caught.value)
