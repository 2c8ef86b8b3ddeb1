"""Error rates against what they cost."""

import numpy as np
from matplotlib import ticker

from nasjax.plots import drawing

_MAX_NAMED = 18  # front points that still fit beside the plot


def pareto(
  cost_n,
  per_n,
  front_n,
  xlabel,
  names_n=None,
  sd_n=None,
  title='',
  metric='PER',
):
  """Draws error rates against a cost, and the cells that nothing beats in both.

  Args:
    cost_n: such as parameters or MACs; drawn on a logarithmic axis if it spans
      a factor of four.
    per_n: fractions; what is NaN is left out.
    front_n: bool, see `analysis.pareto_front`.
    xlabel: what the cost is.
    names_n: names of the cells; those of the front are listed.
    sd_n: standard deviation over the seeds of each cell, 0 or NaN for none.
    title: of the figure.
    metric: what the error rate is called.
  """
  cost_n, per_n = np.asarray(cost_n, np.float64), np.asarray(per_n, np.float64)
  front_n = np.asarray(front_n, bool)
  fig, ax = drawing.axes(8.4 if names_n is None else 10.2, 4.8)
  shown_n = np.isfinite(cost_n) & np.isfinite(per_n)
  rest = np.flatnonzero(shown_n & ~front_n)
  front = np.flatnonzero(shown_n & front_n)
  front = front[np.lexsort((per_n[front], cost_n[front]))]
  if sd_n is not None:
    sd_n = np.nan_to_num(np.asarray(sd_n, np.float64))
    some = np.flatnonzero(shown_n & (sd_n > 0))
    ax.errorbar(
      cost_n[some],
      100 * per_n[some],
      100 * sd_n[some],
      fmt='none',
      ecolor='#AAAAAA',
      elinewidth=1,
      capsize=2,
      zorder=1,
    )
  ax.scatter(
    cost_n[rest],
    100 * per_n[rest],
    s=26 if len(rest) < 1000 else 6,
    color=drawing.COLOURS[0],
    alpha=0.55 if len(rest) < 1000 else 0.3,
    lw=0,
    zorder=2,
    label='cells',
  )
  # A step: for a cost in between, the best is that of the point to the left.
  ax.step(
    cost_n[front],
    100 * per_n[front],
    where='post',
    color=drawing.COLOURS[1],
    lw=1.6,
    zorder=3,
  )
  ax.scatter(
    cost_n[front],
    100 * per_n[front],
    s=120 if names_n is not None else 44,
    color=drawing.COLOURS[1],
    lw=1,
    edgecolor='white',
    zorder=4,
    label='Pareto front',
  )
  if names_n is not None:
    _name_front(ax, cost_n, per_n, front, names_n)
  shown = cost_n[shown_n]
  if len(shown) and shown.min() > 0 and shown.max() / shown.min() > 4:
    ax.set_xscale('log')
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
  # 2M parameters, but 0.5 milliseconds and not 500m.
  thousands = ticker.EngFormatter(sep='')
  ax.xaxis.set_major_formatter(
    lambda x, _: thousands(x) if abs(x) >= 1000 else f'{x:g}'
  )
  drawing.per_axis(ax, 100 * per_n[shown_n])
  ax.set_xlabel(xlabel)
  ax.set_ylabel(f'test {metric}')
  drawing.titled(ax, title)
  ax.legend(frameon=False, fontsize=9)
  return fig


def _name_front(ax, cost_n, per_n, front, names_n):
  """Numbers the points of the front, and lists their names at the right."""
  lines = []
  for number, n in enumerate(front[:_MAX_NAMED], 1):
    ax.annotate(
      str(number),
      (cost_n[n], 100 * per_n[n]),
      ha='center',
      va='center',
      fontsize=7,
      color='white',
      weight='bold',
      zorder=5,
    )
    name = drawing.shortened(names_n[n], 36)
    lines.append(f'{number:2d}  {100 * per_n[n]:5.1f} %  {name}')
  if len(front) > _MAX_NAMED:
    lines.append(f'    and {len(front) - _MAX_NAMED} more')
  ax.annotate(
    '\n'.join(lines),
    (1, 1),
    xytext=(10, 0),
    xycoords='axes fraction',
    textcoords='offset points',
    va='top',
    fontsize=8,
    family='monospace',
    color=drawing.INK,
    annotation_clip=False,
  )
