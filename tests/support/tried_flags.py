"""A launcher's answers to many command lines, each by a fork of this process.

  python tests/support/tried_flags.py experiments/benchmark.py MODULE ...

Reads a JSON list of lists of flags and prints one of [status, output, errors].
What takes time to import is imported once: the launcher itself and its
neighbours are read anew by every fork, as `python LAUNCHER FLAGS` reads them.
A fork has one thread, so MODULEs may be any that start none.
"""

import importlib
import json
import os
import pathlib
import runpy
import sys
import tempfile
import threading


def _tried(path, flags):
  with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
    child = os.fork()
    if not child:
      os.dup2(output.fileno(), 1)
      os.dup2(errors.fileno(), 2)
      sys.argv = [path, *flags]
      # Python ends the fork as it would end a process: status, last words.
      runpy.run_path(path, run_name='__main__')
      sys.exit()
    _, status = os.waitpid(child, 0)
    said = []
    for file in (output, errors):
      file.seek(0)
      said.append(file.read().decode())
  return [os.waitstatus_to_exitcode(status), *said]


def main():
  path, *modules = sys.argv[1:]
  tries = json.load(sys.stdin)
  sys.path[0] = str(pathlib.Path(path).parent)
  for module in modules:
    importlib.import_module(module)
  assert threading.active_count() == 1
  return [_tried(path, flags) for flags in tries]


if __name__ == '__main__':
  # A fork leaves this line with its exit, and prints no answers.
  print(json.dumps(main()))
