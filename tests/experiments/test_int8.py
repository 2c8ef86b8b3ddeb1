"""What eight bits cost a run's networks, by its launcher."""

import json
import os
import shutil

import numpy as np
import pytest
import tiny_run

from nasjax import table

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def _cache():
  return f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'


@pytest.mark.slow
def test_errors_go_into_the_table_and_are_those_of_files(tmp_path):
  run = shutil.copytree(tiny_run.finished().out, tmp_path / 'run')
  before = table.open(run)
  arguments = (
    f'--run={run}', _cache(), '--calibration=8', '--check=1',
    f'--json={tmp_path}/int8.json',
  )  # fmt: skip
  status, output, errors = tiny_run.forked(*arguments, launcher='int8')
  assert status == 0, errors
  record = json.loads((tmp_path / 'int8.json').read_text())
  assert record['summary']['networks'] == len(record['cells']) == len(before)
  t = table.open(run)
  assert len(t) == len(before) and t.metrics == before.metrics
  rates_r = t.rates('int8')
  assert np.isfinite(rates_r).all()
  for cell in record['cells']:
    asked = {'seed': cell['seed'], 'recipe': cell['recipe']}
    found = t.query(cell['arch'], 'test_per', **asked, metric='int8')
    assert found == cell['int8_error']
    # The programs that trained them heard the same.
    known = t.query(cell['arch'], 'test_per', **asked)
    assert abs(cell['float_error'] - known) < 0.01
  (checked,) = record['checked']
  assert abs(checked['file_error'] - checked['int8_error']) < 0.01
  assert 'Spearman of float32 and eight bits' in output
  # Again: nothing is measured anew.
  shards = {s.name: s.sha256 for s in t.int8_shards}
  assert tiny_run.forked(*arguments, launcher='int8')[1] == output
  assert {s.name: s.sha256 for s in table.open(run).int8_shards} == shards


def test_mistakes_are_one_line(tmp_path):
  for arguments, words in (
    ([], '--run is empty'),
    ([f'--run={tmp_path}'], 'no run.json'),
  ):
    status, _, errors = tiny_run.forked(*arguments, launcher='int8')
    (line,) = errors.strip().splitlines()
    assert status == 1 and words in line
