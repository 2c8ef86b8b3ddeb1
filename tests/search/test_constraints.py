"""Searches under a limit, warm starts, and searchers that join by name."""

import jax
import numpy as np
import planted_table
import pytest
import table_rows
from studies import more_searchers

from nasjax import search, table
from nasjax.search import constraints, driver, landscape
from nasjax.search.algorithms import warm


@pytest.fixture(scope='module')
def scape(tmp_path_factory):
  archs = table_rows.SPACE.product(['linear', 'conv5'], ['s00', 's20'])
  path = tmp_path_factory.mktemp('constraints')
  written = [planted_table.row(arch, 1) for arch in archs]
  table.write_shard(path, 'a', written)
  return landscape.landscape(table.open(path))


def costs(scape):
  """A cost of each cell: how often it has conv5, and half a skip."""
  archs = scape.cell_archs.astype(float)
  return 1 + (archs[:, table_rows.SPACE.op_positions] > 0).sum(1)


def cost_of(scape):
  return lambda vectors: costs(
    scape._replace(cell_archs=scape.archs(np.asarray(vectors)))
  )


@pytest.mark.parametrize(
  'penalty, cheap, dear',
  [
    ('one_sided', 0.2, 0.2 + 0.3 * 0.5),
    ('two_sided', 0.2 + 0.3 * 0.5, 0.2 + 0.3 * 0.5),
    ('product', 1 - 0.8 * 2**0.3, 1 - 0.8 * (2 / 3) ** 0.3),
    ('hard', 0.2, 1.0),
  ],
)
def test_penalties_by_hand(penalty, cheap, dear):
  told = constraints.Constraint(2.0, penalty, 0.3).told(
    np.array([0.2, 0.2]), np.array([1.0, 3.0])
  )
  np.testing.assert_allclose(told, [cheap, dear], rtol=1e-6)


def test_a_limit_that_nothing_meets_names_the_smallest(scape):
  space, cost_c = table_rows.SPACE, costs(scape)
  least = space.names(scape.cell_archs[cost_c.argmin()])
  with pytest.raises(
    ValueError, match='smallest that there is has 1 s'
  ) as told:
    constraints.check(
      constraints.Constraint(0.5), space, scape.cell_archs, cost_c, ' s'
    )
  assert least in str(told.value)
  with pytest.raises(
    ValueError, match="'soft' is unknown; there are one_sided"
  ):
    constraints.check(
      constraints.Constraint(2, 'soft'), space, scape.cell_archs, cost_c
    )
  with pytest.raises(ValueError, match='the lowest is 1'):
    constraints.limit(scape.sizes, cost_of(scape), 0.5)
  with pytest.raises(ValueError, match='at most nan; the lowest is'):
    constraints.limit(scape.sizes, cost_of(scape), np.nan)


def test_evolution_never_trains_what_costs_too_much(scape):
  limit = constraints.limit(scape.sizes, cost_of(scape), 2)
  own = {'limit': limit, 'tries': 4, 'batch': 2}
  made = search.SEARCHERS['evolution'](scape.sizes, scape.epochs, 40, **own)
  trace = driver.search(made, driver.Lookup(scape), [1, 0], 40)
  cost_c = costs(scape)
  assert (cost_c[scape.cell_a[trace.place[0]]] <= 2).all()
  assert len(np.unique(trace.place[0])) > 4
  cell = int(np.argmin(np.where(cost_c <= 2, scape.test_cr[:, 0], np.inf)))
  found = constraints.chosen(trace, scape, cost_c, 2, 40)
  assert found.meets_r.all() and found.beyond_r[0] == 0
  assert found.test_r[0] >= scape.test_cr[cell, 0]


def test_searchers_are_told_of_the_penalty_and_judged_without(scape):
  cost_c = costs(scape)
  constraint = constraints.Constraint(2.0, 'hard')
  told = constraints.penalised(scape, cost_c, constraint)
  np.testing.assert_array_equal(told.test_cr, scape.test_cr)
  assert (told.val_cre[cost_c > 2] == 1).all()
  np.testing.assert_array_equal(
    told.val_cre[cost_c <= 2], scape.val_cre[cost_c <= 2]
  )
  answers = constraints.Penalised(
    driver.Lookup(scape), cost_of(scape), constraint
  )
  vectors = landscape.candidates(scape)
  epochs_n = np.full(len(vectors), scape.epochs)
  answer = answers(vectors, epochs_n, np.zeros(len(vectors), np.uint32))
  place_cost = cost_of(scape)(vectors)
  np.testing.assert_array_equal(answer.val_n == 1, place_cost > 2)


def test_a_warm_start_begins_with_the_best_of_its_pool(scape):
  vectors = landscape.candidates(scape)
  score_c = -np.arange(len(vectors), dtype=float)
  score_c[-1] = -np.inf
  own = search.SEARCHERS['evolution'](scape.sizes, scape.epochs, 20)
  made = warm.start(own, scape.epochs, vectors, score_c, 10, len(vectors))
  state = jax.jit(made.init)(jax.random.key(0))
  np.testing.assert_array_equal(state.first_md, vectors[:10])
  trace = driver.search(made, driver.Lookup(scape), [0, 0], 20)
  asked = scape.vector_ad[trace.place[0]]
  np.testing.assert_array_equal(asked[:10], vectors[:10])
  # Then come children of these, one digit apart.
  child = (asked[10] != asked[:10]).sum(1)
  assert child.min() <= 1
  with pytest.raises(ValueError, match='first=30, pool=20'):
    warm.start(own, 1, vectors, score_c, 30, 20)
  with pytest.raises(ValueError, match='1 scores are NaN'):
    warm.start(own, 1, vectors, np.where(score_c == 0, np.nan, score_c))


def test_a_grid_is_even_and_ends():
  made = more_searchers.Grid((3, 4, 2), 5, 6, np.random.default_rng(0))
  asked = [tuple(made.ask()) for _ in range(24)]
  assert made.ask() is None
  assert len(set(asked)) == 24
  places = np.array([a + 3 * b + 12 * c for a, b, c in asked])
  # What a budget pays for leaves no large part of the space out.
  first = np.sort(places[:6])
  assert max(*np.diff(first), first[0] + 24 - first[-1]) <= 8
  huge = more_searchers.Grid((100,) * 30, 5, 6, np.random.default_rng(0))
  assert len(huge.ask()) == 30


@pytest.mark.parametrize('name', ['tpe', 'nsga2'])
def test_searchers_of_optuna(scape, name):
  pytest.importorskip('optuna')

  def make(sizes, epochs, budget, rng):
    if name == 'tpe':
      return more_searchers.TPE(sizes, epochs, budget, rng)
    given = sizes, epochs, budget, rng, cost_of(scape), 4
    return more_searchers.NSGA2(*given)

  made = driver.made(make, scape.sizes, scape.epochs, 12)
  trace = driver.search(made, driver.Lookup(scape), [0, 0], 12)
  again = driver.search(made, driver.Lookup(scape), [0, 0], 12)
  np.testing.assert_array_equal(trace.place, again.place)
  assert len(np.unique(trace.place)) > 4
