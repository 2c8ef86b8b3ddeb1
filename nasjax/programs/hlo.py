"""The text of a program as XLA's compilers write it: instructions and loops."""

import functools
import math
import re
from typing import NamedTuple


class Shape(NamedTuple):
  """An array in the text: its bytes with padding, and whether in HBM."""

  size: int
  in_hbm: bool

  @property
  def moved(self):
    """Bytes of HBM traffic to read or write it once."""
    return self.size if self.in_hbm else 0


class Made(NamedTuple):
  """An instruction: what it makes, how, of what.

  Attributes:
    type: text of its type.
    opcode: 'fusion' and the like.
    inside: text within the parentheses of the call.
    rest: text behind them.
    is_root: whether its computation returns it.
  """

  type: str
  opcode: str
  inside: str
  rest: str
  is_root: bool

  @property
  def operands(self):
    """Names of the instructions that it reads."""
    return re.findall(r'%([\w.\-]+)', self.inside)

  @property
  def shapes(self):
    """`Shape` of each array that it makes."""
    return _shapes(self.type)

  @property
  def branches(self):
    """Names of the computations of which a conditional runs one."""
    named = re.findall(
      r'(?:true_computation|false_computation)=%?([\w.\-]+)', self.rest
    )
    for group in re.findall(r'branch_computations=\{([^}]*)\}', self.rest):
      named += [name.strip().lstrip('%') for name in group.split(',')]
    return named

  def attribute(self, name):
    """The word behind `name=`, None if there is no such attribute."""
    found = re.search(rf'\b{name}=%?([\w.\-]+)', self.rest)
    return found and found[1]


_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_LINE = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?')


def parse(text):
  """Returns the computations, dicts of `Made`, and the name of the entry."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    if current is None:
      head = _HEAD.match(line)
      if head:
        current = computations[head[2]] = {}
        entry = head[2] if head[1] else entry
    elif line.startswith('}'):
      current = None
    elif found := _LINE.match(line):
      made = _instruction(found[3], bool(found[1]))
      if made:
        current[found[2]] = made
  return computations, entry


def _instruction(text, is_root):
  """Cuts `type opcode(operands), attributes` into its parts."""
  end = _closed(text, 0) if text.startswith('(') else text.find(' ')
  call = re.match(r'\s*([\w\-]+)\(', text[end:])
  if end < 0 or not call:
    return None
  start = end + call.end()
  stop = _closed(text, start - 1)
  return Made(text[:end], call[1], text[start : stop - 1], text[stop:], is_root)


def _closed(text, start):
  """Returns the place behind the parenthesis that closes the one at start."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if not depth:
      return i + 1
  return len(text)


@functools.lru_cache(maxsize=4096)
def _shapes(text):
  """Returns the arrays of a type, those of a tuple in order."""
  return tuple(_shape(*found.groups()) for found in _ARRAY.finditer(text))


def _shape(kind, dims, layout):
  bits = re.search(r'\d+', kind)
  # 'pred' is kept in bytes; a token is nothing.
  bits = int(bits[0]) if bits else 8 * (kind == 'pred')
  size = [int(d) for d in dims.split(',') if d]
  order, _, marks = (layout or '').partition(':')
  minor = [int(d) for d in order.split(',') if d]
  tile = re.search(r'T\((\d+(?:,\d+)*)\)', marks)
  if tile:
    widths = [int(w) for w in tile[1].split(',')]
    for axis, width in zip(minor, reversed(widths)):
      size[axis] = -(-size[axis] // width) * width
  elsewhere = re.search(r'S\([1-9]\d*\)', marks)
  return Shape(-(-bits * math.prod(size) // 8), not elsewhere)


# Loops.


def trips(loop, body, computations):
  """Returns how often a loop runs, None if that does not stand in the text.

  GPU programs have a note of it. TPU programs have none: it follows from a
  condition `counter < bound`, and from the first value and the step where they
  are to be seen; JAX counts from 0 by 1.

  Args:
    loop: `Made` of it.
    body: the computation in which it stands.
    computations: of `parse`.
  """
  note = re.search(r'known_trip_count\D+(\d+)', loop.rest)
  if note:
    return int(note[1])
  condition = computations.get(loop.attribute('condition'), {})
  step_body = computations.get(loop.attribute('body'), {})
  root = next((made for made in condition.values() if made.is_root), None)
  if root is None or 'direction=LT' not in root.rest:
    return None
  counter, bound = (condition.get(name) for name in root.operands)
  place = counter and counter.attribute('index')
  if place is None or bound is None:
    return None
  first = _carried(loop, body, int(place))
  limit = _constant(bound)
  if limit is None and bound.attribute('index'):
    index = int(bound.attribute('index'))
    # What a loop hands on unchanged may be a constant before it.
    if _step(step_body, index) == 0:
      limit = _carried(loop, body, index)
  if limit is None:
    return None
  step = _step(step_body, int(place)) or 1
  return max(0, -(-(limit - (first or 0)) // step))


def _constant(made):
  """The whole number that an instruction stands for, or None."""
  if made is not None and made.opcode == 'constant':
    value = re.fullmatch(r'-?\d+', made.inside.strip())
    return value and int(value[0])
  return None


def _carried(loop, body, index):
  """The value that a loop's carry begins with, if it is a constant."""
  carry = body.get(loop.operands[0])
  if carry is None or carry.opcode != 'tuple':
    return None
  made = body.get(carry.operands[index])
  while made is not None and made.opcode in ('copy', 'bitcast'):
    made = body.get(made.operands[0])
  return _constant(made)


def _step(body, index):
  """By how much one run of a loop's body raises a part of its carry."""
  root = next((made for made in body.values() if made.is_root), None)
  if root is None or root.opcode != 'tuple':
    return None
  made = body.get(root.operands[index])
  while made is not None and made.opcode in ('copy', 'bitcast'):
    made = body.get(made.operands[0])
  if made is None:
    return None
  if made.opcode == 'get-tuple-element':
    return 0 if made.attribute('index') == str(index) else None
  if made.opcode != 'add':
    return None
  parts = [body.get(name) for name in made.operands]
  steps = [_constant(part) for part in parts]
  return next((step for step in steps if step is not None), None)
