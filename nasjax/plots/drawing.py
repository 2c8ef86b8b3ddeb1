"""What all figures share: colours, axes of percent, and how one is saved."""

import functools
import itertools
import os
import pathlib
import secrets
import textwrap
import unicodedata

import numpy as np
from matplotlib import font_manager, rcParams, ticker
from matplotlib.figure import Figure
from matplotlib.text import Text

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
INK, QUIET, GRID = '#222222', '#777777', '#E4E4E4'
# Of what is only there to be compared with.
BASELINE = '#888888'


def save(fig, path, dpi=150):
  """Writes a figure, in the format of the suffix, whole or not at all."""
  path = pathlib.Path(path)
  temporary = path.with_name(
    f'.{path.stem}.{secrets.token_hex(4)}{path.suffix}'
  )
  _take_literally(fig)
  try:
    fig.savefig(temporary, dpi=dpi, facecolor='white')
    with temporary.open('rb') as f:
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _take_literally(fig):
  """Lets a $ in a name be one, not the beginning of a formula.

  Numbers at the axes stay formulas: powers of ten are.
  """
  axes = [axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)]
  names = [axis.label for axis in axes]
  numbers = {text for axis in axes for text in axis.findobj(Text)} - {*names}
  for text in fig.findobj(Text):
    text.set_parse_math(text in numbers)


def axes(width, height, grid=True):
  """Returns a Figure, its size in inches, and its one Axes."""
  fig, axs = panels(width, height, 1, 1, grid)
  return fig, axs[0, 0]


def panels(width, height, rows, columns, grid=True, widths=None, sharey=False):
  """Returns a Figure and its Axes [row, column].

  Args:
    width, height: of the figure, in inches.
    rows, columns: how many panels.
    grid: whether lines stand behind the data.
    widths: of the columns, relative to each other; None: equal.
    sharey: whether all panels have the limits and marks of the first.
  """
  fig = Figure(figsize=(width, height), layout='constrained')
  axs = fig.subplots(
    rows, columns, squeeze=False, sharey=sharey, width_ratios=widths
  )
  for ax in axs.flat:
    for side in ('top', 'right'):
      ax.spines[side].set_visible(False)
    for side in ('left', 'bottom'):
      ax.spines[side].set_color(QUIET)
    ax.tick_params(color=QUIET, labelcolor=INK, labelsize=9)
    if grid:
      ax.grid(color=GRID, lw=0.8)
      ax.set_axisbelow(True)
  return fig, axs


# Letters of a title that stand in an inch, if they are not all wide ones.
_LETTERS = 11


def titled(ax, text):
  """Gives axes a title, left as everywhere, in as many lines as it needs.

  Of several panels the first has it, and it reaches over the others.
  """
  text = _in_lines(text, ax.figure.get_figwidth() - 1)
  ax.set_title(text, loc='left', color=INK, fontsize=11)


def headed(fig, text):
  """Gives a figure a title, left and in as many lines as it needs."""
  text = _in_lines(text, fig.get_figwidth() - 0.2)
  fig.suptitle(text, x=0.01, ha='left', color=INK, fontsize=11)


def _in_lines(text, inches):
  width = max(int(_LETTERS * inches), 20)
  lines = [textwrap.wrap(line, width) for line in text.split('\n')]
  return '\n'.join(itertools.chain.from_iterable(lines))


def beside(ax, texts, rows, from_left=False):
  """Writes one text a row to the right of axes, or of their left end.

  Args:
    ax: the axes.
    texts: what to write.
    rows: where, on the vertical axis.
    from_left: whether the texts begin at the left end of the axes.
  """
  for text, row in zip(texts, rows, strict=True):
    ax.annotate(
      text,
      (0 if from_left else 1, row),
      xycoords=('axes fraction', 'data'),
      xytext=(8, 0),
      textcoords='offset points',
      va='center',
      fontsize=8.5,
      color=INK,
      annotation_clip=False,
    )


def legend_below(fig):
  """Puts one legend of all panels below them, each label once."""
  handles = {}
  for ax in fig.axes:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      handles.setdefault(label, handle)
  if handles:
    # A letter is 0.075 inches wide here, and what it names 0.6.
    column = 0.6 + 0.075 * max(map(len, handles))
    fits = max(1, int(fig.get_figwidth() / column))
    fig.legend(
      handles.values(),
      handles.keys(),
      frameon=False,
      fontsize=9,
      ncols=min(len(handles), fits, 9),
      loc='outside lower center',
    )


def per_axis(ax, percent, label, which='y'):
  """Makes an axis one of percent, logarithmic if it spans a factor of three.

  Args:
    ax: the axes, which reach as far as the data do.
    percent: what is drawn there; what is not finite is left out.
    label: of the axis, to which is added whether it is logarithmic.
    which: 'x' or 'y'.
  """
  axis = ax.xaxis if which == 'x' else ax.yaxis
  axis.set_label_text(label)
  limits = ax.set_xlim if which == 'x' else ax.set_ylim
  axis.set_major_formatter(ticker.FormatStrFormatter('%g%%'))
  percent = percent[np.isfinite(percent)]
  if not percent.size:
    limits(0, 100)
    return
  low, high = percent.min(), percent.max()
  if low <= 0 or high / low <= 3:
    margin = 0.06 * (high - low) or max(0.05 * high, 0.5)
    limits(low - margin, high + margin)
    return
  axis.set_label_text(f'{label} (logarithmic)')
  (ax.set_xscale if which == 'x' else ax.set_yscale)('log')
  limits(low / 1.15, high * 1.15)
  marks = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500)
  decades = 10.0 ** np.arange(-4, 4)
  if high / low > 1000:
    marks = decades
  elif high / low > 30:
    marks = np.outer(decades, (1, 2, 5)).ravel()
  axis.set_major_locator(ticker.FixedLocator(marks))
  axis.set_minor_locator(ticker.NullLocator())
  axis.set_major_formatter(ticker.FormatStrFormatter('%g%%'))


def costs_axis(ax, last=None):
  """Makes the horizontal axis one of costs, logarithmic; the last is marked."""
  ax.set_xscale('log')
  marks = [m * 10**e for e in range(-2, 7) for m in (1, 2, 5)]
  if last is not None:
    marks = [mark for mark in marks if not last / 1.2 < mark < last] + [last]
  ax.xaxis.set_major_locator(ticker.FixedLocator(marks))
  ax.xaxis.set_minor_locator(ticker.NullLocator())
  ax.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  ax.set_xlabel('cost in trained models (logarithmic)')


def shortened(text, width):
  return text if len(text) <= width else text[: width - 1] + '\u2026'


def drawable(text):
  """Returns a text as a figure can show it.

  Ordering and joining letters is matplotlib's work (from 3.11 on, by libraqm).
  A word with a letter that none of the fonts has (of Tamil, unless a font of it
  is installed) becomes the numbers of its letters, U+0BA4 U+0BAE. A mark that
  begins a word stands on a dotted circle.
  """
  words = unicodedata.normalize('NFC', text).split(' ')
  known = _characters(tuple(rcParams['font.family']))
  return ' '.join(_shown(word, known) for word in words)


def _shown(word, known):
  if not all(ord(c) in known for c in word):
    return ' '.join(f'U+{ord(c):04X}' for c in word)
  is_mark = bool(word) and unicodedata.category(word[0])[0] == 'M'
  return '\u25cc' * is_mark + word


@functools.cache
def _characters(families):
  """Returns the code points that the fonts of some families have."""
  paths = {
    font_manager.findfont(font_manager.FontProperties(family=[family]))
    for family in families
  }
  fonts = map(font_manager.get_font, paths)
  return frozenset(code for font in fonts for code in font.get_charmap())
