"""One run on meshes of several shapes, in a process with four CPU devices.

  python mesh_runs.py OUT

Trains the same shard on every mesh of `MESHES`, each into OUT/<members>x<data>,
and evaluates the weights of the first on one, two and four devices that share
batches, into OUT/<devices>.npz.
"""

import dataclasses
import os
import pathlib
import sys

import jax
import numpy as np
import tiny_corpus

from nasjax.benchmark import running
from nasjax.training import initial, population

# Devices over which members are spread, and those that share a batch.
MESHES = ((1, 1), (4, 1), (2, 2), (1, 4))
EVALUATED = (1, 2, 4)
# Two streams; three members fill neither two devices nor four.
MEMBERS = [
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 7),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 9),
]
# 18 utterances in batches of 5, the last with two empty rows; five rows divide
# neither among two devices nor among four, where the last gets none at all.
RECIPE = tiny_corpus.variant(name='mesh', batch=5, batch_long=5, lr=5e-3)


def place(out, mesh):
  """The directory of a run."""
  return pathlib.Path(out) / 'x'.join(map(str, mesh))


def main():
  jax.config.update('jax_num_cpu_devices', 4)
  jax.config.update(
    'jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE']
  )
  job = tiny_corpus.job(RECIPE)
  for members, data in MESHES:
    mesh = population.member_mesh(jax.devices()[: members * data], data)
    prepared = running.device_corpus(tiny_corpus.corpus(), RECIPE, mesh)
    for shard in running.plan(job, MEMBERS, 4):
      running.run_shard(
        job, shard, prepared, place(sys.argv[1], (members, data))
      )
  weights = initial.Initial(
    place(sys.argv[1], (1, 1)), job.space, job.macro, MEMBERS
  )
  weights.take(job.macro, RECIPE, tiny_corpus.SYMBOLS)
  for devices in EVALUATED:
    mesh = population.member_mesh(jax.devices()[:devices], devices)
    prepared = running.device_corpus(tiny_corpus.corpus(), RECIPE, mesh)
    trainer = running.Trainer(
      dataclasses.replace(job, initial=weights), shard, prepared
    )
    params_p = trainer.initial().members.params
    loss_p, per_p = trainer.evaluate(params_p, 'validation')
    test_loss_p, test_per_p, edits_pk, _ = trainer.test(params_p)
    np.savez(
      pathlib.Path(sys.argv[1], f'{devices}.npz'),
      loss=np.stack([loss_p, test_loss_p]),
      rate=np.stack([per_p, test_per_p]),
      edits=edits_pk,
    )


if __name__ == '__main__':
  main()
