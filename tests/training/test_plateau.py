"""The scheduler of ST-NAS: scripted losses, exact rates."""

import dataclasses
import math

import pytest

from nasjax.training import plateau
from nasjax.training.plateau import RETRAIN, SEARCH, WARM_UP, Plateau, State

# As they round: the limits of the stages are met exactly.
DECAYED = 1e-3 * 0.1
DECAYED_TWICE = 1e-3 * 0.1 * 0.1


def _play(stage, losses, lr=1e-3):
  """States after each epoch, until the stage stops or losses end."""
  states, state = [], State(lr)
  for epoch, loss in enumerate(losses, 1):
    state = plateau.step(stage, state, epoch, loss)
    states.append(state)
    if state.stopped:
      break
  return states


def _rates(states):
  return [state.lr for state in states]


def test_the_stages_have_the_numbers_of_the_paper():
  assert Plateau(10, 3, 0.5, 1e-3, 0.1) == WARM_UP
  assert Plateau(0, 3, 0.5, 1e-4, 0.1) == SEARCH
  assert Plateau(10, 1, 0.0, 1e-5, 0.1) == RETRAIN


def test_products_of_rates_are_compared_as_they_round():
  assert DECAYED == 1e-4
  assert DECAYED_TWICE == 1e-5
  # By powers of the factor it would be another number.
  assert 1e-3 * 0.1**2 != 1e-5


@pytest.mark.parametrize(
  ('stage', 'epochs', 'rates'),
  [
    # Ten epochs that do not count, three bad ones; the first trigger stops.
    (WARM_UP, 13, [1e-3] * 13),
    # Epoch 1 is below infinity: the best so far. The third bad one decays, to
    # what is not below the limit, and the next one stops.
    (SEARCH, 5, [1e-3] * 3 + [DECAYED] * 2),
    # The first bad one decays, the second does, the third stops.
    (RETRAIN, 13, [1e-3] * 10 + [DECAYED, DECAYED_TWICE, DECAYED_TWICE]),
  ],
)
def test_a_loss_that_stands_still(stage, epochs, rates):
  states = _play(stage, [30.0] * 50)
  assert len(states) == epochs
  assert _rates(states) == rates
  assert [state.stopped for state in states] == [False] * (epochs - 1) + [True]


@pytest.mark.parametrize('stage', [WARM_UP, SEARCH, RETRAIN])
def test_a_loss_that_falls_far_enough_never_stops(stage):
  states = _play(stage, [100.0 - 0.75 * epoch for epoch in range(100)])
  assert len(states) == 100
  assert _rates(states) == [1e-3] * 100
  counted = [epoch > stage.minimum for epoch in range(1, 101)]
  assert [state.improved for state in states] == counted
  assert states[-1] == State(1e-3, 25.75, 0, True, False)


@pytest.mark.parametrize('stage', [WARM_UP, SEARCH])
def test_a_loss_that_falls_too_slowly_is_bad(stage):
  # The best stays what it was: slow falls add up until they count.
  first = max(stage.minimum, 1)
  states = _play(stage, [30.0] * first + [29.75, 29.5, 29.25])
  assert [state.bad for state in states[first:]] == [1, 2, 0]
  assert [state.improved for state in states[first:]] == [False, False, True]
  assert [state.best for state in states[first:]] == [30.0, 30.0, 29.25]


def test_equality_with_the_threshold_is_bad():
  seen = State(1e-3, best=8.0)
  assert not plateau.step(SEARCH, seen, 2, 7.5).improved
  assert plateau.step(SEARCH, seen, 2, math.nextafter(7.5, 0)).improved
  assert not plateau.step(RETRAIN, seen, 11, 8.0).improved
  assert plateau.step(RETRAIN, seen, 11, math.nextafter(8.0, 0)).improved


def test_epochs_that_do_not_count_only_remember_the_lowest_loss():
  states = _play(WARM_UP, [9.0, 3.0, 5.0, 1e9, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0])
  assert [state.best for state in states] == [9.0] + [3.0] * 9
  assert {state.bad for state in states} == {0}
  assert not any(state.improved or state.stopped for state in states)
  # The tenth epoch does not count yet, the eleventh does.
  assert plateau.step(WARM_UP, State(1e-3, 3.0), 10, 1.0).improved is False
  after = plateau.step(WARM_UP, states[-1], 11, 2.5)
  assert (after.bad, after.improved) == (1, False)


def test_an_improvement_forgives_bad_epochs_but_not_the_decay():
  losses = [20.0, 20.0, 20.0, 19.0, 19.0, 19.0, 19.0, 18.0, 18.0, 18.0, 18.0]
  states = _play(SEARCH, losses)
  assert [state.bad for state in states] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]
  assert _rates(states) == [1e-3] * 6 + [DECAYED] * 5
  assert [state.stopped for state in states] == [False] * 10 + [True]


def test_bad_epochs_are_not_counted_anew_after_a_decay():
  stage = Plateau(minimum=0, patience=3, delta=0.0, stop_lr=1e-9)
  states = _play(stage, [5.0] * 7)
  assert [state.bad for state in states] == [0, 1, 2, 3, 4, 5, 6]
  expected, lr = [1e-3] * 3, 1e-3
  for _ in range(4):
    lr = lr * 0.1
    expected.append(lr)
  assert _rates(states) == expected


def test_patience_is_met_by_as_many_bad_epochs():
  for patience in (1, 2, 5):
    stage = Plateau(0, patience, 0.0, 1e-9)
    states = _play(stage, [5.0] * (patience + 1))
    assert _rates(states) == [1e-3] * patience + [DECAYED]


def test_a_stage_that_stops_keeps_its_rate_and_best():
  states = _play(SEARCH, [5.0, 4.75, 4.75, 4.75, 4.75])
  assert states[-1] == State(DECAYED, 5.0, 4, False, True)


def test_a_rate_equal_to_the_limit_goes_on():
  stage = Plateau(0, 1, 0.0, stop_lr=0.25, factor=0.5)
  states = _play(stage, [1.0, 1.0, 1.0, 1.0], lr=1.0)
  assert _rates(states) == [1.0, 0.5, 0.25, 0.25]
  assert states[-1].stopped


def test_a_loss_that_is_no_number_is_bad():
  seen = State(1e-3, best=8.0, bad=1)
  after = plateau.step(SEARCH, seen, 2, math.nan)
  assert after == State(1e-3, 8.0, 2, False, False)
  assert plateau.step(SEARCH, State(1e-3), 1, math.inf).bad == 1


@pytest.mark.parametrize(
  'change',
  [
    {'minimum': -1},
    {'patience': 0},
    {'delta': -0.1},
    {'delta': math.nan},
    {'stop_lr': 0.0},
    {'factor': 1.0},
    {'factor': 0.0},
  ],
)
def test_numbers_out_of_range_are_named(change):
  with pytest.raises(ValueError, match='Plateau.*out of range'):
    dataclasses.replace(SEARCH, **change)
