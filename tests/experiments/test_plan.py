"""Tests of the simulation of many devices."""

import json
import math

import engines
import numpy as np
import pytest
import tiny_corpus
import tiny_run
from common import scheduling

from nasjax import spaces
from nasjax.benchmark import running


def _tasks(count, epochs=4, seconds=2.0, program='p'):
  return [scheduling.Task(program, epochs, seconds, 8)] * count


@pytest.mark.parametrize('devices', [1, 3, 8, 20])
def test_equal_shards_take_their_number_over_the_devices(devices):
  found = scheduling.simulate(_tasks(17), [1.0] * devices)
  assert found.makespan == math.ceil(17 / devices) * 8.0
  assert found.trained == 17 * 8.0 and found.failures == 0
  assert found.idle == pytest.approx(1 - 17 * 8 / devices / found.makespan)


def test_starts_and_compilation_come_once_a_process():
  tasks = _tasks(4) + _tasks(4, program='q')
  found = scheduling.simulate(tasks, [1.0, 1.0], start=5, compile=3, between=1)
  # Each device takes a program of its own, and its four shards.
  assert found.makespan == 5 + 3 + 4 * 8 + 3 * 1
  assert (found.compiling, found.starting) == (6, 2 * 5 + 6 * 1)
  # A device that is alone with both compiles both.
  alone = scheduling.simulate(tasks, [1.0], start=5, compile=3)
  assert alone.makespan == 5 + 2 * 3 + 8 * 8


def test_faster_devices_take_more():
  found = scheduling.simulate(_tasks(300), [1.0, 3.0])
  # Each is busy to within a shard of the end.
  assert found.makespan == pytest.approx(300 * 8 / 4, abs=8)
  assert max(found.ends) - min(found.ends) <= 8


@pytest.mark.parametrize('every', [1, 5])
def test_failures_add_what_theory_says(every):
  """With failures at rate a, T seconds take (e^(aT) - 1) (1/a + R)."""
  rate, epoch, restart, epochs = 1 / 40, 2.0, 7.0, 100
  task = [scheduling.Task('p', epochs, epoch, 8)]
  took = np.array([
    scheduling.simulate(
      task, [1.0], failures=3600 * rate, restart=restart, seed=n, every=every
    ).makespan
    for n in range(300)
  ])  # fmt: skip
  unit = every * epoch
  expected = epochs / every * math.expm1(rate * unit) * (1 / rate + restart)
  assert abs(took.mean() - expected) < 4 * took.std() / math.sqrt(len(took))
  assert expected > 1.2 * epochs * epoch


def test_no_second_is_lost_or_counted_twice():
  tasks = _tasks(40) + _tasks(25, 3, 5.0, 'q')
  found = scheduling.simulate(
    tasks, [1.0, 0.5, 2.0], 4.0, 6.0, 0.5, 20.0, 30.0, seed=3, every=2
  )
  assert found.failures > 3 and found.lost > 0
  parts = ('trained', 'lost', 'starting', 'compiling', 'down')
  assert sum(getattr(found, n) for n in parts) == pytest.approx(sum(found.ends))
  with pytest.raises(ValueError, match='next to none'):
    scheduling.simulate(tasks, [1.0], failures=1e5)


def test_shards_are_cut_as_plans_cut_them():
  cells = [c for c in spaces.NB_ASR.unique() if c[0] == 0 == c[2] == c[5]][:13]
  members = [(cell, seed) for cell in cells for seed in (1, 2, 3)]
  real = running.plan(tiny_corpus.job(), members, 8)
  ours = scheduling.tasks(13, 3, [5], 10.0, members_per_shard=8)
  assert [len(s.members) for s in real] == [t.members for t in ours]
  assert ours[0].seconds == 10.0 and sum(t.members for t in ours) == 39
  many = scheduling.tasks(8242, 3, [40, 10, 5], 1.0, programs=8)
  assert sum(t.members for t in many) == 74_178
  assert [many[0].epochs, many[-1].epochs] == [40, 5]


def test_storage_counts_files_bytes_and_operations():
  found = scheduling.storage(_tasks(10, epochs=40), 1000)
  assert found.written == 10 * (40 * 16 * 1000 * 8 + 8 * 1600)
  assert found.bytes == 10 * (16 * 1000 * 8 + 8 * 1600)
  assert found.files == 10 * (4 + 12)
  rarely = scheduling.storage(_tasks(10, epochs=40), 1000, every=10)
  assert rarely.written == pytest.approx(found.written / 10, rel=0.1)
  assert found.operations / 10 > rarely.operations / 10 > 4 * 18


def test_the_launcher(tmp_path):
  path = tmp_path / 'plan.json'
  speeds = tmp_path / 'speeds.json'
  measured = [
    {'engine': 'torch', 'members': 8, 'seconds_per_member_step': 9.0},
    {'engine': 'nasjax', 'members': 8, 'seconds_per_member_step': 0.01},
    {'engine': 'nasjax', 'members': 1, 'seconds_per_member_step': 0.5},
  ]
  speeds.write_text(json.dumps(measured))
  (tmp_path / 'torn.json').write_text('[{]')
  few = ['--cells=10', '--seeds=1,2', '--recipes=e5,3', '--devices=2']
  epoch = '--seconds_per_epoch=2'
  tries = [
    [*few, epoch, f'--json={path}'],
    [*few, f'--speeds={speeds}', '--steps_per_epoch=50'],
    few,
    [*few, f'--speeds={tmp_path / "torn.json"}'],
    [*few, f'--speeds={tmp_path / "none.json"}'],
    ['--recipes=e6', epoch],
    ['--cells=none.txt', epoch],
    ['--relative_speeds=1,0', epoch],
    [f'--compare={tmp_path}'],
    [*few, epoch, '--within=0.1'],
  ]
  results = tiny_run.tried(tries, 'plan')
  assert results[0][0] == 0 == results[1][0], results[:2]
  plan = json.loads(path.read_text())
  assert plan['trainings'] == 40 and plan['shards'] == 16
  assert plan['makespan_seconds'] > (3 + 5) * 20 / 8 * 2 / 2
  assert plan['device_hours'] * 3600 == 2 * plan['makespan_seconds']
  assert plan['bottleneck'] in plan['bounds_seconds']
  assert 'an epoch of a shard   4 s' in results[1][1]
  told = (
    'give --seconds_per_epoch', 'is not what throughput.py', 'No such file',
    "'e6' is none of e40", 'No such file', 'want numbers above 0',
    'shards.json does not exist', '--within goes with --compare',
  )  # fmt: skip
  for (status, _, errors), words in zip(results[2:], told, strict=True):
    assert status == 1 and words in errors and errors.count('\n') == 1, errors


# By the clock: where the machine has much else to do at times, it may fail.
@pytest.mark.slow
@pytest.mark.reliability
def test_it_agrees_with_a_run_on_ray(tmp_path):
  """Ten shards by two workers: within 15 %, by what the run itself tells."""
  engines.want_ray()
  out, ours = tmp_path / 'out', ('--cpu_devices', '--epochs', '--members_per')
  flags = [f for f in tiny_run.finished().flags if not f.startswith(ours)]
  launcher = tiny_run.ROOT / 'launch' / 'ray_cluster.py'
  status, _, errors = engines.finish(
    *(launcher, '--address=local', '--workers=2', '--no-figures', *flags),
    *(
      '--epochs=24',
      '--members_per_shard=1',
      '--seeds=1,2,3,4',
      f'--out={out}',
    ),
    cwd=tiny_run.ROOT,
    env=engines.environment(XLA_FLAGS=tiny_run.UNOPTIMISED),
  )
  assert status == 0, errors[-3000:]
  path = tmp_path / 'plan.json'
  flags = f'--compare={out}', '--within=0.15', f'--json={path}'
  status, output, errors = tiny_run.forked(*flags, launcher='plan')
  print(output)
  assert status == 0, errors
  found = json.loads(path.read_text())
  assert found['shards'] == 10 and found['devices'] == 2
  # One device, or three, would be off by more than half of it.
  other = [f'--compare={out}', '--devices=1', '--within=0.15']
  status, _, errors = tiny_run.forked(*other, launcher='plan')
  assert status == 1 and 'more than --within=0.15' in errors
