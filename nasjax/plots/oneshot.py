"""One-shot searches: how they decide, and what their networks are worth."""

import re

import numpy as np
import scipy.special
from matplotlib import ticker

from nasjax.analysis import statistics
from nasjax.plots import drawing

_STYLES = ('-', '--', ':')


def decisions(result):
  """Returns how a search decided, the first arguments of `probabilities`.

  Args:
    result: of `oneshot.search.run`.

  Returns:
    edges, alpha_by_edge, stage_starts.
  """
  curves = result['curves']
  names = [stage['name'] for stage in result['search']['stages']]
  starts = {}
  for epoch, number in enumerate(curves['stage'], 1):
    starts.setdefault(names[number], epoch)
  edges = tuple((edge, tuple(ops)) for edge, ops in result['edges'])
  return edges, {edge: curves[f'alpha_{edge}'] for edge, _ in edges}, starts


def probabilities(
  edges, alpha_by_edge, stage_starts=None, ops=None, columns=3, title=''
):
  """Draws the probability of every candidate by epoch, a panel an edge.

  After Zheng et al., Efficient Neural Architecture Search for End-to-end Speech
  Recognition via Straight-Through Gradients, SLT 2021, figure 3b. A dotted line
  is 1 / candidates, where nothing is decided; above a panel stands the most
  probable candidate of the last epoch.

  Args:
    edges: (name, candidates) for each edge.
    alpha_by_edge: {name: architecture parameters [epochs, candidates]}; a row
      that is not finite, or None, is a gap.
    stage_starts: {name: first epoch, from 1} of stages; a line stands where one
      begins after the first epoch. Of a long warm-up, in which probabilities
      rest, only the end is shown.
    ops: all operations of the space, for the colours that `derived` has; None:
      the candidates as they come.
    columns: panels side by side.
    title: of the figure.

  Raises:
    ValueError: an edge has no curve, or one of another shape.
  """
  p_by_edge = {
    name: scipy.special.softmax(alpha_ek, axis=1)
    for name, alpha_ek in _checked(edges, alpha_by_edge).items()
  }
  looks = _looks(edges, ops)
  columns = max(1, min(columns, len(edges)))
  rows = -(-max(len(edges), 1) // columns)
  fig, axs = drawing.panels(10.2, 0.9 + 1.9 * rows, rows, columns, sharey=True)
  for ax, (name, candidates) in zip(axs.flat, edges):
    p_ek = p_by_edge[name]
    epochs = len(p_ek)
    ax.axhline(1 / len(candidates), color=drawing.QUIET, lw=0.9, ls=':')
    for candidate, p_e in zip(_shown(name, candidates), p_ek.T):
      colour, style = looks[candidate]
      ax.plot(
        np.arange(1, epochs + 1),
        p_e,
        style,
        color=colour,
        lw=1.8,
        marker='o' if epochs < 3 else None,  # one point makes no line
        ms=4,
        label=candidate,
      )
    # In the legend behind all candidates, those of skips among them.
    _mark_stages(ax, stage_starts, drawing.INK, name == edges[-1][0])
    text = _edge_name(name)
    if epochs and np.isfinite(p_ek[-1]).all():
      best = int(np.argmax(p_ek[-1]))
      text += f': {_shown(name, candidates)[best]}, {p_ek[-1, best]:.2f}'
    ax.set_title(text, loc='left', color=drawing.INK, fontsize=9)
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_locator(ticker.FixedLocator((0, 0.5, 1)))
    _epoch_axis(ax, epochs, stage_starts)
  for k, ax in enumerate(axs.flat):
    if k >= len(edges):
      ax.set_axis_off()
    elif k + columns >= len(edges):  # nothing stands below
      ax.set_xlabel('epoch')
  for ax in axs[:, 0]:
    ax.set_ylabel('probability')
  drawing.legend_below(fig)
  drawing.headed(fig, title)
  return fig


def entropies(edges, alpha_by_edge, stage_starts=None, title=''):
  """Draws how undecided every edge is, a row an edge, dark once it is decided.

  Args:
    edges, alpha_by_edge, stage_starts: as in `probabilities`.
    title: of the figure.

  Returns:
    a Figure; colours and the numbers of the last epoch are entropies in units
    of log candidates: 1 where all are equally probable, 0 where one is certain.

  Raises:
    ValueError: as in `probabilities`; or edges differ in their epochs.
  """
  alphas = _checked(edges, alpha_by_edge)
  lengths = {len(alpha_ek) for alpha_ek in alphas.values()} or {0}
  if len(lengths) > 1:
    raise ValueError(
      f'curves have {", ".join(map(str, sorted(lengths)))} epochs; want as '
      'many of every edge'
    )
  (epochs,) = lengths
  entropy_ne = np.full((len(edges), epochs), np.nan)
  for n, alpha_ek in enumerate(alphas.values()):
    p_ek = scipy.special.softmax(alpha_ek, axis=1)
    entropy_e = scipy.special.entr(p_ek).sum(axis=1)
    entropy_ne[n] = entropy_e / np.log(alpha_ek.shape[1])
  height = 1.2 + 0.34 * max(len(edges), 3)
  fig, ax = drawing.axes(8.4, height, grid=False)
  image = ax.imshow(
    entropy_ne,
    aspect='auto',
    cmap='YlGnBu_r',
    interpolation='nearest',
    vmin=0,
    vmax=1,
    extent=(0.5, max(epochs, 1) + 0.5, max(len(edges), 1) - 0.5, -0.5),
  )
  ax.hlines(np.arange(1, len(edges)) - 0.5, *ax.get_xlim(), color='w', lw=2)
  _mark_stages(ax, stage_starts, drawing.COLOURS[1])
  last_n = entropy_ne[:, -1] if epochs else ()
  texts = ['none' if np.isnan(last) else f'{last:.2f}' for last in last_n]
  drawing.beside(ax, ['at the end', *texts], range(-1, len(texts)))
  ax.set_yticks(range(len(edges)), [_edge_name(name) for name, _ in edges])
  ax.tick_params(axis='y', length=0)
  _epoch_axis(ax, epochs, stage_starts, 0.5)
  ax.set_xlabel('epoch')
  bar = fig.colorbar(image, ax=ax, pad=0.01, ticks=(0, 0.5, 1))
  bar.outline.set_visible(False)
  bar.ax.tick_params(labelsize=8, color=drawing.QUIET)
  bar.set_label('entropy / log candidates', fontsize=8.5, color=drawing.INK)
  if ax.get_legend_handles_labels()[0]:
    ax.legend(
      frameon=False, fontsize=8, loc='lower right', bbox_to_anchor=(1, 1)
    )
  drawing.headed(fig, title)
  return fig


def supernet_ranks(
  shared_n,
  alone_n,
  sd_n=None,
  found=None,
  xlabel=None,
  ylabel=None,
  title='',
  metric='PER',
):
  """Draws error rates with shared weights against those of networks alone.

  Above stand the correlations of the networks that have both, with bootstrap
  intervals (`analysis.rank_correlation`); Kendall's is tau-b.

  Args:
    shared_n: PER of networks with the weights of a supernet, fractions.
    alone_n: PER of the same networks by stand-alone training; one where either
      is NaN is left out, and counted.
    sd_n: standard deviation of alone_n over seeds, 0 or NaN for none.
    found: index of the network that the search found, set off; None for none.
    xlabel, ylabel: what the two are; error rates on validation with shared
      weights, and on test by stand-alone training if not given.
    title: of the figure.
    metric: what the error rate is called, where there is no label.

  Raises:
    ValueError: lengths differ, or there is no network `found`.
  """
  xlabel = xlabel or f'validation {metric} with shared weights'
  ylabel = ylabel or f'test {metric} by stand-alone training'
  shared_n, alone_n = statistics.pairs(shared_n, alone_n)
  both_n = np.isfinite(shared_n) & np.isfinite(alone_n)
  if found is not None and not 0 <= found < len(both_n):
    raise ValueError(f'found={found}; there are {len(both_n)} networks')
  x_n, y_n = 100 * shared_n[both_n], 100 * alone_n[both_n]
  fig, ax = drawing.axes(7.2, 5.2)
  if sd_n is not None:
    sd_n, _ = statistics.pairs(np.nan_to_num(sd_n), both_n)
    sd_n = 100 * sd_n[both_n]
    some = sd_n > 0
    ax.errorbar(
      x_n[some], y_n[some], sd_n[some], fmt='none', ecolor='#AAAAAA',
      elinewidth=1, capsize=2, zorder=1,
    )  # fmt: skip
  ax.scatter(
    x_n, y_n, s=30, color=drawing.COLOURS[0], alpha=0.65, lw=0, zorder=2
  )
  if found is not None and both_n[found]:
    ax.scatter(
      100 * shared_n[found],
      100 * alone_n[found],
      s=110,
      color=drawing.COLOURS[1],
      edgecolor='white',
      marker='D',
      zorder=3,
      label='found by the search',
    )
    ax.legend(
      frameon=False, fontsize=9, loc='lower right', bbox_to_anchor=(1, 1)
    )
  for axis, label in (ax.xaxis, xlabel), (ax.yaxis, ylabel):
    axis.set_major_formatter(ticker.FormatStrFormatter('%g%%'))
    axis.set_label_text(label)
  lines = [title] if title else []
  ranked = shared_n[both_n], alone_n[both_n]
  for name, correlation in (
    ('Spearman', statistics.rank_correlation(*ranked)),
    ('Kendall', statistics.kendall_correlation(*ranked)),
  ):
    lines.append(f'{name} {_written(correlation)}')
  lost = int((~both_n).sum())
  lines[-1] += f'; {len(x_n)} networks' + (f', {lost} left out' if lost else '')
  drawing.titled(ax, '\n'.join(lines))
  return fig


def _checked(edges, alpha_by_edge):
  """Returns {name: alpha_ek}, float64, NaN where a row is not finite."""
  found = {}
  for name, candidates in edges:
    if name not in alpha_by_edge:
      raise ValueError(
        f'no curve of edge {name}; there are {", ".join(alpha_by_edge)}'
      )
    alpha_ek = np.array(alpha_by_edge[name], np.float64)  # None becomes NaN
    if not alpha_ek.size:
      alpha_ek = alpha_ek.reshape(0, len(candidates))
    if alpha_ek.ndim != 2 or alpha_ek.shape[1] != len(candidates):
      raise ValueError(
        f'edge {name}: a curve of shape {alpha_ek.shape}; want [epochs, '
        f'{len(candidates)}], a column for each of {", ".join(candidates)}'
      )
    if len(candidates) < 2:
      raise ValueError(f'edge {name}: nothing to choose from {candidates}')
    alpha_ek[~np.isfinite(alpha_ek).all(axis=1)] = np.nan
    found[name] = alpha_ek
  return found


def _edge_name(name):
  """Returns what is read: 'node 1' for op1, 'skip t0 to t2' for s10."""
  if re.fullmatch(r'op\d+', name):
    return f'node {name[2:]}'
  if re.fullmatch(r's\d\d', name):
    return f'skip t{name[2]} to t{int(name[1]) + 1}'
  return name


def _shown(edge, candidates):
  """Returns candidates as they are read: a skip is present, not called s10."""
  if tuple(candidates) == ('absent', edge):
    return ('absent', 'present')
  return tuple(name.removeprefix('tdnn_') for name in candidates)


def _looks(edges, ops):
  """Returns {candidate as read: its colour and line}, one everywhere."""
  # The presence of skips leaves all colours to the operations.
  looks = {'absent': (drawing.BASELINE, '-'), 'present': (drawing.INK, '-')}
  names = [*_shown('', ops or ())]
  for edge, candidates in edges:
    names += _shown(edge, candidates)
  names = [name for name in dict.fromkeys(names) if name not in looks]
  count = len(drawing.COLOURS)
  for k, name in enumerate(names):
    style = _STYLES[k // count % len(_STYLES)]
    looks[name] = (drawing.COLOURS[k % count], style)
  return looks


def _mark_stages(ax, stage_starts, colour, named=True):
  """Draws a line where a stage begins: behind the epoch before its first."""
  for name, first in (stage_starts or {}).items():
    if first > 1:
      label = f'{name} begins' if named else None
      ax.axvline(first - 0.5, color=colour, lw=1.2, ls=(0, (4, 3)), label=label)


def _epoch_axis(ax, epochs, stage_starts, margin=0.2):
  """Gives an axis its epochs; a long first stage takes a third of it."""
  later = [first for first in (stage_starts or {}).values() if first > 1]
  left = 1
  if later:
    left = max(1, min(later) - max(3, (epochs - min(later) + 1) // 2))
  ax.set_xlim(left - margin, max(epochs, left) + margin)
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))


def _written(correlation):
  value, low, high, n = correlation
  if np.isnan(value):
    return 'none'
  if np.isnan(low):
    return f'{value:z.2f}, too few networks for an interval'
  return f'{value:z.2f} [{low:z.2f}, {high:z.2f}]'
