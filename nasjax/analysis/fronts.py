"""What nothing beats in both error and cost."""

import numpy as np

from nasjax.analysis import statistics


def pareto_front(cost_n, error_n):
  """Marks what nothing else beats in both cost and error.

  A point is beaten by one that is no worse in both and better in one. Equal
  points stand or fall together; NaN or infinity in either never stands.

  Returns:
    front_n, bool.
  """
  cost_n, error_n = statistics.pairs(cost_n, error_n)
  front_n = np.zeros(len(cost_n), bool)
  finite = np.flatnonzero(np.isfinite(cost_n) & np.isfinite(error_n))
  order = finite[np.lexsort((error_n[finite], cost_n[finite]))]
  best = (np.inf, np.inf)  # cost and error of the last point on the front
  for n in order:
    if error_n[n] < best[1] or (cost_n[n], error_n[n]) == best:
      best = (cost_n[n], error_n[n])
      front_n[n] = True
  return front_n
