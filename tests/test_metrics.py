"""What error rates are called, from the flags to screen, files and report."""

import json
import os

import numpy as np
import pytest
import soundfile
import tiny_run as launcher
from manifests import good_rows, noise, write

from nasjax import table

TINY = (
  '--corpus=manifest', '--macro=tiny', '--epochs=1', '--curriculum=',
  '--random_cells=1', '--members_per_shard=1', '--cpu_devices=1',
  '--buckets=1', '--batch=8', '--batch_long=8', '--decoder=greedy',
)  # fmt: skip


@pytest.fixture(scope='module')
def characters(tmp_path_factory):
  """A run on characters: its directory, and what it printed."""
  place = tmp_path_factory.mktemp('characters')
  rows = good_rows(place)
  soundfile.write(place / 'audio/u3.flac', noise(0.3), 16_000)
  rows[3]['duration'] = 0.3
  manifest = write(place, rows)
  status, output, errors = launcher.finish(
    f'--corpus_path={manifest}',
    '--targets=characters',
    '--min_seconds=0.5',
    f'--data_dir={place / "data"}',
    f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}',
    f'--out={place / "out"}',
    *TINY,
  )
  assert status == 0, errors
  return place / 'out', output


def test_a_character_error_rate_is_called_one(characters):
  out, output = characters
  assert 'best validation CER' in output and 'cells by test CER' in output
  assert 'PER' not in output
  assert json.loads((out / 'run.json').read_text())['metric'] == 'CER'
  assert {p.name for p in (out / 'figures').iterdir()} == {
    'learning_curves.png', 'cer_params.png', 'cer_macs.png',
  }  # fmt: skip


def test_what_was_left_out_stands_in_the_table(characters):
  out, output = characters
  assert 'left out of train: 1 utterances, 0.01 minutes, too_short' in output
  (part,) = table.open(out).left_out
  assert part | {'minutes': 0} == {
    'split': 'train', 'rule': 'too_short', 'utterances': 1, 'minutes': 0,
  }  # fmt: skip
  assert json.loads((out / 'run.json').read_text())['left_out'] == [part]
  assert table.open('experiments/tables/synthetic_timit').left_out == ()


def test_errors_by_kind_stand_in_the_table(characters):
  t = table.open(characters[0])
  labels = 2 * len('go on')  # of two utterances
  total = t.edits.sum(1)
  np.testing.assert_allclose(total / labels, t.column('test_per'))
  assert t.select(macro='tiny').edits.shape == (1, 3)
  assert 'S/D/I %' in characters[1]
  older = table.open('experiments/tables/synthetic_timit')
  assert older.edits.shape == (len(older), 3) and np.isnan(older.edits).all()


def test_a_table_says_what_it_holds(characters, tmp_path):
  t = table.open(characters[0])
  assert t.metric == 'CER' and t.select(macro='tiny').metric == 'CER'
  assert t.to_arrow().schema.metadata[b'metric'] == b'CER'
  own = table.open('experiments/tables/synthetic_timit')
  assert own.metric == 'PER'
  both = table.merge([characters[0], own.path], tmp_path)
  assert both.metric == 'CER/PER' and len(both) == 1 + len(own)
  assert len(both.to_arrow()) == len(both)
  for one in (t, own):
    same = {'corpus_fingerprint': one.column('corpus_fingerprint')[0]}
    assert both.select(**same).metric == one.metric


def test_a_report_on_characters(characters, tmp_path):
  path = tmp_path / 'report.html'
  status, _, errors = launcher.finish(
    f'--table={characters[0]}', f'--out={path}', launcher='report'
  )
  assert status == 0, errors
  text = path.read_text()
  assert 'test CER' in text and 'PER' not in text.partition('<img')[0]
