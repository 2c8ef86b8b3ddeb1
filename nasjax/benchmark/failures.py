"""What went wrong with shards, for who watches a run and who goes on with it.

OUT/failures/<shard>.json    what, when, where, the traceback, and how many
                             processes that claim shards have failed with it;
                             removed when the shard is done
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import traceback
from typing import NamedTuple

from nasjax.storage import disk, leases

# Characters of an error, and lines of a traceback that are kept, the last ones.
_MOST, _LINES = 500, 200


class Failure(NamedTuple):
  """What the note of a shard says.

  Attributes:
    shard: its name.
    path: of the note.
    time: seconds since 1970 at which it was written.
    error: kind and words of the error, in one line.
    line: when, where and what, in one line.
    attempts: processes that failed with it and went on with other shards.
  """

  shard: str
  path: pathlib.Path
  time: float
  error: str
  line: str
  attempts: int


@contextlib.contextmanager
def noted(out, name):
  """Writes down what a shard fails of, and removes it when it is done.

  Args:
    out: directory of the run.
    name: of the shard.
  """
  try:
    yield
  except leases.LostError:
    raise  # Another process goes on with it.
  except Exception as e:
    # On a disk that is full the error itself is what has to be heard of.
    with contextlib.suppress(OSError):
      note(out, name, e)
    raise
  forget(out, name)


def note(out, name, error, more=0):
  """Writes down the error of a shard, the last of several.

  Args:
    out: directory of the run.
    name: of the shard.
    error: the exception.
    more: attempts to be counted beside those that were.

  Returns:
    the error in one line.
  """
  before = one(out, name)
  told = ' '.join(f'{type(error).__name__}: {error}'.split())[:_MOST]
  lines = ''.join(traceback.format_exception(error)).splitlines()
  text = json.dumps(
    {
      'shard': name,
      'error': told,
      'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'attempts': (before.attempts if before else 0) + more,
      'traceback': lines[-_LINES:],
    },
    indent=1,
  )
  path = _path(out, name)
  disk.make_directory(path.parent)
  disk.publish(path, text.encode())
  return told


def forget(out, name):
  """Removes the note of a shard, if there is one."""
  _path(out, name).unlink(missing_ok=True)


def names(out):
  """Returns the names of the shards that have a note, a set."""
  try:
    found = os.listdir(pathlib.Path(out) / 'failures')
  except FileNotFoundError:
    return set()
  return {n.removesuffix('.json') for n in found if not n.startswith('.')}


def one(out, name):
  """Returns the Failure of a shard; None where there is no note."""
  path = _path(out, name)
  try:
    time = path.stat().st_mtime
    plain = json.loads(path.read_bytes())
    plain = plain if isinstance(plain, dict) else {}
  except ValueError:
    plain = {}
  except OSError:
    return None  # It may be done meanwhile.
  error = str(plain.get('error', f'{path} cannot be read'))
  where = f'{plain.get("host")}, process {plain.get("pid")}'
  attempts = plain.get('attempts')
  return Failure(
    *(name, path, time, error),
    f'{plain.get("time")} ({where}) {error}' if 'error' in plain else error,
    attempts if isinstance(attempts, int) else 0,
  )


def read(out):
  """Returns the Failures of a run, the last one first."""
  found = [one(out, name) for name in names(out)]
  return sorted(filter(None, found), key=lambda failure: -failure.time)


def _path(out, name):
  return pathlib.Path(out) / 'failures' / f'{name}.json'
