"""Checkpoints come back from any path; one that is broken counts as none."""

import shutil
from typing import NamedTuple

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from nasjax.storage import checkpoints


def _save(place, epochs):
  with checkpoints.manager(place) as saved:
    for epoch in epochs:
      state = {'w': np.arange(4.0) + epoch}
      with checkpoints.SAVING:
        saved.save(
          epoch, args=ocp.args.StandardSave(state), custom_metadata={'of': 'w'}
        )
    saved.wait_until_finished()


def _restored(place, say=pytest.fail):
  with checkpoints.manager(place) as saved:
    return checkpoints.restore(saved, place, {'w': np.zeros(4)}, say)


@pytest.mark.parametrize(
  'name',
  [
    'run [a]',
    '[',
    '*?',
    '{a,b}',
    '50% #1',
    'müsli – 学',
    'it\'s \\ "so"',
    'a\nb',
  ],
)
def test_any_path(tmp_path, name):
  place = tmp_path / name / 'shard'
  _save(place, [1, 2])
  epoch, state, about = _restored(place)
  assert epoch == 2 and about == {'of': 'w'}
  np.testing.assert_array_equal(state['w'], np.arange(4.0) + 2)
  # Also as a reader of the notebook would, at least where it was written.
  assert [p.name for p in place.iterdir()] == ['2']


def test_who_is_killed_sealing_leaves_nothing_for_long(tmp_path):
  (tmp_path / 'a').write_text('numbers')
  (tmp_path / f'.{checkpoints.SEAL}.0a1b2c3d.tmp').write_text('of the dead')
  checkpoints.seal(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {'a', checkpoints.SEAL}
  assert checkpoints.broken(tmp_path) is None


def test_who_only_reads_gets_the_last_and_changes_nothing(tmp_path):
  place = tmp_path / 'run [a]' / 'shard'
  with pytest.raises(ValueError, match='has no checkpoint'):
    checkpoints.last(place)
  assert not place.exists()
  _save(place, [1, 2])
  (place / 'notes.txt').write_text('of somebody')
  epoch, state, about = checkpoints.last(place)
  assert epoch == 2 and about == {'of': 'w'}
  np.testing.assert_array_equal(state['w'], np.arange(4.0) + 2)
  shutil.rmtree(place / '2' / 'default')
  with pytest.raises(ValueError, match='of epoch 2 in .* cannot be restored'):
    checkpoints.last(place)
  assert sorted(p.name for p in place.iterdir()) == ['2', 'notes.txt']


class _State(NamedTuple):
  w: np.ndarray
  records: dict
  kept: dict | None


def _kept_state(place, state, target):
  """Returns what comes back of a state, and what was said."""
  said = []
  with checkpoints.manager(place) as saved:
    with checkpoints.SAVING:
      saved.save(
        1,
        args=ocp.args.StandardSave(checkpoints.by_field(state)),
        custom_metadata={'of': 'w'},
      )
    saved.wait_until_finished()
    return checkpoints.restore(saved, place, target, said.append)[1], said


@pytest.mark.parametrize('kept', [None, {'v': np.arange(3)}])
def test_states_that_were_dicts_come_back_as_tuples(tmp_path, kept):
  """Runs of before there were `trainer.State` and `searching.State` go on."""
  state = _State(np.arange(4.0), {'a': np.ones(2)}, kept)
  old = {k: v for k, v in state._asdict().items() if v is not None}
  target = jax.tree.map(np.zeros_like, state)
  for name, saved in (('old', old), ('new', state)):
    found, said = _kept_state(tmp_path / name, saved, target)
    assert not said and isinstance(found, _State)
    chex.assert_trees_all_equal(found, state)


def test_a_state_with_other_fields_counts_as_absent(tmp_path):
  target = _State(np.zeros(4), {'a': np.zeros(2)}, None)
  found, said = _kept_state(tmp_path, {'w': np.zeros(4)}, target)
  assert found is None and 'cannot be restored; it is 1.unreadable' in said[0]


def test_a_broken_checkpoint_is_told_and_set_aside(tmp_path):
  place, said = tmp_path / 'shard', []
  _save(place, [3])
  for path in (place / '3').rglob('*'):
    if path.is_file() and 'METADATA' not in path.name.upper():
      path.write_bytes(path.read_bytes()[:7])
  assert _restored(place, said.append) == (0, None, None)
  (line,) = said
  assert f'epoch 3 in {place} cannot be restored' in line
  assert '\n' not in line
  assert (place / '3.unreadable').is_dir()
  # The same epoch can be saved again, and break again.
  _save(place, [3])
  assert _restored(place)[0] == 3
