"""What a network hears."""

import numpy as np

from nasjax.plots import drawing


def log_mel(x_tf, frame_seconds=0.01, title=''):
  """Draws log-mel features, time to the right, pitch upwards.

  Args:
    x_tf: features, normalised or not.
    frame_seconds: time from one frame to the next.
    title: of the figure.
  """
  x_tf = np.asarray(x_tf)
  fig, ax = drawing.axes(8.4, 2.6, grid=False)
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
  bar.ax.tick_params(labelsize=8, color=drawing.QUIET)
  ax.set_xlabel('seconds')
  ax.set_ylabel('mel filter')
  drawing.titled(ax, title)
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
  fig, ax = drawing.axes(8.4, 1.5 + 0.17 * max(len(rows), 6), grid=False)
  ax.imshow(
    p_tv[:, rows].T,
    aspect='auto',
    cmap='Blues',
    interpolation='nearest',
    vmin=0,
    vmax=1,
    extent=(0, len(p_tv) * frame_seconds, len(rows), 0),
  )
  names = [drawing.drawable(symbols[v]) for v in rows]
  ax.set_yticks(np.arange(len(rows)) + 0.5, names)
  ax.tick_params(axis='y', labelsize=8, length=0)
  ax.hlines(range(1, len(rows)), *ax.get_xlim(), color=drawing.GRID, lw=0.5)
  lines = [f'heard:  {" ".join(map(drawing.drawable, transcript))}']
  if reference is not None:
    lines.append(f'spoken: {" ".join(map(drawing.drawable, reference))}')
  ax.set_xlabel('seconds')
  note = '\n'.join(drawing.shortened(line, 104) for line in lines)
  fig.supxlabel(
    note, x=0.01, ha='left', fontsize=8.5, family='monospace', color=drawing.INK
  )
  drawing.titled(ax, title)
  return fig
