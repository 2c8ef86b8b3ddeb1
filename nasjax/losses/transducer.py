"""The transducer's loss (RNN-T): all at once, and in chunks of frames.

Graves 2012, "Sequence Transduction with Recurrent Neural Networks". At frame t,
with u labels said, the joiner gives a distribution over the blank, which leads
to the next frame, and the labels, which stay in this one: so labels may be more
than frames. A path ends with the blank that leaves the last frame.

Of the scores of a node (t, u) the sums over paths need two numbers, those of
the blank and of the next label (`arcs`); the sums themselves, and their
gradient, are of `transducer_lattice`. What is large is the joiner's output:
batch x frames x (labels + 1) x vocabulary numbers. `chunked_transducer_loss`
has it for some frames at a time, and computes it again for the gradient;
`transducer_pruned` has it for a few numbers of labels a frame.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.losses import transducer_lattice as lattice

# Bytes of a joiner's output that is computed at a time, if nobody says how many
# frames.
CHUNK_BYTES = 2**26
# What a gradient does not compute again has this name (`checkpoint_name`).
KEPT = 'kept'
# A symbol outside every vocabulary: its score reads NaN.
_NO_SYMBOL = np.iinfo(np.int32).max


@functools.partial(jax.jit, static_argnames=('blank',))
def transducer_loss(logits_btuv, len_b, labels_bl, label_len_b, blank=0):
  """Negative log likelihood of each transcript, in nats.

  For what fits into memory as a whole.

  Args:
    logits_btuv: unnormalised scores of the joiner, u from 0 to L labels said,
      in any float type; computed in float32. What stands beyond an utterance's
      frames or labels is never used, be it NaN.
    len_b: frames of each utterance, integers from 0 to T.
    labels_bl: transcripts, without `blank`; what stands beyond their length is
      never used.
    label_len_b: labels of each transcript, integers from 0 to L. They may be
      more than the frames.
    blank: the symbol that leads to the next frame.

  Returns:
    loss_b, float32 and never negative, and feasible_b. Without a frame there is
    no path: feasible_b is False, and loss and gradient are exactly 0. An
    utterance with NaN or +inf among its scores gets NaN, so does one with a
    length that its arrays do not hold, and one whose transcript holds the blank
    or a label outside the vocabulary; one whose transcript has probability 0
    gets inf.

  Raises:
    ValueError: if the shapes disagree or the blank is outside the vocabulary.
  """
  logits_btuv = jnp.asarray(logits_btuv)
  rows = [jnp.asarray(x, jnp.int32) for x in (len_b, labels_bl, label_len_b)]
  if logits_btuv.ndim != 4:
    raise ValueError(
      f'shape of logits is {logits_btuv.shape}; it must be (B, T, L + 1, V)'
    )
  check(logits_btuv.shape, *rows, blank)
  len_b, labels_bl, label_len_b = rows
  labels_b1u = labels_ahead(labels_bl, label_len_b, blank)[:, None]
  return loss(*arcs(blank, logits_btuv, labels_b1u), len_b, label_len_b)


def chunked_transducer_loss(
  join,
  params,
  enc_btd,
  pred_bud,
  len_b,
  labels_bl,
  label_len_b,
  blank=0,
  chunk=None,
):
  """What `transducer_loss` returns, the joiner run for some frames at a time.

  Where these are not all frames, nothing of the joiner is kept for the
  gradient, which runs it again: beside the scores of `chunk` frames it takes
  two numbers a node.

  Args:
    join: of (params, enc_bt1d, pred_b1ud), logits_btuv: the joiner.
    params: of the joiner, any tree.
    enc_btd: output of the encoder.
    pred_bud: output of the predictor, u from 0 to L labels said.
    len_b, labels_bl, label_len_b, blank: as in `transducer_loss`. What encoder
      and predictor have beyond them reaches neither loss nor gradient.
    chunk: frames at a time; None for as many as make 64 MiB of scores.

  Returns:
    loss_b, feasible_b.

  Raises:
    ValueError: as `transducer_loss`, or for a chunk below 1.
  """
  len_b, labels_bl, label_len_b = (
    jnp.asarray(x, jnp.int32) for x in (len_b, labels_bl, label_len_b)
  )
  enc_btd, pred_bud = inputs(enc_btd, pred_bud, len_b, label_len_b)
  pred_b1ud = pred_bud[:, None]
  one = jax.eval_shape(join, params, enc_btd[:, :1, None], pred_b1ud).shape
  check(
    (one[0], enc_btd.shape[1], *one[2:]), len_b, labels_bl, label_len_b, blank
  )
  labels_b1u = labels_ahead(labels_bl, label_len_b, blank)[:, None]

  def some(enc_btd):
    logits_btuv = join(params, enc_btd[:, :, None], pred_b1ud)
    return arcs(blank, logits_btuv, labels_b1u)

  found = in_chunks(some, enc_btd, one, chunk)
  return loss(*found, len_b, label_len_b)


def check(shape, len_b, labels_bl, label_len_b, blank):
  """Refuses what is not batch, frames, labels and symbols of (B, T, U, V)."""
  batch, _, columns, symbols = shape
  shapes = len_b.shape, labels_bl.shape, label_len_b.shape
  if shapes != ((batch,), (batch, columns - 1), (batch,)):
    raise ValueError(
      f'shapes of logits, lengths, labels, lengths are {(shape, *shapes)}; '
      'they must be (B, T, L + 1, V), (B,), (B, L), (B,)'
    )
  if not 0 <= blank < symbols:
    raise ValueError(
      f'blank is {blank}; it must be a symbol from 0 to {symbols - 1}'
    )


def labels_ahead(labels_bl, label_len_b, blank):
  """The label ahead at each u, labels_bu: `blank` where there is none.

  What is no label becomes a symbol whose score reads NaN.
  """
  is_label_bl = (labels_bl >= 0) & (labels_bl != blank)
  labels_bl = jnp.where(is_label_bl, labels_bl.astype(jnp.int32), _NO_SYMBOL)
  labels_bu = jnp.pad(labels_bl, ((0, 0), (0, 1)))
  used_bu = jnp.arange(labels_bu.shape[1])[None] < label_len_b[:, None]
  return jnp.where(used_bu, labels_bu, blank)


def inputs(enc_btd, pred_bud, len_b, label_len_b):
  """Zeroes what lies beyond the lengths: a joiner's gradient sums over all."""
  enc_btd, pred_bud = jnp.asarray(enc_btd), jnp.asarray(pred_bud)
  in_bt = jnp.arange(enc_btd.shape[1])[None] < len_b[:, None]
  in_bu = jnp.arange(pred_bud.shape[1])[None] <= label_len_b[:, None]
  return (
    jnp.where(in_bt[:, :, None], enc_btd, 0),
    jnp.where(in_bu[:, :, None], pred_bud, 0),
  )


def in_chunks(function, inputs, one, chunk=None):
  """Applies a function to some frames at a time.

  Where that takes several times, its gradient runs it again.

  Args:
    function: of `inputs` cut in time, gives arrays [bt..].
    inputs: tree of arrays [bt..].
    one: shape of the joiner's scores of one frame.
    chunk: frames at a time, or None.

  Returns:
    What the function gives for all frames.

  Raises:
    ValueError: if the chunk is below 1.
  """
  if chunk is None:
    chunk = max(1, CHUNK_BYTES // (4 * max(math.prod(one), 1)))
  if chunk < 1:
    raise ValueError(f'chunk is {chunk}; it must be 1 frame or more')
  batch, frames = jax.tree.leaves(inputs)[0].shape[:2]
  chunk = max(min(chunk, frames), 1)
  count = -(-frames // chunk)
  if count <= 1:
    return function(inputs)

  def cut(x):
    past = ((0, 0), (0, count * chunk - frames)) + ((0, 0),) * (x.ndim - 2)
    x = jnp.pad(x, past).reshape(batch, count, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def joined(x):
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(batch, count * chunk, *x.shape[3:])[:, :frames]

  # In a loop no compiler takes the second computation for the first.
  again = jax.checkpoint(
    function,
    prevent_cse=False,
    policy=jax.checkpoint_policies.save_only_these_names(KEPT),
  )
  parts = jax.lax.map(again, jax.tree.map(cut, inputs))
  return jax.tree.map(joined, parts)


def loss(blank_btu, emit_btu, len_b, label_len_b):
  """Returns loss_b and feasible_b, from what `arcs` returned for all nodes."""
  feasible_b = len_b > 0
  # What has no path is computed as no frames and no labels: both are 0 then.
  len_b = jnp.where(feasible_b, len_b, 0)
  label_len_b = jnp.where(feasible_b, label_len_b, 0)
  nll_b = lattice.nll(blank_btu, emit_btu, len_b, label_len_b)
  held_b = (len_b <= blank_btu.shape[1]) & (label_len_b < blank_btu.shape[2])
  return jnp.where(held_b & (label_len_b >= 0), nll_b, jnp.nan), feasible_b


def _log_sum_exp(x):
  peak = x.max(axis=-1, keepdims=True)
  return jnp.log(jnp.exp(x - peak).sum(axis=-1, keepdims=True)) + peak


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def arcs(blank, logits_btuv, labels_btu):
  """Log probabilities of the blank and of the label ahead at each node.

  Args:
    blank: int.
    logits_btuv: unnormalised scores.
    labels_btu: the label ahead at each node; (b, 1, u) where frames share them.

  Returns:
    blank_btu and emit_btu, float32. Their gradient keeps nothing but the scores
    and their normaliser.
  """
  return _arcs_fwd(blank, logits_btuv, labels_btu)[0]


def _arcs_fwd(blank, logits_btuv, labels_btu):
  log_z_btu1 = _log_sum_exp(logits_btuv.astype(jnp.float32))
  index_btu = jnp.broadcast_to(labels_btu, logits_btuv.shape[:3])
  scores = (
    logits_btuv[..., blank, None],
    jnp.take_along_axis(logits_btuv, index_btu[..., None], axis=3),
  )
  found = tuple((x.astype(jnp.float32) - log_z_btu1)[..., 0] for x in scores)
  return found, (logits_btuv, log_z_btu1, labels_btu)


def _arcs_bwd(blank, residuals, cotangents):
  logits_btuv, log_z_btu1, labels_btu = residuals
  blank_btu1, emit_btu1 = (x_btu[..., None] for x_btu in cotangents)
  node_btu1 = blank_btu1 + emit_btu1
  v_111v = jnp.arange(logits_btuv.shape[3])[None, None, None]
  softmax_btuv = jnp.exp(logits_btuv.astype(jnp.float32) - log_z_btu1)
  # Beyond the lengths, where no path goes, scores may be NaN.
  grad_btuv = jnp.where(node_btu1 == 0, 0.0, -softmax_btuv * node_btu1)
  grad_btuv += jnp.where(v_111v == blank, blank_btu1, 0.0)
  grad_btuv += jnp.where(v_111v == labels_btu[..., None], emit_btu1, 0.0)
  return grad_btuv.astype(logits_btuv.dtype), None


arcs.defvjp(_arcs_fwd, _arcs_bwd)
