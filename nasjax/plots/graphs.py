"""Architectures drawn: cells and chains of time-delay layers as graphs.

Those of spaces that are no chains are drawn as what they choose.
"""

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from nasjax.plots import drawing
from nasjax.spaces import Chain
from nasjax.spaces.st_nas import CANDIDATES

_BOX = 0.3  # half the width of an operation's box
_SPACING = 0.055  # from frame to frame in a time-delay layer's box


def cells(space, archs, titles, columns=3):
  """Draws cells: tensors from left to right, operations between, skips above.

  t0 is the input of the cell; the last tensor, after a layer norm, its output.
  A zero operation lets nothing through: its edge is broken. Of a space that is
  no chain, each decision is a box that holds the choice.

  Args:
    space: the search space.
    archs: cells, in any form that `space.parse_all` reads.
    titles: one a cell.
    columns: how many stand side by side.
  """
  archs_nd = space.parse_all(archs)
  if len(titles) != len(archs_nd):
    raise ValueError(f'{len(archs_nd)} cells, {len(titles)} titles')
  if not isinstance(space, Chain):
    chosen = [
      [(names[digit],) for names, digit in zip(space.choices, arch_d)]
      for arch_d in archs_nd
    ]
    return _choices(space, chosen, titles, columns)
  columns = max(1, min(columns, len(archs_nd)))
  rows = -(-max(len(archs_nd), 1) // columns)
  width = 0.5 + 0.95 * (space.nodes + 0.6)
  fig, axs = drawing.panels(width * columns, 2.2 * rows, rows, columns, False)
  for ax in axs.flat:
    ax.set_axis_off()
  skip_pnm = space.skip_matrices(archs_nd)
  for ax, arch_d, skip_nm, title in zip(axs.flat, archs_nd, skip_pnm, titles):
    tensors(ax, space)
    for n, op in enumerate(space.main_ops(arch_d)):
      operation(ax, n, op, colour_of(space, op), through=op != 'zero')
      for m in range(n + 1):
        if skip_nm[n, m]:
          skip(ax, m, n + 1)
    ax.set_title(title, loc='left', color=drawing.INK, fontsize=9)
  return fig


def derived(space, archs, labels, before=3, subsampling=3, title=''):
  """Draws what searches ended with: `cells`, or chains of time-delay layers.

  A chain is a row, from features to logits. Dots in a block are the frames it
  reads, counted in frames of its own input; under each layer stands its
  receptive field, all frames of the features that one of its outputs sees.

  Args:
    space: the search space.
    archs: architectures, in any form that `space.parse_all` reads.
    labels: one an architecture.
    before: blocks before the subsampling layer, as `macros.Tdnn` has it; not
      used for cells.
    subsampling: taps and stride of that layer; not used for cells.
    title: of the figure.

  Raises:
    ValueError: bad architectures, or not as many labels.
  """
  if not isinstance(space, Chain) or not set(space.ops) <= set(CANDIDATES):
    fig = cells(space, archs, labels)
  else:
    fig = _chains(space, space.parse_all(archs), labels, before, subsampling)
  drawing.headed(fig, title)
  return fig


def search_space(space, title=''):
  """Draws what a cell of a space may be: all operations, all skips, dashed.

  Of a space that is no chain, all choices of each decision.
  """
  if not isinstance(space, Chain):
    return _choices(space, [space.choices], [title], 1)
  fig, ax = drawing.axes(1.2 + 1.9 * (space.nodes + 0.6), 4.2, grid=False)
  ax.set_axis_off()
  tensors(ax, space)
  names = '\n'.join(space.ops)
  half = 0.05 + 0.03 * len(space.ops)
  for n, count in enumerate(space.skips):
    operation(ax, n, names, drawing.COLOURS[0], True, half)
    for m in range(count):
      skip(ax, m, n + 1, ls=(0, (4, 3)))
  drawing.titled(ax, title)
  return fig


def _choices(space, choices, titles, columns):
  """Draws the decisions of a space, a panel for each of some `choices`.

  Of every decision these have a tuple of names, written in its box.
  """
  line = min(len(space.fields), 6)
  lines = -(-len(space.fields) // line)
  most = max((len(names) for one in choices for names in one), default=1)
  most = min(most, 12)
  columns = max(1, min(columns, len(choices), 12 // line))
  rows = -(-max(len(choices), 1) // columns)
  half = 0.12 + 0.09 * most
  step = 2 * half + 0.4
  fig, axs = drawing.panels(
    (0.2 + 1.5 * line) * columns,
    (0.5 + step * lines) * rows,
    rows,
    columns,
    grid=False,
  )
  for ax in axs.flat:
    ax.set_axis_off()
  for ax, one, title in zip(axs.flat, choices, titles):
    for d, (field, names) in enumerate(zip(space.fields, one)):
      x, y = d % line, d // line * step
      colour = drawing.COLOURS[0]
      if len(names) == 1:
        number = space.choices[d].index(names[0])
        colour = drawing.COLOURS[number % len(drawing.COLOURS)]
      _box(ax, x, y, colour, half)
      if len(names) > most:
        names = (*names[: most - 1], f'and {len(names) - most + 1} more')
      text = '\n'.join(drawing.shortened(name, 18) for name in names)
      _word(ax, x, y, text, colour)
      field = drawing.shortened(field, 20)
      _word(ax, x, y - half - 0.14, field, drawing.QUIET)
    ax.set_xlim(-0.55, line - 0.45)
    ax.set_ylim(lines * step - half - 0.25, -half - 0.3)
    drawing.titled(ax, title)
  return fig


def tensors(ax, space):
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
  ax.set_ylim(-0.55, height(0, space.nodes) * 0.78 + 0.08)


def operation(ax, n, text, colour, through, half=0.125):
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


def height(m, n):
  """Height of the control points of a skip's arc; longer ones pass above."""
  return 0.32 + 0.36 * (n - m)


def skip(ax, m, n, ls='-', ink=drawing.INK):
  """Draws the skip from tensor m to tensor n as an arc."""
  top = height(m, n)
  # Each tensor's arcs leave to its right and arrive at its left.
  start, end = m + 0.05, n - 0.05
  path = Path(
    [(start, 0.14), (start + 0.12, top), (end - 0.12, top), (end, 0.14)],
    [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
  )
  ax.add_patch(
    FancyArrowPatch(
      path=path,
      arrowstyle='-|>',
      mutation_scale=8,
      color=ink,
      lw=1.1,
      ls=ls,
      zorder=1,
    )
  )


def receptive_fields(blocks, before, subsampling):
  """Returns how many frames of the features each layer's output sees.

  Args:
    blocks: (half context, dilation) of each block.
    before: blocks before the subsampling layer.
    subsampling: taps and stride of that layer.

  Returns:
    a list of int, one a layer, the subsampling layer among them.
  """
  seen, stride, fields = 1, 1, []
  for n, (context, dilation) in enumerate(blocks):
    if n == before:
      seen += subsampling - 1
      stride = subsampling
      fields.append(seen)
    seen += 2 * context * dilation * stride
    fields.append(seen)
  if before == len(blocks):
    fields.append(seen + subsampling - 1)
  return fields


def _chains(space, archs_nd, labels, before, subsampling):
  """Draws one time-delay network a row."""
  if len(labels) != len(archs_nd):
    raise ValueError(f'{len(archs_nd)} networks, {len(labels)} labels')
  if not 0 <= before <= space.nodes:
    raise ValueError(f'before={before}; {space.name} has {space.nodes} blocks')
  if subsampling < 1:
    raise ValueError(f'subsampling={subsampling}; want at least 1, for none')
  rows = max(len(archs_nd), 1)
  fig, ax = drawing.axes(10.2, 0.5 + 1.15 * rows, grid=False)
  ax.set_axis_off()
  for row, (arch_d, label) in enumerate(zip(archs_nd, labels)):
    names = space.main_ops(arch_d)
    blocks = [CANDIDATES[name] for name in names]
    fields = receptive_fields(blocks, before, subsampling)
    layers = [
      (name.removeprefix('tdnn_'), colour_of(space, name), _shifts(*block))
      for name, block in zip(names, blocks)
    ]
    first = -((subsampling - 1) // 2)
    read = range(first, first + subsampling)
    layers.insert(before, (f'subsample {subsampling}', drawing.INK, read))
    _row(ax, row, label, layers, fields)
  ax.set_xlim(-0.5, space.nodes + 2.45)
  ax.set_ylim(rows - 0.5, -0.6)
  return fig


def _shifts(context, dilation):
  """Returns the frames that a block reads, counted from the one it writes."""
  return [dilation * k for k in range(-context, context + 1)]


def colour_of(space, op):
  return drawing.COLOURS[space.ops.index(op) % len(drawing.COLOURS)]


def _row(ax, row, label, layers, fields):
  """Draws one network: its label above, its layers from left to right."""
  ax.text(-0.45, row - 0.45, label, fontsize=9, color=drawing.INK, va='center')
  _word(ax, 0, row, 'features', drawing.INK)
  _word(ax, 0, row + 0.36, 'receptive field', drawing.QUIET)
  for k, ((name, colour, read), frames) in enumerate(zip(layers, fields), 1):
    _arrow(ax, k - 0.6, k - 0.42, row)
    _box(ax, k, row, colour)
    _word(ax, k, row - 0.1, name, colour)
    for shift in range(read[0], read[-1] + 1):
      taken = shift in read
      ax.plot(
        k + _SPACING * shift,
        row + 0.12,
        'o',
        ms=3.6 if taken else 1.6,
        color=colour if taken else '#BBBBBB',
        mew=0,
      )
    _word(ax, k, row + 0.36, f'{frames} frames', drawing.QUIET)
  last = len(layers) + 1
  _arrow(ax, last - 0.6, last - 0.42, row)
  _box(ax, last, row, drawing.INK)
  _word(ax, last, row, 'linear', drawing.INK)


def _word(ax, x, y, text, colour):
  ax.text(x, y, text, ha='center', va='center', fontsize=8, color=colour)


def _arrow(ax, start, end, y):
  ax.add_patch(
    FancyArrowPatch(
      (start, y),
      (end, y),
      arrowstyle='-|>',
      mutation_scale=8,
      color=drawing.INK,
      lw=1.1,
      shrinkA=0,
      shrinkB=0,
    )
  )


def _box(ax, x, y, colour, half=0.24):
  ax.add_patch(
    FancyBboxPatch(
      (x - 0.4, y - half),
      0.8,
      2 * half,
      boxstyle='round,pad=0,rounding_size=0.06',
      fc='white',
      ec=colour,
      lw=1.2,
    )
  )
