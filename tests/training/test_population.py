"""Populations: a member trains as if it were alone."""

import dataclasses
import faulthandler
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain_training
import pytest
import tiny_corpus

from nasjax.data import batching
from nasjax.models import common
from nasjax.models.nb_asr import ops
from nasjax.training import population

SPACE, RECIPE, MACRO = tiny_corpus.SPACE, tiny_corpus.RECIPE, tiny_corpus.MACRO
# One convolution, one linear, one zero each: all in one program.
PROBE = ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7)
OTHERS = [
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 7),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 7),
  ([[4, 1], [0, 1, 1], [5, 1, 1, 1]], 7),
  ([[1, 1], [0, 0, 1], [5, 0, 1, 0]], 7),
  ([[2, 0], [0, 0, 1], [5, 1, 1, 0]], 7),
  ([[3, 0], [0, 1, 1], [5, 0, 0, 1]], 7),
  ([[4, 0], [0, 1, 0], [5, 1, 1, 0]], 7),
]
STRANGERS = [
  ([[4 - n // 2, n % 2], [0, 1, n % 2], [5, n % 2, 1, 1]], 7) for n in range(7)
]
# What float32 sums in another order may change in two epochs of the tiny
# corpus: 1e-5 in a parameter, 1e-5 of a loss, no decoded symbol.
TOLERANCE = 1e-5


def _host(tree):
  return jax.tree.map(np.array, tree)


def _poisoned(members_p, p, value, leaf=('head', 'bias')):
  """Puts a value into the parameters of one member."""
  params = _host(members_p.params)
  tree = params
  for name in leaf[:-1]:
    tree = tree[name]
  tree[leaf[-1]][p, ..., 0] = value
  sharding = jax.tree.leaves(members_p.params)[0].sharding
  return members_p._replace(params=jax.device_put(params, sharding))


def _train(trainer, poison=lambda epoch, members_p: members_p):
  """Returns the states before, after the first, ... epoch, on the host."""
  state = trainer.initial()
  state = state._replace(members=poison(0, state.members))
  states = [_host(state)]
  for epoch in range(1, trainer.job.recipe.epochs + 1):
    state = trainer.epoch(state, epoch)
    state = state._replace(members=poison(epoch, state.members))
    states.append(_host(state))
  return states


@functools.cache
def _trained(members, devices=1, size=None):
  trainer = tiny_corpus.trainer(members, devices=devices, size=size)
  return trainer, _train(trainer)


def _freeze(cell):
  return tuple(map(tuple, cell))


def _members(*members):
  return tuple((_freeze(cell), seed) for cell, seed in members)


ALONE = _members(PROBE)
FIRST = _members(PROBE, *OTHERS)
LAST = _members(*OTHERS, PROBE)
AMONG_STRANGERS = _members(*STRANGERS[:3], PROBE, *STRANGERS[3:])
# Two streams of batches in one program.
OTHER_SEED = _members((OTHERS[0][0], 9), PROBE)
SAME_CELL = _members(PROBE, (PROBE[0], 3))
PAIR = _members(PROBE, OTHERS[0])


def _member(tree, p):
  return jax.tree.map(lambda leaf: leaf[p], tree)


def _same_results(one, p, other, q, **tolerance):
  """Compares a member's parameters, optimiser and curves."""
  chex.assert_trees_all_close(
    _member(one[:2], p), _member(other[:2], q), **tolerance
  )
  for name in ('train_loss', 'val_loss'):
    np.testing.assert_allclose(
      one.curves[name][p], other.curves[name][q], **tolerance
    )
  np.testing.assert_array_equal(
    one.curves['val_per'][p], other.curves['val_per'][q]
  )
  assert one.best_epoch[p] == other.best_epoch[q]


POPULATIONS = {
  'first of 8': (FIRST, 0, 1),
  'last of 8': (LAST, 7, 1),
  'other neighbours': (AMONG_STRANGERS, 3, 1),
  'another seed beside': (OTHER_SEED, 1, 1),
  'the same cell beside': (SAME_CELL, 0, 1),
  'on two devices': (PAIR, 0, 2),
}


@pytest.mark.parametrize('name', POPULATIONS)
def test_a_member_does_not_depend_on_its_population(name):
  members, p, devices = POPULATIONS[name]
  _, alone = _trained(ALONE)
  _, states = _trained(members, devices)
  assert alone[-1].members.step[0] == 10
  # The start is equal bit for bit: parameters and the source of dropout.
  chex.assert_trees_all_equal(
    _member(alone[0].members, 0), _member(states[0].members, p)
  )
  _same_results(alone[-1], 0, states[-1], p, rtol=TOLERANCE, atol=TOLERANCE)


def test_in_one_program_a_member_is_equal_bit_for_bit():
  """Place and neighbours change nothing at all, only the program may."""
  _, first = _trained(FIRST)
  for name in ('last of 8', 'other neighbours'):
    members, p, devices = POPULATIONS[name]
    _, states = _trained(members, devices)
    for one, other in zip(first, states):
      chex.assert_trees_all_equal(
        _member(one.members, 0), _member(other.members, p)
      )
      for curve in one.curves:
        np.testing.assert_array_equal(
          one.curves[curve][0], other.curves[curve][p]
        )
  _, one = _trained(OTHER_SEED)
  _, other = _trained(SAME_CELL)
  chex.assert_trees_all_equal(
    _member(one[-1].members, 1), _member(other[-1].members, 0)
  )


def test_training_twice_is_equal_bit_for_bit():
  _, states = _trained(FIRST)
  again = _train(tiny_corpus.trainer(FIRST))
  chex.assert_trees_all_equal(
    states[-1]._replace(seconds=0), again[-1]._replace(seconds=0)
  )


def test_members_differ():
  """Seed and cell both matter; otherwise the tests above say nothing."""
  _, states = _trained(SAME_CELL)
  start = states[0].members
  assert not np.array_equal(*start.key)
  kernel_p = start.params['block0_conv']['kernel']
  assert np.abs(kernel_p[0] - kernel_p[1]).max() > 0.1
  losses = states[-1].curves['train_loss']
  assert np.abs(losses[0] - losses[1]).min() > 1e-3
  keys = {
    tuple(jax.random.key_data(population.member_key(seed, key)).tolist())
    for seed in range(20)
    for key in ('aa', 'ab', '0')
  }
  assert len(keys) == 60


def test_member_keys_are_these():
  """A table's rows can be trained again only while these stand."""
  key = SPACE.key(SPACE.parse(PROBE[0]))
  found = jax.random.key_data(population.member_key(1234, key)).tolist()
  assert found == [1903699077, 604707024]


def test_training_equals_a_plain_loop():
  """Two epochs of the last of eight: schedule, clipping, L2, dropout, CTC."""
  trainer, states = _trained(LAST)
  plain, steps, clipped = plain_training.train(
    trainer.job,
    trainer.members[7],
    trainer.prepared,
    tiny_corpus.corpus().train,
    _member(states[0].members.params, 7),
    epochs=2,
  )
  assert steps == states[-1].members.step[7] == 10 and clipped > 0
  for epoch, (loss, params) in enumerate(plain, start=1):
    curve = states[epoch].curves['train_loss']
    np.testing.assert_allclose(loss, curve[7, epoch - 1], rtol=1e-4)
    chex.assert_trees_all_close(
      params,
      _member(states[epoch].members.params, 7),
      rtol=1e-7,
      atol=2e-4,
    )


@functools.cache
def _wide():
  """Two seeds, buckets and devices: a trainer, its plan, before and after."""
  recipe = tiny_corpus.variant(batch_long=2, long_frames=41)
  macro = dataclasses.replace(MACRO, name='wide', lstm=100)
  members = [
    ([[5, 1], [0, 0, 1], [5, 0, 0, 1]], 7),
    ([[5, 1], [0, 1, 1], [5, 1, 0, 1]], 9),
  ]
  trainer = tiny_corpus.trainer(members, recipe, devices=2, macro=macro)
  prepared = trainer.prepared
  plan = batching.train_plan(prepared.bucket_u, prepared.buckets, (7, 9), 1)
  # Who waits for himself waits for ever.
  faulthandler.dump_traceback_later(300, exit=True)
  try:
    start = trainer.initial().members
    params_p = _host(start.params)
    arguments = trainer.train_arguments(start, plan, recipe.lr)
    members_p, loss_p = _host(trainer.programs.train(*arguments))
  finally:
    faulthandler.cancel_dump_traceback_later()
  return trainer, plan, params_p, members_p, loss_p


def test_a_wide_lstm_starts_on_two_devices():
  """Its orthogonal start once waited for itself, mapped over devices."""
  _, _, params_p, members_p, _ = _wide()
  wh_phk = params_p['lstm']['recurrent_kernel']
  assert wh_phk.shape == (2, 100, 400)
  np.testing.assert_allclose(
    wh_phk @ np.swapaxes(wh_phk, 1, 2),
    np.broadcast_to(np.eye(100), (2, 100, 100)),
    atol=1e-5,
  )
  assert members_p.alive.all()


def test_two_buckets_and_two_streams_equal_a_plain_loop():
  """Batches of four short utterances and of two long ones, in mixed order."""
  trainer, plan, params_p, members_p, loss_p = _wide()
  assert [b.batch for b in trainer.prepared.buckets] == [4, 2]
  assert np.sum(np.diff(plan.bucket_s) < 0) > 0
  for p, member in enumerate(trainer.members):
    split, params = tiny_corpus.corpus().train, _member(params_p, p)
    ((loss, params),), steps, _ = plain_training.train(
      trainer.job, member, trainer.prepared, split, params, epochs=1
    )
    assert steps == len(plan.bucket_s) == members_p.step[p]
    np.testing.assert_allclose(loss_p[p], loss, rtol=1e-4)
    chex.assert_trees_all_close(
      params, _member(members_p.params, p), rtol=1e-7, atol=2e-4
    )


def test_l2_decays_convolution_kernels_alone():
  trainer, states = _trained(FIRST)
  params = _member(states[-1].members.params, 0)
  gradient = jax.jit(jax.grad(common.conv_kernel_norm))(params)
  decayed = set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    name = '/'.join(entry.key for entry in path)
    if np.any(leaf):
      decayed.add(name)
      expected = params
      for entry in path:
        expected = expected[entry.key]
      np.testing.assert_allclose(leaf, 2 * expected, rtol=1e-6)
  assert decayed == {
    'block0_conv/kernel',
    'block0_cell0/node0_conv/kernel',
  }


def test_taps_that_are_not_there_stay_zero():
  for members in (FIRST, AMONG_STRANGERS):
    _, states = _trained(members)
    for p, (cell, _) in enumerate(members):
      op = SPACE.main_ops(SPACE.parse(cell))[0]
      taps = ops.CONVOLUTIONS[op][0]
      for state in states:
        for params in (state.members.params, state.best):
          kernel = params['block0_cell0']['node0_conv']['kernel'][p]
          assert not kernel[taps:].any() and kernel[:taps].any(), op
        for moment in (state.members.opt_state[1].mu,):
          assert not moment['block0_cell0']['node0_conv']['kernel'][
            p, taps:
          ].any()


# Members that diverge.


@pytest.mark.parametrize(
  'epoch, value, leaf',
  [
    (0, np.nan, ('head', 'bias')),
    (0, np.inf, ('block0_conv', 'kernel')),
    # Finite, and so is the loss; the sum of squared gradients is not.
    (1, 1e30, ('block0_cell0', 'node0_conv', 'kernel')),
    (1, np.nan, ('lstm', 'recurrent_kernel')),
  ],
)
def test_who_diverges_leaves_its_neighbours_alone(epoch, value, leaf):
  _, healthy = _trained(FIRST)
  victim = 3

  def poison(after, members_p):
    if after != epoch:
      return members_p
    return _poisoned(members_p, victim, value, leaf)

  states = _train(tiny_corpus.trainer(FIRST), poison)
  rest = np.arange(8) != victim
  chex.assert_trees_all_equal(
    jax.tree.map(lambda leaf: leaf[rest], states[-1]._replace(seconds=())),
    jax.tree.map(lambda leaf: leaf[rest], healthy[-1]._replace(seconds=())),
  )
  last = states[-1]
  assert last.diverged_epoch[victim] == epoch + 1
  assert not last.members.alive[victim] and last.members.alive[rest].all()
  for values in last.curves.values():
    assert np.isfinite(values[victim, :epoch]).all()
    assert np.isnan(values[victim, epoch:]).all()
  # It stays as it was.
  before, after = (states[n].members._replace(alive=None) for n in (epoch, -1))
  chex.assert_trees_all_equal(_member(before, victim), _member(after, victim))
  assert last.best_epoch[victim] == (healthy[1].best_epoch[victim] * epoch)


def test_all_may_diverge():
  def poison(after, members_p):
    for p in range(8):
      members_p = _poisoned(members_p, p, np.nan)
    return members_p

  states = _train(tiny_corpus.trainer(FIRST), poison)
  np.testing.assert_array_equal(states[-1].diverged_epoch, 1)
  np.testing.assert_array_equal(states[-1].best_epoch, 0)
  assert np.isnan(states[-1].curves['val_per']).all()


def test_a_break_in_the_last_step_is_noticed(monkeypatch):
  """Loss and gradient of the only step are finite; its result is not usable."""
  trainer = tiny_corpus.trainer(FIRST, tiny_corpus.variant(lr=1e30))
  first_step = jax.tree.map(lambda leaf: leaf[:1], trainer.plan(1))
  monkeypatch.setattr(trainer, 'plan', lambda *which: first_step)
  state = trainer.epoch(trainer.initial(), 1)
  assert np.asarray(state.members.alive).all()
  np.testing.assert_array_equal(state.diverged_epoch, 1)
  np.testing.assert_array_equal(state.best_epoch, 0)
  state = trainer.epoch(state, 2)
  np.testing.assert_array_equal(state.diverged_epoch, 1)
  for values in state.curves.values():
    assert np.isnan(values).all()


def test_padding_changes_nothing():
  members = FIRST[:5]
  trainer, padded = _trained(members, size=8)
  assert trainer.members[5:] == trainer.members[:1] * 3
  _, whole = _trained(FIRST)
  chex.assert_trees_all_equal(
    _member(padded[-1][:3], slice(5)), _member(whole[-1][:3], slice(5))
  )


# Devices.


def test_a_pass_moves_nothing_between_host_and_device():
  for members, devices in ((FIRST, 1), (PAIR, 2)):
    trainer, states = _trained(members, devices)
    state = trainer.initial()
    plan = batching.train_plan(
      trainer.prepared.bucket_u, trainer.prepared.buckets, (7,), 1
    )
    arguments = trainer.train_arguments(state.members, plan, RECIPE.lr)
    with jax.transfer_guard('disallow'):
      members_p, _ = trainer.programs.train(*arguments)
    chex.assert_trees_all_equal(_host(members_p), states[1].members)
  # The guard would have told.
  with (
    pytest.raises(Exception, match='Disallowed host-to-device'),
    jax.transfer_guard('disallow'),
  ):
    jnp.add(members_p.step, np.int32(1))


def test_a_population_is_traced_once(monkeypatch):
  """For all epochs, its curriculum's passes and every plan of batches."""
  chex.clear_trace_counter()
  for name in ('make_train_pass', 'make_eval_pass'):
    make = getattr(population, name)
    monkeypatch.setattr(
      population,
      name,
      lambda *args, make=make: chex.assert_max_traces(make(*args), n=1),
    )
  # A recipe that no other test has.
  recipe = dataclasses.replace(RECIPE, clip=0.321, curriculum=(10**9,))
  trainer = tiny_corpus.trainer([PROBE, *OTHERS[:1]], recipe)
  state = trainer.initial()
  for epoch in (1, 2):
    state = trainer.epoch(state, epoch)
  trainer.evaluate(state.best, 'test')
  assert state.members.step.tolist() == [15, 15]
