"""Scores of networks that were never trained, held against trained ones."""

from typing import NamedTuple

import numpy as np

from nasjax.analysis import statistics


class Proxy(NamedTuple):
  """What a proxy is worth.

  Attributes:
    correlation: Spearman's, of its mean over draws with accuracy, a
      `statistics.Correlation`.
    each_r: that of every draw (of weights and batch) alone.
    first_r: for every draw, the error rate of the network that it likes best:
      what a search by it alone finds, without training any.
    gain: by how much it lies above the better baseline, with the interval of
      the difference, cells resampled for both alike; None for a baseline.
  """

  correlation: statistics.Correlation
  each_r: np.ndarray
  first_r: np.ndarray
  gain: statistics.Estimate | None


def mean_rank(score_rn):
  """Returns the mean over draws of networks' ranks, 1 for the lowest score.

  Raises:
    ValueError: a score is NaN.
  """
  score_rn = np.atleast_2d(np.asarray(score_rn, np.float64))
  if np.isnan(score_rn).any():
    raise ValueError(f'{np.isnan(score_rn).sum()} scores are NaN')
  return np.mean([statistics.ranks(score_n) for score_n in score_rn], axis=0)


def proxies(error_n, scores, baselines=(), seed=0, repeats=1000, level=0.95):
  """Judges proxies by the error rates of trained networks.

  The mean is over ranks: draws may differ in scale. A score of -inf is the
  lowest there is.

  Args:
    error_n: of networks, without NaN.
    scores: `{name: score_rn}`, of draws r; higher should be better.
    baselines: names of those that the others are to beat.
    seed, repeats, level: of the bootstrap over networks.

  Returns:
    `{name: Proxy}`, in the order of `scores`.

  Raises:
    ValueError: a score or an error rate is NaN; lengths differ.
  """
  accuracy_n = -np.asarray(error_n, np.float64)
  columns, each, first = [accuracy_n], {}, {}
  for name, score_rn in scores.items():
    score_rn = np.atleast_2d(score_rn)
    columns.append(mean_rank(score_rn))
    each[name] = np.array(
      [statistics.spearman(score_n, accuracy_n) for score_n in score_rn]
    )
    # Of equal scores a draw takes none before another: their mean.
    best_rn = score_rn == score_rn.max(axis=1, keepdims=True)
    first[name] = np.array([-accuracy_n[best_n].mean() for best_n in best_rn])
  value_nk = np.stack(columns, axis=1)
  value_k = statistics.correlation_matrix(value_nk)[0]
  draws_bk = statistics.resampled_correlations(value_nk, seed, repeats)[:, 0]
  names = ['', *scores]
  rivals = [names.index(name) for name in baselines]
  n = len(accuracy_n)
  found = {}
  for k, name in enumerate(names[1:], 1):
    gain = None
    if rivals and k not in rivals:
      gain = statistics.Estimate(
        *statistics.correlation(
          value_k[k] - value_k[rivals].max(),
          draws_bk[:, k] - draws_bk[:, rivals].max(1),
          n,
          level,
        )
      )
    own = statistics.correlation(value_k[k], draws_bk[:, k], n, level)
    found[name] = Proxy(own, each[name], first[name], gain)
  return found
