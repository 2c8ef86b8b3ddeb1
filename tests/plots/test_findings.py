"""Titles say what the data let be said, in every case."""

import numpy as np
import pytest

from nasjax import analysis, plots, spaces
from nasjax.plots import findings

SPACE = spaces.NB_ASR
NAN = float('nan')
C, E = analysis.Correlation, analysis.Estimate


def _learning(with_path, without, runs=1):
  """The title of curves that end at these error rates."""
  ends = [*with_path, *without]
  curves_pe = np.array([[0.9, end, 1.1 * end] for end in ends] * runs)
  names = [f'cell {n}' for n in range(len(ends))] * runs
  groups = ['with'] * len(with_path) + ['without'] * len(without)
  return findings.learning(curves_pe, names, groups * runs)


@pytest.mark.parametrize(
  'one, other, words',
  [
    # A seed more of each is no network more.
    ([0.2, 0.21, 0.2], [0.4, 0.41, 0.4], 'With: validation PER lower than wi'),
    ([0.4, 0.41, 0.4], [0.2, 0.21, 0.2], 'With: validation PER higher than wi'),
    ([0.2, 0.4], [0.3, 0.35], 'With and without: no significant difference in'),
    ([0.2, 0.21, 0.2], [0.4, 0.41, 0.4], '(-20.0 points, 95 %: -21.'),
    ([0.2, 0.3], [0.4], '3 networks at their best epochs: 20.0 % to 40.0 %, '),
    ([0.2, NAN], [NAN, 0.4], '2 networks at their best epochs: 20.0 % to 40.0'),
    ([0.2], [], 'Validation PER falls to 20.0 %'),
    ([NAN], [], 'No network was trained to the end'),
  ],
)  # fmt: skip
def test_two_groups_of_curves_are_compared_by_their_networks(one, other, words):
  for runs in (1, 2):
    assert words in _learning(one, other, runs)


def test_a_network_counts_once_however_many_runs_it_has():
  curves_pe = [[0.9, 0.2], [0.9, 0.4], [0.5, 0.6], [0.5, NAN], [0.5, 0.1]]
  found = plots.curves.best_epochs(curves_pe, ['a', 'a', 'b', 'c', 'c'])
  assert found == {'a': [0.2, 0.4], 'b': [0.5]}


def test_fronts_are_counted():
  per_n = [0.3, 0.2, 0.4, NAN]
  costs = {'size': [1.0, 2, 3, 4], 'seconds': [3.0, 2, 1, NAN]}
  costs = {k: (c, analysis.pareto_front(c, per_n)) for k, c in costs.items()}
  assert findings.fronts(costs, per_n) == (
    '2 of 3 cells unbeaten in test PER and size, 2 in test PER and seconds'
  )


def test_fronts_of_other_cells_say_of_how_many():
  both = {'size': ([1.0, 2], [True, False]), 'time': ([1, NAN], [True, True])}
  assert findings.fronts(both, [0.1, 0.2]) == (
    '1 of 2 cells unbeaten in test PER and size, 1 of 1 cells in test PER and '
    'time'
  )


def test_where_half_of_them_stand():
  for found, words in (
    ({'e5': [0.2, 0.3, 0.6, NAN]}, 'PER of 3 cells (e5): 20.0 % to 60.0 %, h'),
    ({'e5': [0.2, 0.3, 0.6, NAN]}, 'half of them at most 30.0 %'),
    ({'a': [0.5], 'b': [0.2]}, 'lowest for b, 20.0 %, and highest for a, 50.'),
    ({'a': [0.5], 'b': [0.5]}, 'PER: all medians are 50.0 %'),
    ({'a': [NAN]}, 'nothing has ended'),
    ({}, 'nothing has ended'),
  ):
    assert words in findings.distributions(found)


@pytest.mark.parametrize(
  'found, words',
  [
    (C(0.8, 0.7, 0.9, 50), 'One and other agree: rank correlation '
     '0.80 [0.70, 0.90]'),
    (C(-0.8, -0.9, -0.7, 50), 'One has the reverse order of other'),
    (C(0.1, -0.2, 0.4, 50), 'No agreement of one and other can be claimed'),
    (C(0.9, NAN, NAN, 4), 'One and other: too few to tell (4)'),
  ],
)  # fmt: skip
def test_whether_two_rankings_agree(found, words):
  assert findings.agree('one', 'other', found).startswith(words)


def test_which_rankings_agree():
  sure, less, none = (
    C(0.9, 0.8, 0.95, 50), C(0.5, 0.3, 0.7, 50), C(0.1, -0.2, 0.4, 50)
  )  # fmt: skip
  few = C(0.9, NAN, NAN, 3)
  told = findings.agreements
  assert told({'a': sure, 'b': less, 'c': few}) == (
    'Highest for a, 0.90, lowest for b, 0.50; all agree'
  )
  assert told({'a': sure, 'b': none}).endswith('can be claimed for 1 of 2')
  # An interval that just misses 0 does no more where it is one of many.
  barely = C(0.3, 0.01, 0.59, 50)
  assert 'claimed' not in told({'b': barely})
  many = {str(n): sure for n in range(20)} | {'barely': barely}
  assert told(many).endswith('can be claimed for 1 of 21')
  assert told({'a': few}).startswith('Too few') and told({}).startswith('Too')


def test_how_far_seeds_lie_apart():
  value_ns = [[0.2, 0.22], [0.3, 0.34], [0.4, NAN], [0.5, 0.56]]
  assert findings.seeds(value_ns) == (
    'The 2 seeds of a cell lie 4.0 points of PER apart (median); half of the '
    'cells lie within 16.0 points'
  )
  assert findings.seeds(np.ones((3, 1))).startswith('One seed')
  assert findings.seeds([[NAN, 1.0]]).startswith('No cell')


def test_what_the_best_cells_have():
  archs = SPACE.enumerate()
  rng = np.random.default_rng(0)
  archs = archs[rng.choice(len(archs), 300, replace=False)]
  long_n = archs[:, SPACE.fields.index('s20')] == 1
  made = {
    'best': analysis.composition(SPACE, archs[long_n]),
    'worst': analysis.composition(SPACE, archs[~long_n]),
  }
  assert findings.makeup(made) == (
    'The best cells differ most from the worst in the skip t0 to t3: 100 % of '
    'them have it, there 0 %'
  )
  # Halves drawn at random, many times: there is nothing to be told.
  told = 0
  for _ in range(40):
    half_n = rng.permutation(300) < 150
    told += 'differ' in findings.makeup(
      {
        'one': analysis.composition(SPACE, archs[half_n]),
        'other': analysis.composition(SPACE, archs[~half_n]),
      }
    )
  assert told <= 4
  assert findings.makeup({}) == 'No cells'
  assert findings.makeup({'one': made['best']}) == 'What one cells are made of'


def _level(name, low, value, high):
  return analysis.Level(name, np.arange(30), E(value, low, high, 30))


def test_what_error_rates_go_with():
  levels = (_level(1, 0.2, 0.25, 0.3), _level(2, 0.4, 0.45, 0.5))
  falls = analysis.Ranking(C(-0.6, -0.8, -0.4, 60), levels)
  rises = analysis.Ranking(C(0.3, 0.2, 0.4, 60), levels)
  none = analysis.Ranking(C(0.1, -0.2, 0.4, 60), levels)
  told = findings.ranked
  assert told({'skips': falls, 'zero': rises, 'linear': none}) == (
    'Test PER falls most clearly with the number of skips: rank correlation '
    '-0.60'
  )
  assert told({'zero': rises, 'linear': none}).startswith(
    'Test PER rises with the number of zero'
  )
  assert 'goes with none' in told({'linear': none})
  assert 'no cell' in told({'linear': analysis.Ranking(None, ())})
  choices = analysis.Ranking(None, (levels[1]._replace(count='b'), levels[0]))
  alike = analysis.Ranking(None, (_level(1, 0.2, 0.3, 0.4), levels[0]))
  assert told({'depth': choices, 'width': alike}) == (
    'Test PER depends most on depth: median 25.0 % with 1, 45.0 % with b'
  )
  assert 'no choice can be told' in told({'width': alike})


def test_how_many_edges_are_decided():
  edges = [('op1', ('a', 'b', 'c')), ('s00', ('absent', 's00'))]
  alphas = {'op1': [[0.0] * 3, [9.0, 0, 0]], 's00': [[0.0, 0], [0.1, 0]]}
  assert findings.decided(edges, alphas).startswith('1 of 2 edges are decided')
  alphas['s00'][1] = [NAN, NAN]
  assert findings.decided(edges, alphas).startswith('1 of 1 edges')
  assert 'nothing is known' in findings.decided(edges[1:], alphas)


def test_which_searcher_ends_lowest():
  curves = {
    'local_search': ([1, 2], [[0.5, 0.3], [0.5, 0.4]]),
    'random': ([1, 2], [[0.2, 0.6], [0.2, NAN]]),
  }
  assert findings.newest(curves, 'validation PER') == (
    'Validation PER: at the end lowest for local search, 35.0 %, highest for '
    'random, 60.0 % (medians)'
  )
  assert 'nothing was found' in findings.newest({'a': ([1], [[NAN]])}, 'x')


def test_how_many_there_are_of_a_space():
  assert findings.space(SPACE) == (
    'nb_asr: 13,824 vectors: 6 operations at 3 nodes, 6 skips'
  )
  assert findings.space(spaces.ST_NAS).endswith('4 operations at 6 nodes')
  plain = spaces.Space('plain', {'depth': ('1', '2'), 'kernel': ('3',)})
  assert findings.space(plain) == 'plain: 2 vectors, 2 decisions'
