"""Weights as eight bits would have them, of one network of shared weights."""

import jax
import numpy as np


def fake_quantised(params):
  """Rounds products' weights to 8 bits, as integers times a scale.

  One scale for each output channel, the largest weight being 127; biases,
  normalisations and state-space models stay as they are.

  Args:
    params: tree of arrays on the host.
  """

  def rounded(path, leaf):
    name = path[-1].key
    if not name.endswith(('kernel', 'embedding')):
      return leaf
    axis = -1 if name == 'embedding' else -2
    scale = np.abs(leaf).max(axis=axis, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1)
    return (np.round(leaf / scale) * scale).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(rounded, params)


def planted(params, own):
  """Puts a network's parameters where the largest one's stand.

  Args:
    params: of the largest network, nested dicts of arrays on the host.
    own: of what `extract` returned, each a beginning of the other's.

  Returns:
    A tree like `params`; what the network has not is 0, or as it was.
  """
  if not isinstance(params, dict):
    spare = [(0, n - m) for n, m in zip(params.shape, own.shape)]
    return np.pad(own, spare)
  return {
    name: planted(tree, own[name]) if name in own else tree
    for name, tree in params.items()
  }
