"""How every launcher starts, and how it says what is wrong with its flags."""

import contextlib
import fcntl
import os
import pathlib
import sys

from absl import app, flags, logging

FLAGS = flags.FLAGS


def run(work):
  """Reads the flags, calls `work()` and ends the program.

  What a user can mend (ValueError, OSError) becomes one line on stderr and
  status 1. A traceback of it is for who sets NASJAX_TRACEBACK.
  """
  name = pathlib.Path(sys.argv[0]).name

  def parse(argv):
    try:
      rest = FLAGS(argv)
    except flags.Error as e:
      fault = str(e).removeprefix('ERROR:: ')
      sys.exit(f'{name}: {fault} (--help lists the flags)')
    except SystemExit:  # help was asked for; absl calls that a failure
      sys.exit(0)
    if len(rest) > 1:
      sys.exit(f'{name}: unexpected {rest[1]!r}; flags begin with --')
    return rest

  def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    try:
      work()
    except (ValueError, OSError) as e:
      if os.environ.get('NASJAX_TRACEBACK'):
        raise
      sys.exit(f'{name}: {e}')
    except RuntimeError as e:
      # What XLA raises; told by its text, for jax is not imported here.
      words = ('RESOURCE_EXHAUSTED', 'Out of memory')
      if not any(word in str(e) for word in words):
        raise
      sys.exit(
        f'{name}: the device is out of memory; lower --members_per_shard'
      )
    except KeyboardInterrupt:
      sys.exit(f'{name}: stopped; the same command goes on from here')

  app.run(main, flags_parser=parse)


def directory(flag):
  """Returns the directory that a flag names, made if need be.

  Raises:
    ValueError: naming the flag, where there can be none.
  """
  value = FLAGS[flag].value
  if not value:
    raise ValueError(f'--{flag} is empty; name a directory')
  path = pathlib.Path(value).expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
  except FileExistsError:
    raise ValueError(f'--{flag}={value} is a file, not a directory') from None
  except OSError as e:
    raise ValueError(f'--{flag}={value}: {e.strerror}') from None
  return path


@contextlib.contextmanager
def exclusive(out):
  """Holds a directory against a second run."""
  with (out / '.lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'--out={out}: another run is writing there') from None
    yield
