"""How the kernels of `nasjax.kernels` are compiled, or why they are not."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import native
import pytest

from nasjax import kernels
from nasjax.kernels import building


@pytest.fixture
def fresh(tmp_path, monkeypatch):
  """Nothing is built yet, and nothing was asked for."""
  for name in ('CXX', 'NASJAX_KERNELS'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  building._made.cache_clear()
  yield tmp_path / 'cache'
  building._made.cache_clear()


def _compiler(path, body):
  path.write_text(f'#!/bin/sh\n{body}\n')
  path.chmod(0o755)
  return str(path)


_NO_COMPILER = """
import json, os, pathlib
from nasjax import kernels, models
from nasjax.kernels import building
cache = pathlib.Path(os.environ['XDG_CACHE_HOME'])
found = [cache.exists(), building._made.cache_info().currsize]
found += [kernels.choose(), kernels.why_not()]
os.environ['NASJAX_KERNELS'] = 'native'
try:
  kernels.choose()
except kernels.KernelError as e:
  found.append(str(e))
print(json.dumps(found))
"""


def test_without_a_compiler_everything_runs_on_xla(fresh):
  environment = {**os.environ, 'PATH': ''}
  run = subprocess.run(
    [sys.executable, '-c', _NO_COMPILER],
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert run.returncode == 0, run.stderr
  built, tried, choice, why, error = json.loads(run.stdout)
  # An import compiles nothing.
  assert not built and not tried
  assert choice == 'xla'
  assert 'no C++ compiler' in why and 'install g++, or set CXX' in why
  assert error == f'NASJAX_KERNELS=native, but {why}'


def test_the_environment_decides(fresh, monkeypatch):
  monkeypatch.setenv('CXX', '/bin/false')
  for wanted in ('', 'xla'):
    monkeypatch.setenv('NASJAX_KERNELS', wanted)
    assert kernels.choose() == 'xla'
  monkeypatch.setenv('NASJAX_KERNELS', 'native')
  with pytest.raises(kernels.KernelError, match='native, but /bin/false --ver'):
    kernels.choose()
  # Who does not ask is told, too, and not by XLA.
  with pytest.raises(kernels.KernelError, match='no native kernels: /bin/fal'):
    kernels.conv_clip_dropout(
      jnp.ones((1, 2, 3)),
      jnp.ones((1, 1, 1, 3)),
      jnp.ones(3),
      jnp.ones(2, jnp.int32),
      jnp.ones(1, jnp.int32),
      jnp.ones(2, jnp.uint32),
      0,
      0.0,
      20.0,
    )
  monkeypatch.setenv('NASJAX_KERNELS', 'cuda')
  with pytest.raises(ValueError, match="NASJAX_KERNELS='cuda'; want native or"):
    kernels.choose()


def test_they_are_for_cpus(fresh, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert kernels.choose() == kernels.choose('cuda') == 'gpu'
  assert kernels.choose('tpu') == 'tpu'
  assert 'JAX runs on gpu' in kernels.why_not()
  # Of the mesh, not of the default device.
  monkeypatch.setattr(building, '_made', lambda: '')
  assert kernels.choose('cpu') == 'native'
  monkeypatch.undo()
  monkeypatch.setenv('NASJAX_KERNELS', 'native')
  with pytest.raises(kernels.KernelError, match='these are CPU kernels'):
    kernels.choose('tpu')


_DO_WITHOUT = '(set NASJAX_KERNELS=xla to do without)'
_BUT_VERSION = '[ "$1" = --version ] ||'
_OUTPUT = 'for last; do :; done'


@pytest.mark.parametrize(
  'body, why',
  [
    # Neither does it tell its version nor why not.
    ('exit 3', '/cxx --version failed: status 3 (set'),
    ('echo no licence >&2; exit 1', '/cxx --version failed: no licence (set'),
    # Says its version, and fails then.
    (
      f'{_BUT_VERSION} {{ echo conv.cc:7: no such type >&2; exit 1; }}',
      '/kernels.so failed: conv.cc:7: no such type (set',
    ),
    (
      f"{_BUT_VERSION} {{ printf '\\377' >&2; exit 1; }}",
      'failed: \ufffd (set',
    ),
    # Writes nothing, or something else than a library.
    ('exit 0', 'kernels.so: cannot open shared object file'),
    (f'{_OUTPUT}; {_BUT_VERSION} echo > "$last"', 'kernels.so: file too short'),
  ],
)
def test_a_compiler_that_fails_says_why(
  fresh, monkeypatch, tmp_path, body, why
):
  monkeypatch.setenv('CXX', _compiler(tmp_path / 'cxx', body))
  assert kernels.choose() == 'xla'
  assert why in kernels.why_not() and kernels.why_not().endswith(_DO_WITHOUT)
  # Nothing is kept that the next process would trip over.
  assert not list(fresh.glob('nasjax/*'))


def test_a_compiler_that_is_not_there(fresh, monkeypatch, tmp_path):
  monkeypatch.setenv('CXX', f"'{tmp_path / 'no such'}' -m64")
  assert kernels.choose() == 'xla'
  assert kernels.why_not() == (
    f"'{tmp_path / 'no such'}' -m64 --version failed: No such file or "
    f'directory {_DO_WITHOUT}'
  )
  building._made.cache_clear()
  monkeypatch.setenv('CXX', "g++ '-m64")
  assert kernels.choose() == 'xla'
  assert kernels.why_not() == (
    """CXX="g++ '-m64" is no command: No closing quotation"""
  )


def test_a_cache_that_cannot_be_written(fresh, monkeypatch, tmp_path):
  fresh.write_text('a file')
  monkeypatch.setenv('CXX', _compiler(tmp_path / 'cxx', 'echo 1'))
  assert kernels.choose() == 'xla'
  assert kernels.why_not() == (
    f'{fresh / "nasjax"} cannot be written: Not a directory (set '
    'XDG_CACHE_HOME to where kernels may be kept)'
  )


def test_a_home_that_cannot_be_found(fresh, monkeypatch, tmp_path):
  """As in a container whose user has no name."""

  def home():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setenv('CXX', _compiler(tmp_path / 'cxx', 'echo 1'))
  monkeypatch.setattr(pathlib.Path, 'home', home)
  # It is not needed where the environment names a cache.
  assert 'cannot open shared object' in kernels.why_not()
  building._made.cache_clear()
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert kernels.choose() == 'xla'
  assert 'no home directory (set XDG_CACHE_HOME' in kernels.why_not()


def test_an_installation_without_sources(fresh, monkeypatch, tmp_path):
  monkeypatch.setenv('CXX', _compiler(tmp_path / 'cxx', 'echo 1'))
  monkeypatch.setattr(building, '_HERE', tmp_path)
  assert kernels.choose() == 'xla'
  why = f'{tmp_path} has no sources (install nasjax again)'
  assert kernels.why_not() == why


def _place():
  return building._place(building._compiler())


def test_the_name_follows_compiler_and_processor(fresh, monkeypatch, tmp_path):
  names = set()
  for words in ('cxx', 'cxx -m64', 'other'):
    _compiler(tmp_path / words.split()[0], 'echo 1.0')
    monkeypatch.setenv('CXX', f'{tmp_path}/{words}')
    names.add(_place())
  _compiler(tmp_path / 'other', 'echo 1.1')
  names.add(_place())
  read_text = pathlib.Path.read_text
  for line in (
    'flags : fpu avx2',
    'flags : fpu avx512f',
    'model name : one',
    'Features : asimd sve',
    'CPU implementer : 0x41',
    'CPU part : 0xd40',
  ):

    def read(path, *options, line=line):
      if path == pathlib.Path('/proc/cpuinfo'):
        return f'processor : 0\n{line}\ncpu MHz : 1\n{line}\n'
      return read_text(path, *options)

    monkeypatch.setattr(pathlib.Path, 'read_text', read)
    assert building._processor() == line
    names.add(_place())
  assert len(names) == 4 + 6


@pytest.fixture
def copier(monkeypatch, tmp_path):
  """A compiler that takes its time, and copies what was compiled before."""
  with pytest.MonkeyPatch.context() as outside:
    for name in ('CXX', 'XDG_CACHE_HOME'):
      outside.delenv(name, raising=False)
    building._build()
    compiled = _place()
  log = tmp_path / 'log'
  path = _compiler(
    tmp_path / 'cxx',
    f"""[ "$1" = --version ] && exit
echo "$@" >> '{log}'
sleep 0.5
{_OUTPUT}
cp '{compiled}' "$last" """,
  )
  monkeypatch.setenv('CXX', path)
  return compiled, log


@native.needed
@pytest.mark.parametrize('content', [b'', b'\x7fELF', b'no library at all'])
def test_a_damaged_library_is_built_again(fresh, copier, content):
  compiled, log = copier
  place = _place()
  assert place.parent == fresh / 'nasjax' and not place.exists()
  place.parent.mkdir(parents=True)
  place.write_bytes(content)
  assert set(building._build()) == set(building._TARGETS)
  assert place.read_bytes() == compiled.read_bytes()
  building._build()
  assert len(log.read_text().splitlines()) == 1
  assert list(place.parent.iterdir()) == [place]


@native.needed
def test_a_library_that_lacks_a_kernel_is_not_kept(fresh, copier, monkeypatch):
  monkeypatch.setattr(building, '_TARGETS', (*building._TARGETS, 'nasjax_new'))
  assert kernels.choose() == 'xla'
  assert 'undefined symbol: nasjax_new' in kernels.why_not()
  assert not _place().exists()


_THREADS = """
import concurrent.futures
from nasjax import kernels
with concurrent.futures.ThreadPoolExecutor(4) as pool:
  print(*pool.map(lambda _: kernels.choose(), range(4)))
"""


@native.needed
def test_threads_that_ask_at_once_build_once(fresh, copier):
  """In a process where nothing is registered yet."""
  _, log = copier
  run = subprocess.run(
    [sys.executable, '-c', _THREADS],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert run.stdout == 'native native native native\n', run.stderr
  assert len(log.read_text().splitlines()) == 1


@native.needed
def test_two_processes_build_at_once(fresh, monkeypatch, tmp_path):
  """Each compiler waits for the other, so that both are at it."""
  with pytest.MonkeyPatch.context() as outside:
    outside.delenv('XDG_CACHE_HOME')
    building._build()
    library = _place()
  started = tmp_path / 'started'
  started.mkdir()
  compiler = _compiler(
    tmp_path / 'cxx',
    f"""[ "$1" = --version ] && exit
touch '{started}'/$$
for wait in $(seq 600); do
  [ $(ls '{started}' | wc -l) = 2 ] && break
  sleep 0.1
done
for last; do :; done
cp '{library}' "$last" """,
  )
  environment = {**os.environ, 'CXX': compiler}
  command = [
    sys.executable,
    '-c',
    'from nasjax import kernels as k\nprint(k.choose())',
  ]
  both = [
    subprocess.Popen(
      command, env=environment, stdout=subprocess.PIPE, text=True
    )
    for _ in range(2)
  ]
  assert [run.communicate(timeout=120)[0] for run in both] == ['native\n'] * 2
  assert len(list(started.iterdir())) == 2
  (built,) = pathlib.Path(fresh, 'nasjax').iterdir()
  assert built.read_bytes() == library.read_bytes()
  # Who comes later finds it.
  monkeypatch.setenv('CXX', compiler)
  building._build()
  assert _place() == built
  assert len(list(started.iterdir())) == 2
