"""What a comparison of searchers shows: a table, two figures, a verdict."""

import math
from typing import NamedTuple

import numpy as np
from common.console import CONSOLE
from rich.table import Table
from summaries import search_curves

from nasjax import analysis, plots, spaces
from nasjax.search import landscape

# Points of the curves, and over how many models the newest are averaged.
POINTS, WINDOW = 60, 20
# How an error rate lies to that of random search; the lower is the better.
VERDICTS = {
  'below': 'better than random',
  'above': 'worse than random',
  'open': 'no significant difference',
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
    added: curves of others, `search_curves.Curve` by name.
    about: what the curves are of: metric, recipe, corpus.
  """

  traces: dict
  seconds: dict
  epochs: int
  budget: int
  scape: object
  metric: str = 'PER'
  decides: str | None = None
  added: dict = {}
  about: dict = {}


class Judged(NamedTuple):
  """What the searches found, and what may be said of it.

  Attributes:
    cost_k: costs in trained models, up to the budget.
    curves: `{name: test_rk}`, test error of the best by validation; NaN where
      there is none yet.
    expected_k: exact expectation of random search; None where it is not known.
    verdicts: `{name: analysis.Verdict}` at the budget, against that, or paired
      by repeat against the random searches.
    since: `{name: cost}` from which on a searcher is better, or None.
    oracle: mean test error of the best cell; None where it is not known.
  """

  cost_k: np.ndarray
  curves: dict
  expected_k: np.ndarray | None
  verdicts: dict
  since: dict
  oracle: float | None


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


def judged(study):
  """Returns what is Judged of a Study.

  Raises:
    ValueError: the budget does not train a single model to the end.
  """
  cost_k = np.geomspace(1, study.budget, POINTS) * study.epochs
  cost_k = np.unique(np.round(cost_k)) / study.epochs
  curves = {
    name: landscape.best_test(trace, study.epochs, cost_k)
    for name, trace in study.traces.items()
  }
  for name, test_rk in curves.items():
    if np.isnan(test_rk[:, -1]).any():
      raise ValueError(
        f'{name} has trained no model to the end; raise --budget={study.budget}'
      )
  curves |= {name: curve.at(cost_k) for name, curve in study.added.items()}
  expected_k = oracle = None
  if study.scape is not None:
    oracle = landscape.oracle(study.scape)
    if study.scape.listed:
      # A cost that is no integer pays for a model that is not trained yet.
      expected_k = landscape.expected_random(study.scape, cost_k.astype(int))
  reference_k = curves['random'] if expected_k is None else expected_k
  others = {name: of for name, of in curves.items() if name != 'random'}
  return Judged(
    cost_k,
    curves,
    expected_k,
    analysis.judge(
      {name: test_rk[:, -1] for name, test_rk in others.items()},
      reference_k[..., -1],
    ),
    analysis.since(cost_k, others, reference_k),
    oracle,
  )


def finding(verdicts, random, metric):
  """Returns what was found, in one sentence.

  Args:
    verdicts: `{name: analysis.Verdict}` of searchers or methods.
    random: what they were held against, as 'random search of 150 models'.
    metric: what the error rate on test is called.
  """
  if not verdicts:
    return f'Test {metric} of {random}'
  if all(v.lies == 'unknown' for v in verdicts.values()):
    return f'Too few repeats to tell anything from {random}'
  names = [name for name, v in verdicts.items() if v.lies == 'below']
  names.sort(key=lambda name: verdicts[name].difference)
  if not names:
    return f'Nothing is significantly better than {random}; {visible(verdicts)}'
  least, most = names[-1], names[0]
  low, high = (f'{-100 * verdicts[n].difference:.2g}' for n in (least, most))
  span = low if low == high else f'{low} to {high}'
  who = search_curves.listed(names)
  if len(names) > 4:
    who = f'{len(names)} of {len(verdicts)} searchers'
  verb = 'beats' if len(names) == 1 else 'beat'
  text = f'{who} {verb} {random}, by {span} points of {metric}'
  return text[0].upper() + text[1:].replace('_', ' ')


def visible(verdicts):
  """Says which improvement would have been seen."""
  seen = [100 * v.visible for v in verdicts.values() if v.visible > 0]
  if not seen:
    return 'nothing can be said of small differences'
  low, high = f'{min(seen):.2g}', f'{max(seen):.2g}'
  span = low if low == high else f'{low} to {high}'
  return (
    f'{span} points less would have been seen with a chance of '
    f'{analysis.POWER:.0%}'
  )


def record(study):
  """Returns what --json writes; `search_curves` says what it means."""
  found = judged(study)
  return {
    name: search_curves.record(
      found.cost_k,
      test_rk,
      found.verdicts.get(name),
      found.since.get(name),
      study.about
      | {
        'metric': study.metric,
        'epochs': study.epochs,
        'budget': study.budget,
        'seconds': study.seconds.get(name),
      },
    )
    | _known(name, found)
    for name, test_rk in found.curves.items()
  }


def _known(name, found):
  if name != 'random' or found.expected_k is None:
    return {}
  return {
    'expected_by_cost': found.expected_k.tolist(),
    'oracle': found.oracle,
  }


def write(study, out):
  """Prints the comparison, and draws it into OUT."""
  found = judged(study)
  exact = found.expected_k is not None
  view = Table(
    title=f'test {study.metric} of the best by validation after '
    f'{study.budget} models'
  )
  for column in ('searcher', 'searches', 'mean', 'difference'):
    view.add_column(column, justify='left' if column == 'searcher' else 'right')
  view.add_column('verdict')
  view.add_column('from', justify='right')
  view.add_column('seconds', justify='right')
  if exact:
    view.add_row('random, exact', '', f'{found.expected_k[-1]:.2%}')
  for name, test_rk in found.curves.items():
    per_r, v = test_rk[:, -1], found.verdicts.get(name)
    view.add_row(
      name,
      f'{len(per_r):,}',
      f'{per_r.mean():.2%}',
      '' if v is None else points(v),
      '' if v is None else VERDICTS[v.lies],
      ''
      if found.since.get(name) is None
      else f'{np.ceil(found.since[name]):g}',
      '' if study.seconds.get(name) is None else f'{study.seconds[name]:.1f}',
    )
  if found.oracle is not None:
    view.add_row('oracle', '', f'{found.oracle:.2%}')
  CONSOLE.print(view)
  if exact:
    CONSOLE.print(
      f'random search, exact expectation: {found.expected_k[-1]:.2%}; the '
      "others are held against it, in points with Holm's interval of 95 %"
    )
  elif found.verdicts:
    CONSOLE.print(
      'differences from random search are paired by repeat, in points with '
      "Holm's interval of 95 %"
    )
  if any(cost is not None for cost in found.since.values()):
    CONSOLE.print('from: from so many trained models on it is better')
  if found.oracle is not None:
    CONSOLE.print(
      f'oracle: the cell of the lowest mean test {study.metric}; lowest test '
      f'{study.metric} of any run: '
      f'{study.scape.test_cr[_runs(study.scape)].min():.2%}'
    )
  said = _said(study, found)
  CONSOLE.print(said)
  if found.verdicts and visible(found.verdicts) not in said:
    CONSOLE.print(visible(found.verdicts))
  draw(study, found, out)
  CONSOLE.print(f'figures in {out}')


def _said(study, found):
  random = f'random search of {study.budget} models'
  return finding(found.verdicts, random, study.metric)


def points(verdict):
  """Returns a difference with its interval, in points of percent."""
  text = f'{100 * verdict.difference:+.2f}'
  if np.isnan(verdict.low):
    return text
  return f'{text} [{100 * verdict.low:+.2f}, {100 * verdict.high:+.2f}]'


def draw(study, found, out):
  """Draws search.png, and the newest of the paper's Figure 8, into OUT."""
  val = study.decides or study.metric
  reference_k = found.expected_k
  if reference_k is None:
    reference_k = found.curves['random'].mean(axis=0)
  plots.save(
    plots.search_forest(
      found.verdicts,
      found.cost_k,
      {name: of.mean(axis=0) for name, of in found.curves.items()},
      reference_k,
      oracle=found.oracle,
      exact=found.expected_k is not None,
      title=_said(study, found),
      metric=study.metric,
    ),
    out / 'search.png',
  )
  newest = {
    name: (
      found.cost_k,
      landscape.newest_val(trace, study.epochs, found.cost_k, WINDOW),
    )
    for name, trace in study.traces.items()
  }
  what = f'validation {val}, mean of the newest {WINDOW}'
  plots.save(
    plots.search_curves(
      newest,
      ylabel=what,
      log_cost=True,
      title=plots.findings.newest(newest, what),
    ),
    out / f'validation_{_in_files(val)}_of_newest.png',
  )


def _in_files(metric):
  return metric.lower().replace('/', '_')


def _runs(scape):
  return np.arange(scape.test_cr.shape[1]) < scape.runs_c[:, None]
