"""Reductions over the seeds of a cell, of which some may be missing."""

import numpy as np

NAMES = ('mean', 'median', 'min', 'max')


def over_last(values, there, name):
  """Reduces the last axis, over what is there.

  Args:
    values: numbers [.., s].
    there: bool of that shape, true somewhere along the last axis.
    name: one of NAMES.

  Returns:
    float64 [..]; NaN where any value that is there is NaN.
  """
  values = values.astype(np.float64)
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
