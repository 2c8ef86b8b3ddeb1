"""Opening a table and asking it questions."""

import dataclasses
import functools
import pathlib

import numpy as np
import pyarrow as pa

from nasjax.table import columns as columns_lib
from nasjax.table import (
  contents,
  eight_bits,
  questions,
  reductions,
  schema,
  shards,
)
from nasjax.table import index as index_lib
from nasjax.table import latency as latency_lib

# Cell, seed and recipe say which row is meant only where these are all alike.
CONTEXT = ('space', 'macro', 'corpus', 'corpus_fingerprint')
_COLUMNS = tuple(schema.SCHEMA.names)
_TEXTS = frozenset(f.name for f in schema.SCHEMA if pa.types.is_string(f.type))


def open_table(path, verify=True):
  """Opens a table for reading.

  Args:
    path: a directory of shards, or a run's directory, which has them in
      `table/`; or the archive of a release, which is checked and unpacked into
      a temporary directory.
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
  path = pathlib.Path(path)
  if path.is_file():
    from nasjax.table import releasing  # which opens what it has unpacked

    if releasing.is_release(path):
      return releasing.unpacked(path)
  directory = shards.locate(path)
  found = contents.load_all(directory, digest=verify)
  for name in sorted(found.problems):
    raise found.problems[name]
  runs, latencies, int8 = (
    tuple(s for s in found.shards if schema.kind_of(s.name) is kind)
    for kind in (schema.RUNS, schema.LATENCY, schema.INT8)
  )
  if not runs:
    waiting = contents.uncommitted(directory)
    raise schema.TableError(
      f'{directory} has no committed shard'
      + (f' (uncommitted: {", ".join(waiting)})' if waiting else '')
      + '; run the generator of the table, again if it was stopped'
    )
  return Table(directory, runs, latency_shards=latencies, int8_shards=int8)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Table:
  """Rows of a benchmark, one a training, in order of shard, then of writing.

  Made by `table.open`. A column is read when it is first asked for, and kept.

  Attributes:
    path: directory of the shards.
    shards: what their commit marks say.
    rows: which rows of the shards are meant; None for all.
    latency_shards: marks of the shards that hold latencies, not rows.
    int8_shards: of those that hold errors of eight bits.
  """

  path: pathlib.Path
  shards: tuple[shards.Shard, ...]
  rows: np.ndarray | None = None
  latency_shards: tuple[shards.Shard, ...] = ()
  int8_shards: tuple[shards.Shard, ...] = ()
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
    return bool(self._index.functions.entries(self.space, place) >= 0)

  # What there is.

  @property
  def every_shard(self):
    """Marks of all shards: of runs, and of what was measured of them."""
    return self.shards + self.latency_shards + self.int8_shards

  @property
  def columns(self):
    """Names of the columns."""
    return _COLUMNS

  @functools.cached_property
  def archs(self):
    """The cells as they were trained, distinct, int8 [n, d], in space order."""
    places = columns_lib.distinct(self.space.indices(self.row_archs))
    return self.space.from_index(places)

  @functools.cached_property
  def seeds(self):
    """The seeds, a sorted tuple of int."""
    return tuple(columns_lib.distinct(self.column('seed')).tolist())

  @functools.cached_property
  def recipes(self):
    """Names of the recipes, a tuple, fewest epochs first."""
    names = self.codes('recipe')
    epochs = np.zeros(len(names.names), np.int64)
    epochs[names.code_r] = self.column('epochs')
    return tuple(name for _, name in sorted(zip(epochs.tolist(), names.names)))

  def check_recipes(self):
    """Refuses a name that stands for several recipes: they cannot be compared.

    Raises:
      ConflictError: with both.
    """
    index_lib.check_recipes(self)

  @functools.cached_property
  def metric(self):
    """What `val_per` and `test_per` hold: 'PER', or CER, LER or WER.

    As the marks say, those of PER before there were others say nothing. Of a
    table that has several, their names.
    """
    names = {shard.meta.get('metric', 'PER') for shard in self._held()}
    return '/'.join(sorted(map(str, names)))

  @functools.cached_property
  def left_out(self):
    """What was left out of the corpora, as the marks of the shards say it.

    A tuple of dicts: split, rule, utterances and minutes.
    """
    # Published files that were converted left out whole trainings.
    return tuple(p for p in self._told('left_out') if isinstance(p, dict))

  @functools.cached_property
  def notes(self):
    """What was done to the audio of the corpora, a tuple of lines of text.

    What was resampled, say, or clipped.
    """
    return self._told('notes')

  def _told(self, key):
    """What the marks say under a key, each thing once."""
    found = []
    for shard in self._held():
      found += [part for part in shard.meta.get(key, ()) if part not in found]
    return tuple(found)

  @functools.cached_property
  def edits(self):
    """Errors behind each `test_per`, float64 [r, 3], as the marks say.

    Substitutions, deletions and insertions; NaN where nothing is known of them:
    in older tables, and where there is no `test_per`.
    """
    whole = []
    for shard in self.shards:
      whole += shard.meta.get('edits') or [None] * shard.rows
    edits_rk = np.array([row or [np.nan] * 3 for row in whole], np.float64)
    edits_rk = edits_rk.reshape(-1, 3)
    return edits_rk if self.rows is None else edits_rk[self.rows]

  def rates(self, name):
    """Returns an error rate on the test split by name, float64 [r].

    Args:
      name: 'wer', say, in lower case. That by which a table judges
        (`metric`) is its `test_per`; others are what the marks say. 'int8' is
        that by which it judges, of weights and activations of eight bits
        (experiments/int8.py); of several measurements the last.

    NaN stands where nothing is known of it: in older tables, and where there is
    no `test_per`.
    """
    if name == eight_bits.METRIC:
      return eight_bits.errors(self)
    decides, marked = [], []
    for shard in self.shards:
      metric = str(shard.meta.get('metric', 'PER'))
      decides += [metric.lower() == name] * shard.rows
      rates = shard.meta.get('rates') or {}
      marked += rates.get(name) or [None] * shard.rows
    rows = slice(None) if self.rows is None else self.rows
    decides_r = np.array(decides, bool)[rows]
    marked_r = np.array(marked, np.float64)[rows]
    return np.where(decides_r, self.column('test_per'), marked_r)

  @functools.cached_property
  def metrics(self):
    """Names of the error rates there are, in lower case, a tuple.

    First what decides (`metric`), then what stands beside it.
    """
    held = self._held()
    names = [str(shard.meta.get('metric', 'PER')).lower() for shard in held]
    for shard in held:
      names += shard.meta.get('rates') or {}
    return tuple(dict.fromkeys(names))

  def named(self, metric=None):
    """Returns how a metric is called in titles: 'WER'.

    Args:
      metric: a name of `metrics`, in lower or upper case; None for what
        decides. Also 'int8' where eight bits were measured (`rates`); a
        `query` then has NaN for cells of which they were not.

    Raises:
      MissingEntryError: the table has no such metric; names those it has.
    """
    if metric is None:
      return self.metric
    known = self.metrics
    if self.int8_shards:
      known += (eight_bits.METRIC,)
    if not isinstance(metric, str) or metric.lower() not in known:
      raise schema.MissingEntryError(
        f'no metric {metric!r} in {self.path}; there {questions.are(known)}'
      )
    return metric.upper()

  def errors(self, metric=None):
    """Returns an error rate on the test split by name, float64 [r].

    Args:
      metric: as in `named`; None for `test_per`.

    Returns:
      as the column `test_per`, NaN where that has NaN.

    Raises:
      MissingEntryError: as `named`; or some rows that were tested have no such
        rate.
    """
    name = self.named(metric).lower()
    test_r = self.column('test_per')
    if metric is None:
      return test_r
    rate_r = self.rates(name)
    lost = int((np.isnan(rate_r) & ~np.isnan(test_r)).sum())
    if lost:
      raise schema.MissingEntryError(
        f'{lost} of {len(self)} rows of {self.path} were tested without '
        f'{name}; select() rows that have it, or ask for another of '
        f'{", ".join(self.metrics)}'
      )
    return rate_r

  def _held(self):
    """Marks of the shards that rows are of."""
    held = set(self.codes('shard').names)
    return [shard for shard in self.shards if shard.name in held]

  @property
  def uncommitted(self):
    """Names of Parquet files in the directory that no mark has committed."""
    return contents.uncommitted(self.path)

  @functools.cached_property
  def space(self):
    """The search space of the cells."""
    name = self._only('space')
    if name not in schema.SPACES:
      raise schema.TableError(
        f'{self.path} holds cells of space {name!r}; this nasjax knows '
        f'{", ".join(schema.SPACES)}; {schema.UNKNOWN_SPACE}'
      )
    return schema.SPACES[name]

  # Whole columns.

  def to_arrow(self):
    """Returns all rows and columns as a pyarrow Table."""
    whole = columns_lib.whole(self.shards)
    return whole if self.rows is None else whole.take(pa.array(self.rows))

  def to_pandas(self):
    """Returns all rows and columns as a pandas DataFrame."""
    try:
      import pandas  # noqa: F401
    except ImportError as e:
      raise ImportError(
        'to_pandas needs pandas: pip install pandas, or use to_arrow()'
      ) from e
    return self.to_arrow().to_pandas()

  def column(self, name):
    """Returns a column that has one value a row as an array [r].

    Integers that may be null come as float64 with NaN, strings as objects.
    """
    if self._is_curve(name):
      raise schema.QueryError(f'{name!r} has a value an epoch; use curves()')
    if name in _TEXTS:
      return self.codes(name).at(slice(None))
    return self._column(name)

  def codes(self, name):
    """Returns a column of strings as `columns.Codes`."""
    return self._column(name)

  def curves(self, name):
    """Returns a per-epoch column [r, epoch], NaN where nothing was run."""
    if not self._is_curve(name):
      raise schema.QueryError(f'{name!r} has one value a row; use column()')
    return self._column(name).padded(int(self._column('epochs').max()))

  @functools.cached_property
  def row_archs(self):
    """The cell of each row, int8 [r, d]."""
    # What stands in the array is not needed as lists again.
    cells = columns_lib.cells(self._column('arch'), self.space, self.path)
    del self._read['arch']
    return cells

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
      keep_r &= self.column(name) == value
    if not keep_r.any():
      there = {n: sorted(self.codes(n).names) for n in wanted}
      raise schema.MissingEntryError(f'no row has {wanted}; there are {there}')
    rows = np.arange(len(self)) if self.rows is None else self.rows
    return dataclasses.replace(self, rows=rows[keep_r])

  # Questions.

  def query(
    self,
    arch,
    column,
    *,
    seed=None,
    recipe=None,
    epoch=None,
    reduce=None,
    metric=None,
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
      metric: of `val_per` and `test_per`, which error rate is meant, a name of
        `metrics`; None for what decides. Of others only `test_per` is known.

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
    if metric is not None:
      column = self._error_column(column, metric)
    seed = questions.seed_of(self, seed, reduce)
    recipe = questions.recipe_of(self, recipe)
    places = self._places(arch)
    if isinstance(places, int):
      rows = questions.rows_of_one(self._index, places, seed, recipe)
      if rows is not None:
        values = self._at_few(column, rows, epoch)
        if isinstance(seed, int):
          return values[0]
        if column not in _TEXTS:
          return reductions.over_few(values, seed)
    rows, there = questions.rows_of(self, self._index, places, seed, recipe)
    values = self._at(column, rows, epoch)
    if isinstance(seed, str):
      if values.dtype == object:
        raise schema.QueryError(f'{column!r} is text, which has no {seed}')
      values = reductions.over_last(values, there, seed)
    return values.item() if isinstance(values, np.generic) else values

  @property
  def latencies(self):
    """The settings of latency: (device, batch, frames, macro), sorted."""
    return self._latencies.settings if self._latencies else ()

  def latency(
    self,
    arch,
    *,
    device=None,
    batch=None,
    frames=None,
    macro=None,
    quantile=0.5,
  ):
    """Looks up seconds of a forward pass, of one cell or each of many.

    Cells are looked up by function, as in `query`. Of several measurements of
    one cell the last answers.

    Args:
      arch: as in `query`.
      device, batch, frames, macro: of a setting in `latencies`. Each may be
        left out where the rest leaves one choice, and the macro network also
        where the table's rows are all of one: then it is theirs.
      quantile: 0.5 for the median; 0.25 or 0.75 for a quartile.

    Returns:
      A float, or for many cells an array of them.

    Raises:
      ValueError: a cell is malformed; names position and value.
      QueryError: the question is malformed or has more than one meaning.
      MissingEntryError: nothing of the kind was measured; says what was.
    """
    setting = self._setting(device, batch, frames, macro)
    return latency_lib.seconds_of(
      self, self._latencies, setting, self._places(arch), quantile
    )

  def latency_archs(self, *, device=None, batch=None, frames=None, macro=None):
    """Returns the cells measured in a setting, int8 [n, d], in space order."""
    setting = self._setting(device, batch, frames, macro)
    rows = self._latencies.row_es[:, setting]
    places = self._latencies.place_r[rows[rows >= 0]]
    return self.space.from_index(np.sort(places))

  @functools.cached_property
  def conflicts(self):
    """Pairs of rows that are one training with different results."""
    return self._index.conflicts

  @functools.cached_property
  def _index(self):
    self.read(index_lib.COLUMNS)
    for name in CONTEXT:
      self._only(name)
    return index_lib.build(self)

  @functools.cached_property
  def _latencies(self):
    return latency_lib.build(self.latency_shards, self.space)

  def _setting(self, device, batch, frames, macro):
    """Returns the place of the setting meant in `latencies`."""
    macros = self.codes('macro').names
    if macro is None and len(macros) == 1:
      macro = macros[0]
    return latency_lib.setting_of(
      self,
      self._latencies,
      device=device,
      batch=batch,
      frames=frames,
      macro=macro,
    )

  def _places(self, arch):
    """Returns the place of a cell in the space, or those of many."""
    if questions.is_one(arch, len(self.space.sizes)):
      return self.space.index(arch)
    return self.space.indices(arch)

  def _only(self, name):
    """Returns the one value of a column that must be alike in all rows."""
    values = sorted(self.codes(name).names)
    if len(values) > 1:
      raise schema.QueryError(
        f'{self.path} has {len(values)} values of {name!r}: {values}; choose '
        f'one with select({name}={values[0]!r})'
      )
    return values[0]

  def _is_curve(self, name):
    """Returns whether a column has a value an epoch."""
    if name in schema.CURVES:
      return True
    if name == 'arch':
      raise schema.QueryError("the cells are in 'archs' and 'row_archs'")
    if name not in self.columns:
      raise schema.MissingEntryError(
        f'no column {name!r}; there are {", ".join(self.columns)}'
      )
    return False

  def read(self, names):
    """Reads columns into memory, in one pass over the files."""
    new = [name for name in names if name not in self._read]
    if new:
      self._read.update(columns_lib.read(self.shards, new, self.rows))
      pa.default_memory_pool().release_unused()

  def _error_column(self, column, metric):
    """Returns the column that holds an error rate by name; it is made here."""
    name = self.named(metric)
    if column not in ('val_per', 'test_per'):
      raise schema.QueryError(
        f'{column!r} is no error rate; leave out metric={metric!r}'
      )
    if name == self.metric:
      return column
    if column == 'val_per':
      raise schema.QueryError(
        f'{self.path} has validation {self.metric} only; {name} is known of '
        "the test split: ask for 'test_per'"
      )
    made = f'test_per as {name}'
    if made not in self._read:
      own = name.lower() == eight_bits.METRIC
      self._read[made] = (
        self.rates(eight_bits.METRIC) if own else self.errors(metric)
      )
    return made

  def _column(self, name):
    if name not in self._read:
      self.read([name])
    return self._read[name]

  def _at(self, column, rows, epoch):
    """Returns a column's values at an array of rows; `epoch` of curves."""
    if column in _TEXTS:
      return self.codes(column).at(rows)
    if column not in schema.CURVES:
      return self._column(column)[rows]
    curves = self._column(column)
    if epoch == 'best':
      return curves.at(rows, self._column('best_epoch')[rows] - 1)
    epochs = self._column('epochs')[rows]
    if epoch == 'last':
      return curves.at(rows, epochs - 1)
    questions.check_range(epoch, epochs.min(initial=2**31 - 1))
    return curves.at(rows, epoch - 1)

  def _at_few(self, column, rows, epoch):
    """Returns what `_at` does as plain values, for a list of plain rows."""
    if column in _TEXTS:
      codes = self.codes(column)
      return [codes.names[codes.code_r.item(row)] for row in rows]
    if column not in schema.CURVES:
      value_r = self._column(column)
      return [value_r.item(row) for row in rows]
    at = self._column(column).at_one
    if epoch == 'best':
      best_r = self._column('best_epoch')
      return [at(row, best_r.item(row) - 1) for row in rows]
    epochs_r = self._column('epochs')
    if epoch == 'last':
      return [at(row, epochs_r.item(row) - 1) for row in rows]
    questions.check_range(epoch, min(epochs_r.item(row) for row in rows))
    return [at(row, epoch - 1) for row in rows]
