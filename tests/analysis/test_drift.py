"""The chart keeps its rate of false alarms, and sees what has moved."""

import numpy as np
import pytest

from nasjax.analysis import drift


@pytest.mark.parametrize('tail', ['normal', 'heavy'])
def test_false_alarms_are_as_many_as_said(tail):
  rng = np.random.default_rng(3)

  def draw(n):
    if tail == 'normal':
      return 0.05 * rng.normal(size=n) + 0.2
    return 0.05 * rng.standard_t(3, size=n) - 0.1

  alarms, said = 0, []
  for _ in range(100):
    log_n = draw(200)
    chart = drift.chart(log_n[:80], 120, rate=0.05, repeats=200)
    alarms += drift.drift(log_n[80:], chart).at is not None
    said.append(chart.false_alarms)
  # Five per cent of 100 are 5; 95 % of binomial draws lie from 1 to 10.
  assert 1 <= alarms <= 11
  assert np.mean(said) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize('change', [0.05, -0.05])
def test_a_change_of_a_spread_is_seen_soon(change):
  rng = np.random.default_rng(0)
  log_n = 0.05 * rng.normal(size=260) + 0.3
  log_n[150:] += change
  chart = drift.chart(log_n[:100], 160)
  found = drift.drift(log_n[100:], chart)
  assert 50 <= found.at < 90
  assert 35 <= found.since <= found.at
  assert found.ratio == pytest.approx(np.exp(change), abs=0.03)


def test_one_stall_is_no_drift():
  rng = np.random.default_rng(1)
  log_n = 0.05 * rng.normal(size=120)
  log_n[90] = 3.0
  found = drift.drift(log_n[60:], drift.chart(log_n[:60], 60))
  assert found.at is None


def test_what_is_wrong_is_told():
  with pytest.raises(ValueError, match='19 entries, 0 not finite'):
    drift.chart(np.zeros(19), 5)
  with pytest.raises(ValueError, match='rate=1'):
    drift.chart(np.zeros(30), 5, rate=1)
