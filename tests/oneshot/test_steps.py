"""Steps and passes of a one-shot search, most of them on a toy of a network."""

import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import toy_supernet
from scipy import stats

from nasjax import spaces
from nasjax.data import batching
from nasjax.layers.mixed_op import Edge
from nasjax.oneshot import adapting, estimators, methods
from nasjax.oneshot import steps as steps_lib
from nasjax.oneshot.supernet import Supernet
from nasjax.training import batches
from nasjax.training.optimisers import per_candidate

TOY, WEIGHTS = toy_supernet.SUPERNET, toy_supernet.WEIGHTS
LR = 0.02


@pytest.fixture
def toy(monkeypatch):
  toy_supernet.install(monkeypatch)


def _data():
  prepared = tiny_corpus.prepared(toy_supernet.RECIPE)
  return prepared.train.example(), prepared.buckets


def _batch(first):
  data, buckets = _data()
  return batches.gather(data, first + np.arange(4), buckets[0])


def _state(method, seed=0, supernet=TOY, weights=WEIGHTS):
  return steps_lib.init(supernet, method, weights, jax.random.key(seed))


# Compiled once a method, whatever test asks.
@functools.cache
def _arch_step(method):
  return jax.jit(steps_lib.make_arch_step(TOY, method, WEIGHTS))


@functools.cache
def _weight_step(method):
  return jax.jit(steps_lib.make_weight_step(TOY, method, WEIGHTS))


@functools.cache
def _pass(method):
  buckets = _data()[1]
  return jax.jit(steps_lib.make_pass(TOY, method, WEIGHTS, buckets))


def _gradient(state, method, edge):
  """What the first architecture step saw, from Adam's first moment."""
  mu_k = np.asarray(state.alpha_opt[edge][1].mu)
  return mu_k / (1 - method.alpha_betas[0])


def test_a_weight_step_moves_what_ran_and_nothing_else(toy):
  method = methods.ST_NAS
  state, seen = _state(method), set()
  for s in range(6):
    after, loss, path_e = _weight_step(method)(state, _batch(s), LR, 1.0)
    assert np.isfinite(loss)
    chex.assert_trees_all_equal(after.alpha_e, state.alpha_e)
    chex.assert_trees_all_equal(after.alpha_opt, state.alpha_opt)
    assert after.step == s + 1
    counts = np.asarray(state.opt.count_g).copy()
    for n in range(3):
      seen.add((n, int(path_e[n])))
      counts[n * 3 + int(path_e[n])] += 1
      for k, op in enumerate(toy_supernet.OPS[:2]):
        trees = after.params, after.opt.first, after.opt.second
        before = state.params, state.opt.first, state.opt.second
        for new, old in zip(trees, before, strict=True):
          new, old = (t[f'node{n}_{op}']['kernel'] for t in (new, old))
          if path_e[n] != k:
            np.testing.assert_array_equal(new, old)
    counts[-1] += 1
    np.testing.assert_array_equal(after.opt.count_g, counts)
    assert (after.params['head'] != state.params['head']).any()
    state = after
  # Both of moving and resting were seen at each node.
  assert all(len({k for m, k in seen if m == n}) > 1 for n in range(3))


def _one_step(method, seed=0):
  state = _state(method, seed)
  return state, *_arch_step(method)(state, _batch(0), _batch(4), LR, 1.0)


ARCH_METHODS = (
  methods.ST_NAS,
  methods.PROXYLESS,
  methods.PROXYLESS_TWO,
  methods.GDAS,
  methods.GDAS_CODE,
  methods.DARTS,
)


@pytest.mark.parametrize('method', ARCH_METHODS, ids=lambda m: m.name)
def test_an_architecture_step_moves_alpha_alone(toy, method):
  before, after, loss, _ = _one_step(method)
  assert np.isfinite(loss)
  assert after.alive
  alphas = list(zip(before.alpha_e, after.alpha_e, strict=True))
  assert any((new != old).any() for old, new in alphas)
  assert all(np.isfinite(new).all() for _, new in alphas)
  chex.assert_trees_all_equal(
    before._replace(alpha_e=(), alpha_opt=()),
    after._replace(alpha_e=(), alpha_opt=()),
  )


def test_one_path_in_memory_finds_the_gradient_of_all_at_once(toy):
  _, recomputed, loss, path_e = _one_step(methods.PROXYLESS)
  _, straight, same_loss, same_e = _one_step(methods.PROXYLESS_FULL)
  np.testing.assert_array_equal(path_e, same_e)
  assert loss == same_loss
  for e in range(4):
    found_k = _gradient(recomputed, methods.PROXYLESS, e)
    expected_k = _gradient(straight, methods.PROXYLESS_FULL, e)
    np.testing.assert_allclose(found_k, expected_k, rtol=1e-5, atol=1e-8)
    assert np.abs(expected_k).max() > 1e-6


def test_a_pair_moves_without_changing_its_mass(toy):
  method = methods.PROXYLESS_TWO
  for seed in range(3):
    before, after, _, _ = _one_step(method, seed)
    edge_e = estimators.draw(
      method.estimator,
      steps_lib.stream(before, steps_lib.ARCH_PATHS),
      before.alpha_e,
      1.0,
    )
    zipped = zip(edge_e, before.alpha_e, after.alpha_e, strict=True)
    for edge, old_k, new_k in zipped:
      pair = np.array([edge.index, edge.other])
      others = np.setdiff1d(np.arange(old_k.size), pair)
      np.testing.assert_array_equal(new_k[others], old_k[others])
      assert (new_k[pair] != old_k[pair]).any()
      np.testing.assert_allclose(
        np.exp(np.float64(new_k[pair])).sum(),
        np.exp(np.float64(old_k[pair])).sum(),
        rtol=1e-6,
      )


def test_gradients_of_gdas_are_of_what_ran(toy):
  before, after, _, path_e = _one_step(methods.GDAS)
  # As released, each weight that is not used adds itself to the output.
  _, code, _, same_e = _one_step(methods.GDAS_CODE)
  np.testing.assert_array_equal(path_e, same_e)
  differ = 0
  for e in range(4):
    grad_k = _gradient(after, methods.GDAS, e)
    decayed_k = methods.GDAS.alpha_decay * np.asarray(before.alpha_e[e])
    np.testing.assert_allclose((grad_k - decayed_k).sum(), 0, atol=1e-7)
    # An absent skip and the zero operation give nothing to multiply with.
    nothing = path_e[e] == (0 if e == 3 else toy_supernet.OPS.index('zero'))
    assert (np.abs(grad_k - decayed_k).max() < 1e-9) == nothing
    differ += not np.allclose(grad_k, _gradient(code, methods.GDAS_CODE, e))
  assert differ > 0


def test_an_edge_at_rest_keeps_alpha_and_its_optimiser(toy):
  # With a momentum that would move it all the same.
  method = dataclasses.replace(
    methods.PROXYLESS, rest_at_zero=True, alpha_betas=(0.9, 0.999)
  )
  zero, rested = toy_supernet.OPS.index('zero'), 0
  state = _state(method)
  for s in range(6):
    state = state._replace(step=jnp.int32(s))
    after, _, path_e = _arch_step(method)(state, _batch(s), None, LR, 1.0)
    for e in range(4):
      new = after.alpha_e[e], after.alpha_opt[e]
      old = state.alpha_e[e], state.alpha_opt[e]
      if e < 3 and path_e[e] == zero:
        chex.assert_trees_all_equal(new, old)
        rested += s > 0
      else:
        assert (new[0] != old[0]).any()
    state = after
  assert rested > 0


def test_a_single_level_step_moves_both_from_one_draw(toy):
  method = methods.SNAS
  state = _state(method)
  step = jax.jit(steps_lib.make_joint_step(TOY, method, WEIGHTS))
  after, loss, path_e = step(state, _batch(0), LR, 0.5)
  loss_of = toy_supernet.make_loss(TOY, WEIGHTS, 'mixed')
  key = steps_lib.stream(state, steps_lib.PATHS)
  edge_e = estimators.draw(estimators.gumbel_softmax, key, state.alpha_e, 0.5)

  def objective(alpha_e, params):
    edge_e = estimators.draw(estimators.gumbel_softmax, key, alpha_e, 0.5)
    return loss_of(params, edge_e, _batch(0), None)[0]

  expected, (grads_e, grads) = jax.jit(
    jax.value_and_grad(objective, argnums=(0, 1))
  )(state.alpha_e, state.params)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_array_equal(path_e, [edge.index for edge in edge_e])
  for e in range(4):
    decayed_k = method.alpha_decay * state.alpha_e[e]
    np.testing.assert_allclose(
      _gradient(after, method, e), grads_e[e] + decayed_k, rtol=1e-4, atol=1e-7
    )
  # The first step of Adam is lr, against the sign of the gradient.
  moved = after.params['head'] - state.params['head']
  large = np.abs(grads['head']) > 1e-4
  np.testing.assert_allclose(
    moved[large], -LR * np.sign(grads['head'][large]), rtol=1e-2
  )


def test_a_loss_that_is_not_finite_ends_all_change(toy):
  method = methods.ST_NAS
  state = _state(method)
  bad = _batch(0)._replace(x_btf=jnp.full_like(_batch(0).x_btf, jnp.nan))
  weight, arch = _weight_step(method), _arch_step(method)
  for after, _, _ in (
    weight(state, bad, LR, 1.0),
    arch(state, bad, _batch(4), LR, 1.0),
  ):
    assert not after.alive
    chex.assert_trees_all_equal(after._replace(alive=state.alive), state)
    # Good batches do not wake it.
    again, _, _ = weight(after, _batch(0), LR, 1.0)
    last, _, _ = arch(again, _batch(0), _batch(4), LR, 1.0)
    chex.assert_trees_all_equal(last, after)


def _train_plan(prepared, keep_u, epoch):
  return batching.train_plan(
    prepared.bucket_u, prepared.buckets, (0,), epoch, keep_u
  )


def _plans(steps):
  """Plans of training and of held-out batches."""
  prepared = tiny_corpus.prepared(toy_supernet.RECIPE)
  keep_u = np.arange(18) < 12
  plans = [
    _train_plan(prepared, keep_u, 1),
    _train_plan(prepared, ~keep_u, 2),
  ]
  repeats = [np.resize(np.arange(len(p.bucket_s)), steps) for p in plans]
  return [
    type(plan)(*(leaf[order] for leaf in plan))
    for plan, order in zip(plans, repeats, strict=True)
  ]


@pytest.fixture(scope='module')
def every_second():
  return dataclasses.replace(methods.ST_NAS, name='second', arch_every=2)


def test_a_pass_is_its_steps_one_after_the_other(toy, every_second):
  method, (data, buckets), steps = every_second, _data(), 5
  plan, held_out = _plans(steps)
  state = _state(method)
  found, log = _pass(method)(state, data, plan, held_out, LR, 1.0, True, True)
  for s in range(steps):
    train, held = (
      batches.gather(data, p.index_skb[s, 0], buckets[0])
      for p in (plan, held_out)
    )
    # The architecture first, on what is held out.
    if s % 2 == 0:
      state, loss, path_e = _arch_step(method)(state, held, None, LR, 1.0)
      np.testing.assert_allclose(log.held_out_s[s], loss, rtol=1e-5)
      np.testing.assert_array_equal(log.arch_path_se[s], path_e)
    else:
      assert np.isnan(log.held_out_s[s])
      assert (log.arch_path_se[s] == -1).all()
    state, loss, path_e = _weight_step(method)(state, train, LR, 1.0)
    np.testing.assert_allclose(log.loss_s[s], loss, rtol=1e-5)
    np.testing.assert_array_equal(log.path_se[s], path_e)
  chex.assert_trees_all_close(found, state, rtol=1e-4, atol=1e-6)
  # Draws of the two kinds of steps are not the same.
  assert (log.arch_path_se[::2] != log.path_se[::2]).any()


@pytest.mark.parametrize('searching', [False, True])
def test_warm_up_and_rest_leave_alpha_alone(toy, every_second, searching):
  data, _ = _data()
  state = _state(every_second)
  found, log = _pass(every_second)(
    state, data, *_plans(5), LR, 1.0, searching, False
  )
  chex.assert_trees_all_equal(found.alpha_e, state.alpha_e)
  chex.assert_trees_all_equal(found.alpha_opt, state.alpha_opt)
  assert np.isnan(log.held_out_s).all()
  assert (log.arch_path_se == -1).all()
  assert (log.path_se >= 0).all()


def test_a_pass_of_weights_alone_leaves_the_architecture_bit_for_bit(toy):
  fixed = adapting.method(methods.DARTS_ASR, 'parameters')
  (data, _), (plan, held_out) = _data(), _plans(3)
  state = _state(dataclasses.replace(fixed, alpha_init=0.5))
  found, _ = _pass(fixed)(state, data, plan, held_out, LR, 1.0, True, True)
  chex.assert_trees_all_equal(found.alpha_e, state.alpha_e)
  chex.assert_trees_all_equal(found.alpha_opt, state.alpha_opt)
  assert found.step == 3
  moved = jax.tree.map(
    lambda new, old: (new != old).all(), found.params, state.params
  )
  assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize('method', [methods.SNAS, methods.GDAS])
def test_warm_up_draws_as_warm_up_does(toy, method):
  data, buckets = _data()
  state, (plan, held_out) = _state(method), _plans(2)
  found, log = _pass(method)(state, data, plan, held_out, LR, 0.5, False, False)
  chex.assert_trees_all_equal(found.alpha_e, state.alpha_e)
  chex.assert_trees_all_equal(found.alpha_opt, state.alpha_opt)
  own = dataclasses.replace(method, estimator=method.warm_up)
  for s in range(2):
    batch = batches.gather(data, plan.index_skb[s, 0], buckets[0])
    state, loss, path_e = _weight_step(own)(state, batch, LR, 0.5)
    np.testing.assert_allclose(log.loss_s[s], loss, rtol=1e-5)
    np.testing.assert_array_equal(log.path_se[s], path_e)


def test_the_expected_loss_is_the_mean_over_what_has_an_alignment(toy):
  data, buckets = _data()
  method = methods.ST_NAS
  state = _state(method)._replace(
    alpha_e=tuple(
      30.0 * jnp.eye(len(names))[1 % len(names)] for _, names in TOY.edges
    )
  )
  program = jax.jit(steps_lib.make_expected(TOY, method, WEIGHTS, buckets))
  prepared = tiny_corpus.prepared(toy_supernet.RECIPE)
  # Seven utterances: a batch of four and one of three.
  plan = _train_plan(prepared, np.arange(18) < 7, 1)
  # Of one utterance a single frame is left, which no transcript fits into.
  short = data._replace(frames_u=data.frames_u.at[2].set(1))
  loss_of = jax.jit(toy_supernet.make_loss(TOY, WEIGHTS, 'path'))
  edge_e = tuple(estimators.fixed(1, len(names)) for _, names in TOY.edges)
  for kept, missing in ((data, set()), (short, {2})):
    total = count = 0
    for index_b in plan.index_skb[:, 0]:
      batch = batches.gather(kept, index_b, buckets[0])
      rows = len(set(index_b[index_b >= 0]) - missing)
      loss, _ = loss_of(state.params, edge_e, batch, None)
      total += rows * float(loss)
      count += rows
    assert count == 7 - len(missing)
    found = program(state, kept, plan, 1.0)
    np.testing.assert_allclose(found, total / count, rtol=1e-5)


@pytest.mark.parametrize('kind', ['sgd', 'adam'])
@pytest.mark.parametrize(
  'method',
  [methods.DARTS_SECOND, methods.DARTS_DIFFERENCES],
  ids=lambda m: m.name,
)
@pytest.mark.parametrize('xi', [0.3, 0.0])
def test_the_unrolled_gradient_in_closed_form(monkeypatch, kind, method, xi):
  # L(w, alpha) = 1/2 sum_i c_i (w_i - alpha_i)^2, c of the batch.
  def make_loss(supernet, weights, mode, twice=False):
    del supernet, weights, mode, twice
    return lambda params, edge_e, c_i, key, constants: (
      0.5 * jnp.sum(c_i * jnp.square(params['w'] - edge_e[0].weight_k)),
      len(c_i),
    )

  monkeypatch.setattr(steps_lib, 'make_loss', make_loss)
  method = dataclasses.replace(
    method,
    estimator=lambda key, alpha_k, temperature: Edge(
      alpha_k, jnp.int32(0), jnp.int32(0)
    ),
    alpha_decay=0.0,
  )
  names = ('a', 'b')
  scalar = types.SimpleNamespace(edges=(('op1', names),), ops=names)
  weights = steps_lib.Weights(kind, WEIGHTS.recipe, momentum=0.9, decay=0.1)
  w_i, alpha_i, m_i = np.array([[1.5, -0.5], [0.25, 2.0], [0.3, -0.7]])
  train_i, held_i = np.array([[1.0, 2.0], [0.5, 3.0]])
  state = _closed_form_state(method, weights, w_i, alpha_i, m_i)
  step = jax.jit(steps_lib.make_arch_step(scalar, method, weights))
  after, loss, _ = step(
    state, jnp.float32(held_i), jnp.float32(train_i), jnp.float32(xi), 1.0
  )
  momentum, decay = (0.9, 0.1) if kind == 'sgd' else (0.0, 0.0)
  ahead_i = w_i - xi * (
    momentum * m_i + train_i * (w_i - alpha_i) + decay * w_i
  )
  v_i = held_i * (ahead_i - alpha_i)
  expected_i = -v_i + xi * train_i * v_i
  found_i = _gradient(after, method, 0)
  exact = not method.differences
  np.testing.assert_allclose(found_i, expected_i, rtol=1e-5 if exact else 1e-2)
  expected_loss = 0.5 * (held_i * (ahead_i - alpha_i) ** 2).sum()
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  if xi == 0.0:
    first = dataclasses.replace(method, order=1)
    step = jax.jit(steps_lib.make_arch_step(scalar, first, weights))
    one, _, _ = step(state, jnp.float32(held_i), None, jnp.float32(xi), 1.0)
    np.testing.assert_array_equal(found_i, _gradient(one, method, 0))


def _closed_form_state(method, weights, w_i, alpha_i, m_i):
  """A state of two weights and as many architecture parameters."""
  params = {'w': jnp.float32(w_i)}
  pair = per_candidate.make(weights.kind, weights.rule, None, 0)
  opt = pair.init(params)
  opt = opt._replace(first={'w': jnp.float32(m_i)})
  state = _state(method)
  return state._replace(
    params=params,
    opt=opt,
    alpha_e=(jnp.float32(alpha_i),),
    alpha_opt=(
      jax.tree.map(
        lambda leaf: leaf[:2] if leaf.ndim else leaf, state.alpha_opt[0]
      ),
    ),
  )


def test_draws_of_the_steps_have_their_laws():
  alpha_e = (jnp.array([0.5, -0.5, 0.0]), jnp.array([1.0, 0.0]))
  state = types.SimpleNamespace(key=jax.random.key_data(jax.random.key(5)))

  @functools.partial(jax.jit, static_argnums=0)
  def drawn(estimator, stream):
    def one(step):
      at = types.SimpleNamespace(key=state.key, step=step)
      edge_e = estimators.draw(estimator, steps_lib.stream(at, stream), alpha_e)
      return jnp.stack([edge.index for edge in edge_e])

    return jax.vmap(one)(jnp.arange(6000))

  law_e = [np.exp(alpha_k) / np.exp(alpha_k).sum() for alpha_k in alpha_e]
  found = {}
  for estimator, (p_k, q_k) in (
    (estimators.uniform, (np.full(3, 1 / 3), np.full(2, 1 / 2))),
    (estimators.straight_through, law_e),
  ):
    path_se = np.asarray(drawn(estimator, steps_lib.PATHS))
    # Of both edges together, so that they are independent, too.
    count_k = np.bincount(path_se[:, 0] * 2 + path_se[:, 1], minlength=6)
    law_k = np.float64(np.outer(p_k, q_k)).ravel()
    law_k /= law_k.sum()
    assert stats.chisquare(count_k, law_k * 6000).pvalue > 1e-5
    # Nor does one step tell the next.
    pairs_k = np.bincount(path_se[:-1, 0] * 3 + path_se[1:, 0], minlength=9)
    law_k = np.float64(np.outer(p_k, p_k)).ravel()
    law_k /= law_k.sum()
    assert stats.chisquare(pairs_k, law_k * 5999).pvalue > 1e-5
    found[estimator] = path_se
  # Architecture steps draw for themselves.
  own_se = np.asarray(drawn(estimators.straight_through, steps_lib.ARCH_PATHS))
  assert (own_se != found[estimators.straight_through]).any(1).mean() > 0.3


def test_the_exact_second_order_agrees_with_differences_on_a_network():
  # One node and an LSTM: every kind of derivative that a network has.
  space = dataclasses.replace(spaces.NB_ASR, skips=(1,))
  supernet = Supernet(space, tiny_corpus.MACRO, ('linear', 'conv5'), ('s00',))
  weights = steps_lib.Weights('sgd', toy_supernet.RECIPE, 0.9, 3e-4)
  found = {}
  # At a rate of 0 the step ahead is none: the first order.
  for name, lr in (
    ('darts_second', 0.1),
    ('darts_differences', 0.1),
    ('darts_second', 0.0),
  ):
    method = dataclasses.replace(
      methods.METHODS[name], alpha_decay=0.0, alpha_init=0.5
    )
    state = _state(method, 0, supernet, weights)
    step = found.get(name, (None,))[-1] or jax.jit(
      steps_lib.make_arch_step(supernet, method, weights)
    )
    after, loss, _ = step(state, _batch(0), _batch(8), np.float32(lr), 1.0)
    assert np.isfinite(loss)
    grad = np.concatenate([_gradient(after, method, e) for e in (0, 1)])
    found[name if lr else 'first'] = grad, step
  exact, differences, first = (
    found[name][0] for name in ('darts_second', 'darts_differences', 'first')
  )
  size = np.linalg.norm(exact)
  assert np.linalg.norm(exact - differences) < 1e-2 * size
  # And both are something else than the first order.
  assert np.linalg.norm(exact - first) > 2e-2 * size
