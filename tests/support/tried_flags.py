"""Launchers' answers to many command lines, each by a fork of this process.

  python tests/support/tried_flags.py experiments MODULE ...

Reads lines of JSON, [launcher, flags, environment], and prints one of [status,
output, errors] for each as soon as it has ended. The first argument is where
launchers import from.
What takes time to import is imported once: the launcher itself and its
neighbours are read anew by every fork, as `python LAUNCHER FLAGS` reads them.
A fork has one thread, so MODULEs may be any that start none.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import threading
import traceback

# A fork that takes longer is ended.
SECONDS = 300


def _tried(path, flags, environment):
  with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
    child = os.fork()
    if not child:
      signal.alarm(SECONDS)
      os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
      os.dup2(output.fileno(), 1)
      os.dup2(errors.fileno(), 2)
      os.environ.update(environment)
      sys.argv = [path, *flags]
      os._exit(_status(path))
    _, status = os.waitpid(child, 0)
    said = []
    for file in (output, errors):
      file.seek(0)
      said.append(file.read().decode())
  return [os.waitstatus_to_exitcode(status), *said]


def _status(path):
  """Runs a launcher to its end, last words included; returns its status.

  As Python ends a process, but for taking apart what was imported, which takes
  longer than most answers.
  """
  try:
    runpy.run_path(path, run_name='__main__')
    code = 0
  except SystemExit as e:
    code = e.code
  except BaseException:
    traceback.print_exc()
    code = 1
  if code and not isinstance(code, int):
    print(code, file=sys.stderr)
    code = 1
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  return code or 0


def main():
  place, *modules = sys.argv[1:]
  sys.path[0] = place
  for module in modules:
    importlib.import_module(module)
  assert threading.active_count() == 1
  # A collection in a fork would have a copy made of all that it looks at.
  gc.freeze()
  for line in sys.stdin:
    print(json.dumps(_tried(*json.loads(line))), flush=True)


if __name__ == '__main__':
  main()
