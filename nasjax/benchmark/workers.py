"""Shards trained side by side, each worker on devices of its own.

Members exchange nothing, so devices need not keep step with each other. On a
CPU every device is a worker: none trains padding, or waits for the others.
"""

import collections
import concurrent.futures
import queue
import threading

from nasjax.benchmark import attempts, running
from nasjax.programs import memory


class _Stopped(BaseException):
  """Another worker failed; no error of this one's shard."""


class _Queue:
  """Hands out shards, those of one signature to one worker if it can.

  What `claims.Claims` is where other processes take shards, too.
  """

  def __init__(self, shards):
    self._lock, self._shards = threading.Lock(), shards
    self._left, self._workers, self._work = {}, {}, {}
    for shard in shards:
      kind = shard.signature
      self._left.setdefault(kind, collections.deque()).append(shard)
      self._work[kind] = self._work.get(kind, 0) + len(shard.members)
      self._workers[kind] = 0

  def take(self, last, stop):
    """Returns the next shard, or None.

    Args:
      last: signature of the worker's last shard, whose programs it has
        compiled; None at first.
      stop: not asked, for there is nothing to wait for.
    """
    del stop
    with self._lock:
      return self._take(last)

  def free(self):
    """Returns the shards that nobody trains."""
    return self._shards

  def gone(self):
    """Returns the shards that other processes have done."""
    return ()

  def guard(self, shard):
    """Returns what raises where a shard has become another process's."""
    return lambda: None

  def finish(self, shard):
    """Takes a shard back that is done."""

  def leave(self, shard, error=None):
    """Takes one back that is not; tells whether to go on with others."""
    return False

  def _take(self, last):
    left = [kind for kind, shards in self._left.items() if shards]
    if not left:
      return None

    def rank(kind):
      return kind == last, -self._workers[kind], self._work[kind]

    kind = max(left, key=rank)
    if kind != last:
      self._workers[kind] += 1
    shard = self._left[kind].popleft()
    self._work[kind] -= len(shard.members)
    return shard


def run(
  job,
  shards,
  prepareds,
  out,
  watch,
  say=print,
  together=None,
  checkpoint=True,
  fitting=None,
  queue=None,
  every=1,
):
  """Trains shards, or what is left of them, and writes their rows.

  Args:
    job: `running.Job`.
    shards: of `running.plan`.
    prepareds: of `running.device_corpus`, one for each worker, on devices of
      its own.
    out: directory of the run.
    watch: its methods `begin(shard)`, `update(progress)` after every epoch and
      `finish(shard, skipped)` are called, one at a time.
    say: called with a line of text when memory ran out.
    together, checkpoint, every: as in `running.run_shard`.
    fitting: members of a shard whose states the devices of a worker hold, as
      far as is known; all if not given.
    queue: who hands out the shards, such as `claims.Claims`; all of them are
      this process's if not given.

  Raises:
    whatever a worker raised first. The others end after their epoch.
  """
  queue = queue or _Queue(shards)
  devices = prepareds[0].mesh.shape['member']
  free = queue.free()
  looked_at = {shard.name for shard in free}
  at_once = attempts.learnt(out, free, devices, say)
  for shard in shards:
    least = min(fitting or shard.size, at_once.get(shard.signature, shard.size))
    if least < shard.size:
      at_once[shard.signature] = least
  lock, stop = threading.Lock(), threading.Event()

  def on_epoch(progress):
    with lock:
      if stop.is_set():
        raise _Stopped
      try:
        watch.update(progress)
      except BaseException:
        # At once: what is being saved is saved before the shard is left, time
        # in which the others would begin more.
        stop.set()
        raise

  failures = []

  def work(prepared):
    last = None
    try:
      while not stop.is_set():
        shard = queue.take(last, stop)
        with lock:
          for other in queue.gone():
            watch.finish(other, skipped=True)
          if shard is None:
            return
          watch.begin(shard)
          if shard.name not in looked_at:  # its holder may have been killed
            at_once.update(attempts.learnt(out, [shard], devices, say))
        if last not in (None, shard.signature):  # other programs from here on
          memory.give_back()
        last = shard.signature
        try:
          done = running.run_shard(
            *(job, shard, prepared, out, on_epoch, at_once, say),
            together,
            checkpoint,
            queue.guard(shard),
            every,
          )
        except _Stopped:
          queue.leave(shard)
          raise
        except Exception as e:
          if not queue.leave(shard, e):
            raise
          continue
        queue.finish(shard)
        with lock:
          watch.finish(shard, skipped=not done)
    except _Stopped:
      pass
    except BaseException as e:
      failures.append(e)
      stop.set()

  if len(prepareds) == 1:
    work(prepareds[0])
  else:
    with concurrent.futures.ThreadPoolExecutor(len(prepareds)) as pool:
      try:
        concurrent.futures.wait([pool.submit(work, p) for p in prepareds])
      finally:
        # Also when the user interrupts this thread.
        stop.set()
  if failures:
    raise failures[0]


def share(function, tasks, places):
  """Runs tasks side by side, one at each place at a time.

  Args:
    function: called with a task, the place where it runs, and a function that
      it calls now and then, which raises where another task has failed or the
      user interrupts.
    tasks: list.
    places: what tasks need and cannot share, such as devices.

  Yields:
    what the function returned, in the order of the tasks.

  Raises:
    whatever a task raised first; what had not begun by then is left.
  """
  free, failures, stop = queue.SimpleQueue(), [], threading.Event()
  for place in places:
    free.put(place)

  def check():
    if stop.is_set():
      raise _Stopped

  def one(task):
    check()
    place = free.get()
    try:
      return function(task, place, check)
    except BaseException as e:
      failures.append(e)
      stop.set()
      raise
    finally:
      free.put(place)
      memory.give_back()

  with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
    futures = [pool.submit(one, task) for task in tasks]
    try:
      for future in futures:
        concurrent.futures.wait([future])
        if failures:
          raise failures[0]
        yield future.result()
    finally:
      stop.set()
