"""Tests of the throughput race: fair networks, real workers, honest sums."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest
import throughput
import tiny_run as launcher
import torch_weights
from races import throughput_cells as race_lib
from races import throughput_report as report

from nasjax import cells, cost, models, plots
from nasjax.losses import ctc
from nasjax.models import families

SETTINGS = {'batch': 2, 'frames': 48, 'steps': 1}
ASKED = (
  'engine', 'width', 'cells', 'members', 'seconds_per_member_step',
  'utilisation',
)  # fmt: skip


# What is raced.


@pytest.mark.parametrize('base', race_lib.CELLS)
def test_a_signature_population_has_different_cells_and_one_program(base):
  archs_pd = race_lib.archs(base, 'signature', 32)
  assert len(np.unique(archs_pd, axis=0)) == 32
  assert len(race_lib.groups(archs_pd)) == 1
  single = race_lib.archs(base, 'single', 1)
  assert len(race_lib.groups(np.concatenate([single, archs_pd]))) == 1


def test_a_mixed_population_has_several_programs_and_every_operation():
  archs_pd = race_lib.archs('mixture', 'mixed', 32)
  assert len(np.unique(archs_pd, axis=0)) == 32
  assert len(race_lib.groups(archs_pd[:2])) == 2
  assert len(race_lib.groups(archs_pd)) > 8
  used = {op for arch in archs_pd for op in race_lib.SPACE.main_ops(arch)}
  assert used == set(race_lib.SPACE.ops)
  np.testing.assert_array_equal(
    race_lib.archs('mixture', 'mixed', 16), archs_pd[:16]
  )


def test_copies_are_copies():
  archs_pd = race_lib.archs('conv', 'seeds', 3)
  assert [race_lib.SPACE.nested(a) for a in archs_pd] == [
    [[1, 1], [1, 1, 1], [1, 1, 1, 1]]
  ] * 3


def test_a_population_larger_than_the_cells_is_refused():
  assert len(race_lib.archs('linear', 'signature', 64)) == 64
  with pytest.raises(ValueError, match='65 linear .* only 64; lower --popul'):
    race_lib.archs('linear', 'signature', 65)


def test_flops_are_those_of_the_mean_cell():
  archs_pd = race_lib.archs('mixture', 'mixed', 3)
  macs = [cost.macs(race_lib.SPACE, a, models.TINY, 48) for a in archs_pd]
  expected = 2 * 3 * 2 * sum(macs) / 3
  assert race_lib.flops(archs_pd, models.TINY, 2, 48) == pytest.approx(expected)


def test_quick_races_are_those_of_the_goals():
  found = throughput.races(race_lib.ENGINES, ['mixture'], [2], quick=True)
  assert [tuple(race) for race in found] == [
    (engine, *kind)
    for kind in (
      ('full', 'linear', 'single', 1),
      ('full', 'conv', 'single', 1),
      ('full', 'mixture', 'single', 1),
      ('small', 'mixture', 'mixed', 16),
    )
    for engine in ('nasjax', 'torch')
  ]


def test_all_populations_race_against_all_engines():
  found = throughput.races(
    race_lib.ENGINES, ['linear', 'conv'], [2, 4], quick=False
  )
  assert len(found) == len(set(found))
  many = [race for race in found if race.members > 1]
  assert len(many) == 2 * (2 * 2 + 1) * 3
  assert {race.engine for race in found if race.members == 1} == {
    'nasjax',
    'torch',
  }


# The rows.


def _answer(seconds, **others):
  return {
    'seconds': seconds,
    'flops': 4e9,
    'peak': 1e11,
    'compile_s': [3.0, 5.0],
    'start_s': 20.0,
    'padding': 0,
    'device': '2 x cpu',
  } | others


def _made():
  """Two kinds of race; in the second, PyTorch has not run yet."""
  one, many = ('full', 'conv', 'single', 1), ('small', 'mixture', 'mixed', 4)
  return {
    race_lib.Race('nasjax', *one): [
      _answer([0.2, 0.1]),
      _answer([0.1, 0.1], start_s=7.0),
    ],
    race_lib.Race('torch', *one): [
      _answer([0.3, 0.3], compile_s=[]),
      _answer([0.2, 0.5], compile_s=[], peak=2e11),
    ],
    race_lib.Race('nasjax', *many): [_answer([0.04, 0.06], padding=2)],
    race_lib.Race('loop', *many): [_answer([0.08, 0.08])],
    race_lib.Race('torch', *many): [],
  }


def test_rows_of_made_answers():
  rows = report.rows(_made(), SETTINGS)
  assert len(rows) == 4
  for row in rows:
    assert set(ASKED) <= set(row)
    assert row['population'] == ('single' if row['members'] == 1 else 'mixed')
    assert row['batch'] == 2
    # The best product of any process counts for all.
    assert row['peak_flops_per_second'] == 2e11
  nasjax, torch, many, loop = rows
  assert nasjax['seconds_per_member_step'] == pytest.approx(0.1)
  assert (nasjax['fastest'], nasjax['slowest']) == (0.1, 0.2)
  assert nasjax['utilisation'] == pytest.approx(4e9 / 0.1 / 2e11)
  assert nasjax['times_torch'] == pytest.approx(3)
  assert (nasjax['compile_s'], nasjax['programs']) == (5, 2)
  assert (nasjax['start_s'], nasjax['cached_start_s']) == (20, 7)
  assert torch['seconds_per_member_step'] == pytest.approx(0.3)
  assert torch['times_torch'] == pytest.approx(1)
  assert (torch['compile_s'], torch['programs']) == (None, 0)
  assert many['seconds_per_member_step'] == pytest.approx(0.05)
  assert (many['times_torch'], many['cached_start_s']) == (None, None)
  assert (many['padding'], loop['padding']) == (2, 0)


def test_the_table_shows_ratio_and_peak(capsys):
  report.show(report.rows(_made(), SETTINGS))
  text = capsys.readouterr().out
  line = next(s for s in text.splitlines() if 'nasjax' in s and 'full' in s)
  columns = [part.strip() for part in re.split('[│┃]', line)]
  assert columns[4:6] == ['nasjax', '1']
  assert columns[6:10] == ['100.0', '100.0–200.0', '20%', '3.00']
  assert '200 GFLOP/s' in text


def test_the_figure_has_a_panel_for_each_kind(tmp_path):
  rows = report.rows(_made(), SETTINGS)
  figure = report.draw(rows)
  titles = [ax.get_title(loc='left') for ax in figure.axes]
  assert titles == [
    'one network, full width',
    'cells of all signatures,\nsmall width',
  ]
  lines = {c.get_label(): c for c in figure.axes[1].containers}
  assert set(lines) == {'nasjax', 'loop'}
  np.testing.assert_allclose(lines['nasjax'][0].get_xydata(), [[4, 50]])
  plots.save(figure, tmp_path / 'race.png')
  assert matplotlib.image.imread(tmp_path / 'race.png').std() > 0


# The workers.


def _workers(monkeypatch, races):
  """Runs real workers for one round; returns rows and what was published."""
  monkeypatch.delenv('XLA_FLAGS', raising=False)  # they count their devices
  published = []
  rows = throughput.run_rounds(races, SETTINGS, 1, published.append)
  return rows, published


# In small: a worker that fails, and rows of made answers.
@pytest.mark.slow
def test_workers_of_nasjax_and_loop(monkeypatch):
  if len(os.sched_getaffinity(0)) < 2:
    pytest.skip('two workers need two cores')
  races = [
    race_lib.Race('nasjax', 'tiny', 'mixture', 'seeds', 3),
    race_lib.Race('loop', 'tiny', 'mixture', 'mixed', 3),
  ]
  rows, published = _workers(monkeypatch, races)
  assert [len(found) for found in published] == [1, 2]
  assert json.loads(json.dumps(rows)) == published[-1]
  programs = len(race_lib.groups(race_lib.archs('mixture', 'mixed', 3)))
  # Each of two workers compiles the signature that they share.
  assert [row['programs'] for row in rows] == [2, programs]
  assert [row['padding'] for row in rows] == [0, 0]
  assert [row['device'] for row in rows] == ['2 x cpu', '1 x cpu']
  for row in rows:
    assert 0 < row['fastest'] <= row['seconds_per_member_step'] < 1
    assert 0 < row['utilisation'] < 1
    assert 0 < row['compile_s'] < row['start_s']
    assert row['times_torch'] is None


def test_worker_of_torch(monkeypatch):
  pytest.importorskip('torch')
  race = race_lib.Race('torch', 'tiny', 'mixture', 'mixed', 3)
  (row,), _ = _workers(monkeypatch, [race])
  assert 0 < row['seconds_per_member_step'] < 1
  assert 0 < row['utilisation'] < 1
  assert row['times_torch'] == 1


def test_a_failing_worker_is_named_with_what_it_said(tmp_path):
  race = race_lib.Race('loop', 'tiny', 'conv', 'single', 1)
  with pytest.raises(ChildProcessError) as caught:
    throughput.measure(race._replace(width='huge'), SETTINGS, tmp_path)
  text = str(caught.value)
  assert '"engine": "loop", "width": "huge"' in text
  assert "KeyError: 'huge'" in text


_WITHOUT_TORCH = """
import sys
sys.modules['torch'] = None
sys.path.insert(0, 'experiments')
sys.argv = ['throughput.py', *sys.argv[1:]]
import throughput
from common import command
command.run(throughput.run)
"""


@pytest.mark.parametrize(
  'flag, error',
  [
    ('--quick', 'pip install torch==2.13.0, or race without it, --engines='),
    ('--engines=jax', "--engines: 'jax' is none of nasjax, loop, torch"),
    ('--populations=2,0', "--populations: '0' is no number from 1 on"),
  ],
)
def test_what_a_user_can_mend_is_one_line(flag, error):
  done = subprocess.run(
    [sys.executable, '-c', _WITHOUT_TORCH, '--engines=nasjax,torch', flag],
    cwd=launcher.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 1
  assert error in done.stderr
  assert done.stderr.count('\n') == 1


# Both engines compute the same.


def _renamed(state, layers):
  """PyTorch's parameters under the names that `torch_weights` maps."""
  out = {}
  for name, value in state.items():
    value = value.detach().numpy()
    name = name.replace('body.', 'model.').replace('.norm.layer', '.norm_layer')
    name = re.sub(r'nodes\.(\d+)\.', r'nodes.\1.op.', name)
    name = name.replace('lstm.', f'model.{layers}.')
    name = name.replace('head.', f'model.{layers + 1}.')
    out[name] = value[:, :, 0] if value.ndim == 4 else value
  return out


@pytest.mark.parametrize(
  'arch',
  [
    [[3, 1], [0, 0, 1], [2, 1, 0, 1]],
    [[5, 1], [4, 0, 0], [1, 0, 0, 1]],
  ],
)
def test_torch_computes_the_same_loss_and_gradient(arch):
  torch = pytest.importorskip('torch')
  from races import torch_network

  macro = dataclasses.replace(
    models.SMALL, filters=(100, 200), cells=(1, 1), strides=(1, 2), lstm=16
  )
  arch = race_lib.SPACE.parse(arch)
  x_btf, labels_bl = race_lib.utterances(macro, 2, 40, 1)
  torch.manual_seed(0)
  model = torch_network.Network(arch, macro, 0.0)
  loss = torch_network.loss_of(
    model, macro, torch.tensor(x_btf), torch.tensor(labels_bl)
  )
  loss.backward()
  # Its LSTM has a second bias vector, with the gradient of the first.
  norm = sum(
    p.grad.square().sum()
    for name, p in model.named_parameters()
    if p.grad is not None and name != 'lstm.bias_hh_l0'
  ).sqrt()
  params = torch_weights.network_params(
    _renamed(model.state_dict(), len(model.body)), arch, macro
  )
  network = models.single(race_lib.SPACE, arch, macro)
  gates = cells.gates(race_lib.SPACE, arch)

  @jax.jit
  @jax.value_and_grad
  def objective(params):
    logits_btv, len_b = network.apply(
      {'params': params}, x_btf, np.full(2, 40), gates
    )
    return ctc.mean_ctc_loss(
      logits_btv, len_b, labels_bl, np.full(2, labels_bl.shape[1])
    )

  expected, grads = objective(params)
  squares = sum(float(np.square(g).sum()) for g in jax.tree.leaves(grads))
  assert loss.item() == pytest.approx(float(expected), rel=1e-4)
  assert norm.item() == pytest.approx(squares**0.5, rel=1e-4)


def test_the_raced_recipe_is_the_papers():
  recipe = race_lib.recipe(8)
  assert (recipe.dropout, recipe.clip, recipe.l2) == (0.2, 5, 0)
  network = families.network(
    race_lib.SPACE, race_lib.archs('conv', 'single', 1)[0], models.TINY, recipe
  )
  assert network.rate == 0.2 and network.conv_dropout
