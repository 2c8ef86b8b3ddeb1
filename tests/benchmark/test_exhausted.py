"""Memory that runs out: fewer members stand on the devices, nothing is lost."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_corpus
import tiny_run

from nasjax import table
from nasjax.benchmark import attempts, running, workers
from nasjax.programs import memory
from nasjax.training import offloading

MEMBERS = [
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 7),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 9),
  ([[4, 1], [0, 0, 0], [5, 0, 1, 1]], 9),
]
# Another program of a population may round otherwise.
TOLERANCE = 1e-5


def _assert_same_rows(out, other):
  one, two = tiny_corpus.results(out), tiny_corpus.results(other)
  tiny_corpus.assert_same_rows(one, two, TOLERANCE)


# In small, as XLA says it: wherever memory runs out, below.
@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_ends_with_the_same_table(tmp_path):
  """XLA's allocator fails in earnest, in the middle of a run."""
  environment = os.environ | {
    'PYTHONPATH': tiny_run.PYTHONPATH,
    # Else each thread claims 64 MiB of addresses.
    'MALLOC_ARENA_MAX': '2',
  }
  out = [tmp_path / name for name in ('whole', 'cut')]
  done = subprocess.run(
    [sys.executable, tiny_run.SUPPORT / 'exhausted_runs.py', *map(str, out)],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  whole, cut = json.loads(done.stdout)
  assert whole == {'epochs': [[1, False], [2, False]], 'said': []}
  # Each epoch is told of once.
  assert cut['epochs'] == whole['epochs']
  # Half of them fit, if what the process holds besides did not grow.
  assert 1 <= len(cut['said']) <= 2
  assert re.match(
    r'shard \w{16}: out of memory with 4 networks on the devices; going on '
    r'from epoch 2 with 2 of its 4 at a time \(.*Out of memory allocating',
    cut['said'][0],
  )
  _assert_same_rows(*out)
  (one,), (other,) = (table.open(place).shards for place in out)
  assert one.name == other.name
  assert one.meta['at_once'] == 4 and other.meta['at_once'] in (1, 2)


def _fail(monkeypatch, method, when):
  """Lets a method of trainers run out of memory, as XLA says it.

  Args:
    monkeypatch: of pytest.
    method: its name.
    when: called with the members on the devices and the number of the call.

  Returns:
    list to which the members of each call are appended.
  """
  calls, kept = [], getattr(offloading.Trainer, method)

  def call(trainer, *args, **kwargs):
    # The first argument of __init__ that tells is the shard.
    shard = args[1] if method == '__init__' else trainer.shard
    calls.append(shard.size)
    if when(shard.size, len(calls)):
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory. So.\n...')
    return kept(trainer, *args, **kwargs)

  monkeypatch.setattr(offloading.Trainer, method, call)
  return calls


def _run(out, at_once=None, limit=4):
  """Runs all members in shards; returns what was told and what was said."""
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  told, said = [], []
  for shard in running.plan(job, MEMBERS, limit):
    running.run_shard(
      job, shard, prepared, out, told.append, at_once, said.append
    )
  return told, said


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  out = tmp_path_factory.mktemp('whole')
  _run(out)
  return out


@pytest.mark.parametrize('method', ['__init__', 'initial', 'epoch', 'evaluate'])
def test_wherever_memory_runs_out(method, whole, tmp_path, monkeypatch):
  """While compiling, initialising, training or evaluating."""
  calls = _fail(monkeypatch, method, lambda size, _: size > 2)
  told, said = _run(tmp_path)
  assert calls[0] == 4 and set(calls[1:]) == {2}
  assert [p.epoch for p in told] == [1, 2]
  (line,) = said
  assert line.endswith(
    'going on from epoch 1 with 2 of its 4 at a time '
    '(RESOURCE_EXHAUSTED: Out of memory. So.)'
  )
  _assert_same_rows(whole, tmp_path)


def test_the_last_test_may_run_out_of_memory(whole, tmp_path, monkeypatch):
  """All epochs stand; none is trained or told of again."""
  tested = _fail(monkeypatch, 'test', lambda size, n: n == 1)
  epochs = _fail(monkeypatch, 'epoch', lambda size, n: False)
  told, said = _run(tmp_path)
  assert tested == [4, 2, 2] and epochs == [4, 4]
  assert [p.epoch for p in told] == [1, 2] and len(said) == 1
  assert 'going on from epoch 3' in said[0]
  _assert_same_rows(whole, tmp_path)


def test_what_was_learnt_serves_the_next_shard(tmp_path, monkeypatch):
  calls = _fail(monkeypatch, 'epoch', lambda size, _: size > 1)
  at_once = {}
  _, said = _run(tmp_path, at_once, limit=2)
  assert len(said) == 1 and list(at_once.values()) == [1]
  # Two parts, two epochs, two shards.
  assert calls == [2] + [1] * 8


def test_other_errors_are_not_caught(tmp_path, monkeypatch):
  def fault(trainer, state, epoch, *more):
    raise RuntimeError('a bug')

  monkeypatch.setattr(offloading.Trainer, 'epoch', fault)
  with pytest.raises(RuntimeError, match='a bug'):
    _run(tmp_path)
  assert not table.committed(tmp_path / 'table')


def test_who_does_not_fit_alone_gets_a_row_that_says_so(tmp_path, monkeypatch):
  """And the run goes on with the next shard."""
  first = running.plan(tiny_corpus.job(), MEMBERS, 2)[0]
  kept = offloading.Trainer.epoch

  def epoch(trainer, state, epoch, *more):
    if trainer.members[0] in first.members:
      raise MemoryError('no room')
    return kept(trainer, state, epoch, *more)

  monkeypatch.setattr(offloading.Trainer, 'epoch', epoch)
  told, said = _run(tmp_path, limit=2)
  assert len(told) == 2 and len(said) == 2
  assert said[1].endswith('its rows get the status oom (no room)')
  rows = tiny_corpus.results(tmp_path)
  assert len(rows) == 4
  for member, row in rows.items():
    if member in first.members:
      assert row['status'] == 'oom' and row['best_epoch'] is None
      assert np.isnan(row['test_per']) and np.isnan(row['val_per']).all()
    else:
      assert row['status'] == 'ok'
  t = table.open(tmp_path)
  assert np.isnan(t.query(MEMBERS[0][0], 'test_per', seed=MEMBERS[0][1]))
  # They count as done.
  assert _run(tmp_path, limit=2) == ([], [])


def test_memory_that_once_was_enough(whole, tmp_path, monkeypatch):
  """Somebody else has taken it: the run ends, its epochs stay."""
  with monkeypatch.context() as patch:
    _fail(patch, 'epoch', lambda size, n: n > 1)
    with pytest.raises(
      memory.TooLargeError, match='though the first 1 epochs had enough'
    ):
      _run(tmp_path)
  told, said = _run(tmp_path)
  assert [(p.epoch, p.resumed) for p in told] == [(1, True), (2, False)]
  assert said == []
  _assert_same_rows(whole, tmp_path)


class _Watch:
  """Looks at no progress."""

  def begin(self, shard):
    pass

  def update(self, progress):
    pass

  def finish(self, shard, skipped):
    pass


def _kernel(place, boot, kills):
  """Writes what the kernel of a boot tells."""
  (place / 'sys/kernel/random').mkdir(parents=True, exist_ok=True)
  (place / 'sys/kernel/random/boot_id').write_text(f'{boot}\n')
  (place / 'vmstat').write_text(f'nr_free_pages 7\noom_kill {kills}\n')


@pytest.mark.parametrize(
  'boot, kills, saved, smaller',
  [
    ('one', 4, 0, True),
    ('one', 4, 1, True),
    # Killed by somebody; nothing was out of memory.
    ('one', 3, 0, False),
    # Another machine, which cannot tell.
    ('two', 0, 0, True),
    ('two', 9, 1, False),
  ],
)
def test_a_size_that_killed_a_run_is_not_kept(
  whole, tmp_path, monkeypatch, boot, kills, saved, smaller
):
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  (shard,) = shards = running.plan(job, MEMBERS, 4)
  out = tmp_path / 'out'
  monkeypatch.setattr(attempts, '_PROC', tmp_path)
  _kernel(tmp_path, 'one', 3)
  attempts.begin(out, shard, 4)  # and the process is gone
  # An epoch that was saved since; there is nothing in it to go on from.
  place = out / 'checkpoints' / shard.name / '1'
  if saved:
    place.mkdir(parents=True)
  _kernel(tmp_path, boot, kills)
  said = []
  known = attempts.learnt(out, shards, 1, said.append)
  if saved:
    place.rmdir()
    assert known == ({shard.signature: 2} if smaller else {})
    return
  said.clear()
  workers.run(job, shards, [prepared], out, _Watch(), said.append)
  if smaller:
    (line,) = said
    assert 'was killed with 4 networks' in line
    assert line.endswith('going on with 2 at a time')
  else:
    assert said == []
  _assert_same_rows(whole, out)
  assert table.open(out).shards[0].meta['at_once'] == (2 if smaller else 4)
  # What was learnt serves other shards, and is not told again.
  known = attempts.learnt(out, shards, 1, said.append)
  assert known == ({shard.signature: 2} if smaller else {})
  assert len(said) == smaller


def test_fewer_than_fit_the_devices_there_cannot_be(tmp_path, monkeypatch):
  (shard,) = running.plan(tiny_corpus.job(), MEMBERS, 4)
  monkeypatch.setattr(attempts, '_PROC', tmp_path)
  said, sizes, size = [], [], 4
  for kills in range(3):
    _kernel(tmp_path, 'one', kills)
    attempts.begin(tmp_path, shard, size)
    note = f'{shard.name}.json'
    assert [p.name for p in (tmp_path / 'attempts').iterdir()] == [note]
    (tmp_path / 'attempts' / f'.{note}.0.tmp').write_text('of who was killed')
    _kernel(tmp_path, 'one', kills + 1)
    (size,) = attempts.learnt(tmp_path, [shard], 1, said.append).values()
    sizes.append(size)
  assert sizes == [2, 1, 1] and 'needs more memory' in said[-1]
  (tmp_path / 'attempts' / f'{shard.name}.json').write_text('{"size": ')
  assert attempts.learnt(tmp_path, [shard], 1, said.append) == {}
