"""Training with a plateau: every member has rates and an end of its own."""

import dataclasses
import functools
import json

import chex
import jax
import numpy as np
import pytest
import tiny_corpus

from nasjax import table
from nasjax.benchmark import running
from nasjax.training import offloading, population, recipes, trainer

PAIR = (
  ((1, 0, 0, 1, 0, 5, 1, 0, 1), 7),
  ((2, 1, 0, 1, 1, 5, 0, 1, 1), 7),
)
RECIPE = tiny_corpus.variant(
  name='plateau',
  epochs=8,
  lr=1e-2,
  decay=0.1,
  patience=2,
  minimum_epochs=2,
  delta=0.5,
  stop_lr=1e-3,
)
# Validation losses of each member by epoch, and the rates that they must lead
# to. After the two epochs that do not count, the first member has bad epochs 3
# and 4 (lower, but not by 0.5), so that its rate falls, and ends after the bad
# epoch 5. The second has the bad epoch 4, an improvement, and the bad epochs 6
# and 7; after 8 all are over.
LOSSES = np.array([
  [3.0, 2.0, 1.9, 1.8, 1.7, 9.0, 9.0, 9.0],
  [3.0, 2.0, 1.0, 0.9, 0.3, 0.2, 0.1, 0.0],
])  # fmt: skip
RATES = np.array([
  [1e-2, 1e-2, 1e-2, 1e-2, 1e-3, 0, 0, 0],
  [1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 1e-3],
])  # fmt: skip
# The lowest of all does not count, and of the lowest that do the latest wins.
PERS = np.array([
  [0.1, 0.1, 0.5, 0.4, 0.4, 0.0, 0.0, 0.0],
  [0.2, 0.3, 0.9, 0.5, 0.6, 0.5, 0.7, 0.6],
])  # fmt: skip
BEST, LAST = (5, 6), (5, 8)


class Scripted(trainer.Trainer):
  """A trainer whose validation scores are given; tests are real."""

  losses, pers = LOSSES, PERS

  def epoch(self, state, epoch, *more):
    self.now = epoch
    return super().epoch(state, epoch, *more)

  def evaluate(self, params_p, split):
    if split == 'test':
      return super().evaluate(params_p, split)
    rows = [PAIR.index(member) for member in self.members]
    return self.losses[rows, self.now - 1], self.pers[rows, self.now - 1]


def every(recipe, state):
  """The recipe of each member."""
  return [recipe] * len(state.curves['val_loss'])


def _host(tree):
  return jax.tree.map(np.array, tree)


def _of(tree, p):
  return jax.tree.map(lambda leaf: leaf[p], tree)


@functools.cache
def _trained(at_once=None, members=PAIR):
  """Returns the trainer and its states after 0, 1, .. 8 epochs."""
  pair = Scripted(
    tiny_corpus.job(RECIPE),
    tiny_corpus.shard(members),
    tiny_corpus.prepared(RECIPE),
  )
  pair.programs = population.programs(
    pair.network, RECIPE, pair.prepared.buckets, pair.prepared.mesh, at_once
  )
  state = pair.initial()
  states = [_host(state)]
  for epoch in range(1, RECIPE.epochs + 1):
    state = pair.epoch(state, epoch)
    states.append(_host(state))
  return pair, states


# Rates.


def test_rates_follow_each_members_losses():
  _, states = _trained()
  for epoch, state in enumerate(states[:-1], start=1):
    rates_pe = trainer.learning_rates(every(RECIPE, state), state, epoch)
    np.testing.assert_allclose(rates_pe, RATES[:, :epoch], rtol=1e-12)
  # After the last epoch the second is over, too.
  np.testing.assert_array_equal(
    trainer.learning_rates(every(RECIPE, states[-1]), states[-1], 9)[:, -1], 0
  )


def test_members_are_trained_at_their_rates():
  """Each epoch equals a pass at the rate of the script."""
  pair, states = _trained()
  for epoch in (4, 5, 8):
    before = population.on_members(
      states[epoch - 1].members, pair.prepared.mesh
    )
    arguments = pair.train_arguments(
      before, pair.plan(epoch), np.float32(RATES[:, epoch - 1])
    )
    members_p, _ = pair.programs.train(*arguments)
    chex.assert_trees_all_equal(_host(members_p), states[epoch].members)
  # With a rate a tenth as large as Adam's moments are warm, steps are smaller.
  moved = [
    np.abs(
      states[e].members.params['head']['kernel'][0]
      - states[e - 1].members.params['head']['kernel'][0]
    ).max()
    for e in (4, 5)
  ]
  assert 0 < moved[1] < 0.3 * moved[0]


@pytest.mark.parametrize('at_once', [None, 2], ids=['in turns', 'mapped'])
def test_who_has_stopped_is_frozen_to_the_bit(at_once):
  _, states = _trained(at_once)
  for p, last in enumerate(LAST):
    for epoch in range(last + 1, RECIPE.epochs + 1):
      chex.assert_trees_all_equal(
        _of(states[epoch][:2], p), _of(states[last][:2], p)
      )
  steps = np.array([state.members.step for state in states])
  np.testing.assert_array_equal(np.diff(steps, axis=0), 5 * (RATES.T > 0))
  assert states[-1].members.alive.all()
  assert not states[-1].diverged_epoch.any()


def test_who_goes_on_does_not_notice():
  _, states = _trained()
  _, alone = _trained(members=PAIR[1:])
  chex.assert_trees_all_equal(_of(states[-1][:3], 1), _of(alone[-1][:3], 0))


def test_curves_are_nan_where_nothing_was_trained():
  _, states = _trained()
  curves = states[-1].curves
  for name, given in (('val_loss', LOSSES), ('val_per', PERS)):
    expected = np.where(RATES > 0, given, np.nan)
    np.testing.assert_array_equal(curves[name], expected)
  np.testing.assert_array_equal(np.isnan(curves['train_loss']), RATES == 0)


def test_the_best_epoch_is_none_of_the_minimum():
  _, states = _trained()
  for epoch in (1, 2):
    assert (states[epoch].best_epoch == 0).all()
  _, last = states[0], states[-1]
  assert tuple(last.best_epoch) == BEST
  for p, epoch in enumerate(BEST):
    chex.assert_trees_all_equal(
      _of(last.best, p), _of(states[epoch].members.params, p)
    )


def test_who_diverged_has_no_rate_any_more():
  pair, states = _trained()
  broken = states[3].members
  params = _host(broken.params)
  params['head']['bias'][1, 0] = np.nan
  members_p, best_p = population.on_members(
    (broken._replace(params=params), states[3].best), pair.prepared.mesh
  )
  state = states[3]._replace(members=members_p, best=best_p)
  state = pair.epoch(state, 4)
  assert state.diverged_epoch.tolist() == [0, 4]
  rates_pe = trainer.learning_rates(every(RECIPE, state), state, 8)
  np.testing.assert_array_equal(rates_pe[1] > 0, np.arange(8) < 4)


# Shards.


class Interrupted(Exception):
  pass


def _job(recipe=RECIPE):
  return tiny_corpus.job(recipe)


def _run(out, monkeypatch, stop_at=None, at_once=None, losses=LOSSES):
  """Trains the shard; raises after epoch `stop_at`. Returns what was told."""
  monkeypatch.setattr(offloading, 'Trainer', Scripted)
  monkeypatch.setattr(Scripted, 'losses', losses)
  job, told = _job(), []
  (shard,) = running.plan(job, PAIR, 2)
  # Padding and order are those of the script.
  assert shard.members == PAIR

  def on_epoch(progress):
    told.append((progress.epoch, progress.resumed, progress.diverged))
    if progress.epoch == stop_at:
      raise Interrupted

  running.run_shard(
    job,
    shard,
    tiny_corpus.prepared(RECIPE),
    out,
    on_epoch,
    {shard.signature: at_once} if at_once else None,
  )
  return told


def test_rows_have_the_rates_of_their_member(tmp_path, monkeypatch):
  told = _run(tmp_path, monkeypatch)
  assert told == [(epoch, False, 0) for epoch in range(1, 9)]
  rows = table.open(tmp_path)
  for p, (arch, _) in enumerate(PAIR):
    (row,) = (
      row for row in rows.to_arrow().to_pylist() if tuple(row['arch']) == arch
    )
    expected = np.where(RATES[p] > 0, RATES[p], np.nan)
    np.testing.assert_allclose(row['learning_rate'], expected, rtol=1e-6)
    assert row['status'] == 'ok' and row['best_epoch'] == BEST[p]
    assert recipes.Recipe(**json.loads(row['recipe_json'])) == RECIPE
    # Tables answer for the epoch whose weights were tested.
    best = rows.query(arch, 'val_per', seed=7, epoch='best')
    assert best == PERS[p, BEST[p] - 1]


def test_a_resumed_shard_goes_on_as_it_would_have(tmp_path, monkeypatch):
  """It is interrupted between a fall of the rate and the end of a member."""
  _run(tmp_path / 'whole', monkeypatch)
  for stop_at in (4, 6):
    with pytest.raises(Interrupted):
      _run(tmp_path / 'cut', monkeypatch, stop_at)
  told = _run(tmp_path / 'cut', monkeypatch)
  assert [resumed for _, resumed, _ in told] == [True] * 6 + [False] * 2
  tiny_corpus.assert_same_table(tmp_path / 'whole', tmp_path / 'cut')


def test_parts_of_a_shard_end_on_their_own(tmp_path, monkeypatch):
  """One member at a time on the devices, as where memory is short."""
  _run(tmp_path / 'whole', monkeypatch)
  _run(tmp_path / 'parts', monkeypatch, at_once=1)
  tiny_corpus.assert_same_table(tmp_path / 'whole', tmp_path / 'parts')


def test_a_shard_ends_with_its_last_member(tmp_path, monkeypatch):
  """Where no loss falls any more, both end after the bad epochs 4 and 5."""
  losses = np.full((2, 8), 1.0)
  told = _run(tmp_path, monkeypatch, losses=losses)
  assert [epoch for epoch, _, _ in told] == [1, 2, 3, 4, 5]
  rows = table.open(tmp_path)
  assert set(rows.column('epochs')) == {8}
  assert set(rows.column('status')) == {'ok'}
  for name in ('learning_rate', 'val_loss', 'val_per', 'epoch_seconds'):
    np.testing.assert_array_equal(
      np.isnan(rows.curves(name)), [[False] * 5 + [True] * 3] * 2
    )
  seconds = np.nansum(rows.curves('epoch_seconds'), axis=1)
  np.testing.assert_allclose(rows.column('seconds'), seconds, rtol=1e-5)
  assert (seconds > 0).all()
  # A finished shard is left alone, and one without rows needs no training.
  assert _run(tmp_path, monkeypatch, losses=losses) == []
  for path in (tmp_path / 'table').iterdir():
    path.unlink()
  again = _run(tmp_path, monkeypatch, losses=losses)
  assert again == [(epoch, True, 0) for epoch in range(1, 6)]


def test_real_losses_drive_it_as_well():
  """Nothing is scripted: rates follow from the curves that were found."""
  recipe = dataclasses.replace(RECIPE, delta=0.05, patience=1, minimum_epochs=1)
  pair = running.Trainer(
    _job(recipe), tiny_corpus.shard(PAIR), tiny_corpus.prepared(recipe)
  )
  # These numbers are none of the compiled programs'.
  pair.programs = _trained()[0].programs
  state = pair.initial()
  for epoch in range(1, recipe.epochs + 1):
    state = pair.epoch(state, epoch)
  loss_pe = state.curves['val_loss']
  for p in range(2):
    lr, best, rates = 1e-2, loss_pe[p, 0], [1e-2, 1e-2]
    for loss in loss_pe[p, 1:-1]:
      if loss < best - 0.05:
        best = loss
      else:
        lr *= 0.1
      rates.append(lr if lr >= 1e-3 else np.nan)
    own, epochs = every(recipe, state), recipe.epochs
    found = trainer.learning_rates(own, state, epochs)[p]
    np.testing.assert_allclose(found, np.nan_to_num(rates), rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(loss_pe[p]), np.isnan(rates))
    assert 0 < found[-2:].min() < 1e-2 or found[-1] == 0
