"""Which row answers for an encoding, a seed and a recipe."""

from typing import NamedTuple

import numpy as np

from nasjax.table import columns, schema

UNKNOWN, ABSENT = -1, -2  # of an encoding
MISSING, CONFLICT = -1, -2  # of an entry's row


class Index(NamedTuple):
  """The way from an encoding, a seed and a recipe to a row.

  Attributes:
    entry_a: by place of an encoding in its space, its entry: one for each
      function in the table. UNKNOWN until it has been looked for.
    entry_of_key: the entry of each semantic key.
    row_esc: by entry, seed and recipe the row, or MISSING, or CONFLICT.
    seeds: place of each seed in `row_esc`.
    recipes: place of each recipe in `row_esc`.
    conflicts: pairs of rows that are one training with different results.
  """

  entry_a: np.ndarray
  entry_of_key: dict[str, int]
  row_esc: np.ndarray
  seeds: dict[int, int]
  recipes: dict[str, int]
  conflicts: tuple[tuple[int, int], ...]


def build(table):
  """Returns the Index of a Table whose rows differ in no other respect."""
  _check_recipes(table)
  place_r = table.space.indices(table.row_archs)
  code_r, keys = columns.coded(table.shards, 'semantic_key', table.rows)
  used, entry_r = np.unique(code_r, return_inverse=True)
  _, seed_r = np.unique(table.column('seed'), return_inverse=True)
  recipes = {name: c for c, name in enumerate(table.recipes)}
  recipe_r = np.array([recipes[name] for name in table.column('recipe')])
  shape = (len(used), len(table.seeds), len(recipes))
  flat_r = np.ravel_multi_index((entry_r, seed_r, recipe_r), shape)

  # Of several encodings of one function the first in the space answers.
  order = np.lexsort((place_r, flat_r))
  first = np.diff(flat_r[order], prepend=-1) != 0
  row_esc = np.full(shape, MISSING, np.int32)
  row_esc.flat[flat_r[order[first]]] = order[first]
  conflicts = _conflicts(table, order, flat_r, place_r)
  for _, row in conflicts:
    row_esc.flat[flat_r[row]] = CONFLICT

  entry_a = np.full(table.space.size, UNKNOWN, np.int32)
  entry_a[place_r] = entry_r
  return Index(
    entry_a,
    {keys[code]: e for e, code in enumerate(used)},
    row_esc,
    {seed: s for s, seed in enumerate(table.seeds)},
    recipes,
    conflicts,
  )


def entries(index, space, places):
  """Returns the entries of encodings, ABSENT where the table has none.

  Args:
    index: an Index; what had to be looked for is noted in it.
    space: the space of the encodings.
    places: places in the space, an integer or an array of them.
  """
  found = index.entry_a[places]
  if (found == UNKNOWN).any():
    new = np.unique(np.asarray(places)[found == UNKNOWN])
    for place, key in zip(new, space.semantic_keys(space.from_index(new))):
      index.entry_a[place] = index.entry_of_key.get(str(key), ABSENT)
    found = index.entry_a[places]
  return found


def _check_recipes(table):
  """Raises a ConflictError if one name stands for several recipes."""
  records = {}
  name_r, names = columns.coded(table.shards, 'recipe', table.rows)
  json_r, texts = columns.coded(table.shards, 'recipe_json', table.rows)
  for name, text in np.unique(np.stack([name_r, json_r]), axis=1).T:
    other = records.setdefault(name, text)
    if other != text:
      raise schema.ConflictError(
        f'recipe {names[name]!r} in {table.path} stands for {texts[other]} '
        f'and for {texts[text]}; give each its own name'
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
