"""Searchers in plain Python that join ours by name: grid, tpe, nsga2.

Each is made for one search, as `nasjax/search/driver.py` has it. Those of
optuna take it from `pip install optuna`; each digit of the vector is a
categorical choice, each evaluation a trial. Where a table answers with another
vector, its error rate counts for the one that was asked for.
"""

import math


class Grid:
  """Grid search: points of the grid at equal distances, in their order.

  The whole grid is larger than most budgets, so as many points as the budget
  pays for are spread over the numbering of vectors (first digit fastest), from
  a first one that is drawn. Once round the space it has nothing to suggest.
  """

  def __init__(self, sizes, epochs, budget, rng):
    self.sizes, self.size, self.count = sizes, math.prod(sizes), 0
    # Prime to the size, so that every place comes before one comes again.
    self.step = max(1, round(self.size / budget))
    while math.gcd(self.step, self.size) > 1:
      self.step += 1
    # As many random digits as the size has, for it may be any integer.
    self.place = int.from_bytes(rng.bytes(32), 'little') % self.size

  def ask(self):
    if self.count == self.size:
      return None
    place, vector = self.place, []
    for size in self.sizes:
      place, digit = divmod(place, size)
      vector.append(digit)
    self.place = (self.place + self.step) % self.size
    self.count += 1
    return vector

  def tell(self, vector, error):
    pass


class _Optuna:
  """A study of optuna's, asked and told."""

  def __init__(self, sizes, sampler, directions):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    self.sizes = sizes
    self.study = optuna.create_study(sampler=sampler, directions=directions)
    self.asked = []

  def ask(self):
    trial = self.study.ask()
    vector = [
      trial.suggest_categorical(f'digit{d}', list(range(size)))
      for d, size in enumerate(self.sizes)
    ]
    self.asked.append(trial)
    return vector

  def told(self, *values):
    self.study.tell(self.asked.pop(0), values)


class TPE(_Optuna):
  """Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011."""

  def __init__(self, sizes, epochs, budget, rng):
    sampler = _samplers().TPESampler(seed=int(rng.integers(2**31)))
    super().__init__(sizes, sampler, ['minimize'])

  def tell(self, vector, error):
    self.told(float(error))


class NSGA2(_Optuna):
  """Deb et al., A fast and elitist multiobjective genetic algorithm, 2002.

  Of error rate and cost.
  """

  def __init__(self, sizes, epochs, budget, rng, cost_of, population=20):
    sampler = _samplers().NSGAIISampler(
      population_size=population, seed=int(rng.integers(2**31))
    )
    super().__init__(sizes, sampler, ['minimize', 'minimize'])
    self.cost_of = cost_of

  def tell(self, vector, error):
    cost = float(self.cost_of([vector])[0])
    self.told(float(error), cost)


def _samplers():
  try:
    from optuna import samplers
  except ImportError:
    raise ValueError(
      "tpe and nsga2 need optuna: pip install 'nasjax[predictors]'"
    ) from None
  return samplers


# By the names that --searchers gives them.
MORE = {'grid': Grid, 'tpe': TPE, 'nsga2': NSGA2}
