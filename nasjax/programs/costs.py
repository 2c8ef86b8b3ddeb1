"""What a program costs that nobody has run: FLOPs, memory traffic, messages.

FLOPs are counted in what JAX traced, traffic and messages in the text of what
XLA's compiler made of it (`compiled.as_text()`). XLA's own analysis counts a
loop's body once, and traffic inside a TPU's vector memory (VMEM) like any
other.
"""

import collections
import math

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from nasjax.programs import hlo

# FLOPs.


def flops(function, *args):
  """Counts floating-point operations of products, two a multiply-accumulate.

  Those of `dot_general`, `conv_general_dilated` (taps that meet padding or
  holes are none) and of Pallas kernels, by their `cost_estimate`, or else by
  their bodies. Loops of a known length count as often as they run, all others
  once; of branches the dearest; a `shard_map` as one device runs it. What a
  foreign function (`jax.ffi`) computes is not seen.

  Args:
    function: of JAX.
    args: arrays, or shapes as `jax.eval_shape` takes them.

  Returns:
    int.
  """
  # What is jitted with options of a compiler cannot be traced as it is.
  if isinstance(function, jax.stages.Wrapped):
    function = function.__wrapped__
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  # What nobody reads the compiler leaves out.
  used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _jaxpr_flops(used)


def _jaxpr_flops(jaxpr):
  return sum(_equation_flops(eqn) for eqn in jaxpr.eqns)


def _equation_flops(eqn):
  name, params = eqn.primitive.name, eqn.params
  if name == 'dot_general':
    return _dot_flops(eqn)
  if name == 'conv_general_dilated':
    return _conv_flops(eqn)
  if name == 'pallas_call' and params['cost_estimate'] is not None:
    # What maps a kernel multiplies its estimate. (jax 0.10.2)
    return int(params['cost_estimate'].flops)
  inner = [_jaxpr_flops(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
  if name == 'cond':
    return max(inner)
  times = 1
  if name == 'scan':
    times = params['length']
  elif name == 'pallas_call':
    times = math.prod(params['grid_mapping'].grid)
  return times * sum(inner)


def _dot_flops(eqn):
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  depth = math.prod(shape[axis] for axis in contracted)
  return 2 * depth * math.prod(eqn.outvars[0].aval.shape)


def _conv_flops(eqn):
  params = eqn.params
  numbers = params['dimension_numbers']
  lhs, rhs = (v.aval.shape for v in eqn.invars)
  out = eqn.outvars[0].aval.shape
  batch, *_ = (lhs[axis] for axis in numbers.lhs_spec)
  outputs, inputs, *_ = (rhs[axis] for axis in numbers.rhs_spec)
  met = 1
  for n, (before, _) in enumerate(params['padding']):
    met *= _positions_met(
      lhs[numbers.lhs_spec[2 + n]],
      rhs[numbers.rhs_spec[2 + n]],
      out[numbers.out_spec[2 + n]],
      params['window_strides'][n],
      before,
      params['lhs_dilation'][n],
      params['rhs_dilation'][n],
    )
  return 2 * met * inputs * outputs * batch // params['batch_group_count']


def _positions_met(size, taps, outputs, stride, before, holes, dilation):
  """Counts pairs of output and tap that read an element of the input."""
  at_ok = stride * np.arange(outputs)[:, None] - before
  at_ok = at_ok + dilation * np.arange(taps)
  within_ok = (at_ok >= 0) & (at_ok < (size - 1) * holes + 1)
  return int(np.sum(within_ok & (at_ok % holes == 0)))


# The text of a compiled program.

_KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


def collectives(text):
  """Counts the messages among devices that stand in a compiled program.

  Args:
    text: of the optimised program.

  Returns:
    dict of int by kind ('all-reduce', 'all-gather', ...), without zeros. One
    inside a loop counts once.
  """
  found = collections.Counter()
  for computation in hlo.parse(text)[0].values():
    for made in computation.values():
      kind = made.opcode.removesuffix('-start')
      wraps = kind != made.opcode and made.attribute('calls')
      if kind in _KINDS and not wraps:
        found[kind] += 1
  return dict(found)


def hbm_bytes(text, unknown=1):
  """Counts the bytes that a compiled program moves from and to main memory.

  Every instruction reads its operands and writes its results, with their last
  two dimensions padded to tiles. Buffers that lie elsewhere (marked `S(1)`: a
  TPU's VMEM) move nothing. A slice counts for what it is, not for what it is
  cut from, also inside a fusion, and so does an update in place. Loops count
  as often as they run; of branches the dearest.

  Args:
    text: of the optimised program, of one device.
    unknown: how often loops run whose length does not stand in the text. What
      one more of their runs moves is the difference of two counts.

  Returns:
    int.

  Raises:
    ValueError: the text has no entry computation.
  """
  return _total(_Traffic, text, unknown)


def launches(text, unknown=1):
  """Counts the kernels that one run of a program starts, one after another.

  Args:
    text, unknown: as in `hbm_bytes`.

  Returns:
    int.
  """
  return _total(_Launches, text, unknown)


def a_step(count, text):
  """Returns what one pass over the batches costs, by `hbm_bytes` or `launches`.

  Of a training program the loop over the batches, and no other, is of a length
  that is not told; what is done once a pass does not count.
  """
  return count(text, 2) - count(text, 1)


def _total(kind, text, unknown):
  computations, entry = hlo.parse(text)
  if entry is None:
    raise ValueError(
      f'no ENTRY computation in a text of {len(text)} characters; give what '
      'compiled.as_text() returns'
    )
  return kind(computations, unknown).of(entry)


# They move nothing, or what they end was counted where it began.
_FREE = {
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('after-all', 'partition-id', 'replica-id', 'opt-barrier', 'add-dependency'),
}
_CUTS = ('slice', 'dynamic-slice', 'gather')
# The operand that has what is written into the first one.
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}
_NO_CALL = ('AllocateBuffer', 'AssumeGatherIndicesInBound')


class _Traffic:
  """Adds up bytes over the computations of a program."""

  def __init__(self, computations, unknown):
    self._computations, self._unknown = computations, unknown
    self._known = {}

  def of(self, name):
    """Bytes that one run of a computation moves."""
    if name not in self._known:
      body = self._computations.get(name, {})
      self._known[name] = sum(self._moved(m, body) for m in body.values())
    return self._known[name]

  def _moved(self, made, body):
    opcode = made.opcode
    if opcode in _FREE or opcode.endswith(('-done', '-update')):
      return 0
    if opcode == 'while':
      times = hlo.trips(made, body, self._computations)
      times = self._unknown if times is None else times
      return times * self.of(made.attribute('body'))
    if opcode == 'conditional':
      return max(map(self.of, made.branches))
    if opcode == 'call':
      return self.of(made.attribute('to_apply'))
    if opcode.endswith('-start') and made.attribute('calls'):
      return self.of(made.attribute('calls'))
    return self._leaf(made, body)

  def _leaf(self, made, body):
    """Bytes that an instruction moves which runs nothing else."""
    opcode = made.opcode
    if opcode in ('copy-start', 'slice-start'):
      # The two ends stand in the result; as much arrives as leaves.
      ends = made.shapes[:2]
      amount = min(end.size for end in ends)
      return sum(amount for end in ends if end.in_hbm)
    if opcode == 'custom-call' and any(n in made.rest for n in _NO_CALL):
      return 0
    reads = sum(
      self._read(made, n, body[name])
      for n, name in enumerate(made.operands)
      if name in body
    )
    return reads + self._written(made, body)

  def _read(self, made, n, operand):
    """Bytes that an instruction reads of its n-th operand."""
    whole = sum(shape.moved for shape in operand.shapes)
    if made.opcode == 'fusion' and whole:
      return min(whole, self._seen(made.attribute('calls'), n, whole))
    if n == 0 and made.opcode in _CUTS:
      return min(whole, made.shapes[0].size)
    if n == 0 and made.opcode in _UPDATES:
      return 0
    return whole

  def _seen(self, name, n, whole):
    """Bytes that a fused computation reads of its n-th parameter."""
    body = self._computations[name]
    views = [
      key
      for key, made in body.items()
      if made.opcode == 'parameter' and made.inside.strip() == str(n)
    ]
    total = 0
    for view in views:
      for key, made in body.items():
        for place, operand in enumerate(made.operands):
          if operand != view:
            continue
          if made.opcode == 'bitcast':
            views.append(key)
          elif made.opcode == 'fusion':
            total += self._seen(made.attribute('calls'), place, whole)
          elif place == 0 and made.opcode in _CUTS:
            total += made.shapes[0].size
          elif not (place == 0 and made.opcode in _UPDATES):
            return whole
    return total

  def _written(self, made, body):
    """Bytes that an instruction writes."""
    shapes = list(made.shapes)
    if made.opcode == 'custom-call' and len(shapes) > 1:
      # The last result of a library's kernel is its workspace.
      target = made.attribute('custom_call_target') or made.rest
      shapes = shapes[:-1] if '__cu' in target else shapes
    if made.opcode == 'fusion':
      most = self._made(made.attribute('calls'))
    else:
      most = [_updated(made, body)]
    if len(most) != len(shapes):
      most = [None] * len(shapes)
    return sum(
      shape.moved if limit is None else min(shape.moved, limit)
      for shape, limit in zip(shapes, most)
    )

  def _made(self, name):
    """For each result of a fused computation, bytes; None for all of it."""
    body = self._computations[name]
    root = next(made for made in body.values() if made.is_root)
    parts = [root]
    if root.opcode == 'tuple':
      parts = [body[operand] for operand in root.operands]
    found = []
    for made in parts:
      while made.opcode == 'bitcast' and made.operands[0] in body:
        made = body[made.operands[0]]
      if made.opcode == 'fusion':
        inner = self._made(made.attribute('calls'))
        found.append(inner[0] if len(inner) == 1 else None)
      else:
        found.append(_updated(made, body))
    return found


class _Launches(_Traffic):
  """Counts instructions instead."""

  def _leaf(self, made, body):
    del made, body
    return 1


def _updated(made, body):
  """Bytes that an update in place writes; None if it is something else."""
  place = _UPDATES.get(made.opcode)
  if place is None:
    return None
  return sum(shape.size for shape in body[made.operands[place]].shapes)
