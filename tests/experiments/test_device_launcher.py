"""Tests of experiments/device.py: real processes, one of them killed."""

import json
import signal
import sys
import time

import numpy as np
import pytest
import tiny_run

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('sklearn')

sys.path.insert(0, 'experiments')
from studies import device_latency, device_search, device_steps, device_study

from nasjax.spaces import SPACES

_OWN = '--own=tests/support/own_device.py', '--space=own_device'
_OF_THE_TABLE = ('--cells=', '--members_per_shard=', '--out=', '--macro=')
SPACE = SPACES['conformer_small']
SECONDS = 1200


def _command(out, *flags):
  own = [
    f for f in tiny_run.finished().flags if not f.startswith(_OF_THE_TABLE)
  ]
  return (
    *own,
    *_OWN,
    '--decoder=greedy',
    '--l2=0',
    '--cpu_devices=1',
    '--epochs=1',
    '--manual=largest',
    '--clock=cpu',
    '--frames=50',
    '--profiled=10',
    '--population=4',
    '--mutants=1',
    '--crossings=1',
    '--generations=3',
    '--top=1',
    '--random=0',
    '--calibration=4',
    '--fine_tune_epochs=1',
    '--recordings=1',
    '--watched=100',
    f'--out={out}',
    f'--json={out}.json',
    *flags,
  )


@pytest.mark.parametrize(
  'flags, told',
  [
    ([], '--max_latency_ms and --max_params are empty; give one'),
    (['--max_params=1', '--max_latency_ms=1'], 'contradict; leave one out'),
    (['--max_latency_ms=fast'], '--max_latency_ms=fast: want a number above 0'),
    (['--max_params=-3'], '--max_params=-3: want a number above 0'),
    (['--max_params=0%'], '--max_params=0%: want a number above 0'),
    (['--max_params=9', '--space=nb_asr'], 'there are elastic ones of'),
    (
      ['--max_params=9', '--space=todm_small', '--macro=todm_small_ctc'],
      'todm_small cannot be written as ONNX yet',
    ),
    (['--max_params=9', '--manual=9 9'], '--manual=9 9: '),
    (
      ['--max_params=9', '--manual=largest,largest'],
      'largest and largest are one network',
    ),
    (['--max_params=9', '--row=A3'], '--row=A3: rows that train smaller'),
    (['--max_params=9', '--row=Z'], '--row=Z: rows that train smaller'),
    (['--max_params=9', '--predictor=oracle'], '--predictor=oracle: there are'),
    (['--max_params=9', '--clock=cpu', '--threads=2'], '--clock=cpu is of'),
    (['--max_params=9', '--mutation_rate=0'], 'want a probability above 0'),
    (
      ['--max_params=9', '--mutants=0', '--crossings=0'],
      'want a child at least',
    ),
  ],
)
def test_bad_flags_are_one_line(flags, told, tmp_path):
  status, _, errors = tiny_run.forked(
    '--space=conformer_small', f'--out={tmp_path / "out"}', *flags,
    launcher='device',
  )  # fmt: skip
  assert status == 1 and told in errors and errors.count('\n') == 1, errors


def test_a_limit_that_nothing_meets_is_said_before_any_training(tmp_path):
  out = tmp_path / 'out'
  status, _, errors = tiny_run.forked(
    *_command(out, '--max_params=10'), launcher='device'
  )
  assert status == 1 and errors.count('\n') == 1, errors
  assert '--max_params=10: no architecture has at most 10 parameters' in errors
  assert 'the smallest that there is has 1,' in errors
  assert not (out / 'supernets').exists() and not (out / 'table').exists()


def test_all_choices_are_in_a_profile():
  archs_nd = device_latency.drawn(SPACE, 12, 3)
  for size, digit_n in zip(SPACE.sizes, archs_nd.T):
    counts = np.bincount(digit_n, minlength=size)
    assert counts.min() >= 12 // size and counts.max() <= -(-12 // size)
  assert (archs_nd == device_latency.drawn(SPACE, 12, 3)).all()
  assert (archs_nd != device_latency.drawn(SPACE, 12, 4)).any()


def test_changes_that_change_no_function_are_counted():
  same, total = device_search.redundant(SPACE, 30, 1)
  # In a half of networks a layer is left out: its 12 changes are none.
  assert total == 30 * (sum(SPACE.sizes) - len(SPACE.sizes))
  assert 0.1 < same / total < 0.5


def test_validation_chooses_and_the_first_is_to_beat():
  def row(role, validation, ms):
    return {'role': role, 'validation': validation, 'measured_ms': ms}

  rows = [
    row('manual a', 0.3, 1), row('manual b', 0.1, 1), row('found 1', 0.2, 3),
    row('found 2', 0.2, 2), row('random 1', 0.1, 1),
  ]  # fmt: skip
  assert device_study.chosen(rows, 'manual') is rows[0]
  assert device_study.chosen(rows, 'found') is rows[3]


def test_what_steps_take_adds_up_over_processes(tmp_path, monkeypatch):
  now = [0.0, 0.0, 100.0]
  monkeypatch.setattr(device_steps, '_now', lambda: tuple(now))
  monkeypatch.setattr(device_steps.energy, 'joules', lambda: now[2])
  path = tmp_path / 'steps.json'
  path.write_text('{"profile": [5.0, 4.0]}')  # of a version without joules
  for _ in range(2):
    steps = device_steps.Steps(path)
    now[:] = 1000.0, 1000.0, 1000.0  # counts for no step
    steps.begin('profile')
    now[:] = 1002.0, 1001.0, 1060.0
    steps.begin('drift')
  told = {step['name']: step for step in steps.told()}
  names = 'seconds', 'cpu_seconds', 'joules'
  assert [told['profile'][name] for name in names] == [9, 6, 120]
  assert [told['drift'][name] for name in names] == [0, 0, 0]
  monkeypatch.setattr(device_steps.energy, 'joules', lambda: None)
  assert {step['joules'] for step in steps.told()} == {None}


@pytest.mark.slow
def test_the_whole_way_killed_once(tmp_path):
  out = tmp_path / 'out'
  flags = _command(out, '--max_latency_ms=95%')
  with tiny_run.start(*flags, launcher='device') as process:
    deadline = time.monotonic() + SECONDS
    while not list(out.glob('evolution/*.json')):
      assert process.poll() is None, process.communicate()
      assert time.monotonic() < deadline
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
  profile = (out / 'profile.json').read_text()
  status, output, errors = tiny_run.forked(*flags, launcher='device')
  assert status == 0, errors
  assert (out / 'profile.json').read_text() == profile
  found = json.loads((tmp_path / 'out.json').read_text())
  assert found['verdict'] in output and 'Manual against found' in output
  for step in found['steps']:
    assert step['said'] and step['seconds'] > 0, step
    for line in step['said']:
      assert line in output
  steps = [step['step'] for step in found['steps']]
  assert steps == ['1', '2', '3', '4, 5', '6', '7', '8', '9', '10']
  _check_networks(found)
  visits = json.loads((out / 'manual.json').read_text())['cells']
  assert len(visits) == 9
  median = 1e3 * np.median([visit['seconds'] for visit in visits])
  np.testing.assert_allclose(found['limit']['manual'], median)
  _check_files(found)
  page = (out / 'report.html').read_text()
  assert page.count('<img') == 2 and 'Manual against found' in page
  # What is done is not done again.
  again, _, errors = tiny_run.forked(*flags, launcher='device')
  assert again == 0, errors
  second = json.loads((tmp_path / 'out.json').read_text())
  for name in ('networks', 'compared', 'evolution', 'exported', 'drift'):
    assert second[name] == found[name]
  status, _, errors = tiny_run.forked(
    *flags, '--generations=4', launcher='device'
  )
  assert status == 1 and 'generations was 3, is 4' in errors
  log = found['drift']['log']
  status, output, errors = tiny_run.forked(
    f'--profile={out / "profile.json"}', f'--log={log}', _OWN[0],
    f'--predictor={found["predictor"]}', launcher='drift',
  )  # fmt: skip
  assert status == (3 if found['drift']['drift'] else 0), errors


def _check_networks(found):
  limit = found['limit']
  assert limit['what'] == 'latency'
  np.testing.assert_allclose(limit['most'], 0.95 * limit['manual'])
  cost_n = np.array(found['evolution']['cost'])
  assert (cost_n <= limit['most']).all()
  assert len(cost_n) == found['evolution']['networks']
  roles = {row['role']: row for row in found['networks']}
  assert list(roles) == ['manual largest', 'found 1']
  best = roles['found 1']
  assert best['within'] and best['predicted_ms'] <= limit['most']
  assert best['shared_validation'] >= min(found['evolution']['error'])
  assert 0 <= best['test'] == np.mean(best['test_of_seeds'])


def _check_files(found):
  rows = {(r['network'], r['precision']): r for r in found['compared']}
  assert len(rows) == 5 and ('found', 'tuned') in rows
  for row in rows.values():
    assert row['latency_ms'] > 0 and row['peak_bytes'] > 2**20
    assert row['metric'] == 'PER' and row['error'] >= 0
  assert all(
    rows[role, 'int8']['bytes'] != rows[role, 'float32']['bytes']
    for role in ('manual', 'found')
  )
  for role in found['exported'].values():
    assert role['files']['float32']['apart'] < 1e-4
    assert role['files']['float32']['test'] == role['test']
  (heard,) = found['transcripts']
  assert set(heard['heard']) == {'float32', found['eight_bits']}
  assert heard['said'] and found['eight_bits'] in ('int8', 'tuned')
