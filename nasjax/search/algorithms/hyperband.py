"""Hyperband and successive halving: many trained briefly, the best for longer.

Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter
Optimization, JMLR 2018, Algorithm 1. NAS-Bench-ASR (section 6) names no
settings; the largest resource is full training, eta is the 3 of Li et al.
Successive halving (Jamieson and Talwalkar, AISTATS 2016) is the first bracket
alone, the one that drops most, again and again.

A rung trains its candidates anew or reads them from the curve of one training,
as the driver sees fit; the cost counted is that of training anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.search.algorithms import base, draws


class State(NamedTuple):
  """The rung at hand.

  Attributes:
    step: int32, how many suggestions have been told.
    archs_md: int32. Places of this rung that have been told hold its vectors,
      the others the last rung's, best first.
    pers_m: float32; infinite where this rung has not been told.
  """

  step: jax.Array
  archs_md: jax.Array
  pers_m: jax.Array


class Steps(NamedTuple):
  """The schedule in suggestions s, one round of brackets.

  Attributes:
    place_s: where in its rung a suggestion begins.
    size_s: how many vectors its rung holds.
    epochs_s: for how many epochs the rung trains.
    first_s: whether the rung is its bracket's first, which draws new vectors.
  """

  place_s: np.ndarray
  size_s: np.ndarray
  epochs_s: np.ndarray
  first_s: np.ndarray


def brackets(epochs, eta):
  """Returns the rungs of each bracket: [[(vectors, epochs), ..], ..].

  The paper's Algorithm 1 in integers, with epochs rounded down to whole ones.
  """
  most = 0
  while eta ** (most + 1) <= epochs:
    most += 1
  rounds = []
  for s in range(most, -1, -1):
    count = -(-(most + 1) * eta**s // (s + 1))
    rounds.append(
      [(count // eta**i, epochs * eta**i // eta**s) for i in range(s + 1)]
    )
  return rounds


def _steps(rounds, batch):
  """Cuts rungs into suggestions, of which none crosses into the next rung."""
  rows = [
    (place, count, epochs, i == 0)
    for rungs in rounds
    for i, (count, epochs) in enumerate(rungs)
    for place in range(0, count, batch)
  ]
  place_s, size_s, epochs_s, first_s = np.array(rows, np.int32).T
  return Steps(place_s, size_s, epochs_s, first_s > 0)


def _searcher(sizes_d, rounds, batch):
  steps = jax.tree.map(jnp.asarray, _steps(rounds, batch))
  count = len(steps.place_s)
  widest = max(rungs[0][0] for rungs in rounds)

  def at(step):
    return Steps(*(x_s[step % count] for x_s in steps))

  def init(key):
    del key
    archs_md = jnp.zeros((widest, len(sizes_d)), jnp.int32)
    return State(jnp.int32(0), archs_md, jnp.full(widest, jnp.inf))

  def ask(key, state):
    now = at(state.step)
    place_n = now.place_s + jnp.arange(batch)
    u_nd = draws.floats(key, batch, len(sizes_d))
    arch_nd = jnp.where(
      now.first_s,
      draws.integers(u_nd, sizes_d[None]),
      state.archs_md[jnp.minimum(place_n, widest - 1)],
    )
    epochs_n = jnp.where(place_n < now.size_s, now.epochs_s, 0)
    return base.Suggestion(arch_nd, epochs_n), state

  def tell(state, suggestion, per_n):
    now = at(state.step)
    place_n = now.place_s + jnp.arange(batch)
    place_n = jnp.where(suggestion.epochs_n > 0, place_n, widest)
    archs_md = state.archs_md.at[place_n].set(suggestion.arch_nd, mode='drop')
    pers_m = state.pers_m.at[place_n].set(per_n, mode='drop')
    # After its last suggestion a rung is sorted: the next takes from the front.
    done = now.place_s + batch >= now.size_s
    order_m = jnp.argsort(pers_m)
    return State(
      (state.step + 1) % count,
      jnp.where(done, archs_md[order_m], archs_md),
      jnp.where(done, jnp.inf, pers_m),
    )

  return base.Searcher(init, ask, tell, batch)


def _check(sizes, epochs, budget, batch, eta):
  if not isinstance(eta, int) or eta < 2:
    raise ValueError(f'eta={eta}; want an integer of at least 2')
  return base.check(sizes, epochs, budget, batch)


def make(sizes, epochs, budget, batch=1, eta=3):
  """Returns the Searcher of Hyperband.

  Brackets repeat for as long as it is asked.

  Args:
    sizes: how many values each digit takes.
    epochs: of full training, the largest rung's.
    budget: evaluations; not needed here.
    batch: how many train at a time. The last suggestion of a rung is padded.
    eta: one in eta goes on to the next rung, for eta times as long.

  Raises:
    ValueError: naming the value.
  """
  sizes_d = _check(sizes, epochs, budget, batch, eta)
  return _searcher(sizes_d, brackets(epochs, eta), batch)


def make_halving(sizes, epochs, budget, batch=1, eta=3):
  """Returns the Searcher of successive halving; arguments as in `make`."""
  sizes_d = _check(sizes, epochs, budget, batch, eta)
  return _searcher(sizes_d, brackets(epochs, eta)[:1], batch)
