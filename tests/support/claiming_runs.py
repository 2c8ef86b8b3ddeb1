"""Workers that claim the shards of a run, and somebody who kills them.

  python claiming_runs.py PLAN

PLAN is JSON: "out", the directory of the run; "runs", networks in all;
"workers", processes side by side, and for what is done to them:

  "kills": n     n times a worker is killed, at random moments of the run, and
                 another one begun
  "every": s     instead: one is killed every s seconds on average
  "stops": text  the first worker stops itself where it touches a path that has
                 the text in it, and goes on when the others have ended
  "seconds": s   of a lease
  "patience": s  with a lock of the table that somebody holds
  "shifts": file each worker's wall clock is set to another day now and then, by
                 the preloaded library `clock_shift` that reads the file

Prints JSON: "statuses", how the processes ended that nobody killed; "kills", at
what stage of its work each killed one was; "attempts", how often a shard was
begun; "lost", lines in which shards were left to others; "seconds" of it all.

All is imported before the workers are forked, so that each costs no more than
its training.
"""

import contextlib
import functools
import json
import math
import os
import pathlib
import random
import signal
import sys
import threading
import time

import engines
import jax
import once
import pandas  # noqa: F401  pyarrow would load it in every process
import scipy.linalg  # noqa: F401  and so would jax
import tiny_corpus

from nasjax import table
from nasjax.benchmark import claims, running, workers
from nasjax.storage import disk, leases

RECIPE = tiny_corpus.variant(name='claimed', epochs=2)
# One signature: one program for all.
CELLS = [
  [[2, 1], [0, 1, 1], [5, 0, 1, 1]],
  [[2, 0], [0, 1, 0], [5, 1, 0, 1]],
  [[3, 1], [0, 0, 0], [5, 0, 1, 1]],
  [[1, 1], [0, 1, 0], [5, 0, 0, 1]],
]
# Of a run that is killed, this much of the time has passed at the last kill.
_BUSY = 0.9
_BEGUN = 'begun:'


def members(runs):
  return [(CELLS[n % 4], 1 + n // 4) for n in range(runs)]


def job():
  return tiny_corpus.job(RECIPE)


@functools.cache
def shards(runs):
  return running.plan(job(), members(runs), 2)


class _Watch:
  """What `workers.run` tells of the progress: what is begun is said."""

  def __init__(self, say):
    self._say = say

  def begin(self, shard):
    self._say(f'{_BEGUN} {shard.name}')

  def update(self, progress):
    pass

  def finish(self, shard, skipped):
    pass


def _nothing(line):
  pass


def work(out, runs, seconds=2.0, say=print, begun=_nothing):
  """Claims shards until all are done; returns what failed."""
  planned = shards(runs)
  with leases.Leases(out / 'leases', seconds) as own:
    queue = claims.Claims(planned, own, out, say, alone=False)
    prepared = [tiny_corpus.prepared(RECIPE)]
    watch = _Watch(begun)
    workers.run(job(), planned, prepared, out, watch, say, queue=queue)
    return queue.failed


def whole(out, runs):
  """Makes the same table in one process, without a lease."""
  prepared = [tiny_corpus.prepared(RECIPE)]
  watch = _Watch(_nothing)
  workers.run(job(), shards(runs), prepared, out, watch, say=print)


def assert_undisturbed(out, runs):
  """Holds a run against one that nobody disturbed, made once for all tests."""
  own = pathlib.Path(os.environ['NASJAX_TEST_PLACE'], f'undisturbed{runs}')
  once.text(f'{own.name}.txt', lambda: whole(own, runs) or 'made')
  assert_whole(out, own)
  assert len(table.open(out)) == runs


def assert_whole(out, whole):
  """Compares a table with that of one process that nobody disturbed."""
  tiny_corpus.assert_same_table(out, whole)
  report = table.verify(out / 'table')
  assert not report.problems and not report.uncommitted
  assert not report.leftovers
  assert not [p for p in out.rglob('*') if '.tmp' in p.name or '-tmp' in p.name]
  assert not list(out.glob('leases/*')) and not list(out.glob('failures/*'))


def stage(out, pid):
  """Returns in words at what a stopped worker is, by what lies there."""
  mine = engines.held(out).get(pid)
  if mine is None:
    return 'without a shard'
  folder = out / 'table'
  if table.is_committed(folder, mine):
    return 'behind the mark'
  if (folder / f'{mine}.parquet').exists():
    return 'between rows and mark'
  if list(folder.glob(f'.*{mine}*')):
    return 'writing rows'
  place = out / 'checkpoints' / mine
  if list(place.glob('*tmp*')):
    return 'writing a checkpoint'
  saved = [int(p.name) for p in place.glob('*') if p.name.isdecimal()]
  if not saved:
    return 'in the first epoch'
  if max(saved) < RECIPE.epochs:
    return 'in a later epoch'
  return 'behind the last epoch'


def _stop_at(out, text):
  """Stops this process once, where it touches such a path of the run."""
  stopped = False

  def hook(event, args):
    nonlocal stopped
    if stopped or not args or not isinstance(args[0], str | os.PathLike):
      return
    path = str(args[0])
    if path.startswith(str(out)) and text in path:
      stopped = True
      os.kill(os.getpid(), signal.SIGSTOP)

  sys.addaudithook(hook)


def _fork(plan, said, stop=None):
  pid = os.fork()
  if pid:
    return pid
  try:
    out = pathlib.Path(plan['out'])
    disk.PATIENCE = plan.get('patience', disk.PATIENCE)
    if stop:
      _stop_at(out, stop)

    def say(line):
      os.write(said, f'{line}\n'.encode())

    failed = work(out, plan['runs'], plan.get('seconds', 2.0), say, say)
    os._exit(1 if failed else 0)
  except BaseException as e:
    print(repr(e), file=sys.stderr, flush=True)
    os._exit(1)


class _Workers:
  """Processes, by number, until they end."""

  def __init__(self, plan, said):
    self._plan, self._said = plan, said
    self.live, self.statuses, self.kills = [], [], []
    stop = plan.get('stops')
    for n in range(plan['workers']):
      self.live.append(_fork(plan, said, None if n else stop))
      if stop and not n:
        # It shall have something to stop at: the others come later.
        os.waitid(os.P_PID, self.live[0], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    self.stopped = self.live[0] if stop else None

  def look(self):
    """Notes who has ended; a stopped worker goes on when others have."""
    for pid in list(self.live):
      found, status = os.waitpid(pid, os.WNOHANG)
      if found:
        self.live.remove(pid)
        self.statuses.append(os.waitstatus_to_exitcode(status))
    if self.stopped and self.live == [self.stopped]:
      os.kill(self.stopped, signal.SIGCONT)
      self.stopped = None

  def kill(self, rng):
    """Kills one at the moment at which it stops; returns its stage."""
    pid = rng.choice(self.live)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    self.kills.append(stage(pathlib.Path(self._plan['out']), pid))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    self.live.remove(pid)
    self.live.append(_fork(self._plan, self._said))
    return self.kills[-1]


def _shift(path, rng):
  """Sets the clock of the workers: to a day before, now, or a day after."""
  temporary = path.with_suffix('.tmp')
  temporary.write_text(str(86400 * rng.choice([-1, 0, 1])))
  os.replace(temporary, path)


def disturbed(plan, rng, log=_nothing, until=math.inf):
  """Does what a plan says; returns what `main` prints.

  Args:
    plan: dict.
    rng: of moments and workers.
    log: called with a line at every kill.
    until: by the monotonic clock: no kill after it, where "every" says how
      often there is one.
  """
  assert threading.active_count() == 1, 'threads do not survive a fork'
  begun, heard = time.monotonic(), b''
  reader, writer = os.pipe()
  for end in (reader, writer):
    os.set_blocking(end, False)
  out, total = pathlib.Path(plan['out']), len(shards(plan['runs']))
  kills, shifts = plan.get('kills', 0), plan.get('shifts')
  every = plan.get('every')
  # So many shards are done at each kill.
  moments = sorted(rng.randrange(int(_BUSY * total) or 1) for _ in range(kills))
  due = begun + rng.expovariate(1 / every) if every else math.inf
  own = _Workers(plan, writer)
  while own.live:
    time.sleep(rng.uniform(0.02, 0.08))
    own.look()
    done = len(table.committed(out / 'table'))
    now = time.monotonic()
    by_progress = moments and done >= moments[0]
    by_clock = due < now < until
    if (by_progress or by_clock) and len(own.live) > 1:
      if by_progress:
        moments.pop(0)
      time.sleep(rng.uniform(0, 0.3))
      own.look()
      if own.live:
        word = own.kill(rng)
        log(f'{now - begun:.1f} s, {done} of {total} shards: killed {word}')
      due = now + rng.expovariate(1 / every) if every else math.inf
    if shifts:
      _shift(pathlib.Path(shifts), rng)
    with contextlib.suppress(BlockingIOError):
      heard += os.read(reader, 1 << 16)
  os.close(writer)
  with os.fdopen(reader, 'rb') as rest:
    os.set_blocking(reader, True)
    lines = (heard + rest.read()).decode().splitlines()
  return {
    'statuses': own.statuses,
    'kills': own.kills,
    'attempts': sum(line.startswith(_BEGUN) for line in lines),
    'lost': [line for line in lines if 'left to others' in line],
    'seconds': round(time.monotonic() - begun, 1),
  }


def settings():
  """Keeps compiled programs for all processes."""
  jax.config.update(
    'jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE']
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def main():
  settings()
  print(
    json.dumps(disturbed(json.loads(sys.argv[1]), random.Random(20))),
    flush=True,
  )


if __name__ == '__main__':
  main()
