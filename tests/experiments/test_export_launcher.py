"""Exports by their launcher, and their files at transcribe.py."""

import functools
import json
import os
import pathlib

import numpy as np
import once
import pytest
import soundfile
import tiny_run

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def _cache():
  return f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'


@functools.cache
def _exported():
  """Returns a file of the tiny run, and what its launcher says of it."""
  place = pathlib.Path(os.environ['NASJAX_TEST_PLACE'], 'exported')

  def run():
    place.mkdir(exist_ok=True)
    status, output, errors = tiny_run.forked(
      f'--run={tiny_run.finished().out}', _cache(),
      f'--model={place}/tiny.onnx', '--calibration=4', '--utterances=4',
      '--long=4', '--threads=1', '--frames=100', '--fine_tune_epochs=1',
      f'--sherpa={place}/sherpa', f'--json={place}/exported.json',
      launcher='export',
    )  # fmt: skip
    assert status == 0, errors
    return output

  return place / 'tiny.onnx', once.text('exported.txt', run)


def _transcribe(*arguments):
  return tiny_run.forked(*arguments, _cache(), launcher='transcribe')


@pytest.mark.slow
def test_the_launcher_says_what_eight_bits_cost():
  path, output = _exported()
  record = json.loads(path.with_name('exported.json').read_text())
  whole, int8 = (record['files'][name] for name in ('float32', 'int8'))
  assert whole['bytes'] == path.stat().st_size
  assert record['ratio'] == whole['bytes'] / int8['bytes'] > 1.5
  assert whole['apart']['most'] < 1e-4 < int8['apart']['most']
  for file in (whole, int8):
    (timed,) = file['timed']
    assert timed['threads'] == 1 and timed['real_time_factor'] > 0
    assert 0 < timed['bytes_before'] < timed['peak_bytes'] < 2**30
  assert len(record['rates']) == 2
  for rates in record['rates'].values():
    assert rates['jax'] == rates['float32']
    assert rates['jax, rounded'] == rates['int8']
    assert abs(rates['int8']['rate'] - rates['jax']['rate']) < 0.1
  assert f'int8 has {record["ratio"]:.2f} times fewer bytes' in output
  (row,) = record['fine_tuned']
  assert row['epochs'] == 1 and set(row['validation']) == {'float32', 'tuned'}
  for what, rates in record['rates'].items():
    assert set(row['rates'][what]) == {'float32', 'int8', 'tuned'}
    assert row['rates'][what]['tuned'] == rates['tuned']
  assert '  epochs  float32    int8   tuned\n       0' in output
  (elsewhere,) = record['elsewhere']
  for name in ('float32', 'int8'):
    assert pathlib.Path(elsewhere['directory'], name, 'tokens.txt').exists()
  assert 'sherpa-onnx loads ' in output


@pytest.mark.slow
def test_the_file_hears_what_the_run_hears(tmp_path):
  path, _ = _exported()
  rng = np.random.default_rng(1)
  loud_n = np.sin(np.arange(16_000) / 2500) ** 2
  audio = tmp_path / 'a.wav'
  soundfile.write(audio, 0.1 * loud_n * rng.standard_normal(16_000), 8000)
  status, output, errors = _transcribe(str(path), str(audio))
  assert status == 0, errors
  assert '8000 samples a second, resampled to 16000' in errors
  run = f'--run={tiny_run.finished().out}'
  assert output == _transcribe(run, str(audio))[1]
  named = _transcribe(f'--model={path}', '--decoder=greedy', str(audio))
  assert named[0] == 0 and named[1].startswith(f'{audio}: ')


def test_mistakes_are_one_line(tmp_path):
  broken = tmp_path / 'a.onnx'
  broken.write_bytes(b'no model')
  run = f'--run={tiny_run.finished().out}'
  for launcher, arguments, words in (
    ('transcribe', [str(broken), 'a.wav'], 'cannot be run by ONNX Runtime'),
    ('transcribe', [str(broken)], 'no recording'),
    ('transcribe', [f'--model={broken}', run, 'a.wav'], '--run is for a run'),
    ('transcribe', ['--model=b.onnx', 'a.wav'], 'no file b.onnx'),
    ('export', [run], '--model is empty; name a file NAME.onnx'),
    ('export', [run, '--model=a.tflite'], 'does not end in .onnx'),
    ('export', [run, '--model=none/a.onnx'], 'no directory none'),
    ('export', [run, '--model=a.onnx', '--fine_tune_epochs=2,x'], "'x' is no"),
    ('export', [run, '--model=a.onnx', '--fine_tune_lr=1'], '--fine_tune_lr'),
  ):
    status, _, errors = tiny_run.forked(*arguments, _cache(), launcher=launcher)
    (line,) = errors.strip().splitlines()
    assert status == 1 and words in line
