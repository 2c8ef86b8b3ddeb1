"""A run whose address space is cut, so that the real allocator fails.

  python exhausted_runs.py WHOLE CUT

Trains one shard of four networks twice, in two directories, in batches so large
that the training program needs most of a gigabyte beside its arguments. The
second time, after its first epoch, the process may take no more than 4/5 of
that on top of what it has. Prints a JSON list, for each run: "epochs" that were
told of; "said", the lines about memory.

The programs are compiled before the cut: a compiler that finds no memory ends
the process, as small allocations of XLA's do, too.
"""

import json
import os
import pathlib
import resource
import sys

import jax
import tiny_corpus

from nasjax.benchmark import running
from nasjax.training import offloading, population

BATCH = 4096
MEMBERS = [
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 1),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 1),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 2),
  ([[4, 1], [0, 0, 1], [5, 0, 1, 1]], 2),
]
RECIPE = tiny_corpus.variant(
  name='exhausted', epochs=2, batch=BATCH, batch_long=BATCH
)


def _cut(most):
  """Lets this process take only `most` more bytes."""
  pages = pathlib.Path('/proc/self/statm').read_text().split()[0]
  most += int(pages) * os.sysconf('SC_PAGE_SIZE')
  resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _run(job, shard, prepared, out, most=None):
  said, epochs = [], []

  def on_epoch(progress):
    epochs.append([progress.epoch, progress.resumed])
    if progress.epoch == 1 and most is not None:
      _cut(most)

  running.run_shard(job, shard, prepared, out, on_epoch, say=said.append)
  return {'epochs': epochs, 'said': said}


def main():
  whole, cut = sys.argv[1:]
  jax.config.update(
    'jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE']
  )
  # All members at once, as on an accelerator.
  programs = population.programs
  population.programs = lambda *arguments, **others: programs(
    *arguments[:4], 4, **others
  )
  corpus = tiny_corpus.corpus(train=BATCH)
  job = running.Job(
    tiny_corpus.SPACE, tiny_corpus.MACRO, RECIPE, 'tiny', corpus.fingerprint
  )
  mesh = population.member_mesh(jax.devices()[:1])
  prepared = running.device_corpus(corpus, RECIPE, mesh)
  (shard,) = running.plan(job, MEMBERS, 4)
  temporaries = [
    running.Trainer(job, part, prepared)
    .compiled()
    .memory_analysis()
    .temp_size_in_bytes
    for size in (4, 2, 1)
    for part in offloading.cut(shard, size)[:1]
  ]
  found = [_run(job, shard, prepared, whole)]
  found.append(_run(job, shard, prepared, cut, temporaries[0] * 4 // 5))
  print(json.dumps(found))


if __name__ == '__main__':
  main()
