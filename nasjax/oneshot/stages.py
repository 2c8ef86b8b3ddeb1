"""The stages of a one-shot search: warm-up, then search."""

import dataclasses

from nasjax.training import plateau as plateau_lib


@dataclasses.dataclass(frozen=True)
class Stage:
  """A part of a search.

  Attributes:
    name: 'warm-up' (weights alone) or 'search'.
    epochs: how many; the most there may be with a `plateau`.
    lr: learning rate of the weights at its start.
    plateau: when the rate falls and the stage ends; None to keep `lr` and run
      all epochs.
  """

  name: str
  epochs: int
  lr: float
  plateau: plateau_lib.Plateau | None = None

  def __post_init__(self):
    if self.name not in ('warm-up', 'search'):
      raise ValueError(f"stage {self.name!r}; want 'warm-up' or 'search'")
    if self.epochs < 1 or not self.lr > 0:
      raise ValueError(
        f'{self}: a value is out of range; leave out a stage without epochs'
      )

  @property
  def searches(self):
    return self.name == 'search'

  def describe(self):
    """Returns it as plain values, for JSON."""
    found = dataclasses.asdict(self)
    # Came later: searches that do without are called what they always were.
    if self.plateau is not None and not self.plateau.restart:
      del found['plateau']['restart']
    return found


def fixed(warm_up, search, lr):
  """Stages of so many epochs at one rate, for comparisons at equal cost."""
  return tuple(
    Stage(name, epochs, lr)
    for name, epochs in (('warm-up', warm_up), ('search', search))
    if epochs
  )


def st_nas(warm_up=200, search=200, lr=1e-3):
  """The first two stages of ST-NAS, of at most so many epochs."""
  judges = {'warm-up': plateau_lib.WARM_UP, 'search': plateau_lib.SEARCH}
  return tuple(
    dataclasses.replace(stage, plateau=judges[stage.name])
    for stage in fixed(warm_up, search, lr)
  )


def darts_asr(warm_up, search, lr=0.01):
  """Stages of DARTS-ASR, of at most so many epochs each.

  The rate falls to a fifth after three epochs without improvement. The paper
  trains until the loss converges; read here as: until the rate would fall for
  the fourth time.
  """
  judge = plateau_lib.Plateau(0, 3, 0.0, lr / 200, 0.2, restart=True)
  return tuple(
    dataclasses.replace(stage, plateau=judge)
    for stage in fixed(warm_up, search, lr)
  )
