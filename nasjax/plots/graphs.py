"""Cells drawn as graphs."""

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from nasjax.plots import drawing

_BOX = 0.3  # half the width of an operation's box


def cell(space, arch, title=''):
  """Draws one cell; see `cells`."""
  return cells(space, [arch], [title], columns=1)


def cells(space, archs, titles, columns=3):
  """Draws cells: tensors from left to right, operations between, skips above.

  t0 is the input of the cell; the last tensor, after a layer norm, its output.
  A zero operation lets nothing through: its edge is broken.

  Args:
    space: the search space.
    archs: cells, in any form that `space.parse_all` reads.
    titles: one a cell.
    columns: how many stand side by side.
  """
  archs_nd = space.parse_all(archs)
  if len(titles) != len(archs_nd):
    raise ValueError(f'{len(archs_nd)} cells, {len(titles)} titles')
  columns = max(1, min(columns, len(archs_nd)))
  rows = -(-max(len(archs_nd), 1) // columns)
  width = 0.5 + 0.95 * (space.nodes + 0.6)
  fig, axs = drawing.panels(width * columns, 2.2 * rows, rows, columns, False)
  for ax in axs.flat:
    ax.set_axis_off()
  skip_pnm = space.skip_matrices(archs_nd)
  for ax, arch_d, skip_nm, title in zip(axs.flat, archs_nd, skip_pnm, titles):
    _chain(ax, space)
    for n, op in enumerate(space.main_ops(arch_d)):
      colour = drawing.COLOURS[space.ops.index(op) % len(drawing.COLOURS)]
      _operation(ax, n, op, colour, through=op != 'zero')
      for m in range(n + 1):
        if skip_nm[n, m]:
          _skip(ax, m, n + 1)
    ax.set_title(title, loc='left', color=drawing.INK, fontsize=9)
  return fig


def search_space(space, title=''):
  """Draws what a cell of a space may be: all operations, all skips, dashed."""
  fig, ax = drawing.axes(1.2 + 1.9 * (space.nodes + 0.6), 4.2, grid=False)
  ax.set_axis_off()
  _chain(ax, space)
  names = '\n'.join(space.ops)
  half = 0.05 + 0.03 * len(space.ops)
  for n, count in enumerate(space.skips):
    _operation(ax, n, names, drawing.COLOURS[0], True, half)
    for m in range(count):
      _skip(ax, m, n + 1, ls=(0, (4, 3)))
  ax.set_title(title, loc='left', color=drawing.INK, fontsize=11)
  return fig


def _chain(ax, space):
  """Draws the tensors, and makes room for what joins them."""
  for k in range(space.nodes + 1):
    ax.text(
      k,
      0,
      f't{k}',
      ha='center',
      va='center',
      fontsize=9,
      color='white',
      zorder=4,
      bbox={'boxstyle': 'circle,pad=0.25', 'fc': drawing.INK, 'ec': 'white'},
    )
  ax.set_xlim(-0.35, space.nodes + 0.35)
  ax.set_ylim(-0.55, _height(0, space.nodes) * 0.78 + 0.08)


def _operation(ax, n, text, colour, through, half=0.125):
  """Draws the edge from tensor n, and what is on it in a box of that size."""
  ax.add_patch(
    FancyArrowPatch(
      (n + 0.13, 0),
      (n + 0.87, 0),
      arrowstyle='-|>' if through else '-',
      mutation_scale=9,
      color=colour if through else drawing.QUIET,
      ls='-' if through else ':',
      lw=1.4,
      shrinkA=0,
      shrinkB=0,
      zorder=1,
    )
  )
  ax.add_patch(
    FancyBboxPatch(
      (n + 0.5 - _BOX + 0.05, -half),
      2 * _BOX - 0.1,
      2 * half,
      boxstyle='round,pad=0,rounding_size=0.05',
      fc='white',
      ec=colour if through else drawing.QUIET,
      lw=1.2,
      zorder=2,
    )
  )
  ax.text(
    n + 0.5,
    0,
    text,
    ha='center',
    va='center',
    fontsize=7.5,
    color=colour if through else drawing.QUIET,
    zorder=3,
  )


def _height(m, n):
  """Height of the control points of a skip's arc; longer ones pass above."""
  return 0.32 + 0.36 * (n - m)


def _skip(ax, m, n, ls='-'):
  """Draws the skip from tensor m to tensor n as an arc."""
  height = _height(m, n)
  # Each tensor's arcs leave to its right and arrive at its left.
  start, end = m + 0.05, n - 0.05
  path = Path(
    [(start, 0.14), (start + 0.12, height), (end - 0.12, height), (end, 0.14)],
    [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
  )
  ax.add_patch(
    FancyArrowPatch(
      path=path,
      arrowstyle='-|>',
      mutation_scale=8,
      color=drawing.INK,
      lw=1.1,
      ls=ls,
      zorder=1,
    )
  )
