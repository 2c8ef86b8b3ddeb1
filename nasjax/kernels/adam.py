"""The native clip by the global norm and Adam."""

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.kernels import building


def adam(grads, params, mu, nu, how_4, clip, b1, b2, epsilon):
  """Clips a gradient by its global norm and makes a step of Adam.

  Maps over members. Parameters and moments change in place where XLA allows.

  Args:
    grads, params, mu, nu: trees of float32 arrays of one structure.
    how_4: float32: 1 to make the step or 0 to leave all as it is, the learning
      rate, and 1 / (1 - b ** step) of both moments.
    clip: largest norm of the gradient.
    b1, b2, epsilon: of Adam; epsilon is added behind the root.

  Returns:
    the norm, params, mu, nu. Where the norm is not finite all stay as they are.
  """
  building.require()
  trees = [jax.tree.leaves(tree) for tree in (grads, params, mu, nu)]
  leaves = len(trees[0])
  shapes = [
    jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
    for tree in trees[1:]
    for leaf in tree
  ]
  norm, *new = jax.ffi.ffi_call(
    'nasjax_adam',
    (jax.ShapeDtypeStruct((), jnp.float32), *shapes),
    vmap_method='broadcast_all',
    input_output_aliases={1 + leaves + n: 1 + n for n in range(3 * leaves)},
  )(
    how_4,
    *[leaf for tree in trees for leaf in tree],
    clip=np.float32(clip),
    b1=np.float32(b1),
    b2=np.float32(b2),
    c1=np.float32(1 - b1),
    c2=np.float32(1 - b2),
    epsilon=np.float32(epsilon),
  )
  structure = jax.tree.structure(params)
  return norm, *(
    jax.tree.unflatten(structure, new[n * leaves : (n + 1) * leaves])
    for n in range(3)
  )
