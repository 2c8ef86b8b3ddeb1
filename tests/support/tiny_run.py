"""The real launcher on a tiny corpus, run once for all who look at it."""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
from importlib import metadata
from typing import NamedTuple

import once

# XLA ends a process that names a flag which it does not know.
_EMITTERS = tuple(map(int, metadata.version('jaxlib').split('.')[:2])) < (0, 11)
# Compiling takes a test longer than running does: LLVM shall not optimise, and
# XLA shall take its older emitters of loops, which need half the time, while it
# has them.
UNOPTIMISED = '--xla_backend_optimization_level=0' + (
  ' --xla_cpu_use_fusion_emitters=false' if _EMITTERS else ''
)
# Options of `jax.jit` where bounds on rounding are those of sums as users have
# them.
OF_USERS = {'xla_cpu_use_fusion_emitters': True} if _EMITTERS else {}
ROOT = pathlib.Path(__file__).parents[2]
# Of processes that start from what stands in this folder.
PYTHONPATH = f'{ROOT}/tests/support:{ROOT}/tests:{ROOT}'
SUPPORT = ROOT / 'tests' / 'support'
# Four networks in two shards that share a program.
CELLS = """
[[0, 1], [2, 1, 1], [0, 1, 1, 1]] seeds=1,2  # all skips
[[0, 1], [4, 0, 1], [0, 0, 0, 1]]
0 0 1 0 0 0 0 0 0
"""
EPOCHS = 2
_FORKS = (
  sys.executable,
  SUPPORT / 'tried_flags.py',
  'experiments',
)


class TinyRun(NamedTuple):
  """A finished run.

  Attributes:
    out: its directory.
    data_dir: where its corpus lies.
    flags: of its command, but for --out.
    output: what it printed.
  """

  out: pathlib.Path
  data_dir: pathlib.Path
  flags: tuple[str, ...]
  output: str


def _environment():
  """That of launchers; --cpu_devices says how many devices there are."""
  return os.environ | {'PYTHONUNBUFFERED': '1', 'XLA_FLAGS': UNOPTIMISED}


def start(*flags, launcher='benchmark'):
  """Starts a launcher as a process of its own, with pipes for its output."""
  return subprocess.Popen(
    [sys.executable, f'experiments/{launcher}.py', *flags],
    cwd=ROOT,
    env=_environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(*flags, launcher='benchmark'):
  """Runs a launcher to its end; returns status, stdout and stderr."""
  with start(*flags, launcher=launcher) as process:
    output, errors = process.communicate(timeout=300)
  return process.returncode, output, errors


def tried(tries, launcher='benchmark', modules=(), environment=None):
  """Runs a launcher with every list of flags, in forks of one process.

  Args:
    tries: lists of flags.
    launcher: its name.
    modules: names of what is imported once for all, where the process is one of
      its own.
    environment: if not that of `finish`: of a process of its own, which may be
      read before JAX is imported.

  Returns:
    what `finish` returns, for each.
  """
  if environment is None:
    return [forked(*flags, launcher=launcher) for flags in tries]
  lines = (_line(launcher, flags) for flags in tries)
  done = subprocess.run(
    [*_FORKS, *modules],
    input='\n'.join(lines),
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@functools.cache
def _server():
  """A process that has imported what launchers need, and forks."""
  process = subprocess.Popen(
    [
      *_FORKS,
      'nasjax.benchmark.running',
      'nasjax.oneshot',
      'nasjax.plots',
      'nasjax.predictors.gcn',
      'nasjax.search.landscape',
      'nasjax.data.synthetic_timit',
    ],
    cwd=ROOT,
    env=_environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(process.communicate)
  return process


def _line(launcher, flags, environment=None):
  path = pathlib.Path('experiments', f'{launcher}.py')
  return json.dumps([str(path), list(flags), environment or {}])


def forked(*flags, launcher='benchmark', environment=None):
  """Does what `finish` does, without the seconds that imports take.

  Args:
    *flags: of the command line.
    launcher: its name, or its path without the suffix.
    environment: what is put into that of the process; Python and JAX have been
      started without.
  """
  server = _server()
  print(_line(launcher, flags, environment), file=server.stdin, flush=True)
  return tuple(json.loads(server.stdout.readline()))


@functools.cache
def finished():
  """Returns the `TinyRun` of all tests; who asks first waits for it."""
  place = pathlib.Path(os.environ['NASJAX_TEST_PLACE'], 'tiny')
  flags = (
    f'--data_dir={place / "data"}',
    f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}',
    f'--cells={place / "cells.txt"}',
    '--seeds=1',
    '--cpu_devices=2',
    '--members_per_shard=2',
    '--synth_utterances=100',
    '--synth_grammar=digits',
    '--synth_words=2,4',
    '--synth_snr_db=20,30',
    '--synth_rt60=',
    '--macro=tiny',
    '--recipe_name=tiny',
    f'--epochs={EPOCHS}',
    '--lr=0.01',
    '--batch=8',
    '--batch_long=8',
    '--buckets=1',
    '--curriculum=',
  )

  def run():
    place.mkdir(exist_ok=True)
    (place / 'cells.txt').write_text(CELLS)
    status, output, errors = forked(f'--out={place / "out"}', *flags)
    assert status == 0, errors
    return output

  output = once.text('tiny.txt', run)
  return TinyRun(place / 'out', place / 'data', flags, output)
