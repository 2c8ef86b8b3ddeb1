"""Conformer-like encoders as ONNX graphs, whole, causal or in chunks.

Batch normalisation is a product and a sum of each channel; taps stand in the
order in which frames do, not in that of `layer.shifts`.
"""

import math

import numpy as np

from nasjax.export import graph as graph_lib
from nasjax.layers import attention
from nasjax.models.conformer import layer as layer_lib
from nasjax.models.conformer.network import DOWN


def write(graph, space, arch, macro, names):
  """Writes all nodes down: `conformer.network.Network` with dropout off.

  Names of nodes begin with those of the modules.
  """
  del space, arch
  *names, place = names
  place = int(place.removeprefix(DOWN))
  writer = _Writer(graph, macro)
  x = writer.stem()
  for n in range(macro.blocks + 1):
    if n + 1 == place:
      x = writer.halved(x)
    if n < macro.blocks and names[n] != layer_lib.SKIP:
      x = writer.layer(f'layer{n}', x, layer_lib.read(names[n]))
  x = writer.norm_by_frame('norm', x, ('scale', 'bias'))
  writer.dense('head', x, macro.width, macro.outputs, 'logits')
  graph.add('logits_lengths', 'Identity', writer.lengths)


class _Writer:
  """Where a graph has come to: its frames, and what is made of their numbers.

  Attributes:
    lengths: valid frames, by name, as all that follow.
    valid: of each frame, [batch, frames, 1].
    numbers: of frames, int64 [frames].
    seen: which frames see which, broadcast to [batch, heads, frames, frames].
    turns: cosines and sines of `attention.rotated`.
  """

  def __init__(self, graph, macro):
    self.graph, self.macro = graph, macro
    self.lengths = 'lengths'

  def stem(self):
    graph, macro = self.graph, self.macro
    valid = graph_lib.valid(graph, 'features', 'features', self.lengths)
    x = graph_lib.masked(graph, 'stem/masked', 'features', valid)
    count, width = macro.stacked, macro.features * macro.stacked
    x = graph_lib.unfolded(graph, 'stem', (x, macro.features), count, count)
    self._shortened('stem', count)
    x = self.dense('stem', x, width, macro.width)
    return self._numbered('stem', x, 2)

  def halved(self, x):
    graph, name, width = self.graph, 'halved', self.macro.width
    pairs = graph_lib.unfolded(graph, name, (x, width), 2, 2)
    first, second = self._split(name, pairs, width)
    sums = graph.add(f'{name}/sums', 'Add', first, second)
    means = graph.add(f'{name}/means', 'Mul', sums, graph.float(0.5))
    # Of two frames the second is valid where 2 t + 1 < length.
    seconds = graph.add(f'{name}/seconds', 'Div', self.lengths, graph.ints(2))
    both = graph_lib.valid(graph, f'{name}/both', pairs, seconds)
    x = graph.add(f'{name}/mean', 'Where', both, means, first)
    self._shortened(name, 2)
    return self._numbered(name, x, 1)

  def _shortened(self, name, stride):
    if stride > 1:
      self.lengths = graph_lib.divided(
        self.graph, f'{name}/lengths', self.lengths, stride
      )

  def _numbered(self, name, x, share):
    """Makes anew what depends on the number of frames; returns x, masked."""
    graph, macro = self.graph, self.macro
    name = f'{name}/after'
    self.valid = graph_lib.valid(graph, name, x, self.lengths)
    self.numbers = f'{name}/numbers'
    there = graph.add(
      f'{name}/there', 'Unsqueeze',
      graph.add(f'{name}/columns', 'Transpose', self.valid, perm=(0, 2, 1)),
      graph.ints(1),
    )  # fmt: skip
    self.seen = there
    if macro.streams:
      past = self._past(name, macro.chunk * share)
      self.seen = graph.add(f'{name}/seen', 'And', there, past)
    half = macro.head // 2
    speed_d = attention.BASE ** (-np.arange(half, dtype=np.float32) / half)
    number = graph.add(f'{name}/floats', 'Cast', self.numbers, to=1)
    number = graph.add(f'{name}/rows', 'Unsqueeze', number, graph.ints(1, 2))
    angle = graph.add(
      f'{name}/angles', 'Mul', number, graph.weight('speeds', speed_d)
    )
    self.turns = tuple(
      graph.add(f'{name}/{kind}', kind, angle) for kind in ('Cos', 'Sin')
    )
    return graph_lib.masked(graph, f'{name}/masked', x, self.valid)

  def _past(self, name, chunk):
    """Tells which frames are not later ones, bool [frames, frames]."""
    graph, macro = self.graph, self.macro
    number = self.numbers
    if macro.attention == 'chunked':
      number = graph.add(f'{name}/chunks', 'Div', number, graph.int(chunk))
    rows = graph.add(f'{name}/from', 'Unsqueeze', number, graph.ints(1))
    ago = graph.add(f'{name}/ago', 'Sub', rows, number)
    past = graph.add(f'{name}/past', 'GreaterOrEqual', ago, graph.int(0))
    if macro.attention == 'chunked':
      near = graph.add(
        f'{name}/near', 'LessOrEqual', ago, graph.int(macro.left)
      )
      past = graph.add(f'{name}/window', 'And', past, near)
    return past

  def layer(self, name, x, shape):
    """Writes `layer.Layer` down."""
    if shape.heads:
      y = self._normed(f'{name}/norm_attention', x, shape)
      y = self._attended(f'{name}/attention', y, shape.heads)
      x = self.graph.add(f'{name}/attention/sum', 'Add', x, y)
    if shape.kernel:
      y = self._convolved(name, x, shape)
      x = self.graph.add(f'{name}/conv/sum', 'Add', x, y)
    hidden, width = layer_lib.hidden(shape, self.macro), self.macro.width
    y = self._normed(f'{name}/norm_ffn', x, shape)
    y = self.dense(f'{name}/ffn_into', y, width, hidden)
    y = self._activated(f'{name}/ffn', y, shape)
    y = self.dense(f'{name}/ffn_out', y, hidden, width)
    x = self.graph.add(f'{name}/sum', 'Add', x, y)
    return graph_lib.masked(self.graph, f'{name}/masked', x, self.valid)

  def dense(self, name, x, inputs, outputs, out=None):
    """Writes `modules.Dense` down."""
    kernel_kn = self.graph.param(f'{name}/kernel', (inputs, outputs))
    bias_n = self.graph.param(f'{name}/bias', (outputs,))
    return graph_lib.affine(self.graph, name, x, kernel_kn, bias_n, out)

  def norm_by_frame(self, name, x, parts=('scale', 'shift')):
    """Writes a layer normalisation down."""
    parts = (
      self.graph.weight(f'{name}/{part}', self._channels(f'{name}/{part}'))
      for part in parts
    )
    return self.graph.add(
      f'{name}/norm', 'LayerNormalization', x, *parts, axis=-1,
      epsilon=self.macro.epsilon,
    )  # fmt: skip

  def _channels(self, path):
    return self.graph.param(path, (self.macro.width,))

  def _normed(self, name, x, shape):
    if shape.norm == 'layer':
      return self.norm_by_frame(name, x)
    scale_c, shift_c, mean_c, variance_c = (
      self._channels(f'{name}/{part}')
      for part in ('scale', 'shift', 'mean', 'variance')
    )
    a_c = scale_c / np.sqrt(variance_c + np.float32(self.macro.epsilon))
    graph = self.graph
    x = graph.add(f'{name}/mul', 'Mul', x, graph.weight(f'{name}/a', a_c))
    b_c = graph.weight(f'{name}/b', shift_c - a_c * mean_c)
    return graph.add(f'{name}/norm', 'Add', x, b_c)

  def _split(self, name, x, width):
    """Returns the first channels of x, and the second so many."""
    graph, ends = self.graph, (0, width, 2 * width)
    return tuple(
      graph.add(
        f'{name}/half{n}', 'Slice', x, graph.ints(ends[n]),
        graph.ints(ends[n + 1]), graph.ints(-1),
      )
      for n in range(2)
    )  # fmt: skip

  def _activated(self, name, x, shape):
    graph = self.graph
    if shape.activation == 'relu':
      return graph.add(f'{name}/relu', 'Relu', x)
    if shape.activation == 'swish':
      gate = graph.add(f'{name}/sigmoid', 'Sigmoid', x)
      return graph.add(f'{name}/swish', 'Mul', x, gate)
    # By tanh, as `nn.gelu` has it.
    name = f'{name}/gelu'
    square = graph.add(f'{name}/square', 'Mul', x, x)
    square = graph.add(f'{name}/some', 'Mul', square, graph.float(0.044715))
    square = graph.add(f'{name}/more', 'Add', square, graph.float(1))
    inner = graph.add(f'{name}/cube', 'Mul', x, square)
    inner = graph.add(
      f'{name}/scaled', 'Mul', inner,
      graph.weight('gelu_scale', np.float32(math.sqrt(2 / math.pi))),
    )  # fmt: skip
    gate = graph.add(f'{name}/tanh', 'Tanh', inner)
    gate = graph.add(f'{name}/gate', 'Add', gate, graph.float(1))
    gate = graph.add(f'{name}/half', 'Mul', gate, graph.float(0.5))
    return graph.add(name, 'Mul', x, gate)

  def _attended(self, name, x, heads):
    """Writes `attention.SelfAttention` down."""
    graph, width, size = self.graph, self.macro.width, self.macro.head
    inner = heads * size

    def heads_of(part, turned=True, perm=(0, 2, 1, 3)):
      y = self.dense(f'{name}/{part}', x, width, inner)
      where = f'{name}/{part}/heads'
      y = graph.add(where, 'Reshape', y, graph.ints(0, 0, heads, size))
      if turned:
        y = self._rotated(f'{name}/{part}/turned', y, size // 2)
      return graph.add(f'{where}/order', 'Transpose', y, perm=perm)

    query = heads_of('query')
    key = heads_of('key', perm=(0, 2, 3, 1))
    query = graph.add(
      f'{name}/query/scaled', 'Mul', query,
      graph.weight(f'scale_{size}', np.float32(size**-0.5)),
    )  # fmt: skip
    score = graph.add(f'{name}/scores', 'MatMul', query, key)
    low = graph.weight('unseen', np.float32(attention.LOW))
    score = graph.add(f'{name}/seen', 'Where', self.seen, score, low)
    share = graph.add(f'{name}/shares', 'Softmax', score, axis=-1)
    value = heads_of('value', turned=False)
    y = graph.add(f'{name}/mean', 'MatMul', share, value)
    y = graph.add(f'{name}/frames', 'Transpose', y, perm=(0, 2, 1, 3))
    y = graph.add(f'{name}/joined', 'Reshape', y, graph.ints(0, 0, inner))
    return self.dense(f'{name}/out', y, inner, width)

  def _rotated(self, name, x, half):
    graph, (cosine, sine) = self.graph, self.turns
    first, second = self._split(name, x, half)

    def product(what, part, turn):
      return graph.add(f'{name}/{what}', 'Mul', part, turn)

    ahead = graph.add(
      f'{name}/first', 'Sub', product('fc', first, cosine),
      product('ss', second, sine),
    )  # fmt: skip
    beside = graph.add(
      f'{name}/second', 'Add', product('fs', first, sine),
      product('sc', second, cosine),
    )  # fmt: skip
    return graph.add(name, 'Concat', ahead, beside, axis=-1)

  def _convolved(self, name, x, shape):
    graph, width = self.graph, self.macro.width
    y = self._normed(f'{name}/norm_conv', x, shape)
    y = self.dense(f'{name}/conv_into', y, width, 2 * width)
    y, gate = self._split(f'{name}/conv_into', y, width)
    gate = graph.add(f'{name}/conv/sigmoid', 'Sigmoid', gate)
    y = graph.add(f'{name}/conv/gated', 'Mul', y, gate)
    y = graph_lib.masked(graph, f'{name}/conv/masked', y, self.valid)
    shifts = layer_lib.shifts(shape.kernel, self.macro.streams)
    kernel_kc = graph.param(f'{name}/conv/kernel', (shape.kernel, width))
    kernel_c1k = kernel_kc[np.argsort(shifts)].T[:, None]
    y = graph.add(
      f'{name}/conv',
      'Conv',
      graph.add(f'{name}/conv/channels', 'Transpose', y, perm=(0, 2, 1)),
      graph.weight(f'{name}/conv/kernel', kernel_c1k),
      kernel_shape=[shape.kernel],
      pads=[-min(shifts), max(shifts)],
      group=width,
    )
    y = graph.add(f'{name}/conv/frames', 'Transpose', y, perm=(0, 2, 1))
    y = self._normed(f'{name}/norm_taps', y, shape)
    y = self._activated(f'{name}/taps', y, shape)
    return self.dense(f'{name}/conv_out', y, width, width)
