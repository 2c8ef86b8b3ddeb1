"""The table of macro networks: what the launcher prints, the guide holds."""

import json

import numpy as np
import pytest
import tiny_run
from summaries import macro_networks as launcher

from nasjax import cost, spaces
from nasjax.models import macros


@pytest.fixture(scope='module')
def rows():
  return {row['macro']: row for row in launcher.rows()}


def test_every_macro_network_has_a_row(rows):
  assert list(rows) == macros.names()


def test_figures_are_those_of_the_formulas(rows):
  # The published count of the largest cell; three linear operations.
  linear = [[0, 0], [0, 0, 0], [0, 0, 0, 0]]
  assert rows['nb_asr']['params_most'] == cost.params(
    spaces.NB_ASR, linear, macros.NB_ASR
  )
  for name in ('quick', 'st_nas'):
    row = rows[name]
    space = spaces.SPACES[row['space']]
    macro = macros.BY_SPACE[row['space']][name]
    rng = np.random.default_rng(1)
    for arch in rng.integers(0, space.sizes, (20, len(space.sizes)), np.int8):
      assert cost.params(space, arch, macro) <= row['params_most']
      assert cost.macs(space, arch, macro, 100) <= row['macs_most']
    assert 0 < row['params_median'] < row['params_most']
    assert 0 < row['macs_median'] < row['macs_most']
  assert rows['nb_asr']['layers'] == 4 + 3 * 18 + 2
  assert rows['st_nas']['layers'] == 8 and rows['quick']['frames_out'] == 25


def test_the_guide_holds_the_table(rows):
  guide = (tiny_run.ROOT / 'experiments' / 'GUIDE.md').read_text()
  told = '\n'.join(launcher.lines())
  assert told.count('\n') == len(rows) + 1 and told in guide


def test_the_launcher_prints_and_writes_it(tmp_path, rows):
  path = tmp_path / 'new' / 'macros.json'
  ((status, output, errors),) = tiny_run.tried(
    [[f'--json={path}']], 'macros', ('nasjax.cost',)
  )
  assert status == 0 and errors == ''
  assert output.splitlines() == launcher.lines()
  assert json.loads(path.read_text()) == list(rows.values())
