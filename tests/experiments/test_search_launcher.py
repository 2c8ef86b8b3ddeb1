"""The launcher of searches, as its users meet it: a command."""

import json
import os
import signal
import time

import numpy as np
import planted_table
import pytest
import tiny_run

import nasjax
from nasjax import search, table
from nasjax.search import landscape

SECONDS = 300
_CACHE = f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'


def _finish(*flags):
  """Runs the launcher; the caches are those of the tests."""
  return tiny_run.forked(_CACHE, *flags, launcher='search')


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  """All functions of three operations and two skips."""
  space = planted_table.SPACE
  archs = space.product(['linear', 'conv5', 'zero'], ['s00', 's20'])
  return planted_table.write(tmp_path_factory.mktemp('planted'), archs)


def test_searchers_are_compared_on_a_table(rows, tmp_path):
  status, output, errors = _finish(
    f'--table={rows.path}',
    '--repeats=12',
    '--budget=20',
    '--searchers=evolution,hyperband,gcn',
    f'--out={tmp_path / "out"}',
    f'--json={tmp_path / "found.json"}',
  )
  assert status == 0, errors
  found = json.loads((tmp_path / 'found.json').read_text())
  assert list(found) == ['random', 'evolution', 'hyperband', 'gcn']
  assert {p.name for p in (tmp_path / 'out').glob('*.png')} == {
    'test_per_of_best.png',
    'validation_per_of_newest.png',
  }
  tests = rows.select(recipe='e40').column('test_per')
  for values in found.values():
    assert len(values['test_per_at_budget']) == 12 and values['seconds'] > 0
    nearest = abs(np.array(values['test_per_at_budget'])[:, None] - tests)
    assert nearest.min(axis=1).max() < 1e-6
  for name in found:
    assert name in output
  scape = landscape.landscape(rows)
  exact = landscape.expected_random(scape, 20)
  assert f'random search, exact expectation: {exact:.2%}' in output
  # The same values as in a process of one's own.
  made = search.SEARCHERS['evolution'](scape.sizes, scape.epochs, 20)
  trace = landscape.simulate(made, scape, 0, 12, 20)
  best = landscape.best_test(trace, scape.epochs, np.array([20]))[:, 0]
  np.testing.assert_allclose(found['evolution']['test_per_at_budget'], best)


_MISTAKES = {
  '--searchers=annealing': "'annealing'",
  '--searchers=': '--searchers is empty',
  '--table={tmp}/none': 'none',
  '--metric=wer': "no metric 'wer'",
  '--budget=1 --searchers=hyperband': 'raise --budget=1',
}


def test_mistakes_are_one_line(rows, tmp_path):
  own = f'--table={rows.path}', f'--out={tmp_path}', '--repeats=2', _CACHE
  tries = [
    [*own, *mistake.format(tmp=tmp_path).split()] for mistake in _MISTAKES
  ]
  found = tiny_run.tried(tries, 'search', ['nasjax.search.landscape'])
  # A fork ends as a process of its own does.
  assert tiny_run.finish(*tries[0], launcher='search') == found[0]
  for (status, _, errors), words in zip(found, _MISTAKES.values()):
    assert status == 1
    (line,) = errors.strip().splitlines()
    assert line.startswith('search.py: ') and words in line


# Real training.

_OF_THE_TABLE = ('--cells=', '--seeds=', '--members_per_shard=', '--out=')


def _train(tiny, out):
  """Returns the command of a search by training on the tiny corpus."""
  own = [f for f in tiny.flags if not f.startswith(_OF_THE_TABLE)]
  return (
    *own,
    # Beams are those of the tiny run.
    '--decoder=greedy',
    '--evaluate=train',
    '--searchers=successive_halving',
    '--ops=conv5,conv7',
    '--skips=s00',
    '--seeds=3',
    '--epochs=3',
    '--repeats=1',
    '--budget=3',
    '--suggestions=2',
    f'--out={out}',
    f'--json={out}.json',
  )


def _values(out):
  record = json.loads(out.with_suffix('.json').read_text())
  return {name: found['test_per_at_budget'] for name, found in record.items()}


def _rows(out):
  drop = {'seconds', 'epoch_seconds', 'created', 'commit', 'versions'}
  rows = table.open(out).to_arrow().to_pylist()
  rows = [{k: v for k, v in row.items() if k not in drop} for row in rows]
  return sorted(rows, key=lambda row: (row['recipe'], row['arch']))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The directory of a search that was never interrupted."""
  out = tmp_path_factory.mktemp('search') / 'whole'
  status, _, errors = _finish(*_train(tiny_run.finished(), out))
  assert status == 0, errors
  return out


def test_suggestions_are_trained_and_what_is_known_is_not_again(trained):
  rows = table.open(trained)
  # Halves of the training too, under a name of their own.
  assert rows.recipes == ('tiny-first1', 'tiny')
  for recipe in rows.recipes:
    keys = rows.select(recipe=recipe).column('semantic_key')
    assert len(set(keys)) == len(keys)
  whole = rows.select(recipe='tiny')
  assert set(whole.column('seed')) == {3}
  for values in _values(trained).values():
    assert len(values) == 1
    assert min(abs(whole.column('test_per') - values[0])) < 1e-6
  before = {p: p.stat().st_mtime_ns for p in (trained / 'table').iterdir()}
  first = _values(trained)
  status, _, errors = _finish(*_train(tiny_run.finished(), trained))
  assert status == 0, errors
  assert before == {p: p.stat().st_mtime_ns for p in before}
  assert _values(trained) == first


def test_networks_of_a_search_are_loaded(trained):
  rows = table.open(trained)
  short, whole = (rows.select(recipe=r) for r in ('tiny-first1', 'tiny'))
  arch = next(arch for arch in short.archs if arch in whole)
  with pytest.raises(ValueError, match='with recipes tiny, tiny-first1; name'):
    nasjax.load_network(trained, arch)
  network = nasjax.load_network(trained, arch, recipe='tiny')
  assert network.recipe.epochs == 3 and network.notes == ()
  assert network.epoch == whole.query(arch, 'best_epoch', seed=3)
  # Of all, whatever their recipe.
  best = nasjax.load_network(trained)
  lowest = np.nanmin(rows.select(recipe=best.recipe.name).curves('val_per'))
  assert lowest == np.nanmin(
    [np.nanmin(part.curves('val_per')) for part in (short, whole)]
  )


def test_the_first_epochs_are_those_of_the_whole_training(trained):
  rows = table.open(trained)
  short, whole = (rows.select(recipe=r) for r in ('tiny-first1', 'tiny'))
  both = [arch for arch in short.archs if arch in whole]
  assert both
  for arch in both:
    first = short.query(arch, 'val_per', seed=3, epoch=1)
    assert first == whole.query(arch, 'val_per', seed=3, epoch=1)


# In small: what is known is not trained again, above; test_killed_runs.
@pytest.mark.slow
def test_a_killed_search_goes_on(trained):
  out = trained.with_name('killed')
  command = _train(tiny_run.finished(), out)
  with tiny_run.start(*command, launcher='search') as process:
    until = time.monotonic() + SECONDS
    while not table.committed(out / 'table'):
      assert process.poll() is None and time.monotonic() < until
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
  assert not out.with_suffix('.json').exists()
  status, _, errors = _finish(*command)
  assert status == 0, errors
  assert _values(out) == _values(trained)
  assert _rows(out) == _rows(trained)
