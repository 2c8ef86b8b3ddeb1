"""Error rates in the large: their distributions, and rankings that agree."""

import numpy as np
from matplotlib import ticker

from nasjax.plots import drawing


def distributions(
  per_by_name, xlabel=None, title='', counted='cells', metric='PER'
):
  """Draws how error rates are distributed: histograms, and shares below.

  Args:
    per_by_name: `{name: per_n}`, such as one a recipe; fractions, NaN is left
      out and counted in the legend.
    xlabel: what the error rate is; that on test if not given.
    title: of the figure.
    counted: what has these error rates.
    metric: what the error rate is called, where there is no `xlabel`.
  """
  xlabel = xlabel or f'test {metric}'
  fig, ((left, right),) = drawing.panels(10.2, 4.2, 1, 2)
  percents = {
    name: 100 * np.asarray(per_n, np.float64)
    for name, per_n in per_by_name.items()
  }
  shown = np.concatenate([np.zeros(0), *percents.values()])
  shown = shown[np.isfinite(shown)]
  for ax in (left, right):
    drawing.per_axis(ax, shown, xlabel, 'x')
  edges = _edges(shown, left.get_xscale() == 'log')
  for k, (name, percent_n) in enumerate(percents.items()):
    colour = drawing.COLOURS[k % len(drawing.COLOURS)]
    ended = np.sort(percent_n[np.isfinite(percent_n)])
    lost = len(percent_n) - len(ended)
    label = f'{name} ({len(ended)}' + (f', {lost} failed)' if lost else ')')
    left.hist(ended, edges, color=colour, alpha=0.25)
    left.hist(ended, edges, color=colour, histtype='step', lw=1.4)
    # A staircase with a step a cell, from 0 to 100 %.
    right.plot(
      np.concatenate([ended[:1], ended]),
      np.linspace(0, 100, len(ended) + 1) if len(ended) else [],
      drawstyle='steps-post',
      color=colour,
      lw=1.8,
      label=label,
    )
  left.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  left.set_ylabel(counted)
  right.yaxis.set_major_formatter(ticker.PercentFormatter())
  right.set_ylim(0, 102)
  right.set_ylabel(f'{counted} at or below')
  drawing.titled(left, title)
  if percents:
    right.legend(frameon=False, fontsize=9, loc='upper left')
  return fig


def _edges(shown, logarithmic, bins=40):
  """Returns edges of bins that hold all that is shown."""
  if not len(shown):
    return np.linspace(0, 100, bins + 1)
  low, high = shown.min(), shown.max()
  if low == high:
    return np.linspace(low - 0.5, high + 0.5, 4)
  if logarithmic:
    return np.geomspace(low, high, bins + 1)
  return np.linspace(low, high, bins + 1)


def agreement(
  x_n, y_n, xlabel=None, ylabel=None, top=0.0, title='', metric='PER'
):
  """Draws two error rates of the same cells, as rates and as ranks.

  Args:
    x_n, y_n: fractions; cells where either is NaN are left out.
    xlabel, ylabel: what they are; those on validation and on test if not given.
    top: share of the best cells by x that is set off in both panels.
    title: of the figure.
    metric: what the error rate is called, where there is no label.
  """
  xlabel, ylabel = xlabel or f'validation {metric}', ylabel or f'test {metric}'
  x_n, y_n = np.asarray(x_n, np.float64), np.asarray(y_n, np.float64)
  both_n = np.isfinite(x_n) & np.isfinite(y_n)
  x_n, y_n = 100 * x_n[both_n], 100 * y_n[both_n]
  fig, ((left, right),) = drawing.panels(10.2, 4.8, 1, 2)
  rank_x, rank_y = (
    1 + np.argsort(np.argsort(v, kind='stable')) for v in (x_n, y_n)
  )
  best_n = rank_x <= round(top * len(x_n))
  size, alpha = (16, 0.6) if len(x_n) < 1000 else (5, 0.3)
  for ax, x, y in ((left, x_n, y_n), (right, rank_x, rank_y)):
    for picked, colour in ((~best_n, 0), (best_n, 1)):
      ax.scatter(
        x[picked],
        y[picked],
        s=size,
        color=drawing.COLOURS[colour],
        alpha=alpha,
        lw=0,
        label=f'best {best_n.sum()} by {xlabel}' if colour else None,
      )
  for which, values, label in (('x', x_n, xlabel), ('y', y_n, ylabel)):
    drawing.per_axis(left, values, label, which)
  ends = (max(left.get_xlim()[0], 0.01), left.get_xlim()[1])
  bounds = left.get_xlim(), left.get_ylim()
  equal = np.geomspace(*ends, 200)  # bent, where one axis is logarithmic
  left.plot(equal, equal, color=drawing.QUIET, lw=0.8, ls=(0, (5, 3)), zorder=1)
  left.set(xlim=bounds[0], ylim=bounds[1])
  right.set_xlabel(f'rank by {xlabel}')
  right.set_ylabel(f'rank by {ylabel}')
  drawing.titled(left, title)
  if best_n.any():
    left.legend(frameon=False, fontsize=9, loc='lower right', markerscale=2)
  return fig


def correlations(found, ceiling=None, title=''):
  """Draws correlations, one a row, as dots with their intervals.

  Args:
    found: `{label: correlation}`, each with value, low, high and n.
    ceiling: another, drawn as a line with a band: how high one can be.
    title: of the figure.
  """
  fig, ax = drawing.axes(8.4, 1.3 + 0.3 * max(len(found), 1))
  lowest = 0.0
  for row, c in enumerate(found.values()):
    if np.isnan(c.value):
      text = f'none, {c.n} cells'
    elif np.isnan(c.low):
      text = f'{c.value:z.2f}, too few cells ({c.n})'
    else:
      text = f'{c.value:z.2f} [{c.low:z.2f}, {c.high:z.2f}], {c.n} cells'
      ax.plot([c.low, c.high], [row, row], color=drawing.COLOURS[0], lw=2)
    ax.plot(c.value, row, 'o', color=drawing.COLOURS[0], ms=6)
    lowest = np.nanmin([lowest, c.value, c.low])
    ax.annotate(
      text,
      (1, row),
      xycoords=('axes fraction', 'data'),
      xytext=(8, 0),
      textcoords='offset points',
      va='center',
      fontsize=8,
      color=drawing.INK,
      annotation_clip=False,
    )
  if ceiling is not None and not np.isnan(ceiling.value):
    ax.axvline(
      ceiling.value, color=drawing.COLOURS[1], lw=1.4, label='seed with seed'
    )
    if not np.isnan(ceiling.low):
      ax.axvspan(
        ceiling.low, ceiling.high, color=drawing.COLOURS[1], alpha=0.15, lw=0
      )
    ax.legend(frameon=False, fontsize=8, loc='best')
  ax.set_yticks(range(len(found)), list(found))
  ax.set_ylim(len(found) - 0.4, -0.6)
  ax.set_xlim(max(-1.02, lowest - 0.05), 1.02)
  ax.grid(axis='y', visible=False)
  ax.set_xlabel("Spearman's rank correlation, 95 % interval")
  drawing.titled(ax, title)
  return fig


def seed_ranges(value_ns, ylabel=None, title='', metric='PER'):
  """Draws each cell's runs, from the lowest to the highest, by its rank.

  Args:
    value_ns: fractions; cells with a NaN are left out.
    ylabel: what the fraction is; the error rate on test if not given.
    title: of the figure.
    metric: what the error rate is called, where there is no `ylabel`.
  """
  ylabel = ylabel or f'test {metric}'
  value_ns = 100 * np.asarray(value_ns, np.float64)
  value_ns = value_ns[np.isfinite(value_ns).all(axis=1)]
  value_ns = value_ns[np.argsort(value_ns.mean(axis=1), kind='stable')]
  fig, ax = drawing.axes(8.4, 4.2)
  rank_n = np.arange(1, len(value_ns) + 1)
  if value_ns.size:
    ax.vlines(
      rank_n,
      value_ns.min(axis=1),
      value_ns.max(axis=1),
      color=drawing.COLOURS[5],
      lw=float(np.clip(400 / len(rank_n), 0.3, 3)),
      alpha=0.7,
      label='lowest to highest seed',
    )
    ax.plot(
      rank_n,
      value_ns.mean(axis=1),
      color=drawing.INK,
      lw=1.4,
      marker='o' if len(rank_n) == 1 else None,
      label='mean of the seeds',
    )
    ax.legend(frameon=False, fontsize=8, loc='upper left')
  drawing.per_axis(ax, value_ns, ylabel)
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  ax.set_xlabel('rank by the mean')
  drawing.titled(ax, title)
  return fig
