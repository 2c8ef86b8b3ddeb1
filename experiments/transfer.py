"""Trains cells of one corpus' table on another: do the rankings agree?

  python experiments/transfer.py \\
    --flagfile=experiments/flags/transfer_an4.flags \\
    --corpus_path=AN4/manifest.jsonl

The experiment of NAS-Bench-ASR (Mehrotra et al. 2021, Figure 7): the best, the
worst, and cells at random of --source are trained with the corpus, the macro
network and the recipe of the flags, as benchmark.py trains them; any process
can train a part (--plan_only, --shard). Correlations are of means over seeds,
with intervals; the noise ceiling says how high they can be. Killed at any
moment, the same command goes on from the last epoch.
"""

import benchmark
from absl import flags
from common import command, corpus_flags, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'source',
  'experiments/tables/synthetic_timit',
  'The table from which cells are chosen, of the space of --space.',
)
flags.DEFINE_string(
  'source_recipe', None, 'Its recipe; that of most epochs if not given.'
)
flags.DEFINE_integer(
  'best', 20, 'Cells of the lowest error rate on validation.', lower_bound=0
)
flags.DEFINE_integer('random', 70, 'Cells drawn from the rest.', lower_bound=0)
flags.DEFINE_integer('worst', 10, 'Cells of the highest.', lower_bound=0)
flags.DEFINE_integer('choice_seed', 0, 'Seed of the draw.', lower_bound=0)
flags.DEFINE_float(
  'most',
  0.5,
  'Cells above this error rate on validation of --source are left out.',
  lower_bound=0.0,
)
flags.DEFINE_string(
  'metric',
  None,
  'Name of the error rate on test of the target, as wer; the one that decides '
  'on its corpus if not given. Validation is always by that one.',
)
flags.DEFINE_string('json', None, 'Where pairs and correlations go.')
flags.adopt_module_key_flags(benchmark)

# These choose cells here.
_INSTEAD = ('cells', 'ops', 'random_cells')


def source():
  """Returns the `analysis.Results` of the table of --source, and its metric.

  Raises:
    ValueError: it is of another space, or has no such recipe.
  """
  from nasjax import analysis, table

  rows = table.open(FLAGS.source)
  if rows.space.name != FLAGS.space:
    raise ValueError(
      f'--source={FLAGS.source} is a table of {rows.space.name}, the networks '
      f'of --macro={FLAGS.macro} are of {FLAGS.space}; give --space='
      f'{rows.space.name} and a macro network of it, or another table'
    )
  recipe = FLAGS.source_recipe
  if recipe is None:
    epochs_r = rows.column('epochs')
    recipe = str(rows.column('recipe')[epochs_r.argmax()])
  elif recipe not in rows.recipes:
    raise ValueError(
      f'--source_recipe={recipe}: {FLAGS.source} has {", ".join(rows.recipes)}'
    )
  return analysis.results(rows, recipe), rows


def check(work):
  """Refuses a --metric that the networks will not have, before they train.

  Raises:
    ValueError: so.
  """
  from nasjax.decoding import metrics

  units = metrics.Units(tuple(work.corpus.symbols))
  metrics.named(FLAGS.metric, work.job.metric, units, '--metric')


def run():
  """Chooses, trains, compares."""
  for name in _INSTEAD:
    if FLAGS[name].value is not None:
      raise ValueError(
        f'--{name} does not go with transfer.py, which takes its cells from '
        '--source; leave it out'
      )
  # What can be wrong with them is said before a table is read.
  training_flags.recipe(), training_flags.space()
  seeds = training_flags.seeds()
  corpus_flags.check()
  results, rows = source()
  from nasjax import analysis

  try:
    chosen = analysis.choose(
      results.val_n,
      FLAGS.best,
      FLAGS.random,
      FLAGS.worst,
      FLAGS.choice_seed,
      FLAGS.most,
    )
  except ValueError as e:
    raise ValueError(f'--source={FLAGS.source}: {e}') from None
  archs_nd = results.archs_nd[chosen.cell_n]

  def finish(table, out):
    from summaries import transfer_summary

    found = transfer_summary.write(
      rows, results, chosen, table, seeds, FLAGS.metric, out
    )
    if FLAGS.json:
      command.publish_json(FLAGS.json, found)

  members = [(arch, seed) for arch in archs_nd for seed in seeds]
  benchmark.run(members, finish, check)


if __name__ == '__main__':
  command.run(run)
