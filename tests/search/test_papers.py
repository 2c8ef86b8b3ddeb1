"""Tests of each searcher against its paper, done slowly in plain Python."""

import collections
import itertools

import jax
import jax.numpy as jnp
import landscapes
import numpy as np
import pytest
from landscapes import planted

from nasjax.search import SEARCHERS
from nasjax.search.algorithms import draws, hyperband

SIZES = landscapes.SMALL
EPOCHS = landscapes.EPOCHS
BUDGET = landscapes.BUDGET
REPEATS = 100


def searched(name):
  """The trace of repeats, one architecture at a time."""
  return landscapes.run(landscapes.made(name), planted(), BUDGET, REPEATS)


def walk(name, batch, steps):
  return landscapes.walk(landscapes.made(name, batch), planted(), steps)


# Draws of random numbers.


def test_integers_are_even_and_in_range():
  u = (np.arange(7 * 60, dtype=np.float32) + 0.5) / (7 * 60)
  for size in 1, 2, 3, 5, 6, 7:
    drawn = np.asarray(draws.integers(u, size))
    np.testing.assert_array_equal(np.bincount(drawn), 420 // size)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    assert draws.integers(below_one, size) == size - 1


def test_floats_do_not_repeat():
  u = np.asarray(draws.floats(jax.random.key(0), 5, 9))
  assert u.shape == (5, 9) and len(np.unique(u)) == 45
  assert (u >= 0).all() and (u < 1).all()


def test_mutations_are_neighbours_and_even():
  """Digits alike, then their other values alike; digits of one value never."""
  arch_d = np.array([3, 0, 0, 5, 1, 1, 1], np.int32)
  grid = (np.arange(60) + 0.5) / 60
  u_n2 = np.array(list(itertools.product(grid, grid)), np.float32)
  children_nd = np.asarray(
    jax.jit(
      jax.vmap(
        lambda u_k: draws.mutate(
          u_k, np.array(SIZES, np.int32), jnp.asarray(arch_d)
        )
      )
    )(u_n2)
  )
  counts = collections.Counter(map(tuple, children_nd.tolist()))
  free = sum(size > 1 for size in SIZES)
  assert len(counts) == sum(size - 1 for size in SIZES)
  for child, count in counts.items():
    (d,) = np.flatnonzero(child != arch_d)
    assert 0 <= child[d] < SIZES[d]
    assert count == len(u_n2) // free // (SIZES[d] - 1)


# The papers.


def test_random_search_meets_the_expected_minimum():
  """The lowest of n of a table, drawn with replacement, in closed form."""
  trace = searched('random')
  per_c = np.sort(planted().per_ce[:, -1].astype(float))
  left_c = np.arange(len(per_c), -1, -1) / len(per_c)
  for n in 5, 20, 100, BUDGET:
    expected = (per_c * (left_c[:-1] ** n - left_c[1:] ** n)).sum()
    lowest_r = trace.per_rsn[:, :n, 0].min(1)
    error = lowest_r.std(ddof=1) / np.sqrt(REPEATS)
    assert abs(lowest_r.mean() - expected) < 3 * error


def evolution_in_lists(key, per_of, steps, batch, population=10, sample=3):
  """Regularised evolution with a queue, one child after the other."""
  free = [d for d, size in enumerate(SIZES) if size > 1]
  alive, suggested = collections.deque(maxlen=population), []
  floats = jax.jit(draws.floats, static_argnums=(1, 2))
  for s in range(steps):
    ask_key = jax.random.fold_in(key, s)
    u_nk = np.asarray(floats(ask_key, batch, len(SIZES)))
    elders = list(alive)
    for u_k in u_nk:
      if len(elders) < population:
        arch = [int(u * size) for u, size in zip(u_k, SIZES, strict=True)]
      else:
        rivals = [elders[int(u * population)] for u in u_k[:sample]]
        arch = list(min(rivals, key=lambda rival: rival[0])[1])
        d = free[int(u_k[sample] * len(free))]
        arch[d] += 1 + int(u_k[sample + 1] * (SIZES[d] - 1))
        arch[d] %= SIZES[d]
      suggested.append(arch)
      alive.append((per_of(arch), arch))
  return suggested, alive


@pytest.mark.parametrize('batch', [1, 4])
def test_evolution_is_that_of_a_queue(batch):
  per_c = planted().per_ce[:, -1]
  suggested, alive = evolution_in_lists(
    jax.random.key(7),
    lambda arch: per_c[np.ravel_multi_index(arch, SIZES)],
    60,
    batch,
  )
  told = walk('evolution', batch, 60)
  asked = np.concatenate([suggestion.arch_nd for suggestion, _, _ in told])
  assert asked.tolist() == suggested
  _, _, state = told[-1]
  assert np.asarray(state.archs_pd).tolist() == [arch for _, arch in alive]
  assert np.asarray(state.pers_p).tolist() == [per for per, _ in alive]


def neighbours(arch, sizes=SIZES):
  """All vectors that differ in one digit."""
  return {
    (*arch[:d], v, *arch[d + 1 :])
    for d, size in enumerate(sizes)
    for v in range(size)
    if v != arch[d]
  }


def follow_local_search(archs, pers):
  """Checks one walk, evaluation by evaluation; returns how often it started.

  Args:
    archs: tuples in the order of evaluation.
    pers: their error rates.
  """
  queue, starts = list(zip(archs, pers, strict=True)), 0

  while queue:
    starts += 1
    (centre, per), *queue = queue
    expected = neighbours(centre)
    while expected and len(queue) >= len(expected):
      seen, queue = queue[: len(expected)], queue[len(expected) :]
      assert {arch for arch, _ in seen} == expected
      best, best_per = min(seen, key=lambda one: one[1])
      if best_per >= per:
        break
      # What differs from both in the digit of the move is known already.
      expected = neighbours(best) - neighbours(centre) - {centre}
      centre, per = best, best_per
    else:
      assert {arch for arch, _ in queue} <= expected
      break
  return starts


def test_local_search_visits_whole_neighbourhoods():
  trace = searched('local_search')
  starts = [
    follow_local_search(map(tuple, arch_sd.tolist()), per_s)
    for arch_sd, per_s in zip(
      trace.arch_rsnd[:20, :, 0], trace.per_rsn[:20, :, 0], strict=True
    )
  ]
  assert min(starts) > 3


def test_local_search_in_batches_pads_the_end_of_a_neighbourhood():
  archs, pers = [], []
  for told, per_n, _ in walk('local_search', 4, 60):
    here = told.epochs_n > 0
    assert (np.sort(here)[::-1] == here).all()
    archs += map(tuple, told.arch_nd[here].tolist())
    pers += per_n[here].tolist()
  assert follow_local_search(archs, pers) > 2


def test_local_search_starts_again_elsewhere():
  """Along one digit all are neighbours: the walk ends after one look."""
  searcher = SEARCHERS['local_search']((1, 5), EPOCHS, BUDGET)
  landscape = landscapes.separable((1, 5), epochs=EPOCHS)
  told = landscapes.walk(searcher, landscape, 50)
  value_wk = np.array([one.arch_nd[0, 1] for one, _, _ in told]).reshape(10, 5)
  assert (np.sort(value_wk, axis=1) == np.arange(5)).all()
  assert len(set(value_wk[:, 0])) > 1


def test_local_search_leaves_out_nothing_after_a_replaced_move():
  """Evaluated on the diagonal alone, a move changes two digits at once."""
  sizes, best = (3, 3), (2, 2)
  searcher = SEARCHERS['local_search'](sizes, EPOCHS, BUDGET)
  landscape = landscapes.separable(sizes, best, epochs=EPOCHS)
  asked = []

  def diagonal(arch_nd):
    asked.append(tuple(arch_nd[0].tolist()))
    return np.repeat(arch_nd[:, :1], 2, axis=1)

  landscapes.walk(searcher, landscape, 90, diagonal)
  moves = 0
  while len(asked) >= 9:
    (start, *here), asked = asked[:5], asked[5:]
    centre = (start[0], start[0])
    assert set(here) == neighbours(centre, sizes)
    if centre != best:
      here, asked = asked[:4], asked[4:]
      assert set(here) == neighbours(best, sizes)
      moves += 1
  assert moves > 3


def test_hyperband_schedule():
  """Table 1 of the paper by its Algorithm 1, and the 40 epochs of NB-ASR."""
  assert hyperband.brackets(81, 3) == [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
  ]
  assert hyperband.brackets(40, 3) == [
    [(27, 1), (9, 4), (3, 13), (1, 40)],
    [(12, 4), (4, 13), (1, 40)],
    [(6, 13), (2, 40)],
    [(4, 40)],
  ]
  assert hyperband.brackets(2, 3) == [[(1, 2)]]


def follow_hyperband(evaluations, rounds):
  """Checks rungs and promotions; returns how many brackets were finished."""
  for brackets, rungs in enumerate(itertools.cycle(rounds)):
    best = None
    for count, epochs in rungs:
      rung, evaluations = evaluations[:count], evaluations[count:]
      assert all(e == epochs for _, e, _ in rung)
      if best is not None:
        assert [arch for arch, _, _ in rung] == best[: len(rung)]
      if len(rung) < count:
        return brackets
      best = [arch for arch, _, _ in sorted(rung, key=lambda one: one[2])]
  raise AssertionError('rounds repeat without end')


@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('name', ['hyperband', 'successive_halving'])
def test_hyperband_promotes_the_best_of_a_rung(name, batch):
  rounds = hyperband.brackets(EPOCHS, 3)
  rounds = rounds if name == 'hyperband' else rounds[:1]
  evaluations = []
  for told, per_n, _ in walk(name, batch, 90):
    here = told.epochs_n > 0
    assert len(set(told.epochs_n[here])) == 1  # never two rungs at once
    evaluations += zip(
      told.arch_nd[here].tolist(), told.epochs_n[here], per_n[here], strict=True
    )
  assert follow_hyperband(evaluations, rounds) > 3


def test_hyperband_spends_alike_on_brackets():
  """Each bracket costs about as much as training as many as there are."""
  for epochs in 9, 40, 81:
    rounds = hyperband.brackets(epochs, 3)
    for rungs in rounds:
      cost = sum(count * epochs_i for count, epochs_i in rungs)
      assert 0.8 < cost / (len(rounds) * epochs) < 1.2


def q_in_dictionaries(evaluations, alpha=0.1):
  """Q-learning on passes over the digits, entry by entry; gamma is 1."""
  values = {(d, v): 0.0 for d, n in enumerate(SIZES) for v in range(n)}
  visits = dict.fromkeys(values, 0)
  for arch, per in evaluations:
    for d in reversed(range(len(SIZES))):
      entry = d, arch[d]
      future = 0.0
      if d + 1 < len(SIZES):
        future = max(values[d + 1, v] for v in range(SIZES[d + 1]))
      visits[entry] += 1
      step = max(alpha, 1 / visits[entry])
      target = (1 - per) / len(SIZES) + future
      values[entry] += step * (target - values[entry])
  return values, visits


@pytest.mark.parametrize('batch', [1, 4])
def test_q_learning_is_that_of_dictionaries(batch):
  told = walk('q_learning', batch, 60)
  evaluations = [
    evaluation
    for suggestion, per_n, _ in told
    for evaluation in zip(
      suggestion.arch_nd.tolist(), per_n.tolist(), strict=True
    )
  ]
  _, _, state = told[-1]
  values, visits = q_in_dictionaries(evaluations)
  for (d, v), value in values.items():
    np.testing.assert_allclose(state.q_dv[d, v], value, rtol=1e-5)
    assert state.visits_dv[d, v] == visits[d, v]
  assert state.told == 60 * batch


def test_q_learning_explores_less_and_less():
  """At first all values of a digit come alike, at last nearly only the best."""
  value_rs = searched('q_learning').arch_rsnd[:, :, 0, 3]
  wrong_s = (value_rs != planted().best[3]).mean(0)
  assert abs(wrong_s[:10].mean() - 5 / 6) < 0.05
  assert wrong_s[-100:].mean() < 0.25
