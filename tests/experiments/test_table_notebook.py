"""The notebook on a table says what is stored, of any table what there is."""

import json

import notebooks
import planted_table
import pytest

from nasjax import analysis


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
  """What it puts out on the table of the repository."""
  place = tmp_path_factory.mktemp('notebook')
  return notebooks.executed(
    'table', place, NASJAX_SEARCH=str(place / 'search.json')
  )


def test_what_is_stored_is_what_comes_out(fresh):
  stored = notebooks.stored('table')
  assert list(stored) == list(fresh)
  for name, output in stored.items():
    assert fresh[name].text == output.text, name
    assert fresh[name].rest == output.rest, name
    shapes = [pixels.shape for pixels in output.pictures]
    assert [pixels.shape for pixels in fresh[name].pictures] == shapes, name


def test_figures_are_drawn(fresh):
  counts = {name: len(o.pictures) for name, o in fresh.items() if o.pictures}
  assert counts == {
    'draw': 1, 'distribution': 1, 'rankings-drawn': 2, 'composition': 2,
    'cost': 2,
  }  # fmt: skip
  notebooks.assert_drawn(p for o in fresh.values() for p in o.pictures)


def test_numbers_are_those_of_the_table(tmp_path, monkeypatch, capsys):
  t = planted_table.write(tmp_path / 'table', planted_table.cells(40), failed=2)
  search = tmp_path / 'search.json'
  search.write_text(
    json.dumps({'random': {'test_per_at_budget': [0.25] * 20, 'seconds': 1}})
  )
  monkeypatch.setenv('NASJAX_TABLE', str(t.path))
  monkeypatch.setenv('NASJAX_SEARCH', str(search))
  notebooks.run_here('table')
  said = capsys.readouterr().out
  found = analysis.results(t, 'e40')
  asked = t.query(t.archs[0], 'test_per', seed=1, recipe='e40')
  assert f'test PER with seed 1: {asked:.2%}' in said
  assert "refused: no recipe 'nonesuch'" in said
  assert 'e40: 120 runs, 2 of them failed' in said
  first = analysis.best(found.val_ns, found.has_ns).order[0]
  assert t.space.names(found.archs_nd[first]) in said
  c = analysis.by_slice(found.val_n, found.test_n)['all']
  correlated = f'{c.value:6.3f} [{c.low:6.3f}, {c.high:6.3f}], {c.n} cells'
  assert correlated in said
  assert 'e40 with e5, seed 3:' in said
  assert 'random       25.00% [25.00%, 25.00%]' in said


def test_a_table_of_one_seed_and_one_recipe(tmp_path, monkeypatch, capsys):
  t = planted_table.write(
    tmp_path / 'table', planted_table.cells(12), (7,), ('e5',)
  )
  monkeypatch.setenv('NASJAX_TABLE', str(t.path))
  monkeypatch.setenv('NASJAX_SEARCH', str(tmp_path / 'search.json'))
  names = notebooks.run_here('table')
  said = capsys.readouterr().out
  assert 'One seed only' in said and 'no search.json yet' in said
  assert 'e5: 12 runs, 0 of them failed' in said
  assert names['budgets'] == {}
