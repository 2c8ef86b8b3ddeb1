"""Tests of the loop over epochs: what it saves, and what it goes on from."""

import contextlib
import random
from typing import NamedTuple

import numpy as np
import pytest

from nasjax.storage import checkpoints
from nasjax.training import loop


class State(NamedTuple):
  """Numbers that depend on all epochs before."""

  weights: np.ndarray
  moments: np.ndarray
  epoch: np.ndarray


class Toy:
  """What the loop trains: an epoch mixes the numbers by its own seed."""

  def __init__(self):
    self.trained = []

  def target(self):
    return State(np.zeros(5000), np.zeros(5000), np.zeros((), np.int64))

  def begin(self):
    self._state = self.target()

  def resume(self, host):
    self._state = host

  def epoch(self, epoch, since=None, pause=None):
    del since, pause
    noise = np.random.default_rng(epoch).normal(size=5000)
    moments = 0.9 * self._state.moments + noise
    weights = self._state.weights - 0.1 * moments
    self._state = State(weights, moments, np.int64(epoch))
    self.trained.append(epoch)

  def host(self):
    return self._state

  def over(self, host, epoch):
    return False


class Stop(Exception):
  pass


def run(place, epochs=5, stop=None, say=pytest.fail):
  """Trains a Toy; returns it, its last state and what was told."""
  toy, told = Toy(), []

  def tell(epoch, host, resumed):
    told.append((epoch, resumed))
    if epoch == stop:
      raise Stop

  with contextlib.suppress(Stop):
    return toy, loop.run(toy, place, epochs, {'of': 'toy'}, tell, say), told
  return toy, None, told


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The last state of a training that nothing happened to."""
  place = tmp_path_factory.mktemp('whole')
  toy, state, _ = run(place)
  assert toy.trained == [1, 2, 3, 4, 5]
  # The last epoch only, in the end.
  assert [p.name for p in place.iterdir()] == ['5']
  assert checkpoints.broken(place / '5') is None
  assert (place / '5' / checkpoints.SEAL).exists()
  return state


def same(one, other):
  return all(a.tobytes() == b.tobytes() for a, b in zip(one, other))


def test_two_stay_while_it_is_trained(tmp_path, whole):
  run(tmp_path, stop=3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '3']
  toy, state, told = run(tmp_path)
  assert toy.trained == [4, 5] and same(state, whole)
  assert told[:3] == [(1, True), (2, True), (3, True)]


def _cut(path):
  file = max(path.rglob('*'), key=lambda p: p.is_file() and p.stat().st_size)
  file.write_bytes(file.read_bytes()[:-1])


def _flip_a_number(path):
  file = max(path.rglob('*'), key=lambda p: p.is_file() and p.stat().st_size)
  raw = bytearray(file.read_bytes())
  raw[len(raw) // 2] ^= 16
  file.write_bytes(raw)


def _misname(path):
  file = path / '_CHECKPOINT_METADATA'
  file.write_bytes(file.read_bytes().replace(b'commit_', b'sommit_'))


@pytest.mark.parametrize('harm', [_cut, _flip_a_number, _misname])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, whole, harm):
  run(tmp_path, stop=3)
  checkpoints.seal(tmp_path / '3')
  harm(tmp_path / '3')
  said = []
  toy, state, _ = run(tmp_path, say=said.append)
  # An epoch is lost, and trained again to the bit.
  assert toy.trained == [3, 4, 5] and same(state, whole)
  (line,) = said
  assert f'of epoch 3 in {tmp_path} cannot be restored; it is 3.unreadable' in (
    line
  )
  assert 'that of epoch 2 is next' in line


def test_words_that_orbax_cannot_read_do_not_end_a_run_unsealed(
  tmp_path, whole
):
  run(tmp_path, stop=3)
  (tmp_path / '3' / checkpoints.SEAL).unlink(missing_ok=True)
  _misname(tmp_path / '3')
  said = []
  toy, state, _ = run(tmp_path, say=said.append)
  assert toy.trained == [3, 4, 5] and same(state, whole) and len(said) == 1


def test_fifty_of_fifty_flipped_bits_are_caught(tmp_path):
  run(tmp_path, epochs=2)
  path, rng = tmp_path / '2', random.Random(0)
  files = sorted(p for p in path.rglob('*') if p.is_file())
  files = [file for file in files if file.stat().st_size]
  assert len(files) > 8
  for k in range(50):
    file = files[k % len(files)]
    good = file.read_bytes()
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    file.write_bytes(bad)
    assert checkpoints.broken(path), file
    if k < 2:
      with pytest.raises(ValueError, match='cannot be restored'):
        checkpoints.last(tmp_path)
    file.write_bytes(good)
  assert checkpoints.broken(path) is None
  # A file that is gone, or has come, is seen as well.
  (path / 'more').write_text('')
  assert checkpoints.broken(path)


@pytest.mark.parametrize(('stop', 'saved'), [(3, 2), (4, 4), (1, 0)])
def test_some_epochs_are_saved_and_the_last(tmp_path, whole, stop, saved):
  def go(stop=None):
    toy = Toy()
    with contextlib.suppress(Stop):
      return toy, loop.run(
        toy, tmp_path, 5, {'of': 'toy'}, _stopper(stop), pytest.fail, every=2
      )
    return toy, None

  go(stop)
  toy, state = go()
  assert toy.trained == list(range(saved + 1, 6)) and same(state, whole)
  assert [p.name for p in tmp_path.iterdir()] == ['5']


def _stopper(stop):
  def tell(epoch, host, resumed):
    if epoch == stop and not resumed:
      raise Stop

  return tell
