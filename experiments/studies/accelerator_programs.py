"""Training programs compiled for chips that are not there, and their costs."""

import importlib.metadata
import itertools
import re
import time
from typing import NamedTuple

import jax
import numpy as np

from nasjax import cost, spaces
from nasjax.data import batching
from nasjax.models import families, macros
from nasjax.programs import chips, memory
from nasjax.programs import costs as program_costs
from nasjax.training import population, recipes

SPACE = spaces.NB_ASR
# Operations of the three nodes; all cells have all skips.
CELLS = {
  'conv': ('conv5d2', 'conv5d2', 'conv5d2'),
  'linear': ('linear', 'linear', 'linear'),
  'mixture': ('conv5d2', 'linear', 'conv5d2'),
  'mixture_zero': ('conv5d2', 'zero', 'linear'),
}
SIGNATURES = {
  '+'.join(name.removesuffix('5d2') for name in names): names
  for names in itertools.product(('linear', 'conv5d2', 'zero'), repeat=3)
}
# As many as TIMIT trains on: a smaller corpus would stay in a TPU's VMEM.
UTTERANCES = 3696


class Job(NamedTuple):
  """One line of the result.

  Attributes:
    topology: of `chips.devices`.
    macro: name of the macro network.
    cells: of `CELLS` or `SIGNATURES`.
    members: networks of a device that are mapped at a time.
    batch, frames, labels: of the padded batch.
    precision: of the recipe.
    devices: over which the program is spread.
    data_devices: among which each batch is divided.
    checkpoint: whether cells are computed again for their gradient.
  """

  topology: str
  macro: str
  cells: str
  members: int
  batch: int
  frames: int
  labels: int
  precision: str
  devices: int
  data_devices: int
  checkpoint: bool = True


def arch(name):
  """Returns the architecture of a name in `CELLS` or `SIGNATURES`."""
  names = (CELLS | SIGNATURES)[name]
  places = [SPACE.ops.index(op) for op in names]
  return SPACE.parse([[op] + [1] * (n + 1) for n, op in enumerate(places)])


def prepare(job):
  """Returns network, programs of a job, and the shapes of its arguments.

  It is that of a run: members that train together on every device, while the
  state of others waits there; one bucket, the recipe of the paper.
  """
  mesh = population.member_mesh(
    chips.devices(job.topology, job.devices), job.data_devices
  )
  recipe = recipes.Recipe(
    'compiled',
    1,
    batch=job.batch,
    batch_long=job.batch,
    buckets=1,
    curriculum=(),
    precision=job.precision,
  )
  macro = macros.BY_SPACE['nb_asr'][job.macro]
  network = families.network(
    SPACE,
    arch(job.cells),
    macro,
    recipe,
    mesh.devices.flat[0].platform,
    job.checkpoint,
  )
  buckets = (batching.Bucket(job.frames, job.batch, job.labels),)
  programs = population.programs(network, recipe, buckets, mesh)
  return network, programs, _arguments(job, mesh, recipe, buckets, programs)


def _arguments(job, mesh, recipe, buckets, programs):
  members = job.members * mesh.shape['member']
  gates = families.stack([families.gates(SPACE, arch(job.cells))] * members)
  keys_p = jax.ShapeDtypeStruct((members, 2), np.uint32)
  sharding = population.member_sharding(mesh)

  def spread(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  members_p = jax.eval_shape(programs.init, keys_p, gates)
  rows = (UTTERANCES + 1) * -(-job.frames // population.ROW)
  features = macros.BY_SPACE['nb_asr'][job.macro].features
  data = population.Data(
    np.zeros(
      (rows, population.ROW * features),
      population.features_dtype(recipe, mesh.devices.flat[0].platform),
    ),
    np.zeros(UTTERANCES, np.int32),
    np.zeros(UTTERANCES, np.int32),
    np.zeros((UTTERANCES, job.labels), np.int32),
    np.zeros(UTTERANCES, np.int32),
  )
  steps = -(-UTTERANCES // job.batch)
  plan = batching.Plan(
    np.zeros(steps, np.int32), np.zeros((steps, 1, job.batch), np.int32)
  )
  return (
    jax.tree.map(spread, members_p),
    population.on_members(gates, mesh),
    population.on_members(np.zeros(members, np.int32), mesh),
    population.on_members(np.zeros(members, np.float32), mesh),
    population.on_all(data, mesh),
    population.on_rows(plan, buckets, mesh),
    population.on_all(np.int32(steps), mesh),
    None,
  )


def _flops(job, network, programs, arguments):
  """FLOPs of a training step of one member, on all devices that share it."""
  on_device = program_costs.flops(programs.train, *arguments)
  rows = -(-job.batch // job.data_devices)
  spared = families.spared_flops(
    network, SPACE, arch(job.cells), job.frames, rows
  )
  return (on_device / job.members - spared) * job.data_devices


def row(job):
  """Compiles the program of a job and returns what it costs.

  Returns:
    dict: the job and
    compile_s;
    temp_gb_per_member, temporaries of a device over the members mapped at a
      time;
    args_gb_per_member, the state of training of one: weights, both moments of
      Adam, best weights, padded as they lie on the device;
    corpus_gb, of `UTTERANCES`;
    flops_per_member_step; flops_ratio, that over 6 x `cost.macs` x batch;
    hbm_gb_per_member_step; all devices that share the batch count, here and
      in the FLOPs;
    members_that_fit, whose state stays on a device beside corpus and
      temporaries;
    compute_ms, memory_ms: least time of a step at the chip's peaks;
    roofline_ms, the larger, and bound, which one it is;
    collectives, as in `program_costs`;
    needed_gb of one group of members, free_gb;
    versions.
    Where there is no room, members_that_fit is 0, and what only a compiled
    program tells may be None.
  """
  network, programs, arguments = prepare(job)
  chip = chips.chip(job.topology)
  macro = macros.BY_SPACE['nb_asr'][job.macro]
  macs = cost.macs(SPACE, arch(job.cells), macro, job.frames)
  flops = _flops(job, network, programs, arguments)
  found = job._asdict() | {
    'compile_s': None,
    'temp_gb_per_member': None,
    'args_gb_per_member': None,
    'corpus_gb': None,
    'flops_per_member_step': flops,
    'flops_ratio': flops / (6 * macs * job.batch),
    'hbm_gb_per_member_step': None,
    'members_that_fit': 0,
    'compute_ms': _ms(flops, chip.bf16_flops_per_second, job),
    'memory_ms': None,
    'roofline_ms': None,
    'bound': None,
    'collectives': None,
    'needed_gb': None,
    'free_gb': chip.hbm_bytes / 1e9,
    'versions': versions(),
  }
  started = time.perf_counter()
  try:
    compiled = programs.train.lower(*arguments).compile()
  except RuntimeError as e:
    if not memory.exhausted(e):
      raise
    compiled = None
    found |= shortage(str(e))
  found['compile_s'] = time.perf_counter() - started
  return found | (_costs(job, compiled, found) if compiled else {})


def _costs(job, compiled, found):
  """What a compiled program tells."""
  chip = chips.chip(job.topology)
  told = compiled.memory_analysis()
  text = compiled.as_text()
  members = job.members
  # The results are weights and both moments; the best weights lie beside them.
  state = 4 / 3 * told.output_size_in_bytes / members
  moved = program_costs.a_step(program_costs.hbm_bytes, text)
  moved *= job.data_devices / members
  memory_ms = _ms(moved, chip.hbm_bytes_per_second, job)
  # What is not overwritten: the corpus and the plan.
  corpus = told.argument_size_in_bytes - told.alias_size_in_bytes
  fixed = corpus + told.temp_size_in_bytes
  fitting = max(0, int((chip.hbm_bytes - fixed) // state))
  return {
    'temp_gb_per_member': told.temp_size_in_bytes / 1e9 / job.members,
    'args_gb_per_member': state / 1e9,
    'corpus_gb': corpus / 1e9,
    'hbm_gb_per_member_step': moved / 1e9,
    # Compilers for GPUs let pass what has no room.
    'members_that_fit': fitting if fitting >= job.members else 0,
    'memory_ms': memory_ms,
    'roofline_ms': max(found['compute_ms'], memory_ms),
    'bound': 'compute' if found['compute_ms'] > memory_ms else 'memory',
    'collectives': program_costs.collectives(text),
    'needed_gb': (fixed + job.members * state) / 1e9,
  }


def _ms(amount, per_second, job):
  return 1e3 * amount / per_second / job.data_devices


def shortage(said):
  """Reads needed_gb and free_gb off what a compiler says; None if it doesn't.

  It says G for 2^30 bytes (libtpu 0.0.42).
  """
  factors = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
  sizes = [
    float(number) * factors[unit] / 1e9
    for number, unit in re.findall(r'\b(\d+(?:\.\d+)?)([KMGT])\b', said)
  ]
  if len(sizes) < 2:
    return {'needed_gb': None}
  return {'needed_gb': sizes[0], 'free_gb': sizes[1]}


def versions():
  """Returns the versions of JAX and of the compilers beside it."""
  names = ('jax', 'libtpu', 'jax-cuda12-plugin')
  found = {}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
