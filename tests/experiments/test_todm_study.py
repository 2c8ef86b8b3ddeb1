"""What a study searches, keeps and compares, without a training."""

import sys

import numpy as np

from nasjax import spaces
from nasjax.models import macros
from nasjax.oneshot import sandwich
from nasjax.search.algorithms import pareto
from nasjax.spaces import todm
from nasjax.training import recipes

sys.path.insert(0, 'experiments')
from studies import todm_sizes, todm_study

SPACE, MACRO = spaces.TODM_SMALL, macros.TODM_SMALL
RECIPE = recipes.Recipe('r', 2, loss='transducer', curriculum=(), l2=0.0)
COSTS = todm_sizes.Costs(SPACE, MACRO)
NAN = float('nan')


def training(row):
  return sandwich.Training(SPACE, MACRO, RECIPE, sandwich.ROWS[row], 1)


def test_where_depth_was_not_trained_it_is_not_searched():
  searched = todm_study.Searched(training('B0'), COSTS)
  assert searched.sizes == (3,) * 6 + (1,)
  first = [todm.smallest(SPACE), todm.largest(SPACE), [0] * 7]
  # The smallest of all has fewer layers.
  assert searched.vectors(first).tolist() == [[2] * 6 + [0], [0] * 7]
  search = pareto.evolution(
    searched, searched.costs, COSTS.of([0] * 7), COSTS.most, 1e4,
    population=20, mutants=5, crossings=5, generations=2,
    first=searched.vectors(first),
  )  # fmt: skip
  archs_nd = searched.archs(search.ask(search.init()))
  assert len(archs_nd) == 20 and not archs_nd[:, -1].any()
  assert np.array_equal(archs_nd[0], todm.largest(SPACE))


def test_a_whole_space_is_searched_as_it_is():
  searched = todm_study.Searched(training('D'), COSTS)
  assert searched.sizes == SPACE.sizes
  archs_nd = np.stack([todm.smallest(SPACE), todm.largest(SPACE)])
  assert np.array_equal(searched.vectors(archs_nd), archs_nd)
  assert searched.costs(archs_nd).tolist() == [COSTS.least, COSTS.most]
  assert (searched.keys(archs_nd) == SPACE.keys(archs_nd)).all()


def test_of_one_network_there_is_nothing_to_search():
  (one,) = todm_study.unsearched(training('A2'))
  assert np.array_equal(one, todm.largest(SPACE))
  ends = todm_study.unsearched(training('exits'))
  assert [len(todm.widths(SPACE, arch)) for arch in ends] == [6, 5, 4]


def test_what_is_kept_has_the_best_no_larger_than_every_size():
  params = np.array([100, 120, 150, 200, 210, 220])
  errors = np.array([0.5, 0.4, 0.45, 0.3, NAN, 0.3])
  # The bins' best are among it though others beat them.
  places = todm_study.kept(errors, params, np.array([2]))
  assert places.tolist() == [0, 1, 2, 3]
  sizes = [todm_sizes.Size(str(p), None, p) for p in (90, 100, 199, 300)]
  assert todm_study.at_sizes(sizes, errors, params) == [
    ('100', 0), ('199', 1), ('300', 3)
  ]  # fmt: skip


def test_every_row_that_trains_is_told():
  ways, _ = todm_study.ways(list(sandwich.ROWS), [])
  assert all(way.what != way.label for way in ways)
