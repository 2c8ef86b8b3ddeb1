"""The optimisers of networks by name: what `Recipe.optimiser` may be.

An entry is a function of (recipe, kernels, lr) that returns an optax pair;
`lr`, the learning rate, is a number or traced. One of optax's own needs nothing
else:

  OPTIMISERS['adamw'] = lambda recipe, kernels, lr: optax.adamw(lr)
"""

import jax
import optax

from nasjax.layers import ssm
from nasjax.training.optimisers import adam, one_pass
from nasjax.training.optimisers.scaled import scaled_adam as scaled_adam


def _sgd(recipe, kernels, lr):
  """SGD as DARTS-ASR has it: momentum 0.9, and 3e-4 of each weight decays."""
  del recipe, kernels
  return optax.chain(
    optax.add_decayed_weights(3e-4), optax.sgd(lr, momentum=0.9)
  )


OPTIMISERS = {
  'adam': adam.make,
  # It clips by itself, behind the recipe's clip.
  'scaled_adam': lambda recipe, kernels, lr: scaled_adam(
    lr, plain=ssm.DYNAMICS
  ),
  'sgd': _sgd,
}


def of(recipe, kernels='xla', lr=None):
  """Returns the optax pair of a recipe, for `one_pass.step`.

  Its gradients are clipped by `recipe.clip`, whichever it is.

  Args:
    recipe: `Recipe`.
    kernels: of the network.
    lr: learning rate; the recipe's first one if not given.

  Raises:
    ValueError: there is no such optimiser.
  """
  if recipe.optimiser not in OPTIMISERS:
    raise ValueError(
      f'recipe {recipe.name}: optimiser={recipe.optimiser!r} is unknown; there '
      f'are {", ".join(OPTIMISERS)}'
    )
  lr = recipe.lr if lr is None else lr
  pair = OPTIMISERS[recipe.optimiser](recipe, kernels, lr)
  if isinstance(pair, one_pass.OnePass):
    return pair
  return optax.chain(optax.clip_by_global_norm(recipe.clip), pair)


def like_params(function, state, params):
  """Maps the trees of a state that are built like `params`, as moments are."""
  structure = jax.tree.structure(params)

  def like(tree):
    return jax.tree.structure(tree) == structure

  return jax.tree.map(
    lambda tree: function(tree) if like(tree) else tree, state, is_leaf=like
  )
