"""ST-NAS's time-delay networks as ONNX graphs.

A convolution is one product over the frames that its taps read, side by side.
"""

from nasjax.export import graph as graph_lib
from nasjax.models.st_nas import network
from nasjax.spaces.st_nas import CANDIDATES


def write(graph, space, arch, macro, names):
  """Writes all nodes down: `st_nas.network.Network` with dropout off.

  Names of nodes begin with those of the layers.
  """
  del space, arch
  x, channels, lengths = 'features', macro.features, 'lengths'
  valid = graph_lib.valid(graph, 'features', x, lengths)
  stride = macro.subsampling
  for n in range(len(names) + 1):
    if n == macro.before:
      name = 'subsampling_tdnn'
      window = stride, stride, 1, (stride - 1) // 2
      x = _layer(graph, name, macro, x, channels, valid, window)
      lengths = graph_lib.divided(graph, f'{name}/lengths', lengths, stride)
      valid = graph_lib.valid(graph, f'{name}/after', x, lengths)
      channels = macro.width
    if n < len(names):
      context, dilation = CANDIDATES[names[n]]
      window = network.TAPS[names[n]], 1, dilation, context * dilation
      name = f'block{n}_{names[n]}'
      x = _layer(graph, name, macro, x, channels, valid, window)
      channels = macro.width
  kernel_cv = graph.param('head/kernel', (channels, macro.outputs))
  bias_v = graph.param('head/bias', (macro.outputs,))
  graph_lib.affine(graph, 'head', x, kernel_cv, bias_v, 'logits')
  graph.add('logits_lengths', 'Identity', lengths)


def _layer(graph, name, macro, x, channels, valid, window):
  """Writes a convolution, ReLU and layer normalisation down.

  `window` are kernel, stride, dilation and left of `graph.unfolded`.
  """
  kernel, width = window[0], macro.width
  kernel_kcn = graph.param(f'{name}/kernel', (kernel, channels, width))
  x = graph_lib.masked(graph, f'{name}/masked', x, valid)
  x = graph_lib.unfolded(graph, name, (x, channels), *window)
  kernel_kn = kernel_kcn.reshape(-1, width)
  bias_n = graph.param(f'{name}/bias', (width,))
  x = graph_lib.affine(graph, name, x, kernel_kn, bias_n)
  x = graph.add(f'{name}/relu', 'Relu', x)
  if macro.epsilon is None:
    return x
  scale, shift = (
    graph.weight(f'{name}/{part}', graph.param(f'{name}/{part}', (width,)))
    for part in ('scale', 'shift')
  )
  return graph.add(
    f'{name}/norm',
    'LayerNormalization',
    *(x, scale, shift),
    axis=-1,
    epsilon=macro.epsilon,
  )
