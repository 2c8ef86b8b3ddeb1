"""Executes notebooks, and makes their outputs fit for the repository.

  python tests/support/execute_notebook.py NOTEBOOK RESULT
  python tests/support/execute_notebook.py --inplace NOTEBOOK ..

A process of its own, for the client leaves sockets to the garbage collector.
"""

import base64
import io
import pathlib
import sys
import tempfile

import nbclient
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from PIL import Image

from nasjax.storage import disk

# Of a picture; lines and letters need no more.
COLOURS = 48
ROOT = pathlib.Path(__file__).parents[2]
# What outputs do not show: where things lie on one machine.
PLACES = str(ROOT), str(pathlib.Path.home()), tempfile.gettempdir(), '/tmp/'


def executed(source):
  """Returns a notebook with its outputs, as they are stored."""
  notebook = nbformat.read(source, as_version=4)
  about = dict(notebook.metadata)
  # With no directories to look in, the one kernel there is is this Python's.
  manager = AsyncKernelManager(
    kernel_name='python3',
    kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
  )
  client = nbclient.NotebookClient(
    notebook,
    km=manager,
    timeout=600,
    record_timing=False,
    resources={'metadata': {'path': str(pathlib.Path(source).parent)}},
  )
  client.execute()
  notebook.metadata = about
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.outputs = _stored(cell.outputs)
  return notebook


def _stored(outputs):
  """Returns outputs with one text where there were parts, small pictures."""
  found = []
  for output in outputs:
    last = found[-1] if found else {}
    if (
      output.output_type == 'stream'
      and last.get('output_type') == 'stream'
      and last['name'] == output.name
    ):
      last['text'] += output.text
      continue
    data = output.get('data', {})
    if 'image/png' in data:
      data['image/png'] = _small(data['image/png'])
    if len(data) > 1 and 'text/html' not in data:
      data.pop('text/plain', None)  # it names the object that is drawn
    found.append(output)
  return found


def _small(png):
  image = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
  held = io.BytesIO()
  image.quantize(COLOURS, dither=Image.Dither.NONE).save(
    held, 'PNG', optimize=True
  )
  return base64.b64encode(held.getvalue()).decode()


def faults(notebook):
  """Returns what outputs may not be stored for, a line each."""
  found = []
  for cell in notebook.cells:
    for output in cell.get('outputs', ()):
      if output.get('name') == 'stderr':
        found.append(f'{cell.id}: stderr: {output.text.strip()[:200]}')
      shown = [output.get('text', '')]
      shown += [v for k, v in output.get('data', {}).items() if 'text' in k]
      for place in PLACES:
        if any(place in text for text in shown):
          found.append(f'{cell.id} shows the path {place}')
  return found


def main(*arguments):
  inplace = arguments[0] == '--inplace'
  pairs = [arguments]
  if inplace:
    pairs = [(path, path) for path in arguments[1:]]
  for source, result in pairs:
    notebook = executed(source)
    if inplace and faults(notebook):
      sys.exit('\n'.join(f'{source}: {told}' for told in faults(notebook)))
    text = f'{nbformat.writes(notebook)}\n'
    disk.publish(pathlib.Path(result).absolute(), text.encode())


if __name__ == '__main__':
  main(*sys.argv[1:])
