"""How many networks to train together: as many as there is memory for."""

from typing import NamedTuple

import jax
import numpy as np

from nasjax import cost, memory, runs
from nasjax.runner import Runner

# Larger populations are hardly faster, and delay checkpoints: on a CPU, where
# members take turns, sooner than on an accelerator.
MOST = {'cpu': 8}
MOST_ELSEWHERE = 64
# The rest is for what no analysis of a program tells: fragments, the decoder,
# buffers of checkpoints on their way to the disk.
_SHARE = 0.8


class Size(NamedTuple):
  """A choice.

  Attributes:
    members: networks of a shard.
    needed: bytes that they take on each device; twice what is free where even
      the compiler found no room.
    free: bytes that each device had.
  """

  members: int
  needed: int
  free: int

  def __str__(self):
    needed, free = (n / 1e9 for n in (self.needed, self.free))
    return (
      f'{self.members} members a shard ({needed:.2g} GB of {free:.2g} GB free)'
    )


def choose(job, members, prepared, most=None):
  """Chooses the number of networks of a shard.

  The training program of the largest shard is compiled without a population to
  run on; it is the one that runs afterwards. If it needs more than most of the
  free memory, the shards shrink.

  Args:
    job: `runs.Job`.
    members: pairs of architecture and seed.
    prepared: of `runs.prepare`.
    most: upper bound, beside that of the kind of device.

  Returns:
    `Size`. The smallest shard there can be is chosen even if it does not fit.
  """
  devices = prepared.mesh.shape['member']
  platform = prepared.mesh.devices.flat[0].platform
  limit = MOST.get(platform, MOST_ELSEWHERE) * devices
  limit = min(limit, most or limit)
  free = memory.free(prepared.mesh)
  while True:
    shards = runs.plan(job, members, limit, devices)
    shard = max(shards, key=lambda s: (s.size, _weight(job, s)))
    try:
      needed = _needed(Runner(job, shard, prepared))
    except (MemoryError, RuntimeError) as e:
      # Compilers for accelerators try kernels out, and need room for that.
      if not memory.exhausted(e):
        raise
      needed = 2 * free
    if needed <= _SHARE * free or shard.size <= devices:
      return Size(shard.size, needed, free)
    fitting = int(shard.size * _SHARE * free / needed)
    limit = max(devices, min(fitting, shard.size - devices))


def _weight(job, shard):
  return cost.params(job.space, np.array(shard.members[0][0]), job.macro)


def _needed(runner):
  """Bytes that training takes on each device, beside the corpus in place."""
  mesh = runner.prepared.mesh
  shapes = runner.shapes()
  size = {
    name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    for name, tree in (('all', shapes), ('best', shapes.params))
  }
  needed = memory.program_bytes(runner.compiled())
  in_place = (runner.prepared.train, runner.prepared.denominator)
  needed -= sum(leaf.nbytes for leaf in jax.tree.leaves(in_place))
  needed += size['best'] // mesh.shape['member']
  if mesh.devices.flat[0].platform == 'cpu':
    # The checkpoint: gathered from the devices, and copied.
    needed += 2 * sum(size.values()) // mesh.size
  return needed
