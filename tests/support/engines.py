"""Launchers of engines with workers that start quickly, and who disturbs them.

The launchers are copied, and `claiming_benchmark.py` stands where they look for
`benchmark.py`.
"""

import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tiny_run

from nasjax import table

_PROBE = """
import ray
ray.init(address='local', num_cpus=1, include_dashboard=False)
assert ray.get(ray.remote(lambda: 1).remote()) == 1
"""


@functools.cache
def want_ray():
  """Skips a test where Ray is not installed, or does not start by itself.

  It needs sockets and shared memory that not every sandbox grants.
  """
  import pytest  # which workers need not wait for

  pytest.importorskip('ray')
  for _ in range(3):  # Ray gives a node half a minute, however busy all is
    try:
      done = subprocess.run(
        [sys.executable, '-c', _PROBE],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
      )
    except subprocess.TimeoutExpired:
      pytest.skip('Ray itself does not start here within two minutes')
    if not done.returncode:
      return
    if 'timed out' not in done.stderr:
      break
  pytest.skip(f'Ray itself does not start here: {done.stderr[-500:]}')


def copied(place):
  """Returns the directory of the launchers' copies."""
  launch = place / 'launch'
  shutil.copytree(tiny_run.ROOT / 'launch', launch)
  (place / 'experiments').mkdir()
  shutil.copy(
    tiny_run.SUPPORT / 'claiming_benchmark.py',
    place / 'experiments' / 'benchmark.py',
  )
  return launch


def environment(**more):
  """That of the launchers; Ray's clusters ask for no token."""
  own = {'PYTHONPATH': tiny_run.PYTHONPATH, 'RAY_AUTH_MODE': 'disabled'}
  return os.environ | own | more


class Launcher(subprocess.Popen):
  """A launcher whose output nobody needs to read before its end."""

  def __init__(self, path, *flags, **options):
    self._said = [tempfile.TemporaryFile('w+') for _ in 'oe']  # noqa: SIM115
    super().__init__(
      [sys.executable, path, *flags],
      stdout=self._said[0],
      stderr=self._said[1],
      **{'env': environment()} | options,
    )

  def end(self, seconds=600):
    """Waits for its end; returns status, stdout and stderr."""
    try:
      self.wait(seconds)
    except subprocess.TimeoutExpired:
      self.kill()
      raise
    found = [self.returncode]
    for file in self._said:
      file.seek(0)
      found.append(file.read())
      file.close()
    return tuple(found)


def finish(path, *flags, seconds=600, **options):
  """Runs a launcher to its end; returns status, stdout and stderr."""
  return Launcher(path, *flags, **options).end(seconds)


def done(out):
  return len(table.committed(out / 'table'))


def wait_for(shards, out, process, seconds=300):
  """Waits until so many shards are done, while a process lives."""
  end = time.monotonic() + seconds
  while done(out) < shards and process.poll() is None:
    assert time.monotonic() < end, f'{done(out)} shards after {seconds} s'
    time.sleep(0.1)


def held(out):
  """Returns the shards that are held, by the processes that say so."""
  found = {}
  for path in (out / 'leases').glob('*.*'):
    try:
      state, _, text = path.read_bytes().partition(b'\n')
      if state.startswith(b'held'):
        found[json.loads(text)['pid']] = path.stem
    except (OSError, ValueError):
      pass  # it has gone, or is being made
  return found


def holders(out):
  """Returns the processes that hold leases, by what they say of themselves."""
  return sorted(held(out))


def parent(pid):
  """Returns the parent of a process."""
  text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  return int(text.rpartition(')')[2].split()[1])


def kill_some(out, process, kills, shards, whom=lambda pid, n: pid):
  """Kills workers while an engine's process lives.

  Args:
    out: directory of the run.
    process: of the engine.
    kills: how many, at random moments of the run.
    shards: of the run.
    whom: called with a worker's process and the number of the kill; returns
      which is killed.

  Returns:
    how many were.
  """
  rng = random.Random(7)
  moments = sorted(rng.randrange(int(0.9 * shards)) for _ in range(kills))
  killed = 0
  while moments and process.poll() is None:
    time.sleep(rng.uniform(0.05, 0.3))
    pids = holders(out)
    if done(out) < moments[0] or not pids:
      continue
    pid = rng.choice(pids)
    try:
      os.kill(whom(pid, killed), signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
      continue
    killed += 1
    moments.pop(0)
  return killed


def command(pid):
  """Returns the command line of a process; nothing where it has ended."""
  try:
    text = pathlib.Path(f'/proc/{pid}/cmdline').read_text()
  except OSError:
    return ''
  return text.replace('\0', ' ')


def alive(pid):
  return bool(command(pid))
