"""Error rates by name, from the flags to screen, files and report."""

import json
import os

import numpy as np
import planted_table
import pytest
import soundfile
import tiny_run as launcher
from manifests import good_rows, noise, write
from summaries import (
  search_summary,
  summary,
)

from nasjax import analysis, table
from nasjax.decoding import error_rates, metrics
from nasjax.search import landscape

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
  status, output, errors = launcher.forked(
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
    'best_cell.png', 'learning_curves.png', 'cer_costs.png',
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


# In a fork: it defines flags.
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
  print(lab.value(t.archs[0], t.seeds[0], 'test_per', 'wer'))
"""


def test_a_study_reads_them_from_the_table(characters, tmp_path):
  out, _ = characters
  (tmp_path / 'study.py').write_text(_STUDY)
  status, output, errors = launcher.forked(
    str(out), launcher=tmp_path / 'study'
  )
  assert status == 0, errors
  words, value, none, _ = map(json.loads, output.splitlines())
  assert words == table.open(out).rates('wer').tolist() == [value]
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


# By name, from a table on.


@pytest.fixture(scope='module')
def worded(tmp_path_factory):
  """A table on characters that has words beside them, half as many errors."""
  path = tmp_path_factory.mktemp('worded')
  archs = planted_table.SPACE.product(['linear', 'conv5'], ['s00'])
  rows = [planted_table.row(arch, seed) for arch in archs for seed in (1, 2)]
  wer = [row['test_per'] / 2 for row in rows]
  meta = {'metric': 'CER', 'rates': {'wer': wer}}
  table.write_shard(path, 'a', rows, meta)
  return table.open(path)


def test_a_question_names_its_metric(worded):
  t, arch = worded, worded.archs[3]
  assert t.metrics == ('cer', 'wer') and t.named('wer') == t.named('WER')
  asked = {'seed': 1}
  cer = t.query(arch, 'test_per', **asked)
  assert t.query(arch, 'test_per', metric='cer', **asked) == cer
  assert t.query(arch, 'test_per', metric='wer', **asked) == cer / 2
  means = t.query(t.archs, 'test_per', metric='wer', reduce='mean')
  usual = t.query(t.archs, 'test_per', seed='mean')
  np.testing.assert_allclose(means * 2, usual)
  best = t.query(arch, 'val_per', epoch='best', **asked)
  assert t.query(arch, 'val_per', epoch='best', metric='CER', **asked) == best
  # Answers of a part are those of its rows.
  part = t.select(macro='SMALL')
  assert part.query(arch, 'test_per', metric='wer', **asked) == cer / 2
  for wanted, words, own in (
    ('per', "no metric 'per' in .*; there are cer, wer", {}),
    (3, 'no metric 3', {}),
    ('wer', 'has validation CER only', {'column': 'val_per', 'epoch': 1}),
    ('wer', "'params' is no error rate", {'column': 'params'}),
  ):
    with pytest.raises(table.TableError, match=words):
      t.query(arch, **{'column': 'test_per'} | own, metric=wanted, **asked)
  own = table.open('experiments/tables/synthetic_timit')
  with pytest.raises(table.MissingEntryError, match='there is per'):
    own.errors('wer')


def test_rows_without_the_metric_are_no_failures(worded, tmp_path):
  own = planted_table.write(tmp_path / 'own', worded.archs[:2])
  both = table.merge([worded.path, own.path], tmp_path / 'both')
  assert both.metrics == ('cer', 'per', 'wer')
  with pytest.raises(table.MissingEntryError, match='12 of .* tested without'):
    both.errors('wer')


def test_searches_are_judged_by_it(worded):
  cer, wer = (landscape.landscape(worded, metric=m) for m in (None, 'wer'))
  np.testing.assert_allclose(wer.test_cr * 2, cer.test_cr, rtol=1e-6)
  np.testing.assert_array_equal(wer.val_cre, cer.val_cre)
  found = analysis.results(worded, metric='wer')
  usual = analysis.results(worded)
  np.testing.assert_allclose(found.test_ns * 2, usual.test_ns)
  np.testing.assert_array_equal(found.val_ns, usual.val_ns)


PIECES = ('\u2581go', '\u2581on', 'ing', 's')


def test_units_say_what_decides_and_whether_there_are_words():
  pieces = metrics.Units(PIECES)
  assert metrics.decides(pieces) == 'LER'
  assert metrics.beside('ler', pieces) == ('wer',)
  assert metrics.named('wer', 'LER', pieces) == 'WER'
  # Said: goings on, go, gos. Heard: going ons, go, on.
  hyps, refs = [[1, 3, 2, 4], [1], [2]], [[1, 3, 4, 2], [1], [1, 4]]
  assert metrics.METRICS['ler'](hyps, refs, pieces).rate == 4 / 7
  assert metrics.METRICS['wer'](hyps, refs, pieces).rate == 3 / 4
  # One spelling of a word is as good as another.
  spelt = metrics.Units((*PIECES, '\u2581goings'))
  assert metrics.METRICS['wer']([[5]], [[1, 3, 4]], spelt).rate == 0
  assert metrics.METRICS['ler']([[5]], [[1, 3, 4]], spelt).rate == 1
  # A mark by itself stands between words of phones; a phone that is called
  # like a word, or two characters without a space, tells of none.
  phones = metrics.Units(('\u2581', 'g', 'ow'))
  assert metrics.decides(phones) == 'PER'
  assert metrics.beside('per', phones) == ('wer',)
  assert metrics.METRICS['wer']([[2, 3, 1, 2]], [[2, 1, 2]], phones).rate == 0.5
  bars = metrics.Units(('|', 'g', 'ow'))
  assert metrics.decides(bars) == 'PER'
  assert metrics.METRICS['wer']([[2, 3, 1, 2]], [[2, 1, 2]], bars).rate == 0.5
  for symbols in (('a b', 'c'), ('go', 'on'), ('a|b', 'c')):
    assert metrics.beside('cer', metrics.Units(symbols)) == ()
  characters = metrics.Units(tuple(' ab'))
  assert metrics.decides(characters, 'characters') == 'CER'
  assert metrics.decides(metrics.Units(PIECES), 'characters') == 'CER'


def test_networks_to_come_have_the_metrics_of_their_units():
  units = metrics.Units(tuple(' ab'))
  assert metrics.named(None, 'CER', units) == 'CER'
  assert metrics.named('wer', 'CER', units) == 'WER'
  with pytest.raises(ValueError, match='--metric=wer: .* have per$'):
    metrics.named('wer', 'PER', metrics.Units(tuple('ab')), '--metric')


def test_reports_are_of_what_decides_or_of_what_is_asked_for(
  characters, worded, tmp_path
):
  pages = [tmp_path / f'{n}.html' for n in range(3)]
  tables = characters[0], worded.path, worded.path
  usual, by_words, wrong = (
    launcher.forked(
      *(f'--table={one}', f'--out={page}', '--resamples=100', *more),
      launcher='report',
    )
    for one, page, more in zip(
      tables, pages, ((), ('--metric=wer',), ('--metric=ler',))
    )
  )
  assert usual[0] == 0, usual[2]
  text = pages[0].read_text()
  assert 'test CER' in text and 'PER' not in text.partition('<img')[0]
  assert by_words[0] == 0, by_words[2]
  text = pages[1].read_text()
  assert 'test WER' in text and 'validation CER' in text
  assert 'test CER' not in text and 'validation WER' not in text
  low = worded.query(worded.archs, 'test_per', metric='wer', seed='mean').min()
  assert f'lowest test WER is {100 * low:.2f} %' in text
  assert wrong[0] == 1 and wrong[2].count('\n') == 1
  assert "no metric 'ler'" in wrong[2] and 'there are cer, wer' in wrong[2]
  assert not pages[2].exists()


def test_summaries_by_words(worded, tmp_path, capsys):
  summary.write(worded, tmp_path, 'wer')
  scape = landscape.landscape(worded, metric='wer')
  cell_n = np.array([[0, 1, 2]])
  val_n, test_n = scape.val_cre[cell_n, 0, -1], scape.test_cr[cell_n, 0]
  trace = landscape.Trace(cell_n, val_n, test_n, np.full((1, 3), 40))
  study = search_summary.Study(
    {'random': trace}, {'random': 1.0}, 40, 3, scape, 'WER', 'CER'
  )
  search_summary.write(study, tmp_path)
  text = ' '.join(capsys.readouterr().out.split())
  assert 'cells by test WER' in text and 'lowest test WER' in text
  assert search_summary.record(study)['random']['metric'] == 'WER'
  assert {p.name for p in tmp_path.rglob('*.png')} == {
    'best_cell.png', 'learning_curves.png', 'wer_costs.png',
    'search.png', 'validation_cer_of_newest.png',
  }  # fmt: skip
