"""Workers on Ray: clusters that are joined and lost, workers that die."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import claiming_runs
import engines
import pytest
import tiny_run

LAUNCHER = tiny_run.ROOT / 'launch' / 'ray_cluster.py'
RUNS = int(os.environ.get('NASJAX_RELIABILITY_RUNS', '200'))


def test_a_missing_ray_is_one_line(tmp_path):
  (tmp_path / 'ray.py').write_text('raise ImportError("none")')
  status, output, errors = engines.finish(
    LAUNCHER, env=engines.environment(PYTHONPATH=str(tmp_path))
  )
  assert status == 1 and output == '' and errors.count('\n') == 1
  assert errors.startswith('ray_cluster.py: Ray is not installed; pip install ')


@pytest.mark.parametrize(
  'flags, told',
  [
    (['--claim'], '--claim does not go with an engine'),
    (['--workers=0'], "--workers: '0' is no positive number"),
    (['--resources=[1]'], "--resources: '[1]' is no JSON object such as"),
    (['--num_gpus=1.5'], "--num_gpus: '1.5' is neither a whole number nor"),
    (['--resources={"TPU": -1}'], "--resources: '-1' is neither a whole"),
    (['--num_cpus=0'], 'a worker takes nothing of a node; give --num_cpus'),
  ],
)
def test_flags_that_cannot_be(flags, told):
  status, output, errors = engines.finish(LAUNCHER, *flags)
  assert status == 1 and output == '' and errors.count('\n') == 1
  assert told in errors


@pytest.fixture
def launcher(tmp_path):
  engines.want_ray()
  return engines.copied(tmp_path / 'copy') / 'ray_cluster.py'


@contextlib.contextmanager
def _head(port, cpus=4):
  """A cluster of this machine; yields its processes, the head's first."""
  # Paths of sockets must be short.
  place = tempfile.mkdtemp(prefix='nasjax-ray-', dir='/tmp')
  ray = shutil.which('ray', path=os.path.dirname(sys.executable))
  process = subprocess.Popen(
    [
      *(ray, 'start', '--head', '--block', f'--port={port}'),
      *(f'--num-cpus={cpus}', '--include-dashboard=false'),
      *('--disable-usage-stats', f'--temp-dir={place}'),
    ],
    env=engines.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    deadline = time.monotonic() + 120
    while True:
      children = _children(process.pid)
      names = [engines.command(pid) for pid in children]
      if any('raylet' in name for name in names) and _answers(port):
        break
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.5)
    yield process
  finally:
    for pid in _children(process.pid):
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()
    shutil.rmtree(place, ignore_errors=True)


def _answers(port):
  with contextlib.suppress(OSError):
    socket.create_connection(('127.0.0.1', port), timeout=1).close()
    return True
  return False


def _children(pid):
  found = subprocess.run(
    ['ps', '--ppid', str(pid), '-o', 'pid='], capture_output=True, text=True
  )
  return [int(word) for word in found.stdout.split()]


def _port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.reliability
def test_workers_on_ray_that_are_killed_make_the_table(launcher, tmp_path):
  """The claiming process now, Ray's own that holds it then."""
  out = tmp_path / 'out'
  flags = ['--address=local', '--num_cpus=0.5', '--workers=4', '--no-figures']

  def whom(pid, n):
    return engines.parent(pid) if n % 2 else pid

  begun = time.monotonic()
  flags += [f'--out={out}', f'--runs={RUNS}']
  driver = engines.Launcher(launcher, *flags)
  killed = engines.kill_some(out, driver, 20, RUNS // 2, whom)
  status, output, errors = driver.end(900)
  print(killed, round(time.monotonic() - begun), 's')
  assert status == 0, errors[-3000:]
  assert killed == 20
  assert output.splitlines()[-1] == f'{RUNS // 2} shards are done in {out}'
  claiming_runs.assert_undisturbed(out, RUNS)


@pytest.mark.slow
@pytest.mark.reliability
def test_a_head_that_is_killed_and_started_again(launcher, tmp_path):
  out, port = tmp_path / 'out', _port()
  flags = [f'--address=127.0.0.1:{port}', '--workers=2', '--no-figures']
  flags += [f'--out={out}', '--runs=60']
  with _head(port) as head:
    driver = engines.Launcher(launcher, *flags)
    engines.wait_for(4, out, driver)
    workers = engines.holders(out)
    for pid in _children(head.pid):
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    status, _, errors = driver.end(120)
  assert status == 1, errors[-3000:]
  last = errors.splitlines()[-1]
  assert last.startswith('ray_cluster.py: the head of the cluster, ')
  assert last.endswith(
    f':{port}, answers no more; start it, and the same command goes on'
  )
  deadline = time.monotonic() + 60
  while any(engines.alive(pid) for pid in workers):
    assert time.monotonic() < deadline, 'workers outlive their cluster'
    time.sleep(0.5)
  before = engines.done(out)
  assert 4 <= before < 30
  with _head(port):
    status, output, errors = engines.finish(launcher, *flags)
  assert status == 0, errors[-3000:]
  claiming_runs.assert_undisturbed(out, 60)


@pytest.mark.slow
def test_no_node_that_a_worker_fits_is_one_line(launcher, tmp_path):
  status, _, errors = engines.finish(
    *(launcher, '--address=local', '--num_gpus=64', '--runs=4'),
    f'--out={tmp_path / "out"}',
  )
  assert status == 1
  last = errors.splitlines()[-1]
  assert last.startswith('ray_cluster.py: no node of the cluster has {')
  assert '"GPU": 64' in last


@pytest.mark.slow
def test_what_fails_is_told_at_the_end(launcher, tmp_path):
  """Errors of ours are not tried again by Ray."""
  (launcher.parents[1] / 'experiments' / 'benchmark.py').write_text(
    "import sys\nprint('1 shards in o/shards.json')\n"
    "if '--plan_only' not in sys.argv:\n"
    "  open('count', 'a').write('.')\n"
    "  sys.exit('benchmark.py: it is broken')\n"
  )
  status, _, errors = engines.finish(
    *(launcher, '--address=local', '--workers=1'), cwd=tmp_path
  )
  assert status == 1
  last = errors.splitlines()[-1]
  assert last.startswith('ray_cluster.py: 1 workers failed: worker 1: ')
  assert 'benchmark.py: it is broken' in last
  assert (tmp_path / 'count').read_text() == '.'
