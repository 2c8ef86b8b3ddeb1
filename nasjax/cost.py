"""Parameters and multiply-accumulates of a network, by formula."""

import numpy as np

from nasjax import taps


def _op_params(name, width, groups):
  if name == 'linear':
    return width * width + width
  if name in taps.CONVOLUTIONS:
    kernel, _ = taps.CONVOLUTIONS[name]
    return kernel * width * (width // groups) + width
  return 0


def params(space, arch, macro):
  """Counts trainable parameters.

  Every node's operation counts, reachable or not, because the networks
  allocate them all; one bias vector in the LSTM, as the published counts have.

  Args:
    space: search space.
    arch: one architecture of `space`, in any form that `space.parse` takes.
    macro: `models.Macro`.

  Returns:
    int. 26,338,848 for [[1,0],[1,0,0],[1,0,0,0]] on `models.NB_ASR`.
  """
  names = space.main_ops(space.parse(arch))
  total, channels = 0, macro.features
  for width, cells in zip(macro.filters, macro.cells, strict=True):
    total += macro.kernel * channels * width + width + 2 * width
    in_cell = sum(_op_params(name, width, macro.groups) for name in names)
    total += cells * (in_cell + 2 * width)
    channels = width
  if macro.lstm:
    total += 4 * macro.lstm * (channels + macro.lstm + 1)
    channels = macro.lstm
  return total + channels * macro.outputs + macro.outputs


def macs(space, arch, macro, frames=200):
  """Counts multiply-accumulates of one forward pass.

  Counted: products with weights (block convolutions, cell operations, both
  LSTM matrices, the output layer). Not counted: biases, activations, skips,
  normalisation. Padding frames of convolutions count, as they are computed.

  Args:
    space, arch, macro: as in `params`.
    frames: input frames, 10 ms each.

  Returns:
    int.
  """
  if isinstance(frames, bool) or not isinstance(frames, (int, np.integer)):
    raise ValueError(f'frames is {frames!r}; want a whole number')
  if frames < 1:
    raise ValueError(f'frames is {frames}; want at least 1')
  names = space.main_ops(space.parse(arch))
  total, channels = 0, macro.features
  for width, cells, stride in zip(
    macro.filters, macro.cells, macro.strides, strict=True
  ):
    frames = -(-frames // stride)
    total += frames * macro.kernel * channels * width
    # Without its bias, an operation uses each parameter once a frame.
    in_cell = sum(
      max(0, _op_params(name, width, macro.groups) - width) for name in names
    )
    total += cells * frames * in_cell
    channels = width
  if macro.lstm:
    total += frames * 4 * macro.lstm * (channels + macro.lstm)
    channels = macro.lstm
  return int(total + frames * channels * macro.outputs)


def leaves(tree):
  """Counts the elements of a parameter tree."""
  if isinstance(tree, dict):
    return sum(leaves(child) for child in tree.values())
  return int(np.size(tree))
