"""Whether latencies have moved away from what a predictor says.

A cumulative sum chart (Page, Continuous inspection schemes, Biometrika 41,
1954) on r = log(measured / predicted): in units of the spread of r in a first
part of the log, z is summed up as far as it lies above a slack, and below minus
that; an alarm is given when either sum passes a threshold. The level of the
first part is taken as it is, so that a predictor that is off by a factor is no
drift; z beyond 4 counts as 4, so that no single stall is one.

The threshold is that which a log without drift passes with the probability
asked for: found by resampling the first part, mean and spread estimated anew
each time, and checked on resamples of its own. It holds for entries that are
independent; where a machine is slow for minutes at a time, entries should lie
minutes apart, or be medians.
"""

from typing import NamedTuple

import numpy as np

SLACK, MOST = 0.5, 4.0
# Fewer entries tell neither the level nor the spread.
FEWEST = 20


class Chart(NamedTuple):
  """How to watch a log.

  Attributes:
    level, spread: of log ratios without drift: median, and the standard
      deviation that the quartiles of a Gaussian would have.
    threshold: of the sums.
    false_alarms: share of resampled logs without drift that pass it.
    length: entries of a log for which that is so.
  """

  level: float
  spread: float
  threshold: float
  false_alarms: float
  length: int


class Drift(NamedTuple):
  """What a log shows.

  Attributes:
    at: number of the entry at which the alarm was given, None for none.
    since: number of the entry from which the sum that passed had risen.
    ratio: geometric mean of measured over predicted from there on, that of
      the first part being 1.
    high_n, low_n: the sums, upwards and downwards.
  """

  at: int | None
  since: int | None
  ratio: float
  high_n: np.ndarray
  low_n: np.ndarray


def _settled(ratio_rn):
  """Returns level and spread of each row of log ratios."""
  low_r, level_r, high_r = np.quantile(ratio_rn, (0.25, 0.5, 0.75), axis=-1)
  # Of a Gaussian the quartiles are 1.349 standard deviations apart.
  return level_r, np.maximum((high_r - low_r) / 1.349, 1e-9)


def _sums(z_rn):
  """Returns the upward and the downward sum of each row, [r, n] each."""
  z_rn = np.clip(z_rn, -MOST, MOST)
  high_rn, low_rn = np.zeros_like(z_rn), np.zeros_like(z_rn)
  high_r = low_r = np.zeros(len(z_rn))
  for n in range(z_rn.shape[1]):
    high_r = np.maximum(high_r + z_rn[:, n] - SLACK, 0)
    low_r = np.maximum(low_r - z_rn[:, n] - SLACK, 0)
    high_rn[:, n], low_rn[:, n] = high_r, low_r
  return high_rn, low_rn


def _peaks(rng, first_n, length, repeats):
  """Returns the highest sum of each of some resampled logs without drift."""
  drawn_rn = rng.choice(first_n, (repeats, len(first_n) + length))
  level_r, spread_r = _settled(drawn_rn[:, : len(first_n)])
  z_rn = (drawn_rn[:, len(first_n) :] - level_r[:, None]) / spread_r[:, None]
  return np.maximum(*(sums.max(axis=1) for sums in _sums(z_rn)))


def chart(first_n, length, rate=0.01, seed=0, repeats=2000):
  """Returns the Chart for a log of so many entries behind a first part.

  Args:
    first_n: log ratios without drift, at least `FEWEST`.
    length: entries to be watched.
    rate: false alarms that are allowed, as a share of such logs.
    seed, repeats: of the resampling, once for the threshold and once more for
      its check.

  Raises:
    ValueError: too few ratios; a ratio that is not finite; a rate outside 0
      to 1.
  """
  first_n = np.asarray(first_n, np.float64)
  if len(first_n) < FEWEST or not np.isfinite(first_n).all():
    raise ValueError(
      f'{len(first_n)} entries, {np.sum(~np.isfinite(first_n))} not finite; '
      f'the first part of a log needs {FEWEST} or more'
    )
  if not 0 < rate < 1 or length < 1:
    raise ValueError(
      f'rate={rate}, length={length}; want 0 < rate < 1, 1 or more'
    )
  rng = np.random.default_rng(seed)
  threshold = float(
    np.quantile(_peaks(rng, first_n, length, repeats), 1 - rate)
  )
  again_r = _peaks(rng, first_n, length, repeats)
  level, spread = _settled(first_n)
  return Chart(
    float(level),
    float(spread),
    threshold,
    float(np.mean(again_r > threshold)),
    length,
  )


def drift(ratio_n, chart):
  """Watches log ratios behind the first part; returns the `Drift`."""
  ratio_n = np.asarray(ratio_n, np.float64)
  high, low = _sums(((ratio_n - chart.level) / chart.spread)[None])
  high_n, low_n = high[0], low[0]
  passed = np.flatnonzero(np.maximum(high_n, low_n) > chart.threshold)
  if not len(passed):
    return Drift(None, None, 1.0, high_n, low_n)
  at = int(passed[0])
  sums_n = high_n if high_n[at] >= low_n[at] else low_n
  zero = np.flatnonzero(sums_n[:at] == 0)
  since = int(zero[-1]) + 1 if len(zero) else 0
  ratio = float(np.exp(np.median(ratio_n[since:]) - chart.level))
  return Drift(at, since, ratio, high_n, low_n)
