"""Numbers as the report writes them, and what it may say of two of them."""

import numpy as np

from nasjax import analysis


def per(value, digits=2):
  """Returns a fraction as percent, '--' for none."""
  return '--' if np.isnan(value) else f'{100 * value:.{digits}f} %'


def points(value):
  """Returns a difference of fractions in points of percent."""
  return '--' if np.isnan(value) else f'{100 * value:.2f} points'


def estimate(found, of='cell'):
  """Returns an Estimate of an error rate with its interval."""
  if np.isnan(found.low):
    return f'{per(found.value)} ({many(found.n, of)}, no interval)'
  return f'{per(found.value)} [{per(found.low)}, {per(found.high)}]'


def correlation(found):
  """Returns a Correlation with its interval."""
  if np.isnan(found.value):
    return f'none ({many(found.n, "cell")})'
  if np.isnan(found.low):
    return f'{found.value:z.3f}, too few cells for an interval ({found.n})'
  return (
    f'{found.value:z.3f} [{found.low:z.3f}, {found.high:z.3f}] '
    f'({many(found.n, "cell")})'
  )


def many(count, noun):
  """Returns '1 cell', '2 cells', '8,242 cells'."""
  return f'{count:,} {noun}' + ('' if count == 1 else 's')


def listed(words):
  """Returns 'a', 'a and b', 'a, b and c'."""
  words = [str(word) for word in words]
  if len(words) < 2:
    return ''.join(words)
  return f'{", ".join(words[:-1])} and {words[-1]}'


def order(first, one, second, other, written=correlation):
  """Says which of two numbers is lower, if their intervals let it be said.

  Args:
    first, second: what the numbers are of.
    one, other: Correlations or Estimates.
    written: function that writes such a number.
  """
  lies = analysis.compare(one, other)
  if lies == 'unknown':
    return f'There is too little to compare {first} with {second}.'
  if lies == 'overlapping':
    return (
      f'The intervals of {first}, {written(one)}, and of {second}, '
      f'{written(other)}, overlap: neither can be called the lower.'
    )
  if lies == 'above':
    first, one, second, other = second, other, first, one
  return (
    f'Lower for {first}, {written(one)}, than for {second}, {written(other)}.'
  )


def against(name, verdict, reference):
  """Says how an `analysis.Verdict` on a name lies to the reference."""
  if verdict.lies == 'unknown':
    return f'There is too little to compare {name} with {reference}.'
  span = (
    f'{points(verdict.difference)} [{points(verdict.low)}, '
    f'{points(verdict.high)}]'
  )
  if verdict.lies == 'open':
    return (
      f'No significant difference between {name} and {reference}: {span}; '
      f'{points(verdict.visible)} less would have been seen.'
    )
  which = 'Lower' if verdict.lies == 'below' else 'Higher'
  return f'{which} for {name} than for {reference}: {span}.'


def sign(name, found):
  """Says whether a Correlation can be told from none."""
  if np.isnan(found.low):
    return f'{name}: too few cells to tell.'
  if found.low <= 0 <= found.high:
    return f'{name}: the interval holds 0, so no agreement can be claimed.'
  return f'{name}: {"agreement" if found.low > 0 else "the reverse order"}.'
