"""Sums over the paths of a transducer, from log probabilities of their arcs.

A node (t, u) has seen t frames and said u labels. From it a blank leads to
(t + 1, u) and the next label to (t, u + 1); a path begins at (0, 0) and ends
with the blank that leaves the last frame behind the last label. Every arc goes
from a diagonal t + u to the next, so a diagonal is computed at once from the
one before it, and all paths cross it in one node each: that gives the scale
that keeps its numbers near 0, and at which its masses sum to 1.
"""

import functools

import jax
import jax.numpy as jnp

from nasjax.losses import ctc

_DEAD = 0.5 * ctc.LOG_ZERO


@jax.custom_vjp
def nll(blank_btu, emit_btu, len_b, label_len_b):
  """Negative log of the summed probability of all paths, in nats.

  Args:
    blank_btu: log probability of the blank at each node.
    emit_btu: that of the next label; what stands at the last u, where there is
      none, is never used, nor what stands beyond an utterance's lengths.
    len_b: frames, at least 1; or 0, with 0 labels, for what has no paths.
    label_len_b: labels.

  Returns:
    nll_b, float32: inf where all paths have probability 0, and 0 for what has
    none. Its gradient is less the mass of each arc, `occupancies`.
  """
  arcs = _masked(blank_btu, emit_btu, len_b, label_len_b)
  x_nub, offset_nb = _sweep(_forward_arcs(*arcs, len_b, label_len_b))
  return _final(x_nub, offset_nb, len_b, label_len_b)


def occupancies(blank_btu, emit_btu, len_b, label_len_b):
  """Returns what `nll` does, and the share of the paths' mass at each arc.

  Returns:
    nll_b, and of blanks and of labels the probability that a path takes that
    arc, given that it is one of the transcript's: both [btu], 0 beyond an
    utterance's lengths. At each node they sum to the mass of the node.
  """
  frames = blank_btu.shape[1]
  lengths = len_b, label_len_b
  arcs = _masked(blank_btu, emit_btu, *lengths)
  both = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=-1),
    _forward_arcs(*arcs, *lengths),
    _backward_arcs(*arcs, *lengths),
  )
  x_nub, offset_nb = _sweep(both)
  batch = len_b.shape[0]
  before_nub, ahead_nub = x_nub[..., :batch], x_nub[::-1, ::-1, batch:]
  nll_b = _final(before_nub, offset_nb[:, :batch], *lengths)

  log_node_nub = before_nub + ahead_nub
  node_nub = jnp.exp(log_node_nub - log_node_nub.max(axis=1, keepdims=True))
  node_nub = node_nub / node_nub.sum(axis=1, keepdims=True)
  # Where a path goes on from its node: that both ways sum to the node's mass
  # holds but for one rounding, whatever the recursion gathered.
  blank_nub, emit_nub = arcs
  next_nub = jnp.pad(
    ahead_nub[1:], ((0, 1), (0, 1), (0, 0)), constant_values=ctc.LOG_ZERO
  )
  odds_nub = blank_nub + next_nub[:, :-1] - (emit_nub + next_nub[:, 1:])
  valid_btu, _ = _valid(blank_btu, *lengths)
  masses = [
    jnp.where(valid_btu, _unskewed(node_nub * share_nub, frames), 0.0)
    for share_nub in (jax.nn.sigmoid(odds_nub), jax.nn.sigmoid(-odds_nub))
  ]
  return nll_b, *masses


def _with_residuals(*arguments):
  nll_b, *masses = occupancies(*arguments)
  return nll_b, masses


def _pull_back(masses, cotangent_b):
  cotangent_b11 = cotangent_b[:, None, None]
  # A row that is given no weight may hold NaN.
  grads = [
    jnp.where(cotangent_b11 == 0, 0.0, -mass_btu * cotangent_b11)
    for mass_btu in masses
  ]
  return *grads, None, None


nll.defvjp(_with_residuals, _pull_back)


def _valid(x_btu, len_b, label_len_b):
  """Which nodes there are, and which of them have a label ahead."""
  inside_bt1 = (jnp.arange(x_btu.shape[1])[None] < len_b[:, None])[:, :, None]
  u_1u = jnp.arange(x_btu.shape[2])[None]
  node_b1u = (u_1u <= label_len_b[:, None])[:, None]
  label_b1u = (u_1u < label_len_b[:, None])[:, None]
  return inside_bt1 & node_b1u, inside_bt1 & label_b1u


def _masked(blank_btu, emit_btu, len_b, label_len_b):
  """Takes away the arcs that are not there; returns both by diagonals."""
  node_btu, label_btu = _valid(blank_btu, len_b, label_len_b)
  # From the last frame the blank leads on only behind the last label.
  is_last_bt = jnp.arange(blank_btu.shape[1])[None] == len_b[:, None] - 1
  node_btu &= ~(is_last_bt[:, :, None] & label_btu)
  return [
    _skewed(jnp.where(valid, jnp.maximum(x_btu, ctc.LOG_ZERO), ctc.LOG_ZERO))
    for valid, x_btu in ((node_btu, blank_btu), (label_btu, emit_btu))
  ]


def _skewed(x_btu):
  """By diagonals: x_nub, n = t + u, from 0 to T + U where the ends lie."""
  batch, frames, columns = x_btu.shape
  width = frames + columns
  # Rows that are longer by one than those they are read as: each begins one
  # place further to the right.
  x_utb = jnp.pad(
    x_btu.transpose(2, 1, 0),
    ((0, 0), (0, columns + 1), (0, 0)),
    constant_values=ctc.LOG_ZERO,
  )
  x_rb = x_utb.reshape(columns * (width + 1), batch)[: columns * width]
  return x_rb.reshape(columns, width, batch).transpose(1, 0, 2)


def _unskewed(x_nub, frames):
  """The inverse of `_skewed`."""
  width, columns, batch = x_nub.shape
  x_rb = x_nub.transpose(1, 0, 2).reshape(columns * width, batch)
  x_utb = jnp.pad(x_rb, ((0, columns), (0, 0))).reshape(columns, -1, batch)
  return x_utb[:, :frames].transpose(2, 1, 0)


def _is_end(shape, len_b, label_len_b):
  """Where the paths end: past the last frame, behind the last label."""
  n_n11 = jnp.arange(shape[0])[:, None, None]
  u_1u1 = jnp.arange(shape[1])[None, :, None]
  last_11b = (len_b + label_len_b)[None, None]
  return (n_n11 == last_11b) & (u_1u1 == label_len_b[None, None])


def _forward_arcs(blank_nub, emit_nub, len_b, label_len_b):
  """What leads to each node, and which nodes paths begin at, for `_sweep`."""
  del len_b, label_len_b
  pad = functools.partial(jnp.pad, constant_values=ctc.LOG_ZERO)
  stay_nub = pad(blank_nub[:-1], ((1, 0), (0, 0), (0, 0)))
  move_nub = pad(emit_nub[:-1, :-1], ((1, 0), (1, 0), (0, 0)))
  is_start_nub = jnp.zeros(blank_nub.shape, bool).at[0, 0].set(True)
  return stay_nub, move_nub, is_start_nub


def _backward_arcs(blank_nub, emit_nub, len_b, label_len_b):
  """The same for paths read from their ends, diagonals and labels too."""
  is_end_nub = _is_end(blank_nub.shape, len_b, label_len_b)
  return tuple(x[::-1, ::-1] for x in (blank_nub, emit_nub, is_end_nub))


def _sweep(arcs):
  """Sums over the ways to each node, a diagonal after the other.

  Returns:
    x_nub, log sums less the offsets up to their diagonal, and offset_nb.
  """

  def step(x_ub, diagonal):
    stay_ub, move_ub, is_start_ub = diagonal
    moved_ub = jnp.pad(
      x_ub[:-1], ((1, 0), (0, 0)), constant_values=ctc.LOG_ZERO
    )
    x_ub = ctc.logaddexp(x_ub + stay_ub, moved_ub + move_ub)
    x_ub = jnp.where(is_start_ub, 0.0, x_ub)
    peak_b = x_ub.max(axis=0)
    offset_b = jnp.where(peak_b > _DEAD, peak_b, 0.0)
    x_ub = x_ub - offset_b[None]
    return x_ub, (x_ub, offset_b)

  nothing_ub = jnp.full(arcs[0].shape[1:], ctc.LOG_ZERO)
  return jax.lax.scan(step, nothing_ub, arcs)[1]


def _final(x_nub, offset_nb, len_b, label_len_b):
  """The loss, from the sums over the ways from the beginning."""
  is_end_nub = _is_end(x_nub.shape, len_b, label_len_b)
  counts_nb = jnp.arange(len(offset_nb))[:, None] <= (len_b + label_len_b)[None]
  log_b = jnp.where(is_end_nub, x_nub, 0.0).sum(axis=(0, 1))
  log_b = log_b + jnp.where(counts_nb, offset_nb, 0.0).sum(axis=0)
  nll_b = -log_b
  return jnp.where(
    nll_b > -0.1 * ctc.LOG_ZERO, jnp.inf, jnp.maximum(nll_b, 0.0)
  )
