"""Parameters and multiply-accumulates of a network, by formula."""

import numpy as np

from nasjax import models, networks, taps, tdnn


def _op_params(name, width, groups):
  if name == 'linear':
    return width * width + width
  if name in taps.CONVOLUTIONS:
    kernel, _ = taps.CONVOLUTIONS[name]
    return kernel * width * (width // groups) + width
  return 0


def _cells_params(names, macro):
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


def _cells_macs(names, macro, frames):
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
  return total + frames * channels * macro.outputs


def _tdnn_taps(names, macro):
  """Taps of all layers in order, the subsampling one among them."""
  taps = [tdnn.TAPS[name] for name in names]
  taps.insert(macro.before, macro.subsampling)
  return taps


def _tdnn_params(names, macro):
  total, channels = 0, macro.features
  for count in _tdnn_taps(names, macro):
    total += macro.width * (channels * count + 3)  # bias, scale and shift
    channels = macro.width
  return total + (channels + 1) * macro.outputs


def _tdnn_macs(names, macro, frames):
  total, channels = 0, macro.features
  for n, count in enumerate(_tdnn_taps(names, macro)):
    if n == macro.before:
      frames = macro.output_frames(frames)
    total += frames * count * channels * macro.width
    channels = macro.width
  return total + frames * channels * macro.outputs


_PARAMS = {models.Macro: _cells_params, tdnn.Macro: _tdnn_params}
_MACS = {models.Macro: _cells_macs, tdnn.Macro: _tdnn_macs}


def params(space, arch, macro):
  """Counts trainable parameters.

  Every node's operation counts, reachable or not, because the networks
  allocate them all; one bias vector in the LSTM, as the published counts have.

  Args:
    space: search space.
    arch: one architecture of `space`, in any form that `space.parse` takes.
    macro: macro network of the space (`networks.MACROS`).

  Returns:
    int. 26,338,848 for [[1,0],[1,0,0],[1,0,0,0]] on `models.NB_ASR`, 7,662,792
    for `spaces.TDNN_D` on `tdnn.ST_NAS`.

  Raises:
    ValueError: the macro network is of another space.
  """
  networks.check(space, macro)
  names = space.main_ops(space.parse(arch))
  return _PARAMS[type(macro)](names, macro)


def macs(space, arch, macro, frames=200):
  """Counts multiply-accumulates of one forward pass.

  Counted: products with weights (convolutions, cell operations, both LSTM
  matrices, the output layer). Not counted: biases, activations, skips,
  normalisation. Padding frames of convolutions count, as they are computed.

  Args:
    space, arch, macro: as in `params`.
    frames: input frames, 10 ms each.

  Returns:
    int.

  Raises:
    ValueError: as in `params`; or `frames` is no whole number from 1 on.
  """
  if isinstance(frames, bool) or not isinstance(frames, (int, np.integer)):
    raise ValueError(f'frames is {frames!r}; want a whole number')
  if frames < 1:
    raise ValueError(f'frames is {frames}; want at least 1')
  networks.check(space, macro)
  names = space.main_ops(space.parse(arch))
  return int(_MACS[type(macro)](names, macro, frames))


def leaves(tree):
  """Counts the elements of a parameter tree."""
  if isinstance(tree, dict):
    return sum(leaves(child) for child in tree.values())
  return int(np.size(tree))
