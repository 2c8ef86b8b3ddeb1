"""Which frames the convolutions of NB-ASR read; plain Python, no JAX.

With context 4, a layer looks ahead at most 4 input frames and takes the rest of
its reach from the past; outputs have ceil(T / stride) frames.
"""

import numpy as np

CONTEXT = 4
CONVOLUTIONS = {
  'conv5': (5, 1),
  'conv5d2': (5, 2),
  'conv7': (7, 1),
  'conv7d2': (7, 2),
}
MAX_TAPS = 7


def reach(kernel, dilation=1, stride=1):
  """Returns (left, right) padding of a convolution, in input frames."""
  span = kernel * dilation - stride
  if CONTEXT // stride >= span:
    return 0, span
  right = CONTEXT // stride
  return (kernel - 1) * dilation - right, right


def offsets(op):
  """Returns the time offsets that a grouped convolution reads, in frames."""
  kernel, dilation = CONVOLUTIONS[op]
  left, _ = reach(kernel, dilation)
  return tuple(k * dilation - left for k in range(kernel))


# All four convolutions read some of these ten frames: a program that reads
# them all serves a population in which every member has its own convolution.
UNION = tuple(sorted({o for op in CONVOLUTIONS for o in offsets(op)}))


def placement(op):
  """Returns float32 [10, 7]: 1 where tap k of `op` reads offset UNION[u]."""
  place_uk = np.zeros((len(UNION), MAX_TAPS), np.float32)
  if op in CONVOLUTIONS:
    for k, offset in enumerate(offsets(op)):
      place_uk[UNION.index(offset), k] = 1
  return place_uk
