"""Figures of supernets from which a network of any size is taken.

Shangguan et al. 2023, "TODM: Train Once Deploy Many": Figure 3 (`sizes`), 1b
(`widths`) and 2 (`costs_of_sizes`).
"""

from typing import NamedTuple

import numpy as np
from matplotlib import colors

from nasjax.plots import drawing

# Of ways beyond the last colour.
_MARKERS = 'o', '^', 'D', 'v'


class Sizes(NamedTuple):
  """Error rates of networks of several sizes, of one way to train them.

  Attributes:
    label: of the way.
    params_n: parameters of each.
    error_n: fractions, the mean over seeds.
    half_n: half the interval over seeds, 0 or NaN for none.
    alone: whether each was trained by itself: points, and no line.
  """

  label: str
  params_n: np.ndarray
  error_n: np.ndarray
  half_n: np.ndarray
  alone: bool = False


def sizes(ways, ylabel, title=''):
  """Draws error rates against size, a line a supernet.

  Args:
    ways: `Sizes`, any number; those of one label, as seeds of a way, are drawn
      alike.
    ylabel: what the error rates are.
    title: of the figure.
  """
  fig, ax = drawing.axes(7.6, 4.8)
  reach, labels = [], list(dict.fromkeys(way.label for way in ways))
  for way in ways:
    turn, hue = divmod(labels.index(way.label), len(drawing.COLOURS))
    params_n = np.asarray(way.params_n, np.float64) / 1e6
    percent_n = 100 * np.asarray(way.error_n, np.float64)
    half_n = 100 * np.nan_to_num(np.asarray(way.half_n, np.float64))
    order = np.argsort(params_n)
    ax.errorbar(
      params_n[order],
      percent_n[order],
      half_n[order] if half_n.any() else None,
      color=drawing.BASELINE if way.alone else drawing.COLOURS[hue],
      marker='s' if way.alone else _MARKERS[turn % len(_MARKERS)],
      ms=6 if way.alone else 4,
      ls='none' if way.alone else '-',
      lw=1.4,
      elinewidth=1,
      capsize=2,
      zorder=2 if way.alone else 3,
      label=way.label,
    )
    reach += [np.maximum(percent_n - half_n, 0), percent_n + half_n]
  reach = np.concatenate(reach) if reach else np.zeros(0)
  drawing.per_axis(ax, reach[np.isfinite(reach)], ylabel)
  ax.set_xlabel('million parameters, megabytes at 8 bits')
  drawing.titled(ax, title)
  drawing.legend_below(fig)
  return fig


def widths(width_nl, params_n, choices, title=''):
  """Draws how wide the layers of networks are, from the smallest on.

  Args:
    width_nl: channels of each layer, 0 where there is no such layer.
    params_n: parameters of each network.
    choices: the widths that there are, increasing.
    title: of the figure.
  """
  order = np.argsort(params_n, kind='stable')
  width_nl, params_n = np.asarray(width_nl)[order], np.asarray(params_n)[order]
  # 0 for no layer, then the number of the choice.
  rank_nl = np.searchsorted(choices, width_nl, side='right')
  fig, ax = drawing.axes(7.6, 4.4, grid=False)
  hues = colors.LinearSegmentedColormap.from_list(
    'widths', ['#CFE3F1', drawing.COLOURS[0], '#002B47']
  )
  shades = ['#FFFFFF', *hues(np.linspace(0, 1, len(choices)))]
  drawn = ax.pcolormesh(
    np.arange(len(params_n) + 1),
    np.arange(width_nl.shape[1] + 1) + 0.5,
    rank_nl.T,
    cmap=colors.ListedColormap(shades),
    norm=colors.BoundaryNorm(np.arange(len(choices) + 2) - 0.5, len(shades)),
    edgecolors=drawing.GRID,
    lw=0.4,
  )
  bar = fig.colorbar(drawn, ax=ax, ticks=range(len(choices) + 1))
  bar.ax.set_yticklabels(['none', *map(str, choices)])
  bar.set_label('channels')
  shown = np.unique(
    np.linspace(0, len(params_n) - 1, min(len(params_n), 8)).round().astype(int)
  )
  ax.set_xticks(shown + 0.5, [f'{params_n[n] / 1e6:.3g}' for n in shown])
  ax.set_yticks(np.arange(width_nl.shape[1]) + 1)
  ax.set_xlabel('million parameters')
  ax.set_ylabel('layer')
  drawing.titled(ax, title)
  return fig


def costs_of_sizes(supernets, alone, unit, title=''):
  """Draws what k sizes cost: one training, or k of them.

  Args:
    supernets: `{label: cost}`, of its training and search.
    alone: mean cost of training one network by itself.
    unit: of the costs.
    title: of the figure.
  """
  fig, ax = drawing.axes(6.8, 4.4)
  dearest = max(supernets.values(), default=alone)
  most = max(4, int(np.ceil(1.5 * dearest / alone)))
  k = np.arange(1, most + 1)
  ax.plot(
    k,
    k * alone,
    color=drawing.BASELINE,
    marker='s',
    ms=4,
    label='each size trained alone',
  )
  for n, (label, cost) in enumerate(supernets.items()):
    ax.plot(
      k,
      np.full(most, cost),
      color=drawing.COLOURS[n % len(drawing.COLOURS)],
      lw=1.6,
      label=label,
    )
  ax.set_xticks(k if most <= 12 else k[:: int(np.ceil(most / 12))])
  ax.set_ylim(bottom=0)
  ax.set_xlabel('sizes')
  ax.set_ylabel(unit)
  drawing.titled(ax, title)
  drawing.legend_below(fig)
  return fig
