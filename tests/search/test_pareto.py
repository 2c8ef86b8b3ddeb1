"""The search over bins of cost, on planted fronts, against random search."""

import json

import numpy as np
import pytest

from nasjax import analysis, spaces
from nasjax.search import driver, generations, landscape
from nasjax.search.algorithms import pareto

SPACE = spaces.Space('toy', {f'w{n}': tuple('0123') for n in range(10)})
# What the digits bring, beside what they cost: some are worth it.
WORTH_D = np.array([9, 1, 1, 5, 1, 1, 7, 1, 3, 1])
SEEDS = range(5)


def cost(arch_nd):
  return arch_nd.sum(axis=1).astype(float)


def error(arch_nd):
  return 1 - (arch_nd * WORTH_D).sum(axis=1) / (3 * WORTH_D.sum())


def planted():
  """The lowest error for every cost: the worthiest digits first."""
  worth = np.sort(np.repeat(WORTH_D, 3))[::-1]
  return 1 - np.cumsum([0, *worth]) / (3 * WORTH_D.sum())


def searched(seed, least=0, most=30, step=1, **settings):
  settings = {
    'population': 64, 'mutants': 32, 'crossings': 32, 'generations': 20,
  } | settings  # fmt: skip
  return pareto.evolution(SPACE, cost, least, most, step, seed, **settings)


def states(search, evaluate=error):
  found = [search.init()]
  while search.asks(found[-1]):
    arch_nd = search.ask(found[-1])
    found.append(search.tell(found[-1], arch_nd, evaluate(arch_nd)))
  return found


def volume(state):
  points = np.stack([state.cost_n, state.error_n], axis=1)
  return analysis.hypervolume(points, (31, 1.1))


def random_state(count, seed):
  arch_nd = np.random.default_rng(seed).integers(4, size=(count, 10))
  return pareto.State(1, arch_nd, cost(arch_nd), error(arch_nd))


@pytest.mark.parametrize('seed', SEEDS)
def test_finds_the_planted_front_better_than_random_search(seed):
  search = searched(seed)
  last = states(search)[-1]
  best = np.stack([np.arange(31), planted()], axis=1)
  most = analysis.hypervolume(best, (31, 1.1))
  chance = volume(random_state(len(last.error_n), seed))
  # Of what random search leaves, all but a tenth.
  assert volume(last) > most - 0.1 * (most - chance)
  n = search.store(last)
  assert np.abs(last.error_n[n] - planted()[last.cost_n[n].astype(int)]).max() \
    < 0.05  # fmt: skip


def test_the_store_is_the_best_of_each_bin_and_never_gets_worse():
  search, before = searched(1, step=3), {}
  for state in states(search):
    n = search.store(state)
    now = dict(zip(np.rint(state.cost_n[n] / 3), state.error_n[n]))
    assert list(now) == sorted(now)
    assert all(now[b] <= e for b, e in before.items())
    for b, e in now.items():
      assert e == state.error_n[np.rint(state.cost_n / 3) == b].min()
    before = now
  assert before


def test_bounds_are_kept_and_nothing_is_asked_for_twice():
  search = searched(2, least=9, most=14)
  last = states(search)[-1]
  assert last.cost_n.min() >= 9 and last.cost_n.max() <= 14
  assert len(set(SPACE.keys(last.arch_nd))) == len(last.arch_nd)
  assert len(last.arch_nd) == 64 + 19 * 64


def test_the_smallest_comes_first_and_others_that_are_named():
  assert not searched(0).ask(searched(0).init())[0].any()
  first = [[3] * 10, [0] * 10, [3] * 10]
  asked_nd = searched(0, first=first, most=29).ask(searched(0).init())
  assert asked_nd[0].sum() == 0 and cost(asked_nd).max() <= 29


def test_two_of_one_key_are_one():
  """Where the last five digits do nothing they make no second network."""
  half = spaces.Space(
    'half',
    {f'w{n}': tuple('0123') for n in range(10)},
    key_of=lambda digits: ' '.join(map(str, digits[:5])),
  )
  search = pareto.evolution(
    half, cost, 0, 30, 1, population=40, mutants=20, crossings=20, generations=4
  )
  last = states(search)[-1]
  assert len({tuple(a[:5]) for a in last.arch_nd}) == len(last.arch_nd)


def test_a_small_space_ends():
  small = spaces.Space('small', {'a': ('0', '1'), 'b': ('0', '1', '2')})
  search = pareto.evolution(small, cost, 0, 30, 1, population=4, generations=3)
  every = states(search, lambda a: 1 - cost(a) / 9)
  assert len(every[-1].arch_nd) == 6 and len(search.store(every[-1])) == 4
  assert len(search.ask(every[-2])) == 0


def test_what_failed_is_no_parent_and_in_no_bin():
  search = searched(0, generations=3)
  all_failed = states(search, lambda a: np.full(len(a), np.nan))[-1]
  assert not len(search.store(all_failed)) and len(all_failed.arch_nd) == 192
  half = states(search, lambda a: np.where(a[:, 0] > 1, np.nan, error(a)))[-1]
  assert half.arch_nd[search.store(half), 0].max() <= 1


@pytest.mark.parametrize(
  'settings, told',
  [
    ({'population': 0}, 'population=0; want a positive integer'),
    ({'mutants': -1}, 'mutants=-1; want an integer from 0 on'),
    ({'mutants': 0, 'crossings': 0}, 'want at least one child'),
    ({'rate': 0}, 'rate=0; want a probability above 0'),
    ({'step': 0}, 'step=0; want a positive width of bins'),
    ({'least': 5, 'most': 4}, 'least=5 is above most=4'),
  ],
)
def test_bad_settings_are_named(settings, told):
  with pytest.raises(ValueError, match=told):
    searched(0, **settings)


def test_killed_after_any_generation_it_goes_on_to_the_same(tmp_path):
  def killed(at):
    calls = []

    def evaluate(arch_nd):
      if len(calls) == at:
        raise KeyboardInterrupt
      calls.append(1)
      return np.where(arch_nd[:, 9] > 2, np.nan, error(arch_nd))

    return evaluate

  def run(path, at=99):
    return generations.run(searched(3, generations=4), killed(at), path)

  whole = run(tmp_path / 'whole.json')
  for at in range(4):
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / f'{at}.json', at)
    run(tmp_path / f'{at}.json')
    assert (tmp_path / f'{at}.json').read_bytes() == (
      tmp_path / 'whole.json'
    ).read_bytes()
  again, _ = generations.read(tmp_path / 'whole.json')
  for a, b in zip(again, whole):
    np.testing.assert_array_equal(a, b)


def test_a_state_of_another_search_or_damaged_is_refused(tmp_path):
  path = tmp_path / 'search.json'
  generations.run(searched(3, generations=1), error, path)
  with pytest.raises(ValueError, match='of another search: seed was 3, is 4'):
    generations.run(searched(4, generations=1), error, path)
  found = json.loads(path.read_text())
  path.write_text(json.dumps(found | {'costs': [1]}))
  with pytest.raises(ValueError, match='columns of several lengths.*remove it'):
    generations.run(searched(3, generations=1), error, path)


def test_goes_through_the_drivers_loop():
  """Told one at a time it asks for what it would together."""
  search = driver.made(
    pareto.make(
      SPACE, cost, 0, 30, 1, population=8, mutants=4, crossings=4, generations=3
    ),
    SPACE.sizes, 1, 100, batch=3,
  )  # fmt: skip

  def train(arch_nd, epochs_n):
    return error(arch_nd), error(arch_nd)

  answers = driver.Training([range(4)] * 10, 1, train)
  trace = driver.search(search, answers, [0], 100)
  assert isinstance(trace, landscape.Trace)
  assert trace.epochs.shape == (1, 8 + 2 * 8)
