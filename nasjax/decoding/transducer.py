"""Transcripts from transducers, on the device: greedy and beam search.

Graves 2012, "Sequence Transduction with Recurrent Neural Networks"; Saon et al.
2020, "Alignment-Length Synchronous Decoding for RNN Transducer", for the beam.
Both run predictor and joiner as they go, with the utterances of a batch side by
side, each at a frame of its own. Programs hold the functions that they are
given: jit what calls them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# The log of zero; finite, so that no difference of two of them is NaN.
LOG_ZERO = -1e30
_DEAD = 0.5 * LOG_ZERO


class Model(NamedTuple):
  """What decoding asks of a transducer; rows are utterances or prefixes.

  Attributes:
    start: of a number of rows, the predictor's state before all labels: a tree
      of arrays, rows first.
    predict: of (state, label_b), the state after one more label and what the
      predictor says then, pred_bd. The blank is what a transcript begins with.
    join: of (enc_bd, pred_bd), the scores logits_bv.
  """

  start: Callable
  predict: Callable
  join: Callable


class _Greedy(NamedTuple):
  """One path an utterance: where it is, what it said, its predictor."""

  frame_b: jax.Array
  said_b: jax.Array
  labels_bu: jax.Array
  length_b: jax.Array
  broken_b: jax.Array
  state: Any
  pred_bd: jax.Array


class _Beam(NamedTuple):
  """The best prefixes of each utterance, and the best transcript so far.

  Attributes:
    step: arcs on every path so far: a prefix of u labels is at frame step - u.
    score_bw: log probability of a prefix at its frame, `LOG_ZERO` for none.
    labels_bwu, length_bw: the prefix.
    state, pred_wd: of the predictor, rows of b and w together.
    best_b: log probability of the best transcript.
    best_bu, best_length_b: its labels.
    broken_b: whether NaN has been met.
  """

  step: jax.Array
  score_bw: jax.Array
  labels_bwu: jax.Array
  length_bw: jax.Array
  state: Any
  pred_wd: jax.Array
  best_b: jax.Array
  best_bu: jax.Array
  best_length_b: jax.Array
  broken_b: jax.Array


def greedy(model, enc_btd, len_b, blank=0, max_labels=None, max_per_frame=10):
  """The labels of the best path: at each node its most probable symbol.

  Args:
    model: `Model`.
    enc_btd: output of the encoder; what stands beyond an utterance is never
      used.
    len_b: frames of each utterance.
    blank: the symbol that leads to the next frame.
    max_labels: columns of the result; a path that has said so many says no
      more. None for T.
    max_per_frame: as many labels lead on to the next frame by themselves.

  Returns:
    labels_bu, int32 and filled up with `blank`, and label_len_b, int32. Of two
    equal scores the lower symbol wins. An utterance with NaN among the scores
    that were looked at has no labels.

  Raises:
    ValueError: if shapes or bounds do not fit.
  """
  enc_btd, len_b, columns = _checked(enc_btd, len_b, max_labels)
  if max_per_frame < 1:
    raise ValueError(f'max_per_frame is {max_per_frame}; it must be 1 or more')
  batch = enc_btd.shape[0]
  nothing_b = jnp.zeros(batch, jnp.int32)
  rows_b = jnp.arange(batch)

  def goes_on(now):
    return (now.frame_b < len_b) & ~now.broken_b

  def step(now):
    enc_bd = enc_btd[rows_b, jnp.minimum(now.frame_b, enc_btd.shape[1] - 1)]
    logits_bv = model.join(enc_bd, now.pred_bd)
    _check_blank(blank, logits_bv)
    active_b = goes_on(now)
    broken_b = now.broken_b | (active_b & jnp.isnan(logits_bv).any(axis=1))
    symbol_b = jnp.argmax(logits_bv, axis=1).astype(jnp.int32)
    says_b = active_b & ~broken_b & (symbol_b != blank)
    says_b &= now.length_b < columns
    labels_bu = now.labels_bu.at[
      rows_b, jnp.where(says_b, now.length_b, columns)
    ].set(symbol_b, mode='drop')
    state, pred_bd = model.predict(now.state, symbol_b)
    state, pred_bd = _rows_where(
      says_b, (state, pred_bd), (now.state, now.pred_bd)
    )
    said_b = now.said_b + says_b
    leaves_b = ~says_b | (said_b >= max_per_frame)
    return _Greedy(
      now.frame_b + leaves_b,
      jnp.where(leaves_b, 0, said_b),
      labels_bu,
      now.length_b + says_b,
      broken_b,
      state,
      pred_bd,
    )

  first = _Greedy(
    nothing_b,
    nothing_b,
    jnp.full((batch, columns), blank, jnp.int32),
    nothing_b,
    jnp.zeros(batch, bool),
    *model.predict(model.start(batch), jnp.full(batch, blank, jnp.int32)),
  )
  if not enc_btd.shape[1]:
    return first.labels_bu, first.length_b
  last = jax.lax.while_loop(lambda now: goes_on(now).any(), step, first)
  return (
    jnp.where(last.broken_b[:, None], blank, last.labels_bu),
    jnp.where(last.broken_b, 0, last.length_b),
  )


def beam_search(model, enc_btd, len_b, width=5, blank=0, max_labels=None):
  """The most probable labels that a beam over alignments finds.

  All prefixes of the beam have paths of one length, frames and labels
  together; at each step the `width` most probable are kept, each with the sum
  over the paths that led to it through kept prefixes. A prefix that leaves the
  last frame is a transcript, and the most probable one is the result; the
  search ends where all that is left is less probable. With a width that no step
  exceeds, sums and result are those over all transcripts of up to `max_labels`.

  With a width of 1 the prefix follows the path of `greedy` without bound on the
  labels of a frame; but the transcript may be one that ends earlier in the last
  frame, if that is more probable.

  Args:
    model: `Model`.
    enc_btd: output of the encoder; what stands beyond an utterance is never
      used.
    len_b: frames of each utterance.
    width: prefixes kept.
    blank: the symbol that leads to the next frame.
    max_labels: columns of the result, and the longest transcript; None for T.

  Returns:
    labels_bu, int32 and filled up with `blank`; label_len_b, int32; score_b,
    the natural log of the transcript's probability within the beam. An
    utterance with NaN among its scores has no labels and score NaN; one without
    frames no labels and score 0.

  Raises:
    ValueError: if shapes or bounds do not fit.
  """
  enc_btd, len_b, columns = _checked(enc_btd, len_b, max_labels)
  if width < 1:
    raise ValueError(f'width is {width}; a beam keeps at least 1 prefix')
  batch, frames, _ = enc_btd.shape
  rows = batch * width
  state, pred_wd = model.predict(
    model.start(rows), jnp.full(rows, blank, jnp.int32)
  )
  is_first_w = jnp.arange(width) == 0
  is_there_bw = is_first_w[None] & (len_b > 0)[:, None]
  beam = _Beam(
    jnp.int32(0),
    jnp.where(is_there_bw, 0.0, LOG_ZERO),
    jnp.full((batch, width, columns), blank, jnp.int32),
    jnp.zeros((batch, width), jnp.int32),
    state,
    pred_wd,
    jnp.where(len_b > 0, LOG_ZERO, 0.0),
    jnp.full((batch, columns), blank, jnp.int32),
    jnp.zeros(batch, jnp.int32),
    jnp.zeros(batch, bool),
  )
  if frames:
    beam = jax.lax.while_loop(
      lambda beam: (beam.score_bw > _DEAD).any(),
      lambda beam: _step(model, enc_btd, len_b, blank, beam),
      beam,
    )
  score_b = jnp.where(beam.best_b > _DEAD, beam.best_b, -jnp.inf)
  return (
    jnp.where(beam.broken_b[:, None], blank, beam.best_bu),
    jnp.where(beam.broken_b, 0, beam.best_length_b),
    jnp.where(beam.broken_b, jnp.nan, score_b),
  )


def _step(model, enc_btd, len_b, blank, beam):
  """One arc more on every path."""
  batch, width = beam.score_bw.shape
  columns = beam.labels_bwu.shape[2]
  rows_b1 = jnp.arange(batch)[:, None]
  frame_bw = beam.step - beam.length_bw
  alive_bw = beam.score_bw > _DEAD
  enc_bwd = enc_btd[rows_b1, jnp.clip(frame_bw, 0, enc_btd.shape[1] - 1)]
  logits_wv = model.join(enc_bwd.reshape(batch * width, -1), beam.pred_wd)
  _check_blank(blank, logits_wv)
  logprobs_bwv = jax.nn.log_softmax(logits_wv.astype(jnp.float32))
  logprobs_bwv = logprobs_bwv.reshape(batch, width, -1)
  nan_bw = jnp.isnan(logprobs_bwv).any(axis=2) & alive_bw
  broken_b = beam.broken_b | nan_bw.any(axis=1)
  logprobs_bwv = jnp.maximum(logprobs_bwv, LOG_ZERO)

  stays_bw = beam.score_bw + logprobs_bwv[:, :, blank]
  best = _ended(beam, stays_bw, frame_bw == len_b[:, None] - 1)
  stays_bw = jnp.where(frame_bw < len_b[:, None] - 1, stays_bw, LOG_ZERO)
  says_bwv = beam.score_bw[:, :, None] + logprobs_bwv
  may_bw1 = (beam.length_bw < columns)[:, :, None]
  is_blank_11v = (jnp.arange(logprobs_bwv.shape[2]) == blank)[None, None]
  says_bwv = jnp.where(may_bw1 & ~is_blank_11v, says_bwv, LOG_ZERO)
  stays_bw, taken_bwx, last_bw = _merged(beam, stays_bw, says_bwv)

  # Of one prefix's labels no more than `width` can be among the best.
  count = min(width, logprobs_bwv.shape[2] - 1)
  top_bwk, symbol_bwk = jax.lax.top_k(says_bwv, count)
  # Those that have been counted as a prefix of the beam, x.
  is_taken_bwk = (
    taken_bwx[:, :, None] & (symbol_bwk[..., None] == last_bw[:, None, None])
  ).any(axis=3)
  top_bwk = jnp.where(is_taken_bwk, LOG_ZERO, top_bwk)
  score_bn = jnp.concatenate([stays_bw, top_bwk.reshape(batch, -1)], axis=1)
  score_bw, pick_bw = jax.lax.top_k(score_bn, width)
  says_bw = pick_bw >= width
  pick_of_says_bw = jnp.maximum(pick_bw - width, 0)
  from_bw = jnp.where(says_bw, pick_of_says_bw // max(count, 1), pick_bw)
  symbol_bn = symbol_bwk.reshape(batch, -1)
  symbol_bw = jnp.full_like(from_bw, blank)
  if count:
    symbol_bw = jnp.take_along_axis(symbol_bn, pick_of_says_bw, axis=1)

  length_bw = jnp.take_along_axis(beam.length_bw, from_bw, axis=1)
  labels_bwu = beam.labels_bwu[rows_b1, from_bw]
  is_new_bwu = jnp.arange(columns)[None, None] == length_bw[:, :, None]
  is_new_bwu &= says_bw[:, :, None]
  from_w = (rows_b1 * width + from_bw).reshape(-1)
  kept = jax.tree.map(lambda x: x[from_w], (beam.state, beam.pred_wd))
  new = model.predict(kept[0], symbol_bw.reshape(-1))
  state, pred_wd = _rows_where(says_bw.reshape(-1), new, kept)
  # What is left cannot become more than it is all together.
  left_b = jax.nn.logsumexp(score_bw, axis=1)
  ends_b = (best[0] >= left_b) | broken_b
  return _Beam(
    beam.step + 1,
    jnp.where(ends_b[:, None], LOG_ZERO, score_bw),
    jnp.where(is_new_bwu, symbol_bw[:, :, None], labels_bwu),
    length_bw + says_bw,
    state,
    pred_wd,
    *best,
    broken_b,
  )


def _ended(beam, stays_bw, ends_bw):
  """Returns the best transcript, its labels and length, after this step."""
  ended_bw = jnp.where(ends_bw, stays_bw, LOG_ZERO)
  which_b1 = jnp.argmax(ended_bw, axis=1)[:, None]
  score_b = jnp.take_along_axis(ended_bw, which_b1, axis=1)[:, 0]
  better_b = score_b > beam.best_b
  labels_bu = jnp.take_along_axis(
    beam.labels_bwu, which_b1[:, :, None], axis=1
  )[:, 0]
  length_b = jnp.take_along_axis(beam.length_bw, which_b1, axis=1)[:, 0]
  return (
    jnp.where(better_b, score_b, beam.best_b),
    jnp.where(better_b[:, None], labels_bu, beam.best_bu),
    jnp.where(better_b, length_b, beam.best_length_b),
  )


def _merged(beam, stays_bw, says_bwv):
  """Adds to a prefix that stays the paths that come to it by its last label.

  Returns:
    stays_bw; taken_bwx, whether prefix x is prefix w and one label more; and
    that label, last_bw.
  """
  columns = beam.labels_bwu.shape[2]
  if not columns:
    taken_bwx = jnp.zeros(stays_bw.shape + stays_bw.shape[1:], bool)
    return stays_bw, taken_bwx, jnp.zeros_like(beam.length_bw)
  last_bw1 = jnp.maximum(beam.length_bw - 1, 0)[:, :, None]
  last_bw = jnp.take_along_axis(beam.labels_bwu, last_bw1, axis=2)[:, :, 0]
  # Beyond their lengths, prefixes are alike.
  u_11u = jnp.arange(columns)[None, None]
  before_bwu = jnp.where(u_11u == last_bw1, -1, beam.labels_bwu)
  own_bwu = jnp.where(u_11u == beam.length_bw[:, :, None], -1, beam.labels_bwu)
  taken_bwx = (own_bwu[:, :, None] == before_bwu[:, None]).all(axis=3)
  taken_bwx &= beam.length_bw[:, None] == beam.length_bw[:, :, None] + 1
  alive_bw = beam.score_bw > _DEAD
  # One that has left all frames but the last with its blank is no more there.
  taken_bwx &= alive_bw[:, :, None] & (stays_bw > _DEAD)[:, None]
  index_bwx = jnp.broadcast_to(last_bw[:, None], taken_bwx.shape)
  comes_bwx = jnp.take_along_axis(says_bwv, index_bwx, axis=2)
  comes_bw = jnp.where(taken_bwx, comes_bwx, LOG_ZERO).max(axis=1)
  return jnp.logaddexp(stays_bw, comes_bw), taken_bwx, last_bw


def _checked(enc_btd, len_b, max_labels):
  enc_btd, len_b = jnp.asarray(enc_btd), jnp.asarray(len_b)
  if enc_btd.ndim != 3 or len_b.shape != enc_btd.shape[:1]:
    raise ValueError(
      f'shapes of encoder output and lengths are {enc_btd.shape} and '
      f'{len_b.shape}; they must be (B, T, D) and (B,)'
    )
  if max_labels is not None and max_labels < 0:
    raise ValueError(f'max_labels is {max_labels}; it must be 0 or more')
  columns = enc_btd.shape[1] if max_labels is None else max_labels
  return enc_btd, len_b, columns


def _check_blank(blank, logits_bv):
  symbols = logits_bv.shape[1]
  if not 0 <= blank < symbols:
    raise ValueError(
      f'blank is {blank}; it must be a symbol from 0 to {symbols - 1}'
    )


def _rows_where(mask_b, new, old):
  """Chooses rows of trees."""
  return jax.tree.map(
    lambda x, y: jnp.where(mask_b.reshape((-1,) + (1,) * (x.ndim - 1)), x, y),
    new,
    old,
  )
