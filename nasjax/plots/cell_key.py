"""One cell, drawn with the key to its vector."""

import json

from nasjax.plots import drawing, graphs
from nasjax.spaces import Chain

# Lines of the key, below the tensors: their height, and what stands before.
_LINES = {'vector': -0.52, 'stands for': -0.76, 'computes': -1.0}
_FAINT = '#AAAAAA'


def cell(space, arch, title=None):
  """Draws a cell, and says how its vector reads.

  Tensors from left to right, operations on the way, skips above: dashed where
  their digit is 0, for they are not there. Below each node stand its part of
  the vector, the names of these decisions, and what it computes. Of a space
  that is no chain, each decision is a box that holds the choice.

  Args:
    space: the search space.
    arch: a cell, in any form that `space.parse` reads.
    title: of the figure; the name of the cell if not given.
  """
  title = space.names(arch) if title is None else title
  if not isinstance(space, Chain):
    return graphs.cells(space, [arch], [title], columns=1)
  parts, skip_nm = space.nested(arch), space.skip_matrix(arch)
  ops = space.main_ops(arch)
  skips = any(space.skips)
  size = 1.4 + 2.2 * space.nodes, 3.9 if skips else 2.2
  fig, ax = drawing.axes(*size, grid=False)
  ax.set_axis_off()
  graphs.tensors(ax, space)
  fields = iter(space.fields)
  for n, (op, part) in enumerate(zip(ops, parts)):
    graphs.operation(ax, n, op, graphs.colour_of(space, op), op != 'zero')
    named = [next(fields) for _ in part]
    for m, field in enumerate(named[1:]):
      there = bool(skip_nm[n, m])
      ink = drawing.INK if there else _FAINT
      graphs.skip(ax, m, n + 1, '-' if there else (0, (4, 3)), ink)
      # Arcs of as many nodes are as high: their names stand in the middle.
      top = 0.04 + 0.75 * graphs.height(m, n + 1)
      _word(ax, (m + n + 1) / 2, top, field, ink, boxed=True)
    texts = json.dumps(part), f'[{", ".join(named)}]', _formula(n, op, skip_nm)
    for text, y in zip(texts, _LINES.values()):
      _word(ax, n + 0.5, y, text, drawing.INK)
  for name, y in _LINES.items():
    _word(ax, -0.3, y, name, drawing.QUIET, ha='right')
  _word(ax, 0, -0.25, 'input', drawing.QUIET)
  last = 'output, layer-normalised' if skips else 'output'
  _word(ax, space.nodes + 0.1, -0.25, last, drawing.QUIET, ha='right')
  numbers = ', '.join(f'{k} {name}' for k, name in enumerate(space.ops))
  lines = [f'op: {numbers}']
  if skips:
    lines.append('s: 1, the skip (identity) is there; 0, it is not, dashed')
  for k, line in enumerate(lines):
    _word(ax, -0.3, -1.3 - 0.2 * k, line, drawing.INK, ha='left')
  ax.set_xlim(-0.75, space.nodes + 0.15)
  top = ax.get_ylim()[1] + 0.08 if skips else 0.3
  ax.set_ylim(-1.4 - 0.2 * (len(lines) - 1), top)
  drawing.headed(fig, title)
  return fig


def _formula(n, op, skip_nm):
  """Returns what node n computes: 't2 = conv5(t1) + t0'."""
  terms = [] if op == 'zero' else [f'{op}(t{n})']
  terms += [f't{m}' for m in range(n + 1) if skip_nm[n, m]]
  return f't{n + 1} = {" + ".join(terms) or 0}'


def _word(ax, x, y, text, colour, ha='center', boxed=False):
  box = {'fc': 'white', 'ec': 'none', 'pad': 0.8} if boxed else None
  ax.text(
    x, y, text, ha=ha, va='center', fontsize=9, color=colour, bbox=box, zorder=3
  )
