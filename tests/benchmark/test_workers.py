"""Workers: shards trained side by side make the table that one makes."""

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
import types

import jax
import pytest
import tiny_corpus
import tiny_run

from nasjax import table
from nasjax.benchmark import failures, running, workers
from nasjax.training import population

RECIPE = tiny_corpus.RECIPE
# Three signatures, of two, two and one shards where two make one.
MEMBERS = [
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 1),
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 2),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 1),
  ([[0, 1], [0, 1, 0], [5, 1, 0, 1]], 1),
  ([[0, 1], [0, 1, 1], [5, 0, 1, 1]], 1),
  ([[0, 0], [0, 1, 1], [5, 0, 1, 1]], 2),
  ([[5, 1], [4, 0, 1], [0, 1, 0, 1]], 1),
]
SECONDS = 300


class _Watch:
  """Notes what it is told; fails where two threads tell it at once."""

  def __init__(self, fail_at=None):
    self.begun, self.epochs, self.finished = [], [], []
    self._fail_at, self._busy = fail_at, False

  @contextlib.contextmanager
  def _alone(self):
    assert not self._busy, 'two calls at once'
    self._busy = True
    time.sleep(0.03)  # leaves time for another to come in between
    yield
    self._busy = False

  def begin(self, shard):
    with self._alone():
      self.begun.append(shard.name)

  def update(self, progress):
    with self._alone():
      self.epochs.append((progress.shard.name, progress.epoch))
      if progress.resumed:
        self.epochs[-1] += ('resumed',)
    if len(self.epochs) == self._fail_at:
      raise OSError('the screen is gone')

  def finish(self, shard, skipped):
    with self._alone():
      self.finished.append((shard.name, skipped))


@functools.cache
def _prepared(device):
  mesh = population.member_mesh([jax.devices()[device]])
  return running.device_corpus(tiny_corpus.corpus(), RECIPE, mesh)


def _shards():
  return running.plan(tiny_corpus.job(), MEMBERS, 2)


def _run(out, devices, watch):
  """Runs all shards on so many workers."""
  assert len(jax.devices()) >= devices
  prepareds = [_prepared(d) for d in range(devices)]
  workers.run(tiny_corpus.job(), _shards(), prepareds, out, watch)


@pytest.fixture
def meeting(monkeypatch):
  """Makes two workers begin together; yields (shard, device) of each call."""
  calls, first = [], threading.Barrier(2)
  run_shard = running.run_shard

  def met(job, shard, prepared, *rest):
    (device,) = prepared.mesh.devices.flat
    alone = device not in [d for _, d in calls]
    calls.append((shard, device))
    if alone:
      first.wait(SECONDS)
    return run_shard(job, shard, prepared, *rest)

  monkeypatch.setattr(running, 'run_shard', met)
  return calls


@pytest.fixture(scope='module')
def by_one(tmp_path_factory):
  """The directory of one worker's run."""
  out = tmp_path_factory.mktemp('one')
  watch = _Watch()
  _run(out, 1, watch)
  names = [shard.name for shard in _shards()]
  epochs = [(name, epoch) for name in watch.begun for epoch in (1, 2)]
  assert sorted(watch.begun) == sorted(names)
  assert watch.epochs == epochs
  assert watch.finished == [(name, False) for name in watch.begun]
  return out


def test_two_workers_make_the_table_of_one(by_one, tmp_path, meeting):
  watch = _Watch()
  _run(tmp_path, 2, watch)
  tiny_corpus.assert_same_table(tmp_path, by_one)
  assert table.committed(tmp_path / 'table') == table.committed(
    by_one / 'table'
  )
  names = sorted(shard.name for shard in _shards())
  assert len(names) == 5 and len({s.signature for s in _shards()}) == 3
  assert sorted(shard.name for shard, _ in meeting) == names
  assert sorted(watch.begun) == names
  assert sorted(watch.finished) == [(name, False) for name in names]
  assert sorted(watch.epochs) == [(n, epoch) for n in names for epoch in (1, 2)]
  # Both had something to do, and began with programs of their own.
  assert {device for _, device in meeting} == set(jax.devices()[:2])
  assert meeting[0][0].signature != meeting[1][0].signature


def test_what_is_done_is_skipped(by_one):
  watch = _Watch()
  before = {p: p.stat().st_mtime_ns for p in (by_one / 'table').iterdir()}
  _run(by_one, 2, watch)
  assert before == {p: p.stat().st_mtime_ns for p in before}
  names = sorted(shard.name for shard in _shards())
  assert sorted(watch.finished) == [(name, True) for name in names]
  assert sorted(watch.begun) == names and not watch.epochs


def test_a_failure_ends_all_and_the_rest_can_be_done_later(
  by_one, tmp_path, meeting
):
  watch = _Watch(fail_at=1)
  with pytest.raises(OSError, match='the screen is gone'):
    _run(tmp_path, 2, watch)
  # The other worker had one shard in hand, of which it ended an epoch.
  assert len(watch.begun) == len(meeting) == 2
  assert not watch.finished
  assert [epoch for _, epoch in watch.epochs] == [1]
  assert not table.committed(tmp_path / 'table')
  # What was stopped did not fail.
  (failed,) = failures.read(tmp_path)
  assert failed.line.endswith('OSError: the screen is gone')
  again = _Watch()
  _run(tmp_path, 2, again)
  assert not failures.read(tmp_path)
  tiny_corpus.assert_same_table(tmp_path, by_one)
  # Neither lost the epoch that it was in.
  resumed = {name for name, _, *how in again.epochs if how}
  assert resumed == set(watch.begun)


def test_one_worker_fails_as_two_do(tmp_path):
  watch = _Watch(fail_at=3)
  with pytest.raises(OSError, match='the screen is gone'):
    _run(tmp_path, 1, watch)
  assert len(watch.begun) == 2 and len(watch.finished) == 1
  assert len(table.committed(tmp_path / 'table')) == 1


def test_who_failed_first_is_told_of(tmp_path, monkeypatch):
  """Though the worker that it stopped may be the first to end."""

  class SlowEvent(threading.Event):
    def set(self):
      first = not self.is_set()
      super().set()
      if first:
        time.sleep(0.5)

  both = threading.Barrier(2)

  def run_shard(job, shard, prepared, out, on_epoch, at_once, say, *how):
    del job, out, at_once, say, how
    both.wait(SECONDS)
    if prepared.mesh.devices.flat[0] == jax.devices()[0]:
      raise OSError('the disk is full')
    while True:
      on_epoch(running.ShardProgress(shard, 1, {}, 0.0, False))

  slow = types.SimpleNamespace(Event=SlowEvent, Lock=threading.Lock)
  monkeypatch.setattr(workers, 'threading', slow)
  monkeypatch.setattr(running, 'run_shard', run_shard)
  with pytest.raises(OSError, match='the disk is full'):
    _run(tmp_path, 2, _Watch())


@pytest.mark.parametrize(
  'learnt, fitting, expected',
  [(None, 1, 1), (None, 2, 2), (1, 2, 1), (1, None, 1)],
)
def test_what_fits_is_what_all_who_know_say(
  tmp_path, monkeypatch, learnt, fitting, expected
):
  """Free memory before the run, and what ran out of it earlier."""
  planned, told = [shard for shard in _shards() if shard.size == 2], []

  def run_shard(job, shard, prepared, out, on_epoch, at_once, *how):
    del job, prepared, out, on_epoch, how
    told.append(at_once.get(shard.signature, shard.size))
    return True

  known = {s.signature: learnt for s in planned} if learnt else {}
  monkeypatch.setattr(workers.attempts, 'learnt', lambda *about: dict(known))
  monkeypatch.setattr(running, 'run_shard', run_shard)
  workers.run(
    *(tiny_corpus.job(), planned, [_prepared(0)], tmp_path, _Watch()),
    fitting=fitting,
  )
  assert planned and told == [expected] * len(planned)


# The queue.


def _made(**work):
  """Returns shards of signatures with so many members each, in order."""
  return [
    running.Shard(f'{kind}{n}', (kind,), (None,) * size, size, ())
    for kind, sizes in work.items()
    for n, size in enumerate(sizes)
  ]


def _taken(shards, turns):
  """Lets workers take shards in turns; returns the names that each took."""
  queue, last = workers._Queue(shards), dict.fromkeys(turns)
  took = {worker: [] for worker in last}
  for worker in turns:
    shard = queue.take(last[worker], None)
    if shard is not None:
      took[worker].append(shard.name)
      last[worker] = shard.signature
  assert queue.take(None, None) is queue.take(('a',), None) is None
  return took


def test_a_signature_stays_with_its_worker():
  shards = _made(a=[2, 2, 1], b=[2, 2], c=[1])
  # The most work first; who is done with a signature begins another.
  assert _taken(shards, '12' * 4) == {
    '1': ['a0', 'a1', 'a2'],
    '2': ['b0', 'b1', 'c0'],
  }
  # However fast each of them is.
  assert _taken(shards, '1222111') == {
    '1': ['a0', 'a1', 'a2'],
    '2': ['b0', 'b1', 'c0'],
  }
  assert _taken(shards, '1' * 7) == {'1': ['a0', 'a1', 'a2', 'b0', 'b1', 'c0']}


def test_who_has_nothing_left_helps_others():
  shards = _made(a=[2, 2, 2, 2], b=[2])
  assert _taken(shards, '12' * 4) == {
    '1': ['a0', 'a1', 'a3'],
    '2': ['b0', 'a2'],
  }
  # Of three workers, the third helps where most work is left.
  shards = _made(a=[1, 1, 1], b=[9, 9, 9])
  assert _taken(shards, '123' * 3) == {
    '1': ['b0', 'b2'],
    '2': ['a0', 'a1'],
    '3': ['b1', 'a2'],
  }
  # A signature that nobody has comes before one that somebody is at.
  shards = _made(a=[9, 9, 9], b=[1], c=[1])
  assert _taken(shards, '1221111') == {
    '1': ['a0', 'a1', 'a2'],
    '2': ['b0', 'c0'],
  }


@pytest.mark.parametrize('seed', range(8))
def test_every_shard_is_taken_once(seed):
  shards = _made(a=[3, 3, 1], b=[2], c=[1, 1, 1, 1], d=[8])
  turns = [f'{(seed * 7 + n * n * (seed + 3)) % 5}' for n in range(40)]
  took = _taken(shards, turns)
  names = [name for own in took.values() for name in own]
  assert sorted(names) == sorted(shard.name for shard in shards)


# Two starts at once.

_START = """
import dataclasses, sys, threading
import conftest, jax, tiny_corpus
from nasjax.benchmark import running, workers
from nasjax.training import population

recipe = tiny_corpus.variant(epochs=1)
macro = dataclasses.replace(tiny_corpus.MACRO, lstm=100)
job = tiny_corpus.job(recipe, macro)
meshes = [population.member_mesh([device]) for device in jax.devices()]
prepareds = [
  running.device_corpus(tiny_corpus.corpus(), recipe, mesh) for mesh in meshes
]
cell = [[2, 1], [0, 1, 1], [5, 0, 1, 1]]
shards = running.plan(job, [(cell, seed) for seed in range(32)], 8)
met = threading.Barrier(2)
def run_shard(job, shard, prepared, *rest):
  # What follows has nothing to do with it.
  trainer = running.Trainer(job, shard, prepared)
  met.wait(200)
  jax.block_until_ready(trainer.initial())
running.run_shard = run_shard

class Watch:
  def begin(self, shard): pass
  def update(self, progress): pass
  def finish(self, shard, skipped): print(shard.name, skipped)

workers.run(job, shards, prepareds, sys.argv[1], Watch())
"""


def test_orthogonal_starts_at_once_do_not_wait_for_each_other(tmp_path):
  """LAPACK's QR of several members at once on few threads waited for ever."""
  done = subprocess.run(
    [sys.executable, '-c', _START, str(tmp_path)],
    env=os.environ | {'PYTHONPATH': tiny_run.PYTHONPATH},
    capture_output=True,
    text=True,
    timeout=150,
  )
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 4


def test_tasks_are_shared_out_one_at_each_place_at_a_time():
  busy, lock = set(), threading.Lock()

  def square(task, place, check):
    check()
    with lock:
      assert place not in busy
      busy.add(place)
    time.sleep(0.01)
    with lock:
      busy.remove(place)
    return task**2

  found = workers.share(square, range(9), 'ab')
  assert list(found) == [n**2 for n in range(9)]


def test_the_first_failure_ends_what_runs_and_leaves_the_rest():
  begun = []

  def work(task, place, check):
    del place
    begun.append(task)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
      time.sleep(0.01)
      if task == 1 and len(begun) > 1:
        raise KeyError(task)
      check()

  # The first task is told to end, and is not what is raised.
  with pytest.raises(KeyError, match='1'):
    list(workers.share(work, range(50), 'ab'))
  assert sorted(begun) == [0, 1]
