"""What takes long and is asked for by several files: made once in a run."""

import fcntl
import os
import pathlib


def text(name, make):
  """Returns what `make()` returned to the first process that asked.

  The processes that share out the tests share it, too.

  Args:
    name: of the file that keeps it.
    make: returns a str; others wait for it.
  """
  path = pathlib.Path(os.environ['NASJAX_TEST_PLACE'], name)
  with path.with_suffix('.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not path.exists():
      path.write_text(make())
  return path.read_text()
