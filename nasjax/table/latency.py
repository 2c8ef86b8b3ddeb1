"""Which measurement answers for a cell on a device."""

from typing import NamedTuple

import numpy as np

from nasjax.table import columns, questions, schema
from nasjax.table import index as index_lib

QUANTILES = {0.25: 'quartile_low', 0.5: 'median', 0.75: 'quartile_high'}
# What `build` asks for.
COLUMNS = (
  'arch',
  'semantic_key',
  'device',
  'batch',
  'frames',
  'macro',
  'created',
  *QUANTILES.values(),
)


class Setting(NamedTuple):
  """Under which conditions latency was measured."""

  device: str
  batch: int
  frames: int
  macro: str


class Latencies(NamedTuple):
  """The latency shards of a table, ready for questions.

  Attributes:
    settings: all there are, sorted.
    functions: the way from an encoding to an entry.
    row_es: by entry and setting the row, or MISSING.
    place_r: place of each row's cell in the space.
    seconds: by quantile float64 [r].
  """

  settings: tuple[Setting, ...]
  functions: index_lib.Functions
  row_es: np.ndarray
  place_r: np.ndarray
  seconds: dict[float, np.ndarray]


def build(shards_, space):
  """Returns the Latencies of shards in a space, None if there are none."""
  if not shards_:
    return None
  spaces = columns.read(shards_, ['space'])['space']
  if space.name not in spaces.names:
    return None
  rows = np.flatnonzero(spaces.code_r == spaces.names.index(space.name))
  found = columns.read(shards_, COLUMNS, rows)
  path = shards_[0].path.parent
  place_r = space.indices(columns.cells(found['arch'], space, path))
  keys = found['semantic_key']
  functions = index_lib.functions(space, place_r, keys)

  setting_r = [
    Setting(*values)
    for values in zip(
      found['device'].at(slice(None)),
      found['batch'].tolist(),
      found['frames'].tolist(),
      found['macro'].at(slice(None)),
    )
  ]
  settings = tuple(sorted(set(setting_r)))
  number = {setting: s for s, setting in enumerate(settings)}
  shape = (len(keys.names), len(settings))
  flat_r = np.ravel_multi_index(
    (keys.code_r, [number[setting] for setting in setting_r]), shape
  )

  # Of several encodings of one function the first in the space answers; of
  # several measurements of it the last.
  times = found['created']
  rank_r = np.argsort(np.argsort(times.names))[times.code_r]
  order = np.lexsort((-np.arange(len(rows)), -rank_r, place_r, flat_r))
  first = np.diff(flat_r[order], prepend=-1) != 0
  row_es = np.full(shape, index_lib.MISSING, np.int32)
  row_es.flat[flat_r[order[first]]] = order[first]
  seconds = {q: found[name] for q, name in QUANTILES.items()}
  return Latencies(settings, functions, row_es, place_r, seconds)


def setting_of(table, latencies, **wanted):
  """Returns the place in `settings` of the one that a question means.

  Args:
    table: a Table.
    latencies: its Latencies, or None.
    **wanted: device, batch, frames and macro; None where not given.

  Raises:
    MissingEntryError: there is no such setting; says which there are.
    QueryError: there are several; says what to choose from.
  """
  if latencies is None:
    raise schema.MissingEntryError(
      f'no latency in {table.path}; experiments/latency.py measures it'
    )
  for name in ('batch', 'frames'):
    value = wanted[name]
    if value is not None and not questions.is_integer(value):
      raise schema.QueryError(f'{name}={value!r}; give an integer')
  for name in ('device', 'macro'):
    value = wanted[name]
    if value is not None and not isinstance(value, str):
      raise schema.QueryError(f'{name}={value!r}; give a name')
  wanted = {name: v for name, v in wanted.items() if v is not None}
  meant = [
    setting
    for setting in latencies.settings
    if all(getattr(setting, name) == v for name, v in wanted.items())
  ]
  if not meant:
    there = '; '.join(map(text, latencies.settings))
    raise schema.MissingEntryError(
      f'no latency of {_pairs(wanted)} in {table.path}; there is: {there}'
    )
  if len(meant) > 1:
    name = next(
      n for n in Setting._fields if len({getattr(s, n) for s in meant}) > 1
    )
    values = sorted({getattr(setting, name) for setting in meant})
    raise schema.QueryError(f'give {name}=, one of {values}')
  return latencies.settings.index(meant[0])


def seconds_of(table, latencies, setting, places, quantile):
  """Returns the seconds of cells, a float or an array.

  Args:
    table: a Table.
    latencies: its Latencies.
    setting: what `setting_of` returned.
    places: places of cells in the space, an integer or [n].
    quantile: one of QUANTILES.
  """
  if quantile not in QUANTILES:
    raise schema.QueryError(
      f'quantile={quantile!r}; give one of {", ".join(map(str, QUANTILES))}'
    )
  entries = latencies.functions.entries(table.space, places)
  rows = latencies.row_es[np.maximum(entries, 0), setting]
  missing = (entries < 0) | (rows < 0)
  if missing.any():
    place = np.asarray(places)[missing].flat[0]
    measured = (latencies.row_es[:, setting] >= 0).sum()
    raise schema.MissingEntryError(
      f'{questions.cell_text(table, place)} has no latency of '
      f'{text(latencies.settings[setting])} in {table.path}; {measured} '
      'functions have, see latency_archs()'
    )
  values = latencies.seconds[quantile][rows]
  return values.item() if isinstance(values, np.generic) else values


def text(setting):
  """Returns what messages call a setting."""
  return _pairs(setting._asdict())


def _pairs(values):
  return ', '.join(f'{name}={value!r}' for name, value in values.items())
