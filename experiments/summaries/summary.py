"""What a finished table shows: best and worst cells, what separates them."""

import shlex

import numpy as np
from common.console import CONSOLE, REMEDIES, SILENT, print_next
from rich.table import Table

from nasjax import analysis, plots, spaces


def _per(value):
  return '--' if np.isnan(value) else f'{value:.2%}'


def _percent(value):
  return '--' if np.isnan(value) else f'{100 * value:.0f}'


def _cells(table, metric):
  """Returns the rows of each cell, the lowest mean error rate first."""
  index_r = table.space.indices(table.row_archs)
  test_r = table.errors(metric)
  rows = [np.flatnonzero(index_r == i) for i in np.unique(index_r)]
  # NaN sorts last: cells with a diverged seed.
  rows.sort(key=lambda r: np.nan_to_num(test_r[r].mean(), nan=np.inf))
  return rows


def print_extremes(table, count=3, metric=None):
  """Prints the best, the median and the worst cells.

  S, D and I are substitutions, deletions and insertions, of what decides.

  Args:
    table: a `table.Table`.
    count: how many of the best.
    metric: name of the error rate on test; None for what decides.
  """
  rows, name = _cells(table, metric), table.named(metric)
  # Below the other error rate, where it is known: a column more would not fit.
  wer_r = table.rates('wer')
  worded = name != 'WER' and bool(np.isfinite(wer_r).any())
  chosen = list(range(min(count, len(rows))))
  middle, last = len(rows) // 2, len(rows) - 1
  chosen += [n for n in (middle, *range(last - 1, last + 1)) if n not in chosen]
  view = Table(title=f'{len(rows)} cells by test {name}, mean of their seeds')
  status_r = np.asarray(table.column('status'))
  some = bool((status_r == 'diverged').any())
  for column in (
    'rank', 'cell', 'seeds', f'valid\n{table.metric}',
    f'test\n{name}' + '\nWER' * worded,
    'S/D/I %', 'params', 'MMACs', *['diverged'] * some,
  ):  # fmt: skip
    left = column == 'cell'
    view.add_column(column, justify='left' if left else 'right', no_wrap=left)
  best_r = np.nanmin(
    np.where(
      np.isnan(table.curves('val_per')), np.inf, table.curves('val_per')
    ),
    1,
  )
  test_r = table.errors(metric)
  kinds_rk = _kinds(table)
  for n in (n for n in chosen if n >= 0):
    r = rows[n]
    arch = table.row_archs[r[0]]
    view.add_row(
      str(n + 1),
      table.space.names(arch, '\n'),
      str(len(r)),
      _per(best_r[r].mean()) if np.isfinite(best_r[r]).all() else '--',
      _per(test_r[r].mean()) + f'\n{_per(wer_r[r].mean())}' * worded,
      '/'.join(_percent(share) for share in kinds_rk[r].mean(0)),
      f'{table.column("params")[r[0]]:,}',
      f'{table.column("macs")[r[0]] / 1e6:,.1f}',
      *[str(int((status_r[r] == 'diverged').sum()))] * some,
    )
  CONSOLE.print(view)


def _kinds(table):
  """Returns substitutions, deletions and insertions a label, [r, 3]."""
  edits_rk = table.edits
  total_r1 = np.maximum(edits_rk.sum(1, keepdims=True), 1)
  return edits_rk / total_r1 * table.column('test_per')[:, None]


def print_unlearnt(table):
  """Says how many networks diverged, and names those that emit only blanks.

  Almost only blanks, on the test split.
  """
  diverged = int((np.asarray(table.column('status')) == 'diverged').sum())
  if diverged:
    CONSOLE.print(
      f'{diverged} of {len(table)} networks diverged. Usual remedies: a lower '
      '--lr, a smaller --clip'
    )
  _, deleted_r, inserted_r = _kinds(table).T
  silent_r = 1 - deleted_r + inserted_r < SILENT
  if not silent_r.any():
    return
  r = np.flatnonzero(silent_r)
  names = [table.space.names(table.row_archs[i]) for i in r[:3]]
  more = f' and {len(r) - 3} more' if len(r) > 3 else ''
  CONSOLE.print(
    f'{len(r)} of {len(table)} networks emit (almost) only blanks, deletions '
    f'are {deleted_r[r].mean():.0%} of the test labels: '
    f'{"; ".join(names)}{more}. {REMEDIES}'
  )


def print_separation(table, metric=None):
  """Prints what separates the cells; `metric` as in `print_extremes`."""
  found = analysis.separate(table.space, table.row_archs, table.errors(metric))
  view = Table(
    title=f'what separates the cells: test {table.named(metric)} of cell means'
  )
  for column in ('cells', 'number', 'best', 'median', 'mean', 'worst'):
    view.add_column(column, justify='left' if column == 'cells' else 'right')
  groups = [
    *found.by_skip_path,
    *(group for groups in found.by_op.values() for group in groups),
    *found.by_skips,
  ]
  for group in groups:
    view.add_row(
      group.label,
      str(group.cells),
      *map(_per, (group.best, group.median, group.mean, group.worst)),
    )
  CONSOLE.print(view)
  spread = found.spread
  if spread.repeated:
    CONSOLE.print(
      f'standard deviation between cells {_per(spread.cells)}, between seeds '
      f'of one cell {_per(spread.seeds)} ({spread.repeated} cells with several '
      'seeds)'
    )


def draw(table, out, metric=None):
  """Draws the figures of a table into `out`/figures; returns their paths.

  `metric` as in `print_extremes`; curves are of what decides.
  """
  space = table.space
  archs_rd = table.row_archs
  test_r, name = table.errors(metric), table.named(metric)
  in_files = name.lower().replace('/', '_')
  paths = []

  (out / 'figures').mkdir(exist_ok=True)

  def save(figure, stem, dpi=150):
    paths.append(out / 'figures' / f'{stem}.png')
    plots.save(figure, paths[-1], dpi)

  groups = ['networks'] * len(archs_rd)
  if isinstance(space, spaces.Chain):
    path_r = space.has_skip_paths(archs_rd)
    groups = list(np.where(path_r, 'with an identity path', 'without'))
  labels = [space.names(arch) for arch in archs_rd]
  runs = table.curves('val_per'), labels, groups
  said = plots.findings.learning(*runs, table.metric)
  save(plots.learning_curves(*runs, said, table.metric), 'learning_curves')
  rows = [r for r in _cells(table, metric) if np.isfinite(test_r[r]).all()]
  if rows:
    per_n = np.array([test_r[r].mean() for r in rows])
    sd_n = np.array(
      [test_r[r].std(ddof=1) if len(r) > 1 else np.nan for r in rows]
    )
    names_n = [labels[r[0]] for r in rows]
    costs = {}
    for column, label in (
      ('params', 'parameters'),
      ('macs', 'multiply-accumulates for 200 frames'),
    ):
      cost_n = np.array([table.column(column)[r[0]] for r in rows], float)
      costs[label] = cost_n, analysis.pareto_front(cost_n, per_n)
    said = plots.findings.fronts(costs, per_n, name)
    save(
      plots.paretos(costs, per_n, names_n, sd_n, said, name),
      f'{in_files}_costs',
    )
    best = f'Lowest test {name}, {per_n[0]:.2%}: {names_n[0]}'
    save(plots.cell(space, archs_rd[rows[0][0]], best), 'best_cell', dpi=100)
  return paths


def write(table, out, metric=None):
  """Prints and draws everything; `metric` as in `print_extremes`."""
  print_extremes(table, metric=metric)
  print_separation(table, metric)
  print_unlearnt(table)
  paths = draw(table, out, metric)
  CONSOLE.print(f'table: {out / "table"}, {len(table)} rows')
  for path in paths:
    CONSOLE.print(f'figure: {path}')
  print_next(next_steps(table, out))


def next_steps(table, out):
  """Returns commands by what they are good for, once OUT has a table."""
  out = shlex.quote(str(out))
  found = {
    'all analyses, as one page': f'python experiments/report.py --table={out}',
    'what the best network hears': (
      f'python experiments/transcribe.py --run={out} audio.wav'
    ),
  }
  cells = len(table.archs)
  if cells > 1:
    found['searches in this table'] = (
      f'python experiments/search.py --table={out} --budget={-(-cells // 3)}'
    )
  return found
