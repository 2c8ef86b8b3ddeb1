"""What the networks of DARTS-ASR and VGG cost, by formula.

Running statistics are no parameters: no gradient trains them.
"""

from nasjax.models.darts_asr import trunk, vgg
from nasjax.spaces.darts_asr import CONVOLUTIONS


def _halved(size, times):
  for _ in range(times):
    size = -(-size // 2)
  return size


def _taps(name):
  return CONVOLUTIONS[name][0] ** 2 if name in CONVOLUTIONS else 0


def _layer(taps, inputs, outputs):
  """Parameters of a convolution, its bias and its batch normalisation."""
  return taps * inputs * outputs + 3 * outputs if taps else 0


def _stem(macro, width):
  return (macro.stride**2 + 1) * width


def params(space, arch, macro):
  """Counts trainable parameters; see `cost.params`."""
  width = macro.width
  total = _stem(macro, width)
  for name in space.names_of_choices(arch):
    total += _layer(_taps(name), width, width)
  height = -(-macro.features // macro.stride)
  return total + trunk.params(macro, height * space.nodes * width)


def macs(space, arch, macro, frames):
  """Counts multiply-accumulates; see `cost.macs`."""
  width = macro.width
  frames, height = (
    macro.output_frames(frames),
    macro.output_frames(macro.features),
  )
  each = macro.stride**2 * width
  each += sum(_taps(n) * width**2 for n in space.names_of_choices(arch))
  total = frames * height * each
  return total + trunk.macs(macro, height * space.nodes * width, frames)


def vgg_params(space, arch, macro):
  """Counts trainable parameters; see `cost.params`."""
  (name,) = space.names_of_choices(arch)
  width = vgg.width(macro, name)
  strided = macro.stride > 1
  total = _stem(macro, width) if strided else 0
  total += _layer(9, width if strided else 1, width)
  total += 3 * _layer(9, width, width)
  height = _halved(-(-macro.features // macro.stride), 2)
  return total + trunk.params(macro, height * width)


def vgg_macs(space, arch, macro, frames):
  """Counts multiply-accumulates; see `cost.macs`."""
  (name,) = space.names_of_choices(arch)
  width, stride = vgg.width(macro, name), macro.stride
  frames, height = -(-frames // stride), -(-macro.features // stride)
  total = 0
  inputs = 1
  if stride > 1:
    total += frames * height * stride**2 * width
    inputs = width
  for n in range(4):
    total += frames * height * 9 * inputs * width
    inputs = width
    if n % 2:
      frames, height = -(-frames // 2), -(-height // 2)
  return total + trunk.macs(macro, height * width, frames)
