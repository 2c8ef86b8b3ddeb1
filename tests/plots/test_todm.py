"""Figures of elastic supernets show the numbers they were given."""

import numpy as np

from nasjax import plots
from nasjax.plots import todm


def drawn(fig, path):
  plots.save(fig, path / 'figure.png', dpi=40)
  assert (path / 'figure.png').read_bytes().startswith(b'\x89PNG')
  return fig.axes


def test_sizes_are_lines_by_size_and_alone_points(tmp_path):
  ways = [
    todm.Sizes('D', [2e6, 1e6, 3e6], [0.2, 0.3, 0.18], [0.01, 0, np.nan]),
    todm.Sizes('A1', [1e6, 3e6], [0.28, 0.17], [0, 0], alone=True),
  ]
  fig = todm.sizes(ways, 'test WER', 'a title')
  (ax,) = drawn(fig, tmp_path)
  line, *_ = ax.containers[0]
  np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
  np.testing.assert_allclose(line.get_ydata(), [30, 20, 18])
  points, *_ = ax.containers[1]
  assert points.get_linestyle() == 'None'
  assert ax.get_title(loc='left') == 'a title'
  assert ax.get_ylim()[0] < 17 and ax.get_ylim()[1] > 30


def test_seeds_of_a_way_share_colour_and_name(tmp_path):
  ways = [
    todm.Sizes(way, [1e6, 2e6], [0.3, 0.2], [0, 0]) for way in ('D', 'E', 'D')
  ]
  fig = todm.sizes(ways, 'validation WER')
  (ax,) = drawn(fig, tmp_path)
  first, other, again = (lines[0].get_color() for lines in ax.containers)
  assert first == again != other
  (legend,) = fig.legends
  assert [text.get_text() for text in legend.get_texts()] == ['D', 'E']


def test_widths_are_sorted_by_size_and_absent_layers_white(tmp_path):
  fig = todm.widths(
    [[128, 64, 64], [64, 64, 0]], [3e6, 1e6], (64, 128), 'a title'
  )
  ax, _ = drawn(fig, tmp_path)
  (mesh,) = ax.collections
  # Layers are rows, networks columns, the smallest first.
  np.testing.assert_array_equal(
    mesh.get_array().reshape(3, 2), [[1, 2], [1, 1], [0, 1]]
  )
  assert [t.get_text() for t in ax.get_xticklabels()] == ['1', '3']


def test_costs_cross_where_one_training_is_worth_it(tmp_path):
  fig = plots.todm.costs_of_sizes({'D': 30.0, 'B1': 25.0}, 20.0, 'seconds')
  (ax,) = drawn(fig, tmp_path)
  alone, one, two = ax.lines
  np.testing.assert_array_equal(alone.get_ydata(), [20, 40, 60, 80])
  assert set(one.get_ydata()) == {30} and set(two.get_ydata()) == {25}


def test_many_ways_differ_and_their_legend_is_within_the_figure(tmp_path):
  names = [f'alpha_label_blank_{n}' for n in range(13)]
  ways = [todm.Sizes(name, [1e6, 2e6], [0.3, 0.2], [0, 0]) for name in names]
  fig = todm.sizes(ways, 'test WER')
  (ax,) = drawn(fig, tmp_path)
  lines = [lines[0] for lines in ax.containers]
  assert len({(line.get_color(), line.get_marker()) for line in lines}) == 13
  (legend,) = fig.legends
  box, whole = legend.get_window_extent(), fig.bbox
  assert whole.x0 <= box.x0 and box.x1 <= whole.x1
