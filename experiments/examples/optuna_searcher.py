"""Optuna's samplers, against ours on a table; `pip install optuna` first.

  python experiments/search.py --searchers=evolution --repeats=20 \\
    --searcher=experiments/examples/optuna_searcher.py:TPE

One trial an evaluation, each digit of the vector a categorical choice. Where
the table answers with a nearest cell, its error rate counts for what was asked.
"""

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TPE:
  """Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011."""

  def __init__(self, sizes, epochs, budget, rng):
    self.sizes, seed = sizes, int(rng.integers(2**31))
    self.study = optuna.create_study(
      sampler=optuna.samplers.TPESampler(seed=seed)
    )
    self.asked = []

  def ask(self):
    trial = self.study.ask()
    self.asked.append(trial)
    return [
      trial.suggest_categorical(f'digit{d}', list(range(size)))
      for d, size in enumerate(self.sizes)
    ]

  def tell(self, vector, error):
    self.study.tell(self.asked.pop(0), error)
