"""The one loop over epochs: of populations, and of one-shot searches.

Killed at any moment, what is trained goes on from its last epoch.
"""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, Protocol

from nasjax.storage import checkpoints

# What a killed process loses at most, where epochs are long.
MIDWAY_SECONDS = 600.0


class Trainable(Protocol):
  """What holds a state on the devices, and trains it an epoch at a time."""

  def target(self) -> Any:
    """Returns a state of what `host` returns, with arbitrary numbers."""

  def begin(self) -> None:
    """Makes the state before the first epoch."""

  def resume(self, host: Any) -> None:
    """Takes a state that `host` once gave."""

  def epoch(
    self,
    epoch: int,
    since: dict | None = None,
    pause: Callable[[dict], None] | None = None,
  ) -> None:
    """Trains an epoch, counted from 1.

    Args:
      epoch: its number.
      since: the point that the state is at, as `pause` was told it; None for
        the beginning.
      pause: may be called within the epoch with a point, plain values, from
        which what `host` returns then can go on. It saves that if it is time.
    """

  def host(self) -> Any:
    """Returns the state as a copy on the host, a pytree of NumPy arrays."""

  def over(self, host: Any, epoch: int) -> bool:
    """Tells whether training ended before an epoch, from the state before."""


def run(
  trainable, place, epochs, about, tell, say, guard=lambda: None, every=1
):
  """Trains, or what is left of it, with a checkpoint after an epoch.

  Within an epoch that takes longer than MIDWAY_SECONDS there are further ones,
  in `place`/midway, where `Trainable.epoch` pauses.

  Args:
    trainable: `Trainable`.
    place: directory of its checkpoints. Two are kept while it is trained, so
      that one can be damaged, and the last in the end.
    epochs: the most there can be.
    about: dict of plain values that a checkpoint says of itself.
    tell: called with an epoch, the state on the host, and whether the epoch was
      read from a checkpoint, after every epoch.
    say: called with a line of text for a checkpoint that cannot be restored.
    guard: called before a checkpoint is saved; raises where it must not be.
    every: epochs between two checkpoints; the last epoch has one anyway.

  Returns:
    the last state on the host.
  """
  with (
    checkpoints.manager(place, keep=2, say=say) as saved,
    _Midway(place, trainable, about, guard, say) as midway,
  ):
    saver = checkpoints.Saver(saved, place)
    done, host, _ = checkpoints.restore(saved, place, trainable.target(), say)
    within, since = midway.restore(done + 1)
    if since is not None:
      trainable.resume(within)
    elif done:
      trainable.resume(host)
    else:
      trainable.begin()
    for epoch in range(1, epochs + 1):
      if epoch > done:
        if epoch > 1 and trainable.over(host, epoch):
          break
        trainable.epoch(epoch, since, midway.pause(epoch))
        host, since = trainable.host(), None
        ends = epoch == epochs or trainable.over(host, epoch + 1)
        if ends or epoch % every == 0:
          guard()
          saver.save(epoch, host, about)
      tell(epoch, host, epoch <= done)
    guard()
    saver.finish()
  shutil.rmtree(midway.place, ignore_errors=True)
  return host


class _Midway:
  """Checkpoints within an epoch, each later than MIDWAY_SECONDS.

  Attributes:
    place: their directory, made when it is needed.
  """

  def __init__(self, place, trainable, about, guard, say):
    self.place = pathlib.Path(place) / 'midway'
    self._trainable, self._about = trainable, about
    self._guard, self._say = guard, say
    self._open, self._saved, self._last = contextlib.ExitStack(), None, 0.0

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return self._open.__exit__(*error)

  def _manager(self):
    if self._saved is None:
      self._saved = self._open.enter_context(
        checkpoints.manager(self.place, keep=2, say=self._say)
      )
      self._saver = checkpoints.Saver(self._saved, self.place)
      self._step = self._saved.latest_step() or 0
    return self._saved

  def restore(self, epoch):
    """Returns state and point of an epoch that was left; None and None."""
    if not self.place.is_dir():
      return None, None
    _, host, about = checkpoints.restore(
      self._manager(), self.place, self._trainable.target(), self._say
    )
    if about is None or about['epoch'] != epoch:
      return None, None
    return host, about['since']

  def pause(self, epoch):
    """Returns what an epoch calls where it may be left."""
    self._last = time.monotonic()

    def pause(point):
      if time.monotonic() - self._last < MIDWAY_SECONDS:
        return
      self._guard()
      self._manager()
      self._step += 1
      self._saver.save(
        self._step,
        self._trainable.host(),
        self._about | {'epoch': epoch, 'since': point},
      )
      self._last = time.monotonic()

    return pause
