"""The notebook that brings a recording and a searcher of one's own."""

import re

import notebooks
import pytest
import tiny_run

from nasjax import table
from nasjax.search import driver, landscape


def test_what_is_stored_is_what_the_searches_come_to():
  stored = notebooks.stored('own')
  climber = notebooks.run_here('own', ('parameters', 'searcher'))['Climber']
  t = table.open(notebooks.FOLDER / '../tables/synthetic_timit')
  scape = landscape.landscape(t)
  made = driver.made(climber, scape.sizes, scape.epochs, 100)
  trace = driver.on_table(made, scape, 0, 100, 100)
  mean = landscape.best_test(trace, scape.epochs, [100]).mean()
  exact = landscape.expected_random(scape, 100)
  text = stored['compare'].text
  assert f'climber    {mean:.2%}, difference' in text
  assert f'{100 * (mean - exact):+.2f} [' in text
  assert f'random search: {exact:.2%} when 100 models' in text
  assert len(stored['figures'].pictures) == len(stored['draw'].pictures) == 1


def test_a_network_of_the_repository_heard_a_recording_from_outside():
  stored = notebooks.stored('own')
  assert '44100 Hz, 2 channels' in stored['record'].text
  heard = re.search(r'^heard: (.+)$', stored['load'].text, re.M)[1]
  assert len(heard.split()) > 10
  per = re.search(r'^PER ([\d.]+)%', stored['align'].text)[1]
  assert 0 < float(per) < 60


@pytest.mark.slow
def test_it_runs_as_it_is_stored(tmp_path):
  run = tiny_run.finished()
  fresh = notebooks.executed('own', tmp_path, NASJAX_RUN=str(run.out))
  stored = notebooks.stored('own')
  assert list(fresh) == list(stored)
  for name, output in stored.items():
    assert fresh[name].kinds == output.kinds, name
  # Another network heard it; recording and searches are the same.
  for name in ('record', 'compare'):
    assert fresh[name].text == stored[name].text
  notebooks.assert_drawn(p for o in fresh.values() for p in o.pictures)
