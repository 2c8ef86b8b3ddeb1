"""A search algorithm of one's own, against the others on a table.

  python experiments/search.py --searchers=evolution --repeats=1000 \\
    --searcher=experiments/examples/own_searcher.py:Annealing

A searcher is made for one search. It gets `sizes`, how many values each digit
of a vector takes; `epochs` of a full training; the `budget` in trained models;
and `rng`, from which it is to draw. `ask()` returns the vector to evaluate, of
integers 0 <= v[i] < sizes[i], or (vector, epochs) to train it less, or None to
stop. `tell(vector, error)` says what came of it: the error rate on validation,
to be minimised. It may be of another vector than that asked for, where a table
does not have that. `nasjax/search/driver.py` is the loop; without the launcher:

  scape = landscape.landscape(table.open('experiments/tables/synthetic_timit'))
  searcher = driver.made(Annealing, scape.sizes, scape.epochs, budget=150)
  trace = driver.on_table(searcher, scape, seed=0, repeats=100, budget=150)
  test_rk = landscape.best_test(trace, scape.epochs, [50, 100, 150])
"""

import math


class Annealing:
  """Simulated annealing (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).

  A neighbour, one digit changed, is moved to if it is better, and else by a
  chance that falls with how much worse it is and with time.
  """

  def __init__(self, sizes, epochs, budget, rng, hot=0.02, cold=0.002):
    self.sizes, self.budget, self.rng = sizes, budget, rng
    self.hot, self.cold = hot, cold
    self.at, self.error, self.told = None, math.inf, 0

  def ask(self):
    if self.at is None:
      return self.rng.integers(self.sizes)
    vector = self.at.copy()
    free = [d for d, size in enumerate(self.sizes) if size > 1]
    d = self.rng.choice(free)
    step = self.rng.integers(1, self.sizes[d])
    vector[d] = (vector[d] + step) % self.sizes[d]
    return vector

  def tell(self, vector, error):
    heat = self.hot * (self.cold / self.hot) ** (self.told / self.budget)
    worse = error - self.error
    if worse <= 0 or self.rng.random() < math.exp(-worse / heat):
      self.at, self.error = vector, error
    self.told += 1
