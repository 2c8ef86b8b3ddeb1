"""Races nasjax's populations against PyTorch and against a plain loop.

  python experiments/throughput.py --quick --json=results/throughput.json

Seconds a training step and member: forward, CTC, backward, clipping, Adam,
dropout; float32. Engines: nasjax; `loop`, its program of one network called for
one member after another; `torch`, PyTorch eager with its default threads. Each
race is a process of its own, and engines alternate. Cells and populations are
those of `throughput_cells.py`. PyTorch is needed: pip install torch==2.13.0.

--quick races single networks at full width and 16 mixed ones at small width,
nasjax against PyTorch. Without it all engines race with every population.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_bool(
  'quick', False, 'Only one member at full width, and 16 mixed small ones.'
)
flags.DEFINE_string('json', None, 'Where the rows go, kept up to date.')
flags.DEFINE_string('figure', None, 'Where the figure goes (.png, .pdf, .svg).')
flags.DEFINE_list('populations', '2,4,8,16,32', 'Members of the populations.')
flags.DEFINE_list('cells', 'mixture', 'What seeds and signature are made of.')
flags.DEFINE_list('engines', 'nasjax,loop,torch', 'Who races.')
flags.DEFINE_integer('batch', 8, 'Utterances of a step.', lower_bound=1)
flags.DEFINE_integer('frames', 200, 'Frames of an utterance.', lower_bound=8)
flags.DEFINE_integer(
  'rounds',
  None,
  'Processes of each race; 2 if not given, 1 with --quick. From the second on '
  'they find their programs compiled.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'steps',
  None,
  'Steps of a timed pass; 5 if not given, 2 with --quick.',
  lower_bound=1,
)

_HERE = pathlib.Path(__file__).parent


def races(engines, cells, populations, quick):
  """Returns the races in the order of a round: engines alternate."""
  from races.throughput_cells import CELLS, Race

  kinds = [('full', c, 'single', 1) for c in CELLS]
  if quick:
    kinds.append(('small', 'mixture', 'mixed', 16))
  else:
    kinds += [('small', c, 'single', 1) for c in CELLS]
    for members in populations:
      for kind in ('seeds', 'signature'):
        kinds += [('small', c, kind, members) for c in cells]
      kinds.append(('small', 'mixture', 'mixed', members))
  # A loop over one member is nasjax with one member.
  return [
    Race(engine, *kind)
    for kind in kinds
    for engine in engines
    if engine != 'loop' or kind[-1] > 1 and not quick
  ]


def measure(race, settings, cache):
  """Runs one worker process and returns its answer.

  Args:
    race: `throughput_cells.Race`.
    settings: dict of batch, frames, steps.
    cache: directory of the programs that this race compiles.

  Raises:
    ChildProcessError: naming the job and the end of the worker's stderr.
  """
  job = race._asdict() | settings
  machine = {'cache': str(cache), 'started': time.time()}
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'races.throughput_worker',
      json.dumps(job | machine),
    ],
    cwd=_HERE,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise ChildProcessError(
      f'the worker of {json.dumps(job)} ended with status {done.returncode}:\n'
      f'{done.stderr.strip()[-2000:]}'
    )
  return json.loads(done.stdout.splitlines()[-1])


def run_rounds(plan, settings, rounds, publish):
  """Runs every race of `plan` once a round, one process after another.

  Args:
    plan: list of `throughput_cells.Race`.
    settings: as in `measure`.
    rounds: how often.
    publish: called after each race with the rows so far.

  Returns:
    the rows (`throughput_report.rows`).
  """
  from races import throughput_report as report

  answers = {race: [] for race in plan}
  with tempfile.TemporaryDirectory(prefix='nasjax-throughput-') as caches:
    for number in range(rounds):
      for i, race in enumerate(plan):
        # A cache for each race: the first round compiles, whoever came before.
        cache = pathlib.Path(caches, str(i))
        answer = measure(race, settings, cache)
        answers[race].append(answer)
        ms = 1e3 * sum(answer['seconds']) / len(answer['seconds'])
        print(
          f'round {number + 1} of {rounds}, {i + 1} of {len(plan)}: '
          f'{" ".join(map(str, race))}, {ms:,.1f} ms',
          flush=True,
        )
        publish(report.rows(answers, settings))
  return report.rows(answers, settings)


def _chosen(flag, allowed):
  values = FLAGS[flag].value
  for value in values:
    if value not in allowed:
      raise ValueError(f'--{flag}: {value!r} is none of {", ".join(allowed)}')
  return values


def _members():
  values = FLAGS.populations
  for value in values:
    if not value.isdecimal() or int(value) < 1:
      raise ValueError(f'--populations: {value!r} is no number from 1 on')
  return sorted({int(value) for value in values})


def _file(flag):
  """The file that a flag names, its directory made; None if not given."""
  if not FLAGS[flag].value:
    return None
  path = pathlib.Path(FLAGS[flag].value).expanduser()
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def run():
  """Checks the flags, runs the races, prints and draws the rows."""
  from races import throughput_cells as race_lib

  engines = _chosen('engines', race_lib.ENGINES)
  cells = _chosen('cells', tuple(race_lib.CELLS))
  plan = races(engines, cells, _members(), FLAGS.quick)
  for race in plan:  # too large a population is refused now
    race_lib.archs(race.cells, race.population, race.members)
  if 'torch' in engines and not importlib.util.find_spec('torch'):
    raise ValueError(
      'PyTorch is not installed: pip install torch==2.13.0, or race without '
      'it, --engines=nasjax,loop'
    )
  path, figure = _file('json'), _file('figure')
  settings = {
    'batch': FLAGS.batch,
    'frames': FLAGS.frames,
    'steps': FLAGS.steps or (2 if FLAGS.quick else 5),
  }
  rounds = FLAGS.rounds or (1 if FLAGS.quick else 2)

  def publish(rows):
    if path:
      command.publish_json(path, rows)

  from races import throughput_report as report

  try:
    rows = run_rounds(plan, settings, rounds, publish)
  except KeyboardInterrupt:
    sys.exit('throughput.py: stopped; --json has what was measured until then')
  report.show(rows)
  if figure:
    from nasjax import plots

    plots.save(report.draw(rows), figure)


if __name__ == '__main__':
  command.run(run)
