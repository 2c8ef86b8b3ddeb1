"""What the networks of NB-ASR cost, by formula."""

from nasjax.kernels import taps
from nasjax.models.nb_asr import ops


def _op_params(name, width, groups):
  if name in ops.OWN:
    return ops.OWN[name].count(width, groups)
  if name == 'linear':
    return width * width + width
  if name in taps.CONVOLUTIONS:
    kernel, _ = taps.CONVOLUTIONS[name]
    return kernel * width * (width // groups) + width
  return 0


def _op_macs(name, width, groups):
  """Multiply-accumulates of an operation in a frame."""
  if name in ops.OWN:
    return ops.OWN[name].products(width, groups)
  # Without its bias, an operation uses each parameter once a frame.
  return max(0, _op_params(name, width, groups) - width)


def params(space, arch, macro):
  """Counts trainable parameters; see `cost.params`."""
  names = space.main_ops(arch)
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


def macs(space, arch, macro, frames):
  """Counts multiply-accumulates; see `cost.macs`."""
  names = space.main_ops(arch)
  total, channels = 0, macro.features
  for width, cells, stride in zip(
    macro.filters, macro.cells, macro.strides, strict=True
  ):
    frames = -(-frames // stride)
    total += frames * macro.kernel * channels * width
    in_cell = sum(_op_macs(name, width, macro.groups) for name in names)
    total += cells * frames * in_cell
    channels = width
  if macro.lstm:
    total += frames * 4 * macro.lstm * (channels + macro.lstm)
    channels = macro.lstm
  return total + frames * channels * macro.outputs
