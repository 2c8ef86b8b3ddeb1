"""Error rates as they fall: by epoch of training, by cost of a search."""

import itertools

import numpy as np
from matplotlib import ticker

from nasjax.plots import drawing


def learning_curves(val_per_pe, labels_p, groups_p, title='', metric='PER'):
  """Draws validation error rates by epoch for every member.

  Thin lines are members, coloured by group; a thick line is the median of a
  group over the members still running; a cross is where one stopped early.
  Members of one name are runs of one network: those that are best and worst at
  their best epochs, as the mean over their runs, are named with that error
  rate. Who has stopped early is not among them.

  Args:
    val_per_pe: fractions; NaN after a divergence.
    labels_p: names of the members, the same one for runs of one network.
    groups_p: names of their groups; sorted, so that a name keeps its colour.
    title: of the figure.
    metric: what the error rate is called.
  """
  val_per_pe = np.asarray(val_per_pe, np.float64)
  members, epochs = val_per_pe.shape
  if len(labels_p) != members or len(groups_p) != members:
    raise ValueError(
      f'{members} curves, {len(labels_p)} labels and {len(groups_p)} groups; '
      'want as many of each'
    )
  fig, ax = drawing.axes(8.4, 4.8)
  groups = sorted(set(groups_p))
  epoch_e = np.arange(1, epochs + 1)
  alpha = float(np.clip(12 / max(members, 1), 0.18, 0.7))
  marker = 'o' if epochs < 3 else None  # one point makes no line
  for g, group in enumerate(groups):
    colour = drawing.COLOURS[g % len(drawing.COLOURS)]
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
  _name_ends(ax, epochs, best_epochs(val_per_pe, labels_p))
  drawing.per_axis(ax, 100 * val_per_pe, f'validation {metric}')
  margin = 0.5 if epochs == 1 else 0.01 * epochs
  ax.set_xlim(1 - margin, epochs + margin)
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
  ax.set_xlabel('epoch')
  drawing.titled(ax, title)
  if groups:
    ax.legend(
      frameon=False, fontsize=9, loc='lower left', bbox_to_anchor=(0, 0)
    )
  return fig


def search_curves(
  curves,
  ylabel=None,
  optimum=None,
  log_cost=False,
  title='',
  metric='PER',
):
  """Draws what searches have found, by what it cost them.

  Of each searcher a line, the median over its repeats, in a band from the first
  to the third quartile where there are at most three. At a cost where a repeat
  has nothing yet (NaN) it is left out; a line begins where half of the repeats
  have something.

  Args:
    curves: `{name: (cost_c, values_rc)}`: costs in trained models, rising, and
      a fraction at each for every repeat.
    ylabel: what the fraction is; the test error of the best by validation if
      not given.
    optimum: the lowest that there is, a dashed line; None for none.
    log_cost: whether the axis of costs is logarithmic.
    title: of the figure.
    metric: what the error rate is called, where there is no `ylabel`.
  """
  ylabel = ylabel or f'test {metric} of the best by validation'
  fig, ax = drawing.axes(8.4, 4.8)
  shown = [] if optimum is None else [100 * optimum]
  most = 0
  for k, (name, (cost_c, values_rc)) in enumerate(curves.items()):
    cost_c = np.asarray(cost_c, np.float64)
    percent_rc = 100 * np.asarray(values_rc, np.float64)
    if percent_rc.ndim != 2 or cost_c.shape != percent_rc.shape[1:]:
      raise ValueError(
        f'{name}: costs of shape {cost_c.shape}, values of shape '
        f'{percent_rc.shape}; want [c] and [repeats, c]'
      )
    if np.any(np.diff(cost_c) < 0):
      raise ValueError(f'{name}: costs fall somewhere; sort them')
    repeats = len(percent_rc)
    some_c = 2 * (~np.isnan(percent_rc)).sum(axis=0) >= max(repeats, 1)
    if not some_c.any():
      continue
    low, median, high = np.nanquantile(
      percent_rc[:, some_c], (0.25, 0.5, 0.75), axis=0
    )
    cost_c = cost_c[some_c]
    most = max(most, cost_c[-1])
    colour = drawing.COLOURS[k % len(drawing.COLOURS)]
    # The last eight colours come back with another line.
    style = ('-', '--', ':')[k // len(drawing.COLOURS) % 3]
    # Steps: until the next cost, what was found is what there is.
    if len(curves) <= 3:
      ax.fill_between(
        cost_c, low, high, color=colour, alpha=0.15, lw=0, step='post'
      )
    ax.plot(
      cost_c,
      median,
      style,
      drawstyle='steps-post',
      color=colour,
      lw=1.8,
      marker='o' if len(cost_c) == 1 else None,
      label=f'{name.replace("_", " ")} ({repeats})',
    )
    # The first models say little, and would take all the height.
    late_c = cost_c >= 0.02 * cost_c[-1]
    shown += [low[late_c].min(), high[late_c].max()]
  if optimum is not None:
    ax.axhline(
      100 * optimum, color=drawing.QUIET, lw=1.2, ls=(0, (5, 3)), label='lowest'
    )
  _search_axes(ax, shown, most, log_cost)
  ax.set_ylabel(ylabel)
  drawing.titled(ax, title)
  if ax.get_legend_handles_labels()[0]:
    ax.legend(
      frameon=False,
      fontsize=9,
      title=f'median{" and quartiles" * (len(curves) <= 3)} (repeats)',
      title_fontsize=8,
    )
  return fig


def _search_axes(ax, shown, most, log_cost):
  """Gives both axes of a search their limits, marks and names."""
  if shown:
    low, high = min(shown), max(shown)
    margin = max(0.06 * (high - low), 0.02 * high, 0.01)
    ax.set_ylim(low - margin, high + margin)
  ax.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g%%'))
  if log_cost:
    drawing.costs_axis(ax, most or None)
    return
  if most:
    ax.set_xlim(-0.01 * most, 1.01 * most)
  ax.set_xlabel('cost in trained models')


def _mark_end(ax, epoch_e, percent_e, colour, epochs):
  """Puts a cross where a curve stops early."""
  ran = np.flatnonzero(~np.isnan(percent_e))
  if len(ran) and ran[-1] < epochs - 1:
    ax.plot(
      epoch_e[ran[-1]], percent_e[ran[-1]], 'x', color=colour, ms=6, mew=1.6
    )


def best_epochs(val_per_pe, labels_p):
  """Returns `{name: [error rate of the best epoch of each run]}`.

  Of those all of whose runs went on to the end.
  """
  found = {}
  for curve, label in zip(np.asarray(val_per_pe, np.float64), labels_p):
    ended = curve.size and not np.isnan(curve[-1])
    found.setdefault(label, []).append(np.nanmin(curve) if ended else np.nan)
  return {
    label: runs for label, runs in found.items() if not np.isnan(runs).any()
  }


def _name_ends(ax, epochs, found):
  """Writes the names of the best and of the worst at the right."""
  mean = {label: float(np.mean(runs)) for label, runs in found.items()}
  if not mean:
    return
  ends = min(mean, key=mean.get), max(mean, key=mean.get)
  for label in dict.fromkeys(ends):
    runs = len(found[label])
    told = f'{100 * mean[label]:.2f} %, best epoch'
    told += f', mean of {runs} runs' * (runs > 1)
    # A long vector stands below what it chooses.
    name = drawing.shortened(label.replace(' [[', '\n[['), 60)
    ax.annotate(
      f'{name}\n{told}',
      (epochs, 100 * mean[label]),
      xytext=(8, 0),
      textcoords='offset points',
      va='center',
      fontsize=8,
      color=drawing.INK,
      annotation_clip=False,
    )


def by_rate(groups, title, ylabel):
  """Draws error rates by learning rate, a line a group.

  Args:
    groups: `{label: [(learning rate, error rate), ..]}`; fractions, what is not
      finite is left out.
    title: of the figure.
    ylabel: what the error rate is.
  """
  fig, ax = drawing.axes(7.2, 4.2)
  shown = []
  for colour, (label, points) in zip(
    itertools.cycle(drawing.COLOURS), groups.items()
  ):
    lr_n, per_n = np.array(sorted(points)).T
    per_n = np.where(np.isfinite(per_n), 100 * per_n, np.nan)
    ax.plot(lr_n, per_n, color=colour, marker='o', ms=4, lw=1.5, label=label)
    shown.append(per_n)
  ax.set_xscale('log')
  drawing.per_axis(ax, np.concatenate([*shown, np.zeros(0)]), ylabel)
  ax.set_xlabel('learning rate (logarithmic)')
  drawing.titled(ax, title)
  drawing.legend_below(fig)
  return fig
