"""The released files: what they must hold, and reading one of them.

Mehrotra et al. (ICLR 2021) released files of three kinds, each two pickles, a
header and a list of rows:

- `nb-asr-e{E}-{seed}.pickle`, trainings of E epochs: model_hash, val_per (E
  fractions), test_per, arch_vec;
- `nb-asr-bench-{device}.pickle`, benchmarks: model_hash, latency (seconds);
- `nb-asr-info.pickle`, static information: model_hash, params, and from
  version 2 on flops.

Further columns, behind these, and further entries of a header are kept as they
are, if they are plain values.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import re
import stat

import numpy as np

from nasjax import spaces
from nasjax.published import plain
from nasjax.published.plain import PublishedError, shown

SPACE = spaces.NB_ASR
# Insertions may lead beyond 1, but hardly far beyond.
MAX_PER = 10.0
MAX_EPOCHS = 1000
MAX_HEADER = 1 << 16  # bytes
_TRAINING = re.compile(r'nb-asr-e([0-9]+)-([0-9]+)\.pickle')
_BENCHMARKING = re.compile(r'nb-asr-bench-([a-zA-Z0-9-]+)\.pickle')
_STATIC = 'nb-asr-info.pickle'
_DEVICE = re.compile(r'[a-zA-Z0-9-]{1,64}')


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """One released file, checked.

  Attributes:
    path: of the file.
    sha256: of its bytes.
    kind: 'training', 'benchmarking' or 'static'.
    header: the header, as it was found.
    hashes: the released hash of each row, a tuple of str.
    columns: the other columns by name. Float64 `val_per` [r, epoch], `test_per`
      [r] (fractions) and `latency` [r] (seconds); int64 `params` and `flops`
      [r]; int8 `arch_vec` [r, d], with the digits that the file has, whatever
      they mean. Columns that only this file has are tuples.
  """

  path: pathlib.Path
  sha256: str
  kind: str
  header: dict
  hashes: tuple[str, ...]
  columns: dict

  def __len__(self):
    """Number of rows."""
    return len(self.hashes)

  def __repr__(self):
    return f'Record({str(self.path)!r}: {self.kind}, {len(self)} rows)'

  @property
  def name(self):
    """What the file is called where it was released, without `.pickle`."""
    if self.kind == 'training':
      return f'nb-asr-e{self.header["epochs"]}-{self.header["seed"]}'
    if self.kind == 'benchmarking':
      return f'nb-asr-bench-{self.header["device"]}'
    return 'nb-asr-info'


def read(path):
  """Reads one released file.

  Nothing in the file can have anything called or imported: see `plain`.

  Args:
    path: the file. It may have any name; one that says another number of
      epochs, seed or device than the header is refused.

  Returns:
    A Record.

  Raises:
    PublishedError: it is no such file; names file, byte or row, and value.
    OSError: it cannot be read.
  """
  path = pathlib.Path(path)
  data = _bytes(path)
  header, at = plain.load(data, 0, f'{path}, header')
  if at > MAX_HEADER:
    raise PublishedError(
      f'{path}: the header has {at} bytes; at most {MAX_HEADER} are taken'
    )
  kind, names = _check_header(path, header)
  rows, at = plain.load(data, at, f'{path}, rows')
  if at != len(data):
    raise PublishedError(
      f'{path}: {len(data) - at} bytes follow its header and rows; released '
      'files hold these two pickles only'
    )
  columns = _columns(path, rows, header['columns'])
  hashes = _hashes(path, columns.pop('model_hash'))
  for name in names[1:]:
    columns[name] = _CHECKS[name](path, name, columns[name], header)
  if kind == 'training':
    _check_keys(path, hashes, columns['arch_vec'])
  record = Record(
    path, hashlib.sha256(data).hexdigest(), kind, header, hashes, columns
  )
  _check_name(record)
  return record


def find(files):
  """Returns the paths of released files.

  Args:
    files: a folder, whose every `.pickle` must have a released name; one file;
      or a list of files.
  """
  if not isinstance(files, str | os.PathLike):
    return tuple(pathlib.Path(path) for path in files)
  folder = pathlib.Path(files)
  if not folder.is_dir():
    return (folder,)
  paths = tuple(sorted(folder.glob('*.pickle')))
  for path in paths:
    name = path.name
    if name != _STATIC and not (
      _TRAINING.fullmatch(name) or _BENCHMARKING.fullmatch(name)
    ):
      raise PublishedError(
        f'{path} has no name of a released file (nb-asr-e40-1234.pickle, '
        f'nb-asr-bench-DEVICE.pickle, {_STATIC}); move it away, or name files'
      )
  if not paths:
    raise PublishedError(f'{folder} has no .pickle files')
  return paths


@functools.cache
def encodings():
  """Returns the cells that each released hash covers, int8 [n, d], by hash."""
  archs_pd = SPACE.enumerate()
  keys_p = SPACE.keys(archs_pd)
  order = np.argsort(keys_p, kind='stable')
  used, starts = np.unique(keys_p[order], return_index=True)
  groups = np.split(archs_pd[order], starts[1:])
  return dict(zip(used.tolist(), groups))


def _bytes(path):
  """Returns the bytes of a plain file that is not too large."""
  info = path.stat()
  if not stat.S_ISREG(info.st_mode):
    raise PublishedError(f'{path} is no plain file')
  with path.open('rb') as f:
    data = f.read(plain.MAX_BYTES + 1)
  if len(data) > plain.MAX_BYTES:
    raise PublishedError(
      f'{path} has {info.st_size} bytes; at most {plain.MAX_BYTES} are read'
    )
  return data


def _is_integer(value, low, high):
  return type(value) is int and low <= value <= high


# Of each kind: what its header has beside what all have, with its check.
_KINDS = {
  'training': {
    'epochs': lambda value: _is_integer(value, 1, MAX_EPOCHS),
    'seed': lambda value: _is_integer(value, 0, 2**31 - 1),
  },
  'benchmarking': {
    'device': lambda value: type(value) is str and _DEVICE.fullmatch(value)
  },
  'static': {},
}
_COMMON = {
  'dataset_type': lambda value: type(value) is str and value in _KINDS,
  'version': lambda value: type(value) is int and value in (1, 2),
  'columns': lambda value: (
    type(value) in (list, tuple)
    and all(type(name) is str for name in value)
    and len(set(value)) == len(value)
  ),
  'search_space': lambda value: type(value) is dict,
}


def _check_header(path, header):
  """Checks a header; returns the kind of its file and its first columns."""
  if type(header) is not dict:
    raise PublishedError(f'{path}: the header is no dict but {shown(header)}')
  try:
    json.dumps(header, allow_nan=False)
  except ValueError as e:
    raise PublishedError(f'{path}: the header is no JSON: {e}') from e
  _check_entries(path, header, _COMMON)
  kind = header['dataset_type']
  _check_entries(path, header, _KINDS[kind])
  for name, wanted in (
    ('shape', [[len(SPACE.ops), *(2,) * count] for count in SPACE.skips]),
    ('ops', list(SPACE.ops)),
    ('nodes', SPACE.nodes),
  ):
    found = header['search_space'].get(name)
    # As text 3, 3.0 and True differ, and a tuple is a list.
    if json.dumps(found) != json.dumps(wanted):
      raise PublishedError(
        f'{path}: {name!r} of the search space is {shown(found)}; '
        f'{SPACE.name} has {wanted}'
      )
  names = _columns_of(kind, header['version'])
  if tuple(header['columns'][: len(names)]) != names:
    raise PublishedError(
      f'{path}: the columns are {shown(header["columns"])}; a file of kind '
      f'{kind!r}, version {header["version"]}, begins with {list(names)}'
    )
  return kind, names


def _columns_of(kind, version):
  """Returns the names of the columns that a kind of file begins with."""
  if kind == 'training':
    return ('model_hash', 'val_per', 'test_per', 'arch_vec')
  if kind == 'benchmarking':
    return ('model_hash', 'latency')
  return ('model_hash', 'params', 'flops')[: 2 if version < 2 else 3]


def _check_entries(path, header, checks):
  for name, is_good in checks.items():
    if name not in header:
      raise PublishedError(
        f'{path}: the header lacks {name!r}; it has {shown(list(header))}'
      )
    if not is_good(header[name]):
      raise PublishedError(
        f'{path}: {name!r} in the header is {shown(header[name])}, which no '
        'released file has'
      )


def _check_name(record):
  """Raises where the name of a file contradicts its header."""
  name = record.path.name
  known = name == _STATIC or any(
    pattern.fullmatch(name) for pattern in (_TRAINING, _BENCHMARKING)
  )
  if known and name != f'{record.name}.pickle':
    raise PublishedError(
      f'{record.path} has the content of {record.name}.pickle; rename it'
    )


def _columns(path, rows, names):
  """Returns the columns of a list of rows, tuples by name."""
  if type(rows) is not list or not 1 <= len(rows) <= SPACE.size:
    count = len(rows) if type(rows) is list else type(rows).__name__
    raise PublishedError(
      f'{path}: the rows are {count}; want a list of 1 to {SPACE.size}'
    )
  for r, row in enumerate(rows):
    if type(row) not in (list, tuple) or len(row) != len(names):
      raise PublishedError(
        f'{path}, row {r}: {shown(row)} does not have the {len(names)} values '
        f'{", ".join(names)}'
      )
  return dict(zip(names, zip(*rows)))


def _wrong(path, r, name, value, wanted):
  return PublishedError(
    f'{path}, row {r}: {name} is {shown(value)}; want {wanted}'
  )


def _hashes(path, values):
  """Checks hashes: each that of a cell, and none twice."""
  rows = {}
  for r, value in enumerate(values):
    if type(value) is not str or value not in encodings():
      raise _wrong(path, r, 'model_hash', value, f'a hash of {SPACE.name}')
    first = rows.setdefault(value, r)
    if first != r:
      raise PublishedError(
        f'{path}: rows {first} and {r} both have model_hash {value}'
      )
  return tuple(values)


def _is_per(value):
  return type(value) is float and 0 <= value <= MAX_PER  # and not NaN


def _val_per(path, name, values, header):
  epochs = header['epochs']
  for r, value in enumerate(values):
    if type(value) not in (list, tuple) or len(value) != epochs:
      raise _wrong(path, r, name, value, f'a list of {epochs} fractions')
    for e, per in enumerate(value, start=1):
      if not _is_per(per):
        where = f'{name} of epoch {e}'
        raise _wrong(path, r, where, per, f'a fraction, 0 to {MAX_PER}')
  return np.array(values, np.float64)


def _test_per(path, name, values, header):
  del header
  for r, per in enumerate(values):
    if not _is_per(per):
      raise _wrong(path, r, name, per, f'a fraction, 0 to {MAX_PER}')
  return np.array(values, np.float64)


def _latency(path, name, values, header):
  del header
  for r, value in enumerate(values):
    if type(value) is not float or not 0 < value < math.inf:
      raise _wrong(path, r, name, value, 'seconds')
  return np.array(values, np.float64)


def _count(path, name, values, header):
  del header
  for r, value in enumerate(values):
    if not _is_integer(value, 1, 2**63 - 1):
      raise _wrong(path, r, name, value, 'a positive integer')
  return np.array(values, np.int64)


def _arch_vec(path, name, values, header):
  del header
  archs_rd = np.empty((len(values), len(SPACE.sizes)), np.int8)
  for r, value in enumerate(values):
    if type(value) not in (list, tuple) or len(value) != SPACE.nodes:
      raise _wrong(path, r, name, value, f'{SPACE.nodes} nodes')
    try:
      archs_rd[r] = SPACE.parse(value)
    except ValueError as e:
      raise PublishedError(f'{path}, row {r}: {name}: {e}') from e
  return archs_rd


_CHECKS = {
  'val_per': _val_per,
  'test_per': _test_per,
  'latency': _latency,
  'params': _count,
  'flops': _count,
  'arch_vec': _arch_vec,
}


def _check_keys(path, hashes, archs_rd):
  """Raises where a row's hash is not that of its cell."""
  keys_r = SPACE.keys(archs_rd)
  for r, (found, key) in enumerate(zip(hashes, keys_r.tolist())):
    if found != key:
      raise PublishedError(
        f'{path}, row {r}: model_hash is {found}, but its arch_vec '
        f'{SPACE.nested(archs_rd[r])} has {key}'
      )
