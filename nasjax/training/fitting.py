"""Whether a step can fit into memory at all: asked before anything is trained.

Counted is what no cutting into pieces spares: weights, their gradient and two
moments, and what a criterion says that it needs of a batch. What fits by this
count may still be too large (`benchmark.sizing` asks the compiler); what does
not, is.
"""

import jax

from nasjax.losses import criterion
from nasjax.programs import memory

# Copies of the weights that training holds.
_COPIES = 4


def needed(macro, recipe, buckets, params, copies=_COPIES):
  """Returns bytes that a step takes at least.

  Args:
    macro: the macro network.
    recipe: `Recipe`.
    buckets: shapes of the batches.
    params: of all networks that are trained together, or their shapes.
    copies: of these.
  """
  weights = sum(
    copies * leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)
  )
  asked = criterion.of(recipe).working_bytes
  if asked is None:
    return weights
  return weights + max(
    asked(macro, bucket.batch, bucket.frames, bucket.labels, recipe)
    for bucket in buckets
  )


def check(macro, recipe, buckets, mesh, params, copies=_COPIES):
  """Refuses to train what no device of a mesh has the memory for.

  Args:
    macro, recipe, buckets, params, copies: as in `needed`.
    mesh: of `population.member_mesh`; each device has the same.

  Raises:
    TooLargeError: (a ValueError) with the bytes that it takes and those free.
  """
  if criterion.of(recipe).working_bytes is None:
    return
  try:
    free = memory.free(mesh)
  except ValueError:
    return  # Who does not tell may have enough.
  devices = mesh.devices.size
  count = needed(macro, recipe, buckets, params, copies)
  share = -(-count // devices)
  if share > free:
    rows = max(bucket.batch for bucket in buckets)
    raise memory.TooLargeError(
      f'macro {macro.name} with {macro.outputs:,} outputs and batches of '
      f'{rows} takes at least {share:,} bytes a device, and {free:,} are free; '
      'give fewer outputs (sub-words), a smaller --batch, or another machine'
    )
