"""Tests of experiments/oneshot.py: real processes, one of them killed."""

import itertools
import json
import shutil
import signal
import sys
import time

import numpy as np
import planted_table
import pytest
import tensorflow_datasets as tfds
import tiny_run

import nasjax
from nasjax import table
from nasjax.data import corpus
from nasjax.decoding import error_rates

sys.path.insert(0, 'experiments')
from summaries import oneshot_summary

SECONDS = 300
_OF_THE_TABLE = ('--cells=', '--seeds=', '--members_per_shard=', '--out=')


def _command(out):
  """A search in two operations and a skip, which share their programs."""
  tiny = tiny_run.finished()
  own = [f for f in tiny.flags if not f.startswith(_OF_THE_TABLE)]
  return (
    *own,
    # Beams are those of the tiny run.
    '--decoder=greedy',
    '--methods=st_nas',
    '--search_seeds=0',
    '--warm_up_epochs=1',
    '--search_epochs=2',
    '--search_lr=0.005',
    '--random_archs=1',
    '--ops=conv5,conv7',
    '--skips=s00',
    '--seeds=1',
    '--cpu_devices=1',
    f'--out={out}',
    f'--json={out}.json',
  )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The directory of a study that was never interrupted."""
  out = tmp_path_factory.mktemp('oneshot') / 'whole'
  status, _, errors = tiny_run.forked(*_command(out), launcher='oneshot')
  assert status == 0, errors
  return out


def _report(out):
  report = json.loads(out.with_suffix('.json').read_text())
  for search in report['searches']:
    del search['seconds']
  return report


def test_what_is_found_is_trained_beside_the_baselines(whole):
  report = _report(whole)
  assert list(report['found']) == [
    'st_nas', 'largest operation', 'random search of 1'
  ]  # fmt: skip
  rows = table.open(whole)
  trained = {rows.space.names(arch) for arch in rows.row_archs}
  for found in report['found'].values():
    assert set(found['archs']) <= trained
    assert all(0 <= per <= 1 for per in found['test_per'])
  assert report['found']['largest operation']['archs'] == [
    'conv7, conv7, conv7 [[3,1],[3,0,0],[3,0,0,0]]'
  ]
  names = {path.stem for path in (whole / 'figures').iterdir()}
  assert {
    'comparison', 'derived', 'learning', 'probabilities_st_nas_0',
    'entropies_st_nas_0',
  } <= names  # fmt: skip


def test_parameters_rest_in_warm_up_and_move_in_the_search(whole):
  (search,) = _report(whole)['searches']
  curves = json.loads((whole / f'searches/{search["name"]}.json').read_text())
  assert search['executions']['weight_steps'] > 0
  assert curves['curves']['stage'] == [0, 1, 1]
  alpha = np.array(curves['curves']['alpha_op1'])
  assert np.all(alpha[0] == 0) and np.any(alpha[2] != 0)


def test_networks_of_a_study_are_loaded_with_their_own_or_shared_weights(whole):
  (search,) = _report(whole)['searches']
  result = json.loads((whole / f'searches/{search["name"]}.json').read_text())
  record = json.loads((tiny_run.finished().out / 'run.json').read_text())
  builder = tfds.builder_from_directory(record['prepared_corpus'])
  validation = corpus.load(builder).validation
  shared = nasjax.load_network(whole, search='st_nas')
  assert shared.arch.tolist() == result['arch'] and shared.seed == 0
  heard = [found.labels for found in shared.hear(validation)]
  fold_v = shared.units.fold_v
  per = error_rates.per(heard, validation.labels, fold_v)
  assert per == result['curves']['val_per'][-1]
  # Any of its architectures, and no other.
  cell = '[[3, 0], [1, 0, 0], [3, 0, 0, 0]]'
  other = nasjax.load_network(whole, cell, search=search['name'][:6])
  assert other.label.startswith('conv')
  assert other.hear(validation)[0].alignment.shape[0] > 0
  for given, told in (
    (
      {'search': 'st_nas', 'seed': 7},
      "no search 'st_nas' of seed 7; there are",
    ),
    ({'search': 'darts'}, f'{search["name"]} (st_nas, seed 0)'),
    ({'search': 'st_nas', 'cell': [[0, 0], [1, 0, 0], [1, 0, 0, 0]]}, 'linear'),
    ({'search': 'st_nas', 'cell': 'linear'}, "'linear' is no JSON"),
    ({'search': 'st_nas', 'recipe': 'e40'}, 'leave it'),
  ):
    with pytest.raises(ValueError) as caught:
      nasjax.load_network(whole, **given)
    assert told in str(caught.value)
  # What it derived was trained alone, too.
  alone = nasjax.load_network(whole, result['arch'])
  rows = table.open(whole)
  test = corpus.load(builder).test
  heard = [found.labels for found in alone.hear(test)]
  per = error_rates.per(heard, test.labels, fold_v)
  assert per == rows.query(result['arch'], 'test_per', seed=1)


# In small: oneshot/test_search kills searches, test_killed_runs trainings.
@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_report(whole):
  out = whole.with_name('killed')
  with tiny_run.start(*_command(out), launcher='oneshot') as process:
    until = time.monotonic() + SECONDS
    while not list(out.glob('searches/*/1')):
      assert process.poll() is None and time.monotonic() < until
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
  assert not out.with_suffix('.json').exists()
  status, _, errors = tiny_run.finish(*_command(out), launcher='oneshot')
  assert status == 0, errors
  assert _report(out) == _report(whole)


def test_what_another_study_found_is_trained_here_too(whole):
  out = whole.with_name('other')
  shutil.copytree(whole, out)
  command = _command(out)
  status, _, errors = tiny_run.forked(
    *command, f'--found_on={whole.parent}', launcher='oneshot'
  )
  assert status == 1 and errors.count('\n') == 1, errors
  assert f'--found_on={whole.parent} has no search that is over' in errors
  status, _, errors = tiny_run.forked(
    *command, f'--found_on={whole}', launcher='oneshot'
  )
  assert status == 0, errors
  found = _report(out)['found']
  assert list(found)[:2] == ['st_nas', f'st_nas of {whole}']
  # The same network, of the same corpus here, is trained once.
  own, other = list(found.values())[:2]
  for name in 'archs', 'test_per', 'params':
    assert own[name] == other[name]
  assert own['batches'] != other['batches'] == [0.0]
  assert len(table.open(out)) == len(table.open(whole))


def test_other_flags_are_refused_and_named(whole):
  others = '--search_epochs=3', '--search_seeds=1', '--lr=0.02'
  status, _, errors = tiny_run.forked(
    *_command(whole), *others, launcher='oneshot'
  )
  assert status == 1
  (line,) = errors.strip().splitlines()
  for words in (
    'search_epochs was 2, is 3', "search_seeds was '0', is '1'",
    'lr was 0.01, is 0.02', f'{whole} was begun with other flags',
  ):  # fmt: skip
    assert words in line


_MISTAKES = {
  '--alpha_lr=nan': '--alpha_lr=nan: want a finite number',
  '--momentum=inf': '--momentum=inf: want a finite number',
  '--methods=dart': "'dart'",
  '--methods=': '--methods is empty',
  '--search_seeds=': '--search_seeds is empty',
  '--warm_up_epochs=x': '--warm_up_epochs=x',
  '--schedule=st_nas': 'give --loss_norm=none',
  '--latency_profile=x --latency_target=-1': '--latency_target=-1.0: want a',
  '--ops=': 'no operation',
  '--ops=conv5': 'two operations to choose from',
  '--macro=st_nas': '--macro=st_nas is no network of --space=nb_asr',
}


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """By mistake: status, output, errors."""
  place = tmp_path_factory.mktemp('mistakes')
  tries = [
    (f'--out={place / str(n)}', f'--data_dir={place / str(n)}', *given.split())
    for n, given in enumerate(_MISTAKES)
  ]
  found = tiny_run.tried(tries, 'oneshot')
  # A fork ends as a process of its own does.
  assert tiny_run.finish(*tries[0], launcher='oneshot') == found[0]
  return dict(zip(_MISTAKES, found))


@pytest.mark.parametrize('flag, words', _MISTAKES.items())
def test_mistakes_are_one_line(answers, flag, words):
  status, _, errors = answers[flag]
  assert status == 1
  (line,) = errors.strip().splitlines()
  assert line.startswith('oneshot.py: ') and words in line


def test_verdicts_are_against_random_search():
  nan = float('nan')
  tests = {
    'gdas': [0.3, 0.31, 0.3],
    'largest': [0.505, 0.51, 0.52],
    'failed': [0.3, nan],
    'random search of 6': [0.5, 0.52, 0.51],
    'random search of 2': [0.2],
  }
  found = {label: {'test_per': per} for label, per in tests.items()}
  assert oneshot_summary.against_random(found) == {
    'gdas': 'below', 'largest': 'open', 'failed': 'unknown'
  }  # fmt: skip
  found['random search of 6']['test_per'] = [nan]
  assert set(oneshot_summary.against_random(found).values()) == {'unknown'}
  # Where its expectation is known that is what they are held against.
  assert oneshot_summary.against_random(found, 0.45) == {
    'gdas': 'below', 'largest': 'above', 'failed': 'unknown'
  }  # fmt: skip


def _record(tests, expected=None):
  found = {
    label: {'test_per': per, 'archs': [str(n) for n in range(len(per))]}
    for label, per in tests.items()
  }
  return {
    'found': found,
    'metric': 'PER',
    'searches': [{'label': label} for label in tests if 'random' not in label],
    'table': {'expected_random': expected},
  }


@pytest.mark.parametrize(
  'tests, expected, words',
  [
    ({'st_nas': [0.3, 0.31, 0.3]}, 0.5, 'ST-NAS beats random search of 2 net'),
    ({'st_nas': [0.3, 0.31, 0.3]}, 0.5, ', by 20 points of PER'),
    (
      {'darts': [0.3, 0.31, 0.3], 'gdas': [0.2, 0.21, 0.2]},
      0.5,
      'GDAS and DARTS beat random search of 2 networks, by 20 to 30 points',
    ),
    ({'snas': [0.3, 0.4, 0.35]}, 0.36, 'Nothing is significantly better than'),
    ({'snas': [0.6, 0.61, 0.6]}, 0.36, 'Nothing is significantly better than'),
    ({'snas': [0.3]}, 0.5, 'Too few repeats to tell anything from random'),
    ({'snas': [0.3, 0.31, 0.3]}, None, 'Too few repeats to tell anything'),
  ],
)
def test_the_title_is_what_the_verdicts_let_be_said(tests, expected, words):
  tests = tests | {'random search of 2': [0.5]}
  if expected is None:
    tests['random search of 2'] = [float('nan')]
  assert words in oneshot_summary.said(_record(tests, expected))


def test_the_expectation_is_that_of_all_draws_from_the_table(tmp_path):
  archs = planted_table.SPACE.product(['linear', 'conv5'], ['s20'])[:6]
  t = planted_table.write(tmp_path / 'table', archs).select(recipe='e40')
  seeds = t.seeds
  val, test = (
    [[t.query(a, name, seed=s, epoch=e) for s in seeds] for a in archs]
    for name, e in (('val_per', 'best'), ('test_per', None))
  )
  means = []
  for drawn in itertools.permutations(range(6), 2):
    best = min(drawn, key=lambda n: val[n][0])
    means.append(np.mean(test[best]))
  found = oneshot_summary.of_table(t, archs, seeds, 2)
  assert found['expected_random'] == pytest.approx(np.mean(means))
  np.testing.assert_allclose(found['test_per'], np.sort(np.mean(test, axis=1)))
  # A network that may be drawn and is not there: nobody knows.
  more = np.concatenate([archs, planted_table.SPACE.enumerate()[-1:]])
  assert oneshot_summary.of_table(t, more, seeds, 2)['expected_random'] is None
