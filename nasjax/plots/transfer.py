"""Error rates of the same cells on two corpora."""

import numpy as np

from nasjax.plots import drawing


def transfer(
  source_n, target_n, group_n, xlabel, ylabel, title='', spread_n=None
):
  """Draws a cell a point, by how it came to be chosen.

  Mehrotra et al. 2021, Figure 7.

  Args:
    source_n, target_n: fractions; cells where either is NaN are left out.
    group_n: name of each cell's group; in the order in which they first come.
    xlabel, ylabel: what the error rates are.
    title: of the figure.
    spread_n: half the length of a line through each point, of the target: what
      seeds do.
  """
  source_n, target_n = (
    100 * np.asarray(v, np.float64) for v in (source_n, target_n)
  )
  group_n = np.asarray(group_n)
  both_n = np.isfinite(source_n) & np.isfinite(target_n)
  fig, ax = drawing.axes(7.2, 5.0)
  for colour, name in zip(
    drawing.COLOURS, dict.fromkeys(group_n.tolist()), strict=False
  ):
    at = both_n & (group_n == name)
    if spread_n is not None:
      half_n = 100 * np.asarray(spread_n)[at]
      ax.errorbar(
        source_n[at],
        target_n[at],
        half_n,
        fmt='none',
        ecolor=colour,
        alpha=0.35,
        lw=1,
      )
    ax.scatter(
      source_n[at],
      target_n[at],
      s=26,
      color=colour,
      alpha=0.8,
      lw=0,
      label=f'{name} ({at.sum()})',
    )
  drawing.per_axis(ax, source_n[both_n], xlabel, 'x')
  drawing.per_axis(ax, target_n[both_n], ylabel)
  drawing.titled(ax, title)
  drawing.legend_below(fig)
  return fig
