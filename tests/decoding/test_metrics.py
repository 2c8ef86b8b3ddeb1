"""Error rates by name, from the flags to screen, files and report."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny_run as launcher
from manifests import good_rows, noise, write

from nasjax import table
from nasjax.decoding import error_rates, metrics

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
  record = json.loads((out / 'run.json').read_text())
  assert record['left_out'] == [part]
  assert list(table.open(out).notes) == record['notes']
  metadata = table.open(out).to_arrow().schema.metadata
  assert json.loads(metadata[b'left_out']) == [part]
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


def test_words_are_told_beside_characters(characters):
  """The test words are 'go on' twice; one network hears no more of them."""
  out, output = characters
  t = table.open(out)
  (shard,) = t.shards
  ((rate,),) = shard.meta['rates'].values()
  assert set(shard.meta['rates']) == {'wer'} and rate * 4 == round(rate * 4)
  wer_r = t.rates('wer')
  assert wer_r.dtype == np.float64 and wer_r.tolist() == [rate]
  assert t.select(macro='tiny').rates('wer').tolist() == [rate]
  assert ' WER ' in output and f'{rate:.2%}' in output
  # That which decides stands in a column; of others nothing is known.
  np.testing.assert_array_equal(t.rates('cer'), t.column('test_per'))
  assert np.isnan(t.rates('per')).all()
  older = table.open('experiments/tables/synthetic_timit')
  assert np.isnan(older.rates('wer')).all() and len(older.rates('wer')) > 1
  np.testing.assert_array_equal(older.rates('per'), older.column('test_per'))


# In a process of its own: it defines flags.
_STUDY = """
import json, pathlib, sys, types
from common import lab as lab_lib
from nasjax import table
from nasjax.benchmark import shards
from nasjax.training import recipes
t = table.open(sys.argv[1])
recipe = recipes.Recipe(**json.loads(t.column('recipe_json')[0]))
macro = types.SimpleNamespace(name='tiny')
fingerprint = t.column('corpus_fingerprint')[0]
job = shards.Job(t.space, macro, recipe, 'characters', fingerprint, 'CER')
for symbols in ' gno', 'gno':
  corpus = types.SimpleNamespace(symbols=tuple(symbols))
  work = types.SimpleNamespace(job=job, corpus=corpus)
  lab = lab_lib.Lab(work, pathlib.Path(sys.argv[1]))
  print(json.dumps(lab.word_errors(t.archs, t.seeds)))
"""


def test_a_study_reads_them_from_the_table(characters):
  out, _ = characters
  done = subprocess.run(
    [sys.executable, '-c', _STUDY, str(out)],
    cwd=launcher.ROOT / 'experiments',
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  words, none = map(json.loads, done.stdout.splitlines())
  assert words == table.open(out).rates('wer').tolist()
  assert none is None


def test_metrics_count_what_they_divide():
  units = metrics.Units(tuple(' ab'), np.array([0, 1, 2, 2]))
  hyps, refs = [[2, 1, 2, 3], [3]], [[2, 1, 3], [2, 1, 3]]
  for name in ('per', 'cer', 'ler'):
    found = metrics.METRICS[name](hyps, refs, units)
    # a and b are one: a label too many, and two that are missing.
    assert found.edits_k.tolist() == [0, 2, 1] and found.rate == 3 / 6
    assert found.rate == error_rates.per(hyps, refs, units.fold_v)
  found = metrics.METRICS['wer'](hyps, refs, units)
  assert found.edits_k.tolist() == [1, 1, 0] and found.rate == 2 / 4
  assert found.rate == error_rates.wer(hyps, refs, units.symbols)
  assert metrics.beside('cer', units) == ('wer',)
  assert metrics.beside('wer', units) == ()
  assert metrics.beside('per', metrics.Units(tuple('ab'))) == ()
  with pytest.raises(ValueError, match='spaces'):
    metrics.METRICS['wer'](hyps, refs, metrics.Units(tuple('abc')))


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
    found = both.select(**same)
    assert found.metric == one.metric
    for name in ('per', 'cer', 'wer'):
      np.testing.assert_array_equal(found.rates(name), one.rates(name))


def test_a_report_on_characters(characters, tmp_path):
  path = tmp_path / 'report.html'
  status, _, errors = launcher.finish(
    f'--table={characters[0]}', f'--out={path}', launcher='report'
  )
  assert status == 0, errors
  text = path.read_text()
  assert 'test CER' in text and 'PER' not in text.partition('<img')[0]
