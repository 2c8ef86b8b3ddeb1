"""Files that appear whole or not at all, and a lock for their writers."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets


def make_directory(path):
  """Makes a directory, and its name durable, unless it is there."""
  if not path.is_dir():
    path.mkdir(parents=True, exist_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def lock(directory):
  """Keeps other writers out; yields whether the file system could.

  Two writers of one shard could otherwise pair one's rows with the other's
  mark. Where a file system knows no locks that shows as a damaged shard, never
  as wrong data, so writing goes on. A killed holder leaves nothing behind.
  """
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  fd = os.open(directory / '.lock', flags, 0o666)
  try:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX)
      locked = True
    except OSError as e:
      if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        raise
      locked = False
    yield locked
  finally:
    os.close(fd)  # which unlocks


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
