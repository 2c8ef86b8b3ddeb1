"""The rule of verdicts: how often it is wrong, and how often it sees."""

import numpy as np
import pytest
import scipy.stats

from nasjax import analysis

TRIES = 1500


def _skewed(rng, *shape):
  """Few values, most of them low: what the best of many evaluations is.

  Mean 0.235, standard deviation 0.021.
  """
  values, share = [0.21, 0.23, 0.25, 0.30], [0.25, 0.45, 0.25, 0.05]
  return rng.choice(values, shape, p=share)


MEAN = 0.25 * 0.21 + 0.45 * 0.23 + 0.25 * 0.25 + 0.05 * 0.30


def _judged(tries):
  """Returns the share of tries in which a verdict is 'below', 'above', any."""
  lies = [{v.lies for v in verdicts.values()} for verdicts in tries]
  return (
    np.mean(['below' in some for some in lies]),
    np.mean(['above' in some for some in lies]),
    np.mean([some != {'open'} for some in lies]),
  )


@pytest.mark.parametrize('reference', ['exact', 'paired', 'unpaired'])
@pytest.mark.parametrize('n', [20, 100])
def test_false_alarms_are_as_rare_as_said(reference, n):
  rng = np.random.default_rng(n)

  def one():
    drawn = _skewed(rng, 8, n)
    names = {str(k): x_n for k, x_n in enumerate(drawn[:7])}
    if reference == 'exact':
      return analysis.judge(names, MEAN)
    return analysis.judge(names, drawn[7], reference == 'paired')

  below, above, either = _judged(one() for _ in range(TRIES))
  # 5 %, and what 1,500 tries scatter; of 20 skewed values it is off by as much.
  assert either < (0.075 if n == 100 else 0.1), (below, above)
  # Seven tests of 5 % each were wrong in up to 30 %.
  assert either > 0.005


def test_what_is_visible_is_seen_as_often_as_said():
  rng = np.random.default_rng(0)
  n = 100
  sd = _skewed(rng, 10_000).std()
  visible = np.mean(
    [
      analysis.judge({'a': _skewed(rng, n)}, MEAN)['a'].visible
      for _ in '_' * 99
    ]
  )
  assert visible == pytest.approx(2.8 * sd / np.sqrt(n), rel=0.2)
  seen, wrong, _ = _judged(
    analysis.judge({'a': _skewed(rng, n) - visible}, MEAN) for _ in range(TRIES)
  )
  assert abs(seen - analysis.POWER) < 0.05 and wrong == 0
  # By intervals that must not overlap it would be seen in fewer than half.
  apart = []
  for _ in range(TRIES // 3):
    means = [
      analysis.student_mean(x_n)
      for x_n in (_skewed(rng, n) - visible, _skewed(rng, n))
    ]
    apart.append(analysis.compare(*means) == 'below')
  assert np.mean(apart) < seen / 2
  # Pairs that have something in common are told apart by less.
  base_n = _skewed(rng, n)
  near_n = base_n - 0.002 + 0.001 * rng.standard_normal(n)
  paired = analysis.judge({'a': near_n}, base_n)['a']
  assert paired.lies == 'below'
  assert analysis.judge({'a': near_n}, base_n, paired=False)['a'].lies == 'open'


def test_the_numbers_are_those_of_textbooks():
  rng = np.random.default_rng(1)
  # Alike to both sides: without skewness the test is Student's, and Welch's.
  noise_n = rng.normal(0, 0.02, 12)
  x_n = 0.3 + np.concatenate([noise_n, -noise_n])
  y_n = 0.31 + 2 * np.concatenate([noise_n, -noise_n])
  z_n = 0.31 + 3 * np.concatenate([-noise_n, noise_n, [0.0]])
  for given, theirs, shift in (
    ((0.31,), scipy.stats.ttest_1samp(x_n, 0.31), 0.31),
    ((y_n,), scipy.stats.ttest_rel(x_n, y_n), 0),
    ((z_n, False), scipy.stats.ttest_ind(x_n, z_n, equal_var=False), 0),
  ):
    found = analysis.judge({'x': x_n}, *given)['x']
    assert found.p == pytest.approx(theirs.pvalue)
    interval = np.array(theirs.confidence_interval()) - shift
    assert (found.low, found.high) == pytest.approx(tuple(interval))


def test_several_are_judged_one_after_the_other():
  rng = np.random.default_rng(2)
  noise_n = rng.normal(0, 0.01, 25)
  noise_n = np.concatenate([noise_n, -noise_n])
  error = noise_n.std(ddof=1) / np.sqrt(50)
  shifts = {
    'far': 0.05, 'near': 2.2 * error, 'no': 2.1 * error, 'worse': -0.02
  }  # fmt: skip
  found = analysis.judge(
    {name: 0.3 + noise_n - shift for name, shift in shifts.items()}, 0.3
  )
  alone = {
    name: analysis.judge({name: 0.3 + noise_n - shift}, 0.3)[name]
    for name, shift in shifts.items()
  }
  assert [v.lies for v in found.values()] == ['below', 'open', 'open', 'above']
  assert alone['near'].lies == alone['no'].lies == 'below'
  for name, v in found.items():
    assert v.p >= alone[name].p and v.n == 50
    assert (v.low < 0 < v.high) == (v.lies == 'open') == (v.p > 0.05)
    assert v.difference == pytest.approx(-shifts[name])


def test_too_few_values_and_none():
  few = analysis.judge({'a': [0.1] * 19, 'b': [0.1] * 20}, 0.2)
  assert few['a'].lies == 'unknown' and np.isnan(few['a'].low)
  assert few['b'].lies == 'below'
  assert analysis.judge({'a': [0.1, 0.1]}, 0.2, least=2)['a'].lies == 'below'
  assert analysis.judge({'a': [0.1]}, [0.2], least=0)['a'].lies == 'unknown'
  for several, one in (([0.1, 0.2], [0.5]), ([0.1], [0.5, 0.6])):
    found = analysis.judge({'a': several}, one, paired=False, least=2)
    assert found['a'].lies == 'unknown'
  # Nothing differs, but for how it is rounded.
  assert analysis.judge({'a': np.full(50, 0.3)}, 0.1 * 3)['a'].lies == 'open'
  same = np.full(50, np.float32(0.3))
  assert analysis.judge({'a': same}, 0.3)['a'].lies == 'open'
  assert analysis.judge({}, 0.3) == {}
  for values, reference in (([0.1, np.nan], 0.1), ([], 0.1), ([0.1], [])):
    with pytest.raises(ValueError, match='values are NaN'):
      analysis.judge({'mine': values}, reference)


def test_from_which_cost_on():
  rng = np.random.default_rng(3)
  noise_rk = rng.normal(0, 0.01, (40, 5))
  noise_rk -= noise_rk.mean(axis=0)
  reference_k = np.array([0.5, 0.4, 0.35, 0.33, 0.32])
  late = np.array([0.0, -0.1, 0.0, -0.1, -0.1])
  values = {
    'late': reference_k + noise_rk + late,
    'never': reference_k + noise_rk,
    'begins': reference_k + noise_rk - 0.1,
    'lost': reference_k + noise_rk + np.array([-0.1] * 4 + [0.1]),
  }
  values['begins'][:3, :2] = np.nan
  cost_k = [1, 2, 4, 8, 16]
  assert analysis.since(cost_k, values, reference_k) == {
    'late': 8, 'never': None, 'begins': 4, 'lost': None
  }  # fmt: skip
  sampled = reference_k + rng.normal(0, 0.01, (50, 5))
  assert analysis.since(cost_k, values, sampled)['late'] == 8
