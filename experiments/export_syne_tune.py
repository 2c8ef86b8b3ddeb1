"""Writes a table as a tabular blackbox of Syne Tune, to search it from there.

  python experiments/export_syne_tune.py \\
    --table=experiments/tables/synthetic_timit --out=results/syne_tune

Syne Tune (https://github.com/syne-tune/syne-tune) is not needed to write it. To
search it, in an environment that has it:

  from syne_tune.blackbox_repository import UserBlackboxBackend
  from syne_tune.blackbox_repository.blackbox_tabular import deserialize

  (blackbox,) = deserialize('results/syne_tune').values()
  backend = UserBlackboxBackend(blackbox, elapsed_time_attr='elapsed_time')

A configuration has for each decision of the space the name of its choice, the
fidelity is `epoch`, the objectives are columns of the table, of the same names:
those with a value an epoch, then `test_per` and others of the whole training,
the same at every epoch. Error rates of a run that failed are 1 from there on.
Every vector is there that the table answers by its function or published key,
so cells that are one function share their runs.
"""

import io
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'table', 'experiments/tables/synthetic_timit', 'The table to write.'
)
flags.DEFINE_string(
  'table_recipe', None, 'Its recipe; that of most epochs if not given.'
)
flags.DEFINE_string('out', 'results/syne_tune', 'Directory of the blackbox.')

_CURVES = 'val_per', 'val_loss', 'train_loss', 'epoch_seconds'
_RUNS = 'params', 'macs'


def objectives(rows):
  """Returns {name: value_cse}: by cell, run (by seed) and epoch, float64.

  Cells are those of `np.unique` of their functions. Where one has fewer runs
  than another, they stand there again, in their order.

  Args:
    rows: `table.Table` of one recipe.
  """
  keys = rows.column('semantic_key').astype(str)
  _, cell_r, runs_c = np.unique(keys, return_inverse=True, return_counts=True)
  order = np.lexsort((rows.column('seed'), cell_r))
  first_c = np.cumsum(runs_c) - runs_c
  run_cs = np.arange(runs_c.max())[None] % runs_c[:, None]
  row_cs = order[first_c[:, None] + run_cs]
  epochs = int(rows.column('epochs')[0])

  def settled(value):
    return np.nan_to_num(value.astype(np.float64), nan=1.0)

  found = {
    name: rows.curves(name)[:, :epochs].astype(np.float64) for name in _CURVES
  }
  found['val_per'] = settled(found['val_per'])
  found['elapsed_time'] = np.cumsum(np.nan_to_num(found['epoch_seconds']), 1)
  whole = {'test_per': settled(rows.errors())}
  for name in rows.metrics[1:]:  # the first decides
    whole[f'test_{name}'] = settled(rows.errors(name))
  whole |= {name: rows.column(name).astype(np.float64) for name in _RUNS}
  for name, value_r in whole.items():
    found[name] = np.repeat(value_r[:, None], epochs, 1)
  return {name: value_re[row_cs] for name, value_re in found.items()}


def _domain(kind, **arguments):
  return {
    'domain_cls': kind,
    'domain_kwargs': arguments,
    'sampler_cls': 'Uniform',
    'sampler_kwargs': {},
  }


def export(rows, out, recipe=None):
  """Writes the blackbox; returns how many configurations it has, and lacks.

  Args:
    rows: `table.Table`, of one macro network and corpus.
    out: directory, which is there.
    recipe: as in `landscape.landscape`, whose errors it raises.
  """
  from nasjax.search import landscape
  from nasjax.storage import disk

  scape = landscape.landscape(rows, recipe)
  rows = rows.select(recipe=recipe or rows.recipes[-1])
  space, values = rows.space, objectives(rows)
  vector_ad = scape.vector_ad
  if scape.listed:
    vectors = landscape.vectors_of(scape.values)
    there_a = (vector_ad == vectors).all(axis=1)
  else:
    there_a = np.ones(len(vector_ad), bool)
  archs_ad = scape.archs(vector_ad[there_a])
  names = {
    field: [space.choices[d][v] for v in archs_ad[:, d].tolist()]
    for d, field in enumerate(space.fields)
  }
  choices = {
    field: _domain(
      'Categorical', categories=[space.choices[d][v] for v in scape.values[d]]
    )
    for d, field in enumerate(space.fields)
  }
  of_cells = np.stack(list(values.values()), axis=-1)
  about = {
    'objectives_names': list(values),
    'task_names': [str(rows.column('corpus')[0])],
    'metric_elapsed_time': 'elapsed_time',
    'metric_default': 'val_per',
    'time_attr': 'epoch',
    'metric': rows.metric,
    'macro': str(rows.column('macro')[0]),
    'recipe': str(rows.column('recipe')[0]),
    'seeds': list(map(int, rows.seeds)),
    'failed': int((rows.column('status') != 'ok').sum()),
  }
  epoch = _domain('Integer', lower=1, upper=scape.epochs)
  (out / 'metadata.json').unlink(missing_ok=True)
  parquet = io.BytesIO()
  pq.write_table(pa.table(names), parquet, compression='gzip')
  disk.publish(out / 'hyperparameters.parquet', parquet.getvalue())
  for name, array in (
    ('objectives_evaluations', of_cells[scape.cell_a[there_a]][None]),
    ('fidelities_values', np.arange(1, scape.epochs + 1)),
  ):
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    disk.publish(out / f'{name}.npy', held.getvalue())
  # The last makes it whole.
  for name, value in (
    ('configspace', choices), ('fidelityspace', {'epoch': epoch}),
    ('metadata', about),
  ):  # fmt: skip
    disk.publish(out / f'{name}.json', json.dumps(value, indent=1).encode())
  return int(there_a.sum()), int((~there_a).sum()), about


def run():
  """Writes the blackbox, says what is in it."""
  from nasjax import table

  out = command.directory('out')
  rows = table.open(pathlib.Path(FLAGS.table).expanduser())
  there, absent, about = export(rows, out, FLAGS.table_recipe)
  print(
    f'{out}: {there:,} configurations of {about["task_names"][0]}, recipe '
    f'{about["recipe"]}; objectives {", ".join(about["objectives_names"])}'
  )
  if absent:
    print(
      f'{absent:,} further configurations of its choices have no cell in the '
      'table; restrict searches to blackbox.all_configurations(), or give the '
      'blackbox a surrogate'
    )
  if about['failed']:
    print(f'{about["failed"]} runs failed: error rate 1')


if __name__ == '__main__':
  command.run(run)
