"""Runs: shards become rows of a table."""

import datetime
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_corpus

from nasjax import cost, models, table
from nasjax.benchmark import running
from nasjax.models import common
from nasjax.storage import checkpoints
from nasjax.training import offloading, portable, recipes

SPACE, RECIPE, MACRO = tiny_corpus.SPACE, tiny_corpus.RECIPE, tiny_corpus.MACRO
CELLS = (
  [[2, 1], [0, 1, 1], [5, 0, 1, 1]],
  [[1, 0], [0, 1, 0], [5, 1, 0, 1]],
  [[3, 1], [0, 0, 0], [5, 0, 1, 1]],
)
MEMBERS = [(CELLS[0], 7), (CELLS[1], 9)]


def _flat(cell):
  return tuple(SPACE.parse(cell).tolist())


# Rows.


def _run(out, members=MEMBERS, recipe=RECIPE, limit=2):
  """Runs all shards; returns what was told of, and what `run_shard` said."""
  job, told, did = tiny_corpus.job(recipe), [], []
  for shard in running.plan(job, members, limit):
    prepared = tiny_corpus.prepared(recipe)
    did.append(running.run_shard(job, shard, prepared, out, told.append))
  return told, did


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A finished run of two shards, the second padded; and what it told."""
  out = tmp_path_factory.mktemp('finished')
  told, did = _run(out, [*MEMBERS, (CELLS[2], 11)])
  assert did == [True, True]
  return out, told


def test_rows_say_what_was_trained(finished):
  out, _ = finished
  t = table.open(out)
  rows = t.to_arrow().to_pylist()
  assert len(rows) == 3
  for row in rows:
    arch = np.array(row['arch'], np.int8)
    assert row['key'] == SPACE.key(arch)
    assert row['semantic_key'] == SPACE.semantic_key(arch)
    assert row['params'] == cost.params(SPACE, arch, MACRO)
    assert row['macs'] == cost.macs(SPACE, arch, MACRO, frames=200)
    assert (row['macro'], row['corpus']) == ('pocket', 'tiny')
    assert row['corpus_fingerprint'] == tiny_corpus.corpus().fingerprint
    assert recipes.Recipe(**json.loads(row['recipe_json'])) == RECIPE
    np.testing.assert_allclose(row['learning_rate'], [2e-2, 1e-2])
    assert row['status'] == 'ok' and row['diverged_epoch'] is None
    assert sum(row['epoch_seconds']) == pytest.approx(row['seconds'], rel=1e-5)
    assert datetime.datetime.fromisoformat(row['created']).tzinfo
    assert json.loads(row['versions'])['jax'] == jax.__version__
  assert t.seeds == (7, 9, 11) and t.recipes == ('pocket',)
  assert t.shards[0].meta['members'] + t.shards[1].meta['members'] == 3
  assert {shard.meta['padding'] for shard in t.shards} == {0, 1}


def test_params_of_a_row_are_those_of_its_own_network(finished):
  """Seven taps stand in the population's tree, as many as it has in the row."""
  out, _ = finished
  t = table.open(out)
  for cell, seed in MEMBERS:
    arch = SPACE.parse(cell)
    trainer = tiny_corpus.trainer([(cell, seed)])
    gates = jax.tree.map(lambda leaf: leaf[0], trainer.host_gates)
    shapes = jax.eval_shape(
      lambda key, gates=gates, trainer=trainer: common.initial_params(
        trainer.network, key, gates
      ),
      jax.random.key(0),
    )
    tree = jax.tree.map(lambda leaf: np.empty(leaf.shape), shapes)
    own = cost.leaves(models.unpack(SPACE, arch, tree))
    assert t.query(cell, 'params', seed=seed) == own


def test_rows_equal_training_by_hand(finished):
  """The weights of the best epoch are tested, whichever it was."""
  out, _ = finished
  t = table.open(out)
  trainer = tiny_corpus.trainer(MEMBERS)
  state = trainer.initial()
  tested = []
  for epoch in (1, 2):
    state = trainer.epoch(state, epoch)
    tested.append(trainer.evaluate(state.members.params, 'test'))
  for p, (cell, seed) in enumerate(MEMBERS):
    val_per = state.curves['val_per'][p]
    best = 2 if val_per[1] <= val_per[0] else 1
    loss_p, per_p = tested[best - 1]
    assert t.query(cell, 'best_epoch', seed=seed) == best
    assert t.query(cell, 'test_per', seed=seed) == per_p[p]
    assert t.query(cell, 'test_loss', seed=seed) == np.float32(loss_p[p])
    for epoch in (1, 2):
      told = t.query(cell, 'val_per', seed=seed, epoch=epoch)
      assert told == val_per[epoch - 1]


def test_progress_is_told_after_every_epoch(finished):
  _, told = finished
  assert [p.epoch for p in told] == [1, 2, 1, 2]
  assert not any(p.resumed for p in told)
  for progress in told:
    assert progress.seconds > 0
    for name in ('train_loss', 'val_loss', 'val_per'):
      curves = progress.curves[name]
      assert curves.shape == (len(progress.shard.members), progress.epoch)
      assert np.isfinite(curves).all()


def test_a_finished_shard_is_left_alone(finished):
  out, _ = finished
  files = {p: p.stat().st_mtime_ns for p in out.rglob('*') if p.is_file()}
  told, did = _run(out, [*MEMBERS, (CELLS[2], 11)])
  assert (told, did) == ([], [False, False])
  for path, time in files.items():
    assert path.stat().st_mtime_ns == time


def test_a_finished_shard_of_an_older_run_gets_what_its_networks_need(
  finished, tmp_path
):
  out, _ = finished
  shutil.copytree(out, tmp_path, dirs_exist_ok=True)
  kept = sorted(tmp_path.rglob(portable.NAME))
  assert len(kept) == 2
  payload = kept[0].read_bytes()
  kept[0].unlink()
  with pytest.raises(ValueError, match='give the command of the run again'):
    portable.read(kept[0].parent)
  shutil.rmtree(kept[1].parent)
  assert _run(tmp_path, [*MEMBERS, (CELLS[2], 11)]) == ([], [False, False])
  assert kept[0].read_bytes() == payload
  # Where nobody kept weights, nothing is kept beside them.
  assert not kept[1].parent.exists()
  found = portable.read(kept[0].parent)
  assert found.units.symbols == tiny_corpus.SYMBOLS
  assert recipes.Recipe(**found.about['recipe']) == tiny_corpus.RECIPE


def test_a_run_goes_on_when_only_the_rows_are_missing(
  finished, tmp_path, monkeypatch
):
  out, first = finished
  # Who goes on needs no first state.
  monkeypatch.setattr(offloading.Trainer, 'initial', None)
  shutil.copytree(out / 'checkpoints', tmp_path / 'checkpoints')
  told, did = _run(tmp_path, [*MEMBERS, (CELLS[2], 11)])
  assert did == [True, True] and all(p.resumed for p in told)
  for one, other in zip(first, told, strict=True):
    assert one.epoch == other.epoch and one.seconds == other.seconds
    for name, curves in one.curves.items():
      np.testing.assert_array_equal(curves, other.curves[name])
  tiny_corpus.assert_same_table(out, tmp_path)


def test_debris_of_checkpoints_is_not_read(finished, tmp_path):
  """What a killed writer leaves, and a directory that somebody made."""
  out, _ = finished
  for shard in running.plan(tiny_corpus.job(), [*MEMBERS, (CELLS[2], 11)], 2):
    directory = tmp_path / 'checkpoints' / shard.name
    source = out / 'checkpoints' / shard.name / '2'
    for name in ('1.orbax-checkpoint-tmp', '2.orbax-checkpoint-tmp-17'):
      shutil.copytree(source, directory / name)
      shutil.rmtree(directory / name / 'default' / 'd')
    (directory / '2.orbax-checkpoint-tmp' / 'default').mkdir(parents=True)
    (directory / 'notes').mkdir()
  told, did = _run(tmp_path, [*MEMBERS, (CELLS[2], 11)])
  assert did == [True, True] and not any(p.resumed for p in told)
  tiny_corpus.assert_same_table(out, tmp_path)


def test_checkpoints_open_with_orbax_alone(finished):
  out, _ = finished
  shards = running.plan(tiny_corpus.job(), [*MEMBERS, (CELLS[2], 11)], 2)
  for shard in shards:
    path = out / 'checkpoints' / shard.name
    with ocp.CheckpointManager(path) as manager:
      assert manager.all_steps() == [2]
      state = manager.restore(2, args=ocp.args.StandardRestore())
      about = manager.metadata(2).custom_metadata
    # Without the padding.
    members = len(shard.members)
    assert {len(leaf) for leaf in jax.tree.leaves(state['best'])} == {members}
    assert state['curves']['val_per'].shape == (members, 2)
    assert [m['seed'] for m in about['members']] == [
      s for _, s in shard.members
    ]


ODD = ('run [a]', 'a*?{b}%20 #1', 'sp ace/\u00e9\u65e5\nline', '**', '~')


@pytest.mark.parametrize('name', ODD)
def test_checkpoints_come_back_below_any_path(tmp_path, name):
  # What a glob would take for the parts of this checkpoint.
  (tmp_path / 'run a' / '1' / 'default' / 'ocdbt.process_7').mkdir(parents=True)
  place = tmp_path / name / 'x'
  state = {'w': np.arange(6.0).reshape(2, 3), 'n': np.int32(4)}
  with checkpoints.manager(place) as saved:
    for epoch in (1, 2):
      args = ocp.args.StandardSave(state)
      saved.save(epoch, args=args, custom_metadata={'of': name})
    saved.wait_until_finished()
  with checkpoints.manager(place) as saved:
    epoch, found, about = checkpoints.restore(saved, place, None, pytest.fail)
  assert epoch == 2 and about == {'of': name} and found['n'] == 4
  np.testing.assert_array_equal(found['w'], state['w'])
  assert [path.name for path in place.iterdir()] == ['2']
  # A user opens it with orbax alone, whatever the path.
  with ocp.CheckpointManager(place) as manager:
    again = manager.restore(2, args=ocp.args.StandardRestore())
  np.testing.assert_array_equal(again['w'], state['w'])


def _without_contents(place):
  shutil.rmtree(place / '2' / 'default')
  (place / '2' / 'default').mkdir()


def _cut(place):
  for path in (place / '2' / 'default').rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _nameless(place):
  (place / '2' / '_CHECKPOINT_METADATA').write_text('{')


@pytest.mark.parametrize('harm', [_without_contents, _cut, _nameless])
@pytest.mark.parametrize('before', [True, False])
def test_a_checkpoint_that_cannot_be_restored_is_absent(tmp_path, harm, before):
  state = {'w': np.arange(2000.0)}
  with checkpoints.manager(tmp_path) as saved:
    for epoch in (1, 2):
      args = ocp.args.StandardSave({'w': state['w'] * epoch})
      saved.save(epoch, args=args, custom_metadata={'of': 'test'})
      saved.wait_until_finished()
      if before and epoch == 1:
        shutil.copytree(tmp_path / '1', tmp_path / 'copy')
  if before:
    (tmp_path / 'copy').rename(tmp_path / '1')
  harm(tmp_path)
  said = []
  with checkpoints.manager(tmp_path) as saved:
    epoch, found, _ = checkpoints.restore(saved, tmp_path, state, said.append)
    assert epoch == (1 if before else 0)
    if before:
      np.testing.assert_array_equal(found['w'], state['w'])
    args = ocp.args.StandardSave(state)
    saved.save(2, args=args, custom_metadata={'of': 'test'})
    saved.wait_until_finished()
    assert checkpoints.restore(saved, tmp_path, state, said.append)[0] == 2
  assert len(said) == 1 and '\n' not in said[0] and 'epoch 2' in said[0]
  assert (tmp_path / '2.unreadable').is_dir()


def test_a_run_begins_again_where_no_checkpoint_is_whole(finished, tmp_path):
  out, _ = finished
  shutil.copytree(out / 'checkpoints', tmp_path / 'checkpoints')
  for place in (tmp_path / 'checkpoints').iterdir():
    _without_contents(place)
  told, did = _run(tmp_path, [*MEMBERS, (CELLS[2], 11)])
  assert did == [True, True] and not any(p.resumed for p in told)
  tiny_corpus.assert_same_table(out, tmp_path)


# Members that diverge.


class Poisoned(running.Trainer):
  """Its second member starts with weights that are not finite."""

  def initial(self):
    state = super().initial()
    params = jax.tree.map(np.array, state.members.params)
    params['block0_conv']['kernel'][1, 0] = np.nan
    sharding = jax.tree.leaves(state.members.params)[0].sharding
    params = jax.device_put(params, sharding)
    return state._replace(members=state.members._replace(params=params))


class PoisonedLater(running.Trainer):
  """Its second member breaks in the second epoch."""

  def epoch(self, state, epoch, *more):
    if epoch == 2:
      params = jax.tree.map(np.array, state.members.params)
      params['head']['kernel'][1] = np.inf
      sharding = jax.tree.leaves(state.members.params)[0].sharding
      params = jax.device_put(params, sharding)
      state = state._replace(members=state.members._replace(params=params))
    return super().epoch(state, epoch, *more)


@pytest.mark.parametrize('kind, epoch', [(Poisoned, 1), (PoisonedLater, 2)])
def test_the_row_of_a_diverged_member(
  kind, epoch, finished, tmp_path, monkeypatch
):
  out, _ = finished
  monkeypatch.setattr(offloading, 'Trainer', kind)
  assert _run(tmp_path)[1] == [True]
  rows, healthy = tiny_corpus.results(tmp_path), tiny_corpus.results(out)
  row = rows[_flat(CELLS[1]), 9]
  assert row['status'] == 'diverged' and row['diverged_epoch'] == epoch
  assert np.isnan(row['test_per']) and np.isnan(row['test_loss'])
  assert row['best_epoch'] == (None if epoch == 1 else 1)
  for name in ('train_loss', 'val_loss', 'val_per'):
    before = healthy[_flat(CELLS[1]), 9][name][: epoch - 1]
    np.testing.assert_array_equal(row[name][: epoch - 1], before)
    assert np.isnan(row[name][epoch - 1 :]).all()
  # The other one never knew.
  member = (_flat(CELLS[0]), 7)
  for name, value in rows[member].items():
    np.testing.assert_array_equal(value, healthy[member][name], err_msg=name)
