"""What handing out and showing shards costs where there are very many."""

import gc
import os
import pathlib
import time
import tracemalloc
import types

import numpy as np
import pytest
import tiny_corpus
from common import console
from rich.console import Console

from nasjax.benchmark import claims, running, workers
from nasjax.storage import leases


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


def _drive(count, measure, place, monkeypatch, own=None):
  """Returns what `measure()` grew by from the first tenth of shards to the end.

  The real loop of workers and the real bar; shards train in no time. They are
  claimed, where there are `Leases`.
  """
  found, curves = [], {'val_per': np.full((1, 1), 0.5)}
  seen = 0

  def run_shard(job, shard, prepared, out, on_epoch, *how):
    nonlocal seen
    seen += 1
    if seen in (count // 10, count):
      found.append(measure())
    on_epoch(running.ShardProgress(shard, 1, curves, 0.0, False, 0, np.ones(1)))
    return True

  monkeypatch.setattr(running, 'run_shard', run_shard)
  mesh = types.SimpleNamespace(shape={'member': 1})
  prepared = types.SimpleNamespace(mesh=mesh)
  shards = _shards(count)
  job = tiny_corpus.job(tiny_corpus.variant(name='many', epochs=1))
  # Else pytest would keep what is printed.
  with (place / 'printed').open('w') as out:
    monkeypatch.setattr(console, 'CONSOLE', Console(file=out, width=110))
    queue = own and claims.Claims(shards, own, place, alone=False)
    with console.Bar(shards, job) as bar:
      workers.run(job, shards, [prepared], place, bar, queue=queue)
  assert seen == count
  return np.subtract(found[1], found[0])


def _resident():
  """Returns the bytes of memory that this process holds."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


# By the clock of the processor, which a machine may turn down.
@pytest.mark.slow
@pytest.mark.reliability
def test_a_hundred_thousand_shards(tmp_path, monkeypatch):
  """Each claimed and left: at most 2 ms, and memory as at the beginning."""
  # Of use when machines die; a disk takes its time for it, not a driver's.
  monkeypatch.setattr(os, 'fsync', lambda fd: None)

  def measure():
    gc.collect()
    return time.process_time(), _resident()

  with leases.Leases(tmp_path / 'leases') as own:
    spent, grown = _drive(100_000, measure, tmp_path, monkeypatch, own)
  print(f'{1e3 * spent / 90_000:.2f} ms a shard, {grown / 1e6:.1f} MB more')
  assert spent / 90_000 < 0.002 and grown < 30e6


@pytest.mark.slow
def test_a_shard_leaves_nothing_behind(tmp_path, monkeypatch):
  tracemalloc.start()
  try:
    grown = _drive(
      8000,
      lambda: tracemalloc.get_traced_memory()[0],
      tmp_path,
      monkeypatch,
    )
  finally:
    tracemalloc.stop()
  # rich remembers the last 4,000 lines.
  assert grown < 16 * 7200 + 2e6
