"""Trains one row of a table again and compares.

  python experiments/rebuild.py --flagfile=experiments/flags/table.flags \\
    --table=experiments/tables/synthetic_timit \\
    --cell='[[1,1],[0,0,1],[4,1,0,1]]' --cell_seed=1234 --cell_recipe=e5

The corpus is that of the flags, everything else that of the row. On one kind of
processor the same bits come out; on another one, or with other kernels, sums
are rounded in another order.
"""

import json
import pathlib
import tempfile

import numpy as np
from absl import flags
from common import command, corpus_flags, device_flags, jobs, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'table', 'experiments/tables/synthetic_timit', 'The table of the row.'
)
flags.DEFINE_string('cell', None, 'Its cell, nested lists.', required=True)
flags.DEFINE_integer('cell_seed', None, 'Its seed.', required=True)
flags.DEFINE_string('cell_recipe', None, 'Its recipe.', required=True)
flags.DEFINE_float(
  'within',
  None,
  'Fail if a phoneme error rate differs by more than this fraction.',
)
flags.DEFINE_string('out', None, 'Ignored, for the flagfiles of benchmark.py.')
for _module in corpus_flags, device_flags, training_flags:
  flags.adopt_module_key_flags(_module)
COMPARED = ('train_loss', 'val_loss', 'val_per', 'test_loss', 'test_per')


def find():
  """Returns the row that the flags name, a dict.

  Raises:
    ValueError: there is none, or several.
  """
  from nasjax import table

  rows = table.open(pathlib.Path(FLAGS.table).expanduser())
  try:
    cell = rows.space.parse(json.loads(FLAGS.cell))
  except ValueError as e:
    raise ValueError(f'--cell={FLAGS.cell}: {e}') from None
  rows = rows.select(recipe=FLAGS.cell_recipe)
  same = (rows.row_archs == cell).all(axis=1)
  same &= rows.column('seed') == FLAGS.cell_seed
  (at,) = np.nonzero(same)
  if len(at) != 1:
    raise ValueError(
      f'{rows.path} has {len(at)} rows of --cell={FLAGS.cell}, --cell_seed='
      f'{FLAGS.cell_seed}, --cell_recipe={FLAGS.cell_recipe}; want one. It has '
      f'seeds {list(rows.seeds)}'
    )
  return rows.to_arrow().take(at).to_pylist()[0]


def again(row):
  """Trains the row; returns the new one.

  Raises:
    ValueError: the corpus of the flags is not that of the row.
  """
  from nasjax import table
  from nasjax.benchmark import running
  from nasjax.models import families
  from nasjax.training import recipes

  values = json.loads(row['recipe_json'])
  values['curriculum'] = tuple(values['curriculum'])
  recipe = recipes.Recipe(**values)
  known = families.FAMILIES[row['space']].macros
  if row['macro'] not in known:
    raise ValueError(f'the row has macro {row["macro"]!r}, unknown here')
  work = jobs.prepare(recipe, 1, known[row['macro']])
  if work.job.corpus_fingerprint != row['corpus_fingerprint']:
    raise ValueError(
      f'the flags make corpus {work.job.corpus_fingerprint}, the row was '
      f'trained on {row["corpus_fingerprint"]}; give the flagfile of the table'
    )
  from common import console

  member = (np.array(row['arch'], np.int8), row['seed'])
  shards = running.plan(work.job, [member], 1)
  with tempfile.TemporaryDirectory() as out:
    with console.Bar(shards, work.job) as bar:
      running.run_shard(work.job, shards[0], work.prepareds[0], out, bar.update)
    return table.open(out).to_arrow().to_pylist()[0]


def _apart(old, new):
  """Returns the largest difference; inf where only one value is NaN."""
  # Both are where both diverged, or where a plateau ended both trainings.
  neither = np.isnan(old) & np.isnan(new)
  difference = np.where(neither, 0.0, np.abs(old - new))
  return float(np.where(np.isnan(difference), np.inf, difference).max())


def run():
  """Finds the row, trains it and shows both."""
  corpus_flags.check()
  old = find()
  new = again(old)
  from common.console import CONSOLE
  from rich.table import Table

  cell = training_flags.space().names(old['arch'])
  view = Table(title=f'{cell}, seed {FLAGS.cell_seed}')
  for column in ('', 'in the table', 'again', 'largest difference'):
    view.add_column(column, justify='right' if column else 'left')
  apart = {}
  for name in COMPARED:
    values = np.atleast_1d(old[name]), np.atleast_1d(new[name])
    if values[0].shape != values[1].shape:
      raise ValueError(
        f'{name} has {len(values[0])} epochs in the table, {len(values[1])} now'
      )
    apart[name] = _apart(*values)
    last = (f'{v[~np.isnan(v)][-1:].sum():.6f}' for v in values)
    view.add_row(name, *last, f'{apart[name]:.2g}')
  CONSOLE.print(view)
  if old['versions'] != new['versions']:
    CONSOLE.print(f'the table has {old["versions"]}\nthis is {new["versions"]}')
  worst = max(apart['val_per'], apart['test_per'])
  if FLAGS.within is not None and worst > FLAGS.within:
    raise ValueError(
      f'a phoneme error rate differs by {worst:.4f}, more than --within='
      f'{FLAGS.within}'
    )


if __name__ == '__main__':
  command.run(run)
