"""Compares searchers, on a benchmark table or by real training.

  python experiments/search.py --flagfile=experiments/flags/search.flags
  python experiments/search.py --evaluate=train --searchers=evolution \\
    --flagfile=experiments/flags/quickstart.flags --budget=24 --repeats=1

The protocol of NAS-Bench-ASR (Mehrotra et al., ICLR 2021, section 6, Figure 8):
cost in trained models, n / E for n of E epochs; test PER of the best by
validation. Of a cell with several runs an evaluation draws one; training uses
one seed. Killed while it trains, the same command goes on.
"""

import json
import pathlib
import time

from absl import flags
from common import command, corpus_flags, device_flags, training_flags

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
flags.DEFINE_list('searchers', None, 'Names of searchers; all if not given.')
flags.DEFINE_integer('repeats', 100, 'Searches of each.', lower_bound=1)
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
  'json', None, 'Where the test error rate at the budget of every repeat goes.'
)
for _module in corpus_flags, device_flags, training_flags:
  flags.adopt_module_key_flags(_module)


def searchers():
  """Returns the names of the searchers wanted, random search first."""
  from nasjax import search

  names = list(search.SEARCHERS) if FLAGS.searchers is None else FLAGS.searchers
  for name in names:
    if name not in search.SEARCHERS:
      raise ValueError(
        f'--searchers: {name!r}; there are {", ".join(search.SEARCHERS)}'
      )
  if not names:
    raise ValueError('--searchers is empty; name at least one')
  # What the others are compared with.
  return list(dict.fromkeys(['random', *names]))


def in_table(names, bars):
  """Searches in the table; returns a `search_summary.Study`."""
  from summaries import search_summary

  from nasjax import search, table
  from nasjax.predictors import gcn
  from nasjax.search import landscape

  rows = table.open(pathlib.Path(FLAGS.table).expanduser())
  scape = landscape.landscape(rows, FLAGS.table_recipe, FLAGS.metric)
  search_summary.say_landscape(rows, scape)
  traces, seconds = {}, {}
  for name in names:
    own = {}
    if name == 'gcn':
      vectors = landscape.candidates(scape)
      graphs = gcn.graphs(rows.space, scape.archs(vectors))
      own = {'candidates': vectors, 'graphs': graphs}
    searcher = search.SEARCHERS[name](
      scape.sizes, scape.epochs, FLAGS.budget, **own
    )
    started = time.perf_counter()
    with bars(f'{name}, models trained') as tick:
      traces[name] = landscape.simulate(
        searcher,
        scape,
        FLAGS.search_seed,
        FLAGS.repeats,
        FLAGS.budget,
        lambda done: tick(int(done), FLAGS.budget),
      )
    seconds[name] = time.perf_counter() - started
  return search_summary.Study(
    traces,
    seconds,
    scape.epochs,
    FLAGS.budget,
    scape,
    rows.named(FLAGS.metric),
    rows.metric,
  )


def run():
  """Searches, then shows and writes what was found."""
  names, out = searchers(), command.directory('out')
  with command.exclusive(out):
    if FLAGS.evaluate == 'train':
      from studies import search_training

      study = search_training.study(names, out)
    else:
      device_flags.configure(FLAGS.repeats)
      from common import console

      study = in_table(names, console.counter)
    from summaries import search_summary

    from nasjax.storage import disk

    search_summary.write(study, out)
    if FLAGS.json:
      text = json.dumps(search_summary.record(study), indent=1)
      disk.publish(pathlib.Path(FLAGS.json).expanduser(), text.encode())


if __name__ == '__main__':
  command.run(run)
