"""Shards shared out among the processes of a directory, by leases.

A queue for `workers.run`. No process plans for another: each takes a shard that
is neither done nor held, until none is left, and then waits for those which
others hold, for their holders may die.

  OUT/leases/<shard>.<n>       who trains a shard; see `storage.leases`
  OUT/failures/<shard>.json    what was wrong with one that failed; see
                               `failures`
"""

import collections
import hashlib
import pathlib
import random
import threading

from nasjax import table
from nasjax.benchmark import failures

# Leases that one process watches at a time; many processes that wait for the
# last shards would otherwise read each other's without end.
_WATCHED = 16
# Processes that try a shard before it is left to those that come later.
_ATTEMPTS = 2


class Claims:
  """Hands out shards that no process has done or holds.

  Of one signature to one worker if it can, and first of the signatures that
  fewest processes are at: programs are compiled once for each.
  """

  def __init__(self, shards, leases, out, say=print, alone=True):
    """
    Args:
      shards: those of the plan that this process may take.
      leases: `Leases` of OUT/leases.
      out: directory of the run.
      say: called with a line of text when a shard failed or was lost, and when
        there is nothing to do but to wait.
      alone: this process answers for all of the shards. Then what is done is
        handed out, too, to be looked at, and what fails is raised. Else other
        processes go on, and so does this one, until it fails twice in a row.
    """
    self._out, self._leases = pathlib.Path(out), leases
    self._say, self._alone = say, alone
    self._left = collections.OrderedDict()
    for shard in shards:
      kind = self._left.setdefault(shard.signature, collections.OrderedDict())
      kind[shard.name] = shard
    self._kinds = {shard.name: shard.signature for shard in shards}
    self._lock = threading.Lock()
    self._given, self._done, self._failed = set(), [], {}
    self._in_a_row, self._waiting = 0, False
    self._before = {f.shard: f.attempts for f in failures.read(out)}
    standing = set(table.committed(self._out / 'table'))
    self._standing = [shard for shard in shards if shard.name in standing]
    for shard in self._standing:
      self._drop(shard.name)
    leases.tidy(standing)
    if not alone:
      self._done, self._standing = self._standing, []

  def take(self, last, stop):
    """Returns the next shard, or None where none is left; waits if need be.

    Args:
      last: signature of the worker's last shard; None at first.
      stop: `Event` that ends the waiting.
    """
    while not stop.is_set():
      with self._lock:
        if self._standing:
          return self._standing.pop(0)
        shard = self._next(last)
        if shard is not None:
          self._given.add(shard.name)
          self._waiting = False
          return shard
        others = self._others()
        if not others:
          return None
        self._tell_of(others)
      stop.wait(self._pause())
    return None

  def guard(self, shard):
    """Returns what raises LostError once another process has the shard."""
    return lambda: self._leases.check(shard.name)

  def finish(self, shard):
    """Takes a shard back that is done."""
    with self._lock:
      self._drop(shard.name)
      self._in_a_row = 0
      self._leases.finish(shard.name)
      failures.forget(self._out, shard.name)

  def leave(self, shard, error=None):
    """Takes a shard back that is not done.

    Args:
      shard: of `take`.
      error: what was raised; None where the user stopped it.

    Returns:
      whether the worker shall go on with others.
    """
    with self._lock:
      self._given.discard(shard.name)
      try:
        self._leases.check(shard.name)
      except Exception as lost:
        # Whatever failed: somebody else has it, and may have touched its files.
        if table.is_committed(self._out / 'table', shard.name):
          failures.forget(self._out, shard.name)
        self._say(f'shard {shard.name} is left to others ({lost})')
        return True
      try:
        go_on = error is not None and self._fail(shard, error)
      finally:
        self._leases.free(shard.name)
      return go_on

  def gone(self):
    """Returns the shards that others have done, each once."""
    with self._lock:
      done, self._done = self._done, []
      return done

  def free(self):
    """Returns the shards that nobody is known to train."""
    held = self._leases.listing()
    return [
      shard
      for names in self._left.values()
      for name, shard in names.items()
      if name not in held or self._leases.over(name, held[name])
    ]

  @property
  def failed(self):
    """By shard name what was wrong, as far as this process knows."""
    found = dict(self._failed)
    for failure in failures.read(self._out):
      if failure.shard in self._kinds and self._given_up(failure.shard):
        found.setdefault(failure.shard, failure.error)
    return found

  def _next(self, last):
    """Returns a shard that is now this process's, or None."""
    held = self._leases.listing()
    busy = collections.Counter(self._kinds.get(name) for name in held)

    def rank(kind):
      return kind == last, -busy[kind], len(self._left[kind])

    kinds = sorted(self._left, key=rank, reverse=True)
    noted = failures.names(self._out)
    for kind in kinds:
      shard = self._first(self._left[kind], held, noted)
      if shard is not None:
        return shard
    return self._inherited(held, noted)

  def _first(self, names, held, noted):
    """Returns the first shard of a signature that nobody holds; holds it."""
    found, passed = None, []
    # Holders that are dead are found at once, unless there are very many.
    many = len(held) > _WATCHED and not self._alone
    for name, shard in names.items():
      if name in self._given or name in noted and self._given_up(name):
        continue
      if many and name in held:
        continue
      if table.is_committed(self._out / 'table', name):
        passed.append(shard)
      elif self._leases.take(name, held.get(name, 0)):
        found = shard
        break
    self._pass(passed)
    return found

  def _inherited(self, held, noted):
    """Returns a shard whose holder is gone, and holds it."""
    mine = [
      name
      for name in held
      if name in self._left.get(self._kinds.get(name), ())
      and name not in self._given
      and not (name in noted and self._given_up(name))
    ]
    # Others watch others first.
    for name in sorted(mine, key=self._order)[:_WATCHED]:
      shard = self._left[self._kinds[name]][name]
      if table.is_committed(self._out / 'table', name):
        self._pass([shard])
      elif self._leases.take(name, held[name]):
        return shard
    return None

  def _order(self, name):
    text = f'{self._leases.token} {name}'
    return hashlib.sha256(text.encode()).digest()

  def _others(self):
    """Returns the names of the shards that other processes have."""
    return {
      name
      for names in self._left.values()
      for name in names
      if name not in self._given and not self._given_up(name)
    }

  def _pass(self, shards):
    for shard in shards:
      self._drop(shard.name)
      self._done.append(shard)

  def _drop(self, name):
    self._given.discard(name)
    kind = self._kinds[name]
    self._left.get(kind, {}).pop(name, None)
    if not self._left.get(kind, True):
      del self._left[kind]

  def _pause(self):
    """Returns seconds to wait, others than those of other processes."""
    return min(5.0, self._leases.seconds / 6) * random.uniform(0.5, 1)

  def _tell_of(self, names):
    if not self._waiting:
      self._waiting = True
      name = min(names)
      who = self._leases.who(name) or 'another process'
      self._say(
        f'nothing is left but {len(names)} shards that others train, such as '
        f'{name} by {who}; waiting, to take over what is abandoned for '
        f'{self._leases.seconds:g} s'
      )

  # Failures.

  def _fail(self, shard, error):
    """Notes that a shard failed; tells whether to go on with others."""
    if self._alone or isinstance(error, OSError) and error.errno:
      return False  # a disk, say: other shards would fail as well
    words = failures.note(self._out, shard.name, error, more=1)
    self._failed[shard.name] = words
    self._in_a_row += 1
    self._say(f'shard {shard.name} failed, going on with others ({words})')
    return self._in_a_row < 2

  def _attempts(self, name):
    found = failures.one(self._out, name)
    return found.attempts if found else 0

  def _given_up(self, name):
    """Tells whether a shard failed so often that others shall try it."""
    if self._alone:
      return False
    since = self._attempts(name) - self._before.get(name, 0)
    return name in self._failed or since >= _ATTEMPTS
