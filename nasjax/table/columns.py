"""Columns of several shards as NumPy arrays."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nasjax.table import schema, shards


class Lists(NamedTuple):
  """Lists: row r is values[start_r[r] : start_r[r] + length_r[r]]."""

  values: np.ndarray
  start_r: np.ndarray
  length_r: np.ndarray

  def padded(self, width):
    """Returns [r, width], zero-padded if integers, else NaN-padded."""
    integers = self.values.dtype.kind in 'iu'
    fill = 0 if integers else np.nan
    out = np.full((len(self.start_r), width), fill, self.values.dtype)
    there = np.arange(width) < self.length_r[:, None]
    place = self.start_r[:, None] + np.arange(width)
    out[there] = self.values[place[there]]
    return out

  def at(self, rows, place):
    """Returns the values at a place, from 0; NaN beyond the end or at NaN.

    Args:
      rows: integers of any shape.
      place: numbers of that shape, or one for all.
    """
    if isinstance(rows, int):
      if not place < self.length_r.item(rows):
        return np.nan
      return self.values[self.start_r.item(rows) + int(place)]
    there = place < self.length_r[rows]
    if not self.values.size:
      return np.full(np.shape(there), np.nan)[()]
    flat = self.start_r[rows] + np.where(there, place, 0).astype(np.int64)
    flat = np.where(there, flat, 0)
    return np.where(there, self.values[flat], np.nan)[()]


def _read(shards_, name, rows, read_dictionary=None):
  """Returns one column of the shards, its chunks joined, some rows of it."""
  parts = [shards.read(s, [name], read_dictionary) for s in shards_]
  joined = pa.concat_tables(parts).unify_dictionaries().column(name)
  array = joined.combine_chunks()
  return array if rows is None else array.take(pa.array(rows))


def scalars(shards_, name, rows=None):
  """Returns a column of one value a row as an array [r].

  Integers that may be null become float64 with NaN, strings objects.
  """
  field = schema.SCHEMA.field(name)
  if pa.types.is_string(field.type):
    codes_r, names = coded(shards_, name, rows)
    return np.array(names, object)[codes_r]
  array = _read(shards_, name, rows)
  if field.nullable:
    array = array.cast(pa.float64())
  return array.to_numpy(zero_copy_only=False)


def coded(shards_, name, rows=None):
  """Returns a column of strings as codes [r] and the list they index."""
  array = _read(shards_, name, rows, read_dictionary=[name])
  return array.indices.to_numpy(), array.dictionary.to_pylist()


def lists(shards_, name, rows=None):
  """Returns a column of lists as Lists."""
  array = _read(shards_, name, rows)
  length_r = np.diff(array.offsets.to_numpy())
  start_r = np.concatenate([[0], np.cumsum(length_r)[:-1]]).astype(np.int64)
  return Lists(array.flatten().to_numpy(), start_r, length_r)
