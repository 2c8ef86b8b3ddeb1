"""Compares searchers, on a benchmark table or by real training.

  python experiments/search.py --flagfile=experiments/flags/search.flags
  python experiments/search.py --evaluate=train --searchers=evolution \\
    --flagfile=experiments/flags/quickstart.flags --budget=24 --repeats=1

The protocol of NAS-Bench-ASR (Mehrotra et al., ICLR 2021, section 6, Figure 8):
cost in trained models, n / E for n of E epochs; test PER of the best by
validation. Of a cell with several runs an evaluation draws one; training uses
one seed. Killed while it trains, the same command goes on. A searcher of one's
own joins with --searcher, curves from elsewhere with --add.
"""

import pathlib
import shlex
import time

from absl import flags
from common import command, corpus_flags, device_flags, training_flags
from studies import constrained

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'evaluate',
  'table',
  ['table', 'train'],
  'Look architectures up in --table, or train them with the flags of '
  'benchmark.py.',
)
flags.DEFINE_string(
  'table', 'experiments/tables/synthetic_timit', 'The table to search in.'
)
flags.DEFINE_string(
  'table_recipe', None, 'Its recipe; that of most epochs if not given.'
)
flags.DEFINE_string(
  'metric',
  None,
  'Name of the error rate on test that judges, as wer; the one that decides in '
  'the table if not given. Searchers see the latter on validation.',
)
flags.DEFINE_list(
  'searchers',
  None,
  'Names of searchers; all of nasjax.search if not given. Also grid, and of '
  'optuna tpe and nsga2, which minimises --cost beside the error rate.',
)
flags.DEFINE_list(
  'warm_start',
  [],
  'Names of zero-cost proxies: beside each of --warm_searchers another that '
  'begins with what the proxy likes best. On a table.',
)
flags.DEFINE_string('proxy_scores', None, 'What proxies.py --json wrote.')
flags.DEFINE_list(
  'warm_searchers',
  None,
  'For --warm_start; evolution and gcn, those of --searchers, if not given.',
)
flags.DEFINE_integer(
  'warm_first', 10, 'Models to begin a warm start with.', lower_bound=1
)
flags.DEFINE_integer(
  'warm_pool', 100, 'Cells drawn, of which they are the best.', lower_bound=1
)
flags.DEFINE_multi_string(
  'searcher',
  [],
  "A searcher of one's own beside them, as module:make or path/file.py:make; "
  'see experiments/examples/own_searcher.py. May be given several times.',
)
flags.DEFINE_multi_string(
  'add',
  [],
  'JSON with curves of other searches, to be compared and drawn beside these; '
  'experiments/summaries/search_curves.py tells its format.',
)
flags.DEFINE_integer('repeats', 100, 'Searches of each.', lower_bound=1)
flags.DEFINE_list(
  'repeats_of',
  [],
  'Fewer searches of those that take long, as gcn=100,reinforce=200.',
)
flags.DEFINE_integer('budget', 150, 'Models to train in each.', lower_bound=1)
flags.DEFINE_integer(
  'suggestions',
  8,
  'With --evaluate=train, how many models are suggested at a time.',
  lower_bound=1,
)
flags.DEFINE_integer('search_seed', 0, 'Seed of the searches.', lower_bound=0)
flags.DEFINE_string('out', 'results/search', 'Where figures and tables go.')
flags.DEFINE_string(
  'json', None, 'Where verdicts go, and the curves of every repeat.'
)
for _module in corpus_flags, device_flags, training_flags, constrained:
  flags.adopt_module_key_flags(_module)


def in_table(names, bars):
  """Searches in the table; returns a `search_summary.Study`, and the costs."""
  from studies import searchers
  from summaries import search_summary

  from nasjax import table
  from nasjax.predictors import gcn
  from nasjax.search import constraints, driver, landscape

  rows = table.open(pathlib.Path(FLAGS.table).expanduser())
  scape = landscape.landscape(rows, FLAGS.table_recipe, FLAGS.metric)
  about = {
    'metric': rows.named(FLAGS.metric),
    'recipe': FLAGS.table_recipe or rows.recipes[-1],
    'corpus': str(rows.column('corpus')[0]),
  }
  added = searchers.added(about, names)
  search_summary.say_landscape(rows, scape)
  macro = str(rows.column('macro')[0])
  costs = constrained.costs(rows.space, macro, scape.cell_archs, rows)
  names = constrained.joined(names, costs, scape.values, scape)
  told = scape
  if costs and costs.constraint:
    cost_c = costs.of_archs(scape.cell_archs)
    told = constraints.penalised(scape, cost_c, costs.constraint)

  def graphs():
    vectors = landscape.candidates(scape)
    return vectors, gcn.graphs(rows.space, scape.archs(vectors))

  # All are made before any searches, for what is wrong is to be said at once.
  made = {
    name: searchers.made(name, make, scape.sizes, scape.epochs, 1, graphs)
    for name, make in names.items()
  }
  made |= searchers.warm(made, scape, rows)
  traces, seconds = {}, {}
  for name, searcher in made.items():
    started = time.perf_counter()
    with bars(f'{name}, models trained') as tick:
      traces[name] = driver.on_table(
        searcher,
        told,
        FLAGS.search_seed,
        searchers.repeats(name),
        FLAGS.budget,
        lambda done: tick(int(done), FLAGS.budget),
      )
    seconds[name] = time.perf_counter() - started
  study = search_summary.Study(
    traces,
    seconds,
    scape.epochs,
    FLAGS.budget,
    scape,
    about['metric'],
    rows.metric,
    added,
    about,
  )
  return study, costs


def run():
  """Searches, then shows and writes what was found."""
  from studies import searchers

  names, out = searchers.named(), command.directory('out')
  with command.exclusive(out):
    costs = None
    if FLAGS.evaluate == 'train':
      from studies import search_training

      if FLAGS.warm_start:
        raise ValueError('--warm_start is for --evaluate=table')
      study = search_training.study(names, out)
    else:
      device_flags.configure(FLAGS.repeats)
      from common import console

      study, costs = in_table(names, console.counter)
    from common.console import print_next
    from summaries import search_curves, search_summary

    from nasjax.storage import disk

    search_summary.write(study, out)
    record = search_summary.record(study)
    if costs:
      constrained.write(constrained.report(study, costs, out), out)
    if FLAGS.json:
      text = search_curves.text(record)
      disk.publish(pathlib.Path(FLAGS.json).expanduser(), text.encode())
    print_next(next_steps(out))


def next_steps(out):
  """Returns commands by what they are good for, once searches are over."""
  trained = FLAGS.evaluate == 'train'
  place = shlex.quote(str(out if trained else FLAGS.table))
  report = f'python experiments/report.py --table={place}'
  if FLAGS.json:
    report += f' --search={shlex.quote(FLAGS.json)}'
  found = {'the table and these searches, as one page': report}
  if trained:
    found['what the best network hears'] = (
      f'python experiments/transcribe.py --run={place} audio.wav'
    )
  return found


if __name__ == '__main__':
  command.run(run)
