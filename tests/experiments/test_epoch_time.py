"""Where the time of an epoch goes, of a corpus that comes in pieces."""

import json

import pytest
import tiny_run


@pytest.mark.slow
def test_waiting_for_pieces_is_told(tmp_path):
  """Its short sibling: `test_pieces`, where pieces are visited."""
  tiny, path = tiny_run.finished(), tmp_path / 'parts.json'
  flags = *tiny.flags, f'--json={path}', '--stored_features=uint8'
  status, output, errors = tiny_run.forked(
    *flags, '--device_features_gb=0.004', launcher='epoch_time'
  )
  assert status == 0, errors
  parts = json.loads(path.read_text())
  assert parts['waiting'] >= 0 and parts['training'] > 0
  idle = parts['waiting'] + parts['data']
  idle /= idle + parts['training']
  assert f'devices idle while data come: {idle:.2%} of the training' in output
  assert 'with decoding it takes' in output
