"""Searches on a table: repeats of a searcher, all at once.

The protocol of NAS-Bench-ASR (Mehrotra et al., ICLR 2021, section 6): the cost
of training for n of E epochs is n / E models, a searcher sees the validation
PER, and what it is judged by is the test PER of the trained model that had the
lowest. Of a cell with several runs, each evaluation draws one.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax import spaces, table

# A run that failed recognised nothing.
FAILED = 1.0


class Landscape(NamedTuple):
  """A table as a searcher meets it, over the vectors that it may suggest.

  Digit i of a vector v_d stands for the value `values[i][v_d[i]]` of the space.
  All values are there if the table can answer for the whole space, else those
  that its cells have.

  What these make may be too much to list. Then only the cells are places: a
  vector that is none of theirs is answered by a cell that fewest digits tell
  from it, of those that the search has not evaluated yet, for else the children
  of a cell would all be the cell itself; one drawn, where several are as near.

  Attributes:
    values: for each digit the values it may take, a tuple of tuples.
    epochs: of a full training.
    cell_a: by place of a vector (first digit fastest), the cell that answers.
    vector_ad: the vector that is evaluated instead of each; itself, but where
      no cell has its function nor its key, then that of the nearest cell.
    runs_c: how many runs each cell has.
    val_cre: validation PER of each run, the lowest up to each epoch.
    test_cr: its test PER.
    cell_archs: the architectures of the cells, int8 [c, d].
    answers: how many vectors are answered by a cell of their 'function', of
      their published 'key' only, or by the 'nearest'.
    listed: whether all vectors are places, not the cells alone.
  """

  values: tuple[tuple[int, ...], ...]
  epochs: int
  cell_a: np.ndarray
  vector_ad: np.ndarray
  runs_c: np.ndarray
  val_cre: np.ndarray
  test_cr: np.ndarray
  cell_archs: np.ndarray
  answers: dict[str, int]
  listed: bool = True

  @property
  def sizes(self):
    """How many values each digit takes."""
    return tuple(len(values) for values in self.values)

  def archs(self, vector_nd):
    """Returns the architectures that vectors stand for, int8 [n, d]."""
    return archs_of(self.values, vector_nd)


class Trace(NamedTuple):
  """What repeats of a search evaluated, in order; all arrays [repeat, n].

  Attributes:
    place: of the vector in the landscape.
    val: validation PER, the lowest up to the epochs trained.
    test: test PER of that run, trained to the end.
    epochs: trained for it; 0 where nothing was.
  """

  place: np.ndarray
  val: np.ndarray
  test: np.ndarray
  epochs: np.ndarray


def values_of(archs_pd):
  """Returns for each digit the values that it takes in some architectures."""
  return tuple(tuple(np.unique(column).tolist()) for column in archs_pd.T)


def archs_of(values, vector_nd):
  """Returns the architectures that vectors stand for, int8 [n, d].

  Args:
    values: for each digit the values it may take.
    vector_nd: integers, places in these.
  """
  columns = [np.array(v)[vector_nd[:, d]] for d, v in enumerate(values)]
  return np.stack(columns, axis=1).astype(np.int8)


def vectors_of(values):
  """Returns all vectors, int32 [a, d], the first digit changing fastest."""
  sizes = tuple(len(v) for v in values)
  spaces.check_listed('the choices that the cells have make', math.prod(sizes))
  places = np.unravel_index(np.arange(np.prod(sizes)), sizes, order='F')
  return np.stack(places, axis=1).astype(np.int32)


def landscape(rows, recipe=None, metric=None):
  """Returns the Landscape of a table's rows of one recipe.

  Args:
    rows: `table.Table`, of one macro network and corpus.
    recipe: name of the recipe; that of most epochs if not given.
    metric: name of the error rate on test by which searches are judged, one of
      `rows.metrics`; None for what decides. That on validation, which searchers
      see, is always what decides.

  Raises:
    QueryError: the rows are of several networks or corpora.
    ConflictError: a name stands for several recipes.
    MissingEntryError: the recipe or the metric is not there.
    ValueError: the cells leave nothing to search.
  """
  rows.check_recipes()
  rows = rows.select(recipe=recipe or rows.recipes[-1])
  for name in 'macro', 'corpus_fingerprint':
    found = sorted(set(rows.column(name)))
    if len(found) > 1:
      raise table.QueryError(
        f'{rows.path} has {len(found)} values of {name!r}: {found}; choose one '
        f'with select({name}={found[0]!r})'
      )
  space, epochs = rows.space, int(rows.column('epochs')[0])
  keys, first, cell_r = np.unique(
    rows.column('semantic_key').astype(str),
    return_index=True,
    return_inverse=True,
  )
  archs = rows.row_archs[first]
  if len(archs) == 1:
    raise ValueError(f'{rows.path} has one cell only: nothing to search')

  # One column a run of the cell.
  order = np.argsort(cell_r, kind='stable')
  runs_c = np.bincount(cell_r)
  rank_r = np.arange(len(order)) - np.repeat(np.cumsum(runs_c) - runs_c, runs_c)
  shape = (len(keys), runs_c.max())
  val_cre = np.full((*shape, epochs), FAILED, np.float32)
  test_cr = np.full(shape, FAILED, np.float32)
  curves = _settled(rows.curves('val_per')[:, :epochs])
  val_cre[cell_r[order], rank_r] = np.minimum.accumulate(curves, axis=1)[order]
  test_cr[cell_r[order], rank_r] = _settled(rows.errors(metric))[order]

  whole = tuple(tuple(range(size)) for size in space.sizes)
  there = values_of(archs)
  if math.prod(map(len, there)) > spaces.MOST_LISTED:
    return _of_cells(there, epochs, runs_c, val_cre, test_cr, archs)
  for values in (
    (whole, there) if space.size <= spaces.MOST_LISTED else (there,)
  ):
    vector_ad = vectors_of(values)
    every = Landscape(
      values, epochs, None, vector_ad, runs_c, val_cre, test_cr, archs, {}
    )
    archs_ad = every.archs(vector_ad)
    cell_a = _cells(every, space, keys, archs_ad)
    if (cell_a >= 0).all():
      break
  return _answered(every, space, cell_a, archs_ad)


def _of_cells(values, epochs, runs_c, val_cre, test_cr, archs):
  """Returns the Landscape whose places are the cells."""
  columns = [np.searchsorted(v, column) for v, column in zip(values, archs.T)]
  cell_a = np.arange(len(archs), dtype=np.int32)
  vector_ad = np.stack(columns, axis=1).astype(np.int32)
  answers = {'function': len(archs), 'key': 0, 'nearest': 0}
  return Landscape(
    values, epochs, cell_a, vector_ad, runs_c, val_cre, test_cr, archs, answers,
    listed=False,
  )  # fmt: skip


def _settled(per):
  return np.where(np.isnan(per), FAILED, np.minimum(per, FAILED))


def _cells(every, space, keys, archs_ad):
  """Returns the cell of each architecture's function or key, else -1."""
  cell_a = _find(keys, space.semantic_keys(archs_ad))
  missing = np.flatnonzero(cell_a < 0)
  if len(missing):
    # Tables like the published one have a cell for each key, not function.
    published = space.keys(every.cell_archs)
    order = np.argsort(published, kind='stable')
    found = _find(published[order], space.keys(archs_ad[missing]))
    cell_a[missing] = np.where(found >= 0, order[found], -1)
  return cell_a


def _answered(every, space, cell_a, archs_ad):
  """Lets the nearest cells answer what has none of its function or key."""
  there = cell_a >= 0
  keys_c = space.semantic_keys(every.cell_archs)
  same = keys_c[cell_a[there]] == space.semantic_keys(archs_ad[there])
  answers = {
    'function': int(same.sum()),
    'key': int((~same).sum()),
    'nearest': int((~there).sum()),
  }
  cell_a, vector_ad = cell_a.copy(), every.vector_ad.copy()
  for a in np.flatnonzero(~there):
    far_c = (every.cell_archs != archs_ad[a]).sum(axis=1)
    cell_a[a] = far_c.argmin()
    vector_ad[a] = [
      v.index(digit)
      for v, digit in zip(every.values, every.cell_archs[cell_a[a]].tolist())
    ]
  return every._replace(
    cell_a=cell_a.astype(np.int32), vector_ad=vector_ad, answers=answers
  )


def _find(sorted_keys, keys):
  """Returns the place of each key among sorted ones, -1 where it is not."""
  place = np.searchsorted(sorted_keys, keys)
  place = np.minimum(place, len(sorted_keys) - 1)
  return np.where(sorted_keys[place] == keys, place, -1)


def simulate(searcher, scape, seed, repeats, budget, tick=lambda done: None):
  """Runs repeats of a search on a table until each has spent the budget.

  Repeats are spread over the devices, on each of them mapped, or one after the
  other where the searcher asks for that.

  Args:
    searcher: `search.Searcher` over the sizes of the landscape.
    scape: Landscape.
    seed: an integer; a repeat depends on it and on its own number alone.
    repeats: how many.
    budget: in trained models.
    tick: called with the models trained so far by the slowest repeat.

  Returns:
    Trace; a repeat may have gone on past the budget, or have stopped before,
    having trained all that there is.
  """
  chunk = 1 if searcher.serial else 50
  tables = (
    scape.cell_a,
    scape.vector_ad,
    scape.runs_c.astype(np.uint32),
    scape.val_cre,
    scape.test_cr,
  )
  strides_d = np.cumprod([1, *scape.sizes[:-1]]).astype(np.int32)

  def evaluate(tables, suggestion, bits_n, seen_a):
    cell_a, vector_ad, runs_c, val_cre, test_cr = tables
    if scape.listed:
      place_n = (suggestion.arch_nd * strides_d[None]).sum(axis=1)
    else:
      place_n = jax.vmap(_nearest, (0, 0, None, None))(
        suggestion.arch_nd, bits_n, vector_ad, seen_a
      )
      seen_a = seen_a.at[place_n].max(suggestion.epochs_n > 0)
    cell_n = cell_a[place_n]
    run_n = (bits_n % runs_c[cell_n]).astype(jnp.int32)
    last_n = jnp.maximum(suggestion.epochs_n, 1) - 1
    val_n, test_n = val_cre[cell_n, run_n, last_n], test_cr[cell_n, run_n]
    trace = Trace(place_n, val_n, test_n, suggestion.epochs_n)
    return suggestion._replace(arch_nd=vector_ad[place_n]), trace, seen_a

  def steps(state, bits, tables):
    def step(state, bits):
      own, seen_a = state
      suggestion, own = searcher.ask(_key(bits), own)
      told, trace, seen_a = evaluate(tables, suggestion, bits[2:], seen_a)
      return (searcher.tell(own, told, trace.val), seen_a), trace

    state, trace = jax.lax.scan(step, state, bits)
    return state, jax.tree.map(lambda x: x.reshape(-1), trace)

  def advance(states, bits, tables):
    if searcher.serial:
      return jax.lax.map(lambda both: steps(*both, tables), (states, bits))
    return jax.vmap(steps, (0, 0, None))(states, bits, tables)

  # Random numbers come from the host: threefry inside a mapped scan takes XLA
  # seconds to compile, on CPUs, wherever it stands.
  devices = jax.local_devices()[:repeats]
  mesh = jax.sharding.Mesh(np.array(devices), ('repeat',))
  each, all_alike = jax.P('repeat'), jax.P()
  if len(devices) > 1:
    # One program for all devices, on whose last some repeats may be surplus.
    # One device goes without: jaxlib 0.11.2 ends by a fault of addresses when
    # it compiles this for CPUs, one or several.
    advance = jax.shard_map(
      advance,
      mesh=mesh,
      in_specs=(each, each, all_alike),
      out_specs=each,
      check_vma=False,
    )
  advance = jax.jit(advance)
  surplus = -repeats % len(devices)
  streams = [np.random.default_rng([seed, r]) for r in range(repeats + surplus)]

  def draw(*shape):
    return jax.device_put(
      np.stack([s.integers(2**32, size=shape, dtype='u4') for s in streams]),
      jax.sharding.NamedSharding(mesh, each),
    )

  tables = jax.device_put(tables, jax.sharding.NamedSharding(mesh, all_alike))
  # Which cells a search has evaluated; of no use where all vectors are places.
  places = 0 if scape.listed else len(scape.cell_a)

  def begin(bits):
    return searcher.init(_key(bits)), jnp.zeros(places, bool)

  init = jax.vmap(begin)
  states = jax.jit(init)(draw(2))
  found, spent_r = [], np.zeros(repeats, np.int64)
  while spent_r.min() < budget * scape.epochs:
    states, now = advance(states, draw(chunk, 2 + searcher.batch), tables)
    now = jax.tree.map(lambda x: np.asarray(x)[:repeats], now)
    found.append(now)
    spent_r += now.epochs.sum(axis=1)
    tick(min(spent_r.min() / scape.epochs, budget))
    if not now.epochs.any():
      break
  return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *found)


def _nearest(arch_d, bits, vector_ad, seen_a):
  """Returns the place that answers for a vector, see `Landscape`."""
  count, digits = vector_ad.shape
  far_a = (vector_ad != arch_d[None]).sum(axis=1)
  far_a = far_a + jnp.where(seen_a & (far_a > 0), digits, 0)
  # Where the count begins is drawn, for the first of several is taken.
  first = ((bits >> 8) % count).astype(jnp.int32)
  return (jnp.argmin(jnp.roll(far_a, -first)) + first) % count


def _key(bits):
  """Returns the JAX key that the first two of some random bits make."""
  return jax.random.wrap_key_data(bits[:2])


def best_test(trace, epochs, costs_k):
  """Returns the test PER of the best by validation at each cost, [repeat, k].

  Only models trained to the end can be chosen; NaN before the first of them,
  and the earlier one of two alike.
  """

  def best(val_m, test_m):
    lowest_m = np.minimum.accumulate(val_m)
    new_m = np.diff(lowest_m, prepend=np.inf) < 0
    at_m = np.maximum.accumulate(np.where(new_m, np.arange(len(val_m)), 0))
    return np.concatenate([[np.nan], test_m[at_m]])

  return np.stack(
    [
      best(val_m, test_m)[done_k]
      for val_m, test_m, done_k in _trained(trace, epochs, costs_k)
    ]
  )


def newest_val(trace, epochs, costs_k, window):
  """Returns the mean validation PER of the last fully trained models.

  Args:
    trace: of the search.
    epochs: of a full training.
    costs_k: costs in trained models.
    window: over how many models to average.

  Returns:
    [repeat, k], NaN before the first.
  """

  def mean(val_m, done_k):
    sums = np.concatenate([[0.0], np.cumsum(val_m, dtype=np.float64)])
    since_k = np.maximum(done_k - window, 0)
    models_k = np.where(done_k > 0, done_k - since_k, np.nan)
    return (sums[done_k] - sums[since_k]) / models_k

  return np.stack(
    [
      mean(val_m, done_k)
      for val_m, _, done_k in _trained(trace, epochs, costs_k)
    ]
  )


def _trained(trace, epochs, costs_k):
  """Yields of each repeat the models m that it trained to the end.

  As their val_m and test_m, and how many of them each cost pays for.
  """
  for val, test, epochs_n in zip(trace.val, trace.test, trace.epochs):
    full = epochs_n == epochs
    spent_m = np.cumsum(epochs_n)[full]
    paid_k = np.asarray(costs_k) * epochs + 1e-6
    yield val[full], test[full], np.searchsorted(spent_m, paid_k, 'right')


def candidates(scape):
  """Returns a vector of each cell that can be suggested, int32 [n, d]."""
  # What the nearest cell answers is evaluated as another vector.
  _, first = np.unique(scape.cell_a, return_index=True)
  return np.unique(scape.vector_ad[first], axis=0)


def expected_random(scape, count):
  """Returns the expected test PER of the best of so many random evaluations.

  A number for a number, an array for several. Exact: with P(val >= v) known for
  every value v of the table, the lowest of n independent draws is v with
  probability P(val >= v)^n - P(val > v)^n.

  Raises:
    ValueError: only cells are places of the landscape, so that nobody knows how
      often each is drawn.
  """
  if not scape.listed:
    raise ValueError(
      f'the choices of the cells make more than {spaces.MOST_LISTED:,} '
      'architectures: how often random search meets each cell is not known'
    )
  weight_c = np.bincount(scape.cell_a, minlength=len(scape.runs_c))
  weight_c = weight_c / weight_c.sum() / scape.runs_c
  there = np.arange(scape.test_cr.shape[1]) < scape.runs_c[:, None]
  weight = np.broadcast_to(weight_c[:, None], there.shape)[there]
  val = scape.val_cre[..., -1][there]
  test = scape.test_cr[there].astype(np.float64)
  _, group = np.unique(val, return_inverse=True)
  mass = np.bincount(group, weight)
  drawn = mass > 0
  mean = np.bincount(group, weight * test)[drawn] / mass[drawn]
  at_least = np.append(np.cumsum(mass[drawn][::-1])[::-1], 0.0)
  at_least /= at_least[0]
  power = at_least ** np.expand_dims(count, -1)
  expected = (power[..., :-1] - power[..., 1:]) @ mean
  return float(expected) if np.ndim(count) == 0 else expected


def oracle(scape):
  """Returns the lowest mean test PER of a cell: what knowing all would give.

  Of the cells that answer. Who searches sees single runs, and can only hope.
  """
  there = np.arange(scape.test_cr.shape[1]) < scape.runs_c[:, None]
  mean_c = np.where(there, scape.test_cr, 0).sum(axis=1) / scape.runs_c
  return float(mean_c[np.unique(scape.cell_a)].min())
