"""Training recipes: every number of a training run that is not the network."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Hyper-parameters of training.

  The learning rate of epoch e = 1, 2, ... is lr * decay ** max(0, e - start),
  constant within an epoch.

  Attributes:
    name: what tables and queries call it.
    epochs: counted epochs.
    lr, decay, start: of the schedule.
    dropout: rate in the cells' operations and at the LSTM's input.
    conv_dropout: whether the cells' convolutions drop, too, as in both released
      codes; the paper speaks of linear operations only.
    l2: weight of the sum of squares of all convolution kernels.
    clip: largest global norm of the gradient (of loss and L2 together).
    adam_epsilon: Keras's default, 1e-7, as the reference.
    batch: utterances a batch below `long_frames`.
    batch_long: utterances a batch from there on.
    long_frames: 300 (3 s) in the released code, 200 in the paper.
    buckets: lengths are cut into this many groups of equal padding.
    curriculum: passes before the first epoch, each over the utterances shorter
      than so many samples (at 16 kHz).
    loss_norm: 'frames_plus_one' divides an utterance's loss by its output
      frames + 1 (released TensorFlow code), 'labels' by its labels (the usual
      CTC mean), 'none' by nothing.
    decoder: 'beam' or 'greedy'.
    beam_width: of the prefix beam search.
    precision: 'float32', or 'bfloat16' to round the factors of dense products;
      sums, weights and all else stay float32.
  """

  name: str
  epochs: int
  lr: float = 1e-4
  decay: float = 0.9
  start: int = 5
  dropout: float = 0.2
  conv_dropout: bool = True
  l2: float = 0.01
  clip: float = 5.0
  adam_epsilon: float = 1e-7
  batch: int = 64
  batch_long: int = 32
  long_frames: int = 200
  buckets: int = 4
  curriculum: tuple[int, ...] = (16000, 16000, 32000, 32000)
  loss_norm: str = 'frames_plus_one'
  decoder: str = 'beam'
  beam_width: int = 12
  precision: str = 'float32'

  def __post_init__(self):
    object.__setattr__(self, 'curriculum', tuple(self.curriculum))
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and (
        isinstance(value, bool) or not isinstance(value, int)
      ):
        raise ValueError(
          f'recipe {self.name}: {field.name}={value!r} is no whole number'
        )
    checks = {
      'epochs': self.epochs >= 1,
      'lr': 0 < self.lr < math.inf,
      'decay': 0 < self.decay <= 1,
      'start': self.start >= 0,
      'dropout': 0 <= self.dropout < 1,
      'l2': self.l2 >= 0,
      'clip': self.clip > 0,
      'adam_epsilon': self.adam_epsilon > 0,
      'long_frames': self.long_frames >= 1,
      'curriculum': all(limit > 0 for limit in self.curriculum),
      'batch': self.batch >= 1,
      'batch_long': self.batch_long >= 1,
      'buckets': self.buckets >= 1,
      'loss_norm': self.loss_norm in ('frames_plus_one', 'labels', 'none'),
      'decoder': self.decoder in ('beam', 'greedy'),
      'beam_width': self.beam_width >= 1,
      'precision': self.precision in ('float32', 'bfloat16'),
    }
    for field, good in checks.items():
      if not good:
        raise ValueError(
          f'recipe {self.name}: {field}={getattr(self, field)!r} is out of '
          'range'
        )

  def learning_rate(self, epoch):
    """Learning rate of a counted epoch (1-based); the curriculum uses lr."""
    return self.lr * self.decay ** max(0, epoch - self.start)


# The three settings of the paper (Mehrotra et al. 2021, section 3.2); both
# released codes train all budgets with the first one's (decay, start).
E40 = Recipe('e40', 40, decay=0.9, start=5)
E10 = Recipe('e10', 10, decay=0.631, start=2)
E5 = Recipe('e5', 5, decay=0.398, start=1)
# Batches as in the released TensorFlow code, which takes (decay, start) of e40
# for every budget.
E40_TF = Recipe('e40_tf', 40, batch_long=48, long_frames=300)
RECIPES = {r.name: r for r in (E40, E10, E5, E40_TF)}
