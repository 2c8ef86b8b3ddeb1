"""The soak works, for some seconds."""

import json
import subprocess
import sys

import pytest
import tiny_run

# In small: tests/benchmark/test_claims.py.
pytestmark = [pytest.mark.reliability, pytest.mark.slow]

SOAK = tiny_run.ROOT / 'tests' / 'reliability' / 'soak.py'


def test_it_kills_and_compares(tmp_path):
  path = tmp_path / 'soak.json'
  flags = ['--seconds=5', '--runs=4', '--workers=2', '--every=1']
  done = subprocess.run(
    [sys.executable, SOAK, *flags, f'--json={path}'],
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  told = json.loads(path.read_text())
  assert told['rounds'] == told['equal'] >= 1
  assert told['shards'] == 2 * told['rounds']
  assert told['kills'] == sum(told['kills_by_stage'].values()) > 0
  assert told['attempts'] >= told['shards'] and told['seconds'] >= 5
  assert done.stdout.count(': killed ') == told['kills']


@pytest.mark.parametrize('flag', ['--runs=1', '--every=0', '--json=no/where'])
def test_wrong_flags_are_told(flag, tmp_path):
  done = subprocess.run(
    [sys.executable, SOAK, flag], cwd=tmp_path, capture_output=True, text=True
  )
  assert done.returncode == 2 and 'soak.py: error: ' in done.stderr
