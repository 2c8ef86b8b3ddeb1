"""What a grid of schedules shows: a ranking, and a figure."""

import numpy as np
from common.console import CONSOLE
from rich.table import Table

from nasjax import analysis, plots


def write(table, own, out):
  """Prints and draws the ranking, and returns it as plain values for JSON.

  The error rate of a schedule is the mean, over cells and seeds, of each
  network's best epoch on validation. Which are worse than the best is asked of
  the same networks, pair by pair; the best was chosen by these numbers, so it
  is flattered a little.

  Args:
    table: a `table.Table` with a recipe for each.
    own: the recipes of the grid.
    out: directory of the run.
  """
  val_kn = np.stack([_best_by_network(table, recipe.name) for recipe in own])
  diverged_k = np.isinf(val_kn).sum(1)
  mean_k = val_kn.mean(1)
  order = np.argsort(mean_k, kind='stable')
  best = order[0]
  verdicts = _against(val_kn, own, best)
  ranking = []
  view = Table(title=f'validation {table.metric}, mean over networks')
  columns = 'lr', 'decay', 'start', table.metric, 'from the best'
  for column in (*columns, 'verdict', 'diverged'):
    view.add_column(column, justify='right')
  for k in order:
    recipe, verdict = own[k], verdicts.get(own[k].name)
    apart = mean_k[k] - mean_k[best]
    ranking.append(
      {
        'recipe': recipe.name,
        'lr': recipe.lr,
        'decay': recipe.decay,
        'start': recipe.start,
        'val': _number(mean_k[k]),
        'from_best': _number(apart),
        'lies': None if verdict is None else verdict.lies,
        'diverged': int(diverged_k[k]),
        'networks': val_kn.shape[1],
      }
    )
    view.add_row(
      f'{recipe.lr:g}',
      f'{recipe.decay:g}',
      str(recipe.start),
      _rate(mean_k[k]),
      '' if k == best else _rate(apart),
      _words(verdict) if k != best else 'best',
      str(diverged_k[k]) if diverged_k[k] else '',
    )
  CONSOLE.print(view)
  (out / 'figures').mkdir(exist_ok=True)
  path = out / 'figures' / 'pilot.png'
  plots.save(_draw(own, mean_k, table.metric), path)
  first = own[best]
  CONSOLE.print(
    f'figure: {path}\nlowest: --lr={first.lr:g} --decay={first.decay:g} '
    f'--start={first.start}{_at_edge(own, first)}'
  )
  return {'metric': table.metric, 'ranking': ranking}


def _best_by_network(table, recipe):
  """Returns the lowest validation error of each network, by cell and seed."""
  part = table.select(recipe=recipe)
  val_re = part.curves('val_per')
  val_r = np.where(np.isnan(val_re), np.inf, val_re).min(1)
  val_r = np.where(part.column('status') == 'ok', val_r, np.inf)
  cell_r = part.space.indices(part.row_archs)
  return val_r[np.lexsort((part.column('seed'), cell_r))]


def _against(val_kn, own, best):
  """Returns verdicts by name of those whose networks all ended well."""
  whole = {
    recipe.name: val_n
    for recipe, val_n in zip(own, val_kn, strict=True)
    if np.isfinite(val_n).all()
  }
  reference = whole.pop(own[best].name, None)
  if reference is None or not whole:
    return {}
  return analysis.judge(whole, reference)


def _words(verdict):
  if verdict is None:
    return ''
  return {
    'above': 'worse',
    'below': 'better',
    'open': 'no significant difference',
  }.get(verdict.lies, f'{verdict.n} networks are too few to tell')


def _number(value):
  return float(value) if np.isfinite(value) else None


def _rate(value):
  return f'{value:.2%}' if np.isfinite(value) else '--'


def _at_edge(own, first):
  """Says where the best lies at an end: a wider grid may be better."""
  for name in ('lr', 'decay', 'start'):
    values = sorted({getattr(recipe, name) for recipe in own})
    if len(values) > 1 and getattr(first, name) in (values[0], values[-1]):
      return f' ({name} lies at an end of the grid; a wider one may be better)'
  return ''


def _draw(own, mean_k, metric):
  groups = {}
  for recipe, mean in zip(own, mean_k, strict=True):
    key = f'decay {recipe.decay:g} from epoch {recipe.start + 1} on'
    groups.setdefault(key, []).append((recipe.lr, mean))
  best = own[int(np.argmin(mean_k))]
  return plots.by_rate(
    groups,
    f'Lowest at a learning rate of {best.lr:g}',
    f'validation {metric}',
  )
