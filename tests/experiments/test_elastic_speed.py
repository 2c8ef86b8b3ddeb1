"""Tests of the launcher that times networks of an elastic one's weights."""

import json

import pytest
import tiny_run as launcher

_SMALL = '--utterances=4', '--frames=16', '--labels=2', '--rounds=1'


@pytest.mark.slow  # it compiles the step of a supernet
def test_steps_are_told_in_trainings_of_the_largest(tmp_path):
  path = tmp_path / 'speed.json'
  status, output, errors = launcher.forked(
    *_SMALL, '--rows=B1', f'--json={path}', launcher='elastic_speed'
  )
  assert status == 0, errors
  found = json.loads(path.read_text())
  assert set(found) == {'alone', 'B1'}
  own = found['B1']['trainings']
  # Three students of a quarter of the batch, none larger than the largest.
  assert 1 < own['flops'] < 1.75
  ratio = found['B1']['seconds'] / found['alone']['seconds']
  assert own['seconds'] == pytest.approx(ratio)
  assert 'by processor seconds' in output


def test_rows_that_there_are_not_are_one_line():
  status, _, errors = launcher.forked('--rows=B9', launcher='elastic_speed')
  assert status == 1
  assert "--rows: 'B9'; there are A2, A3, B0" in errors.splitlines()[-1]
