"""The launcher of proxies on the table of the tiny run, and searches by it."""

import json
import os

import numpy as np
import planted_table
import pytest
import tiny_run

from nasjax import analysis, table

_CACHE = f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'
_CORPUS = ('--synth_', '--data_dir')


def _corpus(run):
  return [flag for flag in run.flags if flag.startswith(_CORPUS)]


def test_proxies_are_held_against_a_table(tmp_path):
  run = tiny_run.finished()
  flags = [
    f'--table={run.out}', *_corpus(run), _CACHE, '--proxies=l2', '--weights=2',
    '--batches=1', '--utterances=2', f'--out={tmp_path}',
    f'--json={tmp_path / "proxies.json"}',
  ]  # fmt: skip
  status, output, errors = tiny_run.forked(*flags, launcher='proxies')
  assert status == 0, errors
  assert 'l2: 2 x 3 networks' in output
  assert 'Does any proxy beat parameters and MACs here? nobody can' in output
  record = json.loads((tmp_path / 'proxies.json').read_text())
  assert list(record['proxies']) == ['l2', 'params', 'macs']
  rows = table.open(run.out)
  assert len(record['archs']) == len(rows.archs)
  assert len(record['proxies']['l2']['draws']) == 2
  assert sorted(record['proxies']['params']['rank'])[-1] <= 3
  assert (tmp_path / 'proxies.png').is_file()

  # What was scored is not scored again.
  status, output, errors = tiny_run.forked(*flags, launcher='proxies')
  assert status == 0, errors
  assert 'networks in' not in output

  mistakes = {
    ('--proxies=nwot',): "--proxies: 'nwot'; there are grad_norm, snip",
    ('--utterances=3',): 'scores of another draws; name another --out',
  }
  for changed, words in mistakes.items():
    status, _, errors = tiny_run.forked(*flags, *changed, launcher='proxies')
    assert status == 1 and words in errors and errors.count('\n') == 1, errors


def test_judging_by_hand():
  error_n = np.linspace(0.5, 0.1, 30)
  rng = np.random.default_rng(0)
  good = np.arange(30.0) ** 3
  found = analysis.proxies(
    error_n,
    {
      'good': [good, good],
      'noise': [rng.normal(size=30)],
      'params': [good + rng.normal(0, 9000, 30)],
      'macs': [-good],
    },
    ('params', 'macs'),
  )
  assert found['good'].correlation.value == pytest.approx(1)
  assert found['macs'].correlation.value == pytest.approx(-1)
  assert found['good'].gain.low > 0 > found['noise'].gain.high
  assert found['params'].gain is None
  np.testing.assert_allclose(found['good'].first_r, 0.1)
  np.testing.assert_allclose(found['macs'].first_r, 0.5)
  assert found['good'].each_r.shape == (2,)
  ties = analysis.proxies(error_n, {'flat': [np.ones(30) * -np.inf]})
  assert ties['flat'].first_r == pytest.approx(0.3)
  assert np.isnan(ties['flat'].correlation.value)


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  space = planted_table.SPACE
  archs = space.product(['linear', 'conv5'], ['s00', 's20'])
  return planted_table.write(tmp_path_factory.mktemp('planted'), archs)


def _search(rows, tmp_path, *flags):
  return tiny_run.forked(
    _CACHE, f'--table={rows.path}', '--repeats=3', '--budget=6',
    f'--out={tmp_path / "out"}', *flags, launcher='search',
  )  # fmt: skip


def test_searches_under_a_limit_and_from_a_warm_start(rows, tmp_path):
  record = {
    'archs': rows.archs.tolist(),
    'proxies': {'snip': {'rank': list(range(len(rows.archs)))}},
  }
  scores = tmp_path / 'proxies.json'
  scores.write_text(json.dumps(record))
  limit = float(np.median(rows.column('params')))
  status, output, errors = _search(
    rows, tmp_path, '--searchers=evolution,grid', '--cost=params',
    f'--limit={limit}', '--penalty=hard', '--warm_start=snip',
    '--warm_first=2', f'--proxy_scores={scores}',
  )  # fmt: skip
  assert status == 0, errors
  told = json.loads((tmp_path / 'out' / 'constrained.json').read_text())
  assert told['limit'] == limit
  names = ['random', 'evolution', 'grid', 'evolution+snip']
  assert list(told['searchers']) == names
  assert told['searchers']['evolution']['beyond'] == 0
  for name in names:
    assert 0 < told['searchers'][name]['hypervolume']['value'] <= 1
  assert (tmp_path / 'out' / 'pareto.png').is_file()
  assert 'cells on the front of parameters' in output


def test_what_searches_refuse(rows, tmp_path):
  out = (f'--table={rows.path}', f'--out={tmp_path / "out"}', _CACHE)
  scores = tmp_path / 'scores.json'
  scores.write_text('{}')
  mistakes = {
    ('--limit=3',): '--limit is for searches with --cost',
    ('--cost=latency',): 'nothing was measured; give --profile',
    ('--searchers=nsga2',): 'nsga2 minimises a cost, too; give --cost',
    ('--cost=params', '--limit=3'): '--limit=3: no architecture has at most 3 '
    'parameters; the smallest that there is has',
    ('--penalty=x',): '--penalty=x: value should be one of',
    ('--cost=params', '--limit=1e9', '--penalty_weight=-1'): (
      '--penalty_weight=-1.0: want a number above 0'
    ),
    ('--warm_start=snip',): '--warm_start wants --proxy_scores',
    (
      '--warm_start=snip',
      f'--proxy_scores={scores}',
      '--searchers=evolution',
    ): 'want what proxies.py --json wrote',
  }
  tries = [(*out, *flags) for flags in mistakes]
  for (status, _, errors), words in zip(
    tiny_run.tried(tries, 'search'), mistakes.values()
  ):
    assert status == 1 and words in errors and errors.count('\n') == 1, errors
