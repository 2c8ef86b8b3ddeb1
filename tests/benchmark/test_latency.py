"""Latency measured for real, on networks small enough for a test."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
import tiny_run as launcher
from table_rows import SPACE, file, row

from nasjax import cells, cost, kernels, models, table
from nasjax.benchmark import latency
from nasjax.models import families, macros
from nasjax.predictors import latency as predictors

MACRO = models.TINY.with_outputs(12)
# Two programs, whichever kernels there are.
LINEAR = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
SKIPS = [[0, 0], [0, 1, 1], [0, 1, 1, 0]]
CONV = [[1, 1], [5, 0, 1], [5, 0, 0, 1]]
ALIKE = [[1, 1], [5, 0, 1], [5, 0, 1, 0]]  # t_2 = t_1: either skip will do
CELLS = (LINEAR, SKIPS, CONV)
SETTING = table.Setting('bench', 2, 24, 'tiny')


@pytest.fixture
def runs(tmp_path):
  """A table of runs of three cells, two seeds each."""
  rows = [
    row(cell, s, 'e5', macro='tiny', params=cost.params(SPACE, cell, MACRO))
    for cell in CELLS
    for s in (1, 2)
  ]
  table.write_shard(tmp_path / 'table', 'runs', rows)
  return tmp_path


def test_a_pass_is_that_of_the_cell():
  """What is timed gives the logits of the cell's own network."""
  watch, arch = latency.Stopwatch(SPACE, MACRO, 2, 24), SPACE.parse(CONV)
  timing = watch.time(arch)
  assert 0 < timing.quartile_low <= timing.median <= timing.quartile_high
  assert (timing.runs, timing.warmup) == (50, 10)
  gates = cells.gates(SPACE, arch)
  inputs = watch._x_btf, watch._len_b, gates
  found_btv = watch._forward(watch._params, *inputs)
  assert found_btv.shape == (2, 6, 12)
  params = watch._params
  if kernels.choose() == 'native':
    params = models.unpack(SPACE, arch, params)
  network = models.single(SPACE, arch, MACRO)
  expected_btv, _ = jax.jit(network.apply)({'params': params}, *inputs)
  assert np.abs(expected_btv).max() > 0.01
  np.testing.assert_allclose(found_btv, expected_btv, atol=1e-4)


def test_programs_are_shared_only_where_that_costs_nothing(monkeypatch):
  conv7 = [[2, 1], [5, 0, 1], [5, 0, 0, 1]]
  arch, other = SPACE.parse(CONV), SPACE.parse(conv7)
  for kind, same in (('native', True), ('xla', False)):
    monkeypatch.setattr(kernels, 'choose', lambda kind=kind: kind)
    one, two = (families.alone(SPACE, a) for a in (arch, other))
    assert (one == two) == same
  assert families.alone(SPACE, SPACE.parse(SKIPS)) == ('linear',) * 3


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'batch': 0}, 'batch is 0'),
    ({'frames': np.int64(0)}, 'frames is 0; want at least 1'),
    ({'runs': 49}, 'runs is 49; want at least 50'),
    ({'warmup': 0}, 'warmup is 0'),
    ({'batch': 1.0}, 'batch is 1.0'),
    ({'frames': True}, 'frames is True'),
  ],
)
def test_settings_out_of_range(changes, named):
  how = {'batch': 1, 'frames': 24} | changes
  with pytest.raises(ValueError, match=named):
    latency.Stopwatch(SPACE, MACRO, **how)


def test_the_macro_network_is_the_one_trained(runs, tmp_path):
  assert latency.macro_of(table.open(runs)) == MACRO
  for n, changes in enumerate(({'macro': 'own'}, {'params': 4711})):
    other = tmp_path / f'other{n}'
    rows = [row(LINEAR, **({'macro': 'tiny'} | changes))]
    table.write_shard(other, 'runs', rows)
    with pytest.raises(ValueError, match='no network here is that.*tiny'):
      latency.macro_of(table.open(other))


def test_a_killed_measurement_goes_on(runs):
  told = []

  def kill(done, total):
    told.append((done, total))
    if done == 2:
      raise KeyboardInterrupt

  t = table.open(runs)
  how = {'cells_per_shard': 1}
  with pytest.raises(KeyboardInterrupt):
    latency.measure(t, t.archs, MACRO, SETTING, on_cell=kill, **how)
  assert told == [(0, 3), (1, 3), (2, 3)]
  t = table.open(runs)
  (first,) = t.latency_archs()
  before = t.latency(first)

  told.clear()
  tell = lambda *counts: told.append(counts)  # noqa: E731
  assert latency.measure(t, t.archs, MACRO, SETTING, on_cell=tell, **how) == 2
  assert told == [(0, 2), (1, 2), (2, 2)]
  t = table.open(runs)
  assert t.latencies == (SETTING,)
  np.testing.assert_array_equal(t.latency_archs(), t.archs)
  # What was measured stands, and is not measured again.
  assert t.latency(first) == before
  assert len(t.latency_shards) == 3
  archs = np.array([*t.archs, SPACE.parse(ALIKE)])
  assert latency.measure(t, archs, MACRO, SETTING) == 0
  assert t.latency(ALIKE) == t.latency(CONV)
  for shard in t.latency_shards:
    assert shard.rows == 1
    assert shard.meta['kernels'] == kernels.choose()
    told_macro = {
      k: tuple(v) if isinstance(v, list) else v
      for k, v in shard.meta['macro'].items()
    }
    assert macros.Cells(**told_macro) == MACRO
  low, high = (t.latency(t.archs, quantile=q) for q in (0.25, 0.75))
  assert (low > 0).all() and (low <= t.latency(t.archs)).all()
  assert (t.latency(t.archs) <= high).all()


def test_pending_cells_are_one_a_function_and_program_by_program(runs):
  t = table.open(runs)
  archs = np.array([SPACE.parse(c) for c in (CONV, LINEAR, ALIKE, SKIPS)])
  found = latency.pending(t, archs, SETTING)
  programs = [families.alone(SPACE, arch) for arch in found]
  assert len(found) == 3 and programs == sorted(programs)
  keys = set(SPACE.semantic_keys(found))
  assert keys == set(SPACE.semantic_keys(archs))


def test_device_names():
  name = latency.device_name()
  assert name.endswith(f'{len(os.sched_getaffinity(0))} cores')
  assert name.strip()[0] != ','


def test_the_launcher_fills_the_table(runs):
  status, output, errors = launcher.forked(
    f'--table={runs}',
    '--cells=2',
    '--frames=24',
    '--device=bench',
    '--cores=1',
    f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}',
    launcher='latency',
  )
  assert status == 0, errors
  assert '2 cells measured' in output
  assert '2 cells of tiny on bench, batch 1, 24 frames' in output
  t = table.open(runs)
  assert t.latencies == (table.Setting('bench', 1, 24, 'tiny'),)
  assert (t.latency(t.latency_archs()) > 0).all()
  versions = json.loads(
    table.shards.read(t.latency_shards[0])['versions'][0].as_py()
  )
  assert versions['jax'] == jax.__version__


def test_the_launcher_profiles_architectures_of_any_space(tmp_path):
  out = tmp_path / 'profile.json'
  status, output, errors = launcher.forked(
    '--random_cells=2',
    '--space=st_nas',
    '--macro=st_nas_tiny',
    '--frames=24',
    '--batch=2',
    '--device=bench',
    f'--json={out}',
    f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}',
    launcher='latency',
  )
  assert status == 0, errors
  assert '2 cells of st_nas_tiny on bench, batch 2, 24 frames' in output
  assert 'too few to hold any out' in output
  record = json.loads(out.read_text())
  profile = predictors.read(out)
  assert profile.macro == macros.ST_NAS_TINY
  assert [profile.device, profile.batch, profile.frames] == ['bench', 2, 24]
  for cell, arch in zip(record['cells'], profile.archs_nd):
    assert cell['real_time_factor'] == pytest.approx(cell['seconds'] / 0.48)
    least = cost.params(profile.space, arch, macros.ST_NAS_TINY)
    assert cell['params'] == least
    assert cell['peak_bytes'] > 4 * least
    assert cell['quartile_low'] <= cell['seconds'] <= cell['quartile_high']


def test_the_launcher_times_what_onnx_runtime_runs(tmp_path):
  pytest.importorskip('onnxruntime')
  out = tmp_path / 'profile.json'
  status, output, errors = launcher.forked(
    '--random_cells=1',
    '--space=st_nas',
    '--macro=st_nas_tiny',
    '--frames=24',
    '--batch=2',
    '--runtime=onnx',
    '--threads=1',
    f'--json={out}',
    launcher='latency',
  )
  assert status == 0, errors
  assert 'ONNX Runtime with 1 threads, batch 2, 24 frames' in output
  (cell,) = json.loads(out.read_text())['cells']
  assert cell['real_time_factor'] == pytest.approx(cell['seconds'] / 0.48)
  assert cell['peak_bytes'] > 4 * cell['params']
  assert predictors.read(out).device.endswith('ONNX Runtime with 1 threads')


def test_what_a_user_can_mend_is_one_line(runs):
  mistakes = {
    (f'--table={runs}', '--random_cells=2'): 'leave one out',
    (f'--table={runs}', '--macro=st_nas'): 'is no network of space nb_asr',
    ('--random_cells=2', '--space=moon'): '--space=moon: there are nb_asr',
    ('--random_cells=2', '--threads=2'): '--threads=2 is for --runtime=onnx',
    ('--random_cells=2', '--predictors=moon'): "'moon'; there are operations",
    (): '--table is empty',
    ('--table=/nowhere',): '/nowhere does not exist',
    (f'--table={runs}', '--cells=4'): '--cells=4: want all, or a number from 1',
    (f'--table={runs}', '--cores=9999'): '--cores=9999: there are',
    (f'--table={runs}', '--macro=huge'): 'nb_asr|nb_asr_49|small',
  }
  found = launcher.tried([*mistakes, ('--help',)], 'latency')
  for (status, _, errors), error in zip(found, mistakes.values()):
    assert status == 1
    assert error in errors, errors
    assert errors.count('\n') == 1
  assert not table.open(runs).latencies
  # The flag names every macro network.
  status, helped, _ = found[-1]
  assert status == 0
  assert f'<{"|".join(families.MACROS)}>' in ''.join(helped.split())


def test_the_name_of_a_shard_follows_from_what_was_measured(runs):
  t = table.open(runs)
  setting = SETTING._replace(device='other')
  assert latency.measure(t, t.archs[:1], MACRO, setting) == 1
  (shard,) = table.open(runs).latency_shards
  for suffix in ('.json', '.parquet'):
    file(runs / 'table', shard.name, suffix).unlink()
  assert latency.measure(t, t.archs[:1], MACRO, setting) == 1
  assert table.open(runs).latency_shards[0].name == shard.name
  other = dataclasses.replace(MACRO, name='twin')
  assert latency.measure(t, t.archs[:1], other, setting) == 1
  assert len(table.open(runs).latency_shards) == 2
