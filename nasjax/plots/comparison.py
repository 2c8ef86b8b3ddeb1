"""What methods found, beside each other and beside all that was there."""

from typing import NamedTuple

import numpy as np
from matplotlib import ticker

from nasjax.analysis import statistics
from nasjax.plots import drawing


class Row(NamedTuple):
  """What one method found, in `comparison`.

  Attributes:
    name: of the method.
    per_s: error rates, fractions, one a seed; NaN where training failed.
    params_s: trainable parameters of the network of each seed.
    wer_s: fractions, one a seed; None where words are not scored.
    baseline: whether nothing was learned about architectures to find it.
    cells_s: names of what each seed found; None where that is not known.
    ranks_s: the place of each in a table, None for what it lacks.
  """

  name: str
  per_s: tuple
  params_s: tuple
  wer_s: tuple | None = None
  baseline: bool = False
  cells_s: tuple | None = None
  ranks_s: tuple | None = None


def comparison(
  rows, title='', metric='PER', table_n=None, expected=None, count=None
):
  """Draws the error rates of what methods found, the lowest mean on top.

  Small dots are seeds, a number beside one says how many lie there, a large dot
  is their mean, a bar its 95 % interval (of Student's t over the seeds of the
  row; none for fewer than two, nor where all are alike). Axes reach as far as
  the dots: where a bar goes on, it ends in an arrow, and the number beside it
  says how wide it is. Failed seeds are counted, and left out of the mean. Above
  the rows stands a table in which was searched, a dot a cell.

  Args:
    rows: `Row`s: of searches, and of what they are to beat.
    title: of the figure: what it shows.
    metric: what the first error rate is called; beside WER stands no other.
    table_n: error rates of all cells of a table; None for no table.
    expected: what random search can expect there, a line; None for none.
    count: of how many cells that random search is.

  Raises:
    ValueError: a row has not as many of one thing as of another.
  """
  for row in rows:
    _check_row(row)
  # Where all seeds failed there is no mean: such rows are the last.
  rows = sorted(
    rows,
    key=lambda row: np.nan_to_num(
      statistics.student_mean(row.per_s).value, nan=np.inf
    ),
  )
  rates = [(f'test {metric}', [row.per_s for row in rows])]
  if metric != 'WER' and any(row.wer_s is not None for row in rows):
    rates.append(('test WER', [row.wer_s for row in rows]))
  top = 0 if table_n is None else 1
  height = 1.3 + 0.36 * max(len(rows) + 2 * top, 1)
  widths = [1] * len(rates) + [0.15]
  fig, axs = drawing.panels(
    10.2, height, 1, len(widths), widths=widths, sharey=True
  )
  first, last = axs[0, 0], axs[0, -1]
  names, places = [row.name for row in rows], [*range(len(rows))]
  also = []
  if top:
    also = 100 * np.asarray(table_n, np.float64)
    also = np.sort(also[np.isfinite(also)])
    # Golden steps: neighbours stand apart, and nothing is drawn at random.
    height_n = -1.2 + 0.7 * ((np.arange(len(also)) * 0.618) % 1 - 0.5)
    first.scatter(also, height_n, s=7, color=drawing.INK, alpha=0.35, lw=0)
    names, places = [f'all {len(also):,} cells', *names], [-1.2, *places]
  for ax, (label, values) in zip(axs[0], rates):
    _draw_rates(ax, rows, values, also if ax is first else ())
    ax.set_xlabel(f'{label}, 95 % interval of the mean')
  if expected is not None:
    # Exact, so there is no interval to be drawn.
    first.axvline(
      100 * expected, color=drawing.COLOURS[1], lw=1.4, ls=(0, (5, 3)),
      zorder=1, label=f'random search of {count}, exact '
      f'expectation {100 * expected:.1f} %',
    )  # fmt: skip
  first.set_yticks(places, names)
  first.set_ylim(max(len(rows), 1) - 0.4, -0.6 - 1.1 * top)
  last.set_axis_off()
  head, told = 'parameters', [_parameters(row.params_s) for row in rows]
  if any(row.ranks_s for row in rows):
    head = f'ranks among {len(also):,}' if top else 'ranks'
    told = [', '.join(map(_place, row.ranks_s or ())) for row in rows]
  drawing.beside(
    last, [head, *told], [-0.95 if top else -1, *range(len(rows))],
    from_left=True,
  )  # fmt: skip
  if first.get_legend_handles_labels()[0]:
    first.legend(
      frameon=False,
      fontsize=8.5,
      ncols=3,
      loc='lower left',
      bbox_to_anchor=(-0.02, 1),
    )
  drawing.headed(fig, title)
  return fig


def _check_row(row):
  wers = len(row.per_s) if row.wer_s is None else len(row.wer_s)
  if not len(row.per_s) == len(row.params_s) == wers:
    raise ValueError(
      f'{row.name}: {len(row.per_s)} PERs, {len(row.params_s)} numbers of '
      f'parameters, {wers} WERs; want one of each for every seed'
    )


def _draw_rates(ax, rows, values, also=()):
  """Draws one error rate of all rows, and writes its means at the right.

  Axes reach as far as what is `also` shown.
  """
  texts, shown, bars = [], [*also], []
  labelled = set()
  for y, (row, value_s) in enumerate(zip(rows, values)):
    if value_s is None:
      texts.append('not scored')
      continue
    value_s = np.asarray(value_s, np.float64)
    # Not the pooled noise of `analysis.best`: searches that find other networks
    # each time are not equally noisy.
    mean, low, high, _ = statistics.student_mean(value_s)
    half = (high - low) / 2
    percent = 100 * value_s[np.isfinite(value_s)]
    colour = drawing.BASELINE if row.baseline else drawing.COLOURS[0]
    kind = 'baseline' if row.baseline else 'search'
    ax.plot(percent, [y] * len(percent), 'o', color=colour, ms=4, alpha=0.45)
    alike = len(set(percent)) < 2
    if not np.isnan(half) and not alike:
      ends = [100 * low, 100 * high]
      bars.append((y, colour, *ends))
      ax.plot(ends, [y, y], color=colour, lw=2, solid_capstyle='butt')
    if len(percent):
      ax.plot(
        100 * mean,
        y,
        'D' if row.baseline else 'o',
        color=colour,
        ms=8,
        mec='white',
        label=None if kind in labelled else kind,
      )
      labelled.add(kind)
    one = row.cells_s and len(set(row.cells_s)) == 1 < len(row.cells_s)
    half = float('nan') if alike else half
    texts.append(_rate(mean, half, len(percent), len(value_s), one))
    shown += percent.tolist()
  low, high = (min(shown), max(shown)) if shown else (0, 100)
  margin = max(0.08 * (high - low), 0.01 * high, 0.01)
  ax.set_xlim(low - margin, high + margin)
  ax.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g%%'))
  ax.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=(1, 2, 5, 10)))
  ax.grid(axis='y', visible=False)
  drawing.beside(ax, texts, range(len(texts)))
  _mark_cut(ax, bars)
  _count_alike(ax, values)


def _mark_cut(ax, bars):
  """Puts an arrow where an interval goes on behind the end of the axis."""
  left, right = ax.get_xlim()
  for y, colour, low, high in bars:
    for end, marker, cut in (left, '<', low < left), (right, '>', high > right):
      if cut:
        ax.scatter(end, y, 45, colour, marker=marker, clip_on=False, zorder=3)


def _count_alike(ax, values):
  """Writes how many seeds lie at one place, where they are several."""
  for y, value_s in enumerate(values):
    value_s = np.asarray([] if value_s is None else value_s, np.float64)
    places, counts = np.unique(
      value_s[np.isfinite(value_s)], return_counts=True
    )
    for place, number in zip(places, counts):
      if number > 1:
        ax.annotate(
          f'{number}\N{MULTIPLICATION SIGN}', (100 * place, y), (0, 5),
          textcoords='offset points', ha='center', fontsize=7.5,
          color=drawing.INK,
        )  # fmt: skip


def _place(rank):
  return '--' if rank is None else f'{rank:,}'


def _rate(mean, half, ended, seeds, one=False):
  """Returns a mean as it is read: '12.3 ± 0.4 %, 1 failed'."""
  if not ended:
    return f'all {seeds} failed' if seeds else 'no seed'
  text = f'{100 * mean:.1f}'
  text += ' %' if np.isnan(half) else f' \u00b1 {100 * half:.1f} %'
  text += ', one cell' * bool(one)
  return text + (f', {seeds - ended} failed' if ended < seeds else '')


def _parameters(params_s):
  """Returns '7.66 M', or the range over seeds whose networks differ."""
  if not len(params_s):
    return ''
  text = ticker.EngFormatter(places=2)
  low, high = text(min(params_s)), text(max(params_s))
  if low == high:
    return low
  number, _, unit = low.partition(' ')
  return f'{number if high.endswith(unit) else low}\u2013{high}'
