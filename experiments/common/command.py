"""How every launcher starts, and how it says what is wrong with its flags."""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import threading

from absl import app, flags, logging
from common import own

FLAGS = flags.FLAGS

flags.DEFINE_multi_string(
  'own',
  None,
  "A Python file of one's own, or a module, that is run first: it adds spaces, "
  'families of networks, operations, as experiments/examples do. May be given '
  'several times.',
)


def run(work, others=False):
  """Reads the flags, calls `work()` and ends the program.

  With `others` there may be arguments that are no flags; `work` gets the list.

  Whatever goes wrong becomes one line on stderr and status 1. A traceback of it
  is for who sets NASJAX_TRACEBACK.
  """
  name = pathlib.Path(sys.argv[0]).name
  # So that records of a run have it, and --help.
  FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS['own'])

  def parse(argv):
    try:
      rest = FLAGS(argv)
    except (flags.Error, ValueError, OSError, RecursionError) as e:
      fault = ' '.join(str(e).removeprefix('ERROR:: ').split())
      sys.exit(f'{name}: {fault} (--help lists the flags)')
    except SystemExit:  # help was asked for; absl calls that a failure
      sys.exit(0)
    if len(rest) > 1 and not others:
      sys.exit(f'{name}: unexpected {rest[1]!r}; flags begin with --')
    try:
      _expand_home()
      _check_json()
      _check_numbers()
    except ValueError as e:
      sys.exit(f'{name}: {e}')
    return rest

  def main(argv):
    given = (argv[1:],) if others else ()
    if os.environ.get('NASJAX_TRACEBACK'):
      logging.set_verbosity(logging.WARNING)
    else:
      # Libraries save and read in threads, whose tracebacks come by dozens,
      # logged or not; what is wrong reaches the main thread as well.
      logging.set_verbosity(logging.FATAL)
      threading.excepthook = lambda told: None
      sys.stderr = _Quiet(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
      # A character that the terminal lacks shall not end a run.
      stream.reconfigure(errors='backslashreplace')
    _overrule(name)
    try:
      for module in FLAGS.own or ():
        own.load(f'--own={module}', module)
      work(*given)
    except KeyboardInterrupt:
      sys.exit(f'{name}: stopped; the same command goes on from here')
    except Exception as e:
      if os.environ.get('NASJAX_TRACEBACK'):
        raise
      words = _told(e)
      if words.startswith(_FULL):
        # Threads of libraries that still try to write have their say, too.
        print(f'{name}: {words}', file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)
      sys.exit(f'{name}: {words}')

  app.run(main, flags_parser=parse)


class _Quiet:
  """A stream on which threads that Python has not started are not heard.

  Of those that save checkpoints each writes a traceback when a disk is full.
  """

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text):
    if threading.current_thread().name.startswith('Dummy-'):
      return len(text)
    return self._stream.write(text)


# Settings of JAX, often exported for other work, under which programs fail or
# come to other results.
_OVERRULED = (
  'JAX_ENABLE_X64', 'JAX_DEFAULT_DTYPE_BITS', 'JAX_DISABLE_JIT',
  'JAX_DEFAULT_MATMUL_PRECISION', 'JAX_NUMPY_DTYPE_PROMOTION',
  'JAX_NUMPY_RANK_PROMOTION', 'JAX_DEFAULT_PRNG_IMPL', 'JAX_ENABLE_CUSTOM_PRNG',
  'JAX_THREEFRY_PARTITIONABLE', 'JAX_RANDOM_SEED_OFFSET', 'JAX_LEGACY_PRNG_KEY',
  'JAX_DEBUG_NANS', 'JAX_DEBUG_INFS', 'JAX_ENABLE_CHECKS',
  'JAX_CHECK_TRACER_LEAKS', 'JAX_TRANSFER_GUARD', 'JAX_DEFAULT_DEVICE',
  'JAX_NO_EXECUTION', 'JAX_DISABLE_MOST_OPTIMIZATIONS',
  'JAX_EXPERIMENTAL_UNSAFE_XLA_RUNTIME_ERRORS',
)  # fmt: skip


# Settings of compilers, which are heeded; run.json keeps them.
_HEEDED = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')
# Of these, what changes how fast programs are made, or how many devices.
_HARMLESS = (
  '--xla_force_host_platform_device_count',
  '--xla_backend_optimization_level',
  '--xla_cpu_use_fusion_emitters',
)


def _overrule(name):
  """Takes such settings out of the environment, and says so.

  JAX reads them when it is imported, here and in the processes started here.
  """
  found = [key for key in _OVERRULED if key in os.environ]
  values = {key: os.environ.pop(key) for key in found}
  told = [f'{key}={value}' for key, value in values.items() if value]
  if told:
    print(
      f'{name}: {", ".join(told)} of the environment not heeded: results would '
      'be others, or none',
      file=sys.stderr,
    )
  for key in _HEEDED:
    words = os.environ.get(key, '').split()
    if not all(word.startswith(_HARMLESS) for word in words):
      print(
        f'{name}: {key}={" ".join(words)} of the environment is heeded; '
        'results may be others than without it',
        file=sys.stderr,
        flush=True,
      )


# What XLA raises is told by its text, for jax is not imported here.
_NO_MEMORY = ('RESOURCE_EXHAUSTED', 'Out of memory')
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_PLACES = ('out', 'data_dir', 'compilation_cache', 'json')


def _told(error):
  """Says in a line, or in those of a report, what is wrong and what to do."""
  chain, text = error, ''
  while chain is not None:
    # Libraries wrap what the system said into exceptions of their own.
    text += f'{chain}\n'
    chain = chain.__cause__ or chain.__context__
  for words in _FULL:
    if words in text:
      return f'{words}: {_fullest()}; make room, and the same command goes on'
  if isinstance(error, MemoryError):
    return 'out of memory; lower --members_per_shard'
  if isinstance(error, RuntimeError) and any(w in text for w in _NO_MEMORY):
    return 'the device is out of memory; lower --members_per_shard'
  if isinstance(error, ValueError | OSError):
    return str(error) or type(error).__name__
  names = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')
  given = [f'{key}={os.environ[key]}' for key in names if os.environ.get(key)]
  if isinstance(error, RuntimeError | AssertionError) and given:
    # JAX has several ways of saying that there is no such platform.
    import jax

    try:
      jax.devices()
    except (RuntimeError, AssertionError):
      return (
        f'{" ".join(given)} is set, and JAX has no such device here; unset '
        'it, or install the JAX of that platform'
      )
  return _unforeseen(error)


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


def _check_numbers():
  """Refuses nan and the infinities: bounds of flags let them through.

  Raises:
    ValueError: naming the flag.
  """
  for name in FLAGS:
    value = FLAGS[name].value
    if isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'--{name}={value}: want a finite number')


# Flags that name files and directories; `cells` and `corpus_path` may be lists.
_PATHS = (
  'alphabet_path', 'cells', 'check', 'compare', 'compilation_cache',
  'corpus_path', 'data_dir', 'figure', 'folder', 'html', 'json', 'lexicon',
  'lm', 'missing', 'out', 'own', 'run', 'search', 'source', 'table', 'text',
  'unpack',
)  # fmt: skip


def _expand_home():
  """Puts the home directory where a flag's path begins with ~."""
  for name in _PATHS:
    value = FLAGS[name].value if name in FLAGS else None
    if isinstance(value, str):
      FLAGS[name].value = _at_home(name, value)
    elif isinstance(value, list):
      FLAGS[name].value = [_at_home(name, str(v)) for v in value]


def _at_home(flag, path):
  path = os.path.expanduser(path)
  if path.startswith('~'):
    user = path.partition('/')[0]
    raise ValueError(
      f'--{flag}={path}: there is no user {user[1:]}; write ./{user} for a '
      'directory of that name'
    )
  return path


def _check_json():
  """Refuses a --json that no file can be, before hours of work are lost."""
  value = FLAGS['json'].value if 'json' in FLAGS else None
  if not isinstance(value, str) or not value:
    return
  path = pathlib.Path(value)
  if path.is_dir():
    raise ValueError(f'--json={value} is a directory; name a file in it')
  for parent in path.parents:
    if parent.is_file():
      raise ValueError(f'--json={value}: {parent} is a file, not a directory')


def _fullest():
  """Names the file system with the least room of those that are written to."""
  found = []
  for flag in _PLACES:
    value = FLAGS[flag].value if flag in FLAGS else None
    if not value or not isinstance(value, str):
      continue
    path = pathlib.Path(value).absolute()
    while not path.exists():
      path = path.parent
    free = shutil.disk_usage(path).free
    mount = path
    while not os.path.ismount(mount):
      mount = mount.parent
    found.append(
      (free, f'{mount} (of --{flag}={value}) has {free / 1e6:.1f} MB')
    )
  place = tempfile.gettempdir()
  free = shutil.disk_usage(place).free
  found.append((free, f'{place} has {free / 1e6:.1f} MB'))
  return min(found)[1]


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


def exclusive(out):
  """Holds a directory against a second run."""
  told = f'--out={out}: another run is writing there'
  return _locked(out / '.lock', fcntl.LOCK_EX, told)


def shared(out):
  """Holds a directory against runs that want it alone, not against others."""
  told = f'--out={out}: a run that wants it alone is writing there'
  return _locked(out / '.lock', fcntl.LOCK_SH, told)


@contextlib.contextmanager
def _locked(path, how, told):
  # NFS wants to read for a lock that is shared, and to write for another.
  with path.open('a+') as lock:
    try:
      fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(told) from None
    except OSError as e:
      if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        raise  # without locks, leases alone keep processes apart
    yield


def publish_json(path, record, allow_nan=True):
  """Writes what a launcher has found, whole or not at all; makes its folder.

  Raises:
    ValueError: a number is not finite, unless `allow_nan`; JSON has none such.
  """
  from nasjax.storage import disk

  path = pathlib.Path(path).expanduser()
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(
    record, indent=1, ensure_ascii=False, allow_nan=allow_nan
  )
  disk.publish(path, f'{text}\n'.encode())


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

  def write(self, metric, **more):
    """To be called once the flags have proved good, before work begins.

    Args:
      metric: what the error rate of the study is called.
      **more: what else others may want to know of it, plain values.
    """
    from nasjax.storage import disk, provenance

    record = {
      'flags': self._values,
      'metric': metric,
      'versions': provenance.versions(),
      'commit': provenance.commit(),
      'environment': provenance.environment(),
      **more,
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

  def before(name):
    # What was begun before there was the flag had its default.
    usual = FLAGS[name].default if name in FLAGS else None
    return begun.get(name, usual)

  def allowed(name):
    old, new = before(name), values[name]
    if name in _PATHS and isinstance(old, str):
      old = os.path.expanduser(old)  # as it was written down once
    if name in growing and isinstance(old, list) and isinstance(new, list):
      return set(old) <= set(new)
    return old == new

  others = [name for name in values if not allowed(name)]
  if others:
    told = ', '.join(
      f'{name} was {_shown(before(name))}, is {_shown(values[name])}'
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
