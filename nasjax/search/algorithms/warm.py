"""A warm start: the first suggestions are those that a score likes best.

Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021, section
5.3: of some architectures drawn at random the best by a proxy, which need no
training to be scored, are trained first; the searcher is told of them as of its
own suggestions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.search.algorithms import base


class State(NamedTuple):
  """Vectors to begin with, how many were suggested, the searcher's state."""

  first_md: jax.Array
  count: jax.Array
  own: Any


def start(searcher, epochs, candidates, scores, first=10, pool=100):
  """Returns a Searcher that begins with `first` vectors, then is another.

  Args:
    searcher: the other Searcher.
    epochs: of a full training.
    candidates: vectors [c, d], each once.
    scores: of these, higher for what should be better.
    first: how many to begin with; whole suggestions.
    pool: how many candidates are drawn, of which they are the best.

  Raises:
    ValueError: naming what does not go together.
  """
  candidates_cd = np.asarray(candidates, np.int32)
  score_c = np.asarray(scores, np.float64)
  if candidates_cd.ndim != 2 or score_c.shape != candidates_cd.shape[:1]:
    raise ValueError(
      f'candidates of shape {candidates_cd.shape} and scores of shape '
      f'{score_c.shape}; want a score for each row'
    )
  if np.isnan(score_c).any():
    raise ValueError(f'{np.isnan(score_c).sum()} scores are NaN')
  count = len(score_c)
  if not 0 < first <= min(pool, count) or first % searcher.batch:
    raise ValueError(
      f'first={first}, pool={pool}, {count} candidates, batch='
      f'{searcher.batch}; want whole suggestions, no more than the pool'
    )
  # Infinite scores count as ranks do.
  rank_c = np.argsort(np.argsort(score_c, kind='stable'), kind='stable')
  pool = min(pool, count)

  def init(key):
    k_pool, k_own = jax.random.split(key)
    random_c = jax.random.uniform(k_pool, (count,))
    _, place_k = jax.lax.top_k(random_c, pool)
    _, best_m = jax.lax.top_k(jnp.asarray(rank_c)[place_k], first)
    first_md = jnp.asarray(candidates_cd)[place_k[best_m]]
    return State(first_md, jnp.zeros((), jnp.int32), searcher.init(k_own))

  def warm(key, state):
    del key
    arch_nd = jax.lax.dynamic_slice_in_dim(
      state.first_md, state.count, searcher.batch
    )
    return base.full(arch_nd, epochs), state.own

  def ask(key, state):
    suggestion, own = jax.lax.cond(
      state.count < first,
      warm,
      lambda key, state: searcher.ask(key, state.own),
      key,
      state,
    )
    return suggestion, State(state.first_md, state.count + searcher.batch, own)

  def tell(state, suggestion, per_n):
    return state._replace(own=searcher.tell(state.own, suggestion, per_n))

  return base.Searcher(init, ask, tell, searcher.batch, searcher.serial)
