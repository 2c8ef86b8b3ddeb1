"""Workers that claim shards: of a plan, each is done once, whoever dies."""

import json
import os
import shutil
import subprocess
import sys
import threading

import claiming_runs
import pytest
import tiny_run

from nasjax.benchmark import claims, failures
from nasjax.storage import leases

SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

/* Seconds by which the file says that the clock that can be set is off. */
static long shift(void) {
  long seconds = 0;
  FILE* file = fopen(getenv("CLOCK_SHIFT"), "r");
  if (file) {
    if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
    fclose(file);
  }
  return seconds;
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  static int (*real)(clockid_t, struct timespec*);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(clock, now);
  if (!status && clock == CLOCK_REALTIME) now->tv_sec += shift();
  return status;
}

int gettimeofday(struct timeval* restrict now, void* restrict zone) {
  static int (*real)(struct timeval*, void*);
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int status = real(now, zone);
  if (!status) now->tv_sec += shift();
  return status;
}

time_t time(time_t* place) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}
"""


def _run(out, environment=None, **plan):
  """Runs `claiming_runs`; returns what it found."""
  done = subprocess.run(
    [
      sys.executable,
      tiny_run.SUPPORT / 'claiming_runs.py',
      json.dumps({'out': str(out)} | plan),
    ],
    env=os.environ | {'PYTHONPATH': tiny_run.PYTHONPATH} | (environment or {}),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_workers_that_die_or_sleep_make_the_table_of_one(tmp_path):
  """One stops between its rows and their mark, and wakes when all is done."""
  out = tmp_path / 'out'
  found = _run(
    *(out,), runs=8, workers=2, kills=1, stops='/table/._', patience=1
  )
  assert found['statuses'] == [0, 0] and len(found['kills']) == 1
  claiming_runs.assert_undisturbed(out, 8)


# The whole of it. The number of runs that NASJAX_RELIABILITY_RUNS names.
RUNS = int(os.environ.get('NASJAX_RELIABILITY_RUNS', '200'))


@pytest.mark.slow
@pytest.mark.reliability
def test_two_hundred_runs_and_twenty_kills(tmp_path):
  out = tmp_path / 'out'
  found = _run(out, runs=RUNS, workers=4, kills=20)
  print(found)
  assert found['statuses'] == [0] * 4 and len(found['kills']) == 20
  claiming_runs.assert_undisturbed(out, RUNS)


@pytest.mark.slow
@pytest.mark.reliability
@pytest.mark.parametrize(
  'moment, lost',
  [
    ('/checkpoints/', True),  # it has begun
    ('/default', True),  # within a checkpoint
    ('/table/.lock', False),  # it is about to write its rows
    ('/table/.', False),  # it holds the lock of the table
  ],
)
def test_who_wakes_when_its_shard_was_retried(tmp_path, moment, lost):
  out = tmp_path / 'out'
  found = _run(out, runs=8, workers=2, stops=moment, patience=1, seconds=1.5)
  print(found)
  assert found['statuses'] == [0, 0] and len(found['lost']) == lost
  claiming_runs.assert_undisturbed(out, 8)


@pytest.mark.slow
@pytest.mark.reliability
def test_a_clock_that_jumps_by_a_day_does_no_harm(tmp_path):
  """In every worker, forth and back, while one of them is killed."""
  compiler = shutil.which('cc') or shutil.which('gcc')
  if not compiler:
    pytest.skip('no C compiler')
  source, library = tmp_path / 'shift.c', tmp_path / 'shift.so'
  source.write_text(SHIFT)
  subprocess.run(
    [compiler, '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True
  )
  shifts = tmp_path / 'shift'
  shifts.write_text('86400')
  environment = {'LD_PRELOAD': str(library), 'CLOCK_SHIFT': str(shifts)}
  day = subprocess.run(
    [sys.executable, '-c', 'import time; print(time.time())'],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  now = float(
    subprocess.check_output(
      [sys.executable, '-c', 'import time;print(time.time())']
    )
  )
  assert 86000 < float(day.stdout) - now < 86800
  out = tmp_path / 'out'
  found = _run(
    *(out, environment), runs=16, workers=2, kills=2, shifts=str(shifts)
  )
  print(found)
  assert found['statuses'] == [0, 0] and not found['lost']
  claiming_runs.assert_undisturbed(out, 16)


# Who gets which shard; nothing is trained.

STOP = threading.Event()


@pytest.fixture
def shards():
  members = [*claiming_runs.members(8), ([[0, 0], [0, 1, 1], [5, 0, 1, 1]], 1)]
  return claiming_runs.running.plan(claiming_runs.job(), members, 2)


class _Place:
  """A directory, and those who claim its shards."""

  def __init__(self, out, shards):
    self.out, self.shards, self.said = out, shards, []

  def claims(self, own, **options):
    options = {'alone': False} | options
    return claims.Claims(
      self.shards, own, self.out, self.said.append, **options
    )

  def leases(self):
    return leases.Leases(self.out / 'leases', 0.5)

  def commit(self, shard):
    (self.out / 'table').mkdir(exist_ok=True)
    (self.out / 'table' / f'{shard.name}.parquet').touch()
    (self.out / 'table' / f'_{shard.name}.json').touch()


@pytest.fixture
def place(tmp_path, shards):
  return _Place(tmp_path, shards)


def test_processes_begin_with_programs_of_their_own(place):
  with place.leases() as one, place.leases() as other:
    mine, theirs = place.claims(one), place.claims(other)
    first, second = mine.take(None, STOP), theirs.take(None, STOP)
    assert len({s.signature for s in place.shards}) == 2
    assert first.signature != second.signature
    # And stay with them as long as there are any.
    taken = [first]
    for _ in range(3):
      taken.append(mine.take(first.signature, STOP))
    assert {s.signature for s in taken} == {first.signature}
    assert {s.name for s in [*taken, second]} == {s.name for s in place.shards}
    assert [s.name for s in taken] == sorted(
      {s.name for s in taken}, key=[s.name for s in place.shards].index
    )
    # Another thread of this process has nothing to wait for but itself.
    for shard in taken:
      place.commit(shard)
      mine.finish(shard)
    place.commit(second)
    theirs.finish(second)
    assert mine.take(None, STOP) is theirs.take(None, STOP) is None
    assert {s.name for s in mine.gone()} == {second.name}
    assert {s.name for s in theirs.gone()} == {s.name for s in taken}
    assert mine.gone() == [] and not place.said and not mine.failed
  assert list((place.out / 'leases').iterdir()) == []


def test_who_waits_takes_over_what_is_abandoned(place):
  with place.leases() as dead, place.leases() as own:
    # As if it were another machine's, which gives no sign.
    dead._identity['boot'] = 'other'
    dead._over.set()
    for shard in place.shards[1:]:
      place.commit(shard)
    queue = place.claims(own)
    assert {s.name for s in queue.gone()} == {s.name for s in place.shards[1:]}
    assert dead.take(place.shards[0].name)
    assert [s.name for s in queue.free()] == []
    assert queue.take(None, STOP) == place.shards[0]
    (line,) = place.said
    assert line.startswith('nothing is left but 1 shards that others train')
    with pytest.raises(leases.LostError):
      dead.check(place.shards[0].name)


def test_what_fails_is_noted_and_the_rest_goes_on(place):
  with place.leases() as one, place.leases() as other, place.leases() as third:
    mine, theirs = place.claims(one), place.claims(other)
    bad = mine.take(None, STOP)
    assert mine.leave(bad, RuntimeError('too\nbad'))
    note = json.loads((place.out / 'failures' / f'{bad.name}.json').read_text())
    assert note['error'] == 'RuntimeError: too bad' and note['attempts'] == 1
    assert mine.failed == {bad.name: 'RuntimeError: too bad'}
    good = mine.take(None, STOP)
    assert good != bad
    mine.finish(good)
    # Another process tries it once more, and then it is left alone.
    assert bad in theirs.free()
    taken = theirs.take(bad.signature, STOP)
    assert taken == bad and theirs.leave(bad, RuntimeError('again'))
    new = place.claims(third)  # begun later: it was mended, perhaps
    for queue in (mine, theirs):
      for _ in range(len(place.shards)):
        shard = queue.take(None, STOP)
        if shard is None:
          break
        assert shard != bad
        place.commit(shard)
        queue.finish(shard)
    assert theirs.take(None, STOP) is None
    assert theirs.failed == {bad.name: 'RuntimeError: again'}
    assert new.take(None, STOP) == bad
    new.finish(bad)
    assert new.failed == {} and not list((place.out / 'failures').iterdir())


def test_a_worker_that_fails_twice_in_a_row_ends(place):
  with place.leases() as own:
    queue = place.claims(own)
    first = queue.take(None, STOP)
    assert queue.leave(first, RuntimeError('the chip'))
    second = queue.take(None, STOP)
    assert not queue.leave(second, RuntimeError('the chip'))
    # A disk is at fault for all shards at once.
    assert not queue.leave(queue.take(None, STOP), OSError(28, 'full'))
    assert len(list((place.out / 'failures').iterdir())) == 2


def test_alone_what_is_done_is_looked_at_and_what_fails_raises(place):
  place.commit(place.shards[1])
  with place.leases() as own:
    queue = place.claims(own, alone=True)
    assert queue.take(None, STOP) == place.shards[1]
    queue.finish(place.shards[1])
    shard = queue.take(None, STOP)
    queue.guard(shard)()
    assert not queue.leave(shard, RuntimeError('bad'))
    assert not (place.out / 'failures').exists()


def test_what_was_lost_is_no_failure(place):
  with place.leases() as own, place.leases() as other:
    queue = place.claims(own)
    shard = queue.take(None, STOP)
    own.free(shard.name)
    assert other.take(shard.name)
    with pytest.raises(leases.LostError):
      queue.guard(shard)()
    assert queue.leave(shard, FileNotFoundError('its checkpoint'))
    assert not (place.out / 'failures').exists()
    assert f'shard {shard.name} is left to others' in place.said[0]
    # Nor is what it left behind, once the other has done it.
    failures.note(place.out, shard.name, FileNotFoundError('its checkpoint'))
    place.commit(shard)
    assert queue.leave(shard, FileNotFoundError('its checkpoint'))
    assert failures.read(place.out) == []
