"""Evolution over bins of cost: the best network of every size in one search.

Wang et al. 2021, "AlphaNet", as its released code searches a supernet: random
networks, the smallest first, then generations of mutants and of crossings. The
cost of a network is rounded to a bin, and the best of each bin is kept; all
parents are drawn from what is kept. Offspring outside the range of costs is
drawn again, and so is what was evaluated before (ours).

Costs may be any numbers, and whole generations are evaluated together, so this
is NumPy on the host: pure functions of a state that has all there is to know,
with random numbers of (seed, generation) alone. A state that was written down
goes on as if nothing had happened.

  search = pareto.evolution(space, cost, least, most, step, seed=1)
  state = search.init()
  while search.asks(state):
    arch_nd = search.ask(state)
    state = search.tell(state, arch_nd, evaluate(arch_nd))
  for n in search.store(state): ..
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Rounds of drawing after which a generation has no more: small spaces end.
_ROUNDS = 50


class State(NamedTuple):
  """All that was evaluated, in this order.

  Attributes:
    generation: how many were told.
    arch_nd: int8.
    cost_n: float64.
    error_n: float64, NaN where a network failed.
  """

  generation: int
  arch_nd: np.ndarray
  cost_n: np.ndarray
  error_n: np.ndarray


class Evolution(NamedTuple):
  """A search for the lowest error in every bin of costs.

  Attributes:
    init: () -> State.
    asks: State -> whether there is a further generation.
    ask: State -> arch_nd, int8, no two of one key, none evaluated before; empty
      where the space has no more.
    tell: (State, arch_nd, error_n) -> State.
    store: State -> for each bin that has a network the place of the best of
      it, by rising bin: what the search is about. Of equal ones the first
      stays; what failed has no place.
    about: plain values that make it up, for who keeps a state.
  """

  init: Callable[[], State]
  asks: Callable[[State], bool]
  ask: Callable[[State], np.ndarray]
  tell: Callable[[State, np.ndarray, np.ndarray], State]
  store: Callable[[State], np.ndarray]
  about: dict


def evolution(
  space,
  cost,
  least,
  most,
  step,
  seed=0,
  population=512,
  mutants=128,
  crossings=128,
  generations=20,
  rate=0.2,
  first=None,
):
  """Returns the `Evolution`.

  Args:
    space: `spaces.Space`, or what has its `sizes`, `keys` and `name`.
    cost: arch_nd -> what each costs.
    least, most: costs, both allowed.
    step: width of a bin; costs are rounded to its multiples.
    seed: of all that is drawn.
    population: networks of the first generation.
    mutants: of each further one, children of one parent.
    crossings: of each further one, children of two.
    generations: with the first.
    rate: probability that a mutant's digit is drawn anew.
    first: vectors that the first generation begins with, where their costs are
      in range; the smallest network if not given, all digits 0.

  Raises:
    ValueError: naming the value.
  """
  sizes_d = np.array(space.sizes)
  counts = {
    'population': population, 'generations': generations,
    'mutants': mutants, 'crossings': crossings,
  }  # fmt: skip
  _check(counts, rate, step, least, most)
  if first is None:
    first = np.zeros((1, len(sizes_d)), np.int8)
  first_nd = np.asarray(first, np.int8).reshape(-1, len(sizes_d))

  def admit(arch_nd, wanted, found, known):
    """Appends to `found` what is in range and new, until there are enough."""
    cost_n = np.asarray(cost(arch_nd))
    for arch_d, own, key in zip(arch_nd, cost_n, space.keys(arch_nd)):
      if len(found) < wanted and least <= own <= most and key not in known:
        known.add(key)
        found.append(arch_d)

  def fill(draw, wanted, found, known):
    """Draws until there are enough."""
    for _ in range(_ROUNDS):
      if len(found) == wanted:
        break
      admit(draw(2 * (wanted - len(found))), wanted, found, known)

  def children(rng, parent_nd, found, known):
    def parents(count):
      return parent_nd[rng.integers(len(parent_nd), size=count)]

    def mutated(count):
      anew = rng.random((count, len(sizes_d))) < rate
      return np.where(anew, drawn(rng, count), parents(count))

    def crossed(count):
      one = rng.random((count, len(sizes_d))) < 0.5
      return np.where(one, parents(count), parents(count))

    fill(mutated, mutants, found, known)
    fill(crossed, len(found) + crossings, found, known)
    # A small store has no more crossings that are new.
    fill(mutated, mutants + crossings, found, known)

  def drawn(rng, count):
    shape = count, len(sizes_d)
    return rng.integers(sizes_d, size=shape).astype(np.int8)

  def init():
    none = np.zeros(0)
    return State(0, np.zeros((0, len(sizes_d)), np.int8), none, none)

  def asks(state):
    return state.generation < generations

  def ask(state):
    rng = np.random.default_rng([seed, state.generation])
    found, known = [], set(space.keys(state.arch_nd))
    best_n = store(state)
    if not state.generation:
      admit(first_nd, population, found, known)
    if len(best_n):
      children(rng, state.arch_nd[best_n], found, known)
    else:  # the beginning, or all failed
      wanted = mutants + crossings if state.generation else population
      fill(lambda count: drawn(rng, count), wanted, found, known)
    return np.array(found, np.int8).reshape(-1, len(sizes_d))

  def tell(state, arch_nd, error_n):
    arch_nd = np.asarray(arch_nd, np.int8).reshape(-1, len(sizes_d))
    return State(
      state.generation + 1,
      np.concatenate([state.arch_nd, arch_nd]),
      np.concatenate([state.cost_n, np.asarray(cost(arch_nd), np.float64)]),
      np.concatenate([state.error_n, np.asarray(error_n, np.float64)]),
    )

  def store(state):
    best = {}
    bin_n = np.rint(state.cost_n / step).astype(np.int64).tolist()
    for n, (own, error) in enumerate(zip(bin_n, state.error_n)):
      if np.isfinite(error) and (
        own not in best or error < state.error_n[best[own]]
      ):
        best[own] = n
    return np.array([best[b] for b in sorted(best)], np.int64)

  about = {
    'space': space.name, 'least': float(least), 'most': float(most),
    'step': float(step), 'seed': seed, 'rate': rate,
    'first': first_nd.tolist(),
  }  # fmt: skip
  return Evolution(init, asks, ask, tell, store, about | counts)


def _check(counts, rate, step, least, most):
  for name, value in counts.items():
    if not isinstance(value, int) or value < 0:
      raise ValueError(f'{name}={value}; want an integer from 0 on')
  for name in 'population', 'generations':
    if not counts[name]:
      raise ValueError(f'{name}=0; want a positive integer')
  if not counts['mutants'] + counts['crossings']:
    raise ValueError('mutants=0, crossings=0; want at least one child')
  if not 0 < rate <= 1:
    raise ValueError(f'rate={rate}; want a probability above 0')
  if not step > 0:
    raise ValueError(f'step={step}; want a positive width of bins')
  if not least <= most:
    raise ValueError(f'least={least} is above most={most}')


def make(space, cost, least, most, step, **settings):
  """Returns what `driver.made` takes: a search told of one network at a time.

  Arguments are those of `evolution`; the seed is the driver's.
  """

  def alone(sizes, epochs, budget, rng):
    del epochs, budget
    if tuple(sizes) != tuple(space.sizes):
      raise ValueError(f'{space.name} has the sizes {space.sizes}, not {sizes}')
    seed = int(rng.integers(2**31))
    return _Alone(evolution(space, cost, least, most, step, seed, **settings))

  return alone


class _Alone:
  """Asks for the networks of a generation one after the other."""

  def __init__(self, search):
    self.search, self.state = search, search.init()
    self._waiting, self._told, self._expected = [], [], 0

  def ask(self):
    """Returns a vector; None before the last of a generation is told."""
    if not self._waiting and len(self._told) == self._expected:
      if self._told:
        self.state = self.search.tell(self.state, *zip(*self._told))
        self._told = []
      if self.search.asks(self.state):
        self._waiting = list(self.search.ask(self.state))
      self._expected = len(self._waiting)
    return self._waiting.pop(0) if self._waiting else None

  def tell(self, vector, error):
    self._told.append((np.asarray(vector, np.int8), float(error)))
