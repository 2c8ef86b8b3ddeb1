"""The report of a table: what is studied, and its sections in order."""

import json
from typing import NamedTuple

import numpy as np
from summaries import report_cells, report_rankings
from summaries import report_page as page
from summaries import report_words as words

from nasjax import analysis, plots, spaces


class Study(NamedTuple):
  """What is reported on.

  Attributes:
    table: a `table.Table`.
    found: `analysis.Results` of each recipe, fewest epochs first.
    main: those that most sections are about.
    repeats: bootstrap resamples of each interval.
    metric: what the error rate on test is called.
  """

  table: object
  found: tuple
  main: analysis.Results
  repeats: int
  metric: str

  @property
  def decides(self):
    """What the error rate on validation is called."""
    return self.table.metric


def study(table, recipe=None, repeats=1000, metric=None):
  """Returns the Study of a table; the main recipe has the most epochs.

  `metric` names the error rate on test; None is what decides in the table.
  """
  names = table.recipes
  if recipe is not None and recipe not in names:
    raise ValueError(f'no recipe {recipe!r} in {table.path}; there is {names}')
  found = tuple(analysis.results(table, name, metric) for name in names)
  main = found[-1] if recipe is None else found[names.index(recipe)]
  return Study(table, found, main, repeats, table.named(metric))


def build(study, search=None):
  """Returns all Sections; `search` is what search.py wrote, or None."""
  chain = isinstance(study.table.space, spaces.Chain)
  sections = [
    overview(study),
    report_cells.best(study),
    distributions(study),
    report_rankings.validation(study),
    report_rankings.seeds(study),
    report_rankings.decisions(study),
    report_rankings.budgets(study),
    report_cells.makeup(study),
    report_cells.counts(study) if chain else report_cells.choices(study),
    report_cells.costs(study),
  ]
  if search is not None:
    sections.append(searches(search, study.repeats, study.decides))
  return [*sections, methods(study)]


def overview(study):
  """What was run on what, and what is not there."""
  t, space = study.table, study.table.space
  versions = json.loads(t.column('versions')[0])
  recipes = [
    f'{r.recipe} ({words.many(r.epochs, "epoch")})' for r in study.found
  ]
  runs = sum(int(r.has_ns.sum()) for r in study.found)
  text = page.paragraph(
    f'{words.many(runs, "run")}: {words.many(len(t.archs), "cell")} of the '
    f'{space.size:,} of {space.name}, seed'
    f'{"s" if len(t.seeds) > 1 else ""} {words.listed(t.seeds)}, recipe'
    f'{"s" if len(recipes) > 1 else ""} {words.listed(recipes)};',
    f'macro network {t.column("macro")[0]}, corpus {t.column("corpus")[0]} '
    f'(fingerprint {t.column("corpus_fingerprint")[0][:12]}).',
    f'Trained between {min(t.column("created"))[:10]} and '
    f'{max(t.column("created"))[:10]} with '
    f'{words.listed(f"{k} {v}" for k, v in sorted(versions.items()))}.',
    f'Where nothing else is said, numbers are of recipe {study.main.recipe}.',
  )
  rows = [
    (
      r.recipe,
      str(r.epochs),
      f'{r.has_ns.any(axis=1).sum():,}',
      f'{r.has_ns.sum():,}',
      f'{r.failed:,}',
      ', '.join(f'{n:,} {name}' for name, n in r.status.items()),
      f'{(~np.isnan(r.test_n)).sum():,}',
    )
    for r in study.found
  ]
  head = (
    'recipe', 'epochs', 'cells', 'runs', 'failed', 'ended', 'cells ranked',
  )  # fmt: skip
  drawn = plots.search_space(space, plots.findings.space(space))
  return page.Section(
    'What this is',
    [
      text,
      page.table(head, rows),
      page.paragraph(*_missing(study)),
      page.figure(
        drawn,
        'A cell: each node has one of the operations; each skip, dashed, may '
        'or may not be there.'
        if isinstance(space, spaces.Chain)
        else 'Each decision has one of its choices.',
      ),
    ],
  )


def _missing(study):
  """Says what the table does not have."""
  t = study.table
  missing = sum(r.missing for r in study.found)
  return (
    'One seed only: nothing here can say how much of a difference is chance.'
    if len(t.seeds) == 1
    else '',
    'One recipe only: no budgets to compare.' if len(study.found) == 1 else '',
    'No latencies: experiments/latency.py measures them.'
    if not t.latencies
    else '',
    f'{missing:,} pairs of cell and seed were not run with some recipe; '
    'means are over the seeds that a cell has.'
    if missing
    else '',
    'A cell with a failed run is left out of rankings by means; the failures '
    'are counted above.'
    if any(r.failed for r in study.found)
    else '',
  )


def distributions(study):
  """The paper's Figure 3."""
  test_by_name = {r.recipe: r.test_n for r in study.found}
  drawn = plots.distributions(
    test_by_name,
    f'test {study.metric}',
    title=plots.findings.distributions(test_by_name, f'test {study.metric}'),
  )
  rows = []
  for r in study.found:
    test_n = r.test_n[~np.isnan(r.test_n)]
    levels = (
      np.quantile(test_n, (0, 0.05, 0.25, 0.5, 0.75, 1))
      if len(test_n)
      else np.full(6, np.nan)
    )
    rows.append((r.recipe, f'{len(test_n):,}', *map(words.per, levels)))
  head = (
    'recipe',
    'cells',
    'lowest',
    '5 %',
    '25 %',
    'median',
    '75 %',
    'highest',
  )
  return page.Section(
    'Distribution of error rates',
    [
      page.figure(
        drawn, f'Histogram, and share of cells at or below a {study.metric}.'
      ),
      page.table(head, rows),
    ],
  )


def searches(found, repeats=1000, metric='PER'):
  """What searches reach: `{name: {'test_per_at_budget', ..}}` of search.py.

  Records without a metric of their own are of `metric`.
  """
  told = dict.fromkeys(one.get('metric', metric) for one in found.values())
  metric = '/'.join(told)
  means = {
    name: analysis.mean(one['test_per_at_budget'], repeats=repeats)
    for name, one in found.items()
  }
  rows = [
    (
      name,
      str(m.n),
      words.estimate(m, 'search'),
      *(
        words.per(q)
        for q in np.quantile(
          found[name]['test_per_at_budget'], (0.25, 0.5, 0.75)
        )
      ),
      f'{found[name]["seconds"] or 0:,.1f}',
    )
    for name, m in means.items()
  ]
  said = _against_random(found)
  reached = {
    name: np.array(one['test_per_at_budget']) for name, one in found.items()
  }
  head = (
    'searcher', 'searches', f'mean test {metric}', '25 %', 'median', '75 %',
    'seconds',
  )  # fmt: skip
  return page.Section(
    'Searches',
    [
      page.paragraph(
        f'Test {metric} of the best cell by validation when the budget is '
        'spent: mean over searches with its interval, median and quartiles.',
        *said,
      ),
      page.table(head, rows),
      page.figure(
        plots.distributions(
          reached,
          f'test {metric} when the budget is spent',
          plots.findings.distributions(reached, f'test {metric}', 'searches'),
          'searches',
        ),
        f'Histogram of the searches, and share of them at or below a {metric}.',
      ),
    ],
  )


def _against_random(found):
  """Says how each searcher lies to random search, if that is there."""
  if 'random' not in found:
    return []
  reference = found['random'].get('expected_by_cost')
  known = 'its exact expectation'
  if reference is None:
    known, reference = 'by repeat', found['random']['test_per_at_budget']
  else:
    reference = reference[-1]
  verdicts = analysis.judge(
    {
      name: one['test_per_at_budget']
      for name, one in found.items()
      if name != 'random'
    },
    reference,
  )
  return [
    words.against(name, v, 'random search') for name, v in verdicts.items()
  ] + ([f'Random search is compared with {known}.'] if verdicts else [])


def methods(study):
  """How the numbers were made."""
  return page.Section(
    'How this was computed',
    [
      page.paragraph(
        f'Validation {study.decides} is the lowest of a run; its test '
        f'{study.metric} is that of the '
        "same epoch. Correlations are Spearman's, ties sharing their mean "
        f'rank. Brackets hold 95 % percentile bootstrap intervals of '
        f"{study.repeats:,} resamples of the cells; shares have Wilson's. "
        f'Fewer than {analysis.MIN_VALUES} cells get none. Parts of a ranking '
        'are cut once, not in each resample.',
        'Where two intervals overlap, nothing is called lower; searches are '
        'judged by the difference and its interval (Holm). Intervals are '
        'each for itself: of twenty, one may miss by chance.',
        'Runs that failed are counted and never averaged; a cell with one has '
        'no mean.',
      )
    ],
  )
