"""The notebook runs from its first cell to its last on a table made here."""

import base64
import io
import os
import re
import subprocess
import sys

import matplotlib.image
import nbformat
import pytest
import tiny_run as launcher

from nasjax import table

NOTEBOOK = launcher.ROOT / 'experiments' / 'notebooks' / 'benchmark.ipynb'


@pytest.fixture(scope='module')
def outputs(tmp_path_factory):
  """By name of a cell, what it put out: text, and data by MIME type."""
  run = launcher.finished()
  place = tmp_path_factory.mktemp('notebook')
  environment = dict(
    os.environ,
    NASJAX_RUN=str(run.out),
    NASJAX_DATA_DIR=str(run.data_dir),
    IPYTHONDIR=str(place),
    JUPYTER_RUNTIME_DIR=str(place),
    JAX_COMPILATION_CACHE_DIR=os.environ['NASJAX_TEST_CACHE'],
  )
  done = subprocess.run(
    [
      sys.executable,
      launcher.ROOT / 'tests' / 'support' / 'execute_notebook.py',
      NOTEBOOK,
      place / 'executed.ipynb',
    ],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  notebook = nbformat.read(place / 'executed.ipynb', as_version=4)
  found = {}
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      streams = [o for o in cell.outputs if o.output_type == 'stream']
      assert all(o.name == 'stdout' for o in streams), streams
      text = ''.join(o.text for o in streams)
      found[cell.id] = text, [o.data for o in cell.outputs if 'data' in o]
  return found


def _pictures(outputs, cell):
  return [
    matplotlib.image.imread(io.BytesIO(base64.b64decode(data['image/png'])))
    for data in outputs[cell][1]
    if 'image/png' in data
  ]


@pytest.mark.parametrize(
  'cell, count', [('curves', 1), ('cost', 1), ('picture', 1), ('draw', 2)]
)
def test_figures_are_drawn(outputs, cell, count):
  pictures = _pictures(outputs, cell)
  assert len(pictures) == count
  for pixels in pictures:
    assert min(pixels.shape[:2]) > 300
    assert pixels[:, :, :3].std() > 0.02


def test_restores_members_and_finds_the_table_again(outputs):
  t = table.open(launcher.finished().out)
  said = re.findall(
    r'^(best|worst): (.+), seed \d+: PER ([\d.]+)%, in the table ([\d.]+)%$',
    outputs['hear'][0],
    re.MULTILINE,
  )
  assert [label for label, *_ in said] == ['best', 'worst']
  per_n = t.query(t.archs, 'test_per', seed='mean')
  for (_, name, heard, known), n in zip(said, (per_n.argmin(), per_n.argmax())):
    assert name == t.space.names(t.archs[n])
    # One symbol decoded otherwise in another batch would move it by 0.4.
    assert abs(float(heard) - float(known)) < 1


def test_utterance_can_be_heard(outputs):
  players = [d['text/html'] for d in outputs['picture'][1] if 'text/html' in d]
  assert len(players) == 1
  sound = re.search(r'data:audio/wav;base64,([^"]+)', players[0])
  assert base64.b64decode(sound[1])[:4] == b'RIFF'


def test_transcripts_are_aligned_and_errors_marked(outputs):
  text = outputs['align'][0]
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


def test_committed_notebook_has_no_outputs():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert cell.outputs == [] and cell.execution_count is None
