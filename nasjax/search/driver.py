"""The loop of ask and tell, the same over a table and over training.

On one side stands a searcher: a `Searcher`, pure functions of arrays, or
`Plain`, any Python object of one search that has

  ask()                the vector to evaluate, of integers v with 0 <= v[i] <
                       sizes[i]; or (vector, epochs), to train less than to the
                       end; or None, when nothing is left to try
  tell(vector, error)  the validation error rate of what was asked for last. A
                       table that lacks a vector answers with its nearest cell,
                       whose vector this then is; a failed run has 1.0

On the other side stands what answers: `Lookup` in a table, or `Training`. A
search of one's own, 12 lines from nothing to its error rate on test:

  class Climber:
    def __init__(self, sizes, epochs, budget, rng):
      self.sizes, self.rng, self.best, self.lowest = sizes, rng, None, 2.0
    def ask(self):
      vector = self.rng.integers(self.sizes)
      keep = self.rng.random(len(vector)) < 0.8
      return vector if self.best is None else np.where(keep, self.best, vector)
    def tell(self, vector, error):
      if error < self.lowest:
        self.best, self.lowest = vector, error
  scape = landscape.landscape(table.open('experiments/tables/synthetic_timit'))
  trace = driver.on_table(driver.made(Climber, scape.sizes, scape.epochs, 150),
                          scape, seed=0, repeats=100, budget=150)
  landscape.best_test(trace, scape.epochs, [150]).mean()

`experiments/search.py --searcher=module:Climber` does that, beside the others.
"""

import inspect
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nasjax.search import landscape
from nasjax.search.algorithms.base import Searcher, Suggestion


class Plain(NamedTuple):
  """A searcher in plain Python.

  Attributes:
    make: rng -> the object that asks and is told, of one search. What it draws
      from this `numpy.random.Generator` alone is the same the next time.
    batch: how often it is asked before it is told. A table needs no more than
      1, training is the faster for more.
    name: what errors call it.
  """

  make: Callable[[np.random.Generator], Any]
  batch: int = 1
  name: str = 'the searcher'


class Answer(NamedTuple):
  """What is known of the n vectors of a suggestion.

  Attributes:
    arch_nd: the vectors that were evaluated, those asked for or the nearest.
    place_n: their places, see `landscape.Landscape`.
    val_n: the lowest validation error rates up to the epochs asked for.
    test_n: error rates on test.
  """

  arch_nd: np.ndarray
  place_n: np.ndarray
  val_n: np.ndarray
  test_n: np.ndarray


class Lookup:
  """Answers one search from a table: of several runs of a cell, one is drawn.

  It is `landscape.simulate`'s answer to the same random bits.
  """

  def __init__(self, scape):
    self.sizes, self.epochs, self._scape = scape.sizes, scape.epochs, scape
    self._strides_d = np.cumprod([1, *scape.sizes[:-1]])
    # Which cells the search has evaluated; of use where only they are places.
    self._seen_c = np.zeros(len(scape.runs_c), bool)

  def __call__(self, arch_nd, epochs_n, bits_n):
    """Returns the Answer.

    Args:
      arch_nd: vectors.
      epochs_n: for how many epochs each, 0 for none.
      bits_n: uint32, random.
    """
    scape = self._scape
    if scape.listed:
      place_n = arch_nd @ self._strides_d
    else:
      place_n = np.array([self._near(*both) for both in zip(arch_nd, bits_n)])
      self._seen_c[place_n[epochs_n > 0]] = True
    cell_n = scape.cell_a[place_n]
    run_n = bits_n % scape.runs_c[cell_n]
    val_n = scape.val_cre[cell_n, run_n, np.maximum(epochs_n, 1) - 1]
    test_n = scape.test_cr[cell_n, run_n]
    return Answer(scape.vector_ad[place_n], place_n, val_n, test_n)

  def _near(self, arch_d, bits):
    """Returns the place that answers for a vector."""
    count, digits = self._scape.vector_ad.shape
    far_a = (self._scape.vector_ad != arch_d).sum(axis=1)
    far_a += np.where(self._seen_c & (far_a > 0), digits, 0)
    first = (int(bits) >> 8) % count
    return (np.roll(far_a, -first).argmin() + first) % count


class Training:
  """Answers by training.

  Args:
    values: for each digit the values that it may take.
    epochs: of a full training.
    train: (architectures [n, d], epochs_n) -> (val_n, test_n).
  """

  def __init__(self, values, epochs, train):
    self.sizes, self.epochs = tuple(map(len, values)), epochs
    self._values, self._train = values, train
    self._strides_d = np.cumprod([1, *self.sizes[:-1]])

  def __call__(self, arch_nd, epochs_n, bits_n):
    """Returns the Answer; `bits_n` is of no use here."""
    del bits_n
    archs_nd = landscape.archs_of(self._values, arch_nd)
    val_n, test_n = self._train(archs_nd, epochs_n)
    return Answer(arch_nd, arch_nd @ self._strides_d, val_n, test_n)


def made(make, sizes, epochs, budget, batch=1, name='the searcher'):
  """Returns the searcher of a `make`, of either kind.

  Args:
    make: of a parameter `rng`, then `make(sizes, epochs, budget, rng)` returns
      an object of one search, see above; else `make(sizes, epochs, budget,
      batch=1)` returns a `Searcher`.
    sizes: how many values each digit takes.
    epochs: of a full training.
    budget: in trained models.
    batch: how many architectures a suggestion holds.
    name: what errors call it.

  Raises:
    ValueError: naming it, and what it returns instead.
  """
  if 'rng' in inspect.signature(make).parameters:
    return Plain(lambda rng: make(sizes, epochs, budget, rng=rng), batch, name)
  searcher = _called(name, make, sizes, epochs, budget, batch=batch)
  if not isinstance(searcher, Searcher):
    raise ValueError(
      f'{name} returned {_short(searcher)}; want a nasjax.search.Searcher, or, '
      'of a function with a parameter rng, an object with ask and tell'
    )
  return searcher


def search(searcher, answers, seed, budget, tick=lambda done: None):
  """Runs one search until it has spent the budget, or has nothing to suggest.

  Args:
    searcher: a `Searcher` or `Plain`.
    answers: a `Lookup` or `Training`, or the like: `sizes`, `epochs`, and a
      call that returns an Answer.
    seed: list of integers. Of [s, r] random numbers are those of repeat r of
      `landscape.simulate` with seed s.
    budget: in trained models.
    tick: called with the models trained so far.

  Returns:
    `landscape.Trace`, arrays [1, n]; it may have gone on past the budget.

  Raises:
    ValueError: what is suggested cannot be evaluated.
  """
  stream = np.random.default_rng(seed)
  kind = _Plain if isinstance(searcher, Plain) else _Compiled
  asked = kind(searcher, answers, _bits(stream, 2), seed)
  found, spent = [], 0
  while spent < budget * answers.epochs:
    bits = _bits(stream, 2 + searcher.batch)
    arch_nd, epochs_n = asked.ask(bits[:2])
    if not epochs_n.any():
      break
    answer = answers(arch_nd, epochs_n, bits[2 : 2 + len(arch_nd)])
    asked.tell(Suggestion(answer.arch_nd, epochs_n), answer.val_n)
    found.append((answer.place_n, answer.val_n, answer.test_n, epochs_n))
    spent += int(epochs_n.sum())
    tick(min(spent / answers.epochs, budget))
  if not found:
    return landscape.Trace(*np.zeros((4, 1, 0)))
  return landscape.Trace(
    *(np.concatenate(parts)[None] for parts in zip(*found))
  )


def on_table(searcher, scape, seed, repeats, budget, tick=lambda done: None):
  """Runs repeats of a search on a table; returns their Trace, [repeat, n].

  Those of a `Searcher` run together, see `landscape.simulate`; those of `Plain`
  one after the other. Arguments are those of `landscape.simulate`.
  """
  if isinstance(searcher, Searcher):
    return landscape.simulate(searcher, scape, seed, repeats, budget, tick)
  traces = []
  for repeat in range(repeats):
    answers = Lookup(scape)
    traces.append(search(searcher, answers, [seed, repeat], budget))
    tick(budget * (repeat + 1) / repeats)
  return joined(traces)


def joined(traces):
  """Puts traces of single searches, which may differ in length, together."""
  most = max(trace.epochs.shape[1] for trace in traces)

  def join(*arrays):
    return np.concatenate(
      [np.pad(a, ((0, 0), (0, most - a.shape[1]))) for a in arrays]
    )

  return landscape.Trace(*(join(*parts) for parts in zip(*traces)))


class _Compiled:
  """A search by a `Searcher`."""

  def __init__(self, searcher, answers, bits, seed):
    del answers, seed
    self._state = jax.jit(searcher.init)(jax.random.wrap_key_data(bits))
    self._ask, self._tell = jax.jit(searcher.ask), jax.jit(searcher.tell)

  def ask(self, bits):
    key = jax.random.wrap_key_data(bits)
    suggestion, self._state = self._ask(key, self._state)
    return tuple(map(np.asarray, suggestion))

  def tell(self, suggestion, val_n):
    self._state = self._tell(self._state, suggestion, val_n)


class _Plain:
  """A search by an object with `ask` and `tell`."""

  def __init__(self, searcher, answers, bits, seed):
    del bits
    self._name, self._batch = searcher.name, searcher.batch
    self._sizes, self._epochs = answers.sizes, answers.epochs
    own = _called(self._name, searcher.make, np.random.default_rng([*seed, 1]))
    self._calls = [getattr(own, name, None) for name in ('ask', 'tell')]
    if not all(map(callable, self._calls)):
      raise ValueError(
        f'{self._name} returned {_short(own)}; want an object with the methods '
        'ask() and tell(vector, error)'
      )

  def ask(self, bits):
    del bits
    found = []
    for _ in range(self._batch):
      said = _called(self._name, self._calls[0])
      if said is None:
        break
      found.append(self._read(said))
    vectors, epochs = zip(*found) if found else ((), ())
    return (
      np.array(vectors, np.int32).reshape(len(found), len(self._sizes)),
      np.array(epochs, np.int32),
    )

  def _read(self, said):
    """Returns (vector, epochs) of what `ask` returned."""
    vector, epochs = said, self._epochs
    if isinstance(said, tuple) and len(said) == 2 and np.ndim(said[0]) == 1:
      vector, epochs = said
    digits, most = tuple(vector) if np.ndim(vector) == 1 else (), self._epochs
    if len(digits) != len(self._sizes) or not all(
      _whole(v) and 0 <= v < size for v, size in zip(digits, self._sizes)
    ):
      raise ValueError(
        f'{self._name}: ask() returned {_short(said)}; want '
        f'{len(self._sizes)} integers, from 0 to below {self._sizes}'
      )
    if not _whole(epochs) or not 1 <= epochs <= most:
      raise ValueError(
        f'{self._name}: ask() wants {_short(epochs)} epochs; want an integer '
        f'from 1 to {most}'
      )
    return digits, epochs

  def tell(self, suggestion, val_n):
    for arch_d, val in zip(suggestion.arch_nd, val_n.tolist()):
      _called(self._name, self._calls[1], arch_d, val)


def _bits(stream, count):
  return stream.integers(2**32, size=count, dtype='u4')


def _whole(value):
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _short(value):
  text = ' '.join(repr(value).split())
  return text if len(text) <= 100 else f'{text[:100]} ...'


def _called(name, call, *args, **named):
  """Calls a stranger's code; what it raises becomes a line with its place."""
  try:
    return call(*args, **named)
  except Exception as e:
    at = traceback.extract_tb(e.__traceback__)[-1]
    told = ' '.join(str(e).split())
    raise ValueError(
      f'{name}: {at.filename}, line {at.lineno}: {type(e).__name__}: {told}'
    ) from e
