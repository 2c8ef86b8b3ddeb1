"""Tests of nasjax/plots/dense.py: arcs say what the probabilities say."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch

from nasjax import plots, spaces


def test_arcs_have_the_colour_and_the_weight_of_the_best_operation():
  space = spaces.DARTS_ASR
  p_ek = np.full((15, 7), 1 / 7)
  p_ek[4] = np.eye(7)[6]  # skip, and sure of it
  p_ek[7] = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
  fig = plots.dense(space, {'vi': p_ek, 'தமிழ்': p_ek}, 'two')
  arcs = [a for a in fig.axes[0].patches if isinstance(a, FancyArrowPatch)]
  assert len(arcs) == 15
  assert to_rgba(plots.COLOURS[6]) == arcs[4].get_edgecolor()
  assert to_rgba(plots.COLOURS[0]) == arcs[7].get_edgecolor()
  widths = [arc.get_linewidth() for arc in arcs]
  assert widths[4] > widths[7] > widths[0] == min(widths)
  assert fig.axes[1].get_title('left').startswith('U+0BA4')
  with pytest.raises(ValueError, match=r'vi: probabilities of shape \(15, 6\)'):
    plots.dense(space, {'vi': p_ek[:, :6]})


def test_means_are_over_seeds_that_still_train():
  fig = plots.losses({'vi': {'VGG': [[4.0, 2.0], [2.0, 1.0, 0.5]]}})
  thick = max(fig.axes[0].lines, key=lambda line: line.get_linewidth())
  np.testing.assert_allclose(thick.get_ydata(), [3.0, 1.5, 0.5])
  np.testing.assert_array_equal(thick.get_xdata(), [1, 2, 3])
