"""Optax pairs, and steps of them that are made or not made as a whole."""

import chex
import jax
import jax.numpy as jnp
import optax


class OnePass(optax.GradientTransformationExtraArgs):
  """An optax pair (`init`, `update`) that can do without updates.

  Updates are as large as the parameters. To write them, and to read them again
  when they are added, takes a walk through memory that a kernel spares which
  writes the parameters in place; and the sum is rounded once more.

  Attributes:
    apply: (grads, state, params, ok, **extra) -> params, state, and whether a
      step was made: not where `ok` is False or the gradient's norm is not
      finite; there both are what they were. What it makes is what
      `optax.apply_updates` makes of `update`, but for rounding.
  """

  def __new__(cls, init, update, apply):
    pair = super().__new__(cls, init, update)
    pair.apply = apply
    return pair


def step(pair, grads, state, params, ok, **extra):
  """Makes one step of any optax pair, as `OnePass.apply` does.

  Args:
    pair: `optax.GradientTransformation`.
    grads: tree like `params`.
    state: of the pair.
    params: tree of arrays.
    ok: bool, whether to make a step at all.
    **extra: what else its `update` takes.

  Returns:
    params, state, and whether a step was made.
  """
  if isinstance(pair, OnePass):
    return pair.apply(grads, state, params, ok, **extra)
  made = ok & jnp.isfinite(optax.tree.norm(grads))
  update = optax.with_extra_args_support(pair).update
  updates, new_state = update(grads, state, params, **extra)
  # Sums would spread other shapes, and change the type of the weights.
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
  return *where(
    made, (optax.apply_updates(params, updates), new_state), (params, state)
  ), made


def where(made, new, old):
  """Chooses between trees as a whole."""
  return jax.tree.map(
    lambda after, before: jnp.where(made, after, before), new, old
  )


def unmoved(leaf):
  """The update of what rests: minus zero, which changes no bit of a sum."""
  return jnp.full_like(leaf, -0.0)
