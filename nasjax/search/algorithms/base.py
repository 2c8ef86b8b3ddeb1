"""What every searcher is: init, ask and tell, over vectors of integers.

A searcher minimises an error rate over the vectors arch_d with 0 <= arch_d[i] <
sizes[i]. It knows neither tables nor training: who drives it evaluates what it
suggests and tells it. All three are pure functions written for one search; the
driver maps them over repeats.

  state = searcher.init(key)
  for step in range(..):
    suggestion, state = searcher.ask(jax.random.fold_in(key, step), state)
    per_n = evaluate(suggestion)
    state = searcher.tell(state, suggestion, per_n)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Suggestion(NamedTuple):
  """Architectures to train.

  Attributes:
    arch_nd: int32.
    epochs_n: for how many epochs each, int32; 0 where nothing is suggested.
  """

  arch_nd: jax.Array
  epochs_n: jax.Array


class Limit(NamedTuple):
  """What a searcher may suggest.

  Attributes:
    meets: arch_nd, traced -> bool_n.
    cheapest: the vector of the lowest cost, which meets it.
  """

  meets: Callable[[jax.Array], jax.Array]
  cheapest: tuple[int, ...]


class Searcher(NamedTuple):
  """A search algorithm.

  Attributes:
    init: key -> state, a pytree of arrays.
    ask: (key, state) -> (Suggestion, state).
    tell: (state, Suggestion, per_n) -> state. The validation error rates are of
      the architectures in the suggestion, which the driver may have replaced
      (by the nearest one of a table, say). A run that failed has 1.0, as if
      nothing had been recognised. What has no epochs is to be ignored.
    batch: how many architectures a suggestion holds.
    serial: whether repeats must run one after the other, because `ask` is
      costly and mostly skipped: mapped conditionals run both branches.
  """

  init: Callable[[jax.Array], Any]
  ask: Callable[[jax.Array, Any], tuple[Suggestion, Any]]
  tell: Callable[[Any, Suggestion, jax.Array], Any]
  batch: int
  serial: bool = False


def check(sizes, epochs, budget, batch):
  """Checks what all searchers take; returns sizes_d as an int32 array.

  Raises:
    ValueError: naming the value.
  """
  if not sizes or any(not isinstance(s, int) or s < 1 for s in sizes):
    raise ValueError(f'sizes={sizes}; want one positive integer for each digit')
  if max(sizes) < 2:
    raise ValueError(f'sizes={sizes} leave nothing to search; want a digit > 1')
  for name, value in ('epochs', epochs), ('budget', budget), ('batch', batch):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name}={value}; want a positive integer')
  return np.array(sizes, np.int32)


def full(arch_nd, epochs):
  """Returns the Suggestion to train all of them to the end."""
  return Suggestion(arch_nd, jnp.full(len(arch_nd), epochs, jnp.int32))
