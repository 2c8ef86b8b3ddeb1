"""Seconds and memory of an exported network, in a process of its own.

  python -m nasjax.export.timing MODEL FRAMES THREADS RUNS CLOCK

prints a JSON object. The process has nothing but Python, NumPy and ONNX Runtime
in it: its memory is what a device of this kind would need.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time

WARM_UP = 3
# What tells the time: 'wall', or of 'cpu' what the thread has had of one, for
# passes of one thread on a machine that does other work beside.
CLOCKS = {'wall': time.perf_counter, 'cpu': time.thread_time}


def measured(path, frames, threads, runs=20, clock='wall'):
  """Returns what one utterance takes, a dict of plain values.

  Args:
    path: of an ONNX file that `export.onnx` wrote.
    frames: of the utterance, 10 ms each.
    threads: that an operator may use.
    runs: timed passes, after some that are not.
    clock: of `CLOCKS`; 'cpu' for one thread alone.

  Returns:
    `seconds`, the median of a pass; `seconds_quartiles`; `real_time_factor`,
    seconds for each second of speech; `peak_bytes` of the process, and
    `bytes_before`, of these before it had the network.

  Raises:
    ValueError: the process failed; its last line.
  """
  words = [str(path), str(frames), str(threads), str(runs), clock]
  done = subprocess.run(
    [sys.executable, '-m', __name__, *words],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
  )
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ['it told nothing']
    raise ValueError(f'{path} could not be timed: {lines[-1]}')
  return json.loads(done.stdout)


def passes(session, frames, width, runs, warm_up, clock='wall'):
  """Returns the seconds of each pass of one utterance, a list.

  Args:
    session: `onnxruntime.InferenceSession`.
    frames, width: of the utterance.
    runs: passes that are timed.
    warm_up: passes before them, which are not.
    clock: of `CLOCKS`.
  """
  import numpy as np

  rng = np.random.default_rng(0)
  x_btf = rng.standard_normal((1, frames, width), np.float32)
  inputs = {'features': x_btf, 'lengths': np.array([frames], np.int64)}
  now, seconds = CLOCKS[clock], []
  for _ in range(warm_up + runs):
    started = now()
    session.run(None, inputs)
    seconds.append(now() - started)
  return seconds[warm_up:]


def _peak():
  """Returns the most bytes of memory that this process has had."""
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    # getrusage also counts what a parent had when it started this process.
    lines = status.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith('VmHWM:'))
    return 1024 * int(line.split()[1])
  # KiB, but for bytes on macOS.
  unit = 1 if sys.platform == 'darwin' else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _main(path, frames, threads, runs, clock):
  import numpy as np
  import onnxruntime

  before = _peak()
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.log_severity_level = 3
  session = onnxruntime.InferenceSession(
    path, options, providers=['CPUExecutionProvider']
  )
  width = session.get_inputs()[0].shape[-1]
  seconds = passes(session, frames, width, runs, WARM_UP, clock)
  low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
  found = {
    'frames': frames,
    'threads': threads,
    'runs': runs,
    'clock': clock,
    'seconds': median,
    'seconds_quartiles': [low, high],
    'real_time_factor': median / (frames / 100),
    'peak_bytes': _peak(),
    'bytes_before': before,
  }
  print(json.dumps(found))


if __name__ == '__main__':
  _main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
