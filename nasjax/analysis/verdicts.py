"""Which of several error rates are better than a reference: the one rule.

What is compared is the difference itself, not two intervals whether they
overlap: that asks for a difference 1.4 times as large. By Student's t, made
right for skewed values (Hall, On the removal of skewness by transformation,
JRSS B 54, 1992), the mean of n values is held against

  a number that is known exactly, as random search's expectation in a table;
  as many values, the n-th of which belongs to the n-th: paired differences;
  values that belong to no other: Welch's t.

Of m comparisons each is judged by Holm's procedure (Holm, A simple sequentially
rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979),
so that the chance of any false verdict among them is at most 1 - level. Error
rates are fractions, lower is better. `tests/analysis/test_verdicts.py` measures
how often the rule is wrong where nothing differs, and how often it sees what
does. Outcomes so rare that no value shows them are not reckoned with.
"""

from typing import NamedTuple

import numpy as np
import scipy.special

# Chance to see a difference that `Verdict.visible` is stated for.
POWER = 0.8
# Of fewer values skewness hides: of 10 as skewed as what searches find, a
# verdict on seven of them was false in 19 % of trials, of 20 in 8 %, of 100 in
# 6 %.
FEWEST = 20


class Verdict(NamedTuple):
  """How an error rate lies to the reference.

  Attributes:
    lies: 'below' or 'above' where that is significant, 'open' where it is not,
      'unknown' for too few values.
    difference: mean minus reference.
    low, high: interval of the difference, at the level at which it was judged:
      0 lies within if and only if the verdict is 'open'. NaN if 'unknown'.
    p: chance of such a difference where there is none, times the comparisons
      that Holm's procedure counts.
    visible: by how much it would have to be lower to be seen with a chance of
      POWER.
    n: how many values, or pairs of values.
  """

  lies: str
  difference: float
  low: float
  high: float
  p: float
  visible: float
  n: int


# Error rates are kept in single precision: what is less is no difference.
_LEAST_ERROR = 1e-6


def judge(values, reference, paired=True, level=0.95, least=FEWEST):
  """Returns the Verdict of each of several error rates against one reference.

  Args:
    values: `{name: x_n}`, error rates of each.
    reference: a number, or values.
    paired: whether the n-th value belongs to the n-th of the reference. Where
      one has more of them than the other, the first are compared.
    level: chance that no verdict of all is false.
    least: of how many values a mean has a verdict, at least 2.

  Returns:
    `{name: Verdict}`.

  Raises:
    ValueError: a value is NaN, or there is none.
  """
  found = {
    name: _difference(name, x_n, reference, paired)
    for name, x_n in values.items()
  }
  p_by_name = {
    name: _chance(d) for name, d in found.items() if d.n >= max(least, 2)
  }
  verdicts, significant, adjusted = {}, True, 0.0
  divisor = many = len(p_by_name)
  for rank, name in enumerate(sorted(p_by_name, key=p_by_name.get)):
    # From the first that is not significant on, nothing is: at its level.
    divisor = many - rank if significant else divisor
    significant = significant and p_by_name[name] * divisor <= 1 - level
    adjusted = min(1.0, max(adjusted, (many - rank) * p_by_name[name]))
    verdicts[name] = _verdict(
      found[name], significant, adjusted, (1 - level) / divisor
    )
  none = float('nan')
  return {
    name: verdicts.get(
      name, Verdict('unknown', d.value, none, none, none, none, d.n)
    )
    for name, d in found.items()
  }


def since(cost_k, values, reference_k, **how):
  """Returns from which cost on each is below the reference, to the last one.

  Asked of all costs from there on, it is no more often wrong than at the last.

  Args:
    cost_k: rising.
    values: `{name: x_rk}`; NaN where there is nothing yet.
    reference_k: the reference at each cost: numbers, or values [r, k].
    **how: of `judge`.

  Returns:
    `{name: cost}`, None where it is not below at the last.
  """
  found, still = dict.fromkeys(values), set(values)
  for k in reversed(range(len(cost_k))):
    reference = np.asarray(reference_k)[..., k]
    there = {
      name: x_rk[:, k]
      for name, x_rk in values.items()
      if not np.isnan(x_rk[:, k]).any() and not np.isnan(reference).any()
    }
    verdicts = judge(there, reference, **how)
    still = {n for n in still & set(there) if verdicts[n].lies == 'below'}
    found |= dict.fromkeys(still, float(cost_k[k]))
    if not still:
      break
  return found


class _Difference(NamedTuple):
  """A difference of means and how it is distributed.

  Attributes:
    value: the difference.
    error: its standard error.
    freedom: degrees of freedom of that.
    bend: a third of its skewness.
    n: of how many values, or pairs.
  """

  value: float
  error: float
  freedom: float
  bend: float
  n: int


def _difference(name, x_n, reference, paired):
  x_n = np.atleast_1d(np.asarray(x_n, np.float64))
  reference = np.asarray(reference, np.float64)
  for what, some in (name, x_n), ('the reference', reference):
    if not some.size or np.isnan(some).any():
      raise ValueError(
        f'{what}: {np.isnan(some).sum()} of {some.size} values are NaN; leave '
        'those out, or count them as 1.0'
      )
  n = min(len(x_n), len(reference)) if reference.ndim else len(x_n)
  if paired and reference.ndim:
    x_n, reference = x_n[:n], reference[:n]
  if paired or not reference.ndim:
    x_n, reference = x_n - reference, np.zeros(1)
  (square, cube, below), other = _cumulants(x_n), _cumulants(reference)
  square, cube, below = square + other[0], cube - other[1], below + other[2]
  # Welch, The generalization of Student's problem, Biometrika 34, 1947.
  freedom = square**2 / below if below else max(n - 1, 1)
  error = max(np.sqrt(square), _LEAST_ERROR)
  return _Difference(
    float(x_n.mean() - reference.mean()),
    float(error),
    float(freedom),
    float(cube / error**3 / 3),
    n,
  )


def _cumulants(x_n):
  """Returns the second and third of a mean, and what Welch divides by."""
  n = len(x_n)
  if n < 2:
    return 0.0, 0.0, 0.0
  square = x_n.var(ddof=1) / n
  # Of few values skewness is mostly chance.
  cube = 0.0
  if n >= FEWEST:
    cube = ((x_n - x_n.mean()) ** 3).mean() / n**2
  return square, cube, square**2 / (n - 1)


def _chance(d):
  """Returns the chance of so large a difference where there is none."""
  t, a = d.value / d.error, d.bend
  straight = t + a * t**2 + a**2 * t**3 / 3 + a / 2
  return float(2 * scipy.special.stdtr(d.freedom, -abs(straight)))


def _bent(t, a):
  """Returns the t of which `_chance` makes this one."""
  return (np.cbrt(1 + 3 * a * (t - a / 2)) - 1) / a if abs(a) > 1e-6 else t


def _verdict(d, significant, p, tail):
  half = scipy.special.stdtrit(d.freedom, 1 - tail / 2)
  visible = scipy.special.stdtrit(d.freedom, POWER) - _bent(-half, d.bend)
  lies = ('below' if d.value < 0 else 'above') if significant else 'open'
  return Verdict(
    lies,
    d.value,
    float(d.value - _bent(half, d.bend) * d.error),
    float(d.value - _bent(-half, d.bend) * d.error),
    p,
    float(visible * d.error),
    d.n,
  )
