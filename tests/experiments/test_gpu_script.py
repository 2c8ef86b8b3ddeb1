"""What measures a GPU, on CPUs: its stages, their time, their results."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from card import (
  gpu_plan,
  gpu_race,
  gpu_report,
  gpu_ways,
)

ROOT = pathlib.Path(__file__).parents[2]

# A stage keeps something; then one ends, one fails, one waits for ever with a
# child that would go on.
STUB = """
import json, pathlib, subprocess, sys, time
name, told = sys.argv[1], json.loads(sys.argv[2])
path = pathlib.Path(told['out'], f'{name}.json')
path.write_text(json.dumps({'rows': [name]}))
if name == 'resume':
  sys.exit('no room for it')
if name == 'repeat':
  wait = [sys.executable, "-c", "import time; time.sleep(60)"]
  child = subprocess.Popen(wait)
  path.write_text(json.dumps({'child': child.pid}))
  time.sleep(60)
"""


@pytest.fixture(scope='module')
def merged(tmp_path_factory):
  """Directory of a run of stub stages, its results, and what was said."""
  out = tmp_path_factory.mktemp('stages')
  stub, said = out / 'stub.py', []
  stub.write_text(STUB)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gpu_plan, '_STAGES', stub)
    patch.setattr(gpu_plan, 'SHARES', dict.fromkeys(gpu_plan.SHARES, 1))
    started = time.monotonic()
    names = ['correct', 'resume', 'repeat', 'race']
    results = gpu_plan.run(names, out, 8, False, said.append)
  assert time.monotonic() - started < 20
  return out, results, said


def test_no_stage_takes_the_others_down(merged):
  out, results, said = merged
  assert [r['status'] for r in results.values()] == [
    'done', 'failed', 'out of time', 'done',
  ]  # fmt: skip
  assert json.loads((out / 'gpu.json').read_text()) == results
  assert results['resume']['said'] == 'no room for it'
  assert 'resume: failed: no room for it' in said
  for name in ('correct', 'resume', 'race'):
    assert results[name]['found'] == {'rows': [name]}


def test_a_stage_that_hangs_is_killed_with_its_children(merged):
  _, results, _ = merged
  stuck = results['repeat']
  assert stuck['allowed'] <= stuck['seconds'] < stuck['allowed'] + 5
  state = pathlib.Path('/proc', str(stuck['found']['child']), 'status')
  assert not state.exists() or 'zombie' in state.read_text()


def test_what_a_stage_does_not_need_is_for_those_after_it():
  names = list(gpu_plan.SHARES)
  assert gpu_plan.share('table', names, 77) == 77
  left, given = 480, []
  for name in names:
    given.append(gpu_plan.share(name, names, left))
    left -= given[-1]
  shares = np.array(list(gpu_plan.SHARES.values()))
  np.testing.assert_allclose(given, 480 * shares / shares.sum())
  before = gpu_plan.share('race', names, 300)
  assert gpu_plan.share('race', names, 330) == pytest.approx(1.1 * before)


def test_there_may_be_no_time_left(tmp_path):
  said = []
  results = gpu_plan.run(['table'], tmp_path, 0.5, True, said.append)
  assert results['table']['status'] == 'no time'
  assert said == ['table: no time left']
  gpu_report.show(results)


# What stages compute.


@pytest.mark.parametrize('way', sorted(gpu_ways.WAYS))
@pytest.mark.parametrize('c', [1, 6])
def test_ways_agree(way, c):
  rng = np.random.default_rng(0)
  x_btl = jnp.asarray(rng.normal(size=(2, 11, 10 * c)), jnp.float32)
  kernel_uil = jnp.asarray(rng.normal(size=(10, c, 10 * c)), jnp.float32)
  # Out lane (g, j) sums over the channels of its group at every offset.
  x_nbtgi = np.stack(gpu_ways._frames(x_btl)).reshape(10, 2, 11, 10, c)
  kernel_ugij = np.moveaxis(np.array(kernel_uil).reshape(10, c, 10, c), 1, 2)
  expected = np.einsum('nbtgi,ngij->btgj', x_nbtgi, kernel_ugij)
  found = gpu_ways.WAYS[way](x_btl, kernel_uil)
  np.testing.assert_allclose(found, expected.reshape(x_btl.shape), atol=1e-4)


def test_every_way_is_raced_and_a_wrong_one_cannot_win():
  entries = gpu_race.entries(rehearse=False)
  assert {e.way for e in entries} == {*gpu_race.KERNELS, *gpu_ways.WAYS}
  assert len(set(entries)) == len(entries)
  about = {'width': 600, 'dtype': 'bfloat16', 'members': 1, 'temp_gb': 0.1}
  rows = [
    about | {'way': 'slow', 'ms': 3.0, 'error': 0.0},
    about | {'way': 'good', 'ms': 2.0, 'error': 0.01},
    about | {'way': 'wrong', 'ms': 1.0, 'error': 0.5},
    about | {'way': 'broken', 'problem': 'does not lower'},
    about | {'way': next(iter(gpu_race.KERNELS)), 'ms': 1.5, 'error': 0.01},
  ]
  (winner,) = gpu_race.winners(rows)
  assert winner['way'] in gpu_race.KERNELS
  assert (winner['xla'], winner['xla_ms']) == ('good', 2.0)


def test_results_are_compared_with_the_goals(capsys):
  row = {'macro': 'small', 'cells': 'mixture', 'precision': 'bfloat16'}
  row['checkpoint'] = False
  speed = row | {
    'members': 16, 'member_steps_per_second': 90.0, 'share_of_peak': 0.3,
    'temp_gb_per_member': 0.1, 'compile_s': 20.0,
  }  # fmt: skip
  torch = row | {'member_steps_per_second': 10.0}
  results = {
    name: {'status': 'done', 'seconds': 1.0, 'found': {'rows': rows}}
    for name, rows in {
      'speed': [speed, row | {'members': 64, 'problem': 'memory: none'}],
      'torch': [torch],
    }.items()
  }
  assert gpu_report.goals(results) == [
    'small: 9.0 times PyTorch eager (mixture, 16 members, bfloat16); goal 8',
    '30.0 % of the bfloat16 peak (small mixture, 16 members); goal 40 %',
  ]
  gpu_report.show(results)
  printed = capsys.readouterr().out
  assert '9.00' in printed and 'memory: none' in printed


# The command.


def _launch(*flags, **environment):
  """Returns status, output and errors of launch/gpu.sh."""
  done = subprocess.run(
    ['bash', 'launch/gpu.sh', *flags],
    cwd=ROOT,
    env=os.environ | {'PYTHON': sys.executable} | environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  return done.returncode, done.stdout, done.stderr


def test_without_a_gpu_it_says_so(tmp_path):
  status, output, errors = _launch(str(tmp_path / 'out'))
  assert (status, output) == (1, '')
  assert errors.count('\n') == 1 and errors.startswith(
    'gpu.py: JAX finds no GPU'
  )
  assert '--rehearse' in errors and not (tmp_path / 'out').exists()


def test_mistakes_get_one_line(tmp_path):
  status, output, errors = _launch(str(tmp_path), '--stages=speed,sped')
  assert (status, output) == (1, '')
  assert errors.count('\n') == 1 and "'sped' is none of correct, " in errors
  bare = tmp_path / 'python'
  bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
  bare.chmod(0o755)
  status, output, errors = _launch(str(tmp_path), PYTHON=str(bare))
  assert (status, output) == (1, '')
  assert errors == f'absl-py not installed: {bare} -m pip install absl-py\n'


# In small: the stages as stubs, and the ways that are raced, above.
@pytest.mark.slow
def test_rehearsal(tmp_path):
  """The race, and training, in tiny."""
  status, output, errors = _launch(
    str(tmp_path),
    '--rehearse',
    '--stages=race,speed,torch',
    '--seconds=240',
    JAX_COMPILATION_CACHE_DIR=os.environ['NASJAX_TEST_CACHE'],
  )
  assert status == 0, errors
  results = json.loads((tmp_path / 'gpu.json').read_text())
  assert {r['status'] for r in results.values()} == {'done'}, results
  race, speed = (results[name]['found'] for name in ('race', 'speed'))
  assert len(race['rows']) == len(gpu_race.entries(rehearse=True))
  assert all(row['error'] < 1e-2 for row in race['rows']), race['rows']
  (row,) = speed['rows']
  assert row['member_steps_per_second'] > 0 and row['compile_s'] > 0
  # There is no card to profile.
  assert row['profile']['launches'] == 0
  assert 'a node of a grouped convolution' in output
