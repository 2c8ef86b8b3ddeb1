"""What a comparison of searchers shows: a table, two figures, a record."""

import math
from typing import NamedTuple

import numpy as np
from common.console import CONSOLE
from rich.table import Table

from nasjax import analysis, plots, spaces
from nasjax.search import landscape

# Points of the curves, and over how many models the newest are averaged.
POINTS, WINDOW = 200, 20
# How an interval lies to that of random search; the lower error is the better.
VERDICTS = {
  'below': 'better than random',
  'above': 'worse than random',
  'overlapping': 'not told apart from random',
  'unknown': 'too few repeats to tell',
}


class Study(NamedTuple):
  """Searches to be compared.

  Attributes:
    traces: of each searcher, by name; 'random' among them.
    seconds: that each took.
    epochs: of a full training.
    budget: in trained models.
    scape: `landscape.Landscape`, or None where models were trained.
    metric: what the error rate on test is called, which judges.
    decides: what that on validation is called, which searchers see; as `metric`
      if not given.
  """

  traces: dict
  seconds: dict
  epochs: int
  budget: int
  scape: object
  metric: str = 'PER'
  decides: str | None = None


def say_landscape(rows, scape):
  """Prints what is searched."""
  answers = scape.answers
  CONSOLE.print(
    f'{rows.path}: {len(scape.runs_c)} cells, {scape.runs_c.sum()} runs of '
    f'{scape.epochs} epochs, macro {rows.column("macro")[0]}, '
    f'{rows.column("corpus")[0]}'
  )
  if not scape.listed:
    CONSOLE.print(
      f'the choices of these cells make {math.prod(scape.sizes):,} '
      f'architectures, more than the {spaces.MOST_LISTED:,} that are listed: '
      'what is suggested and is not in the table is answered by the nearest '
      'cell that the search has not evaluated yet'
    )
    return
  CONSOLE.print(
    f'{scape.cell_a.size} architectures to search among, of which the table '
    f'has {answers["function"]} by their function'
  )
  for how, count in answers.items():
    if how != 'function' and count:
      words = {
        'key': 'by their published key only, which may be another function',
        'nearest': 'not at all; the nearest cell answers for them',
      }
      CONSOLE.print(f'  and {count} {words[how]}')


def at_budget(study):
  """Returns the test error of the best by validation of each repeat, by name.

  Raises:
    ValueError: the budget does not train a single model to the end.
  """
  found = {
    name: landscape.best_test(trace, study.epochs, np.array([study.budget]))[
      :, 0
    ]
    for name, trace in study.traces.items()
  }
  for name, per_r in found.items():
    if np.isnan(per_r).any():
      raise ValueError(
        f'{name} has trained no model to the end; raise --budget={study.budget}'
      )
  return found


def record(study):
  """Returns what --json writes."""
  return {
    name: {
      'test_per_at_budget': per_r.tolist(),
      'metric': study.metric,
      'seconds': study.seconds[name],
    }
    for name, per_r in at_budget(study).items()
  }


def write(study, out):
  """Prints the comparison, and draws it into OUT."""
  found = at_budget(study)
  means = {name: analysis.mean(per_r) for name, per_r in found.items()}
  repeats = len(found['random'])
  view = Table(
    title=f'test {study.metric} of the best by validation after '
    f'{study.budget} models, {repeats} searches each'
  )
  for column in ('searcher', 'mean', '95 % interval', 'median', 'quartiles'):
    view.add_column(column, justify='left' if column == 'searcher' else 'right')
  view.add_column('against random search')
  view.add_column('seconds', justify='right')
  for name, per_r in found.items():
    mean = means[name]
    low, middle, high = np.quantile(per_r, [0.25, 0.5, 0.75])
    verdict = analysis.compare(mean, means['random'])
    view.add_row(
      name,
      f'{mean.value:.2%}',
      f'{mean.low:.2%} to {mean.high:.2%}' if repeats > 1 else '',
      f'{middle:.2%}',
      f'{low:.2%} to {high:.2%}',
      '' if name == 'random' else VERDICTS[verdict],
      f'{study.seconds[name]:.1f}',
    )
  CONSOLE.print(view)
  lowest = None
  if study.scape is not None:
    lowest = float(study.scape.test_cr[_runs(study.scape)].min())
    said = f'lowest test {study.metric} of any run: {lowest:.2%}'
    if study.scape.listed:
      exact = landscape.expected_random(study.scape, study.budget)
      said = f'random search, exact expectation: {exact:.2%}; {said}'
    CONSOLE.print(said)
  draw(study, lowest, out)
  CONSOLE.print(f'figures in {out}')


def draw(study, lowest, out):
  """Draws the two curves of the paper's Figure 8 into OUT."""
  test, val = study.metric, study.decides or study.metric
  costs_k = np.unique(
    np.round(np.geomspace(1, study.budget, POINTS) * study.epochs)
  )
  costs_k = costs_k / study.epochs
  best = {
    name: (costs_k, landscape.best_test(trace, study.epochs, costs_k))
    for name, trace in study.traces.items()
  }
  newest = {
    name: (costs_k, landscape.newest_val(trace, study.epochs, costs_k, WINDOW))
    for name, trace in study.traces.items()
  }
  plots.save(
    plots.search_curves(
      best,
      f'test {test} of the best by validation',
      lowest,
      log_cost=True,
    ),
    out / f'test_{_in_files(test)}_of_best.png',
  )
  plots.save(
    plots.search_curves(
      newest,
      ylabel=f'validation {val}, mean of the newest {WINDOW}',
      log_cost=True,
    ),
    out / f'validation_{_in_files(val)}_of_newest.png',
  )


def _in_files(metric):
  return metric.lower().replace('/', '_')


def _runs(scape):
  return np.arange(scape.test_cr.shape[1]) < scape.runs_c[:, None]
