"""An ONNX graph as it is written down, and what all families have in it."""

import numpy as np

from nasjax.export.text import ExportError

OPSET = 17
# Older runtimes read no later ones; opset 17 needs this one.
_IR = 8


class Graph:
  """Nodes and weights as they are written down, one after the other."""

  def __init__(self, onnx, params):
    self._onnx, self._params = onnx, params
    self._nodes, self._weights = [], {}

  def param(self, path, shape):
    """Returns a parameter, float32 NumPy.

    Raises:
      ExportError: there is none, it has another shape, or is not finite.
    """
    found = self._params
    for name in path.split('/'):
      found = found.get(name) if hasattr(found, 'get') else None
    shape = tuple(shape)
    if found is None or np.shape(found) != shape:
      told = 'missing' if found is None else f'of shape {np.shape(found)}'
      raise ExportError(
        f'parameter {path} is {told}, {shape} is wanted; give those of '
        '`families.single` (a member of a population goes through '
        '`families.unpack`)'
      )
    found = np.asarray(found, np.float32)
    if not np.isfinite(found).all():
      raise ExportError(
        f'parameter {path} is not finite; take a network that did not diverge'
      )
    return found

  def weight(self, name, value):
    """Keeps an array; returns its name. Equal names are equal arrays."""
    self._weights.setdefault(name, np.ascontiguousarray(value))
    return name

  def ints(self, *values):
    """Returns the name of an int64 [n]."""
    name = 'ints_' + '_'.join(map(str, values))
    return self.weight(name, np.array(values, np.int64))

  def int(self, value):
    return self.weight(f'int_{value}', np.array(value, np.int64))

  def float(self, value):
    return self.weight(f'float_{value!r}', np.array(value, np.float32))

  def add(self, name, kind, *inputs, **attributes):
    """Writes a node of one output down; returns the output's name."""
    self.add_all([name], kind, *inputs, **attributes)
    return name

  def add_all(self, names, kind, *inputs, **attributes):
    """Writes a node down; `names` are those of its outputs."""
    make = self._onnx.helper.make_node
    self._nodes.append(make(kind, inputs, names, names[0], **attributes))

  def model(self, macro):
    onnx = self._onnx
    value = onnx.helper.make_tensor_value_info
    floats, ints = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    made = onnx.helper.make_graph(
      self._nodes,
      'nasjax',
      [
        value('features', floats, ['batch', 'frames', macro.features]),
        value('lengths', ints, ['batch']),
      ],
      [
        value('logits', floats, ['batch', 'frames_out', macro.outputs]),
        value('logits_lengths', ints, ['batch']),
      ],
      [onnx.numpy_helper.from_array(w, n) for n, w in self._weights.items()],
    )
    return onnx.helper.make_model(
      made,
      producer_name='nasjax',
      ir_version=_IR,
      opset_imports=[onnx.helper.make_opsetid('', OPSET)],
    )


def frames(graph, name, x):
  """Returns the number of frames of x, an int64 [1]."""
  return graph.add(f'{name}/frames', 'Shape', x, start=1, end=2)


def divided(graph, name, count, stride):
  """Returns count / stride, rounded up."""
  more = graph.add(f'{name}/more', 'Add', count, graph.ints(stride - 1))
  return graph.add(name, 'Div', more, graph.ints(stride))


def valid(graph, name, x, lengths):
  """Tells which frames of x are valid, bool [batch, frames, 1]."""
  count = graph.add(
    f'{name}/count', 'Squeeze', frames(graph, name, x), graph.ints(0)
  )
  numbers = graph.add(
    f'{name}/numbers', 'Range', graph.int(0), count, graph.int(1)
  )
  ends = graph.add(f'{name}/ends', 'Unsqueeze', lengths, graph.ints(1))
  before = graph.add(f'{name}/before', 'Less', numbers, ends)
  return graph.add(f'{name}/valid', 'Unsqueeze', before, graph.ints(2))


def masked(graph, name, x, valid):
  """Zeroes the frames that are not valid."""
  return graph.add(name, 'Where', valid, x, graph.float(0))


def affine(graph, name, x, kernel_kn, bias_n, out=None):
  """Writes a product with weights and their bias down; `out` is its name."""
  product = graph.add(
    f'{name}/product', 'MatMul', x, graph.weight(f'{name}/kernel', kernel_kn)
  )
  bias = graph.weight(f'{name}/bias', bias_n)
  return graph.add(out or f'{name}/affine', 'Add', product, bias)


def unfolded(graph, name, x, kernel, stride=1, dilation=1, left=0):
  """Puts the frames that each window reads side by side.

  Args:
    graph: `Graph`.
    name: of what is written.
    x: [batch, frames, channels], masked, and the number of channels.
    kernel: frames of a window, a multiple of `stride`.
    stride: from one window to the next; 1 where there is a dilation.
    dilation: frames from one that a window reads to the next.
    left: frames of zeros before the first.

  Returns:
    [batch, frames / stride rounded up, kernel * channels].
  """
  x, channels = x
  steps = kernel // stride
  # As many frames as the last window may read.
  right = (kernel - 1) * dilation - left
  pads = graph.ints(0, left, 0, 0, right, 0)
  padded = graph.add(f'{name}/padded', 'Pad', x, pads)
  out = divided(graph, f'{name}/out', frames(graph, name, x), stride)
  if stride > 1:
    # In strides of `stride` frames, what windows read are plain slices.
    total = graph.add(
      f'{name}/total',
      'Mul',
      graph.add(f'{name}/windows', 'Add', out, graph.ints(steps - 1)),
      graph.ints(stride),
    )
    padded = graph.add(
      f'{name}/cut', 'Slice', padded, graph.ints(0), total, graph.ints(1)
    )
    padded = graph.add(
      f'{name}/strides', 'Reshape', padded, graph.ints(0, -1, stride * channels)
    )
  pieces = []
  for k in range(0, steps * dilation, dilation):
    end = graph.add(f'{name}/end{k}', 'Add', out, graph.ints(k))
    piece = graph.add(
      f'{name}/piece{k}', 'Slice', padded, graph.ints(k), end, graph.ints(1)
    )
    pieces.append(piece)
  return graph.add(f'{name}/unfolded', 'Concat', *pieces, axis=-1)
