"""Tests of experiments/todm.py: real processes, one of them killed."""

import json
import runpy
import shutil
import signal
import sys
import time

import notebooks
import pytest
import tiny_run

import nasjax

sys.path.insert(0, 'experiments')
from studies import todm_study

from nasjax.oneshot import sandwich

_OF_THE_TABLE = ('--cells=', '--members_per_shard=', '--out=', '--macro=')
_OWN = '--own=tests/support/own_todm.py'
SECONDS = 280


def _command(out):
  """A1 and D of a space of two layers."""
  tiny = tiny_run.finished()
  own = [f for f in tiny.flags if not f.startswith(_OF_THE_TABLE)]
  return (
    *own,
    _OWN,
    '--space=own_todm',
    '--rows=A1,D',
    '--ablation=kl_top10',  # the same training
    '--sizes=max',
    '--decoder=greedy',
    '--l2=0',
    '--cpu_devices=1',
    '--population=4',
    '--mutants=1',
    '--crossings=1',
    '--generations=3',
    '--bins=4',
    f'--out={out}',
    f'--json={out}.json',
  )


@pytest.mark.parametrize(
  'flags, told',
  [
    (['--rows=A1,Z'], "--rows: 'Z'; there are A1, A2, A3, B0, B1, C, D, E, F"),
    (['--rows='], '--rows is empty'),
    (['--sizes=min,large'], "--sizes: 'large' is no size; give min, middle"),
    (['--sizes='], '--sizes is empty'),
    (['--ablation=kl_bottom2'], "--ablation: 'kl_bottom2'; want a divergence"),
    (['--plan_for=h100'], 'is for planning; give --dry_run, too'),
    (['--plan_for=abacus', '--dry_run'], "no chip is called 'abacus'"),
    (['--sizes=5', '--plan_for=h100', '--dry_run'], 'there are 0.'),
    (['--loss=ctc', '--plan_for=h100', '--dry_run'], 'is a transducer'),
    (['--mutation_rate=0'], '--mutation_rate=0.0: want a probability above 0'),
    (['--rows=paths', '--mutants=0', '--crossings=0'], '--mutants=0, --cross'),
    (
      ['--plan_hours=inf', '--plan_for=h100', '--dry_run'],
      '--plan_hours=inf: want a finite number',
    ),
    (
      [
        *('--rows=A1', '--ablation=kl_top99', '--curriculum='),
        *('--plan_for=h100', '--dry_run'),
      ],
      'distil: 99 of 49 outputs leave no rest',
    ),
    (
      ['--space=st_nas', '--loss=ctc', '--plan_for=h100', '--dry_run'],
      'not those of --space=st_nas; leave it out: --dry_run times them',
    ),
  ],
)
def test_bad_flags_are_one_line(flags, told, tmp_path):
  status, _, errors = tiny_run.forked(
    f'--out={tmp_path / "out"}', *flags, launcher='todm'
  )
  assert status == 1 and told in errors and errors.count('\n') == 1, errors


def test_plans_the_paper_s_size_without_corpus_and_device(tmp_path):
  path = tmp_path / 'plan.json'
  status, output, errors = tiny_run.forked(
    '--flagfile=experiments/flags/todm.flags',
    '--dry_run',
    '--plan_for=h100',
    f'--json={path}',
    launcher='todm',
  )
  assert status == 0, errors
  found = json.loads(path.read_text())
  rows = {row['what']: row for row in found['rows']}
  assert list(rows)[:3] == ['A1 min', 'A1 41.04', 'A1 max']
  assert found['seconds'] == sum(row['total'] for row in rows.values())
  alone = rows['A1 max']['seconds']
  assert alone < rows['B1']['seconds'] < rows['D']['seconds'] < 2 * alone
  assert 'projected time: ' in output and '4,097 outputs' in output


def test_ways_are_the_rows_and_variations_of_d():
  ways, alone = todm_study.ways(
    ['B1', 'A1', 'D', 'D'], ['kl_top2', 'alpha_label_blank']
  )
  assert alone and [way.label for way in ways] == [
    'B1', 'D', 'kl_top2', 'alpha_label_blank'
  ]  # fmt: skip
  assert [way.table for way in ways] == [1, 1, 2, 2]
  one, other = (way.options.distil for way in ways[2:])
  assert (one.differ, one.select, one.count) == ('kl', 'top', 2)
  assert (other.differ, other.select) == ('alpha', 'label_blank')
  assert ways[1].options == sandwich.ROWS['D']
  same, _ = todm_study.ways(['E', 'D'], ['alpha_top10', 'kl_top2'])
  assert [[way.label for way in one] for one in todm_study.alike(same)] == [
    ['E', 'alpha_top10'], ['D'], ['kl_top2']
  ]  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def _registered():
  """Lets this process know of the space, too, for as long as it must."""
  names = runpy.run_path(str(tiny_run.SUPPORT / 'own_todm.py'))
  yield
  names['forget']()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The directory of a study that was never interrupted."""
  out = tmp_path_factory.mktemp('todm') / 'whole'
  status, output, errors = tiny_run.forked(*_command(out), launcher='todm')
  assert status == 0, errors
  assert 'Table 1, ways to train: test PER' in output
  return out


def _results(out):
  """What a study found, without what two honest ones may differ in."""
  report = json.loads(out.with_suffix('.json').read_text())
  del report['costs'], report['said']
  for row in [*report['supernets'], *report['alone']]:
    for name in [name for name in row if 'seconds' in name or 'joules' in name]:
      del row[name]
  return report


@pytest.mark.slow
def test_networks_of_a_supernet_stand_beside_those_trained_alone(whole):
  report = _results(whole)
  supernet, same = report['supernets']
  # The space has six.
  assert supernet['label'] == 'D' and supernet['evaluated'] == 6
  told = {'label': 'kl_top10', 'way': 'kl_top10', 'table': 2}
  assert same == supernet | told | {'what': same['what']}
  assert nasjax.best(whole, way='kl_top10').seed == 1
  sizes = {size['name']: size['params'] for size in report['sizes']}
  assert report['range'][0] < report['range'][1] == sizes['max']
  for at in supernet['at_sizes']:
    assert at['params'] <= sizes[at['size']]
    assert at['test'] >= 0
  assert [c['size'] for c in report['comparison']] == ['max', 'max']
  assert [row['size'] for row in report['alone']] == ['max']
  params = [row['params'] for row in supernet['store']]
  assert params == sorted(params) and params[0] == report['range'][0]
  names = {path.name for path in (whole / 'figures').iterdir()}
  assert names == {
    'costs.png', 'fronts.png', 'sizes.png', 'widths_D_1.png',
    'widths_kl_top10_1.png',
  }  # fmt: skip
  assert 'energy is not known' in (whole / 'report.md').read_text()


@pytest.mark.slow
def test_what_best_gives_hears_what_the_search_said(whole):
  supernet, _ = _results(whole)['supernets']
  row = min(supernet['store'], key=lambda row: row['validation'])
  found = nasjax.best(whole, way='D', seed=1)
  assert found.error == row['validation'] and found.params == row['params']
  status, output, errors = tiny_run.forked(
    f'--run={found.place}', '--list', _OWN, launcher='transcribe'
  )
  assert status == 0, errors
  assert f'{row["names"]}, seed 1, recipe tiny' in output


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['training', 'search'])
def test_killed_it_goes_on_to_the_same(whole, tmp_path, stage):
  out = tmp_path / 'killed'
  pattern = {'training': 'supernets/*/1', 'search': 'evolution/*.json'}[stage]
  with tiny_run.start(*_command(out), launcher='todm') as process:
    deadline = time.monotonic() + SECONDS
    while not list(out.glob(pattern)) and time.monotonic() < deadline:
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert not out.with_suffix('.json').exists()
  status, _, errors = tiny_run.forked(*_command(out), launcher='todm')
  assert status == 0, errors
  one, two = _results(whole), _results(out)
  for report, place in (one, whole), (two, out):
    for row in report['supernets']:
      assert row['prepared_corpus']
      assert str(place) not in json.dumps(row)
  assert one == two


@pytest.mark.slow
def test_records_alone_are_a_study(whole, tmp_path):
  out = tmp_path / 'light'
  (out / 'supernets').mkdir(parents=True)
  shutil.copytree(whole / 'table', out / 'table')
  for path in (whole / 'supernets').glob('*.json'):
    shutil.copy(path, out / 'supernets')
  status, output, errors = tiny_run.forked(*_command(out), launcher='todm')
  assert status == 0, errors
  assert 'epoch' not in output and not (out / 'evolution').exists()
  assert _results(out) == _results(whole)
  path = min((out / 'supernets').glob('*.json'))
  path.write_text('{"name": ')
  status, output, errors = tiny_run.forked(*_command(out), launcher='todm')
  assert status == 1 and f'{path} is damaged' in output + errors


@pytest.mark.slow
def test_the_notebook_runs_on_it(whole, monkeypatch, capsys):
  """In this process, which knows of the space."""
  monkeypatch.setenv('NASJAX_RUN', str(whole))
  monkeypatch.setenv('NASJAX_DATA_DIR', str(tiny_run.finished().data_dir))
  names = notebooks.run_here('todm')
  text = capsys.readouterr().out
  assert 'way D, seed 1' in text and 'parameters, validation PER' in text
  assert [f'{s}%:' in text for s in (' 30', ' 50', '100')] == [True] * 3
  assert names['network'].arch.tolist() == names['chosen'].arch.tolist()
