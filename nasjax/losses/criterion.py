"""Criteria: what the outputs of a network are held against.

Training, evaluation and searches call these functions and know none of the
losses: who adds one writes a `Criterion` and a line in `CRITERIA`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from nasjax import decoding
from nasjax.decoding import error_rates, transcripts
from nasjax.losses import ctc, ctc_crf, ngram


class Criterion(NamedTuple):
  """A loss, and how the outputs that it trains become transcripts.

  `outputs` are what a network returned for a `member.Batch`: today logits_btv
  and their lengths. Nobody but these functions looks into them.

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
      most as many labels as the network has frames.
    score: of (labels_pnu, len_pn, refs, fold_v), rate_p, on the host: the error
      rate that decides which epoch was best, of each member. The arguments are
      those of `error_rates.population_per`.
    hear: of (outputs, recipe), `Heard`, on the device: what `decode` returns,
      and what it rests on. None where there is nothing but the labels.
    align: of (logprobs_tv, labels), on the host: the label that each frame
      belongs to, as `transcripts.best_path` has it. None with `hear`.
    consistency: of (first, second, batch, recipe, axis), the mean over the rows
      that have a loss of how far the outputs of two views of a batch are apart,
      divided as the loss is. None where that means nothing.
  """

  constants: Callable
  loss: Callable
  valid: Callable
  decode: Callable
  score: Callable
  hear: Callable | None = None
  align: Callable | None = None
  consistency: Callable | None = None


class Heard(NamedTuple):
  """Transcripts, and what they rest on.

  Attributes:
    labels_bl, length_b: see `Criterion.decode`.
    score_b: natural log of the probability of each transcript, within the beam;
      None where the decoder sums none (greedy).
    logprobs_btv: of every symbol at each output frame.
    frames_b: output frames.
  """

  labels_bl: jax.Array
  length_b: jax.Array
  score_b: jax.Array | None
  logprobs_btv: jax.Array
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
}
