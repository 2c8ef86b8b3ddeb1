"""The notebook on a table runs, with and without searches, one seed or more."""

import base64
import io
import json
import os
import pathlib
import subprocess
import sys

import matplotlib.image
import nbformat
import planted_table
import pytest

from nasjax import analysis

ROOT = pathlib.Path(__file__).parents[2]
EXECUTE = ROOT / 'tests' / 'support' / 'execute_notebook.py'
NOTEBOOK = ROOT / 'experiments' / 'notebooks' / 'table.ipynb'


def execute(place, path, search):
  """Returns by name of a cell its text, and its pictures."""
  environment = dict(
    os.environ,
    NASJAX_TABLE=str(path),
    NASJAX_SEARCH=str(search),
    IPYTHONDIR=str(place),
    JUPYTER_RUNTIME_DIR=str(place),
  )
  result = place / 'executed.ipynb'
  done = subprocess.run(
    [sys.executable, EXECUTE, NOTEBOOK, result],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  texts, pictures = {}, {}
  for cell in nbformat.read(result, as_version=4).cells:
    if cell.cell_type == 'code':
      streams = [o for o in cell.outputs if o.output_type == 'stream']
      assert all(o.name == 'stdout' for o in streams), streams
      texts[cell.id] = ''.join(o.text for o in streams)
      pictures[cell.id] = [
        matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))
        for o in cell.outputs
        if (png := o.get('data', {}).get('image/png'))
      ]
  return texts, pictures


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
  place = tmp_path_factory.mktemp('notebook')
  t = planted_table.write(place / 'table', planted_table.cells(40), failed=2)
  (place / 'search.json').write_text(
    json.dumps({'random': {'test_per_at_budget': [0.25] * 20, 'seconds': 1}})
  )
  return t, *execute(place, t.path, place / 'search.json')


def test_numbers_are_those_of_the_table(executed):
  t, texts, _ = executed
  found = analysis.results(t, 'e40')
  asked = t.query(t.archs[0], 'test_per', seed=1, recipe='e40')
  assert f'test PER with seed 1: {asked:.2%}' in texts['open']
  assert "refused: no recipe 'nonesuch'" in texts['open']
  assert 'e40: 120 runs, 2 of them failed' in texts['best']
  first = analysis.best(found.val_ns, found.has_ns).order[0]
  assert t.space.names(found.archs_nd[first]) in texts['best']
  c = analysis.by_slice(found.val_n, found.test_n)['all']
  said = f'{c.value:6.3f} [{c.low:6.3f}, {c.high:6.3f}], {c.n} cells'
  assert said in texts['correlations']
  assert 'e40 with e5, seed 3:' in texts['correlations']
  assert 'random       25.00% [25.00%, 25.00%]' in texts['search']


def test_figures_are_drawn(executed):
  _, _, pictures = executed
  counts = {name: len(found) for name, found in pictures.items() if found}
  assert counts == {
    'draw': 1, 'distribution': 1, 'rankings-drawn': 2, 'composition': 2,
    'cost': 1, 'search': 1,
  }  # fmt: skip
  for pixels in (p for found in pictures.values() for p in found):
    assert min(pixels.shape[:2]) > 300
    assert pixels[:, :, :3].std() > 0.02


def test_a_table_of_one_seed_and_one_recipe(tmp_path, monkeypatch, capsys):
  t = planted_table.write(
    tmp_path / 'table', planted_table.cells(12), (7,), ('e5',)
  )
  monkeypatch.setenv('NASJAX_TABLE', str(t.path))
  monkeypatch.setenv('NASJAX_SEARCH', str(tmp_path / 'search.json'))
  # The same code, but for magic, in this process: nothing is rendered here.
  names = {}
  for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
    if cell.cell_type == 'code':
      lines = [n for n in cell.source.split('\n') if not n.startswith('%')]
      exec('\n'.join(lines), names)
  said = capsys.readouterr().out
  assert 'One seed only' in said and 'no search.json yet' in said
  assert 'e5: 12 runs, 0 of them failed' in said
  assert names['budgets'] == {}


def test_committed_notebook_has_no_outputs():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert cell.outputs == [] and cell.execution_count is None
