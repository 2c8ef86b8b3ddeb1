"""A run on many devices as a simulation of events: who trains what, and when.

A device takes one shard after another, as `workers` hands them out: of the
program that it has compiled, if any is left. A failure takes the device away
for a while; then its process starts and compiles anew, and the shard goes on
from the last epoch that was saved.
"""

import heapq
import math
from typing import NamedTuple

import numpy as np

# Failures that strike so often in an epoch let next to none come to its end.
_MOST_FAILURES = 5.0


class Task(NamedTuple):
  """A shard.

  Attributes:
    program: which compiled program it needs.
    epochs: of its recipe.
    seconds: of an epoch, on a device of speed 1.
    members: networks that it trains.
  """

  program: object
  epochs: int
  seconds: float
  members: int


class Outcome(NamedTuple):
  """What a simulation came to, in seconds of all devices together.

  Attributes:
    makespan: from the start to the end of the last shard; of one clock.
    trained: spent on epochs that were saved.
    lost: spent on epochs that failures cut off.
    starting: spent on starts of processes, and between two shards.
    compiling: spent on compiling.
    down: waiting for devices to come back.
    failures: how many there were.
    ends: when each device had no more to do, of one clock.
  """

  makespan: float
  trained: float
  lost: float
  starting: float
  compiling: float
  down: float
  failures: int
  ends: tuple[float, ...]

  @property
  def idle(self):
    """The share of device time that no saved epoch took."""
    return 1 - self.trained / (self.makespan * len(self.ends))


def tasks(cells, seeds, epochs, seconds, programs=1, members_per_shard=8):
  """Returns the shards of a benchmark, as `shards.plan` cuts them.

  Args:
    cells: how many there are.
    seeds: trainings of each with a recipe.
    epochs: of each recipe, a list.
    seconds: of an epoch of a full shard; others take their share.
    programs: kinds of cells, equally frequent.
    members_per_shard: the most networks of a shard.

  Returns:
    list of Task, the longest first.
  """
  made = []
  for number in sorted(epochs, reverse=True):
    for program in range(programs):
      mine = (cells + programs - 1 - program) // programs * seeds
      if not mine:
        continue
      size = -(-mine // -(-mine // members_per_shard))
      for first in range(0, mine, size):
        members = min(size, mine - first)
        share = seconds * members / members_per_shard
        made.append(Task(program, number, share, members))
  return made


def simulate(
  tasks,
  speeds,
  start=0.0,
  compile=0.0,
  between=0.0,
  failures=0.0,
  restart=0.0,
  seed=0,
  every=1,
):
  """Returns the Outcome of a schedule.

  Args:
    tasks: list of Task; of one program they are taken in this order.
    speeds: of each device.
    start: seconds until a process is ready.
    compile: seconds to compile a program, once a process; or a dict of them.
    between: seconds between two shards of a device.
    failures: of a device, an hour.
    restart: seconds until a device is back.
    seed: of the failures.
    every: epochs between two that are saved.

  Raises:
    ValueError: failures come so often that next to no epoch would be saved.
  """
  rng, rate = np.random.default_rng(seed), failures / 3600
  slowest = every * max(t.seconds for t in tasks) / min(speeds)
  compiling = compile
  if not isinstance(compile, dict):
    compiling = dict.fromkeys({task.program for task in tasks}, compile)
  slowest += start + max(compiling.values())
  if rate * slowest > _MOST_FAILURES:
    raise ValueError(
      f'{failures} failures an hour come {rate * slowest:.1f} times in the '
      f'{slowest:.0f} s from a start to the first epoch that is saved; next to '
      'none would be'
    )
  left = {}
  for task in reversed(tasks):
    left.setdefault(task.program, []).append(task)
  work = {
    program: sum(t.epochs * t.seconds for t in found)
    for program, found in left.items()
  }
  # None has begun: of the most work, and where the fewest are.
  workers = dict.fromkeys(left, 0)
  spent = dict.fromkeys(
    ('trained', 'lost', 'starting', 'compiling', 'down'), 0.0
  )
  count, ends = 0, [0.0] * len(speeds)
  known = [set() for _ in speeds]
  last, started = [None] * len(speeds), [False] * len(speeds)
  free = [(0.0, d) for d in range(len(speeds))]
  heapq.heapify(free)
  while free and left:
    now, d = heapq.heappop(free)
    program = last[d]
    if program not in left:
      program = max(left, key=lambda p: (-workers[p], work[p]))
      workers[program] += 1
      last[d] = program
    task = left[program].pop()
    work[program] -= task.epochs * task.seconds
    if not left[program]:
      del left[program]
    seconds, todo = task.seconds / speeds[d], task.epochs
    while True:
      begin = between if started[d] else start
      make = 0.0 if program in known[d] else compiling[program]
      whole = begin + make + todo * seconds
      strike = rng.exponential(1 / rate) if rate else math.inf
      saved = todo
      if strike < whole:
        whole_epochs = max(0, int((strike - begin - make) / seconds))
        done = task.epochs - todo
        saved = (done + whole_epochs) // every * every - done
      reached = min(strike, whole)
      spent['starting'] += min(begin, reached)
      spent['compiling'] += min(make, max(0.0, reached - begin))
      spent['trained'] += saved * seconds
      spent['lost'] += max(0.0, reached - begin - make - saved * seconds)
      now, todo = now + reached, todo - saved
      if strike >= whole:
        started[d] = True
        known[d].add(program)
        break
      count += 1
      started[d] = False
      known[d].clear()
      spent['down'] += restart
      now += restart
    ends[d] = now
    heapq.heappush(free, (now, d))
  return Outcome(max(ends), **spent, failures=count, ends=tuple(ends))


class Storage(NamedTuple):
  """What a run asks of the storage that all devices share.

  Attributes:
    files: that stand there in the end.
    bytes: of them.
    written: bytes that were written in all.
    operations: creations, renamings and removals.
  """

  files: int
  bytes: float
  written: float
  operations: int


# A checkpoint of orbax 0.12.8 has 12 files in 6 directories; each is made and,
# but for the last, removed, and the whole is renamed once.
CHECKPOINT_FILES, CHECKPOINT_FOLDERS = 12, 6
# Of a shard: rows, mark, what its networks need to hear, two notes of it that
# come and go (`attempts`), a lock.
_SHARD_FILES, _SHARD_OPERATIONS = 4, 16
_ROW_BYTES = 1600


def storage(tasks, params, kept=1, every=1):
  """Returns the Storage of shards.

  Args:
    tasks: list of Task.
    params: of a network; a checkpoint has four copies, 16 bytes each.
    kept: checkpoints of a shard that stay.
    every: epochs between two of them.
  """
  saves = [-(-task.epochs // every) for task in tasks]
  bytes_of = [16.0 * params * task.members for task in tasks]
  stay = [min(kept, n) for n in saves]
  inodes = CHECKPOINT_FILES + CHECKPOINT_FOLDERS
  rows = _ROW_BYTES * sum(t.members for t in tasks)
  return Storage(
    files=sum(_SHARD_FILES + CHECKPOINT_FILES * n for n in stay),
    bytes=sum(n * b for n, b in zip(stay, bytes_of)) + rows,
    written=sum(n * b for n, b in zip(saves, bytes_of)) + rows,
    operations=sum(
      _SHARD_OPERATIONS + n * (inodes + 1) + (n - k) * inodes
      for n, k in zip(saves, stay)
    ),
  )
