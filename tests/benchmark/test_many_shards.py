"""What handing out and showing shards costs where there are very many."""

import time
import tracemalloc
import types

import numpy as np
import pytest
import tiny_corpus
from common import console
from rich.console import Console

from nasjax.benchmark import running, workers


def _shards(count):
  """Shards of two programs, of one member each."""
  members = [
    [((1, 1, 2, 1, 0, 0, 0, 0, 0), 7)],
    [((2, 1, 2, 1, 0, 0, 0, 0, 0), 7)],
  ]
  kinds = ('linear', 'conv', 'conv'), ('conv', 'conv', 'conv')
  return [
    running.Shard(f'{n:016x}', kinds[n % 2], tuple(members[n % 2]), 1, (7,))
    for n in range(count)
  ]


@pytest.mark.parametrize(
  'count', [1000, pytest.param(8000, marks=pytest.mark.slow)]
)
def test_a_shard_costs_little_and_leaves_nothing(
  tmp_path, monkeypatch, count
):
  """The real loop of workers and the real bar; shards train in no time."""
  sizes, seconds, curves = [], [], {'val_per': np.full((1, 1), 0.5)}
  seen = 0

  def run_shard(job, shard, prepared, out, on_epoch, *how):
    nonlocal seen
    seen += 1
    if seen in (count // 10, count):
      sizes.append(tracemalloc.get_traced_memory()[0])
      seconds.append(time.process_time())
    on_epoch(running.ShardProgress(shard, 1, curves, 0.0, False, 0, np.ones(1)))
    return True

  monkeypatch.setattr(running, 'run_shard', run_shard)
  # Else pytest would keep what is printed.
  out = (tmp_path / 'printed').open('w')
  monkeypatch.setattr(console, 'CONSOLE', Console(file=out, width=110))
  mesh = types.SimpleNamespace(shape={'member': 1})
  prepared = types.SimpleNamespace(mesh=mesh)
  shards = _shards(count)
  job = tiny_corpus.job(tiny_corpus.variant(name='many', epochs=1))
  tracemalloc.start()
  try:
    with console.Bar(shards, job) as bar:
      workers.run(job, shards, [prepared], tmp_path, bar)
  finally:
    tracemalloc.stop()
    out.close()
  assert seen == count
  # rich remembers the last 4,000 lines. 100,000 shards took 1.0 ms of a
  # processor each, this measuring included.
  assert sizes[1] - sizes[0] < 16 * 0.9 * count + 2e6
  assert (seconds[1] - seconds[0]) / (0.9 * count) < 0.002
