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


def non_dominated(point_nk):
  """Marks what nothing else dominates, of any number of objectives.

  All are minimised. What is dominated has another that is no worse in any
  objective and better in one. Equal points stand or fall together; what is not
  finite in one objective never stands.

  Args:
    point_nk: n points of k objectives.

  Returns:
    front_n, bool.
  """
  point_nk = _points(point_nk)
  front_n = np.zeros(len(point_nk), bool)
  there = np.flatnonzero(np.isfinite(point_nk).all(axis=1))
  for n in there:
    no_worse = (point_nk[there] <= point_nk[n]).all(axis=1)
    better = (point_nk[there] < point_nk[n]).any(axis=1)
    front_n[n] = not (no_worse & better).any()
  return front_n


def hypervolume(point_nk, reference_k):
  """Measures the space that points dominate, up to a reference.

  All objectives are minimised. Exact, by slices along one objective after the
  other: it takes n^(k - 1) log n steps at most.

  Args:
    point_nk: n points of k objectives; what is not finite, or not better than
      the reference in all of them, adds nothing.
    reference_k: the worst that counts.

  Raises:
    ValueError: they have not the same number of objectives.
  """
  point_nk = _points(point_nk)
  reference_k = np.asarray(reference_k, np.float64)
  if reference_k.shape != point_nk.shape[1:]:
    raise ValueError(
      f'a reference of shape {reference_k.shape} for points of '
      f'{point_nk.shape[1]} objectives'
    )
  inside = np.isfinite(point_nk).all(1) & (point_nk < reference_k).all(1)
  return _volume(point_nk[inside], reference_k)


def _points(point_nk):
  point_nk = np.asarray(point_nk, np.float64)
  if point_nk.ndim != 2 or not point_nk.shape[1]:
    raise ValueError(
      f'points of shape {point_nk.shape}; want n of k objectives, (n, k)'
    )
  return point_nk


def _volume(point_nk, reference_k):
  if not len(point_nk):
    return 0.0
  if len(reference_k) == 1:
    return float(reference_k[0] - point_nk.min())
  order = np.argsort(point_nk[:, -1])
  ends = np.append(point_nk[order[1:], -1], reference_k[-1])
  total = 0.0
  for n, (start, end) in enumerate(zip(point_nk[order, -1], ends)):
    if end > start:
      below = point_nk[order[: n + 1], :-1]
      total += (end - start) * _volume(below, reference_k[:-1])
  return float(total)
