"""Reductions over the seeds of a cell, of which some may be missing."""

import functools
import math
import operator

import numpy as np

NAMES = ('mean', 'median', 'min', 'max')
FEW = 8  # from there on NumPy adds in another order
_BINARY = {'mean': np.add, 'min': np.minimum, 'max': np.maximum}


def over_last(values, there, name):
  """Reduces the last axis, over what is there.

  Args:
    values: numbers [.., s].
    there: bool of that shape, true somewhere along the last axis; None if
      true everywhere.
    name: one of NAMES.

  Returns:
    float64 [..]; NaN where any value that is there is NaN.
  """
  values = values.astype(np.float64, copy=False)
  seeds = values.shape[-1]
  if there is None and seeds < FEW and name in _BINARY:
    # The order in which `sum` goes through so few, in a fifth of its time.
    parts = (values[..., s] for s in range(seeds))
    found = functools.reduce(_BINARY[name], parts)
    return found / seeds if name == 'mean' else found
  if there is None:
    there = np.ones(values.shape, bool)
  count = there.sum(axis=-1)
  if name == 'mean':
    return np.where(there, values, 0).sum(axis=-1) / count
  if name == 'max':
    return np.where(there, values, -np.inf).max(axis=-1)
  if name == 'min':
    return np.where(there, values, np.inf).min(axis=-1)
  ranked = np.sort(np.where(there, values, np.inf), axis=-1)
  low = np.take_along_axis(ranked, (count[..., None] - 1) // 2, axis=-1)
  high = np.take_along_axis(ranked, count[..., None] // 2, axis=-1)
  broken = (there & np.isnan(values)).any(axis=-1)
  return np.where(broken, np.nan, (low + high)[..., 0] / 2)


def over_few(values, name):
  """Reduces a list of plain numbers, as `over_last` does to the last bit.

  Args:
    values: fewer than FEW, at least one.
    name: one of NAMES.

  Returns:
    float; NaN where any value is NaN.
  """
  if any(value != value for value in values):
    return math.nan
  if name == 'mean':
    # Not `sum`, which corrects its rounding.
    return functools.reduce(operator.add, values, 0.0) / len(values)
  ranked, last = sorted(values), len(values) - 1
  if name == 'median':
    return (float(ranked[last // 2]) + ranked[(last + 1) // 2]) / 2
  return float(ranked[0 if name == 'min' else last])
