"""Divergences between a teacher's outputs and a student's.

Wang et al. 2021, "AlphaNet: Improved Training of Supernets with Alpha-
Divergence", and its released code, for `alpha_divergence`. For transducers the
outputs at a node are reduced to a few symbols and the rest: the teacher's most
probable ones (TODM), or the next label and the blank (Panchapagesan et al.
2021, "Efficient Knowledge Distillation for RNN-Transducer Models").

The teacher is what it is: no gradient goes there.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nasjax.losses import transducer

REDUCTIONS = ('mean', 'sum')
# Below this a probability counts as this much, and has no gradient.
_FLOOR = 1e-8
# How near to 0 or 1 a divergence is the limit there.
_NEAR = 1e-3


class Reduced(NamedTuple):
  """Scores of which some symbols are told apart, and the others are one.

  Attributes:
    log_probs: float32 [.., v]; what stands at symbols that are not told apart
      is never used.
    taken: which are, bool, of a shape that broadcasts; None for all.
    rest: float32 [..], log probability of the others together; None for none.
  """

  log_probs: jax.Array
  taken: jax.Array | None = None
  rest: jax.Array | None = None


def kl_divergence(teacher_logits, student_logits):
  """Kullback-Leibler divergence of the student from the teacher, in nats.

  Args:
    teacher_logits, student_logits: unnormalised scores [.., v], computed in
      float32; or `Reduced` both, of the same symbols.

  Returns:
    float32 [..]; its gradient by the student's scores is q - p.

  Raises:
    ValueError: if they are scores of different numbers of symbols.
  """
  return divergence(teacher_logits, student_logits, 1.0)


def divergence(teacher_logits, student_logits, alpha, clip=5.0):
  """The alpha-divergence of the student from the teacher.

  sum of q (min(r^alpha, clip) - 1) / (alpha (alpha - 1)), r = p / q; its limit
  sum of p log r at alpha 1, unclipped, and at alpha 0 that of -q log r, where r
  is clipped.

  Args:
    teacher_logits, student_logits: as in `kl_divergence`.
    alpha: number.
    clip: largest weight.

  Returns:
    float32 [..]. Differentiated, it is clipped where it is; what trains is
    `alpha_divergence`.
  """
  return _sum(_divergence, teacher_logits, student_logits, alpha, clip)


def alpha_divergence(
  teacher_logits, student_logits, alpha_min=-1.0, alpha_max=1.0, clip=5.0
):
  """What trains a student by the larger of two clipped alpha-divergences.

  Where the student is unsure of what the teacher says, one of them is large,
  and the other where it is sure of what the teacher does not say.

  Args:
    teacher_logits, student_logits: as in `kl_divergence`.
    alpha_min, alpha_max: of the two divergences.
    clip: largest weight (p / q)^alpha of a symbol; none at alpha 1.

  Returns:
    float32 [..]: at each place -sum of sg(q rho) log q, whose gradient is that
    of the larger divergence (but for the clip). It is no divergence: it may be
    negative, and is not 0 where both agree. `divergence` tells how far they
    are.

  Raises:
    ValueError: if the clip is not above 0, or an alpha is not finite; as
      `kl_divergence`.
  """
  if not math.isfinite(alpha_min) or not math.isfinite(alpha_max):
    raise ValueError(
      f'alpha_min is {alpha_min} and alpha_max {alpha_max}; want finite numbers'
    )
  if not clip > 0:
    raise ValueError(f'clip is {clip}; a weight needs more than 0')
  both = teacher_logits, student_logits
  left, right = (
    divergence(*both, alpha, clip) for alpha in (alpha_min, alpha_max)
  )
  return jnp.where(
    jax.lax.stop_gradient(left > right),
    _sum(_surrogate, *both, alpha_min, clip),
    _sum(_surrogate, *both, alpha_max, clip),
  )


def top_symbols(teacher_logits, count):
  """The symbols that have one of the teacher's `count` best scores.

  Symbols of equal scores are taken together.

  Returns:
    bool [.., v].

  Raises:
    ValueError: if no symbol is told apart, or none is left for the rest.
  """
  logits = jax.lax.stop_gradient(jnp.asarray(teacher_logits))
  if count < 1:
    raise ValueError(f'count is {count}; it must be 1 symbol or more')
  if count >= logits.shape[-1]:
    raise ValueError(f'{count} of {logits.shape[-1]} symbols leave no rest')

  # Maxima one after the other, over a leading axis: compilers for CPUs sort for
  # `top_k`, which takes 20 times as long.
  by_symbol = jnp.moveaxis(logits, -1, 0)

  def next_below(least, _):
    below = jnp.where(by_symbol < least[None], by_symbol, -jnp.inf)
    return below.max(0), None

  least = jnp.full(logits.shape[:-1], jnp.inf, logits.dtype)
  least, _ = jax.lax.scan(next_below, least, length=count)
  least = checkpoint_name(least, transducer.KEPT)
  return logits >= least[..., None]


def label_and_blank(labels_bl, label_len_b, symbols, blank=0):
  """The symbols that lead on from each node: bool [b, 1, u, v]."""
  labels_bu = transducer.labels_ahead(
    jnp.asarray(labels_bl), jnp.asarray(label_len_b), blank
  )
  symbol_11v = jnp.arange(symbols)[None, None]
  taken_buv = (labels_bu[..., None] == symbol_11v) | (symbol_11v == blank)
  return taken_buv[:, None]


def reduced(logits, taken):
  """Returns the `Reduced` of unnormalised scores [.., v].

  Args:
    logits: scores.
    taken: which symbols are told apart, bool, of a shape that broadcasts.
  """
  log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
  # Summed, not subtracted from 1: small ones keep their precision.
  rest = jnp.where(taken, 0.0, jnp.exp(log_probs)).sum(-1)
  # A mask, not an index: to gather is slow on CPUs, its gradient slower.
  return Reduced(
    jnp.maximum(log_probs, jnp.log(_FLOOR)),
    taken,
    jnp.log(jnp.maximum(rest, _FLOOR)),
  )


def over_nodes(loss_btu, len_b, label_len_b, reduction='mean'):
  """Mean or sum over the nodes of each utterance; 0 for one without frames.

  Args:
    loss_btu: u from 0 to L labels said.
    len_b: frames.
    label_len_b: labels.
    reduction: 'mean' or 'sum'.

  Raises:
    ValueError: if the reduction is neither.
  """
  if reduction not in REDUCTIONS:
    raise ValueError(
      f'reduction is {reduction!r}; it must be one of {REDUCTIONS}'
    )
  frames, columns = loss_btu.shape[1:]
  inside_bt = jnp.arange(frames)[None] < len_b[:, None]
  inside_bu = jnp.arange(columns)[None] <= label_len_b[:, None]
  inside_btu = inside_bt[:, :, None] & inside_bu[:, None]
  sum_b = jnp.where(inside_btu, loss_btu, 0.0).sum(axis=(1, 2))
  if reduction == 'sum':
    return sum_b
  return sum_b / jnp.maximum(inside_btu.sum(axis=(1, 2)), 1)


def distilled_transducer_loss(
  join,
  teacher,
  student,
  len_b,
  labels_bl,
  label_len_b,
  blank=0,
  count=10,
  differ=kl_divergence,
  reduction='mean',
  chunk=None,
):
  """The student's transducer loss, and how far it is from its teacher.

  Both joiners run for some frames at a time: the scores of all nodes never
  exist, neither the teacher's nor the student's.

  Args:
    join: the joiner, see `transducer.chunked_transducer_loss`.
    teacher, student: params, enc_btd and pred_bud of each.
    len_b, labels_bl, label_len_b, blank: as in `transducer.transducer_loss`.
    count: how many of the teacher's most probable symbols are told apart at a
      node; None for the next label and the blank.
    differ: of two `Reduced`, teacher's and student's, the divergence at each
      place.
    reduction: over nodes, see `over_nodes`.
    chunk: frames at a time; None for as many as make 64 MiB of scores.

  Returns:
    loss_b and feasible_b, as `transducer.transducer_loss`, and apart_b.

  Raises:
    ValueError: as `transducer.chunked_transducer_loss`, `top_symbols` and
      `over_nodes`.
  """
  len_b, labels_bl, label_len_b = (
    jnp.asarray(x, jnp.int32) for x in (len_b, labels_bl, label_len_b)
  )
  lengths = len_b, label_len_b
  told, teacher_enc_btd, teacher_bud = jax.lax.stop_gradient(teacher)
  params, enc_btd, pred_bud = student
  teacher_enc_btd, teacher_bud = transducer.inputs(
    teacher_enc_btd, teacher_bud, *lengths
  )
  enc_btd, pred_bud = transducer.inputs(enc_btd, pred_bud, *lengths)
  one = jax.eval_shape(
    join, params, enc_btd[:, :1, None], pred_bud[:, None]
  ).shape
  shape = (one[0], enc_btd.shape[1], *one[2:])
  transducer.check(shape, len_b, labels_bl, label_len_b, blank)
  labels_bu = transducer.labels_ahead(labels_bl, label_len_b, blank)

  def some(frames):
    teacher_enc_btd, enc_btd = frames
    teacher_btuv = join(told, teacher_enc_btd[:, :, None], teacher_bud[:, None])
    student_btuv = join(params, enc_btd[:, :, None], pred_bud[:, None])
    if count is None:
      taken = label_and_blank(labels_bl, label_len_b, shape[3], blank)
    else:
      taken = top_symbols(teacher_btuv, count)
    apart_btu = differ(
      reduced(teacher_btuv, taken), reduced(student_btuv, taken)
    )
    arcs = transducer.arcs(blank, student_btuv, labels_bu[:, None])
    return *arcs, apart_btu

  *arcs, apart_btu = transducer.in_chunks(
    some, (teacher_enc_btd, enc_btd), one, chunk
  )
  loss_b, feasible_b = transducer.loss(*arcs, *lengths)
  return loss_b, feasible_b, over_nodes(apart_btu, *lengths, reduction)


def _scores(scores):
  if isinstance(scores, Reduced):
    return scores
  return Reduced(jax.nn.log_softmax(jnp.asarray(scores, jnp.float32)))


def _sum(terms, teacher, student, alpha, clip):
  """Sums terms of (log p, log q, alpha, clip) over all symbols."""
  teacher, student = _scores(teacher), _scores(student)
  teacher = jax.lax.stop_gradient(teacher)
  logs, taken = (teacher.log_probs, student.log_probs), teacher.taken
  if logs[0].shape[-1] != logs[1].shape[-1]:
    raise ValueError(
      f"shapes of teacher's and student's scores are {logs[0].shape} and "
      f'{logs[1].shape}; they must be of the same symbols'
    )
  if taken is None:
    return terms(*logs, alpha, clip).sum(-1)
  # In front, too: nothing that is not used may make NaN of a gradient.
  logs = (jnp.where(taken, log, 0.0) for log in logs)
  own = jnp.where(taken, terms(*logs, alpha, clip), 0.0).sum(-1)
  return own + terms(teacher.rest, student.rest, alpha, clip)


def _log_ratio(log_p, log_q):
  # Of what both rule out they say the same.
  both = jnp.isneginf(log_p) & jnp.isneginf(log_q)
  return jnp.where(both, 0.0, log_p - log_q)


def _weight(log_p, log_q, alpha, clip):
  return jnp.minimum(jnp.exp(alpha * _log_ratio(log_p, log_q)), clip)


def _divergence(log_p, log_q, alpha, clip):
  if abs(alpha - 1) < _NEAR:
    # What the teacher rules out adds nothing, whatever the student says.
    p = jnp.exp(log_p)
    return jnp.where(p > 0, p * (log_p - log_q), 0.0)
  q = jnp.exp(log_q)
  if abs(alpha) < _NEAR:
    log_r = jnp.minimum(_log_ratio(log_p, log_q), jnp.log(clip))
    return jnp.where(q > 0, -q * log_r, 0.0)
  weight = _weight(log_p, log_q, alpha, clip)
  return q * (weight - 1) / (alpha * (alpha - 1))


def _surrogate(log_p, log_q, alpha, clip):
  """Returns what has the gradient of a divergence; see `alpha_divergence`."""
  q = jnp.exp(log_q)
  if abs(alpha - 1) < _NEAR:
    factor = jnp.exp(log_p)
  elif abs(alpha) < _NEAR:
    factor = q * (jnp.minimum(_log_ratio(log_p, log_q), jnp.log(clip)) - 1)
  else:
    weight = _weight(log_p, log_q, alpha, clip)
    factor = q * (weight / alpha + 1 / (alpha * (alpha - 1)))
  factor = jax.lax.stop_gradient(factor)
  return -jnp.where(factor == 0, 0.0, factor * log_q)
