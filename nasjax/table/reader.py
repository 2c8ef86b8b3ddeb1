"""Opening a table and asking it questions."""

import dataclasses
import functools
import pathlib

import numpy as np
import pyarrow as pa

from nasjax.table import columns as columns_lib
from nasjax.table import index as index_lib
from nasjax.table import questions, reductions, schema, shards

# Cell, seed and recipe say which row is meant only where these are all alike.
CONTEXT = ('space', 'macro', 'corpus', 'corpus_fingerprint')


def open_table(path, verify=True):
  """Opens a table for reading.

  Args:
    path: a directory of shards, or a run's directory, which has them in
      `table/`.
    verify: whether to compare the SHA-256 of every shard. Sizes, versions,
      schemas and numbers of rows are checked in any case, and so is the
      checksum of each column when it is read.

  Returns:
    A Table.

  Raises:
    DamagedShardError: a shard is not what was committed.
    SchemaError: a shard is of another version or schema.
    TableError: there is no table.
  """
  directory = shards.locate(path)
  names = shards.committed(directory)
  if not names:
    waiting = shards.uncommitted(directory)
    raise schema.TableError(
      f'{directory} has no committed shard'
      + (f' (uncommitted: {", ".join(waiting)})' if waiting else '')
      + '; run the generator of the table, again if it was stopped'
    )
  return Table(
    directory, tuple(shards.load(directory, name, verify) for name in names)
  )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Table:
  """Rows of a benchmark, one a training, in order of shard, then of writing.

  Made by `table.open`. A column is read when it is first asked for, and kept.

  Attributes:
    path: directory of the shards.
    shards: what their commit marks say.
    rows: which rows of the shards are meant; None for all.
  """

  path: pathlib.Path
  shards: tuple[shards.Shard, ...]
  rows: np.ndarray | None = None
  _read: dict = dataclasses.field(default_factory=dict, init=False)

  def __len__(self):
    """Number of rows."""
    if self.rows is None:
      return sum(shard.rows for shard in self.shards)
    return len(self.rows)

  def __repr__(self):
    return (
      f'Table({str(self.path)!r}: {len(self)} rows, {len(self.archs)} cells, '
      f'seeds {list(self.seeds)}, recipes {list(self.recipes)})'
    )

  def __contains__(self, arch):
    """Whether a cell of the function of `arch` has a row."""
    place = self.space.index(arch)
    return bool(index_lib.entries(self._index, self.space, place) >= 0)

  # What there is.

  @property
  def columns(self):
    """Names of the columns."""
    return tuple(schema.SCHEMA.names)

  @functools.cached_property
  def archs(self):
    """The cells as they were trained, distinct, int8 [n, d], in space order."""
    return self.space.from_index(np.unique(self.space.indices(self.row_archs)))

  @functools.cached_property
  def seeds(self):
    """The seeds, a sorted tuple of int."""
    return tuple(np.unique(self.column('seed')).tolist())

  @functools.cached_property
  def recipes(self):
    """Names of the recipes, a tuple, fewest epochs first."""
    epochs = dict(zip(self.column('recipe'), self.column('epochs').tolist()))
    return tuple(sorted(epochs, key=lambda name: (epochs[name], name)))

  @property
  def uncommitted(self):
    """Names of Parquet files in the directory that no mark has committed."""
    return shards.uncommitted(self.path)

  @functools.cached_property
  def space(self):
    """The search space of the cells."""
    name = self._only('space')
    if name not in schema.SPACES:
      raise schema.TableError(
        f'{self.path} holds cells of space {name!r}; this nasjax knows '
        f'{", ".join(schema.SPACES)}'
      )
    return schema.SPACES[name]

  # Whole columns.

  def to_arrow(self):
    """Returns all rows and columns as a pyarrow Table."""
    whole = pa.concat_tables([shards.read(shard) for shard in self.shards])
    return whole if self.rows is None else whole.take(pa.array(self.rows))

  def to_pandas(self):
    """Returns all rows and columns as a pandas DataFrame."""
    try:
      import pandas  # noqa: F401
    except ImportError as e:
      raise ImportError(
        'to_pandas needs pandas, which nasjax does not install: '
        'pip install pandas, or use to_arrow()'
      ) from e
    return self.to_arrow().to_pandas()

  def column(self, name):
    """Returns a column that has one value a row as an array [r].

    Integers that may be null come as float64 with NaN, strings as objects.
    """
    if self._is_curve(name):
      raise schema.QueryError(f'{name!r} has a value an epoch; use curves()')
    return self._scalars(name)

  def curves(self, name):
    """Returns a per-epoch column [r, epoch], NaN where nothing was run."""
    if not self._is_curve(name):
      raise schema.QueryError(f'{name!r} has one value a row; use column()')
    return self._lists(name).padded(int(self._scalars('epochs').max()))

  @functools.cached_property
  def row_archs(self):
    """The cell of each row, int8 [r, d]."""
    cells = self._lists('arch')
    digits = len(self.space.sizes)
    if np.any(cells.length_r != digits):
      raise schema.SchemaError(
        f'{self.path} has cells that do not have {digits} digits'
      )
    return cells.padded(digits)

  def select(
    self,
    *,
    recipe=None,
    space=None,
    macro=None,
    corpus=None,
    corpus_fingerprint=None,
  ):
    """Returns the Table of the rows that have the values given."""
    wanted = {
      'recipe': recipe,
      'space': space,
      'macro': macro,
      'corpus': corpus,
      'corpus_fingerprint': corpus_fingerprint,
    }
    wanted = {n: value for n, value in wanted.items() if value is not None}
    keep_r = np.ones(len(self), bool)
    for name, value in wanted.items():
      keep_r &= self._scalars(name) == value
    if not keep_r.any():
      there = {n: sorted(set(self._scalars(n))) for n in wanted}
      raise schema.MissingEntryError(f'no row has {wanted}; there are {there}')
    rows = np.arange(len(self)) if self.rows is None else self.rows
    return dataclasses.replace(self, rows=rows[keep_r])

  # Questions.

  def query(
    self, arch, column, *, seed=None, recipe=None, epoch=None, reduce=None
  ):
    """Looks up one value, or one for each of many cells.

    Cells are looked up by function: every encoding that has the semantic key of
    a trained cell gets that cell's answer. (Cells that share only the released
    hash may compute different functions, and do not answer for each other.)
    Should several encodings of one function have been trained with one seed and
    recipe, the first of them in the order of the space answers for all.

    Args:
      arch: one cell, nested or flat; or many, an integer array [n, d] or a list
        of cells.
      column: name of a column.
      seed: an integer; or 'mean', 'median', 'min' or 'max' over the seeds which
        that cell has. There is no default: nobody can find a number again
        whose seed was drawn silently. If any of the runs has NaN (it diverged),
        so has the answer.
      recipe: name of the recipe; may be left out if the table has one only.
      epoch: for per-epoch columns, and there required: from 1, or 'last', or
        'best', the epoch whose weights were tested. NaN after a divergence.
      reduce: 'mean', 'median', 'min' or 'max', in place of `seed`.

    Returns:
      A float, int or str; for many cells an array of them.

    Raises:
      ValueError: a cell is malformed; names position and value.
      QueryError: the question is malformed or has more than one meaning.
      MissingEntryError: no such cell, seed, recipe or column; says what there
        is.
      ConflictError: the table has different results for one training.
    """
    is_curve = self._is_curve(column)
    questions.check_epoch(column, is_curve, epoch)
    seed = questions.seed_of(self, seed, reduce)
    recipe = questions.recipe_of(self, recipe)
    if questions.is_one(arch, len(self.space.sizes)):
      places = self.space.index(arch)
    else:
      places = self.space.indices(arch)
    rows, there = questions.rows_of(self, self._index, places, seed, recipe)
    if is_curve:
      values = self._at_epoch(column, rows, epoch)
    else:
      values = self._scalars(column)[rows]
    if isinstance(seed, str):
      if values.dtype == object:
        raise schema.QueryError(f'{column!r} is text, which has no {seed}')
      values = reductions.over_last(values, there, seed)
    return values.item() if isinstance(values, np.generic) else values

  @functools.cached_property
  def conflicts(self):
    """Pairs of rows that are one training with different results."""
    return self._index.conflicts

  @functools.cached_property
  def _index(self):
    for name in CONTEXT:
      self._only(name)
    return index_lib.build(self)

  def _only(self, name):
    """Returns the one value of a column that must be alike in all rows."""
    values = sorted(set(self._scalars(name)))
    if len(values) > 1:
      raise schema.QueryError(
        f'{self.path} has {len(values)} values of {name!r}: {values}; choose '
        f'one with select({name}={values[0]!r})'
      )
    return values[0]

  def _is_curve(self, name):
    """Returns whether a column has a value an epoch."""
    if name not in schema.SCHEMA.names:
      raise schema.MissingEntryError(
        f'no column {name!r}; there are {", ".join(self.columns)}'
      )
    if name == 'arch':
      raise schema.QueryError("the cells are in 'archs' and 'row_archs'")
    return name in schema.CURVES

  def _scalars(self, name):
    if name not in self._read:
      self._read[name] = columns_lib.scalars(self.shards, name, self.rows)
    return self._read[name]

  def _lists(self, name):
    if name not in self._read:
      self._read[name] = columns_lib.lists(self.shards, name, self.rows)
    return self._read[name]

  def _at_epoch(self, column, rows, epoch):
    """Returns the values of a per-epoch column at an epoch."""
    if epoch == 'best':
      return self._lists(column).at(rows, self._scalars('best_epoch')[rows] - 1)
    epochs = self._scalars('epochs')[rows]
    if epoch == 'last':
      return self._lists(column).at(rows, epochs - 1)
    last = int(
      epochs if isinstance(rows, int) else epochs.min(initial=2**31 - 1)
    )
    if not questions.is_integer(epoch) or not 1 <= epoch <= last:
      raise schema.QueryError(
        f'epoch={epoch!r} is not in 1..{last}, the epochs of that recipe; '
        "give an integer of these, 'last' or 'best'"
      )
    return self._lists(column).at(rows, epoch - 1)
