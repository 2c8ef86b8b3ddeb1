"""What error rates are called, from the flags to screen, files and report."""

import json
import os

import pytest
import tiny_run as launcher
from manifests import good_rows, write

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
  manifest = write(place, good_rows(place))
  status, output, errors = launcher.finish(
    f'--corpus_path={manifest}',
    '--targets=characters',
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
