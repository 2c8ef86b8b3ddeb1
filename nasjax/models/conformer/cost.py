"""What conformer-like encoders cost, by formula.

Running statistics are no parameters: no gradient trains them.
"""

from nasjax.models.conformer.layer import hidden
from nasjax.spaces import conformer as spaces


def _dense(inputs, outputs):
  """A product and its bias."""
  return (inputs + 1) * outputs


def params(space, arch, macro):
  """Counts trainable parameters; see `cost.params`."""
  width = macro.width
  norm = 2 * width
  total = _dense(macro.features * macro.stacked, width)
  for layer in spaces.layers(space, arch):
    if layer is None:
      continue
    wide = hidden(layer, macro)
    total += norm + _dense(width, wide) + _dense(wide, width)
    if layer.heads:
      inner = layer.heads * macro.head
      total += norm + 3 * _dense(width, inner) + _dense(inner, width)
    if layer.kernel:
      total += 2 * norm + _dense(width, 2 * width) + _dense(width, width)
      total += layer.kernel * width
  return total + norm + _dense(width, macro.outputs)


def macs(space, arch, macro, frames):
  """Counts multiply-accumulates; see `cost.macs`.

  Those of frames with each other, in attention, too: of all pairs, for that is
  what is computed in any mode.
  """
  width = macro.width
  frames = -(-frames // macro.stacked)
  total = frames * macro.features * macro.stacked * width
  place = spaces.downsample(space, arch)
  for number, layer in enumerate(spaces.layers(space, arch), 1):
    if number == place:
      frames = -(-frames // 2)
    if layer is None:
      continue
    each = 2 * width * hidden(layer, macro)
    if layer.heads:
      each += layer.heads * macro.head * (4 * width + 2 * frames)
    if layer.kernel:
      each += width * (3 * width + layer.kernel)
    total += frames * each
  if place > macro.blocks:
    frames = -(-frames // 2)
  return total + frames * width * macro.outputs
