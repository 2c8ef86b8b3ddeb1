"""A family that nothing knows of but its own file goes every way there is."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_corpus
import tiny_run
import toy_criterion
import toy_family
from matplotlib.text import Text

from nasjax import cost, plots, spaces, table
from nasjax.benchmark import running
from nasjax.decoding import metrics
from nasjax.models import families, macros
from nasjax.oneshot import methods, stages, steps
from nasjax.oneshot import search as searching
from nasjax.oneshot.supernet import Supernet

SPACE, MACRO = toy_family.SPACE, toy_family.MACROS['toy']


@pytest.fixture(autouse=True, scope='module')
def _registered():
  toy_family.register()
  toy_criterion.register()
  yield
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    del names['toy']


# With a criterion of its own, too.
RECIPE = tiny_corpus.variant(loss='even', l2=0.0)


# Of sub-words, some of which begin words.
UNITS = metrics.Units(('\u2581a', '\u2581b', 'c', 'd', 'e'), tiny_corpus.FOLD_V)


def _job():
  tiny = tiny_corpus.corpus()
  metric = metrics.decides(UNITS)
  return running.Job(SPACE, MACRO, RECIPE, tiny.name, tiny.fingerprint, metric)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The directory of three architectures, trained with two seeds."""
  out = tmp_path_factory.mktemp('toy')
  job = _job()
  prepared = tiny_corpus.prepared(RECIPE)._replace(units=UNITS)
  members = [(arch, seed) for arch in SPACE.enumerate()[:3] for seed in (1, 2)]
  shards = running.plan(job, members, 2)
  assert [shard.signature for shard in shards] == [
    ('dense', 'dense'), ('dense', 'shift'), ('shift', 'dense'),
  ]  # fmt: skip
  for shard in shards:
    assert running.run_shard(job, shard, prepared, out)
  return out


def test_populations_become_a_table(trained):
  t = table.open(trained)
  assert len(t) == 6 and t.space is SPACE
  named = {'first': 'dense', 'second': 'shift'}
  assert 0 < t.query(named, 'test_per', seed='mean') < 2
  assert t.query(named, 'params', seed=1) == 8 * (8 + 6 + 2 * 8)
  # Labels decide, and words are told beside them.
  assert t.metric == 'LER' and t.metrics == ('ler', 'wer')
  assert np.isfinite(t.errors('wer')).all()
  # What is counted is what there is.
  network = families.single(SPACE, [0, 2], MACRO)
  shapes = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0), np.zeros((1, 4, 8)), np.array([4]), ()
    )
  )
  counted = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert cost.params(SPACE, [0, 2], MACRO) == counted
  assert cost.macs(SPACE, [0, 2], MACRO, 4) == 4 * 8 * 16 + 2 * 8 * 6


def test_the_report_of_its_table_shows_its_decisions(trained):
  page = trained / 'report.html'
  place = f'--table={trained}', f'--out={page}', '--resamples=100'
  output = _launch('report', *place, '--metric=wer')
  assert '6 rows' in output
  text = page.read_text()
  for words in (
    '3 cells of the 6 of toy', 'Ranking by choices', 'test WER',
    'validation LER', 'second=shift', 'first=dense, second=dense [0,0]',
  ):  # fmt: skip
    assert words in text
  assert ' node ' not in text and 'skips' not in text
  assert text.count('<img') == 9


@pytest.mark.parametrize('method', [methods.ST_NAS, methods.DARTS])
def test_one_shot_searches_share_its_weights(method, tmp_path):
  supernet = Supernet(SPACE, MACRO)
  assert supernet.edges == (
    ('first', ('dense', 'shift')), ('second', ('dense', 'shift', 'none')),
  )  # fmt: skip
  assert supernet.group_count == 5
  search = searching.Search(
    supernet,
    method,
    steps.Weights('adam', RECIPE),
    stages.fixed(1, 2, 1e-2),
    seed=3,
  )
  seen = []
  found = searching.run(
    search, tiny_corpus.prepared(RECIPE), 'tiny', tmp_path, seen.append
  )
  assert [p.stage for p in seen] == ['warm-up', 'search', 'search']
  assert found['names'] == SPACE.names(found['arch'])
  assert [len(names) for _, names in found['edges']] == [2, 3]
  losses = found['curves']['train_loss']
  assert losses[-1] < losses[0]
  for drawn in (
    plots.probabilities(*plots.decisions(found)),
    plots.derived(SPACE, [found['arch']], [method.name]),
  ):
    told = {text.get_text() for text in drawn.findobj(Text)}
    assert any(word.startswith('second') for word in told)
    assert set(SPACE.names_of_choices(found['arch'])) <= told
  with pytest.raises(ValueError, match='toy is no chain'):
    Supernet(SPACE, MACRO, ('dense', 'shift'))


def test_macro_networks_of_others_are_refused():
  with pytest.raises(ValueError, match="'tiny' is none of space toy; take one"):
    families.check(SPACE, macros.TINY)
  with pytest.raises(ValueError, match="macro 'toy' is none of space nb_asr"):
    families.check(spaces.NB_ASR, MACRO)
  # Tables may hold a space before anything runs its architectures.
  with pytest.raises(ValueError, match="no network for space 'new'"):
    macros.default(spaces.Space('new', {'width': ('1', '2')}))


def _launch(launcher, *flags):
  """Runs a launcher that knows the family; returns what it printed."""
  body = (
    'import runpy, sys, toy_family\n'
    'toy_family.register()\n'
    f'sys.argv[0] = "experiments/{launcher}.py"\n'
    f'runpy.run_path("experiments/{launcher}.py", run_name="__main__")\n'
  )
  tests = tiny_run.ROOT / 'tests'
  environment = dict(os.environ, XLA_FLAGS=tiny_run.UNOPTIMISED)
  environment['PYTHONPATH'] = os.pathsep.join(
    [str(tests / 'support'), str(tests.parent / 'experiments'), *sys.path]
  )
  done = subprocess.run(
    [sys.executable, '-c', body, *flags],
    cwd=tiny_run.ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_launchers_train_and_search_it(tmp_path):
  given = tiny_run.finished().flags
  dropped = ('--cells=', '--macro=', '--seeds=', '--members_per_shard=')
  common = [f for f in given if not f.startswith(dropped)]
  common += ['--space=toy', '--macro=toy_80', '--seeds=1', '--cpu_devices=1']
  out = tmp_path / 'benchmark'
  output = _launch(
    'benchmark', *common, '--random_cells=2', '--members_per_shard=1',
    f'--out={out}',
  )  # fmt: skip
  assert '2 cells, 2 networks' in output and 'first=' in output
  assert set(table.open(out).column('macro')) == {'toy_80'}
  output = _launch(
    'search', *common, '--evaluate=train', '--searchers=evolution,gcn',
    '--budget=3', '--repeats=1', '--suggestions=2', f'--out={tmp_path / "s"}',
    f'--json={tmp_path / "found.json"}',
  )  # fmt: skip
  found = json.loads((tmp_path / 'found.json').read_text())
  assert list(found) == ['random', 'evolution', 'gcn']
  out = tmp_path / 'oneshot'
  output = _launch(
    'oneshot', *common, '--methods=st_nas,darts', '--search_seeds=0',
    '--warm_up_epochs=1', '--search_epochs=1', '--random_archs=1',
    '--rank_methods=st_nas', f'--table={tmp_path / "benchmark"}',
    f'--out={out}',
  )  # fmt: skip
  assert 'toy: 2 edges, 6 choices' in output
  hear = 'python experiments/transcribe.py'
  assert f'{hear} --run={out} --search=st_nas --seed=0 audio.wav' in output
  report = json.loads((out / 'report.json').read_text())
  assert report['found']['largest operation']['archs'] == [
    'first=dense, second=dense [0,0]'
  ]
  assert len(report['rank_correlations']) == 1
  names = {path.stem for path in (out / 'figures').iterdir()}
  assert {'comparison', 'derived', 'learning', 'ranks_st_nas_0'} <= names
  assert {'probabilities_darts_0', 'entropies_darts_0'} <= names
