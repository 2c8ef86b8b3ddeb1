"""Sizes of populations, chosen by memory."""

import jax
import pytest
import tiny_corpus

from nasjax import memory, population, runs, sizing

CELL = [[2, 1], [0, 1, 1], [5, 0, 1, 1]]
OTHER = [[0, 1], [0, 1, 1], [0, 0, 1, 1]]
MEMBERS = [(CELL, seed) for seed in range(6)] + [(OTHER, 1)]


def _choose(free, monkeypatch, devices=1, **more):
  monkeypatch.setattr(memory, 'free', lambda mesh: free)
  return sizing.choose(
    tiny_corpus.job(),
    MEMBERS,
    tiny_corpus.prepared(devices=devices),
    **more,
  )


@pytest.fixture(scope='module')
def needed():
  """Bytes for one to six members."""
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  found = {}
  for size in (1, 2, 3, 6):
    shards = runs.plan(job, MEMBERS, size)
    shard = max(shards, key=lambda s: (s.size, sizing._weight(job, s)))
    runner = runs.Runner(job, shard, prepared)
    assert shard.size == size
    found[size] = sizing.needed(runner)
  return found


def test_who_fits_trains_together(needed, monkeypatch):
  size = _choose(10**12, monkeypatch)
  assert size.members == 6 and size.needed == needed[6]
  assert str(size).startswith('6 members a shard (')
  assert str(size).endswith(' GB of 1e+03 GB free)')


def test_what_does_not_fit_shrinks(needed, monkeypatch):
  assert needed[1] < needed[2] < needed[3] < needed[6]
  for most in (2, 3):
    size = _choose(int(needed[most] / 0.8) + 9, monkeypatch)
    assert (size.members, size.needed) == (most, needed[most])


def test_there_is_a_smallest(needed, monkeypatch):
  size = _choose(1, monkeypatch)
  assert (size.members, size.needed, size.free) == (1, needed[1], 1)
  assert _choose(1, monkeypatch, devices=2).members == 2


def test_a_compiler_without_room_counts_as_no_room(needed, monkeypatch):
  kept = runs.Runner.compiled

  def compiled(runner):
    if runner.shard.size > 2:
      raise RuntimeError('RESOURCE_EXHAUSTED: no scratch')
    return kept(runner)

  monkeypatch.setattr(runs.Runner, 'compiled', compiled)
  size = _choose(10**12, monkeypatch)
  assert (size.members, size.needed) == (2, needed[2])


def test_there_is_a_largest(monkeypatch):
  assert _choose(10**12, monkeypatch, most=4).members == 3
  monkeypatch.setattr(sizing, 'MOST', {'cpu': 2})
  assert _choose(10**12, monkeypatch).members == 2
  assert _choose(10**12, monkeypatch, devices=2).members == 4


def test_the_measure_counts_what_training_holds(needed):
  """Weights, two moments and the best of each, and copies on the host."""
  runner = tiny_corpus.runner([(CELL, seed) for seed in range(3)])
  state = runner.initial()
  held = sum(
    leaf.nbytes for leaf in jax.tree.leaves((state['members'], state['best']))
  )
  assert needed[3] > 3 * held
  mesh = population.member_mesh(jax.devices()[:1])
  assert needed[3] < memory.free(mesh)
