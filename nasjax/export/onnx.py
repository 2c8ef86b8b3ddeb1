"""Networks as ONNX files, written node by node.

  onnx.save('cell.onnx', space, arch, macro, params)
  onnx.save_network('heard.onnx', nasjax.load_network('results/quickstart'))

Standard operators of opset 17 alone, in float32: no scan, no switch, no loop
but the LSTM's own. Input are normalised features and the frames of each
utterance, any number of both; output are logits and their frames, equal to the
network's in every valid frame. Channels are in the order of ONNX' grouped
convolutions (group by group), not in nasjax' own, so that none are moved while
it runs.

NB-ASR's networks are written today. `text` stands inside the file.
"""

import pathlib

import numpy as np

from nasjax.export import text as text_lib
from nasjax.export.text import ExportError, UnsupportedError
from nasjax.kernels import taps
from nasjax.layers import custom_vjps
from nasjax.models import families
from nasjax.models.nb_asr import network as nb_asr
from nasjax.storage import disk

OPSET = 17
# Older runtimes read no later ones; opset 17 needs this one.
_IR = 8
# Gates of nasjax' LSTM (i, f, g, o) in ONNX' order (i, o, f, c).
_GATES = (0, 3, 1, 2)


def library():
  """Returns the package onnx.

  Raises:
    ExportError: it is not installed.
  """
  try:
    import onnx
  except ImportError:
    raise ExportError(
      "the package onnx is not installed; pip install -e '.[export]'"
    ) from None
  return onnx


def save(path, space, arch, macro, params, speech=None, calibration=None):
  """Writes a network as an ONNX file, whole or not at all.

  Args:
    path: of the file.
    space: search space.
    arch: one architecture of it.
    macro: its macro network.
    params: of `families.single`, what `families.unpack` returns.
    speech: `text.Speech`, what the file shall know of features and alphabet;
      without it the file is a network that runs, and hears no recording.
    calibration: a list of features x_tf, float32 [frames, features]: the file
      has eight bits, with ranges of what it makes of these
      (`quantise.static`). None for float32.

  Returns:
    bytes of the file.

  Raises:
    UnsupportedError: no such network is written yet.
    ExportError: a package is missing, a parameter, or its shape is another.
  """
  path = pathlib.Path(path)
  if not path.parent.is_dir():
    raise ExportError(f'{path}: no directory {path.parent}; make it')
  made = model(space, arch, macro, params, speech)
  if calibration is not None:
    from nasjax.export import quantise

    made = quantise.static(made, calibration)
  payload = made.SerializeToString()
  disk.publish(path, payload)
  return len(payload)


def save_network(path, network, calibration=None):
  """Writes a `listening.TrainedNetwork` with all it needs; see `save`."""
  return save(
    path,
    *(network.space, network.arch, network.macro, network.params),
    text_lib.of_network(network),
    calibration,
  )


def model(space, arch, macro, params, speech=None):
  """Returns the `onnx.ModelProto` that `save` writes in float32."""
  onnx = library()
  families.check(space, macro)
  if families.family(space).Network is not nb_asr.Network:
    written = [
      name
      for name, family in families.FAMILIES.items()
      if family.Network is nb_asr.Network
    ]
    raise UnsupportedError(
      f'networks of space {space.name} cannot be written as ONNX yet; those of '
      f'{", ".join(written)} can'
    )
  names = families.family(space).ops(space, arch)
  known = (*taps.CONVOLUTIONS, 'linear', 'zero')
  for name in names:
    if name not in known:
      raise UnsupportedError(
        f'operation {name!r} of space {space.name} cannot be written as ONNX; '
        f'{", ".join(known)} can'
      )
  graph = _Graph(onnx, params)
  _network(graph, macro, names, space.skip_matrix(arch))
  told = text_lib.written(space, arch, macro, speech)
  made = graph.model(macro)
  onnx.helper.set_model_props(made, {text_lib.KEY: text_lib.dumped(told)})
  onnx.checker.check_model(made, full_check=True)
  return made


class _Graph:
  """Nodes and weights as they are written down, one after the other."""

  def __init__(self, onnx, params):
    self._onnx, self._params = onnx, params
    self._nodes, self._weights = [], {}

  def param(self, path, shape):
    """Returns a parameter, float32 NumPy.

    Raises:
      ExportError: there is none, or it has another shape.
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
    return np.asarray(found, np.float32)

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
    return self.weight(f'float_{value:g}', np.array(value, np.float32))

  def add(self, name, kind, *inputs, **attributes):
    """Writes a node of one output down; returns the output's name."""
    make = self._onnx.helper.make_node
    self._nodes.append(make(kind, inputs, [name], name, **attributes))
    return name

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


def _network(graph, macro, names, skip_nm):
  """Writes all nodes down: `nb_asr.network.Network` with dropout off.

  Names of nodes begin with those of the modules.
  """
  x, lengths, order_c = 'features', 'lengths', np.arange(macro.features)
  valid = _valid(graph, 'features', x, lengths)
  for block, width in enumerate(macro.filters):
    into_c, order_c = order_c, _order(width, macro.groups)
    where, stride = f'block{block}', macro.strides[block]
    x = _masked(graph, f'{where}_conv/masked', x, valid)
    x = _opening(graph, f'{where}_conv', macro, stride, x, into_c, order_c)
    x = _norm(graph, f'{where}_norm', x, order_c, macro.epsilon)
    if stride > 1:
      lengths = _divided(graph, f'{where}/lengths', lengths, stride)
      valid = _valid(graph, where, x, lengths)
    for i in range(macro.cells[block]):
      name = f'{where}_cell{i}'
      x = _cell(graph, name, macro, names, skip_nm, x, valid, order_c)
  if macro.lstm:
    x, order_c = _lstm(graph, macro.lstm, x, order_c), np.arange(macro.lstm)
  _dense(graph, 'head', x, order_c, np.arange(macro.outputs), 'logits')
  graph.add('logits_lengths', 'Identity', lengths)


def _order(width, groups):
  """Returns the channel of nasjax that stands at each place in the file.

  nasjax has channel i of group g at i * groups + g (`nb_asr.ops`), ONNX has it
  at g * (width / groups) + i.
  """
  return np.arange(width).reshape(-1, groups).T.reshape(-1)


def _frames(graph, name, x):
  """Returns the number of frames of x, an int64 [1]."""
  return graph.add(f'{name}/frames', 'Shape', x, start=1, end=2)


def _divided(graph, name, count, stride):
  """Returns count / stride, rounded up."""
  more = graph.add(f'{name}/more', 'Add', count, graph.ints(stride - 1))
  return graph.add(name, 'Div', more, graph.ints(stride))


def _valid(graph, name, x, lengths):
  """Tells which frames of x are valid, bool [batch, frames, 1]."""
  frames = _frames(graph, name, x)
  count = graph.add(f'{name}/count', 'Squeeze', frames, graph.ints(0))
  numbers = graph.add(
    f'{name}/numbers', 'Range', graph.int(0), count, graph.int(1)
  )
  ends = graph.add(f'{name}/ends', 'Unsqueeze', lengths, graph.ints(1))
  valid = graph.add(f'{name}/before', 'Less', numbers, ends)
  return graph.add(f'{name}/valid', 'Unsqueeze', valid, graph.ints(2))


def _masked(graph, name, x, valid):
  return graph.add(name, 'Where', valid, x, graph.float(0))


def _clipped(graph, name, x):
  top = graph.float(custom_vjps.CLIP)
  return graph.add(f'{name}/clipped', 'Clip', x, graph.float(0), top)


def _norm(graph, name, x, order_c, epsilon):
  parts = (
    graph.weight(
      f'{name}/{part}', graph.param(f'{name}/{part}', order_c.shape)[order_c]
    )
    for part in ('scale', 'bias')
  )
  return graph.add(
    f'{name}/norm', 'LayerNormalization', x, *parts, axis=-1, epsilon=epsilon
  )


def _affine(graph, name, x, kernel_kn, bias_n, out=None):
  product = graph.add(
    f'{name}/product', 'MatMul', x, graph.weight(f'{name}/kernel', kernel_kn)
  )
  bias = graph.weight(f'{name}/bias', bias_n)
  return graph.add(out or f'{name}/affine', 'Add', product, bias)


def _dense(graph, name, x, into_c, order_c, out=None):
  """Writes `modules.Dense` down."""
  kernel_kn = graph.param(f'{name}/kernel', (len(into_c), len(order_c)))
  bias_n = graph.param(f'{name}/bias', order_c.shape)
  kernel_kn = kernel_kn[into_c][:, order_c]
  return _affine(graph, name, x, kernel_kn, bias_n[order_c], out)


def _opening(graph, name, macro, stride, x, into_c, order_c):
  """Writes `ops.MacroConv` down: one product over unfolded frames, as there."""
  kernel, channels, width = macro.kernel, len(into_c), len(order_c)
  left, _ = taps.reach(kernel, 1, stride)
  steps = kernel // stride
  # As many frames as the last window may read; less are read, where `stride`
  # divides them.
  pads = graph.ints(0, left, 0, 0, kernel - 1 - left, 0)
  padded = graph.add(f'{name}/padded', 'Pad', x, pads)
  frames = _frames(graph, name, x)
  out = _divided(graph, f'{name}/out', frames, stride)
  if stride > 1:
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
      f'{name}/strides',
      'Reshape',
      padded,
      graph.ints(0, -1, stride * channels),
    )
  pieces = []
  for k in range(steps):
    end = graph.add(f'{name}/end{k}', 'Add', out, graph.ints(k))
    piece = graph.add(
      f'{name}/piece{k}', 'Slice', padded, graph.ints(k), end, graph.ints(1)
    )
    pieces.append(piece)
  unfolded = graph.add(f'{name}/unfolded', 'Concat', *pieces, axis=-1)
  kernel_kc = graph.param(f'{name}/kernel', (kernel * channels, width))
  kernel_kic = kernel_kc.reshape(kernel, channels, width)[:, into_c]
  kernel_kc = kernel_kic[:, :, order_c].reshape(kernel_kc.shape)
  bias_c = graph.param(f'{name}/bias', (width,))[order_c]
  y = _affine(graph, name, unfolded, kernel_kc, bias_c)
  return _clipped(graph, name, y)


def _cell(graph, name, macro, names, skip_nm, x, valid, order_c):
  """Writes `cell.Cell` down."""
  xs = [x]
  for n, op in enumerate(names):
    where = f'{name}/node{n}_{op}'
    terms = [x for m, x in enumerate(xs) if skip_nm[n][m]]
    if op == 'linear':
      y = _dense(graph, f'{where}/Dense_0', xs[-1], order_c, order_c)
      terms.insert(0, _clipped(graph, where, y))
    elif op != 'zero':
      y = _conv(graph, where, macro.groups, op, xs[-1], valid, order_c)
      terms.insert(0, _clipped(graph, where, y))
    if terms:
      y = terms[0]
      for k, term in enumerate(terms[1:]):
        y = graph.add(f'{where}/sum{k}', 'Add', y, term)
    else:
      y = graph.add(f'{where}/nothing', 'Mul', xs[-1], graph.float(0))
    xs.append(y)
  return _norm(graph, f'{name}/norm', xs[-1], order_c, macro.epsilon)


def _conv(graph, name, groups, op, x, valid, order_c):
  """Writes the product of `ops.Conv` down."""
  count, dilation = taps.CONVOLUTIONS[op]
  shifts = taps.offsets(op)
  width = len(order_c)
  c = width // groups
  kernel_kijg = graph.param(f'{name}/kernel', (count, c, c, groups))
  kernel_oik = kernel_kijg.transpose(3, 2, 1, 0).reshape(width, c, count)
  bias_c = graph.param(f'{name}/bias', (width,))[order_c]
  masked = _masked(graph, f'{name}/masked', x, valid)
  y = graph.add(
    f'{name}/conv',
    'Conv',
    graph.add(f'{name}/channels', 'Transpose', masked, perm=(0, 2, 1)),
    graph.weight(f'{name}/kernel', kernel_oik),
    graph.weight(f'{name}/bias', bias_c),
    kernel_shape=[count],
    dilations=[dilation],
    pads=[-shifts[0], shifts[-1]],
    group=groups,
  )
  return graph.add(f'{name}/frames', 'Transpose', y, perm=(0, 2, 1))


def _lstm(graph, hidden, x, into_c):
  """Writes `modules.LSTM` down."""

  def gates(z_xh):
    """Puts the gates along the last axis in ONNX' order, and first."""
    z_xgh = z_xh.reshape(*z_xh.shape[:-1], 4, hidden)[..., _GATES, :]
    return np.moveaxis(z_xgh.reshape(z_xh.shape), -1, 0)[None]

  wide = 4 * hidden
  wx_ch = graph.param('lstm/input_kernel', (len(into_c), wide))[into_c]
  wh_hh = graph.param('lstm/recurrent_kernel', (hidden, wide))
  bias_h = gates(graph.param('lstm/bias', (wide,)))
  # ONNX adds two biases.
  bias_h = np.concatenate([bias_h, np.zeros_like(bias_h)], -1)
  h = graph.add(
    'lstm/states',
    'LSTM',
    graph.add('lstm/steps', 'Transpose', x, perm=(1, 0, 2)),
    graph.weight('lstm/input_kernel', gates(wx_ch)),
    graph.weight('lstm/recurrent_kernel', gates(wh_hh)),
    graph.weight('lstm/bias', bias_h),
    hidden_size=hidden,
  )
  h = graph.add('lstm/forward', 'Squeeze', h, graph.ints(1))
  return graph.add('lstm/frames', 'Transpose', h, perm=(1, 0, 2))
