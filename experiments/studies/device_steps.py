"""The steps of device.py: what each said, and what it took."""

import json
import os
import threading
import time

from nasjax.programs import energy
from nasjax.storage import disk

# What they are, by their numbers in the engineers' guide.
STEPS = {
  'metrics': ('1', 'what is measured'),
  'space': ('2', 'the space'),
  'profile': ('3', 'latency profile, predictor, limit'),
  'supernet': ('4, 5', 'an elastic network, by the sandwich rule'),
  'evolution': ('6', 'evolution under the limit'),
  'isomorphs': ('7', 'redundant architectures'),
  'training': ('8', 'training from scratch'),
  'export': ('9', 'eight bits and export'),
  'drift': ('10', 'drift of latency'),
}

# Between two times that what a step took is kept.
_SECONDS = 5.0


class Steps:
  """Prints what steps say; keeps it, their seconds and joules in a file.

  A step that was killed has what it had taken some seconds before.

  Args:
    path: of the file.
  """

  def __init__(self, path):
    self._path, self._name, self._since = path, None, None
    self._lock = threading.Lock()
    self._said = {name: [] for name in STEPS}
    disk.make_directory(path.parent)
    try:
      self._took = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as e:
      raise ValueError(
        f'{path} is damaged ({e}); remove it: what steps took is lost then, '
        'and nothing else'
      ) from None
    threading.Thread(target=self._watch, daemon=True).start()

  def _watch(self):
    while True:
      time.sleep(_SECONDS)
      self._keep()

  def begin(self, name):
    """Ends a step; the next one begins."""
    from common import console

    self._keep()
    with self._lock:
      self._name, self._since = name, _now()
    console.print_line(': '.join(STEPS[name]))

  def _keep(self):
    """Keeps what the step has taken until now."""
    with self._lock:
      if self._name is None:
        return
      now = _now()
      self._took[self._name] = [
        old + new - since
        for old, new, since in zip(self._of(self._name), now, self._since)
      ]
      self._since = now
      disk.publish(self._path, json.dumps(self._took, indent=1).encode())

  def _of(self, name):
    # Files of older versions tell no joules.
    return (*self._took.get(name, (0.0, 0.0)), 0.0)[:3]

  def say(self, line):
    """Prints a line, and keeps it."""
    from common import console

    self._said[self._name].append(line)
    console.print_line(f'  {line}')

  def told(self):
    """Returns a dict for each step, for JSON."""
    self._keep()
    found, known = [], energy.joules() is not None
    for name, (number, title) in STEPS.items():
      seconds, cpu_seconds, joules = self._of(name)
      found.append({
        'step': number, 'name': name, 'title': title, 'seconds': seconds,
        'cpu_seconds': cpu_seconds, 'joules': joules if known else None,
        'said': self._said[name],
      })  # fmt: skip
    return found


def _now():
  """Seconds of the wall, and of CPUs in this process and those it began; and
  joules of all devices, 0 where they do not tell.
  """
  return time.perf_counter(), sum(os.times()[:4]), energy.joules() or 0.0
