"""How far a run is, by what lies in its directory alone.

Nothing there is written or locked, and no process is asked: whoever sees the
directory, on any machine, sees the run.

  OUT/shards.json                 which shards there are, of which members
  OUT/table/                      those that are done
  OUT/attempts/<shard>.json       that somebody began one, and when
  OUT/checkpoints/<shard>/<n>/    epochs it has behind it, and since when
  OUT/leases/<shard>.<n>          who trains one that several processes may
  OUT/failures/<shard>.json       what it failed of
"""

import datetime
import json
import math
import pathlib
import statistics
import time
from typing import NamedTuple

from nasjax import table
from nasjax.benchmark import failures

# A shard counts as running for so many times the time of an epoch after its
# last sign of life, and at least so many seconds; before there was any epoch,
# so long, for a first one also compiles.
_PATIENCE, _LEAST, _FIRST = 10, 300.0, 3600.0
# The speed is that of so many shards, those that were done last.
_RECENT = 64


class Done(NamedTuple):
  """A shard whose rows stand: its members' fates, when it was trained."""

  members: int
  diverged: int
  oom: int
  begun: float
  ended: float


class Running(NamedTuple):
  """A shard in training.

  Attributes:
    shard: its name.
    members: how many it has.
    epoch: epochs that are saved.
    epochs: of the recipe.
    quiet: seconds since its last sign of life.
    begun: when this attempt began, seconds since 1970.
    before: epochs that were saved when it began.
    saved: when the last epoch was.
    worker: who trains it, in words; None where nobody says.
  """

  shard: str
  members: int
  epoch: int
  epochs: int
  quiet: float
  begun: float
  before: int
  saved: float
  worker: str | None = None


class Watch:
  """Looks at the directory of a run, as often as one likes.

  Rows of a shard are read once, so that a look at a large run is cheap.
  """

  def __init__(self, out):
    self._out, self._done = pathlib.Path(out), {}

  def look(self, errors=5, now=None):
    """Returns how far the run is, plain values for JSON.

    Args:
      errors: at most so many of the last errors.
      now: seconds since 1970; the clock's if not given.

    Raises:
      ValueError: there is no plan in the directory, or none that can be read.
    """
    now = time.time() if now is None else now
    members_of, epochs, run = self._plan()
    damaged = self._read_new(members_of)
    done = {n: self._done[n] for n in members_of if n in self._done}
    epoch_of = self._epochs_saved(members_of.keys() - done.keys())
    running = self._running(members_of, epochs, done, epoch_of, now)
    alive = {r.shard for r in running}
    failed = [f for f in failures.read(self._out) if f.shard not in done]
    fails = {f.shard for f in failed if f.shard in members_of} - alive
    left = sum(
      members * (epochs - epoch_of.get(name, (0, 0.0))[0])
      for name, members in members_of.items()
      if name not in done
    )
    speed = _speed(list(done.values()), running, epochs)
    states = {
      'total': len(members_of),
      'done': len(done),
      'running': len(running),
      'failed': len(fails),
    }
    states['waiting'] = states['total'] - sum(list(states.values())[1:])
    told = damaged + [
      {
        'shard': f.shard,
        'file': str(f.path),
        'time': _clock_time(f.time),
        'error': f.line,
        'attempts': f.attempts,
      }
      for f in failed
    ]
    finished, seconds = len(done) == len(members_of), None
    if finished or speed:
      seconds = 0.0 if finished else left / epochs / speed
    return {
      'out': str(self._out),
      'time': _clock_time(now),
      'state': 'done' if finished else 'running' if running else 'stopped',
      'run': run,
      'shards': states,
      'members': {
        'total': sum(members_of.values()),
        'done': sum(d.members for d in done.values()),
        'diverged': sum(d.diverged for d in done.values()),
        'oom': sum(d.oom for d in done.values()),
      },
      'members_per_second': speed,
      'seconds_left': seconds,
      'running': [
        {
          'shard': r.shard,
          'members': r.members,
          'epoch': r.epoch,
          'epochs': r.epochs,
          'quiet_seconds': round(r.quiet, 1),
          'worker': r.worker,
        }
        for r in running
      ],
      'errors_total': len(told),
      'errors': told[:errors],
    }

  def _plan(self):
    """Returns members of each shard by name, epochs, and what the run is."""
    path = self._out / 'shards.json'
    try:
      plan = json.loads(path.read_bytes())
      members_of = {s['name']: len(s['members']) for s in plan['shards']}
      run = plan['run']
      told = {
        'space': run['space'],
        'macro': run['macro']['name'],
        'recipe': run['recipe']['name'],
        'corpus': run['corpus'],
      }
      return members_of, int(run['recipe']['epochs']), told
    except FileNotFoundError:
      raise ValueError(
        f'{path} does not exist; give the --out of a run of benchmark.py'
      ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
      raise ValueError(
        f'{path} is no plan of a run; remove it, and the command of the run '
        'makes it again'
      ) from None

  def _read_new(self, members_of):
    """Reads the rows of shards that are done since; returns what is damaged."""
    directory, damaged = self._out / 'table', []
    names = [
      n
      for n in table.committed(directory)
      if n in members_of and n not in self._done
    ]
    if not names:
      return damaged
    found, problems = table.load_all(directory, digest=False, names=names)
    for name, error in problems.items():
      damaged.append(
        {
          'shard': name,
          'file': str(directory / f'{name}.parquet'),
          'time': None,
          'error': str(error),
          'attempts': 0,
        }
      )
    if not found:
      return damaged
    rows = table.Table(directory, found)
    rows.read(('shard', 'status', 'seconds', 'created'))
    columns = (rows.column(n) for n in ('shard', 'status', 'seconds'))
    by_name = {}
    for name, status, seconds in zip(*columns):
      fates, took = by_name.setdefault(name, ([], []))
      fates.append(status)
      took.append(0.0 if math.isnan(seconds) else float(seconds))
    ended = dict(zip(rows.column('shard'), rows.column('created')))
    for name, (fates, took) in by_name.items():
      at = seconds_of(ended[name])
      self._done[name] = Done(
        len(fates),
        fates.count('diverged'),
        fates.count('oom'),
        at - sum(took),
        at,
      )
    return damaged

  def _running(self, members_of, epochs, done, epoch_of, now):
    """Returns what is Running, the latest sign of life first."""
    found, leases = [], self._leases()
    for path in _listed(self._out / 'attempts'):
      name = path.stem
      if path.suffix != '.json' or name not in members_of or name in done:
        continue
      try:
        note = json.loads(path.read_text())
        begun = path.stat().st_mtime
        if not note['running']:
          continue
        before = int(note['epoch'])
      except (OSError, ValueError, KeyError, TypeError):
        continue  # the shard was left meanwhile
      epoch, saved = epoch_of.get(name, (0, 0.0))
      saved = max(begun, saved)
      worker, beat = leases.get(name, (None, saved))
      if beat is None:
        continue
      quiet = max(0.0, now - max(saved, beat))
      found.append(
        Running(
          *(name, members_of[name], epoch, epochs),
          *(quiet, begun, before, saved, worker),
        )
      )
    usual = [
      (d.ended - d.begun) / epochs for d in done.values() if d.ended > d.begun
    ]
    usual = statistics.median(usual) if usual else None

    def alive(shard):
      trained = shard.epoch - shard.before
      own = (shard.saved - shard.begun) / trained if trained > 0 else usual
      if own is None:
        return shard.quiet < _FIRST
      return shard.quiet < max(_LEAST, _PATIENCE * own)

    return sorted(filter(alive, found), key=lambda r: r.quiet)

  def _leases(self):
    """Returns by shard who holds it, and when he last said so; or two Nones."""
    newest = {}
    for path in _listed(self._out / 'leases'):
      name, _, number = path.name.rpartition('.')
      if number.isdecimal() and int(number) > newest.get(name, (0, None))[0]:
        newest[name] = int(number), path
    found = {}
    for name, (_, path) in newest.items():
      try:
        first, _, rest = path.read_text(errors='replace').partition('\n')
        beat = path.stat().st_mtime
        holder = json.loads(rest)
        worker = f'process {holder["pid"]} on {holder["host"]}'
      except (OSError, ValueError, KeyError, TypeError):
        continue  # it has just been made, or is gone
      held = first.startswith('held')
      found[name] = (worker, beat) if held else (None, None)
    return found

  def _epochs_saved(self, names):
    """Returns by shard its last epoch, and when it was saved."""
    found = {}
    for place in _listed(self._out / 'checkpoints'):
      if place.name not in names:
        continue
      epochs = [p for p in _listed(place) if p.name.isdecimal()]
      if not epochs:
        continue
      last = max(epochs, key=lambda path: int(path.name))
      try:
        found[place.name] = int(last.name), last.stat().st_mtime
      except OSError:  # the next one has just replaced it
        found[place.name] = int(last.name), place.stat().st_mtime
    return found


def _listed(directory):
  """Returns what is in a directory; nothing where there is none."""
  try:
    return list(directory.iterdir())
  except OSError:
    return []


def _speed(done, running, epochs):
  """Returns members a second, None where nothing is known yet.

  Of the shards that were done last, over the time in which any of them was
  trained: a night in which nobody trained does not count. Before any is done,
  by the epochs of those in training.
  """
  last = sorted(done, key=lambda d: d.ended)[-_RECENT:]
  last = [d for d in last if d.ended > d.begun]
  busy, until = 0.0, -math.inf
  for one in sorted(last, key=lambda d: d.begun):
    busy += max(0.0, one.ended - max(one.begun, until))
    until = max(until, one.ended)
  if busy > 0:
    return sum(d.members for d in last) / busy
  speeds = [
    r.members * (r.epoch - r.before) / epochs / (r.saved - r.begun)
    for r in running
    if r.epoch > r.before and r.saved > r.begun
  ]
  return sum(speeds) or None


def seconds_of(text):
  """Returns a time as a row has it, ISO 8601, in seconds since 1970."""
  return datetime.datetime.fromisoformat(text).timestamp()


def _clock_time(seconds):
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(
    timespec='seconds'
  )
