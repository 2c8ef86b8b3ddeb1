"""The stages of gpu.py: their time, their processes, the merged result."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

_STAGES = pathlib.Path(__file__).with_name('gpu_stages.py')
# In this order. Shares of the time: of what is left a stage gets its share
# among those to come, so that what one does not need is for all after it.
SHARES = {
  'correct': 90,
  'resume': 35,
  'repeat': 55,
  'race': 75,
  'speed': 115,
  'torch': 30,
  'torch_compiled': 30,
  'members': 40,
  'table': 40,
}
# JAX takes most of a card's memory when it starts. Stages of several processes
# must leave room, the others may have more of it.
_SHARED = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
_ALONE = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.92'}
_ENVIRONMENT = {
  'resume': _SHARED,
  'repeat': _SHARED,
  'speed': _ALONE,
  'members': _ALONE,
}
# Others measure how long programs compile, or want them compiled anew.
_CACHED = ('correct', 'resume')
# Every stage as on a GPU, on CPUs, where programs are compiled and run once.
_REHEARSAL = {
  'JAX_PLATFORMS': 'cpu',
  'NASJAX_KERNELS': 'gpu',
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
}
_SAID = 3000  # characters of stderr that are kept


def share(name, names, left):
  """Returns the seconds that a stage may take.

  Args:
    name: of the stage.
    names: of all stages of the run, in order.
    left: seconds for it and for those after it.
  """
  later = names[names.index(name) :]
  return left * SHARES[name] / sum(SHARES[n] for n in later)


def command(name, out, seconds, rehearse, **options):
  """Returns the command of a stage's process."""
  told = {'out': str(out), 'seconds': seconds, 'rehearse': rehearse} | options
  return [sys.executable, str(_STAGES), name, json.dumps(told)]


def environment(name, out, rehearse):
  """Returns the environment of a stage's process."""
  special = _REHEARSAL if rehearse else _ENVIRONMENT.get(name, {})
  if rehearse or name in _CACHED:
    special = special | {
      'JAX_COMPILATION_CACHE_DIR': os.environ.get(
        'JAX_COMPILATION_CACHE_DIR', str(out / 'cache')
      ),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.3',
    }
  return os.environ | {'PYTHONUNBUFFERED': '1'} | special


def run_process(words, seconds, environment):
  """Runs a process; kills it, and all that it started, when time is up.

  Args:
    words: the command.
    seconds: that it may take.
    environment: of the process.

  Returns:
    its status (None if it was killed), and the end of what it said on stderr.
  """
  # A session of its own, so that its children can be found.
  with subprocess.Popen(
    words,
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    errors='replace',
    start_new_session=True,
  ) as process:
    try:
      _, said = process.communicate(timeout=seconds)
      status = process.returncode
    except subprocess.TimeoutExpired:
      _kill(process)
      _, said = process.communicate()
      status = None
    except BaseException:
      _kill(process)
      raise
  return status, said.strip()[-_SAID:]


def _kill(process):
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    process.kill()


def run_stage(name, out, seconds, rehearse):
  """Runs a stage.

  Returns:
    dict of status ('done', 'failed', 'out of time'), seconds, allowed
    (seconds), found (what it kept, None if nothing), and said, the end of
    stderr where the stage did not end well.
  """
  path = out / f'{name}.json'
  path.unlink(missing_ok=True)
  started = time.monotonic()
  status, said = run_process(
    command(name, out, seconds, rehearse),
    seconds,
    environment(name, out, rehearse),
  )
  words = {0: 'done', None: 'out of time'}
  result = {
    'status': words.get(status, 'failed'),
    'seconds': round(time.monotonic() - started, 1),
    'allowed': round(seconds, 1),
    'found': json.loads(path.read_text()) if path.exists() else None,
  }
  return result if status == 0 else result | {'said': said}


def run(names, out, seconds, rehearse, say):
  """Runs stages one after the other; no one takes the others down.

  OUT/gpu.json has, after every stage, the results of `run_stage` by name.

  Args:
    names: of `SHARES`, in that order.
    out: directory of the result.
    seconds: for all.
    rehearse: whether shapes are tiny and the device is a CPU.
    say: called with a line of text before and after every stage.

  Returns:
    dict, as gpu.json has it.
  """
  ends, results = time.monotonic() + seconds, {}
  for name in names:
    left = ends - time.monotonic()
    allowed = share(name, names, left)
    if allowed < 1:
      results[name] = {'status': 'no time', 'seconds': 0.0, 'found': None}
      say(f'{name}: no time left')
    else:
      say(f'{name}: up to {allowed:.0f} s')
      results[name] = run_stage(name, out, allowed, rehearse)
      said = results[name].get('said', '').splitlines()
      line = f': {said[-1]}' if said else ''
      say(f'{name}: {results[name]["status"]}{line}')
    (out / 'gpu.json').write_text(json.dumps(results, indent=1) + '\n')
  return results
