"""Conformer-like encoders as ONNX graphs."""

import math

import numpy as np

from nasjax.export import graph as graph_lib
from nasjax.layers import attention
from nasjax.models.conformer import layer as layer_lib
from nasjax.models.conformer import network


class _Frames:
  """What layers of equal frames share.

  Attributes:
    lengths: of each utterance.
    valid: bool [batch, frames, 1].
    seen: bool [batch, 1, frames or 1, frames].
    turns: cosines and sines [frames, half], of positions.
  """

  def __init__(self, graph, name, x, lengths, macro, share):
    self._graph, self._name, self._x = graph, name, x
    self._macro, self._share = macro, share
    self.lengths = lengths
    self.valid = graph_lib.valid(graph, name, x, lengths)
    self._seen = self._turns = None

  def _numbers(self):
    """Numbers of the frames, int64."""
    return f'{self._name}/numbers'

  @property
  def seen(self):
    if self._seen is None:
      self._seen = self._written_seen()
    return self._seen

  def _written_seen(self):
    graph, name, macro = self._graph, f'{self._name}/seen', self._macro
    there = graph.add(
      f'{name}/there', 'Transpose', self.valid, perm=(0, 2, 1)
    )
    there = graph.add(f'{name}/keys', 'Unsqueeze', there, graph.ints(1))
    if not macro.streams:
      return there
    number = self._numbers()
    if macro.attention == 'chunked':
      chunk = graph.int(macro.chunk * self._share)
      number = graph.add(f'{name}/chunks', 'Div', number, chunk)
    later = graph.add(f'{name}/own', 'Unsqueeze', number, graph.ints(1))
    ago = graph.add(f'{name}/ago', 'Sub', later, number)
    past = graph.add(f'{name}/past', 'GreaterOrEqual', ago, graph.int(0))
    if macro.attention == 'chunked':
      near = graph.add(
        f'{name}/near', 'LessOrEqual', ago, graph.int(macro.left)
      )
      past = graph.add(f'{name}/window', 'And', past, near)
    return graph.add(f'{name}/both', 'And', there, past)

  @property
  def turns(self):
    if self._turns is None:
      graph, name = self._graph, f'{self._name}/turns'
      half = self._macro.head // 2
      speed_d = attention.BASE ** (-np.arange(half, dtype=np.float32) / half)
      number = graph.add(f'{name}/numbers', 'Cast', self._numbers(), to=1)
      column = graph.add(f'{name}/column', 'Unsqueeze', number, graph.ints(1))
      speed = graph.weight(f'speed_{half}', speed_d[None].astype(np.float32))
      angle = graph.add(f'{name}/angles', 'Mul', column, speed)
      self._turns = tuple(
        graph.add(f'{name}/{kind}', kind, angle) for kind in ('Cos', 'Sin')
      )
    return self._turns


def write(graph, space, arch, macro, names):
  """Writes all nodes down: `conformer.network.Network` with dropout off.

  Names of nodes begin with those of the modules.
  """
  del space, arch
  *layers, down = names
  place = int(down.removeprefix(network.DOWN))
  count = macro.stacked
  valid = graph_lib.valid(graph, 'features', 'features', 'lengths')
  x = graph_lib.masked(graph, 'stem/masked', 'features', valid)
  x = graph_lib.unfolded(graph, 'stem', (x, macro.features), count, count)
  lengths = graph_lib.divided(graph, 'stem/lengths', 'lengths', count)
  x = _dense(graph, 'stem', x, count * macro.features, macro.width)
  frames = _Frames(graph, 'stem/after', x, lengths, macro, 2)
  x = graph_lib.masked(graph, 'stem/kept', x, frames.valid)
  for n in range(macro.blocks + 1):
    if n + 1 == place:
      x, lengths = _halved(graph, x, frames.lengths, macro.width)
      frames = _Frames(graph, 'down/after', x, lengths, macro, 1)
    shape = layer_lib.read(layers[n]) if n < macro.blocks else None
    if shape is not None:
      x = _layer(graph, f'layer{n}', macro, shape, x, frames)
  x = _by_frame(graph, 'norm', macro, x, 'bias')
  _dense(graph, 'head', x, macro.width, macro.outputs, 'logits')
  graph.add('logits_lengths', 'Identity', frames.lengths)


def _dense(graph, name, x, inputs, outputs, out=None):
  kernel_kn = graph.param(f'{name}/kernel', (inputs, outputs))
  bias_n = graph.param(f'{name}/bias', (outputs,))
  return graph_lib.affine(graph, name, x, kernel_kn, bias_n, out)


def _halved(graph, x, lengths, width):
  """Writes `network.halved` down: the mean of each two frames."""
  x = graph_lib.unfolded(graph, 'down', (x, width), 2, 2)
  pair = _split(graph, 'down/pair', x, 2)
  total = graph.add('down/sum', 'Add', *pair)  # what is not valid is zero
  half = graph_lib.divided(graph, 'down/lengths', lengths, 2)
  # A last frame that has no other is itself.
  full = graph.add('down/full', 'Div', lengths, graph.ints(2))
  both = graph_lib.valid(graph, 'down/both', total, full)
  share = graph.add(
    'down/share', 'Where', both, graph.float(0.5), graph.float(1)
  )
  return graph.add('down/mean', 'Mul', total, share), half


def _split(graph, name, x, count):
  """Cuts the channels into so many equal parts; returns their names."""
  names = [f'{name}/{k}' for k in range(count)]
  graph.add_all(names, 'Split', x, axis=-1)
  return names


def _layer(graph, name, macro, shape, x, frames):
  """Writes `layer.Layer` down."""
  width = macro.width
  if shape.heads:
    y = _normed(graph, f'{name}/norm_attention', macro, shape, x)
    y = _attention(graph, f'{name}/attention', macro, shape.heads, y, frames)
    x = graph.add(f'{name}/attended', 'Add', x, y)
  if shape.kernel:
    y = _convolved(graph, name, macro, shape, x, frames)
    x = graph.add(f'{name}/convolved', 'Add', x, y)
  y = _normed(graph, f'{name}/norm_ffn', macro, shape, x)
  inner = layer_lib.hidden(shape, macro)
  y = _dense(graph, f'{name}/ffn_into', y, width, inner)
  y = _activated(graph, f'{name}/ffn', shape.activation, y)
  y = _dense(graph, f'{name}/ffn_out', y, inner, width)
  x = graph.add(f'{name}/fed', 'Add', x, y)
  return graph_lib.masked(graph, f'{name}/masked', x, frames.valid)


def _attention(graph, name, macro, heads, x, frames):
  """Writes `attention.SelfAttention` down."""
  size, width = macro.head, macro.width

  def project(part):
    y = _dense(graph, f'{name}/{part}', x, width, heads * size)
    y = graph.add(
      f'{name}/{part}/split', 'Reshape', y, graph.ints(0, 0, heads, size)
    )
    return graph.add(f'{name}/{part}/heads', 'Transpose', y, perm=(0, 2, 1, 3))

  query, key = (
    _turned(graph, f'{name}/{part}', project(part), frames.turns)
    for part in ('query', 'key')
  )
  query = graph.add(
    f'{name}/scaled', 'Mul', query, graph.float(float(size) ** -0.5)
  )
  key = graph.add(f'{name}/columns', 'Transpose', key, perm=(0, 1, 3, 2))
  score = graph.add(f'{name}/scores', 'MatMul', query, key)
  score = graph.add(
    f'{name}/seen', 'Where', frames.seen, score, graph.float(attention.LOW)
  )
  weight = graph.add(f'{name}/weights', 'Softmax', score, axis=-1)
  y = graph.add(f'{name}/mean', 'MatMul', weight, project('value'))
  y = graph.add(f'{name}/frames', 'Transpose', y, perm=(0, 2, 1, 3))
  y = graph.add(
    f'{name}/joined', 'Reshape', y, graph.ints(0, 0, heads * size)
  )
  return _dense(graph, f'{name}/out', y, heads * size, width)


def _turned(graph, name, x, turns):
  """Writes `attention.rotated` down, of [batch, heads, frames, size]."""
  name = f'{name}/turned'
  first, second = _split(graph, f'{name}/parts', x, 2)
  cos, sin = turns
  product = {
    (part, turn): graph.add(f'{name}/{n}{m}', 'Mul', part, turn)
    for n, part in enumerate((first, second))
    for m, turn in enumerate((cos, sin))
  }
  return graph.add(
    name,
    'Concat',
    graph.add(
      f'{name}/first', 'Sub', product[first, cos], product[second, sin]
    ),
    graph.add(
      f'{name}/second', 'Add', product[first, sin], product[second, cos]
    ),
    axis=-1,
  )


def _convolved(graph, name, macro, shape, x, frames):
  """Writes the convolution of a layer down."""
  width = macro.width
  y = _normed(graph, f'{name}/norm_conv', macro, shape, x)
  y = _dense(graph, f'{name}/conv_into', y, width, 2 * width)
  y, gate = _split(graph, f'{name}/conv_into/parts', y, 2)
  gate = graph.add(f'{name}/conv_into/gate', 'Sigmoid', gate)
  y = graph.add(f'{name}/conv_into/gated', 'Mul', y, gate)
  y = graph_lib.masked(graph, f'{name}/conv/masked', y, frames.valid)
  # The network has the taps from the middle outwards, ONNX from the first on.
  shifts = layer_lib.shifts(shape.kernel, macro.streams)
  kernel_kc = graph.param(f'{name}/conv/kernel', (shape.kernel, width))
  kernel_kc = kernel_kc[np.argsort(shifts)]
  y = graph.add(
    f'{name}/conv',
    'Conv',
    graph.add(f'{name}/conv/channels', 'Transpose', y, perm=(0, 2, 1)),
    graph.weight(f'{name}/conv/kernel', kernel_kc.T[:, None]),
    kernel_shape=[shape.kernel],
    pads=[-min(shifts), max(shifts)],
    group=width,
  )
  y = graph.add(f'{name}/conv/frames', 'Transpose', y, perm=(0, 2, 1))
  y = _normed(graph, f'{name}/norm_taps', macro, shape, y)
  y = _activated(graph, f'{name}/conv', shape.activation, y)
  return _dense(graph, f'{name}/conv_out', y, width, width)


def _normed(graph, name, macro, shape, x):
  """Writes `layer.Norm` down."""
  if shape.norm == 'layer':
    return _by_frame(graph, name, macro, x, 'shift')
  scale_c, shift_c, mean_c, variance_c = (
    graph.param(f'{name}/{part}', (macro.width,))
    for part in ('scale', 'shift', 'mean', 'variance')
  )
  a_c = scale_c / np.sqrt(variance_c + np.float32(macro.epsilon))
  b_c = shift_c - a_c * mean_c
  x = graph.add(f'{name}/scaled', 'Mul', x, graph.weight(f'{name}/a', a_c))
  return graph.add(f'{name}/norm', 'Add', x, graph.weight(f'{name}/b', b_c))


def _by_frame(graph, name, macro, x, shift):
  """Writes a layer normalisation down; `shift` is what the module calls it."""
  parts = (
    graph.weight(
      f'{name}/{part}', graph.param(f'{name}/{part}', (macro.width,))
    )
    for part in ('scale', shift)
  )
  return graph.add(
    f'{name}/norm', 'LayerNormalization', x, *parts, axis=-1,
    epsilon=macro.epsilon,
  )  # fmt: skip


def _activated(graph, name, kind, x):
  name = f'{name}/{kind}'
  if kind == 'relu':
    return graph.add(name, 'Relu', x)
  if kind == 'swish':
    return graph.add(
      name, 'Mul', x, graph.add(f'{name}/sigmoid', 'Sigmoid', x)
    )
  # GELU by a tanh, as flax has it: 0.5 x (1 + tanh(c (x + 0.044715 x^3))).
  square = graph.add(f'{name}/square', 'Mul', x, x)
  inner = graph.add(f'{name}/inner', 'Mul', square, graph.float(0.044715))
  inner = graph.add(f'{name}/more', 'Add', inner, graph.float(1))
  inner = graph.add(f'{name}/by_x', 'Mul', inner, x)
  scale = graph.weight(
    'gelu_scale', np.array(math.sqrt(2 / math.pi), np.float32)
  )
  inner = graph.add(f'{name}/scaled', 'Mul', inner, scale)
  inner = graph.add(f'{name}/tanh', 'Tanh', inner)
  inner = graph.add(f'{name}/one', 'Add', inner, graph.float(1))
  half = graph.add(f'{name}/half', 'Mul', x, graph.float(0.5))
  return graph.add(name, 'Mul', half, inner)
