"""Compiling the native kernels, and choosing between them and XLA."""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading

import jax

# Which functions compute a network's operations: our own in C++, or what XLA
# makes, which any device can run.
KINDS = ('native', 'xla')
# The forms for accelerators (`accelerated`), which any device can run as well.
FORMS = ('tpu', 'gpu')
_BY_PLATFORM = {'tpu': 'tpu', 'gpu': 'gpu', 'cuda': 'gpu', 'rocm': 'gpu'}
_TARGETS = (
  *('nasjax_conv_forward', 'nasjax_conv_backward', 'nasjax_adam'),
  *('nasjax_norm_forward', 'nasjax_norm_backward'),
  *('nasjax_crf_trigram', 'nasjax_crf_sparse', 'nasjax_once'),
)
_FLAGS = (
  *('-std=c++17', '-O3', '-march=native', '-fno-math-errno'),
  *('-fPIC', '-shared', '-w'),
)
_HERE = pathlib.Path(__file__).parent
_ASKING = threading.Lock()


class KernelError(RuntimeError):
  """The native kernels were asked for and cannot be had."""


def choose(platform=None):
  """Returns which of `KINDS` and `FORMS` devices of a platform run.

  On a CPU that is 'native' where our kernels can be had, else 'xla'.

  Args:
    platform: of a mesh's devices ('cpu', 'tpu', 'gpu'); that of JAX's default
      device if not given.

  Raises:
    ValueError: NASJAX_KERNELS is none of them.
    KernelError: NASJAX_KERNELS is 'native', and they cannot be had.
  """
  wanted = os.environ.get('NASJAX_KERNELS', '')
  if wanted not in ('', *KINDS, *FORMS):
    raise ValueError(
      f'NASJAX_KERNELS={wanted!r}; want native or xla, or tpu or gpu to try '
      'the form for an accelerator elsewhere'
    )
  if wanted not in ('', 'native'):
    return wanted
  platform = platform or jax.default_backend()
  problem = why_not(platform)
  if problem and wanted:
    raise KernelError(f'NASJAX_KERNELS=native, but {problem}')
  return _BY_PLATFORM.get(platform, 'xla') if problem else 'native'


def why_not(platform=None):
  """Returns why there are no native kernels; empty if there are."""
  platform = platform or jax.default_backend()
  if platform != 'cpu':
    return f'JAX runs on {platform}, and these are CPU kernels'
  # Workers ask at the same moment, and targets are registered once.
  with _ASKING:
    return _made()


@functools.cache
def _made():
  """Registers the kernels; returns why not, or an empty string."""
  try:
    functions = _build()
  except (KernelError, OSError) as e:
    return str(e)
  for name, function in functions.items():
    jax.ffi.register_ffi_target(
      name, jax.ffi.pycapsule(function), platform='cpu'
    )
  return ''


def require():
  """Makes the kernels callable.

  Raises:
    KernelError: they cannot be had.
  """
  if why_not('cpu'):
    raise KernelError(f'no native kernels: {why_not("cpu")}')


def _build():
  """Returns the kernels by name; compiles them unless that was done before."""
  compiler, sources = _compiler(), sorted(_HERE.glob('*.cc'))
  if not sources:
    raise KernelError(f'{_HERE} has no sources (install nasjax again)')
  library = _place(compiler)
  if library.exists():
    try:
      return _opened(library)
    except KernelError:
      pass  # damaged, by a full disk perhaps: it is built again
  try:
    library.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed: several processes may build at the same time.
    with tempfile.TemporaryDirectory(dir=library.parent) as aside:
      built = pathlib.Path(aside, 'kernels.so')
      include = f'-I{jax.ffi.include_dir()}'
      _run([*compiler, *_FLAGS, include, *map(str, sources), '-o', str(built)])
      # Only what can be opened is kept.
      functions = _opened(built)
      os.replace(built, library)
  except OSError as e:
    raise KernelError(
      f'{library.parent} cannot be written: {e.strerror} (set XDG_CACHE_HOME '
      'to where kernels may be kept)'
    ) from None
  return functions


def _compiler():
  """Returns the words that call the compiler."""
  wanted = os.environ.get('CXX', '')
  try:
    words = shlex.split(wanted)
  except ValueError as e:
    raise KernelError(f'CXX={wanted!r} is no command: {e}') from None
  found = shutil.which('c++') or shutil.which('g++')
  if not words and not found:
    raise KernelError('there is no C++ compiler (install g++, or set CXX)')
  return words or [found]


def _place(compiler):
  """Returns where the library is kept, by a hash of all that it depends on."""
  files = sorted([*_HERE.glob('*.cc'), *_HERE.glob('*.h')])
  determines = [path.read_text() for path in files]
  determines += [*compiler, _run([*compiler, '--version']), *_FLAGS]
  determines += [jax.__version__, _processor()]
  name = hashlib.sha256('\n'.join(determines).encode()).hexdigest()[:16]
  try:
    cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  except RuntimeError:
    raise KernelError(
      'there is no home directory (set XDG_CACHE_HOME to where kernels may be '
      'kept)'
    ) from None
  return pathlib.Path(cache, 'nasjax', f'{name}.so')


def _opened(library):
  """Returns the kernels of a library by name."""
  try:
    found = ctypes.CDLL(str(library))
    return {name: getattr(found, name) for name in _TARGETS}
  except (OSError, AttributeError) as e:
    raise KernelError(
      f'the compiled kernels cannot be used: {e} (set NASJAX_KERNELS=xla to do '
      'without)'
    ) from None


def _run(command):
  """Returns what a command prints."""
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, errors='replace'
    )
    if not done.returncode:
      return done.stdout
    # The end tells what went wrong.
    why = done.stderr.strip()[-500:] or f'status {done.returncode}'
  except OSError as e:
    why = e.strerror
  raise KernelError(
    f'{shlex.join(command)} failed: {why} (set NASJAX_KERNELS=xla to do '
    'without)'
  )


def _processor():
  """Names the processor, for -march=native depends on it."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor() + platform.machine()
  kinds = ('model name', 'flags', 'Features', 'CPU implementer', 'CPU part')
  return '\n'.join(sorted({n for n in lines if n.startswith(kinds)}))
