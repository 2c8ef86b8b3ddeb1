"""How many networks stand on a device, chosen by memory."""

import jax
import pytest
import tiny_corpus

from nasjax.benchmark import running, sizing
from nasjax.programs import memory
from nasjax.training import offloading, population

CELL = [[2, 1], [0, 1, 1], [5, 0, 1, 1]]
OTHER = [[0, 1], [0, 1, 1], [0, 0, 1, 1]]
MEMBERS = [(CELL, seed) for seed in range(6)] + [(OTHER, 1)]


def _shards(size=6):
  return running.plan(tiny_corpus.job(), MEMBERS, size)


def _choose(free, monkeypatch, devices=1, size=6, **more):
  monkeypatch.setattr(memory, 'free', lambda mesh: free)
  return sizing.choose(
    tiny_corpus.job(),
    _shards(size),
    tiny_corpus.prepared(devices=devices),
    **more,
  )


@pytest.fixture(scope='module')
def needed():
  """Bytes for six members, one to six of which train at a time.

  By how many do, and whether the others wait beside them.
  """
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  shard = max(_shards(), key=lambda s: s.size)
  found = {}
  for size in (1, 2, 3, 6):
    trainer = running.Trainer(job, offloading.cut(shard, size)[0], prepared)
    assert trainer.size == size
    found[size, True] = sizing.needed(trainer, 6)
    found[size, False] = sizing.needed(trainer)
  return found


def test_who_fits_trains_together(needed, monkeypatch):
  size = _choose(10**12, monkeypatch)
  assert size.members == size.fitting == 6 and size.needed == needed[6, True]
  assert str(size).startswith('6 members a shard (')
  assert str(size).endswith(' GB of 1e+03 GB free)')


def test_what_does_not_fit_waits_outside(needed, monkeypatch):
  """On an accelerator, at first beside who trains, then on the host."""
  sizes = [needed[size, False] for size in (1, 2, 3, 6)]
  assert sizes == sorted(sizes) and needed[2, False] < needed[2, True]
  monkeypatch.setattr(sizing, '_platform', lambda prepared: 'gpu')

  def fitting(bytes_needed):
    free = int(bytes_needed / 0.8) + 9
    size = _choose(free, monkeypatch, together=2)
    assert size.members == 6 and size.needed == bytes_needed
    return size.together, size.fitting

  assert fitting(needed[2, True]) == (2, 6)
  assert fitting(needed[2, False]) == (2, 2)
  assert fitting(needed[1, False]) == (1, 1)


def test_a_cpu_is_the_host_on_which_others_wait(needed, monkeypatch):
  size = _choose(int(needed[3, True] / 0.8) + 9, monkeypatch)
  # Equal parts of the six, though five might fit.
  assert size.fitting in (1, 2, 3) and size.members == 6
  assert size.needed == needed[size.fitting, True]
  assert f', {size.fitting} at a time (' in str(size)


def test_there_is_a_least(needed, monkeypatch):
  size = _choose(1, monkeypatch)
  assert (size.members, size.fitting, size.free) == (6, 1, 1)
  assert size.needed == needed[1, True]
  assert _choose(1, monkeypatch, devices=2).fitting == 2


def test_equal_parts_take_turns():
  mesh = population.member_mesh(jax.devices()[:1])
  found = [sizing._in_turns(6, most, mesh) for most in range(7)]
  assert found == [1, 1, 2, 3, 3, 3, 6]
  mesh = population.member_mesh(jax.devices()[:2])
  found = [sizing._in_turns(7, most, mesh) for most in range(9)]
  assert found == [2, 2, 2, 2, 4, 4, 4, 4, 8]


def test_a_compiler_without_room_counts_as_no_room(needed, monkeypatch):
  kept = running.Trainer.compiled

  def compiled(trainer):
    if trainer.size > 2:
      raise RuntimeError('RESOURCE_EXHAUSTED: no scratch')
    return kept(trainer)

  monkeypatch.setattr(running.Trainer, 'compiled', compiled)
  size = _choose(10**12, monkeypatch)
  assert (size.fitting, size.needed) == (2, needed[2, True])


def test_a_plan_is_not_cut_again_by_devices(monkeypatch):
  monkeypatch.setattr(sizing, '_attempt', lambda *program: 0)
  size = _choose(10**12, monkeypatch, size=4)
  assert size.members == size.fitting == 3
  size = _choose(10**12, monkeypatch, size=4, devices=2)
  assert size.members == 3 and size.fitting == 4


def test_the_measure_counts_what_training_holds():
  """Weights, two moments and the best of each, and copies on the host."""
  trainer = tiny_corpus.trainer([(CELL, seed) for seed in range(3)])
  state = trainer.initial()
  held = sum(
    leaf.nbytes for leaf in jax.tree.leaves((state.members, state.best))
  )
  measured = sizing.needed(trainer)
  assert measured > 3 * held
  mesh = population.member_mesh(jax.devices()[:1])
  assert measured < memory.free(mesh)


def _at_once(seconds, monkeypatch, size=6, free=10**12):
  """What is chosen where a step of n members takes seconds(n)."""
  tried = []

  def step_of(trainer, compiled):
    del compiled
    members = trainer.size
    tried.append(members)
    kept = trainer.network.checkpoint
    return sizing.Step(members, kept, seconds(members), 0, 0, 0, 0)

  monkeypatch.setattr(sizing, 'step_of', step_of)
  monkeypatch.setattr(sizing, '_platform', lambda prepared: 'tpu')
  return _choose(free, monkeypatch, size=size), tried


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
  size, tried = _at_once(lambda n: 10.0 * n + 90, monkeypatch, size=4)
  # Two shards of three.
  assert size.together == 3 and tried == [1, 2, 3]


def test_how_many_at_a_time_can_be_said(needed, monkeypatch):
  monkeypatch.setattr(sizing, '_platform', lambda prepared: 'gpu')
  size = _choose(10**12, monkeypatch, together=2)
  assert (size.together, size.members, size.steps) == (2, 6, ())
  # Four others wait with their states: less than four more in the program.
  assert needed[2, False] < size.needed < needed[6, True]


def test_a_step_has_the_costs_of_its_program():
  job, prepared = tiny_corpus.job(), tiny_corpus.prepared()
  shard = running.plan(job, MEMBERS[:1], 1)[0]
  trainer = running.Trainer(job, shard, prepared)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sizing, '_platform', lambda prepared: 'gpu')
    step = sizing.step_of(trainer, trainer.compiled())
  assert step.members == 1 and step.launches > 10
  assert step.flops == trainer.flops() > 0 and step.hbm_bytes > 0
  # A step this small is all starts of kernels.
  assert step.seconds == pytest.approx(3e-6 * step.launches, rel=0.5)
