"""Q-learning on mutations: ours, since the paper that names it says no more.

NAS-Bench-ASR (Mehrotra et al., ICLR 2021, section 6) compares Q-learning by
name. What stands here is the plainest form that works:

- An episode passes once over the digits of the architecture that the agent
  thinks best. At each digit, the state, it keeps the value or, with probability
  epsilon, mutates it: draws it anew among all values, the action. The result is
  evaluated.
- A table of digits and values is learnt from the last digit back to the first,
  without discount: MetaQNN (Baker et al., ICLR 2017), but for its replay.
- The reward is the validation accuracy, 1 - PER, in equal parts to all digits:
  the shaped reward of BlockQNN (Zhong et al., CVPR 2018). Given to the last
  digit alone, as in MetaQNN, it would say nothing about the others, whose
  successor is the same state whatever they choose.
- Epsilon falls evenly from 1 to .1 during the first half of the budget.
- The first visits of an entry are averaged: until 1 / visits falls below alpha,
  that is the step. So the table needs no first guess.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.search.algorithms import base, draws


class State(NamedTuple):
  """What the agent knows.

  Attributes:
    q_dv: float32, value of each digit's values v; 0 where never tried.
    visits_dv: int32, how often each was tried.
    told: int32, how many evaluations it was told.
  """

  q_dv: jax.Array
  visits_dv: jax.Array
  told: jax.Array


def make(
  sizes,
  epochs,
  budget,
  batch=1,
  alpha=0.1,
  gamma=1.0,
  epsilon=0.1,
  exploring=0.5,
):
  """Returns the Searcher.

  Args:
    sizes: how many values each digit takes.
    epochs: of full training.
    budget: evaluations, from which the fall of epsilon is reckoned.
    batch: episodes at a time, told in order.
    alpha: smallest step of learning.
    gamma: discount from one digit to the one before it.
    epsilon: at the end.
    exploring: share of the budget during which epsilon falls from 1.

  Raises:
    ValueError: naming the value.
  """
  sizes_d = base.check(sizes, epochs, budget, batch)
  for name, value in (
    ('alpha', alpha),
    ('gamma', gamma),
    ('epsilon', epsilon),
    ('exploring', exploring),
  ):
    if not 0 < value <= 1:
      raise ValueError(f'{name}={value}; want more than 0 and at most 1')
  digits = len(sizes_d)
  real_dv = np.arange(max(sizes))[None] < sizes_d[:, None]

  def init(key):
    del key
    shape = real_dv.shape
    return State(jnp.zeros(shape), jnp.zeros(shape, jnp.int32), jnp.int32(0))

  def ask(key, state):
    u_nk = draws.floats(key, batch, 2 * digits)
    fallen = jnp.minimum(state.told / (exploring * budget), 1.0)
    mutated_nd = u_nk[:, :digits] < 1.0 - (1.0 - epsilon) * fallen
    best_d = jnp.argmax(jnp.where(real_dv, state.q_dv, -jnp.inf), axis=1)
    random_nd = draws.integers(u_nk[:, digits:], sizes_d[None])
    arch_nd = jnp.where(mutated_nd, random_nd, best_d[None].astype(jnp.int32))
    return base.full(arch_nd, epochs), state

  def learn(state, evaluation):
    """Learns from one episode."""
    arch_d, trained, per = evaluation

    def back(value, digit):
      q_v, visits_v, real_v, v = digit
      visits_v = visits_v.at[v].add(1)
      step = jnp.maximum(alpha, 1.0 / visits_v[v])
      target = (1.0 - per) / digits + gamma * value
      q_v = q_v.at[v].add(step * (target - q_v[v]))
      return jnp.where(real_v, q_v, -jnp.inf).max(), (q_v, visits_v)

    _, (q_dv, visits_dv) = jax.lax.scan(
      back,
      jnp.float32(0.0),
      (state.q_dv, state.visits_dv, jnp.asarray(real_dv), arch_d),
      reverse=True,
    )
    learnt = State(q_dv, visits_dv, state.told + 1)
    state = jax.tree.map(
      lambda new, old: jnp.where(trained, new, old), learnt, state
    )
    return state, None

  def tell(state, suggestion, per_n):
    evaluations = suggestion.arch_nd, suggestion.epochs_n > 0, per_n
    return jax.lax.scan(learn, state, evaluations)[0]

  return base.Searcher(init, ask, tell, batch)
