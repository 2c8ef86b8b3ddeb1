"""Figures of one-shot searches show the numbers they were given."""

import math

import numpy as np
import pytest
import scipy.stats

from nasjax import plots, spaces
from nasjax.models.st_nas import network as tdnn

NAN = float('nan')
WSJ = [(f'op{n + 1}', spaces.ST_NAS.ops) for n in range(6)]
CELL = [
  ('op1', ('linear', 'conv5', 'zero')),
  ('op2', ('linear', 'conv5', 'zero')),
  ('s10', ('absent', 's10')),
]


def drawn(fig, path, dpi=40):
  """Draws a figure, which must not warn; returns its axes."""
  plots.save(fig, path / 'figure.png', dpi=dpi)
  assert (path / 'figure.png').read_bytes().startswith(b'\x89PNG')
  return fig.axes


def search(edges, warm_up, epochs, seed=0):
  """Architecture parameters that rest in warm-up and drift afterwards."""
  rng = np.random.default_rng(seed)
  alphas = {}
  for name, candidates in edges:
    steps_ek = rng.normal(0, 0.3, (epochs, len(candidates)))
    steps_ek[:warm_up] = 0
    alphas[name] = steps_ek.cumsum(axis=0)
  return alphas


def slow_softmax(alpha_k):
  weights = [math.exp(a) for a in alpha_k]
  return [w / sum(weights) for w in weights]


def labelled(ax):
  return {
    line.get_label(): line
    for line in ax.lines
    if not line.get_label().startswith('_')
  }


def texts(ax):
  return [t.get_text() for t in ax.texts]


def test_probabilities_have_a_panel_an_edge_and_a_line_a_candidate(tmp_path):
  alphas = search(CELL, 3, 9)
  starts = {'warm-up': 1, 'search': 4}
  fig = plots.probabilities(CELL, alphas, starts, spaces.NB_ASR.ops, title='t')
  axes = drawn(fig, tmp_path)
  assert len(axes) == 3
  for ax, (name, candidates) in zip(axes, CELL):
    lines = labelled(ax)
    shown = candidates if name != 's10' else ('absent', 'present')
    for k, candidate in enumerate(shown):
      line = lines[candidate]
      np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 10))
      expected = [slow_softmax(alpha_k)[k] for alpha_k in alphas[name].tolist()]
      np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    begins = [line for line in ax.lines if list(line.get_xdata()) == [3.5] * 2]
    assert len(begins) == 1  # behind the last epoch of warm-up
    last = slow_softmax(alphas[name][-1].tolist())
    most = shown[int(np.argmax(last))]
    assert ax.get_title('left').endswith(f': {most}, {max(last):.2f}')
  titles = [ax.get_title('left').split(':')[0] for ax in axes]
  assert titles == ['node 1', 'node 2', 'skip t0 to t2']
  (legend,) = fig.legends
  assert [t.get_text() for t in legend.get_texts()] == [
    'linear', 'conv5', 'zero', 'absent', 'present', 'search begins',
  ]  # fmt: skip
  # The colours of the cells drawn by `derived`, whatever was searched.
  zero = plots.COLOURS[spaces.NB_ASR.ops.index('zero')]
  assert labelled(axes[0])['zero'].get_color() == zero


def test_a_candidate_looks_the_same_everywhere(tmp_path):
  edges = [('a', tuple('xyz')), ('b', tuple('zwx')), ('c', tuple('klmnopq'))]
  axes = drawn(plots.probabilities(edges, search(edges, 0, 4)), tmp_path)
  looks = {}
  for ax in axes:
    for name, line in labelled(ax).items():
      looks.setdefault(name, set()).add(
        (line.get_color(), line.get_linestyle())
      )
  assert len(looks) == 11 and all(len(found) == 1 for found in looks.values())
  assert len(set.union(*looks.values())) == 11  # more than there are colours


def test_a_long_warm_up_leaves_room_for_the_search(tmp_path):
  alphas, starts = search(WSJ, 65, 87), {'warm-up': 1, 'search': 66}
  for fig in (
    plots.probabilities(WSJ, alphas, starts),
    plots.entropies(WSJ, alphas, starts),
  ):
    left, right = drawn(fig, tmp_path)[0].get_xlim()
    share = (65.5 - left) / (right - left)
    assert 0.25 < share < 0.4 and right >= 87
  left, _ = plots.probabilities(WSJ, alphas).axes[0].get_xlim()
  assert left < 1
  short = plots.probabilities(WSJ, search(WSJ, 3, 9), {'search': 4})
  assert short.axes[0].get_xlim()[0] < 1


def test_entropies_are_in_units_of_log_candidates(tmp_path):
  alphas = search(CELL, 2, 8)
  alphas['op2'][:] = [900.0, 0.0, 0.0]  # certain
  fig = plots.entropies(CELL, alphas, {'search': 3}, title='t')
  ax = drawn(fig, tmp_path)[0]
  (image,) = ax.images
  expected = [
    [
      sum(-p * math.log(p) / math.log(len(c)) for p in slow_softmax(a) if p)
      for a in (alphas[name].tolist() if name != 'op2' else [])
    ]
    for name, c in CELL
  ]
  expected[1] = [0.0] * 8
  np.testing.assert_allclose(image.get_array(), expected, atol=1e-12)
  np.testing.assert_allclose(image.get_array()[[0, 2], :2], 1)
  assert image.get_clim() == (0, 1)
  assert image.get_extent() == [0.5, 8.5, 2.5, -0.5]
  assert texts(ax) == ['at the end', *(f'{row[-1]:.2f}' for row in expected)]
  labels = [t.get_text() for t in ax.get_yticklabels()]
  assert labels == ['node 1', 'node 2', 'skip t0 to t2']
  assert [t.get_text() for t in ax.get_legend().get_texts()] == [
    'search begins'
  ]


@pytest.mark.parametrize('epochs', [0, 1])
def test_searches_that_hardly_began(tmp_path, epochs):
  for starts in ({'search': 1}, {'search': 2}):
    alphas = search(CELL, 0, epochs)
    drawn(plots.probabilities(CELL, alphas, starts), tmp_path)
    drawn(plots.entropies(CELL, alphas, starts), tmp_path)


def test_a_search_without_edges(tmp_path):
  drawn(plots.probabilities([], {}), tmp_path)
  drawn(plots.entropies([], {}), tmp_path)


def test_what_is_not_finite_is_a_gap(tmp_path):
  alphas = {name: a.tolist() for name, a in search(CELL, 1, 5).items()}
  alphas['op1'][4] = [None, None, None]  # as JSON has it
  alphas['op2'][3] = [0.0, NAN, 0.0]
  alphas['s10'][4] = [np.inf, 0.0]
  axes = drawn(plots.probabilities(CELL, alphas), tmp_path)
  for ax, gap in zip(axes, (4, 3, 4)):
    for name, line in labelled(ax).items():
      assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [gap], name
  assert axes[0].get_title('left') == 'node 1'
  ax = drawn(plots.entropies(CELL, alphas), tmp_path)[0]
  assert texts(ax)[1] == texts(ax)[3] == 'none' != texts(ax)[2]


def test_curves_that_do_not_fit_are_named():
  alphas = search(CELL, 1, 5)
  for draw in (plots.probabilities, plots.entropies):
    with pytest.raises(ValueError, match='no curve of edge op3; there are op1'):
      draw([('op3', ('a', 'b'))], alphas)
    with pytest.raises(
      ValueError, match=r'op1: .*\(5, 3\); want \[epochs, 2\]'
    ):
      draw([('op1', ('a', 'b'))], alphas)
    with pytest.raises(ValueError, match='nothing to choose'):
      draw([('op1', ('a',))], {'op1': np.zeros((5, 1))})
  alphas['op2'] = alphas['op2'][:4]
  with pytest.raises(ValueError, match='4, 5 epochs'):
    plots.entropies(CELL, alphas)


def test_decisions_are_read_from_a_result(tmp_path):
  alphas = search(CELL, 2, 5)
  alphas['s10'][4] = NAN
  plain = {
    f'alpha_{name}': [
      [None if x != x else x for x in row] for row in a.tolist()
    ]
    for name, a in alphas.items()
  }
  result = {
    'edges': [[name, list(candidates)] for name, candidates in CELL],
    'curves': {'stage': [0, 0, 1, 1, 1], 'val_per': [None] * 5} | plain,
    'search': {'stages': [{'name': 'warm-up'}, {'name': 'search'}]},
  }
  edges, found, starts = plots.decisions(result)
  assert edges == tuple(CELL)
  assert starts == {'warm-up': 1, 'search': 3}
  axes = drawn(plots.probabilities(edges, found, starts), tmp_path)
  expected = [slow_softmax(a)[1] for a in alphas['op2'].tolist()]
  line = labelled(axes[1])['conv5']
  np.testing.assert_allclose(line.get_ydata(), expected)
  drawn(plots.entropies(edges, found, starts), tmp_path)


def reached(space, arch, before, subsampling):
  """Frames of the features that each layer's output at time 0 depends on."""
  names = space.main_ops(arch)
  layers = [('block', tdnn.shifts(name)) for name in names]
  half = (subsampling - 1) // 2
  read = range(-half, subsampling - half)
  layers.insert(before, ('subsampling', tuple(read)))
  counts = []
  for depth in range(1, len(layers) + 1):
    frames = {0}
    for kind, shifts in reversed(layers[:depth]):
      stride = subsampling if kind == 'subsampling' else 1
      frames = {stride * t + s for t in frames for s in shifts}
    counts.append(max(frames) - min(frames) + 1)
  return counts


@pytest.mark.parametrize(
  'before, subsampling', [(3, 3), (0, 2), (6, 4), (2, 1)]
)
def test_chains_show_layers_taps_and_receptive_fields(
  tmp_path, before, subsampling
):
  space = spaces.ST_NAS_SWBD
  archs = np.array([spaces.TDNN_D, (3, 2, 5, 5, 4, 3), (5,) * 6])
  labels = ['TDNN-D', 'found', 'largest']
  fig = plots.derived(space, archs, labels, before, subsampling, 't')
  (ax,) = drawn(fig, tmp_path)
  per_row = len(texts(ax)) // 3
  for row, (arch, label) in enumerate(zip(archs, labels)):
    written = texts(ax)[row * per_row :][:per_row]
    assert written[0] == label and 'linear' in written
    names = [name.removeprefix('tdnn_') for name in space.main_ops(arch)]
    names.insert(before, f'subsample {subsampling}')
    assert [text for text in written if text in names] == names
    frames = [text for text in written if text.endswith(' frames')]
    expected = reached(space, arch, before, subsampling)
    assert frames == [f'{count} frames' for count in expected]
    # Large dots are the taps of all layers of the row.
    large = [
      line
      for line in ax.lines
      if row - 0.5 < line.get_ydata()[0] < row + 0.5
      and line.get_markersize() > 3
    ]
    taps = sum(len(tdnn.shifts(name)) for name in space.main_ops(arch))
    assert len(large) == taps + subsampling


def test_dots_of_a_dilated_block_are_the_frames_it_reads(tmp_path):
  space = spaces.ST_NAS_SWBD
  arch = space.parse([space.ops.index('tdnn_c3d2')] + [0] * 5)
  (ax,) = drawn(plots.derived(space, [arch], ['a']), tmp_path)
  block = [line for line in ax.lines if 0.5 < line.get_xdata()[0] < 1.5]
  x = np.array([line.get_xdata()[0] for line in block])
  large = np.array([line.get_markersize() > 3 for line in block])
  unit = np.diff(np.sort(x)).min()
  frames = np.round((x[large] - 1) / unit).astype(int)
  assert tuple(frames) == tdnn.shifts('tdnn_c3d2')
  assert len(x) == 13


def test_cells_are_drawn_as_cells(tmp_path):
  archs = [[[0, 1], [5, 0, 1], [3, 1, 0, 1]], [[4, 0], [1, 0, 0], [2, 0, 0, 0]]]
  fig = plots.derived(spaces.NB_ASR, archs, ['a', 'b'], title='t')
  axes = drawn(fig, tmp_path)
  assert [ax.get_title('left') for ax in axes] == ['a', 'b']
  assert texts(axes[0])[4:] == ['linear', 'zero', 'conv7']


def test_networks_that_do_not_fit_are_named(tmp_path):
  with pytest.raises(ValueError, match='1 networks, 2 labels'):
    plots.derived(spaces.ST_NAS, [spaces.TDNN_D], ['a', 'b'])
  with pytest.raises(ValueError, match='before=7; st_nas has 6 blocks'):
    plots.derived(spaces.ST_NAS, [spaces.TDNN_D], ['a'], before=7)
  with pytest.raises(ValueError, match='subsampling=0; want at least 1'):
    plots.derived(spaces.ST_NAS, [spaces.TDNN_D], ['a'], subsampling=0)
  with pytest.raises(ValueError, match='st_nas'):
    plots.derived(spaces.ST_NAS, [(4,) * 6], ['a'])
  drawn(
    plots.derived(spaces.ST_NAS, spaces.ST_NAS.enumerate()[:0], []), tmp_path
  )


ROWS = [
  plots.Row('worse', (0.30, 0.32, 0.31), (8.9e6, 9.21e6, 9e6), (0.5, 0.6, 0.7)),
  plots.Row('broken', (NAN, NAN), (7e6, 7e6), (NAN, NAN)),
  plots.Row('best', (0.2, NAN, 0.22, 0.21), (11e6,) * 4, (0.4, NAN, 0.5, 0.42)),
  plots.Row('TDNN-D', (0.25,), (7_662_792,), None, baseline=True),
  plots.Row('pocket', (0.26, 0.27), (9e3, 2.5e6), (0.5, 0.5), True),
]


def test_comparison_shows_seeds_means_and_intervals(tmp_path):
  left, right, beside = drawn(plots.comparison(ROWS, 't'), tmp_path)
  order = ['best', 'TDNN-D', 'pocket', 'worse', 'broken']
  assert [t.get_text() for t in left.get_yticklabels()] == order
  assert left.yaxis_inverted()
  assert texts(beside) == [
    'parameters', '11.00 M', '7.66 M', '9.00 k\N{EN DASH}2.50 M',
    '8.90\N{EN DASH}9.21 M', '7.00 M',
  ]  # fmt: skip
  by_name = {row.name: row for row in ROWS}
  for ax, field in ((left, 'per_s'), (right, 'wer_s')):
    for y, name in enumerate(order):
      values = getattr(by_name[name], field)
      lines = [line for line in ax.lines if set(line.get_ydata()) == {y}]
      if values is None:
        assert not lines and texts(ax)[y] == 'not scored'
        continue
      ended = [v for v in values if v == v]
      if not ended:
        assert texts(ax)[y] == f'all {len(values)} failed'
        continue
      mean = sum(ended) / len(ended)
      dots, *bar, middle = lines
      np.testing.assert_allclose(dots.get_xdata(), [100 * v for v in ended])
      np.testing.assert_allclose(middle.get_xdata(), [100 * mean])
      assert texts(ax)[y].startswith(f'{100 * mean:.1f} ')
      assert texts(ax)[y].endswith('1 failed') == (name == 'best')
      # No interval of one seed, nor where all seeds are equal.
      if len(ended) > 1 and len(set(ended)) > 1:
        low, high = scipy.stats.t.interval(
          0.95, len(ended) - 1, mean, scipy.stats.sem(ended)
        )
        ends = bar[0].get_xdata()
        np.testing.assert_allclose(ends, [100 * low, 100 * high])
        assert f'\N{PLUS-MINUS SIGN} {50 * (high - low):.1f} %' in texts(ax)[y]
      elif len(ended) == 1:
        assert not bar
  assert [t.get_text() for t in left.get_legend().get_texts()] == [
    'search', 'baseline',
  ]  # fmt: skip


def test_comparison_shows_every_seed_whatever_the_intervals(tmp_path):
  rows = [
    plots.Row('two', (0.2, 0.4), (1e6, 1e6)),  # reaches from -97 to 157 %
    plots.Row('three', (0.3, 0.31, 0.32), (1e6,) * 3),
  ]
  left, beside = drawn(plots.comparison(rows), tmp_path)
  low, high = left.get_xlim()
  assert 10 < low < 20 and 40 < high < 50
  assert left.get_xlabel().startswith('test PER')
  assert texts(beside)[1:] == ['1.00 M', '1.00 M']


def test_an_interval_that_leaves_the_axis_ends_in_an_arrow(tmp_path):
  rows = [
    plots.Row('wide', (0.2, 0.4), (1e6, 1e6)),
    plots.Row('narrow', (0.3, 0.31), (1e6, 1e6)),
  ]
  left, _ = drawn(plots.comparison(rows), tmp_path)
  arrows = {tuple(c.get_offsets()[0]) for c in left.collections}
  order = [t.get_text() for t in left.get_yticklabels()]
  assert arrows == {(end, order.index('wide')) for end in left.get_xlim()}


def test_comparison_with_all_cells_and_what_chance_expects(tmp_path):
  table_n = np.linspace(0.2, 0.7, 40)
  rows = [
    plots.Row('DARTS', (0.4,) * 3, (1e6,) * 3, None, False, 'aaa', (9, 9, 9)),
    plots.Row('GDAS', (0.3, 0.3, 0.4), (1,) * 3, None, False, 'bba', (4, 4, 9)),
    plots.Row('largest', (0.45, 0.5), (1e6, 1e6), None, True, 'c', (None,)),
  ]  # fmt: skip
  fig = plots.comparison(rows, 't', 'PER', table_n, 0.35, 3)
  left, beside = drawn(fig, tmp_path)
  strip = left.collections[0].get_offsets()
  np.testing.assert_allclose(np.sort(strip[:, 0]), 100 * table_n)
  assert left.get_xlim()[0] < 20 and left.get_xlim()[1] > 70
  order = ['all 40 cells', 'GDAS', 'DARTS', 'largest']
  assert [t.get_text() for t in left.get_yticklabels()] == order
  assert (strip[:, 1] < -0.5).all()  # above the first row
  (line,) = [ln for ln in left.lines if 'exact' in ln.get_label()]
  np.testing.assert_allclose(line.get_xdata(), 35)
  assert 'random search of 3, exact expectation 35.0 %' in line.get_label()
  written = texts(left)
  # One cell found three times has no interval, and says so.
  assert '40.0 %, one cell' in written and '3\N{MULTIPLICATION SIGN}' in written
  assert written.count('2\N{MULTIPLICATION SIGN}') == 1
  assert not any('\N{PLUS-MINUS SIGN} 0.0' in text for text in written)
  assert texts(beside) == ['ranks among 40', '4, 4, 9', '9, 9, 9', '--']
  assert fig.get_suptitle() == 't'


def test_long_titles_take_several_lines(tmp_path):
  fig = plots.comparison(ROWS, 'many words ' * 28)
  drawn(fig, tmp_path)
  assert fig.get_suptitle().count('\n') == 2


@pytest.mark.parametrize(
  'rows',
  [
    [],
    [plots.Row('none', (), ())],
    [plots.Row('perfect', (0.0, 0.0), (1e6, 1e6), (0.0, 0.0))],
    [plots.Row('x' * 60, (1.7,), (1e9,))],
  ],
)
def test_comparison_at_the_edges(tmp_path, rows):
  drawn(plots.comparison(rows), tmp_path)


def test_rows_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='gdas: 2 PERs, 1 numbers of parameters'):
    plots.comparison([plots.Row('gdas', (0.1, 0.2), (1e6,))])
  with pytest.raises(ValueError, match='gdas: .* 3 WERs'):
    plots.comparison([plots.Row('gdas', (0.1,), (1e6,), (0.1,) * 3)])


def test_supernet_ranks_write_both_correlations(tmp_path):
  rng = np.random.default_rng(0)
  shared_n = rng.integers(50, 80, 40) / 100  # with equal values
  alone_n = 0.2 + 0.1 * shared_n + rng.integers(0, 5, 40) / 100
  shared_n[3], alone_n[5] = NAN, NAN
  sd_n = np.where(np.arange(40) % 2, 0.01, NAN)
  fig = plots.supernet_ranks(shared_n, alone_n, sd_n, found=7, title='t')
  (ax,) = drawn(fig, tmp_path)
  kept = np.delete(np.arange(40), [3, 5])
  x_n, y_n = shared_n[kept], alone_n[kept]
  (points,) = [c for c in ax.collections if len(c.get_offsets()) == len(kept)]
  np.testing.assert_allclose(
    points.get_offsets(), 100 * np.stack([x_n, y_n], axis=1)
  )
  (found,) = [
    c for c in ax.collections if c.get_label() == 'found by the search'
  ]
  np.testing.assert_allclose(
    found.get_offsets(), [[100 * shared_n[7], 100 * alone_n[7]]]
  )
  title, spearman, kendall = ax.get_title('left').splitlines()
  assert title == 't'
  rho = scipy.stats.spearmanr(x_n, y_n).statistic
  tau = scipy.stats.kendalltau(x_n, y_n).statistic
  assert abs(rho - tau) > 0.05  # or the next two would prove nothing
  assert spearman.startswith(f'Spearman {rho:.2f} [')
  assert kendall.startswith(f'Kendall {tau:.2f} [')
  assert kendall.endswith('; 38 networks, 2 left out')


def test_kendall_and_its_resamples_are_scipys(tmp_path):
  rng = np.random.default_rng(1)
  for n, levels in (12, 3), (30, 1000):
    x_n = rng.integers(0, levels, n) / levels
    y_n = np.round(x_n + rng.normal(0, 0.3, n), 3 if levels > 3 else 1)
    draws = np.random.default_rng(0)
    resamples = [draws.integers(n, size=n) for _ in range(1000)]
    taus = [scipy.stats.kendalltau(x_n[r], y_n[r]).statistic for r in resamples]
    taus = np.array(taus)
    low, high = np.quantile(taus[~np.isnan(taus)], [0.025, 0.975])
    tau = scipy.stats.kendalltau(x_n, y_n).statistic
    fig = plots.supernet_ranks(x_n, y_n)
    line = fig.axes[0].get_title('left').splitlines()[1]
    assert line == f'Kendall {tau:z.2f} [{low:z.2f}, {high:z.2f}]; {n} networks'


@pytest.mark.parametrize(
  'shared, alone, text',
  [
    ([], [], 'Kendall none; 0 networks'),
    ([0.5, NAN], [NAN, 0.5], 'Kendall none; 0 networks, 2 left out'),
    ([0.5] * 12, [0.3] * 12, 'Kendall none; 12 networks'),
    ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], 'Kendall -1.00, too few networks for'),
  ],
)
def test_supernet_ranks_at_the_edges(tmp_path, shared, alone, text):
  found = 0 if shared else None
  (ax,) = drawn(plots.supernet_ranks(shared, alone, found=found), tmp_path)
  assert text in ax.get_title('left')


def test_networks_of_a_supernet_that_do_not_fit():
  with pytest.raises(ValueError, match=r'\(2,\) and \(3,\)'):
    plots.supernet_ranks([0.1, 0.2], [0.1, 0.2, 0.3])
  with pytest.raises(ValueError, match=r'\(1,\) and \(2,\)'):
    plots.supernet_ranks([0.1, 0.2], [0.1, 0.2], sd_n=[0.1])
  with pytest.raises(ValueError, match='found=2; there are 2 networks'):
    plots.supernet_ranks([0.1, 0.2], [0.1, 0.2], found=2)
