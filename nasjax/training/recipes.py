"""Training recipes: every number of a training run that is not the network."""

import dataclasses
import math

from nasjax.training import plateau as plateau_lib

# JSON knows no infinity.
NO_CLIP = 1e30
# Fields that came after the first tables, under the one that they belong to:
# while that has its default, they must have theirs.
_LATER = {
  'batch_frames': (),
  'loss': ('ctc_weight', 'lm_order'),
  'patience': ('minimum_epochs', 'delta', 'stop_lr', 'restart'),
  'optimiser': (),
  'frequency_masks': ('frequency_mask_bins',),
  'time_masks': ('time_mask_frames', 'time_mask_share'),
  'consistency': (),
}
_LATER_FIELDS = {
  name for owner, others in _LATER.items() for name in (owner, *others)
}


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Hyper-parameters of training.

  The learning rate of an epoch is that of `schedule`. With a `patience` it is
  lr at first, and falls by the factor decay where a network's own validation
  loss stands still, until the next fall would take it below `stop_lr`: there
  the training of that network ends (`plateau`).

  Attributes:
    name: what tables and queries call it.
    epochs: counted epochs; with a `patience` the most there may be.
    lr, decay, start: of the schedule; start is without effect where there is a
      `patience`.
    dropout: rate in the cells' operations and at the LSTM's input.
    conv_dropout: whether the cells' convolutions drop, too, as in both released
      codes; the paper speaks of linear operations only.
    l2: weight of the sum of squares of all convolution kernels.
    clip: largest global norm of the gradient (of loss and L2 together).
    adam_epsilon: Keras's default, 1e-7, as the reference.
    batch: utterances a batch below `long_frames`.
    batch_long: utterances a batch from there on.
    batch_frames: frames of a batch at most, padding included, of which an
      utterance that is longer makes one alone; `batch` and `batch_long` remain
      upper bounds. 0 for no such limit.
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
      sums, weights and all else stay float32. 'int8' rounds these factors as a
      file of eight bits has them (`layers.eight_bits`), and lets gradients
      through: quantisation-aware training.
    loss: a name of `losses.criterion.CRITERIA`: 'ctc', or 'ctc_crf', whose
      language model of labels is estimated from the transcripts of training.
      It leaves a constant out, so that values below 0 are no error
      (`losses.ctc_crf`).
    ctc_weight: weight of CTC beside the CRF (lambda; 0.01 for Wall Street
      Journal and 0.1 for Switchboard in the paper of ST-NAS).
    lm_order: of that language model; 2 and 3 are dense, 4 is pruned.
    patience: epochs without improvement until the learning rate falls; 0 for
      the schedule that goes by epochs alone.
    minimum_epochs: first epochs, that neither let the learning rate fall nor
      give the best weights; fewer than `epochs`.
    delta: by how much a loss must fall to be an improvement, in nats as
      `loss_norm` has them.
    stop_lr: the lowest learning rate.
    restart: whether `patience` counts anew from each fall on.
    optimiser: a name of `optimisers.OPTIMISERS`.
    frequency_masks: bands of filters that are hidden in each utterance of a
      training batch, as SpecAugment does (`augmentation`); 0 for none.
    frequency_mask_bins: the widest band.
    time_masks: stretches of frames that are hidden.
    time_mask_frames: the longest one, in frames of 10 ms.
    time_mask_share: the longest one, as a share of its utterance.
    consistency: weight of CR-CTC's regularisation (Yao et al. 2025, "CR-CTC:
      Consistency Regularization on CTC for Improved Speech Recognition",
      section 3; 0.2 there): every batch is seen twice, under masks and dropout
      of its own each time, and what is said of one view is held against what
      is said of the other. A step then costs two. 0 for one view.
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
  batch_frames: int = 0
  long_frames: int = 200
  buckets: int = 4
  curriculum: tuple[int, ...] = (16000, 16000, 32000, 32000)
  loss_norm: str = 'frames_plus_one'
  decoder: str = 'beam'
  beam_width: int = 12
  precision: str = 'float32'
  loss: str = 'ctc'
  ctc_weight: float = 0.01
  lm_order: int = 3
  patience: int = 0
  minimum_epochs: int = 0
  delta: float = 0.0
  stop_lr: float = 0.0
  optimiser: str = 'adam'
  frequency_masks: int = 0
  frequency_mask_bins: int = 27
  time_masks: int = 0
  time_mask_frames: int = 100
  time_mask_share: float = 1.0
  consistency: float = 0.0
  restart: bool = False

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
      'batch_frames': self.batch_frames >= 0,
      'buckets': self.buckets >= 1,
      'loss_norm': self.loss_norm in ('frames_plus_one', 'labels', 'none'),
      'decoder': self.decoder in ('beam', 'greedy'),
      'beam_width': self.beam_width >= 1,
      'precision': self.precision in ('float32', 'bfloat16', 'int8'),
      # Which there are is said where they are looked up.
      'loss': isinstance(self.loss, str) and self.loss != '',
      'optimiser': isinstance(self.optimiser, str) and self.optimiser != '',
      'ctc_weight': 0 <= self.ctc_weight < math.inf,
      'lm_order': self.lm_order in (2, 3, 4),
      'patience': self.patience >= 0,
      'minimum_epochs': self.minimum_epochs >= 0,
      'delta': 0 <= self.delta < math.inf,
      'stop_lr': 0 <= self.stop_lr <= self.lr,
      'frequency_masks': self.frequency_masks >= 0,
      'frequency_mask_bins': self.frequency_mask_bins >= 1,
      'time_masks': self.time_masks >= 0,
      'time_mask_frames': self.time_mask_frames >= 1,
      'time_mask_share': 0 < self.time_mask_share <= 1,
      'consistency': 0 <= self.consistency < math.inf,
    }
    for field, good in checks.items():
      if not good:
        raise ValueError(
          f'recipe {self.name}: {field}={getattr(self, field)!r} is out of '
          'range'
        )
    self._check_together()

  def _check_together(self):
    """Refuses values without effect, and a plateau without an end."""
    for owner, others in _LATER.items():
      if getattr(self, owner) != _DEFAULTS[owner]:
        continue
      for field in others:
        if getattr(self, field) != _DEFAULTS[field]:
          raise ValueError(
            f'recipe {self.name}: {field}={getattr(self, field)!r} is without '
            f'effect where {owner}={getattr(self, owner)!r}; change {owner}, '
            f'or leave {field} at {_DEFAULTS[field]!r}'
          )
    if self.minimum_epochs >= self.epochs:
      raise ValueError(
        f'recipe {self.name}: minimum_epochs={self.minimum_epochs} leaves none '
        f'of {self.epochs} epochs to give the best weights; give more epochs'
      )
    if self.patience and not (self.decay < 1 and self.stop_lr):
      raise ValueError(
        f'recipe {self.name}: patience={self.patience} with decay={self.decay} '
        f'and stop_lr={self.stop_lr} never ends; give a decay below 1 and a '
        'stop_lr above 0'
      )

  @property
  def plateau(self):
    """Its `plateau.Plateau`; None where rates go by epochs alone."""
    if not self.patience:
      return None
    return plateau_lib.Plateau(
      self.minimum_epochs, self.patience, self.delta, self.stop_lr, self.decay,
      self.restart,
    )  # fmt: skip

  def learning_rates(self, losses):
    """Learning rates of a network's epochs so far, and of the next one.

    Args:
      losses: its validation loss after each epoch so far; NaN for those
        without training, and from where it diverged.

    Returns:
      list of one rate more than there are losses. With a `plateau` it is 0
      from where the training has ended.
    """
    if not self.patience:
      return list(map(schedule(self), range(len(losses) + 1)))
    state, ended, rates = plateau_lib.State(self.lr), False, [self.lr]
    for epoch, loss in enumerate(losses, start=1):
      state = plateau_lib.step(self.plateau, state, epoch, loss)
      ended = ended or state.stopped or math.isnan(loss)
      rates.append(0.0 if ended else state.lr)
    return rates


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}


def schedule(recipe, steps=1):
  """Returns the learning rate as optax has it, a function of a count from 0.

  Mehrotra et al. 2021, section 3.2, constant within an epoch e = 1, 2, ...:

    lr * decay ** max(0, e - start)

  The curriculum before these epochs has the rate lr.

  Args:
    recipe: `Recipe`.
    steps: how many counts make an epoch: 1 to count epochs, the batches of an
      epoch to count updates. Counts are whole numbers, or traced.

  Raises:
    ValueError: its rates follow losses (`plateau`), not a count.
  """
  if recipe.patience:
    raise ValueError(
      f'recipe {recipe.name}: with patience={recipe.patience} rates follow the '
      'losses of a network; ask its learning_rates(losses)'
    )

  def rate(count):
    late = count // steps + 1 - recipe.start
    return recipe.lr * recipe.decay ** (late * (late > 0))

  return rate


def describe(recipe):
  """Returns a recipe as plain values for JSON: `Recipe(**values)` is equal.

  Fields that came after the first tables are there only where they are not at
  their defaults, so that older recipes are described as they always were.
  """
  return {
    name: value
    for name, value in dataclasses.asdict(recipe).items()
    if name not in _LATER_FIELDS or value != _DEFAULTS[name]
  }


def plain(recipe):
  """Returns a recipe with CTC for its loss and rates that go by epochs."""
  changed = {
    name: _DEFAULTS[name]
    for owner in ('loss', 'patience')
    for name in (owner, *_LATER[owner])
  }
  return dataclasses.replace(recipe, **changed)


# The three settings of the paper (Mehrotra et al. 2021, section 3.2); both
# released codes train all budgets with the first one's (decay, start).
E40 = Recipe('e40', 40, decay=0.9, start=5)
E10 = Recipe('e10', 10, decay=0.631, start=2)
E5 = Recipe('e5', 5, decay=0.398, start=1)
# Batches as in the released TensorFlow code, which takes (decay, start) of e40
# for every budget.
E40_TF = Recipe('e40_tf', 40, batch_long=48, long_frames=300)
# Networks found by ST-NAS, trained anew (Zheng, An and Ou 2021, section 4, with
# the numbers of its code): CTC-CRF; no gradient is clipped.
ST_NAS = Recipe(
  'st_nas',
  60,
  lr=1e-3,
  decay=0.1,
  dropout=0.5,
  l2=0.0,
  clip=NO_CLIP,
  adam_epsilon=1e-8,
  batch=128,
  batch_long=128,
  curriculum=(),
  loss_norm='none',
  loss='ctc_crf',
  ctc_weight=0.01,
  patience=1,
  minimum_epochs=10,
  delta=0.0,
  stop_lr=1e-5,
)
# DARTS-ASR (Chen et al. 2020, section 3), for networks by themselves. Batches,
# clip and what divides the loss are not told; nor is when it has converged,
# here where the rate would fall for the fourth time.
DARTS_ASR = Recipe(
  'darts_asr',
  60,
  lr=0.01,
  decay=0.2,
  dropout=0.0,
  l2=0.0,
  batch=16,
  batch_long=16,
  curriculum=(),
  loss_norm='none',
  decoder='greedy',
  patience=3,
  stop_lr=5e-5,
  optimiser='sgd',
  restart=True,
)
RECIPES = {r.name: r for r in (E40, E10, E5, E40_TF, ST_NAS, DARTS_ASR)}
