"""Parts: a shard of which only some members stand on the devices."""

import functools

import chex
import numpy as np
import pytest
import tiny_corpus

from nasjax.training import offloading

MEMBERS = (
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 9),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 9),
)


def _parts(at_once, size=3):
  shard = tiny_corpus.shard(MEMBERS, size)
  return offloading.Parts(
    tiny_corpus.job(), shard, tiny_corpus.prepared(), at_once
  )


@functools.cache
def _trained(at_once, size=3):
  """Returns states after each epoch, and the scores on the test split."""
  population = _parts(at_once, size)
  population.begin()
  states = [population.host()]
  for epoch in (1, 2):
    population.epoch(epoch)
    states.append(population.host())
  return states, population.test()


def _assert_close(one, other):
  one, other = (state._replace(seconds=0) for state in (one, other))
  chex.assert_trees_all_close(one, other, rtol=1e-5, atol=1e-5)
  for name in ('best_epoch', 'diverged_epoch'):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_shard_is_cut_into_equal_parts():
  shard = tiny_corpus.shard(MEMBERS, size=4)
  assert offloading.cut(shard, 4) == offloading.cut(shard, 9) == [shard]
  for at_once, sizes in ((3, [3]), (2, [2, 1]), (1, [1, 1, 1])):
    found = offloading.cut(shard, at_once)
    assert [len(part.members) for part in found] == sizes
    assert {part.size for part in found} == {at_once}
    # They share a program, and the streams it reads.
    assert {part.streams for part in found} == {(7, 9)}
    assert sum((part.members for part in found), ()) == shard.members


@pytest.mark.parametrize('at_once', [2, 1])
def test_parts_train_as_the_whole(at_once):
  whole, scores = _trained(3)
  found, found_scores = _trained(at_once)
  for one, other in zip(whole, found, strict=True):
    _assert_close(one, other)
  np.testing.assert_allclose(found_scores[0], scores[0], rtol=1e-5)
  np.testing.assert_array_equal(found_scores[1], scores[1])
  assert len(scores[0]) == 3 and (found[-1].members.step == 10).all()


def test_parts_whose_states_stay_on_the_devices(monkeypatch):
  shard = tiny_corpus.shard(MEMBERS, 3)
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  population = offloading.Parts(job, shard, prepared, at_once=1, fitting=3)
  population.begin()
  states = [population.host()]
  with monkeypatch.context() as patch:
    # Between epochs nothing goes to the host, or comes from there.
    patch.setattr(offloading.Trainer, 'load', None)
    patch.setattr(offloading.Trainer, 'unload', None)
    population.epoch(1)
  states.append(population.host())
  for one, other in zip(_trained(1)[0][:2], states, strict=True):
    chex.assert_trees_all_equal(one.members, other.members)


def test_padding_is_left_out():
  """On a CPU, where members take turns, to the bit."""
  padded, scores = _trained(4, size=4)
  whole, expected = _trained(3)
  chex.assert_trees_all_equal(
    padded[-1]._replace(seconds=0), whole[-1]._replace(seconds=0)
  )
  for one, other in zip(scores[:3], expected[:3], strict=True):
    assert len(one) == 3
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('before, after', [(3, 2), (2, 3), (3, 1), (1, 1)])
def test_a_state_goes_on_in_other_parts(before, after):
  states, _ = _trained(before)
  population = _parts(after)
  population.resume(states[1])
  again = population.host()
  chex.assert_trees_all_equal(again, states[1])
  population.epoch(2)
  _assert_close(population.host(), _trained(3)[0][-1])
  # The seconds of both epochs, each counted once.
  seconds = population.host().seconds
  assert seconds[0] == states[1].seconds[0] and seconds[1] > 0


def test_the_target_of_a_restore_has_its_shapes():
  for at_once in (3, 2):
    host = _trained(at_once)[0][-1]
    chex.assert_trees_all_equal_shapes_and_dtypes(
      _parts(at_once).target(),
      host,
    )


def test_words_of_all_members_are_told():
  """Where a symbol is a space, each part counts the words of its members."""
  prepared = tiny_corpus.prepared()
  units = prepared.units._replace(symbols=('a', 'b', ' ', 'd', 'e'))
  prepared = prepared._replace(units=units)
  found = []
  for at_once in (2, 3):
    population = offloading.Parts(
      tiny_corpus.job(), tiny_corpus.shard(MEMBERS, 3), prepared, at_once
    )
    population.begin()
    found.append(population.test()[3])
  one, other = found
  assert one.keys() == {'wer'} and one['wer'].shape == (3,)
  np.testing.assert_array_equal(one['wer'], other['wer'])
  assert len(set(one['wer'])) > 1
