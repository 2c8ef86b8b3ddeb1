"""The real launcher on a tiny corpus, run once for all who look at it."""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

# Compiling takes a test longer than running does.
UNOPTIMISED = '--xla_backend_optimization_level=0'
ROOT = pathlib.Path(__file__).parent.parent
# Four networks in two shards that share a program.
CELLS = """
[[0, 1], [2, 1, 1], [0, 1, 1, 1]] seeds=1,2  # all skips
[[0, 1], [4, 0, 1], [0, 0, 0, 1]]
0 0 1 0 0 0 0 0 0
"""
EPOCHS = 2
_PLACE = tempfile.TemporaryDirectory(prefix='nasjax-tiny-')


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


def start(*flags, launcher='benchmark'):
  """Starts a launcher as a process of its own, with pipes for its output."""
  environment = dict(os.environ, PYTHONUNBUFFERED='1')
  environment['XLA_FLAGS'] = UNOPTIMISED  # --cpu_devices says how many
  return subprocess.Popen(
    [sys.executable, f'experiments/{launcher}.py', *flags],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(*flags, launcher='benchmark'):
  """Runs a launcher to its end; returns status, stdout and stderr."""
  with start(*flags, launcher=launcher) as process:
    output, errors = process.communicate(timeout=300)
  return process.returncode, output, errors


@functools.cache
def finished():
  """Returns the `TinyRun` of this session; the first who asks waits for it."""
  place = pathlib.Path(_PLACE.name)
  (place / 'cells.txt').write_text(CELLS)
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
  status, output, errors = finish(f'--out={place / "out"}', *flags)
  assert status == 0, errors
  return TinyRun(place / 'out', place / 'data', flags, output)
