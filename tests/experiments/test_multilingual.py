"""Tests of experiments/multilingual.py: flags, tables, and a small study."""

import json
import unicodedata

import numpy as np
import pytest
import tiny_run
from summaries import multilingual_summary

_MISTAKES = {
  '--models=vgg': "'vgg'; there are vgg_small, vgg_large, darts_asr, conv3x3",
  '--ways=d': "'d'; there are a (parameters), b (both), c (pruned)",
  '--target_languages=xx': "language 'xx' can not be spoken: there are vi, sw",
  '--target_languages=bn': "both have 'bn'",
  '--source_languages=': '--source_languages=: want codes',
  '--manifests=vi': '--manifests=vi: want CODE=manifest.jsonl',
  '--manifests=xx=a.jsonl': "'xx' is neither among --source_languages",
  '--manifests=vi=/absent.jsonl': '/absent.jsonl is no file',
  '--sentence_words=3,2': '--sentence_words=3,2: want low,high',
  '--targets=words': '--targets=words: want characters or phones',
  '--frontend=st_nas': '--frontend=st_nas normalises by speaker',
  '--data_devices=2': '--data_devices: batches are normalised',
  '--sgd_lr=nan': '--sgd_lr=nan: want a finite number',
  '--device_gmacs=inf': '--device_gmacs=inf: want a finite number',
  '--momentum=1': '--momentum=1.0: want a number below 1',
  '--seeds=1,2,1': '--seeds=1,2,1: want each once',
  '--lr=0.1': '--lr=0.1: rates begin with --sgd_lr',
  '--l2=1e-4': '--l2=0.0001: give --weight_decay',
  '--loss=ctc_crf': '--loss=ctc_crf: all networks train with CTC',
  '--precision=int8': '--precision=int8: supernets are not trained',
}


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  out = tmp_path_factory.mktemp('multilingual')
  tries = [[flag, f'--out={out}/new'] for flag in _MISTAKES]
  found = tiny_run.tried(tries, 'multilingual')
  assert not (out / 'new').exists()
  return dict(zip(_MISTAKES, found))


@pytest.mark.parametrize('flag, words', _MISTAKES.items())
def test_mistakes_are_one_line(answers, flag, words):
  status, _, errors = answers[flag]
  assert status == 1
  (line,) = errors.strip().splitlines()
  assert line.startswith('multilingual.py: ') and words in line


def _rows(cer_by_model, languages=('vi', 'ar'), seeds=(1, 2, 3)):
  """Rows of trainings whose CER is planted: a number, and 1 % a seed."""
  rng = np.random.default_rng(0)
  rows = []
  for (setting, model, way), cer in cer_by_model.items():
    for code in languages:
      for seed in seeds:
        searched = model == 'darts_asr' and way != 'c'
        logits_ek = rng.normal(size=(15, 7))
        p_ek = np.exp(logits_ek)
        p_ek /= p_ek.sum(-1, keepdims=True)
        own = cer + 0.01 * seed + 0.001 * rng.normal()
        rows.append(
          {
            'setting': setting, 'model': model, 'way': way, 'seed': seed,
            'language': code, 'params': 10, 'epochs': 2, 'seconds': 1.0,
            'operations': 15, 'arch': '', 'val_loss': [3.0, 2.0],
            'probabilities': p_ek.tolist() if searched else None,
            'shared_test_cer': own + 0.2,
            'test': {
              code: {
                'greedy': own, 'rescored': own - 0.02, 'characters': 9,
                'utterances': 3, 'weight': 0.2, 'bonus': 0.0,
                'example': ['مرحبا' if code == 'ar' else 'Việt', 'a', 'b'],
              }
            },
          }
        )  # fmt: skip
  return rows


@pytest.fixture(scope='module')
def numbers():
  rows = _rows(
    {
      ('alone', 'vgg_small', ''): 0.40,
      ('alone', 'darts_asr', ''): 0.36,
      ('adapted', 'vgg_small', 'b'): 0.30,
      ('adapted', 'darts_asr', 'a'): 0.31,
      ('adapted', 'darts_asr', 'b'): 0.30,
      ('adapted', 'darts_asr', 'c'): 0.33,
      ('discretised', 'darts_asr_discretised', ''): 0.45,
    }
  )
  tables = {n: multilingual_summary.compared(rows, n) for n in '123'}
  return {
    'seeds': [1, 2, 3],
    'targets': ['vi', 'ar'],
    'sources': ['bn'],
    'languages': {'ar': {'symbols': ['ا', 'َ']}, 'vi': {'symbols': ['ệ']}},
    'trainings': rows,
    'tables': tables,
    'gap': multilingual_summary.gap(rows),
    'likeness': multilingual_summary.likeness(rows),
    'from_sources': multilingual_summary.from_sources(rows),
    'said': multilingual_summary.said(tables),
  }


def test_tables_hold_what_was_planted(numbers):
  one = numbers['tables']['1']
  assert list(one) == ['vgg_small', 'darts_asr']
  verdict = one['darts_asr']['against']['greedy']
  # Seeds belong to each other: their own differences do not hide a difference.
  assert verdict['lies'] == 'below' and verdict['n'] == 3
  assert verdict['difference'] == pytest.approx(-0.04, abs=3e-3)
  assert verdict['relative'] == pytest.approx(-0.04 / 0.42, abs=1e-2)
  mean = one['vgg_small']['mean']['rescored']
  assert mean['value'] == pytest.approx(0.40, abs=3e-3)
  assert mean['low'] < 0.40 < mean['high']
  assert set(one['vgg_small']['cer']['greedy']) == {'vi', 'ar'}
  three = numbers['tables']['3']
  assert list(three) == ['a', 'b', 'c']
  assert three['b']['against'] == {}
  assert three['c']['against']['greedy']['lies'] == 'above'
  assert numbers['tables']['2']['darts_asr']['against']['greedy']['lies'] == (
    'open'
  )


def test_what_is_said_follows(numbers):
  said = numbers['said']
  better = 'DARTS-ASR is better than VGG-Small by -4'
  assert said['1, greedy'].startswith(better)
  assert 'makes no difference that can be seen' in said['2, greedy']
  assert '95 % interval' in said['2, greedy']
  brought = numbers['from_sources']['greedy']
  assert list(brought) == ['vgg_small', 'darts_asr']
  assert brought['vgg_small']['difference'] == pytest.approx(-0.1, abs=3e-3)
  assert brought['vgg_small']['lies'] == 'below'
  gap = numbers['gap']['vi']
  assert np.mean(gap['retrained']) - np.mean(gap['soft']) == (
    pytest.approx(0.09, abs=3e-3)
  )
  assert np.mean(gap['shared']) - np.mean(gap['soft']) == pytest.approx(0.2)
  alone = numbers['likeness']['alone']
  assert np.shape(alone['matrix']) == (6, 6)
  # Drawn graphs: no more alike than chance gives.
  assert alone['between']['p'] > 0.01 and alone['within']['p'] > 0.01
  one_seed = _rows({('alone', m, ''): 0.4 for m in ('vgg_small', 'darts_asr')},
                   seeds=(1,))  # fmt: skip
  tables = {n: multilingual_summary.compared(one_seed, n) for n in '123'}
  assert (
    'one seed has no interval'
    in (multilingual_summary.said(tables)['1, greedy'])
  )


def test_a_reference_without_errors_has_no_relative_difference():
  rows = _rows({('alone', m, ''): 0.4 for m in ('vgg_small', 'darts_asr')})
  for row in rows[:6]:
    for rates in row['test'].values():
      rates.update(greedy=0.0, rescored=0.0)
  tables = {n: multilingual_summary.compared(rows, n) for n in '123'}
  said = multilingual_summary.said(tables)['1, greedy']
  assert said.startswith('DARTS-ASR is worse than VGG-Small by +4')
  assert 'relative' not in said


def test_scripts_in_screen_and_page(numbers, capsys):
  multilingual_summary.show(numbers)
  shown = capsys.readouterr().out
  assert '\u2068مرحبا\u2069' in shown and 'Việt' in shown
  figures = multilingual_summary.draw(numbers)
  assert set(figures) == {
    'losses_alone', 'losses_adapted', 'graphs_alone', 'graphs_adapted'
  }  # fmt: skip
  page = multilingual_summary.page(numbers, figures)
  assert '<td dir="auto">مرحبا</td>' in page
  assert '◌َ' in page  # a vowel sign on its circle
  assert unicodedata.is_normalized('NFC', page)


def test_the_plan_projects_a_cost(tmp_path):
  flags = (
    '--flagfile=experiments/flags/multilingual_small.flags',
    '--dry_run',
    '--device_gmacs=1000',
    f'--json={tmp_path / "plan.json"}',
    f'--out={tmp_path / "none"}',
  )
  status, output, errors = tiny_run.forked(*flags, launcher='multilingual')
  assert status == 0, errors
  plan = json.loads((tmp_path / 'plan.json').read_text())
  # Of 3 seeds: four networks on the sources, alone and adapted to two targets
  # (one of them in three ways), and two discretised.
  assert plan['trainings'] == 3 * (4 + 4 * 2 + 6 * 2 + 2)
  assert plan['hours'] == pytest.approx(
    sum(m['total_macs'] for m in plan['models'].values()) / 1e12 / 3600
  )
  assert 'hours of one device that makes 1000.0 GMAC/s' in output
  assert not (tmp_path / 'none').exists()


@pytest.mark.slow
def test_the_plan_times_each_kind_of_network(tmp_path):
  flags = (
    '--flagfile=experiments/flags/multilingual_small.flags', '--size=tiny',
    '--models=vgg_small', '--batch=2', '--batch_long=2',
    '--sentence_words=1,1', '--dry_run', '--cpu_devices=1',
    '--compilation_cache=', f'--json={tmp_path / "plan.json"}',
    f'--out={tmp_path / "none"}',
  )  # fmt: skip
  status, output, errors = tiny_run.forked(*flags, launcher='multilingual')
  assert status == 0, errors
  assert 'measured here on drawn features' in output
  plan = json.loads((tmp_path / 'plan.json').read_text())
  (own,) = plan['models'].values()
  # Three seeds, 12 epochs of 160 utterances a language: three sources, two
  # targets alone and adapted, in one program for each corpus.
  assert own['utterances'] == 3 * 12 * 160 * (3 + 2 + 2)
  assert own['programs'] == 3
  assert min(own['seconds_an_utterance'], own['seconds_to_compile_one']) > 0
  seconds = (
    own['utterances'] * own['seconds_an_utterance']
    + own['programs'] * own['seconds_to_compile_one']
  )
  assert plan['hours'] == pytest.approx(seconds / 3600)


@pytest.mark.slow
def test_a_study_and_again(tmp_path):
  flags = (
    '--size=tiny', '--models=vgg_small', '--seeds=1',
    '--source_languages=id,ar', '--target_languages=vi', '--utterances=24',
    '--sentence_words=1,1',
    '--recipe=e5', '--epochs=1', '--batch=8', '--batch_long=8', '--buckets=1',
    '--curriculum=', '--clip=5', '--dropout=0', '--l2=0', '--decoder=greedy',
    '--cpu_devices=1', f'--out={tmp_path / "out"}',
    f'--data_dir={tmp_path / "data"}', f'--json={tmp_path / "out.json"}',
  )  # fmt: skip
  status, output, errors = tiny_run.forked(*flags, launcher='multilingual')
  assert status == 0, errors
  assert '3 trainings on id' in output
  found = json.loads((tmp_path / 'out.json').read_text())
  settings = [(t['setting'], t['language']) for t in found['trainings']]
  assert settings == [('sources', ''), ('alone', 'vi'), ('adapted', 'vi')]
  assert set(found['trainings'][0]['test']) == {'id', 'ar'}
  for training in found['trainings']:
    for rates in training['test'].values():
      assert min(rates['greedy'], rates['rescored']) > 0
      assert rates['characters'] > 0
  before = (tmp_path / 'out' / 'report.json').read_bytes()
  status, output, _ = tiny_run.forked(*flags, launcher='multilingual')
  assert status == 0 and 'epoch' not in output  # nothing is trained again
  assert (tmp_path / 'out' / 'report.json').read_bytes() == before
  status, _, errors = tiny_run.forked(
    *flags, '--sgd_lr=0.1', launcher='multilingual'
  )
  assert status == 1 and 'sgd_lr was 0.01, is 0.1' in errors
