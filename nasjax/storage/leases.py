"""Leases: who works on what, in a directory that several machines may share.

A lease is a file of its own, NAME.N in the directory of leases. Who creates it
(O_EXCL) holds NAME, for as long as there is no NAME.(N + 1), and counts up a
number in it. Who has watched that number stand still for the lease's seconds,
by his own monotonic clock, may take it over: he creates NAME.(N + 1), which one
process alone can do, and removes NAME.N. Who was stopped and wakes finds that
file gone. A holder counts through the file that he opened, never by its name,
so what he writes too late reaches nobody.

No clock is compared with another, and none that can be set is read. Of a
process on this machine that is dead there is nothing to watch: its lease is
over at once.

What a file system must do for it, as NFS does from version 3:
  - O_EXCL holds on the server; it is all that decides who holds a lease.
  - Who opens a file reads what was written and synchronised before (close to
    open; not under `nocto`). Directories and attributes may be older: who
    misses a lease for that meets it when he creates the next one.
  - A lease lasts longer than attributes are cached (`acregmax`, 60 s by
    default), so that a living holder is never taken for dead.
Locks (`flock`, `lockf`) play no part.

Taking a lease over early is no harm to results, if what it guards is written so
that two writers make the same or the later one is refused; `check` just before
writing keeps the overlap short.
"""

import errno
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from typing import NamedTuple

from nasjax.storage import disk

SECONDS = 90.0
# Beats in the time of a lease. Who watches sees at least so many less one.
_BEATS = 6
_HELD, _FREE = b'held', b'free'


class LostError(Exception):
  """Another process has taken a lease over."""


class _Held(NamedTuple):
  """A lease of this process."""

  path: pathlib.Path
  generation: int
  fd: int


class Leases:
  """The leases of one process in a directory.

  A context manager: what is held at its end is free for others.
  """

  def __init__(self, directory, seconds=SECONDS):
    """
    Args:
      directory: made when there is a lease.
      seconds: of this process's leases, after which others may take them over.
    """
    self._directory, self.seconds = pathlib.Path(directory), seconds
    self._identity = _process() | {
      'token': secrets.token_hex(8),
      'seconds': seconds,
    }
    self._held, self._seen, self._count = {}, {}, 0
    self._lock, self._over = threading.Lock(), threading.Event()
    self._thread = None

  @property
  def token(self):
    """What tells this process from all others."""
    return self._identity['token']

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._over.set()
    if self._thread:
      self._thread.join()
    for name in list(self._held):
      self.free(name)

  def listing(self):
    """Returns the last generation of every name that has a lease."""
    try:
      found = os.listdir(self._directory)
    except FileNotFoundError:
      return {}
    last = {}
    for entry in found:
      name, _, number = entry.rpartition('.')
      if name and number.isdecimal():
        last[name] = max(last.get(name, 0), int(number))
    if len(self._seen) > len(last):
      self._seen = {k: v for k, v in self._seen.items() if k in last}
    return last

  def holds(self, name):
    """Tells whether this process holds a lease, as far as it has heard."""
    return name in self._held

  def take(self, name, generation=None):
    """Takes a lease, if nobody holds it or who does is dead.

    Args:
      name: letters, digits, `.`, `_` and `-`.
      generation: its last one by `listing`, which is asked if not given.

    Returns:
      whether this process holds it now.
    """
    if name in self._held:
      return True
    if generation is None:
      generation = self.listing().get(name, 0)
    if generation and not self.over(name, generation):
      return False
    path = self._path(name, generation + 1)
    try:
      fd = self._create(path)
    except FileExistsError:
      return False
    with self._lock:
      self._held[name] = _Held(path, generation + 1, fd)
      if self._thread is None:
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
    if generation:
      self._path(name, generation).unlink(missing_ok=True)
    return True

  def wait(self, name):
    """Takes a lease, or watches its holder until he shows that he lives.

    Returns:
      whether this process holds it now.
    """
    deadline = time.monotonic() + 2 * self.seconds
    first = self.beat(name)
    while not self.take(name):
      if self.beat(name) != first or time.monotonic() > deadline:
        return False
      time.sleep(min(0.5, self.seconds / 20))
    return True

  def over(self, name, generation):
    """Tells whether a lease may be taken over, as far as was seen by now."""
    now = time.monotonic()  # before reading: a process may stop in between
    raw = self._read(name, generation)
    holder = _holder(raw)
    if raw.startswith(_FREE) or _dead(holder):
      return True
    seen = self._seen.get(name)
    if seen is None or seen[:2] != (generation, raw):
      self._seen[name] = (generation, raw, time.monotonic())
      return False
    seconds = holder.get('seconds')
    if not isinstance(seconds, int | float):
      seconds = self.seconds
    return now - seen[2] >= seconds

  def beat(self, name):
    """Returns what changes while the holder of a lease lives."""
    generation = self.listing().get(name)
    return generation, self._read(name, generation) if generation else b''

  def who(self, name):
    """Returns in words who holds a lease; None where nobody does."""
    holder = _holder(self.beat(name)[1])
    if not holder:
      return None
    return f'process {holder.get("pid")} on {holder.get("host")}'

  def check(self, name):
    """Raises LostError unless this process holds a lease."""
    held = self._held.get(name)
    if held is not None:
      raw = self._read(name, held.generation)
      newer = os.path.lexists(self._path(name, held.generation + 1))
      if not newer and self.token.encode() in raw:
        return
      self._let_go(name)
    raise LostError(f'{self._directory / name}: taken over by another process')

  def free(self, name):
    """Leaves what a lease guards unfinished, for whoever comes."""
    held = self._held.get(name)
    if held is not None:
      with self._lock:
        _write(held.fd, _FREE, self._count)
      self._let_go(name)

  def finish(self, name):
    """Removes a lease of what is done; nobody needs it any more."""
    held = self._held.get(name)
    if held is not None:
      self._let_go(name)
      held.path.unlink(missing_ok=True)

  def tidy(self, done):
    """Removes the leases of what is done, as killed processes left them.

    Args:
      done: names.
    """
    for name, generation in self.listing().items():
      if name in done and name not in self._held:
        for number in range(1, generation + 1):
          self._path(name, number).unlink(missing_ok=True)

  def _path(self, name, generation):
    return self._directory / f'{name}.{generation}'

  def _create(self, path):
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    disk.make_directory(self._directory)
    fd = os.open(path, flags, 0o666)
    try:
      text = json.dumps(self._identity)
      os.write(fd, b'%s %010d\n%s\n' % (_HELD, 0, text.encode()))
      os.fsync(fd)
    except BaseException:
      os.close(fd)
      path.unlink(missing_ok=True)
      raise
    return fd

  def _read(self, name, generation):
    """Returns the bytes of a lease; none where there is no such file."""
    try:
      return self._path(name, generation).read_bytes()
    except OSError as e:
      if e.errno not in (errno.ENOENT, errno.ESTALE):
        raise
      return b''

  def _let_go(self, name):
    with self._lock:
      held = self._held.pop(name, None)
      if held is not None:
        os.close(held.fd)

  def _beat(self):
    while not self._over.wait(self.seconds / _BEATS):
      self._count += 1
      with self._lock:
        for held in self._held.values():
          _write(held.fd, _HELD, self._count)


def _write(fd, state, count):
  """Writes the first line of a lease, of always the same length.

  Where that fails others take the lease over; `Leases.check` tells.
  """
  try:
    os.pwrite(fd, b'%s %010d' % (state, count), 0)
    os.fsync(fd)
  except OSError:
    pass


def _holder(raw):
  """Returns who holds a lease, by its bytes; nothing if they do not say."""
  try:
    found = json.loads(raw.partition(b'\n')[2])
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


_HERE = ('boot', 'namespace')


def _process():
  """Returns what tells this process from others of this and other machines."""
  proc = pathlib.Path('/proc')
  try:
    boot = (proc / 'sys/kernel/random/boot_id').read_text().strip()
    namespace = os.readlink(proc / 'self/ns/pid')
  except OSError:
    boot = namespace = None
  return {
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'boot': boot,
    'namespace': namespace,
    'start': _state(os.getpid())[1],
  }


def _dead(holder):
  """Tells whether a holder is known to be dead, being of this machine."""
  here, pid = _process(), holder.get('pid')
  if here['boot'] is None or not isinstance(pid, int):
    return False
  if any(holder.get(key) != here[key] for key in _HERE):
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except OSError:
    return False
  state, start = _state(pid)
  # The number may be another process's by now.
  return state == 'Z' or (start is not None and start != holder.get('start'))


def _state(pid):
  """Returns the state of a process and when it began; None if not known."""
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return None, None
  words = text.rpartition(')')[2].split()
  return words[0], words[19]
