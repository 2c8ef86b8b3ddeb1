"""What families of networks share."""

import jax
import jax.numpy as jnp


def initial_params(network, key, gates):
  """Initialises one network; `vmap` it over keys and gates for many."""
  x_btf = jnp.zeros((1, network.macro.reduction * 2, network.macro.features))
  len_b = jnp.full((1,), x_btf.shape[1])
  return network.init(key, x_btf, len_b, gates)['params']


def conv_kernel_norm(params):
  """Sum of squares of all convolution kernels: what L2 decays.

  Those are the parameters called `kernel` of modules whose name has 'conv' or
  'tdnn' in it, as that of flax's Conv_0 has.
  """
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [entry.key for entry in path]
    module = names[-2].lower() if len(names) > 1 else ''
    if names[-1] == 'kernel' and ('conv' in module or 'tdnn' in module):
      total = total + jnp.sum(jnp.square(leaf))
  return total


def transplanted(params, source):
  """Returns parameters with all of another network's but its heads.

  Args:
    params: of the network that is to go on; its heads, the parameters of
      modules called head, head0, .., stay.
    source: of the network that was trained: the same but for its heads. Where a
      tree has a leading axis of members, both must.

  Raises:
    ValueError: naming a parameter that the source lacks, or has another shape.
  """

  def taken(path, own):
    names = [entry.key for entry in path]
    if any(name.startswith('head') for name in names):
      return own
    found = source
    for name in names:
      found = found.get(name) if isinstance(found, dict) else None
    if found is None or found.shape != own.shape:
      shape = 'none' if found is None else found.shape
      raise ValueError(
        f'{"/".join(names)} has shape {own.shape}, the source {shape}; take a '
        'source of the same macro network and operations, heads left out'
      )
    return found

  return jax.tree_util.tree_map_with_path(taken, params)


def main_ops(space, arch):
  return space.main_ops(arch)


def stacked(edge_e):
  """Weights, and which candidates run, of the main edges of a chain."""
  return (
    tuple(edge.weight_k for edge in edge_e),
    jnp.stack([edge.index for edge in edge_e]),
    jnp.stack([edge.other for edge in edge_e]),
  )


def candidate(prefix, path, edges):
  """Looks for the module <prefix><node>_<operation> in a parameter's path."""
  for e, (field, names) in enumerate(edges):
    for k, name in enumerate(names):
      if f'{prefix}{e}_{name}' in path and field.startswith('op'):
        return e, k
  return None
