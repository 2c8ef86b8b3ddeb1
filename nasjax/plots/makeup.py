"""What good and bad cells are made of, as pictures."""

import matplotlib
import numpy as np
from matplotlib import ticker

from nasjax.plots import drawing

# Of groups; the colours of operations would be taken for these.
_GROUPS = ('#1B1B4B', '#8B4FA0', '#EF5675', '#999999')


def composition(groups, title=''):
  """Draws the operations and the skips of groups of cells.

  Left for each node the share of each operation, in the middle the share of
  cells that have each skip, with its interval, right the number of skips. Of a
  space that is no chain, for each decision the share of each choice.

  Args:
    groups: `{name: analysis.Composition}`, such as the best and the worst.
    title: of the figure.
  """
  if not any(group.skips for group in groups.values()):
    places = max((len(group.ops) for group in groups.values()), default=0)
    height = 1 + 0.22 * places * (len(groups) + 0.6)
    fig, ax = drawing.axes(10.2, max(height, 2))
    _draw_choices(ax, groups)
    drawing.titled(ax, title)
    return fig
  fig, ((ops, skips, number),) = drawing.panels(
    13, 4.6, 1, 3, widths=(1.5, 1, 1)
  )
  _draw_ops(ops, groups)
  _draw_skips(skips, groups)
  for k, (name, group) in enumerate(groups.items()):
    counts = list(group.counts)
    percent = [100 * group.counts[c].value for c in counts]
    number.plot(
      counts,
      percent,
      color=_GROUPS[k % len(_GROUPS)],
      lw=1.8,
      marker='o',
      ms=4,
      label=f'{name} ({group.cells})',
    )
  number.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))
  number.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  number.set_ylim(bottom=0)
  number.set_xlabel('number of skips')
  number.set_ylabel('cells')
  if groups:
    number.legend(
      frameon=False,
      fontsize=8,
      ncols=2,
      loc='upper center',
      bbox_to_anchor=(0.5, -0.14),
    )
  drawing.titled(ops, title)
  return fig


def _draw_ops(ax, groups):
  """Draws the operations of each node, one colour an operation everywhere."""
  rows = _draw_bars(ax, groups, lambda op, percent: f'{percent:.0f}')
  ax.set_xlabel('operation of the node, cells')
  if rows:
    ax.legend(
      frameon=False,
      fontsize=8,
      ncols=6,
      loc='upper center',
      bbox_to_anchor=(0.4, -0.14),
      handlelength=1,
      columnspacing=1,
    )


def _draw_choices(ax, groups):
  """Draws the choices of each decision, which have them in their bars."""
  _draw_bars(ax, groups, lambda name, percent: f'{name}: {percent:.0f} %')
  ax.set_xlabel('choice of the decision, cells')


def _draw_bars(ax, groups, written):
  """Draws stacked bars: for each node one a group; returns their rows.

  `written`, a function of a choice and its percents, says what is in a bar.
  """
  labels, rows = [], []
  nodes = max((len(group.ops) for group in groups.values()), default=0)
  for node in range(nodes):
    for g, (name, group) in enumerate(groups.items()):
      row = node * (len(groups) + 0.6) + g
      start = 0.0
      for o, (op, found) in enumerate(group.ops[node].items()):
        percent = 100 * np.nan_to_num(found.value)
        ax.barh(
          row,
          percent,
          0.82,
          left=start,
          color=drawing.COLOURS[o % len(drawing.COLOURS)],
          label=op if row == 0 else None,
        )
        if percent >= 8:
          ax.text(
            start + percent / 2,
            row,
            written(op, percent),
            ha='center',
            va='center',
            fontsize=7.5,
            color='white',
          )
        start += percent
      labels.append(f'{group.places[node]}, {name}')
      rows.append(row)
  ax.set_yticks(rows, labels)
  ax.invert_yaxis()
  ax.set_xlim(0, 100)
  ax.xaxis.set_major_formatter(ticker.PercentFormatter())
  ax.grid(visible=False)
  return rows


def _draw_skips(ax, groups):
  """Draws the share of cells that have each skip, a row a skip."""
  names = []
  for g, group in enumerate(groups.values()):
    names = list(group.skips)
    offset = (g - (len(groups) - 1) / 2) * 0.22
    for row, found in enumerate(group.skips.values()):
      colour = _GROUPS[g % len(_GROUPS)]
      ax.plot(
        [100 * found.low, 100 * found.high],
        [row + offset] * 2,
        color=colour,
        lw=1.6,
      )
      ax.plot(100 * found.value, row + offset, 'o', color=colour, ms=5)
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(len(names) - 0.4, -0.6)
  ax.set_xlim(-2, 102)
  ax.xaxis.set_major_formatter(ticker.PercentFormatter())
  ax.grid(axis='y', visible=False)
  ax.set_xlabel('cells that have the skip, 95 % interval')


def rankings(per_n, ranked, ylabel=None, title='', metric='PER'):
  """Draws error rates ranked by counts: a panel a kind, a line a count.

  A line climbs through the cells of its count from the best to the worst: at
  half of the width it passes their median. In place of counts may be choices,
  a panel a decision.

  Args:
    per_n: fractions.
    ranked: `{what is counted: analysis.Ranking}` of these cells.
    ylabel: what the fraction is; the error rate on test if not given.
    title: of the figure.
    metric: what the error rate is called, where there is no `ylabel`.
  """
  ylabel = ylabel or f'test {metric}'
  percent_n = 100 * np.asarray(per_n, np.float64)
  columns, what = 2, ('count', 'how many')
  if any(found.correlation is None for found in ranked.values()):
    what = 'choice', 'choice'
  rows = -(-max(len(ranked), 1) // columns)
  fig, axs = drawing.panels(10.2, 0.4 + 3.4 * rows, rows, columns, sharey=True)
  for ax, (kind, found) in zip(axs.flat, ranked.items()):
    colours = matplotlib.colormaps['viridis'](
      np.linspace(0, 0.9, max(len(found.levels), 1))
    )
    for level, colour in zip(found.levels, colours):
      percent = percent_n[level.rows]
      place = 100 * (np.arange(len(percent)) + 0.5) / len(percent)
      ax.plot(
        place,
        percent,
        color=colour,
        lw=1.8,
        marker='o' if len(percent) < 8 else None,
        ms=4,
        label=f'{level.count} ({len(percent)})',
      )
    drawing.titled(ax, kind + _correlated(found.correlation))
    drawing.per_axis(ax, percent_n, ylabel)
    ax.set_xlim(0, 100)
    ax.xaxis.set_major_formatter(ticker.PercentFormatter())
    if found.levels:
      ax.legend(
        frameon=False,
        fontsize=8,
        title=f'{what[1]} (cells)',
        title_fontsize=8,
        loc='center left',
        bbox_to_anchor=(1, 0.5),
      )
  for ax in axs.flat[len(ranked) :]:
    ax.set_axis_off()
  for ax in axs[-1]:
    ax.set_xlabel(f'cells of that {what[0]}, best to worst')
  for ax in axs[:, 1:].flat:
    ax.set_ylabel('')
  drawing.headed(fig, title)
  return fig


def _correlated(c):
  """Returns ': correlation 0.30 [0.10, 0.50]', nothing of what has no order."""
  if c is None:
    return ''
  if np.isnan(c.value):
    return ': no correlation'
  text = f': correlation {c.value:z.2f}'
  return text if np.isnan(c.low) else f'{text} [{c.low:z.2f}, {c.high:z.2f}]'
