"""The notebook runs from its first cell to its last on a table made here."""

import base64
import re

import notebooks
import pytest
import tiny_run as launcher

from nasjax import table


@pytest.fixture(scope='module')
def outputs(tmp_path_factory):
  """By name of a cell, what it put out on the run of the tests."""
  run = launcher.finished()
  return notebooks.executed(
    'benchmark',
    tmp_path_factory.mktemp('notebook'),
    NASJAX_RUN=str(run.out),
    NASJAX_DATA_DIR=str(run.data_dir),
  )


@pytest.mark.parametrize(
  'cell, count', [('curves', 1), ('cost', 1), ('picture', 1), ('draw', 2)]
)
def test_figures_are_drawn(outputs, cell, count):
  assert len(outputs[cell].pictures) == count
  notebooks.assert_drawn(outputs[cell].pictures)


def test_restores_members_and_finds_the_table_again(outputs):
  t = table.open(launcher.finished().out)
  said = re.findall(
    r'^(best|worst): (.+), seed \d+: PER ([\d.]+)%, in the table ([\d.]+)%$',
    outputs['hear'].text,
    re.MULTILINE,
  )
  assert [label for label, *_ in said] == ['best', 'worst']
  per_n = t.query(t.archs, 'test_per', seed='mean')
  for (_, name, heard, known), n in zip(said, (per_n.argmin(), per_n.argmax())):
    assert name == t.space.names(t.archs[n])
    # One symbol decoded otherwise in another batch would move it by 0.4.
    assert abs(float(heard) - float(known)) < 1


def test_utterance_can_be_heard(outputs):
  players = [d['text/html'] for d in outputs['picture'].rest]
  assert len(players) == 1
  sound = re.search(r'data:audio/wav;base64,([^"]+)', players[0])
  assert base64.b64decode(sound[1])[:4] == b'RIFF'


def test_transcripts_are_aligned_and_errors_marked(outputs):
  text = outputs['align'].text
  parts = re.split(r'^(?=best|worst)', text, flags=re.MULTILINE)[1:]
  assert [part.split(':')[0] for part in parts] == ['best', 'worst']
  spoken = []
  for part in parts:
    errors, symbols = map(
      int, re.search(r'^(\d+) errors in (\d+) symbols$', part, re.M).groups()
    )
    lines = part.splitlines()
    rows = {
      name: ' '.join(ln[8:] for ln in lines if ln.startswith(name)).split()
      for name in ('spoken', 'heard')
    }
    assert len(rows['spoken']) == len(rows['heard'])
    pairs = list(zip(rows['spoken'], rows['heard']))
    assert sum(a != b for a, b in pairs) == errors
    marks = ' '.join(ln for ln in lines if re.fullmatch(r' {8}[SID ]+', ln))
    assert len(marks.split()) == errors
    assert marks.count('D') == rows['heard'].count('-')
    spoken.append([symbol for symbol in rows['spoken'] if symbol != '-'])
    assert len(spoken[-1]) == symbols
  assert spoken[0] == spoken[1]


def test_what_is_stored_is_of_another_run_and_of_the_same_kinds(outputs):
  stored = notebooks.stored('benchmark')
  assert list(stored) == list(outputs)
  for name, output in stored.items():
    assert outputs[name].kinds == output.kinds, name
  # It says in both places what its networks are good for.
  said = re.findall(
    r'PER ([\d.]+)%, in the table ([\d.]+)%', stored['hear'].text
  )
  assert len(said) == 2 and all(a == b for a, b in said)
  rates = re.findall(r'^ +([\d.]+)%', stored['open'].text, re.MULTILINE)
  assert len(rates) == 6 and rates == sorted(rates)
