"""NB-ASR's networks as ONNX graphs.

Channels are in the order of ONNX' grouped convolutions (group by group), not in
nasjax' own, so that none are moved while a graph runs.
"""

import numpy as np

from nasjax.export import graph as graph_lib
from nasjax.export.text import UnsupportedError
from nasjax.kernels import taps
from nasjax.layers import custom_vjps

OPERATIONS = (*taps.CONVOLUTIONS, 'linear', 'zero')
# Gates of nasjax' LSTM (i, f, g, o) in ONNX' order (i, o, f, c).
_GATES = (0, 3, 1, 2)


def write(graph, space, arch, macro, names):
  """Writes all nodes down: `nb_asr.network.Network` with dropout off.

  Names of nodes begin with those of the modules.

  Raises:
    UnsupportedError: an operation that is not written yet.
  """
  for name in names:
    if name not in OPERATIONS:
      raise UnsupportedError(
        f'operation {name!r} of space {space.name} cannot be written as ONNX; '
        f'{", ".join(OPERATIONS)} can'
      )
  skip_nm = space.skip_matrix(arch)
  x, lengths, order_c = 'features', 'lengths', np.arange(macro.features)
  valid = graph_lib.valid(graph, 'features', x, lengths)
  for block, width in enumerate(macro.filters):
    into_c, order_c = order_c, _order(width, macro.groups)
    where, stride = f'block{block}', macro.strides[block]
    x = graph_lib.masked(graph, f'{where}_conv/masked', x, valid)
    x = _opening(graph, f'{where}_conv', macro, stride, x, into_c, order_c)
    x = _norm(graph, f'{where}_norm', x, order_c, macro.epsilon)
    if stride > 1:
      lengths = graph_lib.divided(graph, f'{where}/lengths', lengths, stride)
      valid = graph_lib.valid(graph, where, x, lengths)
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


def _dense(graph, name, x, into_c, order_c, out=None):
  """Writes `modules.Dense` down."""
  kernel_kn = graph.param(f'{name}/kernel', (len(into_c), len(order_c)))
  bias_n = graph.param(f'{name}/bias', order_c.shape)
  kernel_kn = kernel_kn[into_c][:, order_c]
  return graph_lib.affine(graph, name, x, kernel_kn, bias_n[order_c], out)


def _opening(graph, name, macro, stride, x, into_c, order_c):
  """Writes `ops.MacroConv` down: one product over unfolded frames, as there."""
  kernel, channels, width = macro.kernel, len(into_c), len(order_c)
  left, _ = taps.reach(kernel, 1, stride)
  unfolded = graph_lib.unfolded(
    graph, name, (x, channels), kernel, stride, left=left
  )
  kernel_kc = graph.param(f'{name}/kernel', (kernel * channels, width))
  kernel_kic = kernel_kc.reshape(kernel, channels, width)[:, into_c]
  kernel_kc = kernel_kic[:, :, order_c].reshape(kernel_kc.shape)
  bias_c = graph.param(f'{name}/bias', (width,))[order_c]
  y = graph_lib.affine(graph, name, unfolded, kernel_kc, bias_c)
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
  masked = graph_lib.masked(graph, f'{name}/masked', x, valid)
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
