"""What time-delay networks cost, by formula."""

from nasjax.models.st_nas import network as tdnn


def _taps(space, arch, macro):
  """Taps of all layers in order, the subsampling one among them."""
  taps = [tdnn.TAPS[name] for name in space.main_ops(arch)]
  taps.insert(macro.before, macro.subsampling)
  return taps


def params(space, arch, macro):
  """Counts trainable parameters; see `cost.params`."""
  total, channels = 0, macro.features
  for count in _taps(space, arch, macro):
    total += macro.width * (channels * count + 3)  # bias, scale and shift
    channels = macro.width
  return total + (channels + 1) * macro.outputs


def macs(space, arch, macro, frames):
  """Counts multiply-accumulates; see `cost.macs`."""
  total, channels = 0, macro.features
  for n, count in enumerate(_taps(space, arch, macro)):
    if n == macro.before:
      frames = macro.output_frames(frames)
    total += frames * count * channels * macro.width
    channels = macro.width
  return total + frames * channels * macro.outputs
