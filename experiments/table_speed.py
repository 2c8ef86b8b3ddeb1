"""Times questions to a table of full size: 8,242 cells, 3 seeds, 3 budgets.

  python experiments/table_speed.py --json=results/table_speed.json

The table is made of random values, in a temporary directory unless --table
names one, where it is kept and found again. A process of its own, with
nasjax.table imported, then opens it and asks: each time is the best of many,
memory what the process has grown by in the end, all curves having been asked
for.
"""

import contextlib
import multiprocessing
import pathlib
import sys
import tempfile

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('json', None, 'Where the figures go.')
flags.DEFINE_string('table', None, 'Make the table here, and keep it.')
flags.DEFINE_integer(
  'cells', None, 'So many cells; all 8,242 if not given.', lower_bound=2
)
flags.DEFINE_integer(
  'shards', 9, 'Shards of each budget and seed, together.', lower_bound=9
)

# The API of NAS-Bench-ASR on its own table of this size, on 2 cores.
RELEASED = {
  'open_ms': '310 to 560',
  'query_us': '72 to 77',
  'memory_mb': '58',
}


def show(found):
  """Prints the figures beside those of the released API."""
  from rich.console import Console
  from rich.table import Table

  view = Table(title=f'{found["rows"]} rows in {found["shards"]} shards')
  for column in ('', 'nasjax', 'released API'):
    view.add_column(column, justify='right' if column else 'left')
  for name, value in found.items():
    if name not in ('rows', 'shards', 'kinds'):
      view.add_row(name, f'{value:,.1f}', RELEASED.get(name, ''))
  for kind in found['kinds']:
    view.add_row(
      kind['question'],
      f'{kind["query_us"]:.1f} us, {kind["vector_ns_per_row"]:.0f} ns a row',
    )
  Console(markup=False, emoji=False, highlight=False, width=100).print(view)


def run():
  """Makes the table, measures in a fresh process, prints and writes."""
  with contextlib.ExitStack() as stack:
    if FLAGS.table:
      directory = command.directory('table')
    else:
      made = tempfile.TemporaryDirectory(prefix='nasjax-table-')
      directory = pathlib.Path(stack.enter_context(made))
    from races import table_questions

    from nasjax import table

    if not any(directory.iterdir()):
      # Not monitor's counter, which imports JAX.
      from rich.progress import Progress

      with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task('making the table', total=None)
        table_questions.make(
          directory,
          FLAGS.cells,
          FLAGS.shards,
          lambda done, total: bar.update(task, completed=done, total=total),
        )

    archs = table.open(directory, verify=False).archs
    # A spawned process shares no memory with this one.
    with multiprocessing.get_context('spawn').Pool(1) as pool:
      found = pool.apply(table_questions.measure, (str(directory), archs))
  show(found)
  if FLAGS.json:
    command.publish_json(FLAGS.json, found)


if __name__ == '__main__':
  command.run(run)
