"""Tests of nasjax/oneshot/selection.py."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_todm

from nasjax.models import families
from nasjax.oneshot import sandwich, selection
from nasjax.spaces import todm

SPACE = todm.elastic('parts', 2, (2, 4, 8), (2, 1))
SMALLEST = todm.smallest(SPACE)
PARTS = tuple(
  selection.Part(*part)
  for part in [(0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 2), (2, 1, 0)]
)


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_todm.registered():
    yield


def size(arch):
  return sum(todm.widths(SPACE, arch))


def grown(method, scores, most=100):
  arch = selection.grown(
    method, np.asarray(scores), SPACE, SMALLEST, PARTS,
    lambda arch: size(arch) <= most,
  )  # fmt: skip
  return todm.widths(SPACE, arch)


def test_parts_are_those_of_the_family():
  found = families.elastic(tiny_todm.SPACE).parts(SPACE)
  assert found == tuple(map(tuple, PARTS))


def test_networks_grow_by_their_best_parts():
  # The first layer's channels first; then its further ones, then the second.
  scores = [5, 4, 3, 2, 1]
  assert grown('topk', scores, 2) == (2,)
  assert grown('topk', scores, 4) == (4,)
  assert grown('topk', scores, 8) == (8,)
  assert grown('topk', scores) == (8, 8)
  # A part waits for those below it, and leaves out what does not fit.
  assert grown('topk', [0, 9, 0, 0, 5], 6) == (4, 2)
  assert grown('topk', [0, 9, 0, 0, -1], 7) == (4, 2)
  # Channels of a layer that is not there are no part.
  assert grown('topk', [0, 0, 9, 9, -1], 8) == (8,)


def test_parts_of_a_network_are_those_that_make_a_difference():
  def kept(arch):
    return selection.kept(SPACE, np.array(arch, np.int8), PARTS).tolist()

  assert kept([0, 0, 1]) == [False] * 5
  assert kept([2, 0, 1]) == [True, True, False, False, False]
  assert kept([0, 2, 1]) == [False] * 5
  assert kept([0, 1, 0]) == [False, False, True, False, True]
  assert kept([2, 2, 0]) == [True] * 5


@pytest.mark.parametrize('method', selection.METHODS)
def test_planted_parts_are_found(method):
  """Gates of two parts lower the loss ten times as much as those of others."""
  good = {2, 4}
  pull_u = np.array([-1.0 if u in good else -0.1 for u in range(5)])
  scores = selection.initial(method, 5)
  rng = np.random.default_rng(0)
  for _ in range(200):
    archs = [(2, 2, 0), (0, 0, 1)]
    archs += [rng.integers(0, SPACE.sizes) for _ in range(2)]
    kept_nu = np.stack(
      [selection.kept(SPACE, np.array(a, np.int8), PARTS) for a in archs]
    )
    pull_nu = pull_u[None] + rng.normal(0, 0.05, (4, 5))
    scores = selection.moved(method, scores, pull_nu, kept_nu, 0.3)
  assert np.isfinite(scores).all()
  assert grown(method, scores, 6) == (2, 4)


def test_softmaxes_pick_the_parts_in_the_order_of_their_worth():
  scores = 0.5 * np.random.default_rng(0).normal(size=(5, 5))
  before = selection.overlap(scores)
  pull_nu, kept_nu = np.array([[-1, -5, -2, -4, -3]]), np.ones((1, 5), bool)
  for _ in range(300):
    scores = selection.moved('orthosoftmax', scores, pull_nu, kept_nu, 0.3)
  assert selection.overlap(scores) < 0.1 * before
  assert scores.argmax(1).tolist() == [1, 3, 4, 2, 0]


def test_scores_of_parts_that_nobody_has_stay():
  kept_nu = np.array([[True, False, False, False, False]])
  pull_nu = np.array([[-2.0, np.nan, 5, 5, 5]])
  found = selection.moved('topk', np.ones(5), pull_nu, kept_nu, 0.5)
  np.testing.assert_array_equal(found, [1.5, 1, 1, 1, 1])


def test_budgets_are_kept():
  one = sandwich.Training(
    tiny_todm.SPACE, tiny_todm.MACRO, tiny_todm.RECIPE, sandwich.ROWS['topk']
  )
  assert len(one.parts) == 3
  least, most = one.params(one.smallest), one.params(one.largest)
  for budget, scores in itertools.product(
    np.linspace(least, most, 5).astype(int), ([0, 0, 0], [3, -1, 1])
  ):
    arch = one.selected(np.array(scores), budget)
    assert least <= one.params(arch) <= budget
  assert one.selected(np.zeros(3), most).tolist() == one.largest.tolist()
  with pytest.raises(ValueError, match='no network of 10 parameters'):
    one.selected(np.zeros(3), 10)
  fixed = dataclasses.replace(one.options, fixed=('depth',))
  assert len(dataclasses.replace(one, options=fixed).parts) == 2
  for options in ({'selection': 'best'}, {'selection': 'topk', 'students': 1}):
    with pytest.raises(ValueError, match='selection='):
      sandwich.Options(**options)


@pytest.mark.slow
def test_the_pull_is_the_gradient_by_a_gate():
  """By differences: the weights behind a part times 1 + e, and 1 - e."""
  space, macro = tiny_todm.SPACE, tiny_todm.MACRO
  elastic = families.elastic(space)
  network = families.elastic_network(space, macro, tiny_todm.RECIPE)
  x_btf = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
  gates = elastic.gates(space, elastic.largest(space))

  def total(params):
    outputs = network.apply({'params': params}, x_btf, np.array([8, 6]), None)
    return jnp.sin(outputs.enc_btd).sum()

  params = jax.jit(network.init)(
    jax.random.key(0), x_btf, np.array([8, 6]), gates
  )['params']
  params = jax.tree.map(lambda p: p + 0.1, params)
  run = jax.jit(jax.value_and_grad(total))
  pull_u = elastic.pull(space, params, run(params)[1])

  def gated(scale):
    # The channels of the first layer behind its fourth.
    def leaf(path, value):
      names = [entry.key for entry in path]
      if names == ['encoder', 'layer0', 'ffn', 'out', 'kernel']:
        return value.at[4:].multiply(scale)
      return value

    return jax.tree_util.tree_map_with_path(leaf, params)

  more, less = (run(gated(1 + e))[0] for e in (1e-2, -1e-2))
  np.testing.assert_allclose((more - less) / 2e-2, pull_u[0], rtol=2e-2)
