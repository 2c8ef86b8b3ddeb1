"""The one loop over epochs: of populations, and of one-shot searches.

Killed at any moment, what is trained goes on from its last epoch.
"""

from typing import Any, Protocol

from nasjax.storage import checkpoints


class Trainable(Protocol):
  """What holds a state on the devices, and trains it an epoch at a time."""

  def target(self) -> Any:
    """Returns a state of what `host` returns, with arbitrary numbers."""

  def begin(self) -> None:
    """Makes the state before the first epoch."""

  def resume(self, host: Any) -> None:
    """Takes a state that `host` once gave."""

  def epoch(self, epoch: int) -> None:
    """Trains an epoch, counted from 1."""

  def host(self) -> Any:
    """Returns the state as a copy on the host, a pytree of NumPy arrays."""

  def over(self, host: Any, epoch: int) -> bool:
    """Tells whether training ended before an epoch, from the state before."""


def run(trainable, place, epochs, about, tell, say, every=1):
  """Trains, or what is left of it, with a checkpoint after an epoch.

  Args:
    trainable: `Trainable`.
    place: directory of its checkpoints. Two are kept while it is trained, so
      that one can be damaged, and the last in the end.
    epochs: the most there can be.
    about: dict of plain values that a checkpoint says of itself.
    tell: called with an epoch, the state on the host, and whether the epoch was
      read from a checkpoint, after every epoch.
    say: called with a line of text for a checkpoint that cannot be restored.
    every: epochs between two checkpoints; the last epoch has one anyway.

  Returns:
    the last state on the host.
  """
  with checkpoints.manager(place, keep=2, say=say) as saved:
    saver = checkpoints.Saver(saved, place)
    done, host, _ = checkpoints.restore(saved, place, trainable.target(), say)
    if done:
      trainable.resume(host)
    else:
      trainable.begin()
    for epoch in range(1, epochs + 1):
      if epoch > done:
        if epoch > 1 and trainable.over(host, epoch):
          break
        trainable.epoch(epoch)
        host = trainable.host()
        ends = epoch == epochs or trainable.over(host, epoch + 1)
        if ends or epoch % every == 0:
          saver.save(epoch, host, about)
      tell(epoch, host, epoch <= done)
    saver.finish()
  return host
