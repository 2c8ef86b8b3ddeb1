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

from nasjax import cost, spaces, table
from nasjax.benchmark import running
from nasjax.models import families, macros
from nasjax.oneshot import methods, searching, stages, steps
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


def _job():
  tiny = tiny_corpus.corpus()
  return running.Job(SPACE, MACRO, RECIPE, tiny.name, tiny.fingerprint)


def test_populations_become_a_table(tmp_path):
  job, prepared = _job(), tiny_corpus.prepared(RECIPE)
  members = [(arch, seed) for arch in SPACE.enumerate()[:3] for seed in (1, 2)]
  shards = running.plan(job, members, 2)
  assert [shard.signature for shard in shards] == [
    ('dense', 'dense'), ('dense', 'shift'), ('shift', 'dense'),
  ]  # fmt: skip
  for shard in shards:
    assert running.run_shard(job, shard, prepared, tmp_path)
  t = table.open(tmp_path)
  assert len(t) == 6 and t.space is SPACE
  named = {'first': 'dense', 'second': 'shift'}
  assert 0 < t.query(named, 'test_per', seed='mean') < 2
  assert t.query(named, 'params', seed=1) == 8 * (8 + 6 + 2 * 8)
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
  with pytest.raises(ValueError, match='toy is no chain'):
    Supernet(SPACE, MACRO, ('dense', 'shift'))


def test_macro_networks_of_others_are_refused():
  with pytest.raises(ValueError, match="'tiny' is none of space toy; take one"):
    families.check(SPACE, macros.TINY)
  with pytest.raises(ValueError, match="macro 'toy' is none of space nb_asr"):
    families.check(spaces.NB_ASR, MACRO)


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
