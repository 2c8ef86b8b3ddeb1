"""What engines start on a device: `benchmark.py --claim`, until all is done.

An engine hands out no shards. Its workers take them from the plan by leases in
the directory of the run (`--claim`), so that nothing is lost with an engine,
and runs that one began another ends.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

BENCHMARK = pathlib.Path(__file__).parents[1] / 'experiments' / 'benchmark.py'
# Of the environment here, what workers need elsewhere.
_HANDED_ON = (
  *('JAX_', 'XLA_', 'NASJAX_', 'LIBTPU_', 'NVIDIA_TF32_', 'PYTHONPATH'),
)
# Given by the engine, or for who has the directory alone.
_OURS = ('claim', 'shard', 'plan_only', 'plan_for', 'dry_run')
# Whoever starts a worker may be killed; the worker would go on, unseen, on a
# device that is given to another. 1 is PR_SET_PDEATHSIG, which exec keeps.
_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
parent, *command = sys.argv[1:]
if os.getppid() == int(parent):
  os.execv(command[0], command)
"""


class LostError(Exception):
  """A worker was killed; another may do its work."""


class Parser(argparse.ArgumentParser):
  """Of an engine's own flags; what is wrong with one is a line."""

  def __init__(self, name, about):
    super().__init__(
      name, description=about, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip

  def error(self, message):
    sys.exit(f'{self.prog}: {message.removeprefix("argument ")}')


def positive(text):
  """Returns a flag's number, 1, 2 and so on."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'{text!r} is no positive number')
  return int(text)


def check(name, flags):
  """Ends the program where flags are given that engines set themselves."""
  for flag in flags:
    word = flag.lstrip('-').partition('=')[0].removeprefix('no')
    if word in _OURS:
      sys.exit(f'{name}: {flag} does not go with an engine; leave it out')


def plan(name, flags):
  """Prepares the corpus and writes the plan, in a process.

  Args:
    name: of the launcher, for what it says.
    flags: of `benchmark.py`.

  Returns:
    the directory of the run, and how many shards there are.
  """
  own = ['--plan_only', '--claim']  # beside those who train there already
  command = [sys.executable, str(BENCHMARK), *flags, *own]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
  print(done.stdout, end='', flush=True)
  if done.returncode:
    sys.exit(f'{name}: there is no plan; nothing was started')
  found = re.search(r'^(\d+) shards in (.*)\.json$', done.stdout, re.MULTILINE)
  return pathlib.Path(found[2]).absolute().parent, int(found[1])


def figures(flags):
  """Draws the figures of a table that is done; returns the status."""
  return subprocess.run([sys.executable, str(BENCHMARK), *flags]).returncode


def environment():
  """Returns what workers need of the environment here."""
  return {k: v for k, v in os.environ.items() if k.startswith(_HANDED_ON)}


class Worker:
  """A claiming process: pickled here, called on a device, submitit's way."""

  def __init__(self, flags, cpus=None):
    """
    Args:
      flags: of `benchmark.py`.
      cpus: CPU devices where it finds no accelerator, unless a flag says.
    """
    devices = [] if cpus is None else [f'--cpu_devices={max(1, int(cpus))}']
    self._command = [str(BENCHMARK), *devices, *flags, '--claim']
    self._place, self._environment = os.getcwd(), environment()

  def run(self):
    """Claims shards until none is left.

    Raises:
      LostError: the process was killed.
      RuntimeError: it failed; its last words.
    """
    parent = [sys.executable, '-c', _WITH_PARENT, str(os.getpid())]
    process = subprocess.Popen(
      [*parent, sys.executable, *self._command],
      cwd=self._place,
      env=os.environ | self._environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    words = ''
    for line in process.stderr:
      print(line, end='', file=sys.stderr, flush=True)
      words = line.strip() or words
    status = process.wait()
    if status < 0:
      raise LostError(f'killed by {signal.Signals(-status).name}')
    if status:
      raise RuntimeError(words or f'ended with status {status}')

  def __call__(self, patience=60.0, most=100):
    """Runs, and again where the process was killed.

    Args:
      patience: seconds to wait after SIGTERM, which announces the end of all.
      most: times that it may be killed.
    """
    for _ in range(most):
      try:
        return self.run()
      except LostError as e:
        print(f'worker {e}; going on', file=sys.stderr, flush=True)
        if 'SIGTERM' in str(e):
          time.sleep(patience)
    raise RuntimeError(f'killed {most} times')

  def checkpoint(self):
    """Returns what Slurm shall run again; all that is done is on disk."""
    import submitit

    return submitit.helpers.DelayedSubmission(self)
