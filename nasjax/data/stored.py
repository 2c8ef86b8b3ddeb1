"""Features on disk, for corpora larger than memory.

`corpus.load(.., stored=ENCODING, place=DIR)` computes them once, a block at a
time, and reads them from there ever after:

  DIR/features/<corpus>-<encoding>/train.bin       frames, one after another
  DIR/features/<corpus>-<encoding>/train.parquet   what else is known of its
                                                   utterances; so all splits
  DIR/features/<corpus>-<encoding>/statistics.npz  mean and variance

The directory appears whole or not at all. What is read is decoded to float32.
"""

import hashlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# A step of 8 bits, in standard deviations: from -6.4 to 6.35.
STEP = 0.05


class Encoding(NamedTuple):
  """How features lie on disk.

  Attributes:
    dtype: of a number there.
    encode: of float32, that.
    decode: the inverse, as far as there is one.
  """

  dtype: np.dtype
  encode: Callable
  decode: Callable


def _to_bytes(x):
  return (np.clip(np.rint(x / STEP), -128, 127) + 128).astype(np.uint8)


def _from_bytes(x):
  return (x.astype(np.float32) - 128) * np.float32(STEP)


_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ENCODINGS = {
  'float32': Encoding(np.dtype(np.float32), np.asarray, np.asarray),
  'bfloat16': Encoding(
    _BFLOAT16,
    lambda x: x.astype(_BFLOAT16),
    lambda x: x.astype(np.float32),
  ),
  'uint8': Encoding(np.dtype(np.uint8), _to_bytes, _from_bytes),
}


class Features:
  """Features of a split in a file: slices of frames are read and decoded.

  Attributes:
    shape: (frames, features).
  """

  def __init__(self, path, width, encoding):
    self._path = pathlib.Path(path)
    self._encoding = ENCODINGS[encoding]
    self._row = width * self._encoding.dtype.itemsize
    size = self._path.stat().st_size
    if size % self._row:
      raise ValueError(
        f'{path} has {size} bytes, which are no whole frames of {width} '
        f'features; remove {self._path.parent}, and the same command makes it '
        'again'
      )
    self.shape = size // self._row, width

  def __len__(self):
    return self.shape[0]

  def __getitem__(self, rows):
    start, stop, step = rows.indices(len(self))
    if step != 1:
      raise IndexError('frames are read in a row')
    count = max(stop - start, 0)
    with self._path.open('rb', buffering=0) as file:
      raw = os.pread(file.fileno(), count * self._row, start * self._row)
    if len(raw) < count * self._row:
      raise OSError(f'{self._path} ends before frame {stop}')
    found = np.frombuffer(raw, self._encoding.dtype)
    return self._encoding.decode(found.reshape(count, self.shape[1]))


class Writer:
  """Writes features of a split, a block of frames after the other."""

  def __init__(self, path, encoding):
    self._encode = ENCODINGS[encoding].encode
    self._file = path.open('xb')

  def add(self, x_nf):
    self._file.write(np.ascontiguousarray(self._encode(x_nf)).tobytes())

  def close(self):
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()


class Moments:
  """Mean and variance of frames that come block by block.

  Chan, Golub and LeVeque, The American Statistician 37, 1983, equation 2.1.
  """

  def __init__(self):
    self._n, self._mean_f, self._squares_f = 0, 0.0, 0.0

  def add(self, x_nf):
    x_nf = x_nf.astype(np.float64)
    n, mean_f = len(x_nf), x_nf.mean(0)
    apart_f, total = mean_f - self._mean_f, self._n + n
    self._squares_f = (
      self._squares_f
      + np.square(x_nf - mean_f).sum(0)
      + np.square(apart_f) * self._n * n / total
    )
    self._mean_f = self._mean_f + apart_f * n / total
    self._n = total

  def result(self):
    """Returns mean_f and variance_f, float32."""
    mean_f = np.asarray(self._mean_f, np.float32)
    return mean_f, np.asarray(self._squares_f / self._n, np.float32)


def directory(place, fingerprint, encoding):
  """Returns where the features of a corpus lie, or shall lie."""
  digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
  return pathlib.Path(place) / 'features' / f'{digest}-{encoding}'


def made(path, make):
  """Makes a directory by `make(its temporary self)` unless it is there.

  Where two do at once, the first to end is taken: both make the same.
  """
  if path.is_dir():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
  temporary.mkdir()
  try:
    make(temporary)
    try:
      os.rename(temporary, path)
    except OSError:
      if not path.is_dir():
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


_TEXTS = ('ids', 'speakers', 'texts')


def write_utterances(path, columns):
  """Writes what is known of utterances: lists by the names of `Split`."""
  fields = {name: pa.array(columns[name], pa.string()) for name in _TEXTS}
  fields['labels'] = pa.array(
    [labels.tolist() for labels in columns['labels']], pa.list_(pa.int32())
  )
  fields['samples_u'] = pa.array(columns['samples_u'], pa.int64())
  pq.write_table(pa.table(fields), path)


def read_utterances(path):
  """Returns what `write_utterances` wrote, as `Split` has it."""
  table = pq.read_table(path)
  found = {name: tuple(table[name].to_pylist()) for name in _TEXTS}
  found['labels'] = tuple(
    np.array(labels, np.int32) for labels in table['labels'].to_pylist()
  )
  found['samples_u'] = table['samples_u'].to_numpy()
  return found
