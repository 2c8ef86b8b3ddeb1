"""Error rates against what they cost."""

import numpy as np
from matplotlib import ticker

from nasjax.plots import drawing

_MAX_NAMED = 18  # front points that still fit below the plot
_LETTERS = 100  # of their names


def pareto(
  cost_n,
  per_n,
  front_n,
  xlabel,
  names_n=None,
  sd_n=None,
  title='',
  metric='PER',
  split='test',
):
  """Draws error rates against one cost; see `paretos`."""
  costs = {xlabel: (cost_n, front_n)}
  return paretos(costs, per_n, names_n, sd_n, title, metric, split)


def paretos(
  costs,
  per_n,
  names_n=None,
  sd_n=None,
  title='',
  metric='PER',
  split='test',
):
  """Draws error rates against costs, and the cells that nothing beats in both.

  Args:
    costs: `{name of the cost: (cost_n, front_n)}`, a panel each: such as
      parameters, on a logarithmic axis if it spans a factor of four, and a
      bool, see `analysis.pareto_front`.
    per_n: fractions; what is NaN is left out.
    names_n: names of the cells; those of the fronts are listed.
    sd_n: standard deviation over the seeds of each cell, 0 or NaN for none.
    title: of the figure.
    metric: what the error rate is called.
    split: of what it is.
  """
  per_n = np.asarray(per_n, np.float64)
  sd_n = None if sd_n is None else np.asarray(sd_n, np.float64)
  panels, numbers = {}, {}
  for xlabel, (cost_n, front_n) in costs.items():
    cost_n = np.asarray(cost_n, np.float64)
    shown_n = np.isfinite(cost_n) & np.isfinite(per_n)
    front = np.flatnonzero(shown_n & np.asarray(front_n, bool))
    front = front[np.lexsort((per_n[front], cost_n[front]))]
    panels[xlabel] = cost_n, shown_n, front
    if names_n is not None:
      for n in front:  # one number a cell, on whatever front it is
        numbers.setdefault(n, len(numbers) + 1)
  lines = min(len(numbers), _MAX_NAMED + 1)
  wide = 8.4 if len(costs) == 1 else 10.2
  fig, axs = drawing.panels(
    wide, 4.4 + 0.16 * lines, 1, len(costs), sharey=True
  )
  for ax, (xlabel, panel) in zip(axs[0], panels.items()):
    _draw(ax, *panel, per_n, sd_n, numbers)
    ax.set_xlabel(xlabel)
  some = np.any([shown_n for _, shown_n, _ in panels.values()], axis=0)
  reach = per_n if sd_n is None else np.stack([per_n - sd_n, per_n + sd_n])
  reach = np.where(np.isnan(reach), per_n, reach)[..., some]
  drawing.per_axis(axs[0, 0], 100 * reach, f'{split} {metric}')
  if numbers:
    # Below the numbers and the name of the axis.
    axs[0, 0].annotate(
      '\n'.join(_listed(numbers, per_n, names_n)), (0, 0), (0, -42),
      xycoords='axes fraction', textcoords='offset points', va='top',
      fontsize=8.5, family='monospace', color=drawing.INK,
      annotation_clip=False,
    )  # fmt: skip
  axs[0, -1].legend(frameon=False, fontsize=9)
  drawing.headed(fig, title)
  return fig


def _draw(ax, cost_n, shown_n, front, per_n, sd_n, numbers):
  """Draws one panel; points of the front have their numbers."""
  rest_n = shown_n.copy()
  rest_n[front] = False
  if sd_n is not None:
    sd_n = np.nan_to_num(sd_n)
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
  few = rest_n.sum() < 1000
  ax.scatter(
    cost_n[rest_n],
    100 * per_n[rest_n],
    s=26 if few else 6,
    color=drawing.COLOURS[0],
    alpha=0.55 if few else 0.3,
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
    s=120 if numbers else 44,
    color=drawing.COLOURS[1],
    lw=1,
    edgecolor='white',
    zorder=4,
    label='Pareto front',
  )
  for n in front:
    if numbers.get(n, _MAX_NAMED + 1) <= _MAX_NAMED:
      ax.annotate(
        str(numbers[n]),
        (cost_n[n], 100 * per_n[n]),
        ha='center',
        va='center',
        fontsize=7,
        color='white',
        weight='bold',
        zorder=5,
      )
  shown = cost_n[shown_n]
  if len(shown) and shown.min() > 0 and shown.max() / shown.min() > 4:
    ax.set_xscale('log')
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
  else:
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5))
  # 2M parameters, but 0.5 milliseconds and not 500m.
  thousands = ticker.EngFormatter(sep='')
  ax.xaxis.set_major_formatter(
    lambda x, _: thousands(x) if abs(x) >= 1000 else f'{x:g}'
  )


def _listed(numbers, per_n, names_n):
  """Returns the lines that say which cells the numbers are."""
  lines = [
    f'{number:2d}  {100 * per_n[n]:5.1f} %  '
    f'{drawing.shortened(names_n[n], _LETTERS)}'
    for n, number in numbers.items()
    if number <= _MAX_NAMED
  ]
  if len(numbers) > _MAX_NAMED:
    lines.append(f'    and {len(numbers) - _MAX_NAMED} more')
  return lines
