"""Races nasjax's populations against PyTorch and against a plain loop.

  python experiments/throughput.py --quick --json=results/throughput.json

Seconds a training step and member (forward, CTC, backward, clipping, Adam,
dropout; batch 8, 200 frames, float32), each engine in a process of its own, in
alternation. Utilisation is the model's FLOPs over the matmul peak measured in
the same process. PyTorch is needed: pip install torch==2.13.0.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

FLAGS = flags.FLAGS

flags.DEFINE_bool(
  'quick', False, 'Only one member at full width, and 16 mixed small ones.'
)
flags.DEFINE_string('json', None, 'Where to write the rows.')
flags.DEFINE_string('figure', None, 'Where to draw the figure (PNG).')
flags.DEFINE_integer('rounds', 2, 'Processes of each engine.', lower_bound=1)
flags.DEFINE_integer('steps', 5, 'Timed steps of a process.', lower_bound=1)

WORKER = pathlib.Path(__file__).with_name('throughput_worker.py')
CELLS = ('linear', 'conv', 'mixture')


def races():
  """Yields (engine, width, cells, members) in the order of measuring."""
  for cells in CELLS:
    for engine in ('nasjax', 'torch'):
      yield engine, 'full', cells, 1
  if FLAGS.quick:
    yield 'nasjax', 'small', 'mixture', 16
    yield 'torch', 'small', 'mixture', 16
    return
  for cells in CELLS:
    for members in (1, 2, 4, 8, 16, 32):
      for engine in ('nasjax', 'loop', 'torch'):
        yield engine, 'small', cells, members


def measure(engine, width, cells, members):
  """Runs one worker; returns its answer."""
  job = {
    'engine': engine,
    'width': width,
    'cells': cells,
    'members': members,
    'steps': FLAGS.steps,
  }
  done = subprocess.run(
    [sys.executable, WORKER, json.dumps(job)], capture_output=True, text=True
  )
  if done.returncode:
    raise RuntimeError(f'{job} failed:\n{done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def summarise(race, answers):
  """Returns the row of a race: medians over rounds and steps."""
  engine, width, cells, members = race
  seconds = float(np.median([s for a in answers for s in a['seconds']]))
  peak = max(a['peak'] for a in answers)
  return {
    'engine': engine,
    'width': width,
    'cells': cells,
    'members': members,
    'seconds_per_member_step': seconds,
    'utilisation': answers[0]['flops'] / seconds / peak,
    'peak_gflops': peak / 1e9,
    'compile_s': min(a['compile_s'] for a in answers),
  }


def show(rows):
  """Prints the rows, each with its ratio to PyTorch."""
  torch = {
    (r['width'], r['cells'], r['members']): r['seconds_per_member_step']
    for r in rows
    if r['engine'] == 'torch'
  }
  view = Table(title='training step, per member')
  for column in ('width', 'cells', 'members', 'engine', 'ms', 'of matmul peak',
                 'times PyTorch'):  # fmt: skip
    view.add_column(column, justify='right')
  for r in rows:
    key = r['width'], r['cells'], r['members']
    view.add_row(
      r['width'],
      r['cells'],
      str(r['members']),
      r['engine'],
      f'{1e3 * r["seconds_per_member_step"]:.1f}',
      f'{r["utilisation"]:.0%}',
      f'{torch[key] / r["seconds_per_member_step"]:.2f}x',
    )
  Console(width=100).print(view)


def draw(rows, path):
  """Draws milliseconds a member against members, one line an engine."""
  figure = Figure(figsize=(9, 4), layout='constrained')
  for ax, cells in zip(figure.subplots(1, 3, sharey=True), CELLS, strict=True):
    for engine in ('nasjax', 'loop', 'torch'):
      chosen = [
        (r['members'], 1e3 * r['seconds_per_member_step'])
        for r in rows
        if (r['engine'], r['cells'], r['width']) == (engine, cells, 'small')
      ]
      if chosen:
        ax.plot(*zip(*chosen, strict=True), marker='o', label=engine)
    ax.set(title=cells, xlabel='members', xscale='log', ylim=(0, None))
  figure.axes[0].set_ylabel('ms a member and step, small width')
  figure.axes[0].legend()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)


def main(argv):
  del argv
  answers = {race: [] for race in races()}
  for _ in range(FLAGS.rounds):
    for race in answers:
      answers[race].append(measure(*race))
  rows = [summarise(race, found) for race, found in answers.items()]
  show(rows)
  if FLAGS.json:
    path = pathlib.Path(FLAGS.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2))
  if FLAGS.figure:
    draw(rows, pathlib.Path(FLAGS.figure))


if __name__ == '__main__':
  app.run(main)
