"""Tests of the launcher that times operations on planes."""

import json

import pytest
import tiny_run


def test_unknown_parts_are_one_line():
  status, output, errors = tiny_run.forked(
    '--parts=race,all', launcher='conv2d_speed'
  )
  assert status == 1 and output == ''
  assert errors == (
    'conv2d_speed.py: --parts=race,all: want some of operations, mixture, '
    'race\n'
  )


@pytest.mark.slow
def test_the_launcher_measures_and_writes(tmp_path):
  path = tmp_path / 'new' / 'speed.json'
  status, output, errors = tiny_run.forked(
    '--utterances=2', '--frames=9', '--features=6', '--channels=2', '--nodes=1',
    '--lstm=2', '--lstms=1', '--rounds=1', '--notorch', f'--json={path}',
    launcher='conv2d_speed',
  )  # fmt: skip
  assert status == 0, errors
  found = json.loads(path.read_text())
  assert output.endswith(json.dumps(found, indent=1) + '\n')
  assert list(found['operations']) == [
    'conv3x3', 'conv5x5', 'dil_conv3x3', 'dil_conv5x5'
  ]  # fmt: skip
  for own in found['operations'].values():
    assert 0 < own['share_of_best'] <= own['share'] * 1.0001
  # Seven candidates take at most seven times what the dearest takes.
  assert 1 < found['mixture']['times_the_memory'] <= 7
  assert found['race']['loss'] > 0 and found['race']['ours_seconds'] > 0
