"""A run that is done, held against the simulation of its schedule."""

import json
import pathlib

import numpy as np
from common import scheduling, watching

from nasjax import table


def compare(path, devices=None):
  """Returns how long a run took, and how long by the simulation.

  Which shards there were is its plan's, how long an epoch of each program took
  its table's: the mean of all epochs but the first, which also compiles. What
  that took longer is compilation, the mean of those that compiled. Between the
  epochs of two shards a worker tests, writes rows and begins: the mean of that.

  Args:
    path: directory of the run.
    devices: that trained shards side by side; if not given, as many as the
      table has shards that were in training at one moment.

  Returns:
    dict: shards, devices, seconds and simulated_seconds (from the beginning of
    the first shard to the end of the last), off (by which share the simulation
    is longer), epoch_seconds and compile_seconds of each program, and
    between_seconds.

  Raises:
    ValueError: the run is not done, or was not trained in one go.
  """
  path = pathlib.Path(path).expanduser()
  seen = watching.Watch(path).look()
  if seen['state'] != 'done':
    raise ValueError(
      f'{path} is not done: {seen["shards"]["done"]} of '
      f'{seen["shards"]["total"]} shards are'
    )
  plan = json.loads((path / 'shards.json').read_bytes())
  kind_of = {s['name']: '-'.join(s['signature']) for s in plan['shards']}
  rows = table.open(path)
  shard_r = rows.column('shard')
  seconds_re = rows.curves('epoch_seconds')
  created = rows.column('created')
  found = {}
  for name, kind in kind_of.items():
    mine = shard_r == name
    members = int(mine.sum())
    # Of all its members: what the shard took.
    epochs_e = seconds_re[mine][0] * members
    epochs_e = epochs_e[~np.isnan(epochs_e)]
    end = watching.seconds_of(created[mine][0])
    found[name] = kind, members, epochs_e, end
  tasks, epoch_s, compile_s = _tasks(found)
  if devices is None:
    devices = _side_by_side(found.values())
  between = _between(found.values())
  outcome = scheduling.simulate(
    tasks, [1.0] * devices, compile=compile_s, between=between
  )
  begun = min(end - float(e.sum()) for _, _, e, end in found.values())
  took = max(end for *_, end in found.values()) - begun
  busy = sum(float(e.sum()) for _, _, e, _ in found.values())
  if took > 2 * busy / devices + 60:
    raise ValueError(
      f'{path} took {took:.0f} s from its first shard to its last, but '
      f'trained for {busy:.0f} s on {devices} devices; it was not trained in '
      'one go, or by fewer devices: give --devices'
    )
  return {
    'shards': len(tasks),
    'devices': devices,
    'seconds': took,
    'simulated_seconds': outcome.makespan,
    'off': outcome.makespan / took - 1,
    'epoch_seconds': epoch_s,
    'compile_seconds': compile_s,
    'between_seconds': between,
  }


def _tasks(found):
  """Returns Tasks, and seconds of an epoch and of compiling by program."""
  epoch_s, compile_s = {}, {}
  for kind in sorted({kind for kind, *_ in found.values()}):
    mine = [(m, e) for k, m, e, _ in found.values() if k == kind]
    later = np.concatenate([e[1:] / m for m, e in mine])
    one = float(np.mean(later if later.size else mine[0][1] / mine[0][0]))
    excess = [float(e[0]) - one * m for m, e in mine if e.size]
    # Of a program that some shards found compiled, the others say.
    compiled = [x for x in excess if x > 0.5 * max(excess)]
    epoch_s[kind] = one
    compile_s[kind] = max(0.0, float(np.mean(compiled or [0.0])))
  tasks = [
    scheduling.Task(kind, len(epochs_e), epoch_s[kind] * members, members)
    for kind, members, epochs_e, _ in found.values()
  ]
  return tasks, epoch_s, compile_s


def _between(found):
  """Returns the mean time from the last epoch of a shard to the next's first.

  Whoever begins a shard is taken for the worker that was the last to be free.
  """
  begun = sorted((end - float(e.sum()), end) for _, _, e, end in found)
  ends, gaps = [], []
  for begin, end in begun:
    free = [e for e in ends if e <= begin]
    if free:
      ends.remove(max(free))
      gaps.append(begin - max(free))
    ends.append(end)
  return float(np.mean(gaps)) if gaps else 0.0


def _side_by_side(found):
  """Returns the most shards that were in training at one moment.

  A worker ends a shard, and writes its time, before it begins the next.
  """
  moments = []
  for _, _, epochs_e, end in found:
    moments += [(end - float(epochs_e.sum()), 1), (end, -1)]
  return int(max(np.cumsum([change for _, change in sorted(moments)])))
