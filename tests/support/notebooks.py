"""Notebooks of the repository: executed by a process, beside what is stored."""

import base64
import io
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import execute_notebook
import matplotlib.image
import nbformat

FOLDER = pathlib.Path(__file__).parents[2] / 'experiments' / 'notebooks'
# Of a notebook with its figures.
MOST_BYTES = 300_000


class Output(NamedTuple):
  """What a code cell put out.

  Attributes:
    text: on stdout.
    pictures: pixels.
    rest: other data by MIME type.
  """

  text: str
  pictures: list
  rest: list

  @property
  def kinds(self):
    """How much there is of what: the same whatever is listened to."""
    return bool(self.text), len(self.pictures), [sorted(d) for d in self.rest]


def path(name):
  return FOLDER / f'{name}.ipynb'


def outputs(notebook):
  """Returns `{name of the cell: Output}` of the code cells."""
  found = {}
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      streams = [o for o in cell.outputs if o.output_type == 'stream']
      assert all(o.name == 'stdout' for o in streams), streams
      data = [o.data for o in cell.outputs if 'data' in o]
      pngs = [d['image/png'] for d in data if 'image/png' in d]
      found[cell.id] = Output(
        ''.join(o.text for o in streams),
        [
          matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))
          for png in pngs
        ],
        [d for d in data if 'image/png' not in d],
      )
  return found


def stored(name):
  """Returns the `outputs` that stand in the repository, in good order."""
  assert path(name).stat().st_size < MOST_BYTES
  notebook = nbformat.read(path(name), as_version=4)
  nbformat.validate(notebook)
  assert execute_notebook.faults(notebook) == []
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  counts = [cell.execution_count for cell in code]
  assert counts == list(range(1, len(code) + 1))
  return outputs(notebook)


def executed(name, place, **environment):
  """Executes a notebook; returns its `outputs`."""
  result = place / f'{name}.ipynb'
  environment |= {
    'IPYTHONDIR': str(place),
    'JUPYTER_RUNTIME_DIR': str(place),
    'JAX_COMPILATION_CACHE_DIR': os.environ['NASJAX_TEST_CACHE'],
  }
  done = subprocess.run(
    [sys.executable, execute_notebook.__file__, path(name), result],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return outputs(nbformat.read(result, as_version=4))


def assert_drawn(pictures):
  for pixels in pictures:
    assert min(pixels.shape[:2]) > 150
    assert pixels[:, :, :3].std() > 0.02


def run_here(name, cells=None):
  """Runs the code of a notebook in this process, magic left out.

  Nothing is rendered. Returns its names; `cells` are those to run, all if not
  given.
  """
  names = {}
  for cell in nbformat.read(path(name), as_version=4).cells:
    if cell.cell_type == 'code' and (cells is None or cell.id in cells):
      lines = [n for n in cell.source.split('\n') if not n.startswith('%')]
      exec('\n'.join(lines), names)
  return names
