"""The table of the repository: what it holds, and that it can be made again."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from nasjax import table

ROOT = pathlib.Path(__file__).parent.parent
PATH = ROOT / 'experiments' / 'tables' / 'synthetic_timit'
# Other kernels round in another order: 0.0012 apart, and in the loss of the
# first epochs 0.0001.
WITHIN = 0.02


@pytest.fixture(scope='module')
def rows():
  return table.open(PATH)


def test_the_table_is_whole_and_small(rows):
  report = table.verify(PATH)
  assert not report.problems
  assert sum(p.stat().st_size for p in PATH.rglob('*')) < 5e6
  archs = rows.space.product(
    ['linear', 'conv5', 'conv7d2'], ['s00', 's11', 's20', 's22']
  )
  assert len(archs) == 432
  np.testing.assert_array_equal(rows.archs, archs)
  assert rows.seeds == (1234, 1235, 1236) and rows.recipes == ('e2', 'e6')
  assert len(rows) == 432 * 3 * 2
  assert set(rows.column('status')) == {'ok'}
  for recipe in rows.recipes:
    for seed in rows.seeds:
      per = rows.query(rows.archs, 'test_per', seed=seed, recipe=recipe)
      assert np.isfinite(per).all()


def test_more_epochs_are_better(rows):
  short, whole = (
    rows.query(rows.archs, 'val_per', seed='mean', recipe=r, epoch='best')
    for r in rows.recipes
  )
  assert (whole < short).mean() > 0.99


def test_a_row_can_be_made_again(tmp_path):
  """By the command of the README, with the speech synthesised anew."""
  environment = dict(os.environ)
  environment.pop('XLA_FLAGS', None)
  done = subprocess.run(
    [
      sys.executable,
      'experiments/rebuild.py',
      '--flagfile=experiments/flags/table.flags',
      f'--data_dir={tmp_path}',
      f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}',
      '--cell=[[1,1],[0,0,1],[4,1,0,1]]',
      '--cell_seed=1234',
      '--cell_recipe=e2',
      f'--within={WITHIN}',
    ],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  found = dict(
    re.findall(r'(\w+_\w+) .*?([\d.e+-]+) │$', done.stdout, re.MULTILINE)
  )
  assert float(found['val_per']) <= WITHIN
  assert float(found['train_loss']) < 0.002


@pytest.mark.parametrize(
  'flags, words',
  [
    ('--cell=[[1,1]] --cell_seed=1234 --cell_recipe=e2', 'nodes'),
    (
      '--cell=[[1,1],[0,0,1],[4,1,0,1]] --cell_seed=1 --cell_recipe=e2',
      '[1234, 1235, 1236]',
    ),
  ],
)
def test_mistakes_are_one_line(tmp_path, flags, words):
  done = subprocess.run(
    [
      sys.executable,
      'experiments/rebuild.py',
      f'--data_dir={tmp_path}',
      '--compilation_cache=',
      *flags.split(),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 1
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith('rebuild.py: ') and words in line
