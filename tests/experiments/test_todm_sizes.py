"""Sizes of a study of elastic networks, and what it would cost by formula."""

import sys

import numpy as np
import pytest

from nasjax import cost, spaces
from nasjax.models import macros
from nasjax.oneshot import sandwich
from nasjax.programs import chips
from nasjax.spaces import todm
from nasjax.training import recipes

sys.path.insert(0, 'experiments')
from studies import todm_projection, todm_sizes

COSTS = todm_sizes.Costs(spaces.TODM, macros.TODM)


def test_evenly_wide_networks_are_those_and_no_others():
  archs_nd = todm_sizes.evenly(COSTS)
  keys = spaces.TODM.keys(archs_nd)
  assert len(set(keys)) == len(keys)
  # Of d layers at w widths: d (w - 1) + 1.
  assert len(keys) == sum(3 * d + 1 for d in (16, 13, 9))
  for arch_d in archs_nd:
    widths = todm.widths(spaces.TODM, arch_d)
    assert list(widths) == sorted(widths, reverse=True)
    assert max(widths) <= 2 * min(widths)


def test_sizes_by_word_share_and_number():
  words = ['max', '41.04', 'min', '50%']
  least, small, half, most = todm_sizes.named(words, COSTS)
  assert [s.name for s in (least, small, half, most)] == [
    'min', '41.04', '50%', 'max'
  ]  # fmt: skip
  assert np.array_equal(least.arch, todm.smallest(spaces.TODM))
  assert np.array_equal(most.arch, todm.largest(spaces.TODM))
  # Numbers of the paper.
  assert round(least.params / 1e6, 2) == 29.05
  assert round(small.params / 1e6, 2) == 41.04
  assert round(most.params / 1e6, 2) == 99.82
  assert abs(half.params / most.params - 0.5) < 0.02


@pytest.mark.parametrize(
  'words, told',
  [
    ([], 'is empty'),
    (['12.5'], '12.5: no network of todm on macro todm has 12.5 M parameters; '
     'there are 29.05 M (29.1%) to 99.82 M (100%)'),
    (['10%'], '10%: no network of todm on macro todm has 9.982 M'),
    (['120'], 'has 120 M parameters'),
    (['huge'], "'huge' is no size; give min, middle, max"),
    (['nan'], "'nan' is no size"),
    (['max', '100%'], 'max and 100% are one size'),
  ],
)  # fmt: skip
def test_what_no_network_has_is_one_line(words, told):
  with pytest.raises(ValueError) as e:
    todm_sizes.named(words, COSTS)
  assert told in str(e.value) and '\n' not in str(e.value)


def test_costs_are_those_of_the_formula():
  archs_nd = np.random.default_rng(0).integers(
    spaces.TODM.sizes, size=(3, len(spaces.TODM.sizes))
  )
  assert COSTS(archs_nd).tolist() == [
    cost.params(spaces.TODM, arch, macros.TODM) for arch in archs_nd
  ]


def test_flops_are_twice_the_macs_with_a_joiner_a_node():
  space, macro = spaces.TODM, macros.TODM
  arch = todm.largest(space)
  body, joiner = todm_projection.flops(space, arch, macro, 1200, 35)
  # `macs` counts predictor and joiner once a frame.
  frames = 200
  one = macro.joined * macro.outputs
  assert joiner == 2 * frames * 36 * one
  predictor = 3 * 8 * 512 * 512 + 512 * 1024
  want = cost.macs(space, arch, macro, 1200) - frames * (one + predictor)
  assert body == 2 * (want + 36 * predictor)


def test_low_ranks_take_fewer_flops():
  space, macro = spaces.TODM_LOW_RANK, macros.TODM_SMALL
  low, high = ([2] * 6 + [rank, 0] for rank in (0, 2))
  found, count = [], []
  for arch in low, high:
    found.append(todm_projection.flops(space, arch, macro, 1200, 35)[0])
    count.append(cost.macs(space, arch, macro, 1200))
  assert found[1] - found[0] == 2 * (count[1] - count[0]) > 0


SPEECH = todm_projection.Speech(960, 281_241, 35, 180)


def _training(name=None):
  """Returns a row's training at the paper's size; None is A1's largest."""
  options = sandwich.ROWS[name] if name else sandwich.Options(students=0)
  recipe = recipes.Recipe('plan', 180, curriculum=(), loss='transducer')
  return sandwich.Training(spaces.TODM, macros.TODM, recipe, options)


def test_a_sandwich_costs_less_than_one_and_three_quarters():
  assert SPEECH.frames == 1229
  alone, plain, widths, distilled, paths = (
    todm_projection.training(_training(name), SPEECH)
    for name in (None, 'B1', 'B0', 'D', 'paths')
  )
  assert alone < plain < 1.75 * alone < 2.25 * alone
  assert plain < distilled
  # Where no layer is left out, students are larger.
  assert plain < widths
  assert paths < alone
  chip = chips.chip('h100')
  assert todm_projection.seconds(alone, chip, 0.5) == alone / 494.7e12


def test_heads_cost_what_they_compute():
  macro, utterances = macros.TODM, SPEECH.utterances * SPEECH.epochs
  alone, frames_alone, transducers = (
    todm_projection.training(_training(name), SPEECH)
    for name in (None, 'A2', 'A3')
  )
  frames = macro.output_frames(SPEECH.frames)
  _, joiner = todm_projection.flops(
    spaces.TODM, todm.largest(spaces.TODM), macro, SPEECH.frames, SPEECH.labels
  )
  # Behind 9 and 13 of the 16 layers; backward passes cost twice the forward
  # one, and joiners are computed again.
  project = 3 * 2 * frames * 512 * 1024
  read = 3 * 2 * frames * 1024 * macro.outputs
  want = 2 * (project + read) * utterances, 2 * (project + 4 * joiner) * (
    utterances
  )
  found = frames_alone - alone, transducers - alone
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_distillation_costs_both_joiners_once_more():
  plain, distilled = (
    todm_projection.training(_training(name), SPEECH) for name in ('C', 'D')
  )
  _, joiner = todm_projection.flops(
    spaces.TODM, todm.largest(spaces.TODM), macros.TODM, SPEECH.frames, 35
  )
  want = 1.5 * joiner * SPEECH.utterances * SPEECH.epochs
  np.testing.assert_allclose(distilled - plain, want, rtol=1e-6)
