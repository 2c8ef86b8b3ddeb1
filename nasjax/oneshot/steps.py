"""Steps and passes of a one-shot search, the same for every method.

A pass is one program over the batches of an epoch. In warm-up it trains weights
alone; in the search each weight step on a training batch may be preceded by an
architecture step on a held-out batch (bilevel methods), or both may come from
one loss (single level). Which of the two it is, is data: a supernet takes long
to compile, and both share the program.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from nasjax.layers import dropout
from nasjax.losses import criterion
from nasjax.models import common, families
from nasjax.oneshot import estimators
from nasjax.training import batches
from nasjax.training import step as step_lib
from nasjax.training.optimisers import one_pass, per_candidate

# Streams of random numbers of a search, all from its one key.
INIT, ALPHA, DROPOUT, ARCH_DROPOUT, PATHS, ARCH_PATHS, EXPECTED = range(7)


class State(NamedTuple):
  """State of a search.

  Attributes:
    params: shared weights.
    opt: `per_candidate.State` of these.
    alpha_e: architecture parameters, an array for each edge.
    alpha_opt: Adam's state of each of these.
    step: int32, weight steps so far.
    alive: bool, False from the first non-finite loss or gradient on; nothing
      changes any more then.
    key: uint32 (2,), the source of all random numbers.
  """

  params: dict
  opt: per_candidate.State
  alpha_e: tuple
  alpha_opt: tuple
  step: jax.Array
  alive: jax.Array
  key: jax.Array


class Weights(NamedTuple):
  """How shared weights are trained.

  Attributes:
    kind: of `per_candidate.KINDS`.
    recipe: `Recipe`: clip, Adam's epsilon, dropout, batches, loss.
    momentum, decay: of SGD; decay is added to the gradient.
  """

  kind: str
  recipe: object
  momentum: float = 0.9
  decay: float = 3e-4

  @property
  def rule(self):
    return self.recipe, self.momentum, self.decay


def stream(state, number):
  """Returns the key of one stream at the present step."""
  key = jax.random.wrap_key_data(state.key, impl='threefry2x32')
  return jax.random.fold_in(jax.random.fold_in(key, number), state.step)


def weight_optimiser(supernet, weights, lr=None):
  """Returns the optimiser of the shared weights, of `per_candidate.make`."""
  return per_candidate.make(
    weights.kind, weights.rule, supernet.groups, supernet.group_count, lr
  )


def _alpha_optimiser(method):
  b1, b2 = method.alpha_betas
  return optax.chain(
    optax.add_decayed_weights(method.alpha_decay),
    optax.scale_by_adam(b1, b2, eps=1e-8),
    optax.scale(-method.alpha_lr),
  )


def init(supernet, method, weights, key):
  """Returns the first state of a search.

  Args:
    supernet: `Supernet`.
    method: `Method`.
    weights: `Weights`.
    key: a JAX random key.
  """
  alpha_e = supernet.alpha(jax.random.fold_in(key, ALPHA), method.alpha_init)
  network = supernet.network(weights.recipe, 'path')
  first = supernet.gates_of([0] * len(supernet.edges))
  params = common.initial_params(network, jax.random.fold_in(key, INIT), first)
  return State(
    params,
    weight_optimiser(supernet, weights).init(params),
    alpha_e,
    tuple(map(_alpha_optimiser(method).init, alpha_e)),
    jnp.zeros((), jnp.int32),
    jnp.ones((), bool),
    jax.random.key_data(key),
  )


def make_loss(supernet, weights, mode, twice=False):
  """Returns the loss of networks that share weights.

  Returns:
    function of (params, edge_e, batch, key, constants) that returns the mean
    loss, and a pair: of how many utterances it is the mean (those that are
    valid), and what of the parameters a step replaces (`families.observed`).
  """
  recipe = weights.recipe
  network = supernet.network(recipe, mode, twice)
  held = criterion.of(recipe)

  def loss(params, edge_e, batch, key, constants):
    found, outputs, seen = step_lib.observed(
      network,
      recipe,
      params,
      supernet.gates(edge_e),
      batch,
      key,
      constants=constants,
    )
    rows = jnp.sum(batch.weight_b * held.valid(outputs, batch))
    return found, (rows, seen)

  return loss


def _drawn(method, key, alpha_e, temperature, searching):
  """Draws the edges of a weight step, in warm-up as the method does there."""
  return lax.cond(
    searching,
    functools.partial(estimators.draw, method.estimator),
    functools.partial(estimators.draw, method.warm_up),
    key, alpha_e, temperature,
  )  # fmt: skip


def make_weight_step(supernet, method, weights):
  """Returns the update of the shared weights.

  Returns:
    function of (state, batch, lr, temperature, searching, constants) that
    returns the state, the loss and the candidates that ran. Candidates are
    drawn as in warm-up unless `searching` (bool); `constants` are those of the
    loss (`criterion.Criterion`), as everywhere below.
  """
  loss_of = make_loss(supernet, weights, method.weight_mode)

  def weight_step(
    state, batch, lr, temperature, searching=True, constants=None
  ):
    key = stream(state, PATHS)
    edge_e = _drawn(method, key, state.alpha_e, temperature, searching)
    key = dropout.step_key(stream(state, DROPOUT), 0)
    (loss, (_, seen)), grads = jax.value_and_grad(loss_of, has_aux=True)(
      state.params, edge_e, batch, key, constants
    )
    state = _updated(
      supernet, method, weights, state, loss, grads, seen, edge_e, lr
    )
    return state, loss, _indices(edge_e)

  return weight_step


def _updated(supernet, method, weights, state, loss, grads, seen, edge_e, lr):
  """Returns the state after an update of the weights."""
  active_g = (
    supernet.active(edge_e)
    if method.sampled
    else jnp.ones(supernet.group_count, bool)
  )
  params, opt, made = one_pass.step(
    weight_optimiser(supernet, weights, lr),
    grads,
    state.opt,
    state.params,
    state.alive & jnp.isfinite(loss),
    active_g=active_g,
  )
  params = families.replaced(params, seen, made)
  return state._replace(
    params=params, opt=opt, step=state.step + made, alive=made
  )


def _indices(edge_e):
  return jnp.stack([edge.index for edge in edge_e])


def make_arch_step(supernet, method, weights):
  """Returns the update of the architecture parameters.

  Returns:
    function of (state, held_out batch, training batch, lr, temperature,
    constants) that returns the state, the loss and the candidates that ran. The
    training batch and lr, that of the weights, matter for the second order
    only.
  """
  twice = method.order == 2 and not method.differences
  loss_of = make_loss(supernet, weights, method.arch_mode, twice)

  def arch_step(state, held_out, batch, lr, temperature, constants=None):
    key = dropout.step_key(stream(state, ARCH_DROPOUT), 0)
    k_paths = stream(state, ARCH_PATHS)

    def objective(alpha_e, params, batch):
      edge_e = estimators.draw(method.estimator, k_paths, alpha_e, temperature)
      return loss_of(params, edge_e, batch, key, constants)[0], edge_e

    if method.order == 1:
      (loss, edge_e), grads_e = jax.value_and_grad(objective, has_aux=True)(
        state.alpha_e, state.params, held_out
      )
    else:
      loss, edge_e, grads_e = _unrolled(
        method, weights, objective, state, held_out, batch, lr
      )
    state = _alpha_updated(supernet, method, state, loss, grads_e, edge_e)
    return state, loss, _indices(edge_e)

  return arch_step


def _alpha_updated(
  supernet, method, state, loss, grads_e, edge_e, searching=True
):
  """Returns the state after an update of the architecture parameters.

  They rest in warm-up, that is unless `searching`.
  """
  made = state.alive & jnp.isfinite(loss) & _finite(grads_e)
  update = _alpha_optimiser(method).update
  found_e = []
  for (_, names), edge, grad_k, alpha_k, opt in zip(
    supernet.edges, edge_e, grads_e, state.alpha_e, state.alpha_opt, strict=True
  ):
    change_k, new_opt = update(grad_k, opt, alpha_k)
    new_k = alpha_k + change_k
    if method.arch_mode == 'pair':
      new_k = estimators.keep_pair_mass(alpha_k, new_k, edge)
    moves = made & searching
    if method.rest_at_zero and 'zero' in names:
      moves &= edge.index != names.index('zero')
    found_e.append(_where(moves, (new_k, new_opt), (alpha_k, opt)))
  alpha_e, alpha_opt = zip(*found_e)
  return state._replace(alpha_e=alpha_e, alpha_opt=alpha_opt, alive=made)


def _where(condition, new, old):
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _finite(tree):
  leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
  return functools.reduce(jnp.logical_and, leaves)


def _unrolled(method, weights, objective, state, held_out, batch, lr):
  """DARTS's gradient of the second order (Liu et al. 2019, section 2.3).

  With w' = w - lr (momentum * m + dL_train/dw + decay * w), the step that SGD
  would make, and v = dL_val(w')/dw':

    dL_val(w')/dalpha - lr * d2L_train/(dalpha dw) v

  Where Adam trains the weights, the step unrolled is that of plain SGD.
  """
  alpha_e, params = state.alpha_e, state.params
  momentum, decay = (0.0, 0.0) if weights.kind == 'adam' else weights.rule[1:]

  def train_grad(params, alpha_e):
    return jax.grad(lambda p: objective(alpha_e, p, batch)[0])(params)

  ahead = jax.tree.map(
    lambda w, m, g: w - lr * (momentum * m + g + decay * w),
    params,
    state.opt.first,
    train_grad(params, alpha_e),
  )
  (loss, edge_e), (direct_e, v) = jax.value_and_grad(
    objective, argnums=(0, 1), has_aux=True
  )(alpha_e, ahead, held_out)
  if method.differences:
    mixed_e = _central_differences(objective, alpha_e, params, v, batch)
  else:
    mixed_e = jax.grad(lambda a: optax.tree.vdot(train_grad(params, a), v))(
      alpha_e
    )
  grads_e = jax.tree.map(lambda d, m: d - lr * m, direct_e, mixed_e)
  return loss, edge_e, grads_e


def _central_differences(objective, alpha_e, params, v, batch):
  """The mixed second derivative times v, as the released code of DARTS has it.

  epsilon = 0.01 / |v|.
  """
  epsilon = 0.01 / optax.tree.norm(v)

  def alpha_grad(sign):
    moved = jax.tree.map(lambda w, v: w + sign * epsilon * v, params, v)
    return jax.grad(lambda a: objective(a, moved, batch)[0])(alpha_e)

  return jax.tree.map(
    lambda up, down: (up - down) / (2 * epsilon),
    alpha_grad(1.0),
    alpha_grad(-1.0),
  )


def make_joint_step(supernet, method, weights):
  """Returns the update of weights and architecture from one loss (SNAS).

  Called as `make_weight_step`'s; in warm-up the architecture rests.
  """
  loss_of = make_loss(supernet, weights, method.weight_mode)

  def joint_step(state, batch, lr, temperature, searching=True, constants=None):
    key = dropout.step_key(stream(state, DROPOUT), 0)
    k_paths = stream(state, PATHS)

    def objective(params, alpha_e):
      edge_e = _drawn(method, k_paths, alpha_e, temperature, searching)
      loss, (_, seen) = loss_of(params, edge_e, batch, key, constants)
      return loss, (edge_e, seen)

    (loss, (edge_e, seen)), (grads, grads_e) = jax.value_and_grad(
      objective, argnums=(0, 1), has_aux=True
    )(state.params, state.alpha_e)
    state = _alpha_updated(
      supernet, method, state, loss, grads_e, edge_e, searching
    )
    state = _updated(
      supernet, method, weights, state, loss, grads, seen, edge_e, lr
    )
    return state, loss, _indices(edge_e)

  return joint_step


class Log(NamedTuple):
  """What a pass tells.

  Attributes:
    loss_s: training loss of each weight step.
    held_out_s: loss of each architecture step, NaN where there was none.
    path_se: int32, candidates that ran in each weight step.
    arch_path_se: int32, those of each architecture step, -1 for none.
  """

  loss_s: jax.Array
  held_out_s: jax.Array
  path_se: jax.Array
  arch_path_se: jax.Array


def _over_buckets(buckets, plan, s, function):
  """Calls function(batch indices, bucket) with the s-th batch of a plan."""
  branches = [functools.partial(function, bucket) for bucket in buckets]
  return lax.switch(plan.bucket_s[s], branches, plan.index_skb[s, 0])


def make_pass(supernet, method, weights, buckets):
  """Returns the program of one pass.

  Args:
    supernet: `Supernet`.
    method: `Method`.
    weights: `Weights`.
    buckets: shapes of the batches.

  Returns:
    function of (state, data, plan, held_out plan, lr, temperature, searching,
    moving, constants) that returns the state and a `Log`. Both plans have as
    many batches.
    `searching` is False for warm-up; `moving` also where a search rests its
    architecture parameters (`Method.rest_epochs`).
  """
  make_step = make_joint_step if method.single_level else make_weight_step
  weight_step = make_step(supernet, method, weights)
  bilevel = method.bilevel
  arch_step = make_arch_step(supernet, method, weights)

  def gathered(data, index_b, bucket):
    return batches.gather(data, index_b[: bucket.batch], bucket)

  def run_pass(
    state,
    data,
    plan,
    held_out,
    lr,
    temperature,
    searching,
    moving,
    constants=None,
  ):
    steps, edges = plan.bucket_s.shape[0], len(supernet.edges)

    def train(bucket, index_b, state):
      batch = gathered(data, index_b, bucket)
      return weight_step(state, batch, lr, temperature, searching, constants)

    def architecture(s, state):
      def on_held_out(bucket, index_b):
        held = gathered(data, index_b, bucket)
        if method.order == 1:
          return arch_step(state, held, None, lr, temperature, constants)
        return _over_buckets(
          buckets,
          plan,
          s,
          lambda b, index_b: arch_step(
            state, held, gathered(data, index_b, b), lr, temperature, constants
          ),
        )

      return _over_buckets(buckets, held_out, s, on_held_out)

    def body(state, s):
      held_loss = jnp.float32(jnp.nan)
      arch_path_e = jnp.full(edges, -1, jnp.int32)
      if bilevel:
        state, held_loss, arch_path_e = lax.cond(
          moving & (state.step % method.arch_every == 0),
          functools.partial(architecture, s),
          lambda state: (state, held_loss, arch_path_e),
          state,
        )
      state, loss, path_e = _over_buckets(
        buckets, plan, s, lambda b, index_b: train(b, index_b, state)
      )
      return state, Log(loss, held_loss, path_e, arch_path_e)

    return lax.scan(body, state, jnp.arange(steps))

  return run_pass


def make_expected(supernet, method, weights, buckets):
  """Returns the mean loss of networks drawn anew for each batch.

  The expected performance of what alpha_e says, not that of its best network
  (Zheng, An and Ou 2021, section 3): for methods that mix, that of the mixture.

  Returns:
    function of (state, data, plan, temperature, constants).
  """
  loss_of = make_loss(supernet, weights, method.weight_mode)

  def expected(state, data, plan, temperature, constants=None):
    def one(bucket, index_b, s):
      batch = batches.gather(data, index_b[: bucket.batch], bucket)
      key = jax.random.fold_in(stream(state, EXPECTED), s)
      edge_e = estimators.draw(
        method.estimator, key, state.alpha_e, temperature
      )
      loss, (rows, _) = loss_of(state.params, edge_e, batch, None, constants)
      # The mean was over the rows that are valid: so must the sum be.
      return loss * rows, rows

    def body(total, s):
      found = _over_buckets(
        buckets, plan, s, lambda b, index_b: one(b, index_b, s)
      )
      return jax.tree.map(jnp.add, total, found), None

    zero = jnp.zeros(())
    (total, rows), _ = lax.scan(
      body, (zero, zero), jnp.arange(plan.bucket_s.shape[0])
    )
    return total / jnp.maximum(rows, 1)

  return expected
