"""Planted landscapes for searchers: tables of error rates with a known best.

A landscape holds the error rate of every vector after every epoch. Two drivers
search it: `run` makes one program of many repeats, `walk` shows one search step
by step.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.search import SEARCHERS, Suggestion
from nasjax.spaces import NB_ASR

# The digits of NAS-Bench-ASR, 13,824 vectors, and a small space of 576 with a
# digit of one value in it.
LARGE = NB_ASR.sizes
SMALL = (4, 2, 1, 6, 2, 2, 3)


# Of searches on the small space: full training, and evaluations.
EPOCHS = 9
BUDGET = 400


class Landscape(NamedTuple):
  """Error rates of a whole space.

  Attributes:
    sizes: how many values each digit takes.
    best: the vector with the lowest error rate after the last epoch.
    per_ce: error rate of each vector, in the order of `np.ndindex(*sizes)`,
      after each epoch.
  """

  sizes: tuple[int, ...]
  best: tuple[int, ...]
  per_ce: np.ndarray

  @property
  def epochs(self):
    """How many epochs full training takes."""
    return self.per_ce.shape[1]

  def cell(self, arch_nd):
    """Returns the row of each vector in `per_ce`; digits must be in range."""
    return index_of(self.sizes, arch_nd)


class Trace(NamedTuple):
  """What a searcher suggested and was told: repeats r, steps s, batch n.

  Attributes:
    arch_rsnd: int32.
    epochs_rsn: int32; 0 where nothing was suggested.
    per_rsn: float32; 1 where nothing was suggested.
    test_rsn: error rate of the same after all epochs, whatever was asked for;
      1 where nothing was suggested.
  """

  arch_rsnd: np.ndarray
  epochs_rsn: np.ndarray
  per_rsn: np.ndarray
  test_rsn: np.ndarray


def index_of(sizes, arch_nd):
  """Returns the place of each vector in the order of `np.ndindex(*sizes)`."""
  strides_d = [int(np.prod(sizes[d + 1 :])) for d in range(len(sizes))]
  return arch_nd @ jnp.array(strides_d, jnp.int32)


def vectors(sizes):
  """Returns all vectors of a space, int32 [c, d]."""
  return np.array(list(np.ndindex(*sizes)), np.int32)


def separable(sizes=LARGE, best=None, noise=0.0, epochs=40, seed=0):
  """Plants one optimum: each digit adds its own loss, none at its best value.

  The error rate after the last epoch lies between .2, of `best` alone, and .8.
  The loss of a wrong value is drawn between .4 and 1 of its digit's share, so
  that every digit matters and no two vectors tie. Training approaches the last
  error rate from .9, fast then slowly, and ranks the vectors alike throughout.

  Args:
    sizes: how many values each digit takes.
    best: vector of the optimum; drawn if None.
    noise: how far (a standard deviation) an error rate lies from the sum; the
      optimum is free of it and stays the lowest.
    epochs: of full training.
    seed: of the losses and the noise.
  """
  rng = np.random.default_rng(seed)
  if best is None:
    best = tuple(int(rng.integers(size)) for size in sizes)
  arch_cd = vectors(sizes)
  loss_c = np.zeros(len(arch_cd))
  for d, size in enumerate(sizes):
    loss_v = rng.uniform(0.4, 1.0, size)
    loss_v[best[d]] = 0.0
    loss_c += loss_v[arch_cd[:, d]]
  per_c = 0.2 + 0.6 * loss_c / loss_c.max()
  others = np.any(arch_cd != np.array(best), axis=1)
  per_c = per_c + noise * others * rng.standard_normal(len(per_c))
  per_c[others] = np.clip(per_c[others], 0.201, 0.899)
  left_e = 1 / np.arange(1, epochs + 1)
  left_e = (left_e - left_e[-1]) * 0.5
  per_ce = per_c[:, None] + (0.9 - per_c[:, None]) * left_e
  return Landscape(tuple(sizes), best, per_ce.astype(np.float32))


def inverted(landscape):
  """Turns a landscape over: its worst vector becomes the best.

  A searcher that maximises finds the old optimum, now the worst there is.
  """
  per_ce = np.float32(1) - landscape.per_ce
  best = vectors(landscape.sizes)[per_ce[:, -1].argmin()]
  return Landscape(landscape.sizes, tuple(int(v) for v in best), per_ce)


@functools.cache
def planted():
  """Returns the landscape of the small space that the tests share."""
  return separable(SMALL, epochs=EPOCHS)


@functools.cache
def made(name, batch=1, **settings):
  """Returns a searcher of the small space; the same for the same arguments.

  Programs are kept for the object at hand, so tests that share it share them.
  """
  return SEARCHERS[name](SMALL, EPOCHS, BUDGET, batch, **settings)


def evaluate(landscape, suggestion):
  """Returns the error rate of each suggestion after its epochs; 1 if none."""
  per_ce = jnp.asarray(landscape.per_ce)
  epochs_n = suggestion.epochs_n
  cell_n = landscape.cell(suggestion.arch_nd)
  per_n = per_ce[cell_n, jnp.maximum(epochs_n, 1) - 1]
  return jnp.where(epochs_n > 0, per_n, 1.0)


@functools.cache
def _program(searcher, sizes, steps):
  """Compiles the search once for all landscapes of one shape."""

  def search(per_ce, key):
    k_init, k_ask = jax.random.split(key)
    landscape = Landscape(sizes, (), per_ce)

    def step(state, s):
      suggestion, state = searcher.ask(jax.random.fold_in(k_ask, s), state)
      per_n = evaluate(landscape, suggestion)
      test_n = evaluate(
        landscape,
        suggestion._replace(
          epochs_n=landscape.epochs * jnp.sign(suggestion.epochs_n)
        ),
      )
      state = searcher.tell(state, suggestion, per_n)
      return state, (suggestion.arch_nd, suggestion.epochs_n, per_n, test_n)

    return jax.lax.scan(step, searcher.init(k_init), jnp.arange(steps))[1]

  if searcher.serial:
    return jax.jit(
      lambda per_ce, key_r: jax.lax.map(lambda key: search(per_ce, key), key_r)
    )
  return jax.jit(jax.vmap(search, in_axes=(None, 0)))


def run(searcher, landscape, steps, repeats, seed=0):
  """Runs repeats of a searcher, together unless it is serial.

  The program of a searcher object is kept, so make a searcher once for all
  landscapes of its sizes and epochs.

  Args:
    searcher: of the landscape's sizes and epochs.
    landscape: where to search.
    steps: how many times to ask.
    repeats: how many searches.
    seed: of all of them; each has its own key.

  Returns:
    The Trace, in NumPy.
  """
  key_r = jax.random.split(jax.random.key(seed), repeats)
  program = _program(searcher, landscape.sizes, steps)
  return Trace(*map(np.asarray, program(landscape.per_ce, key_r)))


def found(trace, landscape, within=np.inf):
  """Returns which repeats trained the optimum to the end, bool [r].

  Args:
    trace: of the repeats.
    landscape: that they searched.
    within: at what cost, in trained models, a step may end to count.
  """
  hit_rsn = (trace.arch_rsnd == np.array(landscape.best)).all(-1)
  hit_rs = (hit_rsn & (trace.epochs_rsn == landscape.epochs)).any(2)
  cost_rs = np.cumsum(trace.epochs_rsn.sum(2), axis=1) / landscape.epochs
  return (hit_rs & (cost_rs <= within)).any(1)


def chance(landscape, draws):
  """Returns the chance that one of so many random draws is the optimum."""
  return 1 - (1 - 1 / len(landscape.per_ce)) ** draws


@functools.cache
def _steps(searcher):
  return jax.jit(searcher.init), jax.jit(searcher.ask), jax.jit(searcher.tell)


def walk(searcher, landscape, steps, change=lambda arch_nd: arch_nd, seed=7):
  """Runs one search in a Python loop.

  Args:
    searcher: of the landscape's sizes and epochs.
    landscape: where to search.
    steps: how many times to ask.
    change: replaces the vectors [n, d] of a suggestion before evaluation.
    seed: the key of `init` is `jax.random.key(seed)`, that of step s has s
      folded in.

  Returns:
    For each step the Suggestion told, per_n and the state after it.
  """
  init, ask, tell = _steps(searcher)
  key = jax.random.key(seed)
  state, told = init(key), []
  for s in range(steps):
    suggestion, state = ask(jax.random.fold_in(key, s), state)
    arch_nd, epochs_n = map(np.asarray, suggestion)
    arch_nd = change(arch_nd)
    cell_n = np.ravel_multi_index(arch_nd.T, landscape.sizes)
    per_n = landscape.per_ce[cell_n, np.maximum(epochs_n, 1) - 1]
    per_n = np.where(epochs_n > 0, per_n, np.float32(1))
    state = tell(state, Suggestion(arch_nd, epochs_n), per_n)
    told.append((Suggestion(arch_nd, epochs_n), per_n, state))
  return told
