"""Pickles of plain values, read without unpickling.

A pickle is a program for a machine with a stack, and `pickle.load` runs all of
it: any pickle may name any function and have it called. Here that machine is
written out with those instructions only that None, truth values, numbers, text,
lists, tuples and dicts need. Nothing is imported, looked up or called; whatever
else a file asks for is refused, with the byte where it does.

NumPy numbers are let through, for the released PERs print as float32 do. The
pickle of one asks for NumPy's `scalar` to be called with a type and a few
bytes. The names in that phrase stand for themselves here, and the bytes become
a Python number.

What a file declares costs nothing before it is there: a text of gigabytes in a
file of a hundred bytes is an error, not an allocation. Instructions, values
(those named twice counted twice) and nesting are bounded; the most that a file
was seen to take before it was refused are 430 MB.
"""

import enum
import pickletools
import reprlib
import struct

# The released files have some megabytes; with NumPy numbers, 41 a row, they
# take under three million instructions.
MAX_BYTES = 64 << 20
MAX_STEPS = 5_000_000
MAX_VALUES = 5_000_000
MAX_DEPTH = 8


# What is not yet known to be a tree may be endless when written out.
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 80, 80


class PublishedError(ValueError):
  """A file that is no released NAS-Bench-ASR data; names file and place."""


def shown(value):
  """Returns a value as messages show it, however large it is."""
  return _BRIEF.repr(value)


class _Known(enum.Enum):
  """The names that the pickle of a NumPy number has."""

  SCALAR = 'scalar'
  DTYPE = 'dtype'
  ENCODE = 'encode'


_NAMES = {
  ('numpy.core.multiarray', 'scalar'): _Known.SCALAR,
  ('numpy._core.multiarray', 'scalar'): _Known.SCALAR,
  ('numpy', 'dtype'): _Known.DTYPE,
  # Protocol 2 has no bytes: they come as text to be encoded.
  ('_codecs', 'encode'): _Known.ENCODE,
}
_FORMATS = {
  'f4': 'f',
  'f8': 'd',
  'i1': 'b',
  'i2': 'h',
  'i4': 'i',
  'i8': 'q',
  'u1': 'B',
  'u2': 'H',
  'u4': 'I',
  'u8': 'Q',
}
_U1, _U2, _U4, _U8, _I4, _F8 = map(
  struct.Struct, ('<B', '<H', '<I', '<Q', '<i', '>d')
)
# '|' stands where there is one byte only.
_ORDERS = {'<': '<', '>': '>', '|': '<'}


class _Dtype:
  """What a file says of the type of a NumPy number."""

  def __init__(self, letter):
    self.letter = letter
    self.order = None


class _Machine:
  """The state of the machine: where it reads, its stack and its memory."""

  def __init__(self, data, start, name):
    self.data = data
    self.at = self.step_at = start
    self.name = name
    self.stack = []
    self.below = []  # what stood on the stack before each mark
    self.memo = []

  def error(self, what):
    return PublishedError(f'{self.name}: {what} at byte {self.step_at}')

  def take(self, count):
    """Returns the next bytes."""
    end = self.at + count
    if end > len(self.data):
      left = len(self.data) - self.at
      raise self.error(f'{count} bytes are wanted, {left} are left,')
    taken = self.data[self.at : end]
    self.at = end
    return taken

  def number(self, form):
    """Returns the next number, of a `struct.Struct`."""
    return form.unpack(self.take(form.size))[0]

  def line(self):
    """Returns the next line, as text."""
    end = self.data.find(b'\n', self.at, self.at + 256)
    if end < 0:
      raise self.error('a name does not end')
    line = self.take(end - self.at)
    self.at += 1
    return self.text(line)

  def text(self, raw):
    try:
      return raw.decode()
    except UnicodeDecodeError as e:
      raise self.error(f'{shown(raw)} is no UTF-8') from e

  def from_mark(self):
    """Returns what was stacked since the last mark, and removes it."""
    items, self.stack = self.stack, self.below.pop()
    return items

  def target(self, kind):
    """Returns what lies on top, which must be of a type."""
    if type(self.stack[-1]) is not kind:
      raise self.error(
        f'a {type(self.stack[-1]).__name__} is no {kind.__name__}'
      )
    return self.stack[-1]


def load(data, start, name):
  """Reads one pickle of plain values.

  Args:
    data: the bytes of the file.
    start: where the pickle begins.
    name: what messages call it.

  Returns:
    The value, a tree of None, bool, int, float, str, list, tuple and dict (with
    keys of type str), and where the pickle ends.

  Raises:
    PublishedError: naming the byte, and the name that was asked for.
  """
  machine = _Machine(data, start, name)
  if data[start : start + 1] != b'\x80':
    raise machine.error('no pickle of protocol 2 to 5 begins')
  value = _run(machine)
  _check_tree(value, name)
  return value, machine.at


def _run(machine):
  """Runs a pickle to its end; returns its value."""
  for _ in range(MAX_STEPS):
    machine.step_at = machine.at
    code = machine.take(1)[0]
    if code == _STOP:
      if len(machine.stack) != 1 or machine.below:
        raise machine.error('there is not one value, but it ends')
      return machine.stack.pop()
    step = _STEPS.get(code)
    if step is None:
      raise machine.error(
        f'instruction {_CODES.get(code, hex(code))}, of which '
        'plain values have no need,'
      )
    try:
      step(machine)
    except IndexError as e:
      raise machine.error(
        f'{_CODES[code]} wants a value that is not there,'
      ) from e
  raise machine.error(f'more than {MAX_STEPS} instructions')


def _check_tree(value, name):
  """Raises unless a value is a tree of plain values of bounded size.

  Values may have been named twice, or contain themselves: a few bytes can stand
  for any number of values. What is reached twice is counted twice.
  """
  level, count = [value], 1
  for _ in range(MAX_DEPTH):
    below = []
    for item in level:
      if type(item) in (list, tuple):
        below.extend(item)
      elif type(item) is dict:
        below.extend(item.values())
      elif item is not None and type(item) not in (bool, int, float, str):
        raise PublishedError(
          f'{name}: {shown(item)} is a {type(item).__name__}, no plain value'
        )
      if count + len(below) > MAX_VALUES:
        raise PublishedError(f'{name}: more than {MAX_VALUES} values')
    if not below:
      return
    level, count = below, count + len(below)
  raise PublishedError(f'{name}: nested deeper than {MAX_DEPTH}')


# The instructions. Each takes the machine.


def _protocol(m):
  version = m.take(1)[0]
  if not 2 <= version <= 5:
    raise m.error(f'protocol {version} is none of 2 to 5')


def _frame(m):
  size, left = m.number(_U8), len(m.data) - m.at
  if size > left:
    raise m.error(f'a frame of {size} bytes, of which {left} are there,')


def _mark(m):
  m.below.append(m.stack)
  m.stack = []


def _constant(value):
  return lambda m: m.stack.append(value)


def _new(kind):
  return lambda m: m.stack.append(kind())


def _number(form):
  return lambda m: m.stack.append(m.number(form))


def _long(m):
  size = m.take(1)[0]
  if size > 8:
    raise m.error(f'an integer of {size} bytes')
  m.stack.append(int.from_bytes(m.take(size), 'little', signed=True))


def _text(form):
  return lambda m: m.stack.append(m.text(m.take(m.number(form))))


def _bytes(form):
  return lambda m: m.stack.append(m.take(m.number(form)))


def _tuple_of(count):
  def step(m):
    if len(m.stack) < count:
      raise IndexError
    m.stack[-count:] = [tuple(m.stack[-count:])]

  return step


def _tuple(m):
  items = m.from_mark()
  m.stack.append(tuple(items))


def _append(m):
  value = m.stack.pop()
  m.target(list).append(value)


def _appends(m):
  items = m.from_mark()
  m.target(list).extend(items)


def _set_item(m):
  value, key = m.stack.pop(), m.stack.pop()
  _set(m, [key, value])


def _set_items(m):
  items = m.from_mark()
  if len(items) % 2:
    raise m.error('a key without a value')
  _set(m, items)


def _set(m, items):
  """Puts keys and values, in turns, into the dict on top."""
  target = m.target(dict)
  for key, value in zip(items[::2], items[1::2]):
    if type(key) is not str or key in target:
      raise m.error(f'the key {shown(key)} is no text, or is there twice,')
    target[key] = value


def _memorise(m):
  m.memo.append(m.stack[-1])


def _put(form):
  def step(m):
    place = m.number(form)
    # Python counts them from 0; a list of any other length is a bomb.
    if place != len(m.memo):
      raise m.error(f'place {place} of the memory after {len(m.memo)}')
    _memorise(m)

  return step


def _get(form):
  return lambda m: m.stack.append(m.memo[m.number(form)])


# NumPy numbers.


def _global(m):
  _look_up(m, m.line(), m.line())


def _stack_global(m):
  name, module = m.stack.pop(), m.stack.pop()
  _look_up(m, module, name)


def _look_up(m, module, name):
  known = None
  if type(module) is str and type(name) is str:
    known = _NAMES.get((module, name))
  if known is None:
    asked = f'{module}.{name}'
    raise m.error(f'{shown(asked)}, which is no plain value, is asked for')
  m.stack.append(known)


def _reduce(m):
  arguments, function = m.stack.pop(), m.stack.pop()
  value = None
  if type(arguments) is tuple and arguments:
    first, rest = arguments[0], arguments[1:]
    if function is _Known.DTYPE and type(first) is str and first in _FORMATS:
      value = _Dtype(_FORMATS[first])
    elif function is _Known.ENCODE and rest == ('latin1',):
      value = _encoded(first)
    elif function is _Known.SCALAR and type(first) is _Dtype:
      value = _scalar(first, rest)
  if value is None:
    raise m.error(f'{shown(function)} of {shown(arguments)} is no NumPy number')
  m.stack.append(value)


def _encoded(text):
  """Returns the bytes that a text stands for, or None."""
  if type(text) is not str:
    return None
  try:
    return text.encode('latin1')
  except UnicodeEncodeError:
    return None


def _scalar(dtype, rest):
  """Returns a Python number, or None where the bytes are not those of one."""
  raw = rest[0] if len(rest) == 1 else None
  if dtype.order is None or type(raw) is not bytes:
    return None
  form = dtype.order + dtype.letter
  if len(raw) != struct.calcsize(form):
    return None
  return struct.unpack(form, raw)[0]


def _build(m):
  state = m.stack.pop()
  dtype = m.target(_Dtype)
  if type(state) is tuple and state[2:5] == (None, None, None):
    order = state[1]
    if type(order) is str and order in _ORDERS:
      dtype.order = _ORDERS[order]
      return
  raise m.error(f'{shown(state)} describes no type of number')


_BY_NAME = {
  'PROTO': _protocol,
  'FRAME': _frame,
  'MARK': _mark,
  'NONE': _constant(None),
  'NEWTRUE': _constant(True),
  'NEWFALSE': _constant(False),
  'BININT': _number(_I4),
  'BININT1': _number(_U1),
  'BININT2': _number(_U2),
  'LONG1': _long,
  'BINFLOAT': _number(_F8),
  'SHORT_BINUNICODE': _text(_U1),
  'BINUNICODE': _text(_U4),
  'SHORT_BINBYTES': _bytes(_U1),
  'BINBYTES': _bytes(_U4),
  'EMPTY_LIST': _new(list),
  'APPEND': _append,
  'APPENDS': _appends,
  'EMPTY_TUPLE': _constant(()),
  'TUPLE1': _tuple_of(1),
  'TUPLE2': _tuple_of(2),
  'TUPLE3': _tuple_of(3),
  'TUPLE': _tuple,
  'EMPTY_DICT': _new(dict),
  'SETITEM': _set_item,
  'SETITEMS': _set_items,
  'MEMOIZE': _memorise,
  'BINPUT': _put(_U1),
  'LONG_BINPUT': _put(_U4),
  'BINGET': _get(_U1),
  'LONG_BINGET': _get(_U4),
  'GLOBAL': _global,
  'STACK_GLOBAL': _stack_global,
  'REDUCE': _reduce,
  'BUILD': _build,
}
_CODES = {ord(op.code): op.name for op in pickletools.opcodes}
_STEPS = {
  code: _BY_NAME[name] for code, name in _CODES.items() if name in _BY_NAME
}
_STOP = ord('.')
