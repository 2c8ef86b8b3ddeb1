"""CTC-CRF: a conditional random field with the topology of CTC.

Xiang and Ou 2019, "CRF-based single-stage acoustic modeling with CTC topology".
A path has the potential sum_t log p(path_t | x) + log p_LM of
the labels that it collapses to, and a transcript's probability is the share of
its paths in Z, the sum over all paths. Without its constant, log p_LM of the
transcript, the loss is

  log Z - (1 + ctc_weight) log p_ctc(transcript | x).

Z is summed in probability space, scaled frame by frame: that is safe where the
language model can go from anywhere to anything, as smoothed ones can. For each
history of the language model there are two masses, n (its last label was
emitted in this frame) and b (a blank was). The numerator must reach one end,
so it stays in log space (`ctc.ctc_loss`).

Per frame and utterance, with V symbols, S states and A arcs: V ** 2
multiply-adds for a bigram, V ** 3 for a trigram, and A for a pruned model; the
gradient takes three times that, for it keeps only every sqrt(T)th frame's
masses and finds the others again.

Value and gradient of 16 utterances of 300 frames and 49 symbols, least and
median of 15 on two cores of an AMD EPYC that other work kept busy: bigram 7.6
and 13.3 ms, trigram 83 and 104 ms, pruned 4-gram of 31,000 arcs 164 and 210 ms,
beside 11 and 14 ms for CTC. Without native kernels: trigram 366 and 540 ms,
pruned 4-gram of 38,700 arcs 825 and 1,608 ms.
"""

import functools
import math

import jax
import jax.numpy as jnp

from nasjax import kernels as native
from nasjax.kernels.crf import crf
from nasjax.losses import ctc
from nasjax.losses.denominators import Bigram as Bigram
from nasjax.losses.denominators import Sparse as Sparse
from nasjax.losses.denominators import Trigram as Trigram
from nasjax.losses.denominators import denominator as denominator

# A backward variable is the inverse of a forward one, which may vanish.
_LARGEST = 1e30


def ctc_crf_loss(
  logits_btv,
  logit_len_b,
  labels_bu,
  label_len_b,
  denominator,
  ctc_weight=0.01,
  kernels=None,
):
  """Negative log likelihood of each transcript, up to a constant, in nats.

  The constant is log p_LM of the transcript (`ngram.log_prob`): the loss less
  it is the negative log likelihood of the CRF, plus `ctc_weight` times that of
  CTC, and not negative.

  Args:
    logits_btv: see `ctc.ctc_loss`, as the next three; the blank is 0.
    logit_len_b: frames.
    labels_bu: transcripts.
    label_len_b: labels.
    denominator: what `denominator` returned.
    ctc_weight: of the CTC loss beside the CRF's. 0.01 for Wall Street Journal,
      0.1 for Switchboard in published recipes.
    kernels: see `log_partition`.

  Returns:
    loss_b, float32, and feasible_b. Where the frames are too few for the labels
    or the language model has no sentence for them (Z is 0), feasible_b is
    False, and loss and gradient are exactly 0.

  Raises:
    ValueError: if shapes or vocabularies disagree.
  """
  nll_b, feasible_b = ctc.ctc_loss(
    logits_btv, logit_len_b, labels_bu, label_len_b
  )
  log_z_b = log_partition(logits_btv, logit_len_b, denominator, kernels)
  feasible_b &= log_z_b != -jnp.inf
  loss_b = log_z_b + (1.0 + ctc_weight) * nll_b
  return jnp.where(feasible_b, loss_b, 0.0), feasible_b


def mean_ctc_crf_loss(
  logits_btv,
  logit_len_b,
  labels_bu,
  label_len_b,
  denominator,
  ctc_weight=0.01,
  weight_b=None,
  normalise='none',
  axis=None,
  kernels=None,
):
  """Mean CTC-CRF loss of a batch, as one number.

  Args:
    logits_btv: see `ctc_crf_loss`, as the next five.
    logit_len_b: frames.
    labels_bu: transcripts.
    label_len_b: labels.
    denominator: of the language model.
    ctc_weight: of the CTC loss.
    weight_b: see `ctc.mean_ctc_loss`, as the next two.
    normalise: what divides the loss of a row; nothing in the paper.
    axis: name of a mapped axis, or None.
    kernels: see `log_partition`.

  Returns:
    What `ctc.mean_ctc_loss` does, of this loss.

  Raises:
    ValueError: as `ctc_crf_loss`, and for an unknown `normalise`.
  """
  loss_b, feasible_b = ctc_crf_loss(
    logits_btv,
    logit_len_b,
    labels_bu,
    label_len_b,
    denominator,
    ctc_weight,
    kernels,
  )
  lengths = logit_len_b, label_len_b
  return ctc.mean_loss(loss_b, feasible_b, *lengths, weight_b, normalise, axis)


def log_partition(logits_btv, logit_len_b, denominator, kernels=None):
  """Log Z: the log of the sum over all paths of the exponential potential.

  Args:
    logits_btv: unnormalised scores in any float type; computed in float32. What
      stands beyond an utterance's length is never used, be it NaN.
    logit_len_b: frames of each utterance, integers from 0 to T.
    denominator: what `denominator` returned.
    kernels: 'native' or 'xla', or None for what `kernels.choose` says. A bigram
      always takes XLA.

  Returns:
    log_z_b, float32 and never positive but for rounding; NaN for an utterance
    with NaN or +inf among its scores, -inf where no path has a sentence. That
    may also be where the probabilities of an unsmoothed model's paths are below
    what float32 holds (1e-38 of those of the likeliest beginnings). The
    gradient is the probability of each symbol in each frame less the softmax.

  Raises:
    ValueError: if shapes or vocabularies disagree, or `kernels` is neither.
  """
  kernels = native.choose() if kernels is None else kernels
  if kernels not in native.KINDS:
    raise ValueError(
      f'kernels is {kernels!r}; it must be one of {native.KINDS}'
    )
  logits_btv, logit_len_b = jnp.asarray(logits_btv), jnp.asarray(logit_len_b)
  if logits_btv.ndim != 3 or logit_len_b.shape != logits_btv.shape[:1]:
    raise ValueError(
      f'shapes of logits and lengths are {logits_btv.shape} and '
      f'{logit_len_b.shape}; they must be (B, T, V) and (B,)'
    )
  is_sparse = isinstance(denominator, Sparse)
  symbols = (denominator.count_v if is_sparse else denominator.ends()).shape[0]
  if logits_btv.shape[2] != symbols:
    raise ValueError(
      f'logits have {logits_btv.shape[2]} symbols and the language model '
      f'{symbols}; estimate it with the vocabulary of the network, blank '
      'included'
    )
  logits_btv = logits_btv.astype(jnp.float32)
  return _log_z(kernels, logits_btv, logit_len_b, denominator)


def _over_states(y_b, x):
  """Gives a number of each utterance the rank of masses."""
  return y_b.reshape((1,) * (x.ndim - 1) + y_b.shape)


def _total(x):
  """Sums masses over their states, an axis at a time: that is faster."""
  while x.ndim > 1:
    x = x.sum(axis=-2)
  return x


def _inverse(x):
  """1 / x, and 0 for 0."""
  return jnp.where(x == 0, 0.0, 1.0 / jnp.where(x == 0, 1.0, x))


def _scores(logits_btv, logit_len_b):
  """Returns probabilities, log probabilities and which frames count.

  Frames that do not count are certain blanks: these change no path's
  probability.
  """
  valid_bt = jnp.arange(logits_btv.shape[1])[None, :] < logit_len_b[:, None]
  valid_bt1 = valid_bt[:, :, None]
  p_btv = jax.nn.softmax(jnp.where(valid_bt1, logits_btv, 0.0))
  blank_v = jax.nn.one_hot(0, logits_btv.shape[2])
  return jnp.where(valid_bt1, p_btv, blank_v[None, None, :]), valid_bt


def _chunks(q_btv):
  """Cuts the frames in chunks; the last is filled up with certain blanks.

  Returns:
    q_ktvb, about as many chunks as frames in each.
  """
  q_tvb = q_btv.transpose(1, 2, 0)
  chunk = max(1, math.isqrt(q_tvb.shape[0]))
  q_tvb = jnp.pad(q_tvb, ((0, -q_tvb.shape[0] % chunk), (0, 0), (0, 0)))
  beyond_t = jnp.arange(q_tvb.shape[0]) >= q_btv.shape[1]
  blank_v = jnp.arange(q_tvb.shape[1]) == 0
  q_tvb += (beyond_t[:, None] & blank_v[None, :])[:, :, None]
  return q_tvb.reshape(-1, chunk, *q_tvb.shape[1:])


def _step(den, masses, q_vb):
  """One frame forward.

  Returns:
    the masses (n, b) after it, and the total of those before, by which they
    are divided.
  """
  emitted, blank = masses
  both = emitted + blank
  total_b = _total(both)
  q_vb = q_vb * _inverse(total_b)[None, :]
  new = den.emitted(q_vb) * (emitted + den.arrive(both, blank))
  return (new, _over_states(q_vb[0], both) * both), total_b


def _step_back(den, ahead, frame):
  """One frame back, from what lies ahead of the masses after it.

  Returns:
    what lies ahead of the masses before it, and the frame's symbols, by their
    probability.
  """
  emitted_ahead, blank_ahead = ahead
  (emitted, blank), q_vb, total_b = frame
  occupancy_vb = den.by_label(emitted * emitted_ahead)
  occupancy_vb = occupancy_vb.at[0].add(_total(blank * blank_ahead))
  q_vb = q_vb * _inverse(total_b)[None, :]
  onward = den.emitted(q_vb) * emitted_ahead
  new, repeat = den.depart(onward)
  new = new + _over_states(q_vb[0], blank_ahead) * blank_ahead
  ahead = (
    jnp.minimum(new + onward, _LARGEST),
    jnp.minimum(new + repeat, _LARGEST),
  )
  # Rounding that the recursions gathered cancels.
  return ahead, occupancy_vb * _inverse(occupancy_vb.sum(axis=0))[None, :]


def _forward(den, q_ktvb):
  """Runs over all frames.

  Returns:
    log_z_b, the masses before each chunk, the totals before each frame, and the
    weights of the ends, divided by Z.
  """
  start = den.initial(q_ktvb.shape[-1])

  def chunk(masses, q_tvb):
    after, total_tb = jax.lax.scan(functools.partial(_step, den), masses, q_tvb)
    return after, (masses, total_tb)

  last, (masses, total_ktb) = jax.lax.scan(
    chunk, (jnp.zeros_like(start), start), q_ktvb
  )
  ends = jnp.broadcast_to(den.ends()[..., None], start.shape)
  final_b = _total(ends * (last[0] + last[1]))
  log_z_b = jnp.log(total_ktb).sum(axis=(0, 1)) + jnp.log(final_b)
  ends = ends * _over_states(_inverse(final_b), ends)
  return log_z_b, masses, total_ktb, ends


def _backward(den, q_ktvb, masses, total_ktb, ends):
  """Runs back over all frames, from what `_forward` returned.

  Returns:
    occupancy_btv, how probable each symbol is in each frame.
  """

  def keep(masses, q_vb):
    masses, _ = _step(den, masses, q_vb)
    return masses, masses

  def chunk(ahead, inputs):
    masses, q_tvb, total_tb = inputs
    _, every = jax.lax.scan(keep, masses, q_tvb)
    return jax.lax.scan(
      functools.partial(_step_back, den),
      ahead,
      (every, q_tvb, total_tb),
      reverse=True,
    )

  _, occupancy_ktvb = jax.lax.scan(
    chunk, (ends, ends), (masses, q_ktvb, total_ktb), reverse=True
  )
  return occupancy_ktvb.reshape(-1, *q_ktvb.shape[2:]).transpose(2, 0, 1)


def _natively(q_btv, logit_len_b, den, occupancy):
  if isinstance(den, Trigram):
    return crf('trigram', q_btv, logit_len_b, den, occupancy)
  arrays = (*den.escape, *den.arcs, *den.repeats)
  arrays += (den.label_s, den.end_s, den.start_s)
  return crf('sparse', q_btv, logit_len_b, arrays, occupancy)


def _value(kernels, logits_btv, logit_len_b, den):
  q_btv, _ = _scores(logits_btv, logit_len_b)
  if kernels == 'native' and not isinstance(den, Bigram):
    return _natively(q_btv, logit_len_b, den, occupancy=False)[0]
  return _forward(den, _chunks(q_btv))[0]


def _value_and_grad(kernels, logits_btv, logit_len_b, den):
  q_btv, valid_bt = _scores(logits_btv, logit_len_b)
  if kernels == 'native' and not isinstance(den, Bigram):
    log_z_b, occupancy_btv = _natively(q_btv, logit_len_b, den, occupancy=True)
  else:
    q_ktvb = _chunks(q_btv)
    log_z_b, *rest = _forward(den, q_ktvb)
    occupancy_btv = _backward(den, q_ktvb, *rest)[:, : q_btv.shape[1]]
  # Without a path there is nothing to weigh.
  counts_bt = valid_bt & (log_z_b != -jnp.inf)[:, None]
  grad_btv = jnp.where(counts_bt[:, :, None], occupancy_btv - q_btv, 0.0)
  return log_z_b, grad_btv


def _pull_back(kernels, grad_btv, cotangent_b):
  del kernels
  cotangent_b11 = cotangent_b[:, None, None]
  # A row that is given no weight may hold NaN.
  grad_btv = jnp.where(cotangent_b11 == 0, 0.0, grad_btv * cotangent_b11)
  return grad_btv, None, None


_log_z = jax.custom_vjp(_value, nondiff_argnums=(0,))
_log_z.defvjp(_value_and_grad, _pull_back)
