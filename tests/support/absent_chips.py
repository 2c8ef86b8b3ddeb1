"""Programs for TPUs that are not there, in a process with their compiler.

  python absent_chips.py

Prints as JSON what the tests ask about them.
"""

import json
import os

from nasjax.programs import chips

os.environ |= chips.environment('v5e')
os.environ['NASJAX_KERNELS'] = 'xla'

import compilers  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import tiny_corpus  # noqa: E402
from jax.experimental import pallas as pl  # noqa: E402

from nasjax.benchmark import running  # noqa: E402
from nasjax.programs import costs as program_costs
from nasjax.programs import memory
from nasjax.training import population

TOPOLOGIES = ('v4', 'v5e', 'v5e:4x4', 'v5p', 'v5p:2x2x2', 'v6e')
WRONG = {'v5e:3x3': None, 'v5e:2x2': 9, 'v5e:bus': None}
CELL = [[2, 1], [0, 1, 1], [5, 0, 1, 1]]


def _devices():
  found = {}
  for topology in TOPOLOGIES:
    devices = chips.devices(topology)
    mesh = jax.sharding.Mesh(devices, 'all')
    found[topology] = {
      'devices': len(devices),
      'chip': chips.of(devices[0]).name,
      'there': chips.is_there(mesh),
      'free': memory.free(mesh),
    }
  return found


def _refusals():
  found = {}
  for topology, wanted in WRONG.items():
    try:
      chips.devices(topology, wanted)
    except ValueError as e:
      found[topology] = str(e)
  return found


def _runner(devices, data):
  """The training program of a shard, as on devices that are there."""
  mesh = population.member_mesh(chips.devices('v5e', devices), data)
  prepared = running.device_corpus(
    tiny_corpus.corpus(), tiny_corpus.RECIPE, mesh
  )
  shard = tiny_corpus.shard([(CELL, seed) for seed in range(4)])
  compiled = running.Trainer(tiny_corpus.job(), shard, prepared).compiled()
  return {
    'bytes': memory.program_bytes(compiled),
    'hbm': program_costs.hbm_bytes(compiled.as_text()),
    'collectives': program_costs.collectives(compiled.as_text()),
  }


def _traffic():
  """A loop over an array that VMEM has no room for."""

  def run(x, y):
    body = lambda i, c: jnp.sin(c) * y  # noqa: E731
    return jax.lax.fori_loop(0, compilers.TURNS, body, x)

  sharding = jax.sharding.SingleDeviceSharding(chips.devices('v5e')[0])
  shape = jax.ShapeDtypeStruct(
    (compilers.SIZE, compilers.SIZE), jnp.float32, sharding=sharding
  )
  compiled = jax.jit(run, donate_argnums=0).lower(shape, shape).compile()
  return program_costs.hbm_bytes(compiled.as_text())


def _kernel():
  """A kernel that asks for the device's kind, under `jax.set_mesh`."""

  def kernel(x_ref, y_ref):
    y_ref[...] = jnp.sum(x_ref[...], 0)

  call = pl.pallas_call(
    kernel,
    out_shape=jax.ShapeDtypeStruct((512,), jnp.float32),
    grid=(4,),
    in_specs=[pl.BlockSpec((8, 128), lambda i: (0, i))],
    out_specs=pl.BlockSpec((128,), lambda i: (i,)),
  )
  mesh = jax.sharding.Mesh(chips.devices('v5e', 1), 'all')
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  shape = jax.ShapeDtypeStruct((8, 512), jnp.float32, sharding=sharding)
  with jax.set_mesh(mesh):
    text = jax.jit(call).lower(shape).compile().as_text()
  return 'tpu_custom_call' in text


def main():
  print(
    json.dumps(
      {
        'devices': _devices(),
        'refusals': _refusals(),
        'one': _runner(1, 1),
        'shared': _runner(4, 2),
        'traffic': _traffic(),
        'kernel': _kernel(),
      }
    )
  )


if __name__ == '__main__':
  main()
