"""Dense graphs that were searched, and losses of trainings side by side."""

import numpy as np
from matplotlib import ticker
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from nasjax.plots import drawing

_STYLES = ('-', '--', ':', '-.')


def dense(space, p_by_name, title='', columns=2):
  """Draws what searches say of each edge of a dense graph.

  After Chen et al., DARTS-ASR, Interspeech 2020, figures 4 and 5. Tensors stand
  in a row, n0 the input; an arc has the colour of an edge's most probable
  operation and is as thick as that is probable. At 1 / operations, where
  nothing is decided, it is thinnest.

  Args:
    space: `spaces.Dense`, with the same operations at each edge.
    p_by_name: probabilities [edge, operation] by what stands above a panel.
    title: of the figure.
    columns: panels side by side.

  Raises:
    ValueError: probabilities of another shape.
  """
  ops, edges = space.choices[0], space.edges
  for name, p_ek in p_by_name.items():
    if np.shape(p_ek) != (len(edges), len(ops)):
      raise ValueError(
        f'{name}: probabilities of shape {np.shape(p_ek)}; want '
        f'{(len(edges), len(ops))}'
      )
  columns = max(1, min(columns, len(p_by_name)))
  rows = -(-len(p_by_name) // columns)
  fig, axs = drawing.panels(
    4.6 * columns, 2.6 * rows + 0.6, rows, columns, False
  )
  for ax in axs.flat:
    ax.set_axis_off()
  for ax, (name, p_ek) in zip(axs.flat, p_by_name.items()):
    for (j, i), p_k in zip(edges, np.asarray(p_ek)):
      best = int(np.argmax(p_k))
      sure = (p_k[best] - 1 / len(ops)) / (1 - 1 / len(ops))
      ax.add_patch(
        FancyArrowPatch(
          (j, 0),
          (i, 0),
          connectionstyle=f'arc3,rad=-{0.28 + 0.06 * (i - j):.2f}',
          arrowstyle='-|>',
          mutation_scale=8,
          shrinkA=7,
          shrinkB=7,
          lw=0.8 + 4 * max(0.0, float(sure)),
          color=drawing.COLOURS[best % len(drawing.COLOURS)],
        )
      )
    for n in range(space.nodes + 1):
      ax.text(
        n, 0, f'n{n}', ha='center', va='center', fontsize=8,
        color=drawing.INK,
        bbox={'boxstyle': 'circle', 'fc': 'white', 'ec': drawing.QUIET},
      )  # fmt: skip
    ax.set_xlim(-0.4, space.nodes + 0.4)
    ax.set_ylim(-0.5, 0.55 * space.nodes)
    ax.set_title(
      drawing.drawable(name), loc='left', color=drawing.INK, fontsize=9
    )
  fig.legend(
    [
      Line2D([], [], color=drawing.COLOURS[k % len(drawing.COLOURS)], lw=3)
      for k in range(len(ops))
    ],
    ops,
    frameon=False,
    fontsize=8,
    ncols=len(ops),
    loc='outside lower center',
  )
  if title:
    drawing.headed(fig, title)
  return fig


def losses(curves, title='', ylabel='validation loss', columns=2):
  """Draws losses by epoch, a panel a language; seeds of a network thin.

  After figure 3 of the same paper. The thick line is the mean of the seeds that
  still train.

  Args:
    curves: {panel: {network: list of losses [epochs] of each seed}}.
    title: of the figure.
    ylabel: of the vertical axis.
    columns: panels side by side.
  """
  columns = max(1, min(columns, len(curves)))
  rows = -(-len(curves) // columns)
  fig, axs = drawing.panels(4.4 * columns, 3.0 * rows + 0.5, rows, columns)
  names = list(dict.fromkeys(n for panel in curves.values() for n in panel))
  for ax in axs.flat[len(curves) :]:
    ax.set_axis_off()
  for ax, (panel, by_name) in zip(axs.flat, curves.items()):
    for name, own in by_name.items():
      n = names.index(name)
      colour = drawing.COLOURS[n % len(drawing.COLOURS)]
      style = _STYLES[n // len(drawing.COLOURS) % len(_STYLES)]
      longest = max(map(len, own), default=0)
      table_se = np.full((len(own), longest), np.nan)
      for row_e, loss_e in zip(table_se, own):
        row_e[: len(loss_e)] = loss_e
        marker = 'o' if len(loss_e) == 1 else None
        epoch_e = np.arange(1, len(loss_e) + 1)
        ax.plot(epoch_e, loss_e, color=colour, lw=0.7, alpha=0.5, marker=marker)
      alive_e = ~np.isnan(table_se).all(0)
      mean_e = np.nanmean(table_se[:, alive_e], axis=0)
      epoch_e = 1 + np.flatnonzero(alive_e)
      ax.plot(epoch_e, mean_e, style, color=colour, lw=2, label=name)
    ax.set_title(
      drawing.drawable(panel), loc='left', color=drawing.INK, fontsize=10
    )
    ax.set_xlabel('epoch')
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
  drawing.legend_below(fig)
  if title:
    drawing.headed(fig, title)
  return fig
