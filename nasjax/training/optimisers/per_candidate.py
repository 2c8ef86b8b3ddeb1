"""Optimisers of shared weights: what did not run does not move.

A weight of a candidate that was not sampled has gradient zero, but Adam and
momentum would move it all the same, and Adam would count the step. Here every
candidate has its own state, which stays bit for bit as it was.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nasjax.training.optimisers import one_pass

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


def make(kind, settings, groups, group_count, lr=None):
  """Returns the optimiser as a `one_pass.OnePass`.

  Extra arguments of `update` and `apply`: active_g (bool), the groups that ran;
  and ok (bool), whether to make a step at all. Where `ok` is False or the
  gradient's norm is not finite, and in groups that did not run, the state stays
  and updates are minus zero: no bit of a parameter changes.

  `apply` is what trains: what rests is neither read nor written by it.

  Args:
    kind: one of `KINDS`.
    settings: of `steps.Weights.rule`: a `Recipe`, for `clip` and
      `adam_epsilon`, then momentum and decay, which Adam does not use.
    groups: tree like the parameters -> tree of ints, of `Supernet.groups`.
    group_count: groups of parameters that may rest.
    lr: learning rate; the recipe's first one if not given.

  Raises:
    ValueError: unknown kind.
  """
  if kind not in KINDS:
    raise ValueError(f'optimiser is {kind!r}; it must be one of {KINDS}')
  recipe, momentum, decay = settings
  lr = recipe.lr if lr is None else lr

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    second = jax.tree.map(jnp.zeros_like, params) if kind == 'adam' else None
    return State(zeros, second, jnp.zeros(group_count + 1, jnp.int32))

  def moved(start, grads, state, params, ok, active_g):
    # Steps go out from `start` of a parameter: from itself, or from nothing.
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
      return start(param) - lr * (m / fix1_g[group]) / root, m, v

    def sgd(grad, param, m, v, group):
      del group
      grad = grad + decay * param
      m = momentum * m + grad
      step = grad + momentum * m if kind == 'nesterov' else m
      return start(param) - lr * step, m, v

    rule = adam if kind == 'adam' else sgd

    def leaf(grad, param, m, v, group):
      return jax.lax.cond(
        runs_g[group],
        lambda grad, *old: rule(scale * grad, *old, group),
        lambda grad, param, m, v: (start(param), m, v),
        grad,
        param,
        m,
        v,
      )

    second = state.second if state.second is not None else state.first
    leaves = jax.tree.map(
      leaf, grads, params, state.first, second, groups(params)
    )
    params, first, second = (
      jax.tree.map(lambda _, found, i=i: found[i], grads, leaves)
      for i in range(3)
    )
    if state.second is None:
      second = None
    return params, State(first, second, count_g), made

  def apply(grads, state, params, ok=True, *, active_g):
    return moved(lambda param: param, grads, state, params, ok, active_g)

  def update(grads, state, params, *, active_g, ok=True):
    return moved(one_pass.unmoved, grads, state, params, ok, active_g)[:2]

  return one_pass.OnePass(init, update, apply)
