"""Tables as blackboxes of Syne Tune: what is in the files, and what reads them.

The package itself is asked where it is installed.
"""

import importlib
import json

import numpy as np
import planted_table
import pytest
import tiny_run

from nasjax import spaces


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """A table that lacks three cells, the blackbox of it, what was said."""
  place = tmp_path_factory.mktemp('syne_tune')
  cells = spaces.NB_ASR.product(('linear', 'conv5'), ('s00', 's10'))
  t = planted_table.write(place / 'table', cells[3:], failed=2)
  status, output, errors = tiny_run.forked(
    f'--table={t.path}', '--table_recipe=e40', f'--out={place / "out"}',
    launcher='export_syne_tune',
  )  # fmt: skip
  assert status == 0, errors
  return t, place / 'out', output


def _configuration(arch):
  names = spaces.NB_ASR.names_of_choices(arch)
  return dict(zip(spaces.NB_ASR.fields, names))


def _asked(t, arch, name, seed, epoch):
  curve = name in ('val_per', 'train_loss', 'val_loss')
  which = {'epoch': epoch} if curve else {}
  return t.query(arch, name, seed=seed, recipe='e40', **which)


def test_the_files_are_whole_and_the_rest_is_said(exported):
  _, out, output = exported
  assert {path.name for path in out.iterdir()} == {
    'configspace.json', 'fidelityspace.json', 'fidelities_values.npy',
    'hyperparameters.parquet', 'metadata.json', 'objectives_evaluations.npy',
  }  # fmt: skip
  about = json.loads((out / 'metadata.json').read_text())
  held = np.load(out / 'objectives_evaluations.npy')
  names = about['objectives_names']
  count = held.shape[1]
  assert held.shape == (1, count, 3, 40, len(names)) and count == 32 - 3
  assert f'{count} configurations' in output
  assert '3 further configurations' in output
  assert '2 runs failed: error rate 1' in output
  assert np.isfinite(held[..., names.index('val_per')]).all()


def test_mistakes_get_one_line(tmp_path):
  status, output, errors = tiny_run.forked(
    f'--table={tmp_path}', f'--out={tmp_path / "x"}',
    launcher='export_syne_tune',
  )  # fmt: skip
  assert status == 1 and output == '' and errors.count('\n') == 1
  assert errors.startswith('export_syne_tune.py: ')


def _package(module):
  pytest.importorskip('syne_tune.blackbox_repository', exc_type=ImportError)
  return importlib.import_module(f'syne_tune.{module}')


@pytest.mark.filterwarnings('ignore')
def test_the_package_answers_as_the_table_does(exported):
  tabular = _package('blackbox_repository.blackbox_tabular')
  t, out, _ = exported
  (blackbox,) = tabular.deserialize(str(out)).values()
  archs = t.select(recipe='e40').archs
  for arch in archs[:5]:
    for s, seed in enumerate(t.seeds):
      for epoch in (1, 17, 40):
        told = blackbox.objective_function(
          _configuration(arch), fidelity={'epoch': epoch}, seed=s
        )
        for name in ('val_per', 'train_loss', 'test_per', 'params', 'macs'):
          asked = _asked(t, arch, name, seed, epoch)
          failed = np.isnan(asked) and name.endswith('per')
          assert told[name] == (1 if failed else pytest.approx(asked, nan_ok=1))
  seconds = blackbox.objective_function(_configuration(archs[0]), seed=0)
  column = blackbox.objectives_names.index('elapsed_time')
  assert (np.diff(seconds[:, column]) >= 0).all()
  assert len(blackbox.all_configurations()) == len(blackbox.hyperparameters)


@pytest.mark.filterwarnings('ignore')
def test_the_package_searches_in_it(exported, tmp_path, monkeypatch):
  tabular = _package('blackbox_repository.blackbox_tabular')
  monkeypatch.setenv('SYNETUNE_FOLDER', str(tmp_path))
  callbacks = _package('backend.simulator_backend.simulator_callback')
  (blackbox,) = tabular.deserialize(str(exported[1])).values()
  configurations = blackbox.all_configurations()[::4]

  class Seen(_package('tuner_callback').TunerCallback):
    results = []

    def on_trial_result(self, trial, status, result, decision):
      self.results.append((trial.trial_id, result))

  seen = Seen()
  backend = _package('blackbox_repository').UserBlackboxBackend(
    blackbox, elapsed_time_attr='elapsed_time', seed=1
  )
  scheduler = _package('optimizer.baselines').RandomSearch(
    blackbox.configuration_space,
    metrics=['val_per'],
    random_seed=0,
    points_to_evaluate=configurations,
  )
  stop = _package('stopping_criterion').StoppingCriterion(
    max_num_trials_finished=5
  )
  _package('tuner').Tuner(
    backend, scheduler, stop, n_workers=1, sleep_time=0, save_tuner=False,
    callbacks=[callbacks.SimulatorCallback(), seen],
  ).run()  # fmt: skip
  trials = sorted(backend._trial_dict.items())[:5]
  assert [trial.config for _, trial in trials] == configurations[:5]
  told = [result for _, result in seen.results]
  assert len(told) >= 5 * 40
  last = [result['val_per'] for result in told if result['epoch'] == 40]
  assert last[:5] == [
    blackbox.objective_function(c, fidelity={'epoch': 40}, seed=1)['val_per']
    for c in configurations[:5]
  ]
