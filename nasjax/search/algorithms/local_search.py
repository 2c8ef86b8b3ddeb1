"""Local search: to the best neighbour, until no neighbour is better.

White et al., Exploring the Loss Landscape in Neural Architecture Search, UAI
2021, Algorithm 1: from a random start evaluate all neighbours, move to the best
of them if it is better, else stop. NAS-Bench-ASR (section 6) does not try it.
Neighbours differ in one digit; a search that stops starts again at random for
as long as there is budget, ours. After a move along one digit the other values
of that digit are known to be no better, and are not asked for again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.search.algorithms import base, draws


class State(NamedTuple):
  """One neighbourhood, partly evaluated.

  Attributes:
    centre_d: int32.
    centre_per: float32; infinite until told.
    best_d: the best that was told of the neighbourhood, its centre included.
    best_per: float32; infinite before the first.
    order_k: int32, the moves in the order in which to ask for them.
    count: int32, how many of them to ask for.
    next: int32, how many have been asked for.
  """

  centre_d: jax.Array
  centre_per: jax.Array
  best_d: jax.Array
  best_per: jax.Array
  order_k: jax.Array
  count: jax.Array
  next: jax.Array


def _moves(sizes):
  """Returns what each move adds to the digits, int32 [k, d]; move 0 nothing."""
  steps_kd = [[0] * len(sizes)]
  for d, size in enumerate(sizes):
    for shift in range(1, size):
      steps_kd.append([shift if i == d else 0 for i in range(len(sizes))])
  return np.array(steps_kd, np.int32)


def make(sizes, epochs, budget, batch=1):
  """Returns the Searcher; see `base.check` for what it refuses.

  A suggestion never crosses from one neighbourhood into the next: the last of a
  neighbourhood is padded. The first of a walk holds its start.
  """
  sizes_d = base.check(sizes, epochs, budget, batch)
  steps_kd = _moves(sizes)
  moves = len(steps_kd)

  def init(key):
    del key
    zero_d = jnp.zeros(len(sizes_d), jnp.int32)
    inf = jnp.float32(jnp.inf)
    zero = jnp.int32(0)
    order_k = jnp.zeros(moves, jnp.int32)
    return State(zero_d, inf, zero_d, inf, order_k, zero, zero)

  def neighbourhood(u_k, state):
    """Returns the state at the start of the next neighbourhood."""
    start_d = draws.integers(u_k[: len(sizes_d)], sizes_d)
    order_u = u_k[len(sizes_d) :]
    changed_d = state.best_d != state.centre_d
    known_k = ((steps_kd > 0) & changed_d[None]).any(1)
    known_k &= changed_d.sum() == 1
    known_k = known_k.at[0].set(True)
    better = (state.best_per < state.centre_per) & ~known_k.all()
    # A walk goes on without what is known, or starts with its centre.
    rank_k = jnp.where(better, jnp.where(known_k, 2.0, order_u), order_u)
    rank_k = rank_k.at[0].set(jnp.where(better, 2.0, -1.0))
    per = jnp.where(better, state.best_per, jnp.inf)
    centre_d = jnp.where(better, state.best_d, start_d)
    return State(
      centre_d=centre_d,
      centre_per=per,
      best_d=centre_d,
      best_per=per,
      order_k=jnp.argsort(rank_k).astype(jnp.int32),
      count=jnp.where(better, moves - known_k.sum(), moves).astype(jnp.int32),
      next=jnp.int32(0),
    )

  def ask(key, state):
    u_k = draws.floats(key, 1, len(sizes_d) + moves)[0]
    done = state.next >= state.count
    state = jax.tree.map(
      lambda new, old: jnp.where(done, new, old),
      neighbourhood(u_k, state),
      state,
    )
    place_n = state.next + jnp.arange(batch)
    move_n = state.order_k[jnp.minimum(place_n, moves - 1)]
    step_nd = jnp.asarray(steps_kd)[move_n]
    arch_nd = (state.centre_d[None] + step_nd) % sizes_d[None]
    epochs_n = jnp.where(place_n < state.count, epochs, 0).astype(jnp.int32)
    state = state._replace(next=state.next + batch)
    return base.Suggestion(arch_nd, epochs_n), state

  def tell(state, suggestion, per_n):
    per_n = jnp.where(suggestion.epochs_n > 0, per_n, jnp.inf)
    # The start of a walk is the first of its first suggestion.
    start = (state.next == batch) & jnp.isinf(state.centre_per)
    start &= suggestion.epochs_n[0] > 0
    n = jnp.argmin(per_n)
    better = per_n[n] < state.best_per
    return state._replace(
      centre_d=jnp.where(start, suggestion.arch_nd[0], state.centre_d),
      centre_per=jnp.where(start, per_n[0], state.centre_per),
      best_d=jnp.where(better, suggestion.arch_nd[n], state.best_d),
      best_per=jnp.where(better, per_n[n], state.best_per),
    )

  return base.Searcher(init, ask, tell, batch)
