"""Which row answers for an encoding, a seed and a recipe."""

from typing import NamedTuple

import numpy as np

from nasjax import spaces
from nasjax.table import schema

UNKNOWN, ABSENT = -1, -2  # of an encoding
MISSING, CONFLICT = -1, -2  # of an entry's row
# What `build` asks for.
COLUMNS = (
  'space',
  'arch',
  'semantic_key',
  'seed',
  'recipe',
  'recipe_json',
  'macro',
  'corpus',
  'corpus_fingerprint',
  'epochs',
)


class _Sparse:
  """Entries by place, as an array has them, of a space too large for one."""

  def __init__(self, places, entries):
    self._entries = dict(zip(places.tolist(), entries.tolist()))

  def item(self, place):
    return self._entries.get(place, UNKNOWN)

  def __getitem__(self, places):
    flat = np.asarray(places).ravel().tolist()
    found = [self._entries.get(place, UNKNOWN) for place in flat]
    return np.array(found, np.int32).reshape(np.shape(places))

  def __setitem__(self, place, entry):
    self._entries[int(place)] = entry


class Functions(NamedTuple):
  """The way from an encoding to its function.

  Attributes:
    entry_a: by place of an encoding in its space, its entry: one for each
      function there is. UNKNOWN until it has been looked for. An array, or what
      is like one.
    entry_of_key: the entry of each semantic key.
  """

  entry_a: np.ndarray | _Sparse
  entry_of_key: dict[str, int]

  def entries(self, space, places):
    """Returns the entries of encodings, ABSENT where there is none.

    Args:
      space: the space of the encodings.
      places: places in the space, an integer or an array of them.
    """
    found = self.entry_a[places]
    if (found == UNKNOWN).any():
      new = np.unique(np.asarray(places)[found == UNKNOWN])
      for place, key in zip(new, space.semantic_keys(space.from_index(new))):
        self.entry_a[place] = self.entry_of_key.get(str(key), ABSENT)
      found = self.entry_a[places]
    return found


class Index(NamedTuple):
  """The way from an encoding, a seed and a recipe to a row.

  Attributes:
    functions: the Functions.
    row_esc: by entry, seed and recipe the row, or MISSING, or CONFLICT.
    seeds: place of each seed in `row_esc`.
    recipes: place of each recipe in `row_esc`.
    conflicts: pairs of rows that are one training with different results.
  """

  functions: Functions
  row_esc: np.ndarray
  seeds: dict[int, int]
  recipes: dict[str, int]
  conflicts: tuple[tuple[int, int], ...]


def functions(space, place_r, keys):
  """Returns the Functions of rows; a row's entry is the code of its key.

  Args:
    space: the space.
    place_r: place of each row's encoding.
    keys: `columns.Codes` of their semantic keys.
  """
  if space.size > spaces.MOST_LISTED:
    entry_a = _Sparse(place_r, keys.code_r)
  else:
    entry_a = np.full(space.size, UNKNOWN, np.int32)
    entry_a[place_r] = keys.code_r
  return Functions(entry_a, {key: e for e, key in enumerate(keys.names)})


def build(table):
  """Returns the Index of a Table whose rows differ in no other respect."""
  check_recipes(table)
  place_r = table.space.indices(table.row_archs)
  keys = table.codes('semantic_key')
  found = functions(table.space, place_r, keys)
  seed_r = np.searchsorted(table.seeds, table.column('seed'))
  recipes = {name: c for c, name in enumerate(table.recipes)}
  names = table.codes('recipe')
  recipe_r = np.array([recipes[name] for name in names.names])[names.code_r]
  shape = (len(keys.names), len(table.seeds), len(recipes))
  flat_r = np.ravel_multi_index((keys.code_r, seed_r, recipe_r), shape)

  # Of several encodings of one function the first in the space answers.
  order = np.lexsort((place_r, flat_r))
  first = np.diff(flat_r[order], prepend=-1) != 0
  row_esc = np.full(shape, MISSING, np.int32)
  row_esc.flat[flat_r[order[first]]] = order[first]
  conflicts = _conflicts(table, order, flat_r, place_r)
  for _, row in conflicts:
    row_esc.flat[flat_r[row]] = CONFLICT
  seeds = {seed: s for s, seed in enumerate(table.seeds)}
  return Index(found, row_esc, seeds, recipes, conflicts)


def check_recipes(table):
  """Raises a ConflictError if one name stands for several recipes."""
  names, texts = table.codes('recipe'), table.codes('recipe_json')
  text_of_name = np.zeros(len(names.names), np.int64)
  text_of_name[names.code_r] = texts.code_r
  differing = text_of_name[names.code_r] != texts.code_r
  if differing.any():
    r = int(differing.argmax())
    last = texts.names[text_of_name[names.code_r[r]]]
    raise schema.ConflictError(
      f'recipe {names.names[names.code_r[r]]!r} in {table.path} stands for '
      f'{texts.names[texts.code_r[r]]} '
      f'and for {last}; give each its own name'
    )


def _conflicts(table, order, flat_r, place_r):
  """Returns the pairs of rows that are one training, but differ."""
  a, b = order[:-1], order[1:]
  same = (flat_r[a] == flat_r[b]) & (place_r[a] == place_r[b])
  pairs = list(zip(a[same].tolist(), b[same].tolist()))
  if not pairs:
    return ()
  whole = table.to_arrow()
  return tuple(
    (i, j)
    for i, j in pairs
    if not schema.same_results(*whole.take([i, j]).to_pylist())
  )
