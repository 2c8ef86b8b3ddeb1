"""How many networks stand on a device: as many as there is memory for.

Two numbers. A shard's networks have their states on the devices, as many as
memory holds. On an accelerator some of them run as one program and the others
wait for their turn: what one network fills gains nothing from a second one,
while narrow networks would leave it idle (experiments/PERFORMANCE.md). Which
networks make a shard is not decided here, but by the plan.
"""

from typing import NamedTuple

import jax
import numpy as np

from nasjax import cost
from nasjax.programs import chips, memory
from nasjax.programs import costs as program_costs
from nasjax.training import offloading
from nasjax.training.trainer import Trainer, padded

# The rest is for what no analysis of a program tells: fragments, the decoder,
# buffers of checkpoints on their way to the disk.
_SHARE = 0.8
# Twice as many at a time must be better by this share of a member's time.
_GAIN = 0.05
# Seconds from one kernel of a program to the next, roughly.
_LAUNCH = {'tpu': 1e-6, 'gpu': 3e-6}
# Of a device whose numbers are not known only the proportions matter.
_LIKE = {'tpu': 'v5e', 'gpu': 'h100'}


class Step(NamedTuple):
  """What a training step costs on a device, by the program's text.

  Attributes:
    members: that the program trains.
    checkpoint: whether cells are computed again for their gradient.
    seconds: least time: of products at the chip's peak or of memory at its
      bandwidth, whichever is longer, and of starting each kernel.
    flops: of a step of all of them.
    hbm_bytes: that it moves.
    launches: kernels that it starts.
    temp_bytes: temporaries.
  """

  members: int
  checkpoint: bool
  seconds: float
  flops: float
  hbm_bytes: float
  launches: float
  temp_bytes: int


class Size(NamedTuple):
  """A choice.

  Attributes:
    members: networks of the largest shard.
    fitting: those whose states stand on the devices, padding included.
    needed: bytes that they take on each device; twice what is free where even
      the compiler found no room.
    free: bytes that each device had.
    together: networks that run as one program, a multiple of the devices.
    steps: for all that was tried, `Step`; empty on CPUs.
    checkpoint: whether cells are computed again for their gradient.
  """

  members: int
  fitting: int
  needed: int
  free: int
  together: int
  steps: tuple = ()
  checkpoint: bool = True

  def __str__(self):
    needed, free = (n / 1e9 for n in (self.needed, self.free))
    turns = ''
    if self.together < self.members:
      turns = f', {self.together} at a time'
    return (
      f'{self.members} members a shard{turns} '
      f'({needed:.2g} GB of {free:.2g} GB free)'
    )


def choose(job, shards, prepared, together=None):
  """Chooses how many networks of a shard stand on the devices.

  The training program of the largest shard is compiled without a population to
  run on; it is the one that runs afterwards. If it needs more than most of the
  free memory, some networks wait outside.

  Args:
    job: `running.Job`.
    shards: those that are to be trained.
    prepared: of `running.device_corpus`.
    together: networks of a device that one program trains; by the compiler's
      figures if not given.

  Returns:
    `Size`. The least that there can be is chosen even if it does not fit.
  """
  mesh = prepared.mesh
  devices, on_cpu = mesh.shape['member'], _platform(prepared) == 'cpu'
  free = memory.free(mesh)
  shard = max(shards, key=lambda s: (s.size, _weight(job, s)))
  fitting = whole = padded(shard.size, mesh)
  group, steps = whole, ()
  if not on_cpu:
    if together is None:
      together, steps = members_at_once(job, shard, prepared, free)
    group = min(together * devices, whole)
  while True:
    part = offloading.cut(shard, group)[0]
    # Who waits outside stands on the host, and a CPU is its own host.
    held = whole if on_cpu else fitting
    bytes_needed = _attempt(job, part, prepared, free, held)
    if bytes_needed <= _SHARE * free or fitting <= devices:
      size = Size(shard.size, fitting, bytes_needed, free, group, steps)
      return _without_checkpoint(job, shard, prepared, size)
    if group == fitting:
      most = min(int(fitting * _SHARE * free / bytes_needed), fitting - devices)
      group = _in_turns(shard.size, most, mesh)
    fitting = group


def _in_turns(members, most, mesh):
  """Returns how many of `members` at most so many take turns, all alike."""
  devices = mesh.shape['member']
  most = max(most // devices, 1) * devices
  return padded(-(-members // -(-members // most)), mesh)


def _without_checkpoint(job, shard, prepared, size):
  """Keeps what cells compute where that is faster and there is room for it."""
  if not size.steps:
    return size
  part = offloading.cut(shard, size.together)[0]
  trainer = Trainer(job, part, prepared, checkpoint=False)
  if trainer.network == Trainer(job, part, prepared).network:
    return size  # it has no form in which cells could be computed again
  try:
    step = step_of(trainer, trainer.compiled())
    bytes_needed = needed(trainer, size.fitting)
  except (MemoryError, RuntimeError) as e:
    if not memory.exhausted(e):
      raise
    return size
  size = size._replace(steps=(*size.steps, step))
  before = next(s for s in size.steps if s.members == step.members)
  slower = step.seconds > (1 - _GAIN) * before.seconds
  if slower or bytes_needed > _SHARE * size.free:
    return size
  return size._replace(needed=bytes_needed, checkpoint=False)


def members_at_once(job, shard, prepared, free):
  """Returns how many members a device of an accelerator should map.

  Their number is doubled as long as that makes a member's least time shorter
  and the program fits.

  Args:
    job: `running.Job`.
    shard: the heaviest.
    prepared: of `running.device_corpus`.
    free: bytes of a device.

  Returns:
    the number, and the `Step` of each one tried, the last one of which may be
    one too many.
  """
  devices = prepared.mesh.shape['member']
  best, tried = 1, []
  size = 1
  while True:
    part = offloading.cut(shard, size * devices)[0]
    try:
      trainer = Trainer(job, part, prepared)
      compiled = trainer.compiled()
    except (MemoryError, RuntimeError) as e:
      if not memory.exhausted(e):
        raise
      return best, tuple(tried)
    tried.append(step_of(trainer, compiled))
    if memory.program_bytes(compiled) > _SHARE * free:
      return best, tuple(tried)
    if len(tried) > 1:
      before, now = (s.seconds / s.members for s in tried[-2:])
      if now > (1 - _GAIN) * before:
        return best, tuple(tried)
    best = size
    if size * devices >= shard.size:
      return best, tuple(tried)
    size *= 2


def step_of(trainer, compiled):
  """Returns the `Step` of a trainer's training program, on each device.

  Args:
    trainer: `running.Trainer`.
    compiled: what its `compiled` returned.
  """
  platform = _platform(trainer.prepared)
  try:
    chip = chips.of(trainer.prepared.mesh)
  except ValueError:
    chip = chips.chip(_LIKE[platform])
  text = compiled.as_text()
  flops = trainer.flops()
  moved = program_costs.a_step(program_costs.hbm_bytes, text)
  launches = program_costs.a_step(program_costs.launches, text)
  seconds = launches * _LAUNCH[platform] + max(
    flops / chip.bf16_flops_per_second, moved / chip.hbm_bytes_per_second
  )
  members = trainer.size // trainer.prepared.mesh.shape['member']
  temporaries = compiled.memory_analysis().temp_size_in_bytes
  return Step(
    *(members, trainer.network.checkpoint, seconds),
    *(flops, moved, launches, temporaries),
  )


def _platform(prepared):
  return prepared.mesh.devices.flat[0].platform


def _weight(job, shard):
  return cost.params(job.space, np.array(shard.members[0][0]), job.macro)


def _attempt(job, part, prepared, free, members):
  """Bytes for `members`, of which `part` trains at a time; see `needed`."""
  try:
    return needed(Trainer(job, part, prepared), members)
  except (MemoryError, RuntimeError) as e:
    # Compilers for accelerators try kernels out, and need room for that.
    if not memory.exhausted(e):
      raise
    return 2 * free


def needed(trainer, members=None):
  """Bytes that training takes on each device, beside the corpus in place.

  Args:
    trainer: of the members that train at a time.
    members: all whose states are on the devices, or, where these are CPUs, on
      the host; the trainer's if not given.
  """
  mesh = trainer.prepared.mesh
  shapes = trainer.shapes()
  size = {
    name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    for name, tree in (('all', shapes), ('best', shapes.params))
  }
  total = memory.program_bytes(trainer.compiled())
  in_place = (trainer.prepared.train.example(), trainer.prepared.constants)
  total -= sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(in_place)
  )
  total += size['best'] // mesh.shape['member']
  held = int((members or trainer.size) / trainer.size * sum(size.values()))
  total += (held - sum(size.values())) // mesh.shape['member']
  if mesh.devices.flat[0].platform == 'cpu':
    # The checkpoint: gathered from the devices, and copied.
    total += 2 * held // mesh.size
  return total
