"""Writes one HTML page of all that a table says.

  python experiments/report.py --table=experiments/tables/synthetic_timit

Any table will do: one recipe or several, one seed or several, with failed runs.
The page needs nothing else, neither files nor a network.
"""

import json
import pathlib

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'table', 'experiments/tables/synthetic_timit', 'Directory of the table.'
)
flags.DEFINE_string('out', 'results/report.html', 'The page to write.')
flags.DEFINE_string(
  'recipe',
  None,
  'Recipe that most sections are about; the one of most epochs if not given.',
)
flags.DEFINE_string(
  'macro', None, 'Macro network, where the table has several.'
)
flags.DEFINE_string(
  'corpus_fingerprint', None, 'Corpus, where the table has several.'
)
flags.DEFINE_string(
  'metric',
  None,
  'Name of the error rate on test, as wer; the one that decides in the table '
  'if not given.',
)
flags.DEFINE_string(
  'search', None, 'What experiments/search.py wrote with --json.'
)
flags.DEFINE_integer(
  'resamples', 1000, 'Bootstrap resamples of each interval.', lower_bound=100
)


def read_search(path):
  """Returns what a search wrote, checked for what the report needs."""
  try:
    found = json.loads(pathlib.Path(path).read_text('utf-8'))
    if not found:
      raise ValueError('no searcher')
    for one in found.values():
      if not [float(value) for value in one['test_per_at_budget']]:
        raise ValueError('no repeat')
      [float(value) for value in one.get('expected_by_cost', [0])][-1]
      float(one['seconds'] or 0)
      ''.join(one.get('metric', ''))
  except (KeyError, TypeError, AttributeError, ValueError) as e:
    raise ValueError(
      f'--search={path} is not what search.py writes with --json '
      f'({type(e).__name__}: {e})'
    ) from None
  return found


def run():
  """Reads the table, writes the page."""
  # What can be wrong is looked for before anything slow is imported.
  out = pathlib.Path(FLAGS.out).expanduser()
  if not FLAGS.out or out.is_dir():
    raise ValueError(f'--out={FLAGS.out!r} is no name of a file')
  search = read_search(FLAGS.search) if FLAGS.search else None

  from nasjax import table
  from nasjax.storage import disk

  t = table.open(FLAGS.table)
  if FLAGS.macro or FLAGS.corpus_fingerprint:
    t = t.select(macro=FLAGS.macro, corpus_fingerprint=FLAGS.corpus_fingerprint)
  from summaries import report_page, report_sections

  study = report_sections.study(t, FLAGS.recipe, FLAGS.resamples, FLAGS.metric)
  sections = report_sections.build(study, search)
  title = f'The table {pathlib.Path(FLAGS.table).name}'
  disk.make_directory(out.parent)
  disk.publish(out, report_page.page(title, sections).encode())
  print(f'{out}: {len(t)} rows, {len(sections)} sections')


if __name__ == '__main__':
  command.run(run)
