"""What parts of a study took, in a file: seconds of devices, and joules."""

import json
import time

from nasjax.programs import energy
from nasjax.storage import disk


class Meter:
  """Times the parts of a piece of work, such as the epochs of a training.

  Killed and started again, a part that was over keeps its time, one that was
  not is timed anew: what was computed twice counts once.

  Args:
    path: of the file.
    devices: that work at a time.
  """

  def __init__(self, path, devices=1):
    self._path, self._devices = path, devices
    self._parts = {}
    if path.exists():
      try:
        self._parts = dict(json.loads(path.read_text()))
      except (ValueError, TypeError) as e:
        raise ValueError(
          f'{path} is damaged ({e}); remove it: times of what is over are lost '
          'then, and nothing else'
        ) from None
    self.begin()

  def begin(self):
    """Begins a part; what has passed since the last one counts for none."""
    self._started, self._joules = time.perf_counter(), energy.joules()

  def lap(self, part):
    """Ends a part; the next one begins."""
    seconds = time.perf_counter() - self._started
    joules, before = energy.joules(), self._joules
    spent = None if None in (joules, before) else joules - before
    self._parts[part] = [seconds * self._devices, spent]
    disk.publish(self._path, json.dumps(self._parts, indent=1).encode())
    self.begin()

  def of(self, part):
    """Returns the joules of a part; None where it did not tell."""
    return self._parts.get(part, [None, None])[1]

  @property
  def seconds(self):
    """Device-seconds of all parts; None where there is none."""
    return sum(s for s, _ in self._parts.values()) if self._parts else None

  @property
  def joules(self):
    """Of all parts; None where one did not tell, or there is none."""
    spent = [j for _, j in self._parts.values()]
    return None if None in spent or not spent else sum(spent)
