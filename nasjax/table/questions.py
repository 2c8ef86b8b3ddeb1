"""What a question to a table means, and what to say if it has no answer."""

import numpy as np

from nasjax.table import index as index_lib
from nasjax.table import reductions, schema

_REDUCTIONS = ', '.join(map(repr, reductions.NAMES))


def is_integer(value):
  """Returns whether a value is an integer and no truth value."""
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def are(names):
  """Returns 'is per' or 'are cer, wer'."""
  return f'{"is" if len(names) == 1 else "are"} {", ".join(names)}'


def is_one(arch, digits):
  """Tells one cell from many by form; well-formedness is for the space to say.

  Many are a matrix, or a list that begins with a list of lists, or with a list
  or array as long as a flat cell.
  """
  if not isinstance(arch, list | tuple):
    return getattr(arch, 'ndim', 0) < 2
  if not arch or not _is_sequence(arch[0]):
    return True
  first = arch[0]
  return len(first) != digits and not (len(first) and _is_sequence(first[0]))


def _is_sequence(value):
  return isinstance(value, list | tuple) or getattr(value, 'ndim', 0) > 0


def seed_of(table, seed, reduce):
  """Returns the seed, an int, or the name of a reduction over seeds."""
  names = _REDUCTIONS
  if seed is not None and reduce is not None:
    raise schema.QueryError(
      f'seed={seed!r} and reduce={reduce!r}: give one of the two'
    )
  if seed is None and reduce is None:
    raise schema.QueryError(
      f'give seed=, one of {list(table.seeds)} or one of {names}'
    )
  name = seed if reduce is None else reduce
  if isinstance(name, str) and name in reductions.NAMES:
    return name
  if reduce is not None:
    raise schema.QueryError(f'reduce={reduce!r}; give one of {names}')
  if not is_integer(seed):
    raise schema.QueryError(f'seed={seed!r}; give an integer or one of {names}')
  if seed not in table.seeds:
    raise schema.MissingEntryError(
      f'no seed {seed} in {table.path}; there are {list(table.seeds)}'
    )
  return int(seed)


def recipe_of(table, recipe):
  """Returns the name of the recipe meant."""
  names = table.recipes
  if recipe is None:
    if len(names) == 1:
      return names[0]
    raise schema.QueryError(f'give recipe=, one of {list(names)}')
  if not isinstance(recipe, str):
    raise schema.QueryError(f'recipe={recipe!r}; give one of {list(names)}')
  if recipe not in names:
    raise schema.MissingEntryError(
      f'no recipe {recipe!r} in {table.path}; there are {list(names)}'
    )
  return recipe


def check_epoch(column, is_curve, epoch):
  """Raises unless an epoch is given to exactly those columns that have them."""
  if is_curve and epoch is None:
    raise schema.QueryError(
      f"{column!r} has a value an epoch; give epoch=, from 1, 'last' or 'best'"
    )
  if not is_curve and epoch is not None:
    raise schema.QueryError(
      f'{column!r} has one value a run; leave out epoch={epoch!r}'
    )
  if isinstance(epoch, str) and epoch not in ('last', 'best'):
    raise schema.QueryError(
      f"epoch={epoch!r}; give an integer from 1, 'last' or 'best'"
    )


def rows_of_one(index, place, seed, recipe):
  """Returns the row that answers for one cell, or all there are to reduce.

  The common question, in Python integers: 20 us less than through NumPy.

  Args:
    index: an Index.
    place: place of the cell in the space.
    seed: what `seed_of` returned.
    recipe: what `recipe_of` returned.

  Returns:
    A list of integers; None where `rows_of` must look, or refuse.
  """
  entry = index.functions.entry_a.item(place)
  if entry < 0:
    return None
  c = index.recipes[recipe]
  if isinstance(seed, int):
    row = index.row_esc.item(entry, index.seeds[seed], c)
    return [row] if row >= 0 else None
  rows = index.row_esc[entry, :, c].tolist()
  if len(rows) >= reductions.FEW or index_lib.CONFLICT in rows:
    return None
  return [row for row in rows if row != index_lib.MISSING] or None


def check_range(epoch, last):
  """Raises unless an epoch is an integer from 1 to the last there is."""
  if not is_integer(epoch) or not 1 <= epoch <= last:
    raise schema.QueryError(
      f'epoch={epoch!r} is not in 1..{last}, the epochs of that recipe; '
      "give an integer of these, 'last' or 'best'"
    )


def rows_of(table, index, places, seed, recipe):
  """Returns the rows that answer, all of them there.

  Args:
    table: a Table.
    index: its Index.
    places: places of cells in the space, an integer or [n].
    seed: what `seed_of` returned.
    recipe: what `recipe_of` returned.

  Returns:
    rows and whether each counts, None if all do; with a reduction both have one
    more axis, the seeds, and a seed that a cell lacks repeats another's row.
  """
  found = index.functions.entries(table.space, places)
  absent = found < 0
  if absent.any():
    raise _no_cell(table, np.asarray(places)[absent].flat[0])
  c = index.recipes[recipe]
  if isinstance(seed, str):
    rows = index.row_esc[found, :, c]
    if rows.min(initial=0) >= 0:
      return rows, None
    there = rows >= 0
    answered = there.any(axis=-1)
  else:
    rows = index.row_esc[found, index.seeds[seed], c]
    there = answered = rows >= 0
  if (rows == index_lib.CONFLICT).any():
    raise schema.ConflictError(conflict_message(table))
  if not answered.all():
    raise _no_run(table, np.asarray(places)[~answered].flat[0], seed, recipe)
  if isinstance(seed, str):
    rows = np.where(there, rows, rows.max(axis=-1, keepdims=True))
  return rows, there


def conflict_message(table):
  """Returns what to say of trainings that have two different results."""
  i, j = table.conflicts[0]
  shard = table.column('shard')
  return (
    f'shards {shard[i]!r} and {shard[j]!r} have different results for '
    f'{len(table.conflicts)} trainings, the first of cell '
    f'{table.space.names(table.row_archs[i])}, seed '
    f'{table.column("seed")[i]}, recipe {table.column("recipe")[i]!r}; '
    'keep one of the two'
  )


def cell_text(table, place):
  """Returns what messages call the cell at a place of the space."""
  arch = table.space.from_index(int(place))
  return f'cell {table.space.names(arch)}'


def _no_cell(table, place):
  """Returns the error of a cell whose function is not in the table."""
  arch = table.space.from_index(int(place))
  twin = table.space.key(arch) in set(table.column('key'))
  return schema.MissingEntryError(
    f'{cell_text(table, place)} is not in {table.path}, nor is another of its '
    f'function; {len(table.archs)} cells are, see archs'
    + (' (one shares its released hash, but not its function)' if twin else '')
  )


def _no_run(table, place, seed, recipe):
  """Returns the error of a cell that lacks a seed or a recipe."""
  key = table.space.semantic_key(table.space.from_index(int(place)))
  of_cell = table.column('semantic_key') == key
  seeds, recipes = table.column('seed'), table.column('recipe')
  runs = sorted({(r, int(s)) for r, s in zip(recipes[of_cell], seeds[of_cell])})
  there = '; '.join(
    f'{r} with seeds {[s for name, s in runs if name == r]}'
    for r in table.recipes
    if any(name == r for name, _ in runs)
  )
  wanted = 'any seed' if isinstance(seed, str) else f'seed {seed}'
  return schema.MissingEntryError(
    f'{cell_text(table, place)} has no run of recipe {recipe!r} with {wanted} '
    f'in {table.path}; it has {there}'
  )
