"""The compiler for TPUs, asked once for all tests that look at its answers."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import once
import pytest

SUPPORT = pathlib.Path(__file__).parent
# Of the program whose traffic is counted: more than VMEM has room for.
SIZE = 4096
TURNS = 10
# The flags of the tests are for programs that run.
ENVIRONMENT = os.environ | {'XLA_FLAGS': ''}
tpu = pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'),
  reason='the compiler for TPUs is not installed: pip install libtpu',
)


@functools.cache
def answers():
  """Returns what `absent_chips.py` prints."""

  def ask():
    done = subprocess.run(
      [sys.executable, str(SUPPORT / 'absent_chips.py')],
      env=ENVIRONMENT,
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]

  return json.loads(once.text('absent_chips.json', ask))
