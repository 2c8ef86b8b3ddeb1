"""Denominators of CTC-CRF: language models laid out for sums over paths.

Each is a tree of arrays with the same functions, over masses of states whose
last axis is the batch: `initial`, `arrive`, `depart` (the transpose of
`arrive`), `emitted`, `by_label` and `ends`. A state is a history of the
language model. A label other than the last may follow both masses of a state,
and the same label only a blank: so `arrive` takes the sum of both masses, and
that after a blank.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.losses import ngram


class Bigram(NamedTuple):
  """Denominator of a dense bigram; a state is the last label, 0 at the start.

  Attributes:
    arc_wv: probability of label w after v; 0 where they are the same, and for
      w = 0.
    repeat_v: probability of label v after v.
    end_v: probability of the end.
  """

  arc_wv: jax.Array
  repeat_v: jax.Array
  end_v: jax.Array

  def initial(self, batch):
    return jnp.zeros((*self.end_v.shape, batch)).at[0].set(1.0)

  def arrive(self, all_vb, blank_vb):
    """Mass that arrives at each state by a new label."""
    return _dot(self.arc_wv, all_vb) + self.repeat_v[:, None] * blank_vb

  def depart(self, ahead_vb):
    """What lies ahead of each state by a new label, and by a repeated one."""
    ahead = _dot(self.arc_wv.T, ahead_vb)
    return ahead, self.repeat_v[:, None] * ahead_vb

  def emitted(self, q_vb):
    """Scores of each state's last label."""
    return q_vb

  def by_label(self, x_vb):
    """Sums of the states over their last label."""
    return x_vb

  def ends(self):
    return self.end_v


class Trigram(NamedTuple):
  """Denominator of a dense trigram; a state is the last label and the one
  before.

  Attributes:
    arc_vwu: probability of label w after u and v; 0 where w is v, and for
      w = 0.
    repeat_vu: probability of label v after u and v.
    end_vu: probability of the end after u and v.
  """

  arc_vwu: jax.Array
  repeat_vu: jax.Array
  end_vu: jax.Array

  def initial(self, batch):
    return jnp.zeros((*self.end_vu.shape, batch)).at[0, 0].set(1.0)

  def arrive(self, all_vub, blank_vub):
    new_vwb = _dot(self.arc_vwu, all_vub)
    repeat_vb = jnp.sum(self.repeat_vu[:, :, None] * blank_vub, axis=1)
    is_repeat_vv = jnp.eye(self.end_vu.shape[0], dtype=bool)
    return jnp.where(
      is_repeat_vv[:, :, None], repeat_vb[:, None], new_vwb.transpose(1, 0, 2)
    )

  def depart(self, ahead_wvb):
    ahead_vub = _dot(
      self.arc_vwu.transpose(0, 2, 1), ahead_wvb.transpose(1, 0, 2)
    )
    labels = jnp.arange(self.end_vu.shape[0])
    repeat_vb = ahead_wvb[labels, labels]
    return ahead_vub, self.repeat_vu[:, :, None] * repeat_vb[:, None]

  def emitted(self, q_vb):
    return q_vb[:, None]

  def by_label(self, x_vub):
    return x_vub.sum(axis=1)

  def ends(self):
    return self.end_vu


class Product(NamedTuple):
  """A sparse matrix, for products with masses.

  Attributes:
    row_a: int32, the row of each entry, ascending.
    column_a: int32.
    weight_a: float32.
  """

  row_a: jax.Array
  column_a: jax.Array
  weight_a: jax.Array

  def times(self, x_sb):
    """Product of the matrix with x_sb; both have one row a state."""
    terms_ab = self.weight_a[:, None] * _at(x_sb, self.column_a)
    return jax.ops.segment_sum(
      terms_ab, self.row_a, x_sb.shape[0], indices_are_sorted=True
    )

  def transposed_times(self, x_sb):
    """Product of the transposed matrix with x_sb."""
    terms_ab = self.weight_a[:, None] * _at(x_sb, self.row_a)
    return jax.ops.segment_sum(terms_ab, self.column_a, x_sb.shape[0])


class Sparse(NamedTuple):
  """Denominator of a pruned language model; states are its own.

  Attributes:
    escape: what leads to each state by forgetting.
    arcs: what leads to it by a label other than the last.
    repeats: what leads to it by the same label, forgetting included.
    label_s: int32, the last label of each state, ascending; 0 at the start.
    end_s: probability of the end, forgetting included.
    start_s: 1 for the first state.
    count_v: int32, states by their last label.
  """

  escape: Product
  arcs: Product
  repeats: Product
  label_s: jax.Array
  end_s: jax.Array
  start_s: jax.Array
  count_v: jax.Array

  def initial(self, batch):
    return jnp.repeat(self.start_s[:, None], batch, axis=1)

  def arrive(self, all_sb, blank_sb):
    all_sb = all_sb + self.escape.times(all_sb)
    return self.arcs.times(all_sb) + self.repeats.times(blank_sb)

  def depart(self, ahead_sb):
    new_sb = self.arcs.transposed_times(ahead_sb)
    new_sb = new_sb + self.escape.transposed_times(new_sb)
    return new_sb, self.repeats.transposed_times(ahead_sb)

  def emitted(self, q_vb):
    return _at(q_vb, self.label_s)

  def by_label(self, x_sb):
    return jax.ops.segment_sum(
      x_sb, self.label_s, self.count_v.size, indices_are_sorted=True
    )

  def ends(self):
    return self.end_s


def denominator(lm):
  """Lays out a language model for `log_partition`.

  Args:
    lm: an `ngram.Dense` of order 2 or 3, or an `ngram.Pruned`.

  Returns:
    A `Bigram`, `Trigram` or `Sparse`: a tree of arrays that compiled programs
    take as an argument.

  Raises:
    ValueError: a dense model of another order.
  """
  if isinstance(lm, ngram.Pruned):
    return _sparse(lm)
  order = lm.probs.ndim
  if order not in (2, 3):
    raise ValueError(
      f'there is no dense denominator of order {order}; take 2 or 3, or '
      'ngram.estimate_pruned'
    )
  probs = lm.probs.astype(np.float32)
  repeat = np.diagonal(probs, axis1=-2, axis2=-1).copy()
  end = probs[..., 0]
  arcs = np.where(np.eye(probs.shape[-1], dtype=bool), 0, probs)
  arcs[..., 0] = 0
  # The start comes back with no label.
  repeat[..., 0] = 0
  if order == 2:
    return Bigram(*map(jnp.asarray, (arcs.T, repeat, end)))
  arrays = (arcs.transpose(1, 2, 0), repeat.T, end.T)
  return Trigram(*map(jnp.asarray, arrays))


def _sparse(lm):
  states = len(lm.histories)
  label_s = np.array([history[-1] for history in lm.histories], np.int32)
  # Every way to forget, from an origin into a state; none at first.
  into = [np.arange(states)]
  origin, weight = [into[0]], [np.ones(states)]
  while into[-1].size:
    going = lm.escape_s[into[-1]] > 0
    weight.append((weight[-1] * lm.escape_s[into[-1]])[going])
    origin.append(origin[-1][going])
    into.append(lm.suffix_s[into[-1]][going])
  escape = [np.concatenate(x[1:]) for x in (into, origin, weight)]
  into, origin, weight = map(np.concatenate, (into, origin, weight))
  same_a = lm.symbol_a == label_s[lm.source_a]
  # A label is repeated along at most one arc of a state.
  arc_s = np.full(states, -1)
  arc_s[lm.source_a[same_a]] = np.flatnonzero(same_a)
  has = arc_s[into] >= 0
  arcs = arc_s[into[has]]
  return Sparse(
    _product(*escape),
    _product(lm.target_a[~same_a], lm.source_a[~same_a], lm.prob_a[~same_a]),
    _product(lm.target_a[arcs], origin[has], weight[has] * lm.prob_a[arcs]),
    jnp.asarray(label_s),
    jnp.asarray(np.bincount(origin, weight * lm.end_s[into]), jnp.float32),
    jnp.zeros(states, jnp.float32).at[lm.start].set(1.0),
    jnp.asarray(np.bincount(label_s, minlength=lm.symbols), jnp.int32),
  )


def _product(row_a, column_a, weight_a):
  order = np.lexsort((column_a, row_a))
  return Product(
    jnp.asarray(row_a[order], jnp.int32),
    jnp.asarray(column_a[order], jnp.int32),
    jnp.asarray(weight_a[order], jnp.float32),
  )


def _dot(a, x):
  """Product over a's last axis and x's last but one."""
  batch = tuple(range(a.ndim - 2))
  return jax.lax.dot_general(
    a,
    x,
    (((a.ndim - 1,), (x.ndim - 2,)), (batch, batch)),
    precision=jax.lax.Precision.HIGHEST,
  )


def _at(x_sb, index):
  return x_sb.at[index].get(mode='promise_in_bounds')
