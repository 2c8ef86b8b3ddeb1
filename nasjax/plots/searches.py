"""Searches against random search: a forest plot, and how it came about."""

import numpy as np

from nasjax.plots import drawing

# Of the line of one that is not significantly better or worse, and its row.
_FAINT = 0.45


def search_forest(
  verdicts,
  cost_k,
  mean_by_name,
  reference_k,
  oracle=None,
  exact=True,
  title='',
  metric='PER',
):
  """Draws differences from random search at the budget, and by cost.

  Left a row a searcher, the best first: the difference with its interval, a
  full dot where it is significant. Right the difference of the means by cost.
  An oracle, a cell that nobody can better but by luck, is a dashed line.

  Args:
    verdicts: `{name: analysis.Verdict}` at the last cost.
    cost_k: costs in trained models, rising.
    mean_by_name: `{name: mean_k}`, mean error rates at each cost, fractions,
      NaN where there is none yet; what has no verdict is not drawn.
    reference_k: error rates of random search.
    oracle: an error rate; None for none.
    exact: whether the reference is an expectation, not the mean of searches.
    title: of the figure: what it shows.
    metric: what the error rate is called.
  """
  names = sorted(verdicts, key=lambda name: verdicts[name].difference)
  fig, ((left, right),) = drawing.panels(
    10.2, 1.9 + 0.36 * max(len(names), 3), 1, 2, widths=(1.5, 1)
  )
  colours = {
    name: drawing.COLOURS[row % len(drawing.COLOURS)]
    for row, name in enumerate(verdicts)
  }
  texts = []
  for row, name in enumerate(names):
    v = verdicts[name]
    colour, sure = colours[name], v.lies in ('below', 'above')
    if not np.isnan(v.low):
      left.plot(
        [100 * v.low, 100 * v.high], [row, row], color=colour, lw=2,
        alpha=1 if sure else _FAINT,
      )  # fmt: skip
    left.plot(
      100 * v.difference, row, 'o', color=colour, ms=7,
      mfc=colour if sure else 'white',
    )  # fmt: skip
    error = 100 * (reference_k[-1] + v.difference)
    texts.append(f'{error:.2f} % ({v.n:,})')
  drawing.beside(left, texts, range(len(names)))
  left.set_yticks(range(len(names)), [n.replace('_', ' ') for n in names])
  left.set_ylim(len(names) - 0.4, -0.6)
  left.grid(axis='y', visible=False)
  left.set_xlabel(
    f'test {metric} less that of random search, '
    f'{100 * reference_k[-1]:.2f} % {"exactly" if exact else "on average"}, '
    'in points'
  )
  for name, mean_k in mean_by_name.items():
    if name not in verdicts:
      continue
    sure = verdicts[name].lies in ('below', 'above')
    right.plot(
      cost_k, 100 * (mean_k - reference_k), color=colours[name], lw=1.8,
      alpha=1 if sure else _FAINT, drawstyle='steps-post',
    )  # fmt: skip
  _axes_by_cost(right, cost_k, mean_by_name, verdicts, reference_k)
  for line in left.axvline, right.axhline:
    line(0, color=drawing.INK, lw=1.2, zorder=1)
  if oracle is not None:
    below_k = 100 * (oracle - np.asarray(reference_k))
    style = {'color': drawing.QUIET, 'lw': 1.2, 'ls': (0, (5, 3))}
    right.plot(cost_k, below_k, **style)
    left.axvline(below_k[-1], label=f'oracle, {100 * oracle:.2f} %', **style)
    left.legend(
      frameon=False, fontsize=8, loc='lower right', bbox_to_anchor=(1, 1)
    )
  drawing.headed(fig, title)
  return fig


def _axes_by_cost(ax, cost_k, mean_by_name, verdicts, reference_k):
  """Gives the panel of costs its limits, marks and names."""
  cost_k = np.asarray(cost_k, np.float64)
  # The first models say little, and would take all the height.
  late_k = cost_k >= 0.06 * cost_k[-1]
  most = 2.5 * max(
    [100 * np.nanmax(np.abs([v.difference, v.low, v.high]))
     for v in verdicts.values()], default=1.0,
  )  # fmt: skip
  shown = [
    100 * (np.asarray(mean_by_name[name]) - reference_k)[late_k]
    for name in verdicts
  ]
  shown = np.concatenate([*shown, [0.0]])
  shown = np.clip(shown[np.isfinite(shown)], -most, most)
  margin = max(0.1 * np.ptp(shown), 0.01)
  ax.set_ylim(shown.min() - margin, shown.max() + margin)
  if cost_k[late_k][0] < cost_k[-1]:
    ax.set_xlim(cost_k[late_k][0], cost_k[-1])
  drawing.costs_axis(ax, cost_k[-1])
  ax.set_ylabel('the difference by cost, in points')
