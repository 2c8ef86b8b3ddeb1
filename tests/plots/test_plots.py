"""Figures show the numbers they were given, and are written whole."""

import subprocess
import sys

import numpy as np
import pytest

from nasjax import analysis, plots
from nasjax.plots import drawing

NAN = float('nan')


def colours(ax, *, thick):
  lines = [line for line in ax.lines if (line.get_linewidth() > 2) == thick]
  return [(line.get_color(), line) for line in lines]


def texts(ax):
  return '\n'.join(t.get_text() for t in ax.texts)


def curves(members, epochs, seed=0):
  rng = np.random.default_rng(seed)
  level = rng.uniform(0.1, 0.9, (members, 1))
  return level + (1 - level) * np.exp(-np.arange(epochs) / 5)


def test_dollars_in_names_are_no_formulas(tmp_path):
  names = ['$x', r'a$\nonsense$b', '$$']
  cost = np.array([1e3, 1e5, 1e7])
  fig = plots.pareto(
    cost, np.array([0.5, 0.4, 0.3]), np.arange(3), '$_$', names, None, r'$\x$'
  )
  plots.save(fig, tmp_path / 'x.svg')
  written = (tmp_path / 'x.svg').read_text()
  for text in ('$_$ -->', r'a$\nonsense$b -->', '$$ -->', r'<!-- $\x$ -->'):
    assert text in written
  # Numbers at axes are.
  fig, ax = drawing.axes(4, 3)
  ax.set_xscale('log')
  plots.save(fig, tmp_path / 'x.svg')
  assert r'<!-- $\mathdefault{10^{0}}$ -->' in (tmp_path / 'x.svg').read_text()


def test_learning_curves_draw_every_member(tmp_path):
  val_per_pe = curves(70, 40)
  val_per_pe[3, 7:] = NAN
  names = [f'cell {p}' for p in range(70)]
  groups = ['with' if p % 3 else 'without' for p in range(70)]
  fig = plots.learning_curves(val_per_pe, names, groups, 'title')
  (ax,) = fig.axes
  thin = [line for _, line in colours(ax, thick=False)]
  drawn = [line for line in thin if len(line.get_xdata()) == 40]
  assert len(drawn) == 70
  order = [p for p in range(70) if p % 3] + list(range(0, 70, 3))
  for line, p in zip(drawn, order):
    np.testing.assert_allclose(line.get_ydata(), 100 * val_per_pe[p])
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 41))
  (cross,) = [line for line in thin if len(line.get_xdata()) == 1]
  assert cross.get_xdata() == [7]
  assert cross.get_ydata() == pytest.approx([100 * val_per_pe[3, 6]])
  medians = colours(ax, thick=True)
  for (_, line), group in zip(medians, ('with', 'without')):
    rows = val_per_pe[np.array(groups) == group]
    np.testing.assert_allclose(
      line.get_ydata(), 100 * np.nanmedian(rows, axis=0)
    )
  legend = [t.get_text() for t in ax.get_legend().get_texts()]
  assert legend == ['with (46)', 'without (24)']
  last = val_per_pe[:, -1]
  assert names[np.nanargmin(last)] in texts(ax)
  assert names[np.nanargmax(last)] in texts(ax)
  assert ax.get_yscale() == 'log' and ax.get_title('left') == 'title'
  plots.save(fig, tmp_path / 'curves.png')
  assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_a_group_keeps_its_colour():
  first = plots.learning_curves(curves(2, 5), ['x', 'y'], ['a', 'b'])
  second = plots.learning_curves(curves(2, 5), ['x', 'y'], ['b', 'a'])
  by_name = [
    {line.get_label(): c for c, line in colours(fig.axes[0], thick=True)}
    for fig in (first, second)
  ]
  assert by_name[0] == by_name[1] and len(set(by_name[0].values())) == 2


@pytest.mark.parametrize(
  'val_per_pe',
  [
    np.zeros((0, 3)),
    np.full((2, 3), NAN),
    [[0.5], [0.6]],
    [[0.0, 0.0], [1.2, 3.5]],
    [[1.0, NAN, NAN], [NAN, NAN, NAN]],
  ],
)
def test_learning_curves_at_the_edges(tmp_path, val_per_pe):
  members = len(val_per_pe)
  fig = plots.learning_curves(
    val_per_pe, ['x' * 200] * members, ['g'] * members
  )
  plots.save(fig, tmp_path / 'edge.png')


def test_learning_curves_that_do_not_fit():
  with pytest.raises(ValueError, match='2 curves, 1 labels'):
    plots.learning_curves(curves(2, 3), ['a'], ['g', 'g'])


def test_pareto_marks_the_front(tmp_path):
  rng = np.random.default_rng(0)
  cost_n = 10 ** rng.uniform(6, 8, 60)
  per_n = rng.uniform(0.1, 1, 60)
  per_n[:3] = NAN
  front_n = analysis.pareto_front(cost_n, per_n)
  names = [f'cell-{n}' for n in range(60)]
  sd_n = np.where(np.arange(60) % 2, 0.01, NAN)
  fig = plots.pareto(cost_n, per_n, front_n, 'parameters', names, sd_n)
  (ax,) = fig.axes
  rest, front = (
    np.asarray(c.get_offsets())
    for c in ax.collections
    if c.get_label() in ('cells', 'Pareto front')
  )
  order = np.flatnonzero(front_n)[np.argsort(cost_n[front_n])]
  np.testing.assert_allclose(front[:, 0], cost_n[order])
  np.testing.assert_allclose(front[:, 1], 100 * per_n[order])
  assert len(rest) == 57 - len(order)
  listed = ax.texts[-1].get_text().splitlines()
  assert len(listed) == len(order)
  for line, n in zip(listed, order):
    assert line.endswith(f'{100 * per_n[n]:.1f} %  cell-{n}')
  assert ax.get_xscale() == 'log' and ax.get_xlabel() == 'parameters'
  plots.save(fig, tmp_path / 'pareto.png')


def test_costs_stand_beside_each_other(tmp_path):
  per_n = np.array([0.35, 0.3, 0.32, 0.4])
  costs = {'size': np.array([1e6, 2e6, 3e6, 4e6]), 'time': np.arange(4, 0, -1)}
  costs = {k: (c, analysis.pareto_front(c, per_n)) for k, c in costs.items()}
  sd_n = np.array([NAN, 0.05, NAN, NAN])
  fig = plots.paretos(costs, per_n, list('abcd'), sd_n, 'what they show')
  axes = fig.axes
  assert [ax.get_xlabel() for ax in axes] == ['size', 'time']
  # The axis is where the data are, with their deviations.
  low, high = axes[0].get_ylim()
  assert 20 < low < 25 and 40 < high < 45 and axes[1].get_ylim() == (low, high)
  lines = axes[0].texts[-1].get_text().splitlines()
  assert [line.split() for line in lines] == [
    ['1', '35.0', '%', 'a'], ['2', '30.0', '%', 'b'], ['3', '40.0', '%', 'd'],
    ['4', '32.0', '%', 'c'],
  ]  # fmt: skip
  # A cell has one number in both.
  numbers = [{t.get_text() for t in ax.texts[:3]} for ax in axes]
  assert {'1', '2'} <= numbers[0] and numbers[1] == {'2', '3', '4'}
  assert fig.get_suptitle() == 'what they show'
  plots.save(fig, tmp_path / 'costs.png')


def test_an_axis_says_whether_it_is_logarithmic():
  for values, label in (([20, 70], 'PER (logarithmic)'), ([20, 50], 'PER')):
    _, ax = drawing.axes(4, 3)
    drawing.per_axis(ax, np.array(values), 'PER')
    assert ax.get_ylabel() == label
    low, high = ax.get_ylim()
    assert 0.8 * values[0] < low < values[0] and values[1] < high


@pytest.mark.parametrize(
  'cost, per',
  [
    ([], []),
    ([1.0], [0.5]),
    ([0.0, 10.0], [0.5, 0.4]),
    ([1.0, 2.0], [NAN, NAN]),
    ([5.0] * 30, [0.3] * 30),
  ],
)
def test_pareto_at_the_edges(tmp_path, cost, per):
  front_n = analysis.pareto_front(cost, per)
  for names in (None, ['x' * 200] * len(cost)):
    fig = plots.pareto(cost, per, front_n, 'cost', names)
    assert fig.axes[0].get_xscale() == 'linear'
    plots.save(fig, tmp_path / 'edge.png')
  if len(cost) == 30:
    assert 'and 12 more' in texts(fig.axes[0])


def test_log_mel_shows_time_and_pitch(tmp_path):
  x_tf = np.random.default_rng(0).normal(size=(150, 80))
  fig = plots.log_mel(x_tf, frame_seconds=0.01, title='an utterance')
  (image,) = fig.axes[0].images
  np.testing.assert_array_equal(image.get_array(), x_tf.T)
  assert image.get_extent() == [0, 1.5, 0, 80] and image.origin == 'lower'
  plots.save(fig, tmp_path / 'mel.png')
  plots.save(plots.log_mel(np.zeros((3, 80))), tmp_path / 'silence.png')


def test_posteriors_show_what_was_heard(tmp_path):
  symbols = ['_', 'aa', 'b', 'k', 's']
  p_tv = np.full((6, 5), 0.01)
  p_tv[:, 0] = 0.96
  p_tv[1], p_tv[4] = [0.1, 0, 0, 0, 0.9], [0.2, 0.8, 0, 0, 0]
  fig = plots.posteriors(p_tv, symbols, ['s', 'aa'], ['s', 'aa', 'k'])
  (ax,) = fig.axes
  assert [t.get_text() for t in ax.get_yticklabels()] == ['s', 'aa', '_']
  (image,) = ax.images
  np.testing.assert_array_equal(image.get_array(), p_tv[:, [4, 1, 0]].T)
  note = fig.get_supxlabel()
  assert note == 'heard:  s aa\nspoken: s aa k'
  plots.save(fig, tmp_path / 'posteriors.png')
  silent = np.eye(5)[[0, 0]]
  plots.save(plots.posteriors(silent, symbols, []), tmp_path / 'silent.png')
  with pytest.raises(ValueError, match='5 probabilities'):
    plots.posteriors(p_tv, symbols[1:], [])
  # A mark stands on a circle; what no font has is told by its number.
  symbols = ['_', 'a', 'b', '\u0628', '\u064e']
  fig = plots.posteriors(p_tv, symbols, ['\u064e', '\u0bbe'])
  (ax,) = fig.axes
  assert ax.get_yticklabels()[0].get_text() == '\u25cc\u064e'
  assert fig.get_supxlabel() == 'heard:  \u25cc\u064e U+0BBE'


def test_save_is_whole_or_nothing(tmp_path):
  path = tmp_path / 'figure.png'
  path.write_bytes(b'old')
  fig = plots.pareto([1.0], [0.5], [True], 'cost')

  def fail(*args, **kwargs):
    path.with_name(args[0].name).write_bytes(b'half')
    raise OSError('No space left on device')

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fig, 'savefig', fail)
    with pytest.raises(OSError, match='No space'):
      plots.save(fig, path)
  assert path.read_bytes() == b'old'
  with pytest.raises(ValueError, match='xyz'):
    plots.save(fig, tmp_path / 'figure.xyz')
  assert [p.name for p in tmp_path.iterdir()] == ['figure.png']
  plots.save(fig, str(path))
  assert path.read_bytes().startswith(b'\x89PNG')


def test_no_window_system_is_woken():
  code = (
    'import sys; import nasjax.plots; '
    'sys.exit("matplotlib.pyplot" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
