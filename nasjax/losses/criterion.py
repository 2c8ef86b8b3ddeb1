"""Criteria: what the outputs of a network are held against.

Training, evaluation and searches call these functions and know none of the
losses: who adds one writes a `Criterion` and a line in `CRITERIA`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax import decoding
from nasjax.decoding import error_rates, transcripts
from nasjax.decoding import transducer as transducer_decoding
from nasjax.losses import ctc, ctc_crf, distillation, ngram, transducer


class Criterion(NamedTuple):
  """A loss, and how the outputs that it trains become transcripts.

  `outputs` are what a network returned for a `batches.Batch`: logits_btv and
  their lengths; of a transducer a record with enc_btd, len_b, pred_bud, joiner,
  join and decoding() (`models.todm.family.Outputs`). Nobody but these functions
  looks into them.

  Attributes:
    constants: of (corpus, recipe), what the loss needs of a
      `data.corpus.Corpus` beside its batches: a pytree of arrays, or None.
      They are made once, and lie on every device.
    loss: of (outputs, batch, constants, recipe, kernels, axis), the mean loss
      of a batch over its rows that are valid, rows of weight 0 left out.
      `kernels` are those of the network (`kernels.choose`); `axis` is as in
      `ctc.mean_ctc_loss`.
    valid: of (outputs, batch), bool [b]: the rows that have a loss.
    decode: of (outputs, recipe), labels_bl and length_b, on the device: at
      most `per_frame` labels for each frame of the network.
    score: of (labels_pnu, len_pn, refs, fold_v), rate_p, on the host: the error
      rate that decides which epoch was best, of each member. The arguments are
      those of `error_rates.population_per`.
    hear: of (outputs, recipe), `Heard`, on the device: what `decode` returns,
      and what it rests on. None where there is nothing but the labels.
    align: of (logprobs_tv, labels), on the host: the label that each frame
      belongs to, as `transcripts.best_path` has it. None without `hear`, or
      where there are no logprobs_tv.
    consistency: of (first, second, batch, recipe, axis), the mean over the rows
      that have a loss of how far the outputs of two views of a batch are apart,
      divided as the loss is. None where that means nothing.
    distilled: of (teacher, rows_b, student, batch, recipe, `Distillation`),
      from the outputs of two networks: the student's loss as `loss` has it, and
      how far the student is from its teacher, over the same rows; `rows_b` are
      those of the teacher's batch that the student has. None where no network
      teaches another.
    working_bytes: of (macro, batch, frames, labels, recipe), bytes that a step
      takes at least beside the network's own, whatever is cut into pieces. None
      where nobody needs to ask.
    per_frame: see `decode`.
  """

  constants: Callable
  loss: Callable
  valid: Callable
  decode: Callable
  score: Callable
  hear: Callable | None = None
  align: Callable | None = None
  consistency: Callable | None = None
  distilled: Callable | None = None
  working_bytes: Callable | None = None
  per_frame: int = 1


class Distillation(NamedTuple):
  """How a student is held against its teacher.

  Attributes:
    differ: 'kl', or 'alpha', the larger of two clipped alpha-divergences.
    select: 'top', the `count` symbols that the teacher finds most probable, and
      the rest together; 'label_blank', the next label, the blank and the rest.
    count: see `select`.
    reduction: over the nodes of an utterance, 'mean' or 'sum'.
  """

  differ: str = 'kl'
  select: str = 'top'
  count: int = 10
  reduction: str = 'mean'

  @property
  def function(self):
    """The divergence, of (teacher's scores, student's).

    Raises:
      ValueError: there is none of that name.
    """
    if self.differ not in DIVERGENCES:
      raise ValueError(
        f'differ is {self.differ!r}; it must be one of {tuple(DIVERGENCES)}'
      )
    return DIVERGENCES[self.differ]

  @property
  def symbols(self):
    """How many of the teacher's symbols; None for label and blank."""
    if self.select not in ('top', 'label_blank'):
      raise ValueError(
        f"select is {self.select!r}; it must be 'top' or 'label_blank'"
      )
    if self.select == 'top' and self.count < 1:
      raise ValueError(f'count is {self.count}; it must be 1 symbol or more')
    return self.count if self.select == 'top' else None


DIVERGENCES = {
  'kl': distillation.kl_divergence,
  'alpha': distillation.alpha_divergence,
}


class Heard(NamedTuple):
  """Transcripts, and what they rest on.

  Attributes:
    labels_bl, length_b: see `Criterion.decode`.
    score_b: natural log of the probability of each transcript, within the beam;
      None where the decoder sums none (greedy).
    logprobs_btv: of every symbol at each output frame; None where they hang on
      what was said before.
    frames_b: output frames.
  """

  labels_bl: jax.Array
  length_b: jax.Array
  score_b: jax.Array | None
  logprobs_btv: jax.Array | None
  frames_b: jax.Array


def of(recipe):
  """Returns the `Criterion` of a recipe's loss.

  Raises:
    ValueError: there is none of that name.
  """
  if recipe.loss not in CRITERIA:
    raise ValueError(
      f'recipe {recipe.name}: loss={recipe.loss!r} is unknown; there are '
      f'{", ".join(CRITERIA)}'
    )
  return CRITERIA[recipe.loss]


def _no_constants(corpus, recipe):
  del corpus, recipe


def _arguments(outputs, batch):
  """Returns what losses of CTC's topology take first of all."""
  return (*outputs, batch.labels_bl, batch.label_len_b)


def _ctc(outputs, batch, constants, recipe, kernels, axis):
  del constants, kernels
  return ctc.mean_ctc_loss(
    *_arguments(outputs, batch),
    weight_b=batch.weight_b,
    normalise=recipe.loss_norm,
    axis=axis,
  )


def _ctc_crf(outputs, batch, constants, recipe, kernels, axis):
  if constants is None:
    raise ValueError(
      "loss 'ctc_crf' needs a denominator; give the constants of "
      '`trainer.DeviceCorpus`, prepared for the same recipe'
    )
  return ctc_crf.mean_ctc_crf_loss(
    *_arguments(outputs, batch),
    constants,
    recipe.ctc_weight,
    kernels='native' if kernels in ('native', 'twice') else 'xla',
    weight_b=batch.weight_b,
    normalise=recipe.loss_norm,
    axis=axis,
  )


def _denominator(corpus, recipe):
  """Returns the denominator of CTC-CRF, from the transcripts of training.

  It is of a smoothed model: transcripts of other splits have a loss as well.
  """
  # From order 4 on a dense model would be too large.
  dense = recipe.lm_order < 4
  estimate = ngram.estimate if dense else ngram.estimate_pruned
  symbols = 1 + len(corpus.symbols)
  lm = estimate(corpus.train.labels, symbols, recipe.lm_order)
  return ctc_crf.denominator(lm)


def _has_alignment(outputs, batch):
  # For CTC-CRF, too: a smoothed language model has a path for every row.
  _, len_b = outputs
  return ctc.required_frames(batch.labels_bl, batch.label_len_b) <= len_b


def _consistency(first, second, batch, recipe, axis):
  len_b = first[1]
  return ctc.mean_loss(
    ctc.consistency_loss(first[0], second[0], len_b),
    _has_alignment(first, batch),
    len_b,
    batch.label_len_b,
    batch.weight_b,
    recipe.loss_norm,
    axis,
  )


def _scored(outputs, recipe):
  """Returns labels, lengths and log probabilities; None for the last."""
  logits_btv, len_b = outputs
  if recipe.decoder == 'greedy':
    return *decoding.greedy(logits_btv, len_b), None
  return decoding.beam_search(logits_btv, len_b, width=recipe.beam_width)


def _collapsed(outputs, recipe):
  """Returns the labels that CTC's topology makes of its best paths."""
  return _scored(outputs, recipe)[:2]


def _heard(outputs, recipe):
  logits_btv, len_b = outputs
  logprobs_btv = jax.nn.log_softmax(logits_btv)
  return Heard(*_scored(outputs, recipe), logprobs_btv, len_b)


def _ctc_distilled(teacher, rows_b, student, batch, recipe, how):
  if how.select != 'top':
    raise ValueError(
      f"select is {how.select!r}: CTC's frames have no next label; take 'top'"
    )
  logits_btv, len_b = student
  loss = _ctc(student, batch, None, recipe, None, None)
  told_btv = teacher[0][rows_b]
  taken = distillation.top_symbols(told_btv, how.symbols)
  apart_bt = how.function(
    distillation.reduced(told_btv, taken),
    distillation.reduced(logits_btv, taken),
  )
  nothing_b = jnp.zeros_like(batch.label_len_b)
  apart_b = distillation.over_nodes(
    apart_bt[:, :, None], len_b, nothing_b, how.reduction
  )
  valid_b = _has_alignment(student, batch)
  return loss, _plain_mean(apart_b, valid_b, batch)


def _plain_mean(value_b, valid_b, batch):
  weight_b = jnp.where(valid_b, batch.weight_b, 0.0)
  total = jnp.where(weight_b > 0, weight_b * value_b, 0.0).sum()
  return total / jnp.maximum(weight_b.sum(), 1.0)


def _labelled(corpus, recipe):
  """Refuses utterances that say nothing: a transducer would learn silence."""
  del recipe
  for name in ('train', 'validation', 'test'):
    split = getattr(corpus, name)
    empty = np.flatnonzero([len(labels) == 0 for labels in split.labels])
    if empty.size:
      raise ValueError(
        f'corpus {corpus.name}: {empty.size} utterances of {name} have no '
        f'labels, the first of them {split.ids[empty[0]]}; leave them out'
      )


def _transducer(outputs, batch, constants, recipe, kernels, axis):
  del constants, kernels
  loss_b, feasible_b = transducer.chunked_transducer_loss(
    *(outputs.join, outputs.joiner, outputs.enc_btd, outputs.pred_bud),
    *(outputs.len_b, batch.labels_bl, batch.label_len_b),
  )
  return _transducer_mean(loss_b, feasible_b, outputs, batch, recipe, axis)


def _transducer_mean(loss_b, feasible_b, outputs, batch, recipe, axis=None):
  return ctc.mean_loss(
    *(loss_b, feasible_b, outputs.len_b, batch.label_len_b, batch.weight_b),
    *(recipe.loss_norm, axis),
  )


def frames(outputs):
  """Returns what CTC reads of any outputs: logits_btv and their lengths.

  Of a transducer it is what the joiner says of a frame alone, without a
  predictor.
  """
  if isinstance(outputs, tuple):
    return outputs
  enc_bt1d = outputs.enc_btd[:, :, None]
  logits_bt1v = outputs.join(
    outputs.joiner, enc_bt1d, jnp.zeros_like(enc_bt1d[:, :1])
  )
  return logits_bt1v[:, :, 0], outputs.len_b


def _has_frames(outputs, batch):
  del batch
  return outputs.len_b > 0


def _transducer_distilled(teacher, rows_b, student, batch, recipe, how):
  loss_b, feasible_b, apart_b = distillation.distilled_transducer_loss(
    student.join,
    (teacher.joiner, teacher.enc_btd[rows_b], teacher.pred_bud[rows_b]),
    (student.joiner, student.enc_btd, student.pred_bud),
    *(student.len_b, batch.labels_bl, batch.label_len_b),
    count=how.symbols,
    differ=how.function,
    reduction=how.reduction,
  )
  loss = _transducer_mean(loss_b, feasible_b, student, batch, recipe)
  return loss, _plain_mean(apart_b, feasible_b, batch)


# Labels of a transcript for each frame, at most: at one frame for six of 10 ms
# that is 33 a second, more letters than anybody says.
_PER_FRAME = 2


def _transducer_heard(outputs, recipe):
  model = transducer_decoding.Model(*outputs.decoding())
  enc_btd, len_b = outputs.enc_btd, outputs.len_b
  most = _PER_FRAME * enc_btd.shape[1]
  if recipe.decoder == 'greedy':
    said = transducer_decoding.greedy(model, enc_btd, len_b, max_labels=most)
    said = *said, None
  else:
    said = transducer_decoding.beam_search(
      model, enc_btd, len_b, recipe.beam_width, max_labels=most
    )
  return Heard(*said, None, len_b)


def _transducer_said(outputs, recipe):
  heard = _transducer_heard(outputs, recipe)
  return heard.labels_bl, heard.length_b


def _joiner_bytes(macro, batch, frames, labels, recipe):
  del recipe
  # One frame's scores and their gradient are there at a time at least, and of
  # each node the two arcs, their sums from both ends and their masses.
  nodes = batch * (labels + 1)
  return 4 * nodes * (2 * macro.outputs + 8 * macro.output_frames(frames))


CRITERIA = {
  'ctc': Criterion(
    _no_constants,
    _ctc,
    _has_alignment,
    _collapsed,
    error_rates.population_per,
    _heard,
    transcripts.best_path,
    _consistency,
    _ctc_distilled,
  ),
  'ctc_crf': Criterion(
    _denominator,
    _ctc_crf,
    _has_alignment,
    _collapsed,
    error_rates.population_per,
    _heard,
    transcripts.best_path,
    _consistency,
  ),
  'transducer': Criterion(
    _labelled,
    _transducer,
    _has_frames,
    _transducer_said,
    error_rates.population_per,
    _transducer_heard,
    distilled=_transducer_distilled,
    working_bytes=_joiner_bytes,
    per_frame=_PER_FRAME,
  ),
}
