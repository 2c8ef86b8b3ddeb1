"""The scheduler of ST-NAS: where losses stand still, rates fall or stages end.

Zheng, An and Ou 2021, "Efficient Neural Architecture Search for End-to-end
Speech Recognition via Straight-Through Gradients", section 4, and its code. Of
the loss of epoch e:

  e <= minimum       the best loss is kept in mind, nothing else happens
  below best - delta it is the new best, and the epoch an improvement
  else               the epoch is bad; from the `patience`-th bad one on, each
                     multiplies the rate by `factor`; below `stop_lr` it stops

The count of bad epochs begins anew only with an improvement, so after the first
decay each further bad epoch decays again. Rates are products, and compared as
such: 1e-3 * 0.1 is not below 1e-4, and 1e-3 * 0.1 * 0.1 not below 1e-5.
"""

import dataclasses
import math
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Plateau:
  """Numbers of one stage.

  Attributes:
    minimum: epochs that never count.
    patience: bad epochs until the first decay.
    delta: by how much a loss must be below the best one.
    stop_lr: the stage ends where the rate would fall below it.
    factor: of a decay.
    restart: whether bad epochs are counted anew from each decay on, as most
      schedulers do.
  """

  minimum: int
  patience: int
  delta: float
  stop_lr: float
  factor: float = 0.1
  restart: bool = False

  def __post_init__(self):
    good = (
      self.minimum >= 0
      and self.patience >= 1
      and self.delta >= 0
      and self.stop_lr > 0
      and 0 < self.factor < 1
    )
    if not good:
      raise ValueError(f'{self}: a value is out of range')


class State(NamedTuple):
  """What a stage has seen.

  Attributes:
    lr: rate of the next epoch.
    best: lowest loss so far.
    bad: epochs without an improvement since the last one.
    improved: whether the last epoch was an improvement.
    stopped: whether the stage is over.
  """

  lr: float
  best: float = math.inf
  bad: int = 0
  improved: bool = False
  stopped: bool = False


def step(plateau, state, epoch, loss):
  """Returns the state after an epoch (1-based) of this loss."""
  if epoch <= plateau.minimum:
    best = min(state.best, loss)
    return state._replace(best=best, improved=False)
  if loss < state.best - plateau.delta:
    return state._replace(best=loss, bad=0, improved=True)
  state = state._replace(bad=state.bad + 1, improved=False)
  if state.bad < plateau.patience:
    return state
  lr = state.lr * plateau.factor
  if lr < plateau.stop_lr:
    return state._replace(stopped=True)
  return state._replace(lr=lr, bad=0 if plateau.restart else state.bad)


# The three stages of ST-NAS, from a rate of 1e-3; losses in nats an utterance.
WARM_UP = Plateau(minimum=10, patience=3, delta=0.5, stop_lr=1e-3)
SEARCH = Plateau(minimum=0, patience=3, delta=0.5, stop_lr=1e-4)
RETRAIN = Plateau(minimum=10, patience=1, delta=0.0, stop_lr=1e-5)
