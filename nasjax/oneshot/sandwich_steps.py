"""Steps and passes of a supernet whose networks are parts of the largest.

The largest network sees a whole batch, its students a quarter of it each; their
gradients are summed, and there is one step of the optimiser (`sandwich`).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax.layers import dropout
from nasjax.losses import criterion
from nasjax.models import families
from nasjax.oneshot import steps as steps_lib
from nasjax.training import augmentation, batches, optimisers
from nasjax.training.optimisers import one_pass

# A student has this share of the rows of a batch.
SHARE = 4


class State(NamedTuple):
  """A supernet in training.

  Attributes:
    params: of the largest network.
    opt: of the first optimiser.
    late: of ScaledAdam; () where it does not train.
    step: int32, updates so far.
    alive: bool, False from the first non-finite loss or gradient on; nothing
      changes any more then.
    key: uint32 (2,), the source of dropout.
    history: float64 arrays [epochs] by name, NaN where nothing is yet; and
      `archs`, int8 [epochs, steps, students, decisions], -1 likewise, and
      `scores` [epochs, ..] behind each epoch, where there are any. On the host.
  """

  params: dict
  opt: tuple
  late: tuple
  step: jax.Array
  alive: jax.Array
  key: jax.Array
  history: dict


class Log(NamedTuple):
  """What a step tells.

  Attributes:
    loss: of the network that sees the whole batch, the largest or a path.
    loss_n: of students.
    apart_n: how far each of these is from it (of alpha-divergences: what trains
      them); 0 where nobody asks.
    pull_nu: gradient by the gate of each part, that of the largest first; no
      parts where nothing is selected.
  """

  loss: jax.Array
  loss_n: jax.Array
  apart_n: jax.Array
  pull_nu: jax.Array


def make_gradients(training):
  """Returns the summed gradient of a step.

  Returns:
    function of (params, batch, gates_n, key, weight, constants) that returns
    grads and a `Log`: gates_n are those of the students, stacked, or of a path;
    `key` is that of dropout, or None for none; `weight` that of the
    distillation.
  """
  recipe, options, exits = training.recipe, training.options, training.exits
  network = training.network()
  held = criterion.of(recipe)
  of_heads = criterion.CRITERIA['ctc'] if options.heads == 'ctc' else held
  whole = training.elastic.whole(training.space)

  def apply(params, batch, gates, key):
    inputs = (batch.x_btf, batch.len_b, gates, key)
    inputs += families.inputs(network, batch)
    if exits and gates is whole:
      return network.apply({'params': params}, *inputs, method='with_exits')
    return network.apply({'params': params}, *inputs), ()

  def loss_of(held, outputs, batch, constants):
    return held.loss(outputs, batch, constants, recipe, network.kernels, None)

  def largest(params, batch, gates, key, constants):
    outputs, inner = apply(params, batch, gates, key)
    loss = total = loss_of(held, outputs, batch, constants)
    for one in inner:
      told = criterion.frames(one) if options.heads == 'ctc' else one
      share = options.head_weight / len(inner)
      total = total + share * loss_of(of_heads, told, batch, constants)
    if recipe.l2:
      total = total + recipe.l2 * families.l2(network, params)
    return total, (loss, lax.stop_gradient(outputs))

  def student(params, batch, gates, key, teacher, rows_b, weight, constants):
    outputs, _ = apply(params, batch, gates, key)
    if options.distil is None:
      loss = loss_of(held, outputs, batch, constants)
      return loss, (loss, jnp.float32(0))
    loss, apart = held.distilled(
      teacher, rows_b, outputs, batch, recipe, options.distil
    )
    return loss + weight * apart, (loss, apart)

  def pull(params, grads):
    if not options.selects:
      return jnp.zeros(0)
    every = training.elastic.parts(training.space)
    own = np.array([part in training.parts for part in every])
    return training.elastic.pull(training.space, params, grads)[own]

  def gradients(params, batch, gates_n, key, weight, constants=None):
    if key is not None and masks(recipe):
      # Of a row the largest network and its student see the same.
      x_btf = augmentation.masked(batch.x_btf, batch.len_b, key, recipe)
      batch = batch._replace(x_btf=x_btf)
    first = whole
    if options.paths:
      first = jax.tree.map(lambda leaf: leaf[0], gates_n)
    (_, (loss, teacher)), grads = jax.value_and_grad(largest, has_aux=True)(
      params, batch, first, key, constants
    )
    pull_1u = pull(params, grads)[None]
    if not options.students:
      nothing_n = jnp.zeros(0)
      return grads, Log(loss, nothing_n, nothing_n, pull_1u)

    def add(grads, one):
      number, gates = one
      rows_b = rows_of(batch.len_b.shape[0], number)
      part = jax.tree.map(lambda leaf: leaf[rows_b], batch)
      own = None if key is None else key.at[1].add(number + 1)
      (_, found), more = jax.value_and_grad(student, has_aux=True)(
        params, part, gates, own, teacher, rows_b, weight, constants
      )
      found = *found, pull(params, more)
      return jax.tree.map(jnp.add, grads, more), found

    # In a loop: students are one program, whose branches are their widths.
    numbers_n = jnp.arange(options.students, dtype=jnp.uint32)
    grads, found = lax.scan(add, grads, (numbers_n, gates_n))
    loss_n, apart_n, pull_nu = found
    pull_nu = jnp.concatenate([pull_1u, pull_nu])
    return grads, Log(loss, loss_n, apart_n, pull_nu)

  return gradients


def masks(recipe):
  """Whether a recipe hides parts of what is heard."""
  return bool(recipe.frequency_masks or recipe.time_masks)


def rows_of(batch, number):
  """Returns which rows of a batch a student has: each fourth, from its own on.

  So an epoch's last batch, of which the first rows alone are real, is shared
  out, too. Of a batch below four rows some have the same.
  """
  each = max(batch // SHARE, 1)
  return (jnp.uint32(number) + SHARE * jnp.arange(each, dtype=jnp.uint32)) % (
    jnp.uint32(batch)
  )


def optimiser(training, late, lr):
  """Returns the optax pair of a phase, and the decay of weights beside it."""
  recipe, options = training.recipe, training.options
  if late:
    recipe = dataclasses.replace(recipe, optimiser='scaled_adam')
  return optimisers.of(recipe, 'xla', lr), 0.0 if late else options.decay


def make_step(training, late=False):
  """Returns the update of the shared weights.

  Returns:
    function of (state, batch, gates_n, lr, weight, constants) that returns the
    state, its history left out, and a `Log`.
  """
  gradients = make_gradients(training)

  def step(state, batch, gates_n, lr, weight, constants=None):
    key = jax.random.wrap_key_data(state.key, impl='threefry2x32')
    # Networks that keep statistics take a key for the word that they train.
    draws = (
      training.recipe.dropout
      or masks(training.recipe)
      or families.family(training.space).statistics
    )
    key = dropout.step_key(key, state.step) if draws else None
    grads, log = gradients(state.params, batch, gates_n, key, weight, constants)
    pair, decay = optimiser(training, late, lr)
    ok = state.alive & jnp.isfinite(log.loss) & jnp.isfinite(log.loss_n).all()
    params, opt, made = one_pass.step(
      pair, grads, state.late if late else state.opt, state.params, ok
    )
    if decay:
      shrink = jnp.where(made, lr * decay, 0.0)
      params = jax.tree.map(
        lambda new, old: new - shrink * old, params, state.params
      )
    state = state._replace(
      **{'late' if late else 'opt': opt},
      params=params,
      step=state.step + made,
      alive=made,
    )
    return state, log

  return step


def make_statistics(training, buckets):
  """Returns what finds the statistics of a network of the shared weights.

  Those are the means, over batches that it hears in training, of the moments
  that it normalises by (Guo et al. 2020, "Single Path One-Shot"): of networks
  that share weights, each has statistics of its own.

  Returns:
    function of (params, gates, data, plan) that returns those of the plan's
    batches, for `families.replaced`; nothing is dropped.
  """
  recipe = dataclasses.replace(training.recipe, dropout=0.0)
  network = dataclasses.replace(training, recipe=recipe).network()
  share = training.macro.momentum

  def batch_moments(new, old):
    # A step moves a statistic by a share of the way to a batch's.
    return old + (new - old) / share

  def statistics(params, gates, data, plan):
    def heard(bucket, index_b):
      batch = batches.gather(data, index_b[: bucket.batch], bucket)
      given = batch.x_btf, batch.len_b, gates, jnp.zeros(2, jnp.uint32)
      inputs = families.inputs(network, batch)
      return families.observed(network, params, *given, *inputs)[1]

    seen_s = lax.map(
      lambda s: steps_lib.over_buckets(buckets, plan, s, heard),
      jnp.arange(len(plan.bucket_s)),
    )
    mean = jax.tree.map(lambda leaf: leaf.mean(0), seen_s)
    old = families.replaced(mean, params)
    return jax.tree.map(batch_moments, mean, old)

  return statistics


def make_pass(training, buckets, late=False):
  """Returns the program of an epoch.

  Returns:
    function of (state, data, plan, gates_sn, lr, weight, constants) that
    returns the state and a `Log` of each step.
  """
  step = make_step(training, late)

  def run_pass(state, data, plan, gates_sn, lr, weight, constants=None):
    def train(bucket, index_b, gates_n, state):
      batch = batches.gather(data, index_b[: bucket.batch], bucket)
      return step(state, batch, gates_n, lr, weight, constants)

    def body(state, one):
      s, gates_n = one
      return steps_lib.over_buckets(
        buckets, plan, s, lambda b, index_b: train(b, index_b, gates_n, state)
      )

    return lax.scan(body, state, (jnp.arange(len(plan.bucket_s)), gates_sn))

  return run_pass
