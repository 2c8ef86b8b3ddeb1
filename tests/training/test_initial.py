"""Training that begins with the weights of another run."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import tiny_corpus

from nasjax import spaces
from nasjax.benchmark import running
from nasjax.storage import checkpoints
from nasjax.training import initial as initial_lib
from nasjax.training import portable

SPACE, MACRO, RECIPE = tiny_corpus.SPACE, tiny_corpus.MACRO, tiny_corpus.RECIPE
# One signature, so one program.
CELL, OTHER = (0, 1, 0, 1, 1, 5, 0, 1, 1), (0, 1, 0, 1, 1, 5, 0, 1, 0)
MEMBERS = [(CELL, 7), (CELL, 8), (OTHER, 7)]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A run of three networks, and its one shard."""
  out, job = tmp_path_factory.mktemp('source'), tiny_corpus.job()
  (shard,) = running.plan(job, MEMBERS, 4)
  running.run_shard(job, shard, tiny_corpus.prepared(), out)
  return out, shard


def _begun(path, members, symbols=tiny_corpus.SYMBOLS, macro=MACRO):
  found = initial_lib.Initial(path, SPACE, macro, members)
  found.take(macro.with_outputs(1 + len(symbols)), RECIPE, symbols)
  return found


def _job(begun):
  return dataclasses.replace(tiny_corpus.job(), initial=begun)


def _planned(job, members):
  (shard,) = running.plan(job, members, 4)
  # Padded as the source is: they share a program.
  return dataclasses.replace(shard, size=3)


def _state(source):
  out, shard = source
  return checkpoints.last(out / 'checkpoints' / shard.name)[1]


def test_before_the_first_epoch_it_is_the_network_that_it_was(source):
  """To the bit: the loss and the error rate of its best epoch."""
  out, shard = source
  job, members = _job(_begun(out, MEMBERS)), MEMBERS[::-1]
  trainer = running.Trainer(job, _planned(job, members), tiny_corpus.prepared())
  loss_p, per_p = trainer.evaluate(
    trainer.initial().members.params, 'validation'
  )
  kept = _state(source)
  for p, member in enumerate(trainer.members):
    index = shard.members.index(member)
    best = int(kept['best_epoch'][index]) - 1
    assert loss_p[p] == kept['curves']['val_loss'][index][best]
    assert per_p[p] == kept['curves']['val_per'][index][best]


def test_fine_tuning_is_ahead_after_an_epoch_and_says_what_it_is(
  source, tmp_path
):
  out, shard = source
  job = _job(_begun(out / 'checkpoints' / shard.name, MEMBERS))
  own = _planned(job, MEMBERS)
  # Names without weights stay as they were, with them they have their digests.
  assert own.name not in (shard.name, _planned(tiny_corpus.job(), MEMBERS).name)
  assert _planned(_job(_begun(out, MEMBERS)), MEMBERS).name == own.name
  running.run_shard(job, own, tiny_corpus.prepared(), tmp_path)
  rows = tiny_corpus.results(tmp_path)
  for member, row in tiny_corpus.results(out).items():
    assert rows[member]['train_loss'][0] < row['train_loss'][0]
    assert rows[member]['val_loss'][0] < row['val_loss'][0]
  about = portable.read(tmp_path / 'checkpoints' / own.name).about
  for member in about['members']:
    told = member['initial']
    assert told['digest'] == job.initial.digest(member['arch'], member['seed'])
    assert told['seed'] == member['seed'] and told['head']
    assert len(told['digest']) == 64 and told['place'].endswith(shard.name)


def _params(job):
  trainer = running.Trainer(job, _planned(job, MEMBERS), tiny_corpus.prepared())
  found = trainer.unload(trainer.initial()).members.params
  return initial_lib._by_path(found)


@pytest.mark.parametrize('symbols', ['abcdef', 'ABCDE'])
def test_another_alphabet_draws_the_head_anew(source, symbols):
  """The rest is that of the checkpoint, also where outputs are as many."""
  begun = _begun(source[0], MEMBERS, tuple(symbols))
  assert not begun.head
  job = tiny_corpus.job(macro=MACRO.with_outputs(1 + len(symbols)))
  drawn = _params(job)
  own = _params(dataclasses.replace(job, initial=begun))
  for name, leaf_p in initial_lib._by_path(_state(source)['best']).items():
    wanted_p = drawn[name] if name.startswith('head/') else leaf_p
    np.testing.assert_array_equal(own[name], wanted_p, err_msg=name)
  assert own['head/bias'].shape == (3, 1 + len(symbols))


def test_of_a_seed_that_is_not_there_the_best_one_gives_its_weights(source):
  out, shard = source
  begun = _begun(out, [(CELL, 99), (CELL, 8)])
  errors = {
    seed: np.nanmin(_state(source)['curves']['val_per'][p])
    for p, (arch, seed) in enumerate(shard.members)
    if arch == CELL
  }
  lowest = min(errors, key=lambda seed: (errors[seed], seed))
  assert begun.described(CELL, 99)['seed'] == lowest
  assert begun.described(CELL, 8)['seed'] == 8


def _refused(words, *arguments, **options):
  with pytest.raises(ValueError, match=re.escape(words)) as e:
    _begun(*arguments, **options)
  assert '\n' not in str(e.value)


def test_what_cannot_be_begun_with_is_one_line(source, tmp_path):
  out, shard = source
  _refused('is not there; name the directory', tmp_path / 'none', MEMBERS)
  (tmp_path / 'file').write_text('')
  _refused('is a file; name the directory', tmp_path / 'file', MEMBERS)
  _refused('keeps no network', tmp_path, MEMBERS)
  arch = np.array(SPACE.parse((5,) * 1 + CELL[1:]), np.int8)
  _refused(
    f'has no weights of {SPACE.names(arch)}, one of the networks',
    *(out, [*MEMBERS, (arch, 1)]),
  )
  wider = dataclasses.replace(MACRO, filters=(16,))
  _refused('filters (8,), not (16,)', out, MEMBERS, macro=wider)
  with pytest.raises(ValueError, match='of space nb_asr, not st_nas'):
    initial_lib.Initial(out, spaces.SPACES['st_nas'], MACRO, [])
  damaged = tmp_path / 'damaged' / shard.name
  shutil.copytree(out / 'checkpoints' / shard.name, damaged)
  file = max(damaged.rglob('*/d/*'), key=lambda path: path.stat().st_size)
  file.write_bytes(file.read_bytes()[:-9])
  _refused('cannot be restored', damaged, MEMBERS)
  (damaged / portable.NAME).write_bytes(b'no')
  _refused('portable.npz is damaged', damaged, MEMBERS)
