"""What the macro networks are: layers, parameters, multiply-accumulates."""

import functools

_DRAWN = 101
_SECOND = 100  # frames
_HEAD = (
  '| `--macro` | space | layers | channels | frames out a second | parameters: '
  'median | most | MACs a second: median | most |',
  '|---|---|---|---|---|---|---|---|---|',
)


def rows():
  """Returns a dict of figures for each macro network and space.

  Spaces of the same networks (those of ST-NAS) count once.
  """
  import numpy as np

  from nasjax import cost, spaces
  from nasjax.models import macros

  found, seen = [], set()
  for name, named in macros.BY_SPACE.items():
    space = spaces.SPACES[name]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, space.sizes, (_DRAWN, len(space.sizes)), np.int8)
    for macro in named.values():
      if macro.name in seen:
        continue
      seen.add(macro.name)
      row = {
        'macro': macro.name,
        'space': name,
        'layers': macro.layers,
        'channels': list(macro.channels),
        'frames_out': macro.output_frames(_SECOND),
        'outputs': macro.outputs,
      }
      for of, count in (
        ('params', functools.partial(cost.params, space, macro=macro)),
        ('macs', functools.partial(_macs, space, macro)),
      ):
        row[f'{of}_median'] = int(np.median([count(arch) for arch in drawn]))
        row[f'{of}_most'] = _most(space, count)
      found.append(row)
  return found


def _macs(space, macro, arch):
  from nasjax import cost

  return cost.macs(space, arch, macro, _SECOND)


def _most(space, count):
  """Returns the largest count there is; each choice adds to it by itself.

  Where networks are parts of others, it adds to the largest.
  """
  from nasjax.models import families

  elastic = families.family(space).elastic
  most = [0] * len(space.sizes)
  if elastic is not None:
    most = elastic.largest(space).tolist()
  for n, choices in enumerate(space.sizes):
    tried = [[*most[:n], c, *most[n + 1 :]] for c in range(choices)]
    most = max(tried, key=count)
  return count(most)


def lines():
  """Returns the table as lines of Markdown; GUIDE.md holds them."""
  return [*_HEAD, *map(_line, rows())]


def _millions(count):
  return f'{float(f"{count / 1e6:.3g}"):,.12g} M'


def _line(row):
  cells = (
    f'`{row["macro"]}`',
    row['space'],
    row['layers'],
    ', '.join(f'{width:,}' for width in row['channels']),
    row['frames_out'],
    *(
      _millions(row[key])
      for key in ('params_median', 'params_most', 'macs_median', 'macs_most')
    ),
  )
  return f'| {" | ".join(map(str, cells))} |'
