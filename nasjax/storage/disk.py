"""Files that appear whole or not at all, and a lock for their writers."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import time

# What says that a file system knows no locks, or no hard links.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Seconds; writers hold it for milliseconds.
PATIENCE = 60.0
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


def make_directory(path):
  """Makes a directory, and its name durable, unless it is there."""
  if not path.is_dir():
    path.mkdir(parents=True, exist_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def lock(directory):
  """Keeps other writers out; yields whether the file system could.

  A courtesy: machines may not see each other's locks, so writers must be right
  without. A killed holder leaves nothing behind; one that was stopped is not
  waited for longer than PATIENCE.
  """
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  fd = os.open(directory / '.lock', flags, 0o666)
  try:
    yield _locked(fd)
  finally:
    os.close(fd)  # which unlocks


def _locked(fd):
  deadline = time.monotonic() + PATIENCE
  while True:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    except BlockingIOError:
      if time.monotonic() > deadline:
        return False
      time.sleep(0.002)
    except OSError as e:
      if e.errno not in NO_LOCKS:
        raise
      return False


def publish(path, payload):
  """Makes a file appear at once, with all of its bytes on disk."""
  with publishing(path) as f:
    f.write(payload)


@contextlib.contextmanager
def publishing(path):
  """Yields a binary file that appears at once when the block has ended."""
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
  try:
    with temporary.open('xb') as f:
      yield f
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  sync_directory(path.parent)


def publish_new(path, payload):
  """Makes a file appear as `publish` does, unless one of its name is there.

  Of several writers one alone succeeds, on NFS too. Where a file system has no
  hard links the last one does.

  Returns:
    whether it is this one's.
  """
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
  try:
    with temporary.open('xb') as f:
      f.write(payload)
      f.flush()
      os.fsync(f.fileno())
    try:
      os.link(temporary, path)
    except FileExistsError:
      # NFS may repeat a request of which only the answer was lost.
      if temporary.stat().st_nlink < 2:
        return False
    except OSError as e:
      if e.errno not in _NO_LINKS:
        raise
      if os.path.lexists(path):
        return False
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  sync_directory(path.parent)
  return True


def remove(path):
  """Removes a file or a link, if it is there, for good."""
  if os.path.lexists(path):
    path.unlink()
    sync_directory(path.parent)


def leftovers(directory):
  """Returns the names of files that killed writers left, sorted."""
  return tuple(
    sorted(
      p.name
      for p in pathlib.Path(directory).iterdir()
      if p.name.startswith('.') and p.name.endswith('.tmp')
    )
  )


def clear(directory, prefix):
  """Removes the leftovers whose names begin so; the lock must be held."""
  for name in leftovers(directory):
    if name.startswith(prefix):
      (directory / name).unlink(missing_ok=True)


def sync_directory(directory):
  """Makes renames and removals in a directory durable."""
  fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)
