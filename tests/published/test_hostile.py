"""Hostile and damaged files in place of released ones."""

import itertools
import os
import pathlib
import pickle
import pickletools
import random
import subprocess
import sys

import numpy as np
import pytest
from published_files import training, write, write_all

from nasjax import published
from nasjax.published import plain

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Call:
  """Pickles as a call, as hostile files do."""

  def __init__(self, function, *arguments):
    self.reduced = function, arguments

  def __reduce__(self):
    return self.reduced


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('place', ['header', 'entry', 'rows', 'value'])
def test_no_shell_is_run(tmp_path, protocol, place):
  folder = tmp_path / 'released'
  folder.mkdir()
  write_all(folder)
  sentinel = tmp_path / 'sentinel'
  call = Call(os.system, f'touch {sentinel}')
  h, rows = training(40, 1234)
  content = {
    'header': (call, rows),
    'entry': (h | {'note': call}, rows),
    'rows': (h, call),
    'value': (h, [[*rows[0][:2], call, rows[0][3]], *rows[1:]]),
  }[place]
  path = write(folder / 'nb-asr-e40-1234.pickle', content, protocol)
  with pytest.raises(published.PublishedError, match='1234.pickle.*system'):
    published.convert(folder, tmp_path / 'out', convention='paper')
  assert not sentinel.exists() and not (tmp_path / 'out').exists()
  with path.open('rb') as f:  # that it would have been run
    pickle.load(f), pickle.load(f)
  assert sentinel.exists()


def _raw(*parts):
  return b'\x80\x04' + b''.join(parts) + b'.'


NUMPY = b'cnumpy.core.multiarray\nscalar\n'
DTYPE = b'cnumpy\ndtype\n(\x8c\x02%sK\x00K\x01tR'
STATE = b'(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
HOSTILE = {
  'eval': _raw(b'cbuiltins\neval\n(\x8c\x011tR'),
  'instance': _raw(b'(ios\nsystem\n'),
  'object': _raw(b'(cos\nsystem\no'),
  'new object': _raw(b'cbuiltins\nobject\n)\x81'),
  'codec': _raw(b'c_codecs\nencode\n\x8c\x01a\x8c\x04zlib\x86R'),
  'array': _raw(b'cnumpy.core.multiarray\n_reconstruct\n'),
  'dotted': _raw(b'\x8c\x05numpy\x8c\x0bcore.system\x93'),
  'computed name': _raw(b'\x8c\x05numpyK\x05\x93'),
  'call of text': _raw(b'\x8c\x02os)R'),
  'call of nothing': _raw(NUMPY, b')R'),
  'call of no type': _raw(NUMPY, b'\x8c\x02f4C\x04abcd\x86R'),
  # NumPy unpickles the bytes of objects.
  'object type': _raw(NUMPY, DTYPE % b'O8', STATE, b'C\x04abcd\x86R'),
  'text type': _raw(NUMPY, DTYPE % b'U1', STATE, b'C\x04abcd\x86R'),
  'type without order': _raw(NUMPY, DTYPE % b'f4', b'C\x04abcd\x86R'),
  'few bytes': _raw(NUMPY, DTYPE % b'f8', STATE, b'C\x04abcd\x86R'),
  'many bytes': _raw(NUMPY, DTYPE % b'f4', STATE, b'C\x05abcde\x86R'),
  'type as value': _raw(DTYPE % b'f4', STATE),
  'name as value': _raw(NUMPY),
  'bytes as value': _raw(b'C\x04abcd'),
  'state of a list': _raw(b']', STATE),
  'state of fields': _raw(DTYPE % b'f4', b'(K\x03\x8c\x01<N}Ntb'),
  'no state': _raw(DTYPE % b'f4', b'Nb'),
  'key': _raw(b'}K\x01K\x02s'),
  'key twice': _raw(b'}(\x8c\x01aK\x01\x8c\x01aK\x02u'),
  'odd items': _raw(b'}(\x8c\x01au'),
  'item of a list': _raw(b']\x8c\x01aK\x01s'),
  'element of a dict': _raw(b'}K\x01a'),
  'elements of a tuple': _raw(b')(K\x01e'),
  'no mark': _raw(b'K\x01t'),
  'empty stack': _raw(b'a'),
  'few for a tuple': _raw(b'K\x01\x87'),
  'below a mark': _raw(b']K\x01(ae'),
  'no such place': _raw(b'h\x07'),
  'two values': _raw(b'K\x01K\x02'),
  'no value': _raw(),
  'open mark': _raw(b'(K\x01'),
  'unknown code': _raw(b'\xff'),
  'protocol 6': b'\x80\x06N.',
  'protocol 1': b'\x80\x01N.',
  'protocol 0': b'I1\n.',
  'empty': b'',
  'text': b'PAR1',
  'no UTF-8': _raw(b'\x8c\x02\xff\xfe'),
  'endless name': _raw(b'c' + b'a' * 10_000 + b'\nb\n'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_pickles_refused(tmp_path, name):
  path = tmp_path / 'file.pickle'
  path.write_bytes(HOSTILE[name])
  with pytest.raises(published.PublishedError, match='file.pickle') as e:
    published.read(path)
  assert len(str(e.value)) < 1000


def test_numpy_numbers_as_numpy_reads_them():
  """The hostile ones above are one step from these, which are right."""
  good = _raw(NUMPY, DTYPE % b'f4', STATE, b'C\x04\x00\x00\x00\x3f\x86R')
  assert plain.load(good, 0, 'good')[0] == 0.5
  for kind in 'bhilqBHILQfd':
    for value in np.array([0, 1, 0.1, 100]).astype(kind):
      for protocol in (2, 3, 4, 5):
        for order in '<>':
          swapped = value.astype(value.dtype.newbyteorder(order))
          data = pickle.dumps(swapped, protocol)
          found = plain.load(data, 0, 'number')[0]
          assert type(found) in (int, float) and found == value


KNOWN = (
  'PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 '
  'BINFLOAT SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES EMPTY_LIST '
  'APPEND APPENDS EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_DICT SETITEM '
  'SETITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL '
  'REDUCE BUILD'
)
REFUSED = [
  op for op in pickletools.opcodes if f' {op.name} ' not in f' {KNOWN} '
]


@pytest.mark.parametrize('op', REFUSED, ids=lambda op: op.name)
def test_all_other_instructions_are_refused_by_name(op):
  data = b'\x80\x04K\x01' + op.code.encode('latin1') + bytes(16) + b'.'
  with pytest.raises(published.PublishedError, match=rf'\b{op.name}\b.*byte 4'):
    plain.load(data, 0, 'file')


def test_every_truncation_is_noticed(tmp_path):
  path = tmp_path / 'nb-asr-e5-1234.pickle'
  for protocol, number in itertools.product((2, 4), (float, np.float32)):
    write(path, training(5, 1234, number=number), protocol)
    data = path.read_bytes()
    for size in range(0, len(data), 1 if protocol == 4 else 7):
      path.write_bytes(data[:size])
      with pytest.raises(published.PublishedError, match='e5-1234.pickle'):
        published.read(path)


@pytest.mark.parametrize('number', [float, np.float32])
def test_damage_is_noticed_or_harmless(tmp_path, number):
  """Whatever bytes change, the outcome is a record or one kind of error."""
  path = tmp_path / 'nb-asr-e5-1234.pickle'
  data = write(path, training(5, 1234, number=number)).read_bytes()
  rng = random.Random(4)
  outcomes = set()
  for _ in range(700):
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
      damaged[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(damaged)
    try:
      outcomes.add(type(published.read(path)))
    except published.PublishedError as e:
      outcomes.add(type(e))
  assert outcomes == {published.Record, published.PublishedError}


def _laughs(levels, width):
  """A tuple of a list of 1, and of lists each of the one before, many times."""
  lists = (b']\x94(' + b'h%c' % n * width + b'e' for n in range(levels))
  return _raw(b'(]\x94K\x01a', *lists, b't')


BOMBS = {
  'text of 4 GiB': _raw(b'X\xff\xff\xff\xff'),
  'long text': _raw(b'\x8d' + b'\xff' * 7 + b'\x00'),
  'bytes of 4 GiB': _raw(b'B\xff\xff\xff\xff'),
  'long bytes': _raw(b'\x8e' + b'\xff' * 7 + b'\x00'),
  'byte array': _raw(b'\x96' + b'\xff' * 7 + b'\x00'),
  'integer': _raw(b'\x8b\xff\xff\xff\x7f'),
  'integer of 255 bytes': _raw(b'\x8a\xff' + b'\xff' * 255),
  'frame': _raw(b'\x95' + b'\xff' * 7 + b'\x00'),
  'place of memory': _raw(b'Nr\xff\xff\xff\x7f'),
  'skipped place': _raw(b'Nq\x01'),
  'laughs': _laughs(5, 100),
  'deep laughs': _laughs(200, 2),
  'wide laughs': _laughs(2, 100_000),
  'itself': _raw(b']\x94h\x00a'),
  'itself in a dict': _raw(b'}\x94\x8c\x01ah\x00s'),
  'itself in a call': _raw(b']\x94h\x00ah\x00)R'),
  'nested': _raw(b']' * 100_000 + b'a' * 99_999),
  'nested tuples': _raw(b')' + b'\x85' * 100_000),
  'many dicts': _raw(b'](' + b'}' * 6_000_000 + b'e'),
  'much memory': _raw(b'N' + b'\x94' * 6_000_000),
}  # fmt: skip

_DEFUSE = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
from nasjax.published import PublishedError, read
assert 'jax' not in sys.modules
for path in map(pathlib.Path, sys.argv[1:]):
  try:
    read(path)
  except PublishedError as e:
    print(path.name, str(e).replace(chr(10), ' ')[:300])
# Of this process alone; ru_maxrss would begin with its parent's.
status = pathlib.Path('/proc/self/status').read_text()
print(status.partition('VmHWM:')[2].split()[0])
"""


def test_bombs_do_not_go_off(tmp_path):
  paths = []
  for name, data in BOMBS.items():
    paths.append(tmp_path / f'{name.replace(" ", "_")}.pickle')
    paths[-1].write_bytes(data)
  paths.append(tmp_path / 'sparse.pickle')
  with paths[-1].open('wb') as f:
    f.truncate(10 << 30)
  run = subprocess.run(
    [sys.executable, '-c', _DEFUSE, *map(str, paths)],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert run.returncode == 0, run.stderr
  *refused, peak_kb = run.stdout.splitlines()
  assert [line.split()[0] for line in refused] == [p.name for p in paths]
  assert all(str(tmp_path) in line for line in refused)
  assert int(peak_kb) < 600_000
