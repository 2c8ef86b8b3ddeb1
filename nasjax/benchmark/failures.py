"""What went wrong with shards, for who watches a run from outside.

OUT/errors/<shard>.txt    a line of when, where and what, then the traceback;
                          removed when the shard is done
"""

import contextlib
import datetime
import os
import pathlib
import socket
import traceback
from typing import NamedTuple

from nasjax.storage import disk, leases

# Characters of a traceback that are kept, the last ones.
MOST = 20_000


class Failure(NamedTuple):
  """What the file of a shard says.

  Attributes:
    shard: its name.
    path: of the file.
    time: seconds since 1970 at which it was written.
    line: when, where and what, in one line.
  """

  shard: str
  path: pathlib.Path
  time: float
  line: str


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
  with contextlib.suppress(FileNotFoundError):
    _path(out, name).unlink()


def note(out, name, error):
  """Writes down the error of a shard, the last of several."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  told = ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
  where = f'{socket.gethostname()}, process {os.getpid()}'
  frames = ''.join(traceback.format_exception(error))[-MOST:]
  path = _path(out, name)
  disk.make_directory(path.parent)
  text = f'{now} ({where}) {told}\n\n{frames}'
  disk.publish(path, text.encode(errors='backslashreplace'))


def read(out):
  """Returns the Failures of a run, the last one first."""
  found = []
  for path in (pathlib.Path(out) / 'errors').glob('*.txt'):
    if path.name.startswith('.'):
      continue
    try:
      with path.open(errors='replace') as lines:
        line = lines.readline(2000).strip()
      found.append(Failure(path.stem, path, path.stat().st_mtime, line))
    except OSError:
      continue  # removed meanwhile: the shard is done
  return sorted(found, key=lambda failure: -failure.time)


def _path(out, name):
  return pathlib.Path(out) / 'errors' / f'{name}.txt'
