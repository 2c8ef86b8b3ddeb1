"""Members that take turns on a device, because together they would be slow."""

import functools

import chex
import jax
import numpy as np
import pytest
import tiny_corpus

from nasjax.training import population

# A small epsilon makes steps of the rounding errors of gradients near zero.
RECIPE = tiny_corpus.variant(adam_epsilon=1e-3)
MACRO = tiny_corpus.MACRO
# One program, two streams.
MEMBERS = tuple(
  (((1 + n % 4, n % 2), (0, 1, n // 4), (5, n // 2 % 2, 1, 1)), 7 + n % 2)
  for n in range(8)
)


@functools.cache
def _trained(at_once):
  """A trainer, its training program, and what two epochs make of it."""
  trainer = tiny_corpus.trainer(MEMBERS, RECIPE)
  trainer.programs = population.programs(
    trainer.network,
    RECIPE,
    trainer.prepared.buckets,
    trainer.prepared.mesh,
    at_once,
  )
  state = trainer.initial()
  for epoch in (1, 2):
    state = trainer.epoch(state, epoch)
  return trainer, jax.tree.map(np.array, state._replace(seconds=0))


@pytest.mark.parametrize('at_once', [1, 3])
def test_taking_turns_changes_nothing(at_once):
  (_, whole), (_, turns) = _trained(8), _trained(at_once)
  assert (whole.members.step == 10).all()
  chex.assert_trees_all_close(whole, turns, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(
    whole.curves['val_per'], turns.curves['val_per']
  )


def test_taking_turns_needs_less_memory_and_no_second_population():
  needed = []
  for trainer, _ in (_trained(8), _trained(3)):
    found = trainer.compiled().memory_analysis()
    state = trainer.initial()
    inside = sum(leaf.nbytes for leaf in jax.tree.leaves(state.members))
    assert found.alias_size_in_bytes == inside
    place = state.members.params['head']['kernel'].unsafe_buffer_pointer()
    members_p = trainer.some_steps(state.members, 1)
    kernel_p = members_p.params['head']['kernel']
    assert kernel_p.unsafe_buffer_pointer() == place
    needed.append(found.temp_size_in_bytes)
  # Two of eight at once, for three do not divide them.
  assert needed[1] < 0.4 * needed[0]


def test_members_of_a_cpu_take_turns():
  trainer = tiny_corpus.trainer(MEMBERS, RECIPE)
  prepared = trainer.prepared
  fixed = trainer.network, RECIPE, prepared.buckets, prepared.mesh
  assert trainer.programs is population.programs(*fixed, 1)
  assert trainer.programs is not population.programs(*fixed, 8)
