"""The transducer's loss over the paths that a cheaper joiner finds probable.

Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training", with
the numbers of icefall's recipes. The cheaper joiner adds up a score by the
frame and one by the labels said: its loss over all paths takes no more than a
matrix product. Where its paths go, the true joiner is run for a few numbers of
labels said a frame.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nasjax.losses import transducer
from nasjax.losses import transducer_lattice as lattice


class Pruned(NamedTuple):
  """What `pruned_transducer_loss` returns.

  Attributes:
    simple_b: loss of the additive joiner, over all paths.
    pruned_b: loss of the joiner, over the paths that are left.
    feasible_b: whether an utterance has paths that are left.
  """

  simple_b: jax.Array
  pruned_b: jax.Array
  feasible_b: jax.Array

  def total(self, simple_scale=0.5):
    """What training minimises, of each utterance."""
    return simple_scale * self.simple_b + self.pruned_b


def simple_arcs(am_btv, lm_buv, labels_bl, label_len_b, blank=0, lm_scale=0.25):
  """Log probabilities of the arcs of the additive joiner.

  Args:
    am_btv: scores by the frame.
    lm_buv: scores by the labels said.
    labels_bl, label_len_b, blank: as in `transducer.transducer_loss`.
    lm_scale: how much of each log probability is that of `lm` alone, without
      which it would learn no more than to correct `am`.

  Returns:
    blank_btu and emit_btu, as `transducer_lattice.nll` takes them.
  """
  am_btv = jnp.asarray(am_btv, jnp.float32)
  lm_buv = jnp.asarray(lm_buv, jnp.float32)
  labels_bu = transducer.labels_ahead(labels_bl, label_len_b, blank)
  am_peak_bt = jax.lax.stop_gradient(am_btv.max(axis=2))
  lm_peak_bu = jax.lax.stop_gradient(lm_buv.max(axis=2))
  lm_exp_buv = jnp.exp(lm_buv - lm_peak_bu[:, :, None])
  sums_btu = jnp.einsum(
    'btv,buv->btu',
    jnp.exp(am_btv - am_peak_bt[:, :, None]),
    lm_exp_buv,
    precision=jax.lax.Precision.HIGHEST,
  )
  # All is 0 where each rules out whatever the other may say.
  sums_btu = jnp.maximum(sums_btu, jnp.finfo(jnp.float32).tiny)
  log_z_btu = (
    jnp.log(sums_btu) + am_peak_bt[:, :, None] + lm_peak_bu[:, None, :]
  )
  lm_log_z_bu = jnp.log(lm_exp_buv.sum(axis=2)) + lm_peak_bu

  def mixed(am_btu, lm_bu):
    both_btu = am_btu + lm_bu[:, None] - log_z_btu
    lm_bu = lm_bu - lm_log_z_bu
    return (1 - lm_scale) * both_btu + lm_scale * lm_bu[:, None]

  index_btu = jnp.broadcast_to(labels_bu[:, None], log_z_btu.shape)
  lm_emit_bu1 = jnp.take_along_axis(lm_buv, labels_bu[:, :, None], axis=2)
  return (
    mixed(am_btv[:, :, blank, None], lm_buv[:, :, blank]),
    mixed(jnp.take_along_axis(am_btv, index_btu, axis=2), lm_emit_bu1[:, :, 0]),
  )


def simple_transducer_loss(
  am_btv, lm_buv, len_b, labels_bl, label_len_b, blank=0, lm_scale=0.25
):
  """The loss of the additive joiner, and where its paths go.

  Args:
    am_btv, lm_buv, lm_scale: as in `simple_arcs`.
    len_b, labels_bl, label_len_b, blank: as in `transducer.transducer_loss`.

  Returns:
    loss_b and feasible_b, as `transducer.transducer_loss` does; and mass_btu,
    how probable it is that a path of the transcript meets a node: nothing that
    has a gradient.

  Raises:
    ValueError: if the shapes disagree or the blank is outside the vocabulary.
  """
  len_b, labels_bl, label_len_b = (
    jnp.asarray(x, jnp.int32) for x in (len_b, labels_bl, label_len_b)
  )
  am_btv, lm_buv = transducer.inputs(am_btv, lm_buv, len_b, label_len_b)
  shape = (*am_btv.shape[:2], *lm_buv.shape[1:])
  transducer.check(shape, len_b, labels_bl, label_len_b, blank)
  arcs = simple_arcs(am_btv, lm_buv, labels_bl, label_len_b, blank, lm_scale)
  loss_b, feasible_b = transducer.loss(*arcs, len_b, label_len_b)
  _, blank_btu, emit_btu = lattice.occupancies(
    *jax.lax.stop_gradient(arcs), len_b, label_len_b
  )
  return loss_b, feasible_b, blank_btu + emit_btu


def prune_ranges(mass_btu, len_b, label_len_b, width=5):
  """The numbers of labels said that the joiner is run for at each frame.

  Those `width` in a row that have the most mass; then moved as little as it
  takes for a path to go through: the first range begins at 0, the last ends at
  all labels, and each begins no earlier than the one before it, and no later
  than that ends.

  Args:
    mass_btu: of each node, from `simple_transducer_loss`.
    len_b: frames.
    label_len_b: labels.
    width: of a range.

  Returns:
    first_bt, int32: where the range of a frame begins. A path goes through if
    frames * (width - 1) are no fewer than the labels.

  Raises:
    ValueError: if the width is below 2: no label would be said.
  """
  if width < 2:
    raise ValueError(f'width is {width}; a range that moves takes 2 or more')
  frames, columns = mass_btu.shape[1:]
  width = min(width, columns)
  sums_btu = jnp.cumsum(jnp.pad(mass_btu, ((0, 0), (0, 0), (1, 0))), axis=2)
  window_btu = sums_btu[:, :, width:] - sums_btu[:, :, :-width]
  first_bt = jnp.argmax(window_btu, axis=2).astype(jnp.int32)
  top_b1 = jnp.maximum(label_len_b - width + 1, 0)[:, None].astype(jnp.int32)
  t_1t = jnp.arange(frames, dtype=jnp.int32)[None]
  is_top_bt = (t_1t >= len_b[:, None] - 1) | (first_bt > top_b1)
  first_bt = jnp.where(is_top_bt, top_b1, first_bt)
  first_bt = jax.lax.cummin(first_bt, axis=1, reverse=True)
  # How far each lies below the steepest way up: that may only grow.
  steepest_1t = (width - 1) * t_1t
  slack_bt = jax.lax.cummin(steepest_1t - first_bt, axis=1, reverse=True)
  return steepest_1t - jnp.maximum(slack_bt, 0)


def pruned_transducer_loss(
  join,
  params,
  enc_btd,
  pred_bud,
  am_btv,
  lm_buv,
  len_b,
  labels_bl,
  label_len_b,
  blank=0,
  width=5,
  lm_scale=0.25,
  chunk=None,
):
  """The loss over the paths near those that the additive joiner prefers.

  The true joiner's part is of fewer paths than `transducer.transducer_loss`,
  so never below it, and equal to it where the width is above L.

  Args:
    join: of (params, enc_bt1d, pred_btwd), logits_btwv: the joiner.
    params: of the joiner, any tree.
    enc_btd, pred_bud: as in `transducer.chunked_transducer_loss`.
    am_btv, lm_buv, lm_scale: of the additive joiner, see `simple_arcs`; made of
      the outputs of encoder and predictor, too.
    len_b, labels_bl, label_len_b, blank: as in `transducer.transducer_loss`.
    width: see `prune_ranges`.
    chunk: frames at a time; None for as many as make 64 MiB of scores.

  Returns:
    `Pruned`. Of an utterance with more labels than frames * (width - 1) no path
    is left: feasible_b is False, losses and gradients are exactly 0.

  Raises:
    ValueError: as `transducer.chunked_transducer_loss` and `prune_ranges`.
  """
  len_b, labels_bl, label_len_b = (
    jnp.asarray(x, jnp.int32) for x in (len_b, labels_bl, label_len_b)
  )
  columns = pred_bud.shape[1]
  if width < columns:
    len_b = jnp.where(label_len_b <= len_b * (width - 1), len_b, 0)
  simple_b, feasible_b, mass_btu = simple_transducer_loss(
    am_btv, lm_buv, len_b, labels_bl, label_len_b, blank, lm_scale
  )
  first_bt = prune_ranges(mass_btu, len_b, label_len_b, width)
  width = min(width, columns)
  enc_btd, pred_bud = transducer.inputs(enc_btd, pred_bud, len_b, label_len_b)
  labels_bu = transducer.labels_ahead(labels_bl, label_len_b, blank)
  rows_b11 = jnp.arange(len_b.shape[0])[:, None, None]

  def some(frames):
    enc_btd, first_bt = frames
    # No path comes to what would lie beyond the last column.
    said_btw = first_bt[:, :, None] + jnp.arange(width)[None, None]
    where = rows_b11, jnp.minimum(said_btw, columns - 1)
    logits_btwv = join(params, enc_btd[:, :, None], pred_bud[where])
    return transducer.arcs(blank, logits_btwv, labels_bu[where])

  one = jax.eval_shape(
    join, params, enc_btd[:, :1, None], pred_bud[:, None, :width]
  )
  arcs = transducer.in_chunks(some, (enc_btd, first_bt), one.shape, chunk)
  # Elsewhere there are no arcs, nor labels that would lead out of a range.
  offset_btu = jnp.arange(columns)[None, None] - first_bt[:, :, None]
  arcs = [
    jnp.where(
      (offset_btu >= 0) & (offset_btu < kept),
      jnp.take_along_axis(x_btw, jnp.clip(offset_btu, 0, width - 1), axis=2),
      -jnp.inf,
    )
    for x_btw, kept in zip(arcs, (width, width - 1))
  ]
  return Pruned(
    simple_b, transducer.loss(*arcs, len_b, label_len_b)[0], feasible_b
  )
