"""Adam behind a clip of the gradient's global norm (Kingma and Ba 2015)."""

import jax
import jax.numpy as jnp
import optax

from nasjax import kernels as kernels_lib

_B1, _B2 = 0.9, 0.999


def _transformation(recipe):
  return optax.chain(
    optax.clip_by_global_norm(recipe.clip),
    optax.scale_by_adam(_B1, _B2, eps=recipe.adam_epsilon),
  )


def init(recipe, params):
  """Returns the optimiser's first state, optax's own."""
  return _transformation(recipe).init(params)


def by_moments(function, state):
  """Maps the trees of a state that are like `params`: Adam's two moments."""
  clip, adam = state
  return clip, adam._replace(mu=function(adam.mu), nu=function(adam.nu))


def update(recipe, grads, state, params, lr, ok, kernels='xla'):
  """Makes one step.

  Args:
    recipe: `Recipe`, for `clip` and `adam_epsilon`.
    grads: tree like `params`.
    state: of `init`.
    params: tree of float32 arrays.
    lr: learning rate.
    ok: bool, whether to make a step at all.
    kernels: 'native' or 'xla'.

  Returns:
    params and state, and whether a step was made: not where `ok` is False or
    the gradient's norm is not finite; there both are what they were.
  """
  if kernels == 'native':
    return _native(recipe, grads, state, params, lr, ok)
  made = ok & jnp.isfinite(optax.tree.norm(grads))
  updates, new_state = _transformation(recipe).update(grads, state, params)
  new_params = jax.tree.map(lambda p, u: p - lr * u, params, updates)
  new = jax.tree.map(
    lambda after, before: jnp.where(made, after, before),
    (new_params, new_state),
    (params, state),
  )
  return *new, made


def _native(recipe, grads, state, params, lr, ok):
  clip, adam = state
  count = optax.safe_increment(adam.count)
  fixes = [1 / (1 - jnp.float32(b) ** count) for b in (_B1, _B2)]
  how_4 = jnp.stack([ok.astype(jnp.float32), lr, *fixes])
  norm, params, mu, nu = kernels_lib.adam(
    grads, params, adam.mu, adam.nu, how_4, recipe.clip, _B1, _B2,
    recipe.adam_epsilon,
  )  # fmt: skip
  made = ok & jnp.isfinite(norm)
  adam = adam._replace(count=jnp.where(made, count, adam.count), mu=mu, nu=nu)
  return params, (clip, adam), made
