"""How every launcher starts, and how it says what is wrong with its flags."""

import contextlib
import fcntl
import json
import os
import pathlib
import sys

from absl import app, flags, logging

FLAGS = flags.FLAGS


def run(work):
  """Reads the flags, calls `work()` and ends the program.

  Whatever fails becomes one line on stderr and status 1. A traceback of it is
  for who sets NASJAX_TRACEBACK.
  """
  name = pathlib.Path(sys.argv[0]).name

  def parse(argv):
    try:
      rest = FLAGS(argv)
    except (flags.Error, ValueError, OSError, RecursionError) as e:
      fault = ' '.join(str(e).removeprefix('ERROR:: ').split())
      sys.exit(f'{name}: {fault} (--help lists the flags)')
    except SystemExit:  # help was asked for; absl calls that a failure
      sys.exit(0)
    if len(rest) > 1:
      sys.exit(f'{name}: unexpected {rest[1]!r}; flags begin with --')
    _expand_home()
    return rest

  def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
      # A character that the terminal lacks shall not end a run.
      stream.reconfigure(errors='backslashreplace')
    try:
      work()
    except (ValueError, OSError) as e:
      if os.environ.get('NASJAX_TRACEBACK'):
        raise
      sys.exit(f'{name}: {e}')
    except Exception as e:  # what libraries raise can be anything
      if os.environ.get('NASJAX_TRACEBACK'):
        raise
      # Told by its text, for jax is not imported here.
      words = ('RESOURCE_EXHAUSTED', 'Out of memory')
      if isinstance(e, MemoryError) or any(word in str(e) for word in words):
        fault = 'the device is out of memory; lower --members_per_shard'
      else:
        fault = _unforeseen(e)
      sys.exit(f'{name}: {fault}')
    except KeyboardInterrupt:
      sys.exit(f'{name}: stopped; the same command goes on from here')

  app.run(main, flags_parser=parse)


def _unforeseen(error):
  """Words an error that nobody expected, in one line."""
  told = ' '.join(str(error).split())
  told = told if len(told) <= 300 else f'{told[:300]} ...'
  if isinstance(error, ImportError):
    return f'{told}; install what requirements.txt names'
  told = f'{type(error).__name__}: {told}'.rstrip(': ')
  return (
    f'{told}; finished work is kept, the same command goes on from there; '
    'NASJAX_TRACEBACK=1 shows where it failed'
  )


# Flags that name files and directories; `cells` and `corpus_path` may be lists.
_PATHS = (
  'alphabet_path', 'cells', 'compilation_cache', 'corpus_path', 'data_dir',
  'figure', 'folder', 'json', 'out', 'search', 'table',
)  # fmt: skip


def _expand_home():
  """Puts the home directory where a flag's path begins with ~."""
  for name in _PATHS:
    value = FLAGS[name].value if name in FLAGS else None
    if isinstance(value, str):
      FLAGS[name].value = os.path.expanduser(value)
    elif isinstance(value, list):
      FLAGS[name].value = [os.path.expanduser(str(v)) for v in value]


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


class Record:
  """OUT/run.json of a study: the flags with which it was begun.

  Raises:
    ValueError: the study was begun with other flags; they are named, with both
      values.
  """

  def __init__(self, out, growing=(), free=()):
    """
    Args:
      out: directory of the study.
      growing: names of list flags that may name more than before.
      free: names of flags that may change, for they change no result.
    """
    values = {
      flag.name: flag.value
      for flag in FLAGS.get_key_flags_for_module(sys.argv[0])
      if flag.name not in free
    }
    self._path = out / 'run.json'
    self._values = json.loads(json.dumps(values))
    if self._path.exists():
      _refuse_others(self._path, self._values, growing)

  def write(self):
    """To be called once the flags have proved good, before work begins."""
    from nasjax import provenance
    from nasjax.table import disk

    record = {
      'flags': self._values,
      'versions': provenance.versions(),
      'commit': provenance.commit(),
    }
    disk.publish(self._path, json.dumps(record, indent=1).encode())


def noted(path, name, remedy):
  """Returns a value of a run.json.

  Raises:
    ValueError: there is none; `remedy` says what it is and what to give.
  """
  try:
    return json.loads(path.read_text())[name]
  except (ValueError, KeyError, TypeError):
    raise ValueError(f'{path} does not tell {remedy}') from None


def _refuse_others(path, values, growing):
  begun = noted(
    path, 'flags', 'the flags that it was begun with; give another --out'
  )

  def allowed(name):
    old, new = begun.get(name), values[name]
    if name in _PATHS and isinstance(old, str):
      old = os.path.expanduser(old)  # as it was written down once
    if name in growing and old and new:
      return set(old) <= set(new)
    return old == new

  others = [name for name in values if not allowed(name)]
  if others:
    told = ', '.join(
      f'{name} was {_shown(begun.get(name))}, is {_shown(values[name])}'
      for name in others
    )
    raise ValueError(
      f'{path.parent} was begun with other flags: {told}; give those again, or '
      'another --out'
    )


def _shown(value):
  if isinstance(value, list):
    return repr(','.join(value))
  return repr(value)
