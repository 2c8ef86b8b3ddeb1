"""Rows, table and figure of the throughput race."""

import statistics

from matplotlib import ticker
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from nasjax import plots

COLOURS = dict(zip(('nasjax', 'loop', 'torch'), plots.COLOURS))
NAMES = {'nasjax': 'nasjax', 'loop': 'loop', 'torch': 'PyTorch'}
PANELS = {
  'seeds': 'copies of one cell, three data streams ({})',
  'signature': 'different cells of one signature ({})',
  'mixed': 'cells of all signatures',
}


def rows(answers, settings):
  """Returns what was measured, a dict for each race that has run.

  Args:
    answers: for each `throughput_cells.Race` the answers of its processes, in
      order (`throughput_worker.answer`).
    settings: batch, frames and steps, copied into the rows.

  Returns:
    list of dicts: engine, width, cells, population, members;
    seconds_per_member_step, the median of all timed passes of all rounds, and
    their extremes, fastest and slowest; flops_per_member_step and
    peak_flops_per_second, the best matrix product of all processes of all
    races; utilisation, the model's FLOP/s over that peak; times_torch, how
    often PyTorch's time is this one (None where PyTorch did not run);
    programs, and compile_s of the slowest of them, compiled in the first
    process; start_s, what that process spent beside timed passes, and
    cached_start_s, the least of later processes, which found the programs
    compiled (None in the first round); padding; rounds; device; settings.
  """
  raced = {race: found for race, found in answers.items() if found}
  median = {
    race: statistics.median(s for a in found for s in a['seconds'])
    for race, found in raced.items()
  }
  peak = max((a['peak'] for found in raced.values() for a in found), default=0)
  out = []
  for race, found in raced.items():
    every = [s for a in found for s in a['seconds']]
    torch = median.get(race._replace(engine='torch'))
    later = [a['start_s'] for a in found[1:]]
    flops = found[0]['flops']
    out.append(
      race._asdict()
      | {
        'seconds_per_member_step': median[race],
        'fastest': min(every),
        'slowest': max(every),
        'flops_per_member_step': flops,
        'peak_flops_per_second': peak,
        'utilisation': flops / median[race] / peak,
        'times_torch': torch / median[race] if torch else None,
        'programs': len(found[0]['compile_s']),
        'compile_s': max(found[0]['compile_s'], default=None),
        'start_s': found[0]['start_s'],
        'cached_start_s': min(later, default=None),
        'padding': found[0]['padding'],
        'rounds': len(found),
        'device': found[0]['device'],
      }
      | settings
    )
  return out


def _text(value, form):
  return '–' if value is None else form.format(value)


def show(rows):
  """Prints the rows as a table, with what its columns mean."""
  view = Table(title='a training step, per member')
  for column in ('width', 'cells', 'population', 'engine'):
    view.add_column(column)
  for column in (
    'members',
    'ms',
    'fastest\nto slowest',
    'of\npeak',
    'times\nPyTorch',
    'programs',
    'compile\ns',
    'start\ns',
    'again\ns',
  ):
    view.add_column(column, justify='right')
  kind = None
  for r in rows:
    before, kind = kind, (r['width'], r['cells'], r['population'], r['members'])
    if before not in (None, kind):
      view.add_section()
    view.add_row(
      *kind[:3],
      NAMES[r['engine']],
      str(r['members']),
      f'{1e3 * r["seconds_per_member_step"]:,.1f}',
      f'{1e3 * r["fastest"]:,.1f}–{1e3 * r["slowest"]:,.1f}',
      f'{r["utilisation"]:.0%}',
      _text(r['times_torch'], '{:.2f}'),
      str(r['programs'] or '–'),
      _text(r['compile_s'], '{:.1f}'),
      f'{r["start_s"]:.1f}',
      _text(r['cached_start_s'], '{:.1f}'),
    )
  first = rows[0]
  console = Console(markup=False, emoji=False, highlight=False, width=136)
  console.print(view)
  console.print(
    f'batch {first["batch"]}, {first["frames"]} frames, float32. ms: median '
    f'over {first["rounds"]} processes of passes of {first["steps"]} steps. '
    f'of peak: FLOPs of the model over '
    f'{first["peak_flops_per_second"] / 1e9:,.0f} GFLOP/s, the best matrix '
    'product of this run. compile s: the slowest program, without a cache. '
    'start s: process start, set-up, compilation, warm-up; again s: with the '
    'cache of an earlier process.'
  )


def draw(rows):
  """Returns the figure: single networks as bars, populations as lines."""
  singles = [r for r in rows if r['population'] == 'single']
  many = [r for r in rows if r['population'] != 'single']
  widths = sorted({r['width'] for r in singles})
  panels = sorted({(r['population'], r['cells'], r['width']) for r in many},
                  key=lambda p: (p[1], list(PANELS).index(p[0])))  # fmt: skip
  total = len(widths) + len(panels)
  columns = min(3, total)
  lines = -(-total // columns)
  figure = Figure(figsize=(4.3 * columns, 3.6 * lines), layout='constrained')
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax in axes[total:]:
    ax.remove()
  for ax, width in zip(axes, widths):
    _bars(ax, [r for r in singles if r['width'] == width])
    ax.set_title(f'one network, {width} width', loc='left', fontsize=10)
  for ax, panel in zip(axes[len(widths) :], panels):
    kind = ('population', 'cells', 'width')
    _lines(ax, [r for r in many if tuple(r[k] for k in kind) == panel])
    title = PANELS[panel[0]].format(panel[1])
    ax.set_title(f'{title},\n{panel[2]} width', loc='left', fontsize=10)
  first = rows[0]
  figure.suptitle(
    'time of a training step and member '
    f'(batch {first["batch"]}, {first["frames"]} frames, float32); '
    'less is better',
    fontsize=11,
  )
  for ax in axes[:total]:
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
    ax.set_ylabel('ms a member and step')
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
  return figure


def _bars(ax, rows):
  """Groups of bars, a group for each cell, labelled with their heights."""
  cells = list(dict.fromkeys(r['cells'] for r in rows))
  engines = [e for e in COLOURS if e in {r['engine'] for r in rows}]
  width = 0.8 / len(engines)
  for i, engine in enumerate(engines):
    own = {r['cells']: r for r in rows if r['engine'] == engine}
    places = [c + (i - (len(engines) - 1) / 2) * width for c in range(len(own))]
    bars = ax.bar(
      places,
      [1e3 * own[c]['seconds_per_member_step'] for c in cells if c in own],
      width,
      color=COLOURS[engine],
      label=NAMES[engine],
    )
    ax.bar_label(bars, fmt='{:,.0f}', fontsize=8)
  names = {'linear': '3 linear', 'conv': '3 conv, all skips'}
  ax.set_xticks(range(len(cells)), [names.get(c, c) for c in cells])


def _lines(ax, rows):
  """Milliseconds against members, a line for each engine, spread as bars."""
  for engine in COLOURS:
    own = sorted(
      (r for r in rows if r['engine'] == engine), key=lambda r: r['members']
    )
    if own:
      middle, low, high = (
        [1e3 * r[name] for r in own]
        for name in ('seconds_per_member_step', 'fastest', 'slowest')
      )
      ax.errorbar(
        [r['members'] for r in own],
        middle,
        [
          [m - v for m, v in zip(middle, low)],
          [v - m for m, v in zip(middle, high)],
        ],
        color=COLOURS[engine],
        marker='o',
        ms=4,
        capsize=2,
        label=NAMES[engine],
      )
  members = sorted({r['members'] for r in rows})
  ax.set_xscale('log')
  ax.xaxis.set_major_locator(ticker.FixedLocator(members))
  ax.xaxis.set_minor_locator(ticker.NullLocator())
  ax.xaxis.set_major_formatter(ticker.FormatStrFormatter('%d'))
  ax.set_xlabel('members of the population')
