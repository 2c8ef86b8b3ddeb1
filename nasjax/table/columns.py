"""Columns of several shards as NumPy arrays.

A column is copied, batch by batch, from Arrow's buffers into one array of its
own; curves, which are most of a table, into a memory map. Arrow's conversions
stay out of the way: `to_numpy` imports pandas where it is installed (45 MB),
and `flatten`, `take` and `cast` all of Arrow's kernels (9 MB).
"""

import contextlib
import math
import mmap
import tempfile
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nasjax.table import contents, schema, shards

# Bytes of a column of lists that are not kept in memory.
LARGE = 1 << 20


class Lists(NamedTuple):
  """Lists: row r is values[offset_r[r] : offset_r[r + 1]].

  Attributes:
    values: of all rows, one after another; read-only.
    offset_r: one more than rows.
    mapping: the memory map that `values` stand in, or None.
  """

  values: np.ndarray
  offset_r: np.ndarray
  mapping: mmap.mmap | None = None

  def padded(self, width):
    """Returns [r, width], NaN-padded."""
    length_r = np.diff(self.offset_r)
    out = np.full((len(length_r), width), np.nan, self.values.dtype)
    there = np.arange(width) < length_r[:, None]
    place = self.offset_r[:-1, None] + np.arange(width)
    out[there] = self.values[place[there]]
    self._let_go()
    return out

  def take(self, rows):
    """Returns the Lists of some rows."""
    length_r = np.diff(self.offset_r)[rows]
    offset_r = _offsets(length_r)
    place = np.arange(offset_r[-1]) - np.repeat(offset_r[:-1], length_r)
    place += np.repeat(self.offset_r[rows], length_r)
    return Lists(self.values[place], offset_r)

  def at(self, rows, place):
    """Returns the values at a place, from 0; NaN beyond the end or at NaN.

    Args:
      rows: integers of any shape.
      place: numbers of that shape, or one for all.
    """
    start = self.offset_r[rows]
    there = start + place < self.offset_r[1:][rows]
    if there.all():
      found = self.values[start + np.asarray(place).astype(np.int64)]
    elif self.values.size:
      flat = start + np.where(there, place, 0).astype(np.int64)
      found = self.values[np.where(there, flat, 0)]
      found = np.where(there, found, np.nan)[()]
    else:
      found = np.full(np.shape(there), np.nan)[()]
    self._let_go()
    return found

  def at_one(self, row, place):
    """Returns the value of one row at a place, as `at`."""
    start = self.offset_r.item(row)
    if not place < self.offset_r.item(row + 1) - start:
      return math.nan
    return self.values.item(start + int(place))

  def _let_go(self):
    """Takes the pages touched out of this process; the system caches them."""
    if self.mapping is not None and hasattr(mmap, 'MADV_DONTNEED'):
      self.mapping.madvise(mmap.MADV_DONTNEED)


class Codes(NamedTuple):
  """Strings: row r is names[code_r[r]], and each name stands somewhere."""

  code_r: np.ndarray
  names: tuple[str, ...]

  def at(self, rows):
    """Returns the strings of rows as an array of objects."""
    return np.array(self.names, object)[self.code_r[rows]]


def read(shards_, names, rows=None):
  """Returns columns of shards by name, all read in one pass over the files.

  A column of numbers becomes an array [r] (float64 with NaN where integers may
  be null), one of strings Codes, one of lists Lists.

  Args:
    shards_: Shards of one kind, at least one.
    names: of the columns.
    rows: which rows are wanted; None for all.
  """
  return _wherever(shards_, lambda now: _read(now, names, rows))


def whole(shards_):
  """Returns all columns of Shards as an Arrow table."""
  return _wherever(shards_, shards.read_all)


def _wherever(shards_, read_them):
  """Calls a function with Shards; again, where some have been packed since."""
  while True:
    try:
      return read_them(shards_)
    except schema.DamagedShardError:
      now = contents.moved(shards_)
      if now is shards_:
        raise
      shards_ = now


def _read(shards_, names, rows):
  fields = [schema.kind_of(shards_[0].name).schema.field(n) for n in names]
  files, order = shards.files_of(shards_)
  if order is not None:
    rows = order if rows is None else order[rows]
  with contextlib.ExitStack() as stack:
    count = sum(shard.rows for shard in shards_)
    sinks = [_sink(field, count, stack) for field in fields]
    first, held = 0, 0
    for number, (path, spans) in enumerate(files.items(), 1):
      for arrays in shards.batches(path, spans, fields):
        for sink, array in zip(sinks, arrays):
          sink.add(first, array)
        first += len(array)
        held += len(array)
      if held >= shards.BATCH_ROWS or number == len(files):
        # What decompression took; Arrow would keep it for the next time.
        held, array, arrays = 0, None, None
        pa.default_memory_pool().release_unused()
    return {n: sink.done(rows) for n, sink in zip(names, sinks)}


def _sink(field, count, stack):
  """Returns what takes the parts of a column of so many rows."""
  if pa.types.is_string(field.type):
    return _Strings(count)
  if not pa.types.is_list(field.type):
    return _Numbers(count, field)
  # In memory until it is large.
  return _Lists(
    count, field, stack.enter_context(tempfile.SpooledTemporaryFile(LARGE))
  )


class _Numbers:
  """Takes a column of numbers."""

  def __init__(self, count, field):
    self._kind = field.type.to_pandas_dtype()
    self._out_r = np.empty(count, np.float64 if field.nullable else self._kind)

  def add(self, start, array):
    part_r = self._out_r[start : start + len(array)]
    part_r[:] = _plain(array, self._kind)
    if array.null_count:
      part_r[_nulls(array)] = np.nan

  def done(self, rows):
    return self._out_r if rows is None else self._out_r[rows]


class _Strings:
  """Takes a column of strings."""

  def __init__(self, count):
    self._code_r = np.empty(count, np.int32)
    self._places = {}
    self._last = self._code_n = None

  def add(self, start, array):
    # Parts of one shard have one dictionary.
    if self._last is None or not array.dictionary.equals(self._last):
      self._last = array.dictionary
      strings = self._last.to_pylist()
      for string in strings:
        if string not in self._places:
          self._places[string] = len(self._places)
      self._code_n = np.array([self._places[n] for n in strings], np.int32)
    code_r = self._code_n[_plain(array.indices, np.int32)]
    self._code_r[start : start + len(array)] = code_r

  def done(self, rows):
    names, code_r = list(self._places), self._code_r
    if rows is not None:
      used, code_r = np.unique(code_r[rows], return_inverse=True)
      names = [names[code] for code in used]
    return Codes(code_r.astype(np.min_scalar_type(len(names))), tuple(names))


class _Lists:
  """Takes a column of lists; a large one is mapped from a nameless file."""

  def __init__(self, count, field, file):
    self._kind = field.type.value_type.to_pandas_dtype()
    self._length_r = np.empty(count, np.int64)
    self._file = file

  def add(self, start, array):
    offset_r = _plain(array.offsets, np.int32)
    self._length_r[start : start + len(array)] = np.diff(offset_r)
    used = slice(offset_r[0], offset_r[-1])
    part = _plain(array.values, self._kind)[used]
    if array.values.null_count:
      if self._kind is np.int8:
        raise schema.SchemaError('a cell has empty digits')
      part = np.where(_nulls(array.values)[used], np.nan, part)
    self._file.write(part.astype(self._kind, copy=False))

  def done(self, rows):
    mapping = None
    if self._file.tell() > LARGE:
      self._file.flush()
      mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
      values = np.frombuffer(mapping, self._kind)
    else:
      self._file.seek(0)
      values = np.frombuffer(self._file.read(), self._kind)
    whole = Lists(values, _offsets(self._length_r), mapping)
    return whole if rows is None else whole.take(rows)


def distinct(values_r):
  """Returns the distinct numbers, sorted; `np.unique` takes 8 MB for them."""
  ranked_r = np.sort(values_r)
  return ranked_r[np.diff(ranked_r, prepend=ranked_r[:1] - 1) != 0]


def cells(archs, space, path):
  """Returns the cell of each row, int8 [r, d].

  Args:
    archs: Lists of the column 'arch'.
    space: the space.
    path: of the table, for messages.
  """
  digits = len(space.sizes)
  if np.any(np.diff(archs.offset_r) != digits):
    raise schema.SchemaError(
      f'{path} has cells that do not have {digits} digits'
    )
  return archs.values.reshape(-1, digits)


def _plain(array, kind):
  """Returns the values of an Arrow array of numbers; at null, anything."""
  itemsize = np.dtype(kind).itemsize
  data = array.buffers()[1]
  if data is None:  # of no rows
    return np.empty(0, kind)
  return np.frombuffer(data, kind, len(array), array.offset * itemsize)


def _nulls(array):
  """Returns where an Arrow array that has nulls is null, bool [r]."""
  bits = np.frombuffer(array.buffers()[0], np.uint8)
  valid = np.unpackbits(bits, bitorder='little').astype(bool)
  return ~valid[array.offset : array.offset + len(array)]


def _offsets(length_r):
  offset_r = np.zeros(len(length_r) + 1, np.int64)
  np.cumsum(length_r, out=offset_r[1:])
  return offset_r
