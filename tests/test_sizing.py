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


def _at_once(seconds, monkeypatch, most=6, free=10**12):
  """What is chosen where a step of n members takes seconds(n)."""
  tried = []

  def step_of(runner, compiled):
    del compiled
    members = runner.shard.size
    tried.append(members)
    kept = runner.network.checkpoint
    return sizing.Step(members, kept, seconds(members), 0, 0, 0, 0)

  monkeypatch.setattr(sizing, 'step_of', step_of)
  monkeypatch.setattr(sizing, '_platform', lambda prepared: 'tpu')
  return _choose(free, monkeypatch, most=most), tried


def test_what_one_member_fills_takes_turns(monkeypatch):
  size, tried = _at_once(lambda n: 10.0 * n, monkeypatch)
  assert (size.together, size.members, tried) == (1, 6, [1, 2])
  assert len(size.steps) == 2
  assert str(size).startswith('6 members a shard, 1 at a time (')


def test_narrow_members_are_mapped(monkeypatch):
  size, tried = _at_once(lambda n: 10.0 + n, monkeypatch)
  # Six at most, so that eight would be the same program.
  assert (size.together, size.members, tried) == (6, 6, [1, 2, 4, 6])
  assert ' at a time' not in str(size)


def test_a_gain_that_is_too_small_ends_it(monkeypatch):
  size, tried = _at_once(lambda n: 10.0 * n + min(n, 2), monkeypatch)
  assert size.together == 1 and tried == [1, 2]
  size, tried = _at_once(lambda n: 10.0 * n + 90, monkeypatch, most=4)
  # Two shards of three.
  assert size.together == 3 and tried == [1, 2, 3]


def test_how_many_at_a_time_can_be_said(needed, monkeypatch):
  monkeypatch.setattr(sizing, '_platform', lambda prepared: 'gpu')
  size = _choose(10**12, monkeypatch, together=2)
  assert (size.together, size.members, size.steps) == (2, 6, ())
  # Four others wait with their states: less than four more in the program.
  assert needed[2] < size.needed < needed[6]


def test_a_step_has_the_costs_of_its_program():
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  (shard,) = runs.plan(job, MEMBERS[:1], 1)
  runner = runs.Runner(job, shard, prepared)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sizing, '_platform', lambda prepared: 'gpu')
    step = sizing.step_of(runner, runner.compiled())
  assert step.members == 1 and step.launches > 10
  assert step.flops == runner.flops() > 0 and step.hbm_bytes > 0
  # A step this small is all starts of kernels.
  assert step.seconds == pytest.approx(3e-6 * step.launches, rel=0.5)
