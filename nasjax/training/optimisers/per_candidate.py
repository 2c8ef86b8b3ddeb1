"""Optimisers of shared weights: what did not run does not move.

A weight of a candidate that was not sampled has gradient zero, but Adam and
momentum would move it all the same, and Adam would count the step. Here every
candidate has its own state, which stays bit for bit as it was.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

KINDS = ('adam', 'sgd', 'nesterov')
_B1, _B2 = 0.9, 0.999


class State(NamedTuple):
  """State of an optimiser.

  Attributes:
    first: tree like the parameters: first moment, or momentum.
    second: tree like the parameters: second moment; None but for Adam.
    count_g: int32, steps of each group; the last is of what always runs.
  """

  first: dict
  second: dict | None
  count_g: jax.Array


def init(kind, params, group_count):
  """Returns the first state.

  Args:
    kind: one of `KINDS`.
    params: tree of float32 arrays.
    group_count: groups of parameters that may rest.

  Raises:
    ValueError: unknown kind.
  """
  if kind not in KINDS:
    raise ValueError(f'optimiser is {kind!r}; it must be one of {KINDS}')
  zeros = jax.tree.map(jnp.zeros_like, params)
  second = jax.tree.map(jnp.zeros_like, params) if kind == 'adam' else None
  return State(zeros, second, jnp.zeros(group_count + 1, jnp.int32))


def update(kind, settings, grads, state, params, lr, groups, active_g, ok):
  """Makes one step of what is active.

  Args:
    kind: one of `KINDS`.
    settings: of `steps.Weights.rule`: a `Recipe`, for `clip` and
      `adam_epsilon`, then momentum and decay, which Adam does not use.
    grads: tree like `params`.
    state: `State`.
    params: tree of float32 arrays.
    lr: learning rate.
    groups: of `Supernet.groups`.
    active_g: bool, the groups that ran.
    ok: bool, whether to make a step at all.

  Returns:
    params and state, and whether a step was made: not where `ok` is False or
    the gradient's norm is not finite; there both are what they were.
  """
  recipe, momentum, decay = settings
  norm = optax.tree.norm(grads)
  made = ok & jnp.isfinite(norm)
  scale = jnp.minimum(1.0, recipe.clip / jnp.maximum(norm, 1e-30))
  runs_g = made & jnp.append(active_g, True)
  count_g = state.count_g + runs_g
  fix1_g = 1 - _B1 ** count_g.astype(jnp.float32)
  fix2_g = 1 - _B2 ** count_g.astype(jnp.float32)

  def adam(grad, param, m, v, group):
    m = _B1 * m + (1 - _B1) * grad
    v = _B2 * v + (1 - _B2) * jnp.square(grad)
    root = jnp.sqrt(v / fix2_g[group]) + recipe.adam_epsilon
    return param - lr * (m / fix1_g[group]) / root, m, v

  def sgd(grad, param, m, v, group):
    del group
    grad = grad + decay * param
    m = momentum * m + grad
    step = grad + momentum * m if kind == 'nesterov' else m
    return param - lr * step, m, v

  rule = adam if kind == 'adam' else sgd

  def leaf(grad, param, m, v, group):
    return jax.lax.cond(
      runs_g[group],
      lambda grad, *old: rule(scale * grad, *old, group),
      lambda grad, *old: old,
      grad,
      param,
      m,
      v,
    )

  second = state.second if state.second is not None else state.first
  leaves = jax.tree.map(leaf, grads, params, state.first, second, groups)
  params, first, second = (
    jax.tree.map(lambda _, found, i=i: found[i], grads, leaves)
    for i in range(3)
  )
  if state.second is None:
    second = None
  return params, State(first, second, count_g), made
