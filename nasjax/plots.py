"""Figures of a benchmark and of what its networks hear.

Every function takes arrays and returns a matplotlib Figure that no window and
no global state knows of: show it in a notebook, or `save` it.
"""

import os
import pathlib
import secrets

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design, 2008; told apart by all.
COLOURS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#8C6D1F',
  '#555555',
)
_INK, _QUIET, _GRID = '#222222', '#777777', '#E4E4E4'
_MAX_NAMED = 18  # front points that still fit beside the plot


def learning_curves(val_per_pe, labels_p, groups_p, title=''):
  """Draws validation PER by epoch for every member.

  Thin lines are members, coloured by group; a thick line is the median of a
  group over the members still running; a cross is where one stopped early. The
  best and the worst at the end are named.

  Args:
    val_per_pe: fractions; NaN after a divergence.
    labels_p: names of the members.
    groups_p: names of their groups; sorted, so that a name keeps its colour.
    title: of the figure.
  """
  val_per_pe = np.asarray(val_per_pe, np.float64)
  members, epochs = val_per_pe.shape
  if len(labels_p) != members or len(groups_p) != members:
    raise ValueError(
      f'{members} curves, {len(labels_p)} labels and {len(groups_p)} groups; '
      'want as many of each'
    )
  fig, ax = _axes(8.4, 4.8)
  groups = sorted(set(groups_p))
  epoch_e = np.arange(1, epochs + 1)
  alpha = float(np.clip(12 / max(members, 1), 0.18, 0.7))
  marker = 'o' if epochs < 3 else None  # one point makes no line
  for g, group in enumerate(groups):
    colour = COLOURS[g % len(COLOURS)]
    curves = val_per_pe[[other == group for other in groups_p]]
    for curve in curves:
      ax.plot(
        epoch_e,
        100 * curve,
        color=colour,
        lw=0.9,
        alpha=alpha,
        marker=marker,
        ms=4,
      )
      _mark_end(ax, epoch_e, 100 * curve, colour, epochs)
    ran_e = ~np.isnan(curves).all(axis=0)
    median = np.nanmedian(curves[:, ran_e], axis=0)
    ax.plot(
      epoch_e[ran_e],
      100 * median,
      color=colour,
      lw=2.6,
      solid_capstyle='round',
      label=f'{group} ({len(curves)})',
    )
  _name_ends(ax, epochs, 100 * val_per_pe[:, -1], labels_p)
  _per_axis(ax, 100 * val_per_pe)
  margin = 0.5 if epochs == 1 else 0.01 * epochs
  ax.set_xlim(1 - margin, epochs + margin)
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
  ax.set_xlabel('epoch')
  ax.set_ylabel('validation PER')
  ax.set_title(title, loc='left', color=_INK, fontsize=11)
  if groups:
    ax.legend(
      frameon=False, fontsize=9, loc='lower left', bbox_to_anchor=(0, 0)
    )
  return fig


def pareto(cost_n, per_n, front_n, xlabel, names_n=None, sd_n=None, title=''):
  """Draws PER against a cost, and the cells that nothing beats in both.

  Args:
    cost_n: such as parameters or MACs; drawn on a logarithmic axis if it spans
      a factor of four.
    per_n: fractions; what is NaN is left out.
    front_n: bool, see `analysis.pareto_front`.
    xlabel: what the cost is.
    names_n: names of the cells; those of the front are listed.
    sd_n: standard deviation over the seeds of each cell, 0 or NaN for none.
    title: of the figure.
  """
  cost_n, per_n = np.asarray(cost_n, np.float64), np.asarray(per_n, np.float64)
  front_n = np.asarray(front_n, bool)
  fig, ax = _axes(8.4 if names_n is None else 10.2, 4.8)
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
    s=26,
    color=COLOURS[0],
    alpha=0.55,
    lw=0,
    zorder=2,
    label='cells',
  )
  # A step: for a cost in between, the best is that of the point to the left.
  ax.step(
    cost_n[front],
    100 * per_n[front],
    where='post',
    color=COLOURS[1],
    lw=1.6,
    zorder=3,
  )
  ax.scatter(
    cost_n[front],
    100 * per_n[front],
    s=120 if names_n is not None else 44,
    color=COLOURS[1],
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
  ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  _per_axis(ax, 100 * per_n[shown_n])
  ax.set_xlabel(xlabel)
  ax.set_ylabel('test PER')
  ax.set_title(title, loc='left', color=_INK, fontsize=11)
  ax.legend(frameon=False, fontsize=9)
  return fig


def log_mel(x_tf, frame_seconds=0.01, title=''):
  """Draws log-mel features, time to the right, pitch upwards.

  Args:
    x_tf: features, normalised or not.
    frame_seconds: time from one frame to the next.
    title: of the figure.
  """
  x_tf = np.asarray(x_tf)
  fig, ax = _axes(8.4, 2.6, grid=False)
  # A few clicks must not take all the contrast.
  low, high = np.percentile(x_tf, [2, 99.5]) if x_tf.size else (0, 1)
  image = ax.imshow(
    x_tf.T,
    origin='lower',
    aspect='auto',
    cmap='magma',
    interpolation='nearest',
    vmin=low,
    vmax=max(high, low + 1e-6),
    extent=(0, len(x_tf) * frame_seconds, 0, x_tf.shape[1]),
  )
  bar = fig.colorbar(image, ax=ax, pad=0.01)
  bar.outline.set_visible(False)
  bar.ax.tick_params(labelsize=8, color=_QUIET)
  ax.set_xlabel('seconds')
  ax.set_ylabel('mel filter')
  ax.set_title(title, loc='left', color=_INK, fontsize=11)
  return fig


def posteriors(
  p_tv,
  symbols,
  transcript,
  reference=None,
  frame_seconds=0.04,
  blank=0,
  floor=0.1,
  title='',
):
  """Draws what a CTC network believes at each frame.

  Symbols are shown if their probability ever exceeds `floor`, from the top in
  the order in which they first peak, so that a confident network draws a
  staircase; the blank is the lowest row.

  Args:
    p_tv: probabilities.
    symbols: name of each, the blank's too.
    transcript: symbols as decoded, written below the picture.
    reference: symbols as spoken, written below them.
    frame_seconds: time from one frame to the next.
    blank: index of the blank.
    floor: probability below which a symbol is not worth a row.
    title: of the figure.
  """
  p_tv = np.asarray(p_tv)
  if p_tv.shape[1] != len(symbols):
    raise ValueError(
      f'{p_tv.shape[1]} probabilities a frame for {len(symbols)} symbols'
    )
  heard = [
    v for v in range(len(symbols)) if v != blank and p_tv[:, v].max() > floor
  ]
  heard.sort(key=lambda v: int((p_tv[:, v] > floor).argmax()))
  rows = [*heard, blank]
  fig, ax = _axes(8.4, 1.5 + 0.17 * max(len(rows), 6), grid=False)
  ax.imshow(
    p_tv[:, rows].T,
    aspect='auto',
    cmap='Blues',
    interpolation='nearest',
    vmin=0,
    vmax=1,
    extent=(0, len(p_tv) * frame_seconds, len(rows), 0),
  )
  ax.set_yticks(np.arange(len(rows)) + 0.5, [symbols[v] for v in rows])
  ax.tick_params(axis='y', labelsize=8, length=0)
  ax.hlines(range(1, len(rows)), *ax.get_xlim(), color=_GRID, lw=0.5)
  lines = [f'heard:  {" ".join(transcript)}']
  if reference is not None:
    lines.append(f'spoken: {" ".join(reference)}')
  ax.set_xlabel('seconds')
  note = '\n'.join(_shortened(line, 104) for line in lines)
  fig.supxlabel(
    note, x=0.01, ha='left', fontsize=8.5, family='monospace', color=_INK
  )
  ax.set_title(title, loc='left', color=_INK, fontsize=11)
  return fig


def save(fig, path, dpi=150):
  """Writes a figure, in the format of the suffix, whole or not at all."""
  path = pathlib.Path(path)
  temporary = path.with_name(
    f'.{path.stem}.{secrets.token_hex(4)}{path.suffix}'
  )
  try:
    fig.savefig(temporary, dpi=dpi, facecolor='white')
    with temporary.open('rb') as f:
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _axes(width, height, grid=True):
  """Returns a Figure, its size in inches, and its one Axes."""
  fig = Figure(figsize=(width, height), layout='constrained')
  ax = fig.subplots()
  for side in ('top', 'right'):
    ax.spines[side].set_visible(False)
  for side in ('left', 'bottom'):
    ax.spines[side].set_color(_QUIET)
  ax.tick_params(color=_QUIET, labelcolor=_INK, labelsize=9)
  if grid:
    ax.grid(color=_GRID, lw=0.8)
    ax.set_axisbelow(True)
  return fig, ax


def _per_axis(ax, percent):
  """Makes y an axis of percent, logarithmic if it spans a factor of three."""
  ax.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=None))
  percent = percent[np.isfinite(percent)]
  if not percent.size:
    ax.set_ylim(0, 100)
    return
  low, high = percent.min(), percent.max()
  if low <= 0 or high / low <= 3:
    ax.set_ylim(0, max(1.08 * high, 1))
    return
  ax.set_yscale('log')
  ax.set_ylim(low / 1.15, high * 1.15)
  marks = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500)
  ax.yaxis.set_major_locator(ticker.FixedLocator(marks))
  ax.yaxis.set_minor_locator(ticker.NullLocator())
  ax.yaxis.set_major_formatter(ticker.FormatStrFormatter('%d%%'))


def _mark_end(ax, epoch_e, percent_e, colour, epochs):
  """Puts a cross where a curve stops early."""
  ran = np.flatnonzero(~np.isnan(percent_e))
  if len(ran) and ran[-1] < epochs - 1:
    ax.plot(
      epoch_e[ran[-1]], percent_e[ran[-1]], 'x', color=colour, ms=6, mew=1.6
    )


def _name_ends(ax, epochs, percent_p, labels_p):
  """Writes the names of the best and of the worst at the right."""
  ran = np.flatnonzero(~np.isnan(percent_p))
  if not len(ran):
    return
  order = ran[np.argsort(percent_p[ran], kind='stable')]
  for p in dict.fromkeys((order[0], order[-1])):
    ax.annotate(
      f'{_shortened(labels_p[p], 36)}\n{percent_p[p]:.1f} %',
      (epochs, percent_p[p]),
      xytext=(8, 0),
      textcoords='offset points',
      va='center',
      fontsize=8,
      color=_INK,
      annotation_clip=False,
    )


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
    name = _shortened(names_n[n], 36)
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
    color=_INK,
    annotation_clip=False,
  )


def _shortened(text, width):
  return text if len(text) <= width else text[: width - 1] + '\u2026'
