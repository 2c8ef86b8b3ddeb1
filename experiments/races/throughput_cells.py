"""What the throughput race runs: cells, populations, batches, FLOPs.

`cells` names the cell that a population is made of: 'linear' (three linear
operations, no skips), 'conv' (three convolutions of five taps, all skips: the
one for which nasjax, whose populations read the taps of all four convolutions,
wastes most) or 'mixture' (two convolutions and a linear one, half the skips).
`population` says how:

- single: that cell, one member.
- seeds: copies of that cell with weights of their own and three data streams.
- signature: different cells of its signature, the convolutions and skips drawn.
- mixed: cells drawn from the whole space, zero operations as they come, so of
  several signatures; named 'mixture', although that cell has no part in it.
"""

from typing import NamedTuple

import numpy as np

from nasjax import cells as cells_lib
from nasjax import cost, spaces
from nasjax.models import macros
from nasjax.training import recipes

SPACE = spaces.NB_ASR
MACROS = {'full': macros.NB_ASR, 'small': macros.SMALL, 'tiny': macros.TINY}
CELLS = {
  'linear': [[0, 0], [0, 0, 0], [0, 0, 0, 0]],
  'conv': [[1, 1], [1, 1, 1], [1, 1, 1, 1]],
  'mixture': [[3, 1], [1, 0, 1], [0, 1, 0, 1]],
}
POPULATIONS = ('single', 'seeds', 'signature', 'mixed')
ENGINES = ('nasjax', 'loop', 'torch')
FRAMES_A_LABEL = 10
_DRAW = 1  # the first whose first two mixed cells differ in signature


class Race(NamedTuple):
  """One line of the result: an engine and what it trains."""

  engine: str
  width: str
  cells: str
  population: str
  members: int


def recipe(batch):
  """Dropout, clipping and Adam as in the paper; without L2."""
  return recipes.Recipe(
    'throughput',
    1,
    batch=batch,
    batch_long=batch,
    buckets=1,
    l2=0.0,
    curriculum=(),
  )


def archs(cells, population, members):
  """Returns the architectures of a population, int8 [members, 9].

  A smaller population is the beginning of a larger one.

  Raises:
    ValueError: there are not so many cells of the kind.
  """
  base = SPACE.parse(CELLS[cells])
  if population in ('single', 'seeds'):
    return np.stack([base] * members)
  archs_pd = SPACE.enumerate()
  if population == 'signature':
    names_o = ['conv' if 'conv' in name else name for name in SPACE.ops]
    kind_o = np.unique(names_o, return_inverse=True)[1]
    kinds_pn = kind_o[archs_pd[:, SPACE.op_positions]]
    same_p = (kinds_pn == kind_o[base[list(SPACE.op_positions)]]).all(1)
    archs_pd = archs_pd[same_p]
  if members > len(archs_pd):
    raise ValueError(
      f'a population of {members} {cells} cells ({population}): there are only '
      f'{len(archs_pd)}; lower --populations'
    )
  order_p = np.random.default_rng(_DRAW).permutation(len(archs_pd))
  return archs_pd[order_p[:members]]


def groups(archs_pd):
  """Returns the members of each signature, as lists of places in archs_pd."""
  found = {}
  for p, arch in enumerate(archs_pd):
    found.setdefault(cells_lib.signature(SPACE, arch), []).append(p)
  return list(found.values())


def utterances(macro, batch, frames, steps):
  """Random features and transcripts of `steps` batches.

  Returns:
    x_utf float32 and labels_ul int32, u = steps * batch.
  """
  rng = np.random.default_rng(1)
  count = steps * batch
  x_utf = rng.normal(size=(count, frames, macro.features)).astype(np.float32)
  labels = max(1, frames // FRAMES_A_LABEL)
  return x_utf, rng.integers(1, macro.outputs, (count, labels), np.int32)


def flops(archs_pd, macro, batch, frames):
  """Floating-point operations of a training step and member, on average.

  Those of the model (`cost.macs`), two for each multiply-accumulate, thrice:
  forward, gradient of the inputs, gradient of the weights. What an engine
  computes beyond them does not count.
  """
  macs_p = [cost.macs(SPACE, arch, macro, frames) for arch in archs_pd]
  return 6 * batch * float(np.mean(macs_p))
