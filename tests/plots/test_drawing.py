"""Tests of nasjax/plots/drawing.py: scripts in figures."""

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nasjax.plots import drawing


def ink(text):
  """Returns for each column of a picture of a text whether it has ink."""
  fig = Figure(figsize=(4, 1))
  fig.text(0.05, 0.4, text, fontsize=24)
  canvas = FigureCanvasAgg(fig)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., 0].min(0) < 128


def test_letters_join_and_are_ordered():
  # Joined letters leave no gap; alone, each stands by itself.
  word = ink(drawing.drawable('سبح'))
  apart = ink(drawing.drawable('س\u200cب\u200cح'))
  gaps = [int((np.diff(x.astype(int)) == 1).sum()) for x in (word, apart)]
  assert gaps[0] == 1 < gaps[1]
  # What is read first stands at the right: alef, a bare stroke, is there.
  first = np.flatnonzero(ink(drawing.drawable('اب')))
  other = np.flatnonzero(ink('ا'))
  width = other[-1] - other[0]
  assert width < (first[-1] - first[0]) / 2
  tail = ink(drawing.drawable('اب'))[first[0] : first[-1] + 1]
  strokes = np.flatnonzero(np.diff(tail.astype(int)) == 1)
  assert abs((len(tail) - 1 - strokes[-1] - 1) - width) <= 1


def test_what_no_font_has_is_told_by_numbers():
  assert drawing.drawable('tiếng Việt') == 'tiếng Việt'
  path = font_manager.findfont(font_manager.FontProperties())
  family = font_manager.get_font(path)
  assert ord('த') not in family.get_charmap()
  assert drawing.drawable('a தமிழ்') == 'a U+0BA4 U+0BAE U+0BBF U+0BB4 U+0BCD'
  ink(drawing.drawable('தமிழ்'))  # without a warning
