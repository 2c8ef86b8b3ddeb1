"""Tests of the launcher that times the transducer's loss."""

import json

import pytest
import tiny_run as launcher


@pytest.mark.slow  # it compiles five programs
def test_it_measures_and_writes(tmp_path):
  path = tmp_path / 'speed.json'
  status, output, errors = launcher.forked(
    '--utterances=2', '--frames=9', '--labels=3', '--symbols=6', '--width=5',
    '--rounds=1', '--memory_vocabulary=40000', f'--json={path}',
    launcher='transducer_speed',
  )  # fmt: skip
  assert status == 0, errors
  found = json.loads(path.read_text())
  assert {'plain', 'chunked', 'pruned'} <= set(found['ms'])
  assert all(ms['least'] <= ms['median'] for ms in found['ms'].values())
  # Scores of all nodes: 2 x 9 x 4 x 40,000 numbers of 4 bytes.
  assert found['bytes']['logits'] == 11_520_000
  assert set(found['run_bytes']) == set(found['ms'])
  assert all(off < 1e-4 for off in found.get('value_off', {}).values())
  assert f'on {found["device"]}' in output
