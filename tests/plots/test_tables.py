"""Figures of tables: rankings, correlations, contents, graphs, searches."""

import numpy as np
import pytest

from nasjax import analysis, plots, spaces

SPACE = spaces.NB_ASR
NAN = float('nan')


def drawn(fig, path):
  """Draws a figure, which must not warn; returns its axes."""
  plots.save(fig, path / 'figure.png', dpi=40)
  assert (path / 'figure.png').read_bytes().startswith(b'\x89PNG')
  return fig.axes


def labelled(ax):
  """Lines of an axes by their label."""
  return {
    line.get_label(): line
    for line in ax.lines
    if not line.get_label().startswith('_')
  }


def legend(ax):
  return [text.get_text() for text in ax.get_legend().get_texts()]


def test_search_curves_are_medians_and_quartiles(tmp_path):
  rng = np.random.default_rng(0)
  cost_c = np.arange(1, 41)
  values_rc = 0.2 + np.minimum.accumulate(rng.random((20, 40)), axis=1)
  values_rc[:11, 0] = NAN  # more than half have nothing at the first cost
  values_rc[:3, 1] = NAN
  curves = {'random': (cost_c, values_rc), 'other': (cost_c / 2, values_rc)}
  fig = plots.search_curves(curves, 'test PER', optimum=0.19, title='t')
  (ax,) = drawn(fig, tmp_path)
  lines = labelled(ax)
  assert list(lines) == ['random (20)', 'other (20)', 'lowest']
  line = lines['random (20)']
  np.testing.assert_array_equal(line.get_xdata(), cost_c[1:])
  expected = [
    100 * np.median([v for v in column if v == v])
    for column in values_rc.T[1:].tolist()
  ]
  np.testing.assert_allclose(line.get_ydata(), expected)
  assert line.get_drawstyle() == 'steps-post'
  assert set(lines['lowest'].get_ydata()) == {19.0}
  band = ax.collections[0].get_paths()[0].vertices
  inside = band[np.isclose(band[:, 0], 40), 1]
  low, high = 100 * np.quantile(values_rc[:, -1], [0.25, 0.75])
  assert inside.min() == pytest.approx(low)
  assert inside.max() == pytest.approx(high)
  assert ax.get_ylim()[0] < 19 and ax.get_ylabel() == 'test PER'


@pytest.mark.parametrize(
  'cost, values',
  [
    ([], np.zeros((3, 0))),
    ([1.0], [[0.5]]),
    ([1.0, 2.0], [[NAN, NAN]]),
    ([1.0, 1.0, 3.0], np.zeros((0, 3))),
    ([0.125, 10], [[0.0, 0.0]] * 4),
  ],
)
def test_search_curves_at_the_edges(tmp_path, cost, values):
  for log in (False, True):
    drawn(plots.search_curves({'a': (cost, values)}, log_cost=log), tmp_path)
  drawn(plots.search_curves({}), tmp_path)


def test_search_curves_that_do_not_fit():
  with pytest.raises(ValueError, match=r'gcn: .*\(2,\).*\(3, 4\)'):
    plots.search_curves({'gcn': ([1, 2], np.zeros((3, 4)))})
  with pytest.raises(ValueError, match='gcn: costs fall'):
    plots.search_curves({'gcn': ([2, 1], np.zeros((3, 2)))})


def test_a_forest_of_searches(tmp_path):
  rng = np.random.default_rng(0)
  cost_k = np.array([1.0, 2, 10, 50, 150])
  reference_k = np.array([0.5, 0.4, 0.3, 0.25, 0.24])
  shifts = {'good': -0.02, 'so_so': 0.0, 'bad': 0.01}
  found = {
    name: reference_k + shift + rng.normal(0, 0.004, (50, 5))
    for name, shift in shifts.items()
  }
  found['so_so'][:, -1] += 0.24 - found['so_so'][:, -1].mean()
  verdicts = analysis.judge(
    {name: test_rk[:, -1] for name, test_rk in found.items()}, 0.24
  )
  means = {name: test_rk.mean(axis=0) for name, test_rk in found.items()}
  means['good'][:2] = NAN
  fig = plots.search_forest(
    verdicts, cost_k, means | {'random': reference_k}, reference_k,
    oracle=0.21, title='good beats it',
  )  # fmt: skip
  left, right = drawn(fig, tmp_path)
  assert [t.get_text() for t in left.get_yticklabels()] == [
    'good', 'so so', 'bad'
  ]  # fmt: skip
  dots = [line for line in left.lines if line.get_marker() == 'o']
  for dot, name in zip(dots, ['good', 'so_so', 'bad']):
    assert dot.get_xdata()[0] == pytest.approx(100 * verdicts[name].difference)
    # Hollow where it is not significant.
    assert (dot.get_markerfacecolor() == 'white') == (name == 'so_so')
  assert labelled(left)['oracle, 21.00 %'].get_xdata()[0] == pytest.approx(-3)
  assert '24.00 % exactly' in left.get_xlabel()
  curves = [
    line.get_ydata() for line in right.lines if len(line.get_ydata()) == 5
  ]
  assert len(curves) == 4  # the oracle, too, but not random search
  np.testing.assert_allclose(
    curves[2], 100 * (means['bad'] - reference_k), atol=1e-9
  )
  assert fig.get_suptitle() == 'good beats it'


def test_a_forest_at_the_edges(tmp_path):
  one = np.array([0.3])
  few = analysis.judge({'a': [0.2]}, 0.3)
  for verdicts, means in (({}, {'random': one}), (few, {'a': one - 0.1})):
    for cost_k in ([1.0], [0.5]):
      drawn(plots.search_forest(verdicts, cost_k, means, one), tmp_path)


def test_distributions_count_every_cell(tmp_path):
  rng = np.random.default_rng(0)
  per_n = np.append(rng.uniform(0.2, 1.1, 200), [NAN, NAN])
  fig = plots.distributions({'e5': per_n, 'e40': per_n[:50]}, title='t')
  left, right = drawn(fig, tmp_path)
  assert legend(right) == ['e5 (200, 2 failed)', 'e40 (50)']
  heights = [patch.get_height() for patch in left.patches[:40]]
  assert sum(heights) == 200
  x, y = labelled(right)['e5 (200, 2 failed)'].get_data()
  for percent in (30.0, 65.0, 109.0):
    share = 100 * (100 * per_n[:200] <= percent).mean()
    assert y[np.searchsorted(x, percent, 'right') - 1] == pytest.approx(share)


@pytest.mark.parametrize('per', [[], [0.3, NAN], [0.0, 0.0]])
def test_rates_at_the_edges(tmp_path, per):
  drawn(plots.distributions({'a': per}), tmp_path)
  drawn(plots.agreement(per, per, top=0.3), tmp_path)
  drawn(plots.seed_ranges(np.reshape(per, (-1, 1))), tmp_path)
  ranked = {'linear': analysis.ranking(np.zeros(len(per)), per)}
  drawn(plots.rankings(per, ranked), tmp_path)


def test_agreement_draws_rates_and_ranks(tmp_path):
  rng = np.random.default_rng(0)
  x_n = rng.uniform(0.2, 0.9, 40)
  y_n = x_n + 0.05 * rng.random(40)
  x_n[3], y_n[4] = NAN, NAN
  fig = plots.agreement(x_n, y_n, 'here', 'there', top=0.25)
  left, right = drawn(fig, tmp_path)
  kept = np.delete(np.arange(40), [3, 4])
  rest, best = (np.asarray(c.get_offsets()) for c in left.collections)
  assert len(best) == round(0.25 * 38) and len(rest) + len(best) == 38
  assert best[:, 0].max() < rest[:, 0].min()
  both = np.concatenate([rest, best])
  both = both[np.argsort(both[:, 0])]
  order = kept[np.argsort(x_n[kept])]
  np.testing.assert_allclose(both, 100 * np.stack([x_n[order], y_n[order]], 1))
  ranks = np.concatenate([c.get_offsets() for c in right.collections])
  assert sorted(ranks[:, 0]) == sorted(ranks[:, 1]) == list(range(1, 39))
  assert right.get_xlabel() == 'rank by here'
  assert legend(left) == ['best 10 by here']


def test_correlations_are_written_with_their_intervals(tmp_path):
  found = {
    'all': analysis.Correlation(0.8, 0.7, 0.85, 100),
    'few': analysis.Correlation(-1.0, NAN, NAN, 3),
    'none': analysis.Correlation(NAN, NAN, NAN, 0),
  }
  fig = plots.correlations(found, ceiling=found['all'], title='t')
  (ax,) = drawn(fig, tmp_path)
  assert [t.get_text() for t in ax.texts] == [
    '0.80 [0.70, 0.85], 100 cells',
    '-1.00, too few cells (3)',
    'none, 0 cells',
  ]
  assert [t.get_text() for t in ax.get_yticklabels()] == list(found)
  assert legend(ax) == ['seed with seed']
  low, high = ax.get_xlim()
  assert low < -1 and high > 1
  drawn(plots.correlations({}), tmp_path)
  (ax,) = drawn(plots.correlations(found, ceiling=found['none']), tmp_path)
  assert ax.get_legend() is None


def test_seed_ranges_reach_from_lowest_to_highest(tmp_path):
  value_ns = np.array([[0.5, 0.6, 0.4], [0.2, 0.3, 0.25], [NAN, 0.1, 0.1]])
  (ax,) = drawn(plots.seed_ranges(value_ns), tmp_path)
  ends = [
    segment[:, 1].tolist() for segment in ax.collections[0].get_segments()
  ]
  assert np.allclose(ends, [[20, 30], [40, 60]])
  np.testing.assert_allclose(ax.lines[0].get_ydata(), [25, 50])


def test_composition_draws_shares(tmp_path):
  archs = SPACE.enumerate()[::501]
  groups = {
    'best': analysis.composition(SPACE, archs[:9]),
    'worst': analysis.composition(SPACE, archs[9:]),
  }
  ops, skips, number = drawn(plots.composition(groups, 't'), tmp_path)
  labels = [t.get_text() for t in ops.get_yticklabels()]
  assert labels[:3] == ['node 1, best', 'node 1, worst', 'node 2, best']
  ends = {}
  for bar in ops.patches:
    row = round(bar.get_y(), 3)
    ends[row] = ends.get(row, 0) + bar.get_width()
  assert len(ends) == 6 and np.allclose(list(ends.values()), 100)
  assert legend(ops) == list(SPACE.ops)
  dots = [line for line in skips.lines if line.get_marker() == 'o']
  shares = [100 * e.value for e in groups['best'].skips.values()]
  np.testing.assert_allclose([d.get_xdata()[0] for d in dots[:6]], shares)
  assert [t.get_text() for t in skips.get_yticklabels()][0] == 't0 to t1'
  assert legend(number) == ['best (9)', f'worst ({len(archs) - 9})']
  drawn(plots.composition({}), tmp_path)
  nobody = analysis.composition(SPACE, archs[:0])
  drawn(plots.composition({'nobody': nobody}), tmp_path)


def test_rankings_have_a_panel_a_kind_and_a_line_a_count(tmp_path):
  archs = SPACE.enumerate()[::97]
  per_n = np.random.default_rng(0).uniform(0.2, 1, len(archs))
  per_n[:5] = NAN
  ranked = {
    kind: analysis.ranking(count_n, per_n, repeats=20)
    for kind, count_n in analysis.counts(SPACE, archs).items()
  }
  axes = drawn(plots.rankings(per_n, ranked, title='t'), tmp_path)
  assert len(axes) == 4
  for ax, (kind, found) in zip(axes, ranked.items()):
    assert ax.get_title('left').startswith(f'{kind}: correlation ')
    lines = list(labelled(ax).values())
    assert len(lines) == len(found.levels)
    for line, level in zip(lines, found.levels):
      np.testing.assert_allclose(line.get_ydata(), 100 * per_n[level.rows])
      assert (np.diff(line.get_xdata()) > 0).all()
      middle = np.interp(50, *line.get_data())
      assert middle == pytest.approx(100 * level.median.value)


def test_cells_show_each_operation_and_each_skip(tmp_path):
  archs = [
    [[0, 1], [5, 0, 1], [3, 1, 0, 1]],
    [[4, 0], [1, 0, 0], [2, 0, 0, 0]],
    [[0, 1], [1, 1, 1], [2, 1, 1, 1]],
    [[5, 0], [5, 0, 0], [5, 0, 0, 0]],
  ]
  fig = plots.cells(SPACE, archs, ['a', 'b', 'c', 'd'], columns=3)
  axes = drawn(fig, tmp_path)
  assert [ax.get_title('left') for ax in axes] == ['a', 'b', 'c', 'd', '', '']
  for ax, arch in zip(axes, archs):
    texts = [t.get_text() for t in ax.texts]
    assert texts[:4] == ['t0', 't1', 't2', 't3']
    assert tuple(texts[4:]) == SPACE.main_ops(SPACE.parse(arch))
    # Edges of operations are given by their ends, skips by their path.
    arcs = [
      patch._path_original.vertices
      for patch in ax.patches
      if getattr(patch, '_path_original', None) is not None
    ]
    skips = {
      (m, n + 1) for n, m in np.argwhere(SPACE.skip_matrix(arch) > 0).tolist()
    }
    ends = {(round(v[:, 0].min()), round(v[:, 0].max())) for v in arcs}
    assert ends == skips and len(arcs) == len(skips)
  drawn(plots.cells(SPACE, SPACE.enumerate()[:0], []), tmp_path)
  with pytest.raises(ValueError, match='4 cells, 1 titles'):
    plots.cells(SPACE, archs, ['a'])


def test_a_cell_has_the_key_to_its_vector(tmp_path):
  arch = [[0, 1], [5, 1, 0], [4, 1, 0, 1]]
  fig = plots.cell(SPACE, arch)
  (ax,) = drawn(fig, tmp_path)
  assert fig.get_suptitle() == SPACE.names(arch)
  texts = {t.get_text(): t for t in ax.texts}
  for part, fields, formula, x in (
    ('[0, 1]', '[op1, s00]', 't1 = linear(t0) + t0', 0.5),
    ('[5, 1, 0]', '[op2, s10, s11]', 't2 = t0', 1.5),
    ('[4, 1, 0, 1]', '[op3, s20, s21, s22]', 't3 = conv7d2(t2) + t0 + t2', 2.5),
  ):  # fmt: skip
    assert {texts[t].get_position()[0] for t in (part, fields, formula)} == {x}
  assert 'op: 0 linear, 1 conv5, 2 conv5d2, 3 conv7, 4 conv7d2, 5 zero' in texts
  # An arc a decision, those that are not there dashed; their names beside.
  arcs = {
    tuple(round(x) for x in patch._path_original.vertices[[0, -1], 0]): patch
    for patch in ax.patches
    if getattr(patch, '_path_original', None) is not None
  }
  there = {ends for ends, arc in arcs.items() if arc.get_linestyle() == '-'}
  assert there == {(0, 1), (0, 2), (0, 3), (2, 3)} and len(arcs) == 6
  assert texts['s21'].get_color() != texts['s20'].get_color()
  fig = plots.cell(SPACE, [[5, 0], [5, 0, 0], [5, 0, 0, 0]], 'none')
  (ax,) = drawn(fig, tmp_path)
  assert 't3 = 0' in {t.get_text() for t in ax.texts}
  assert fig.get_suptitle() == 'none'
  drawn(plots.cell(spaces.ST_NAS, spaces.TDNN_D), tmp_path)
  plain = spaces.Space('plain', {'depth': ('1', '2'), 'kernel': ('3',)})
  drawn(plots.cell(plain, [1, 0]), tmp_path)


def test_search_space_shows_all_operations(tmp_path):
  (ax,) = drawn(plots.search_space(SPACE, 't'), tmp_path)
  boxes = [t.get_text() for t in ax.texts if '\n' in t.get_text()]
  assert boxes == ['\n'.join(SPACE.ops)] * 3
