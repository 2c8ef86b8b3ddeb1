"""Parameters and multiply-accumulates of a network.

By the formulas of its family, or counted where that brings none.
"""

import numpy as np

from nasjax.models import counting, families


def params(space, arch, macro):
  """Counts trainable parameters.

  Every node's operation counts, reachable or not, because the networks
  allocate them all; one bias vector in the LSTM, as the published counts have.

  Args:
    space: search space.
    arch: one architecture of `space`, in any form that `space.parse` takes.
    macro: macro network of the space (`families.MACROS`).

  Returns:
    int. 26,338,848 for [[1,0],[1,0,0],[1,0,0,0]] on `models.NB_ASR`, 7,662,792
    for `spaces.TDNN_D` on `macros.ST_NAS`.

  Raises:
    ValueError: the macro network is of another space.
  """
  families.check(space, macro)
  count = families.family(space).params or counting.params
  return int(count(space, space.parse(arch), macro))


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
  families.check(space, macro)
  count = families.family(space).macs or counting.macs
  return int(count(space, space.parse(arch), macro, frames))


def leaves(tree):
  """Counts the elements of a parameter tree."""
  if isinstance(tree, dict):
    return sum(leaves(child) for child in tree.values())
  return int(np.size(tree))
