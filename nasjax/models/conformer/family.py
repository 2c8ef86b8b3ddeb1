"""The family of conformer-like encoders.

Networks of one program have equal sizes; activation and normalisation are data.
Of the largest network all others are a part, by the first heads, the middle
taps, the first channels within a feed-forward part; which part is data, too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.models import base, macros
from nasjax.models.conformer import cost, layer, network
from nasjax.spaces import conformer as spaces


def _ops(space, arch):
  found = spaces.layers(space, arch)
  place = f'{network.DOWN}{spaces.downsample(space, arch)}'
  return (*map(layer.written, found), place)


def _signature(space, arch):
  found = spaces.layers(space, arch)
  place = f'{network.DOWN}{spaces.downsample(space, arch)}'
  return (*(layer.written(one, whole=False) for one in found), place)


def _data(found):
  """Activation and norm of each layer, int32; of those left out the first."""
  activation_n, norm_n = np.zeros((2, len(found)), np.int32)
  for n, one in enumerate(found):
    if one is not None:
      activation_n[n] = spaces.ACTIVATIONS.index(one.activation)
      norm_n[n] = spaces.NORMS.index(one.norm)
  return activation_n, norm_n


def _gates(space, arch):
  return network.Gates(layer.Choice(*_data(spaces.layers(space, arch))))


def _kept(tree, shape):
  """The parameters of a layer of fixed norm, of those of either norm."""
  if shape.norm == 'batch':
    return tree
  return {
    name: {k: v for k, v in part.items() if k not in ('mean', 'variance')}
    if name.startswith('norm_')
    else part
    for name, part in tree.items()
  }


def _unpack(space, arch, params):
  found = dict(params)
  for n, one in enumerate(spaces.layers(space, arch)):
    if one is not None:
      found[f'layer{n}'] = _kept(params[f'layer{n}'], one)
  return found


def _blocks(space, macro):
  if macro.blocks != spaces.count(space):
    raise ValueError(
      f'macro {macro.name!r} has {macro.blocks} blocks, space {space.name} has '
      f'{spaces.count(space)}'
    )


def _l2(params):
  """Sum of squares of all products and taps; of biases and norms none."""
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'kernel':
      total = total + jnp.sum(jnp.square(leaf))
  return total


def _elastic(space, macro, numbers, adaptive=True, exits=()):
  if exits:
    raise ValueError(f'macro {macro.name}: its networks have no inner exits')
  *names, _ = _signature(space, spaces.largest(space))
  places = tuple(f'{network.DOWN}{n}' for n in spaces.downsamples(space))
  ops = (*((name,) for name in names), places)
  return network.Network(macro, ops, *numbers, adaptive)


def _part(space, arch):
  found = spaces.layers(space, arch)
  sizes_n = np.zeros((4, len(found)), np.int32)
  for n, one in enumerate(found):
    if one is not None:
      expansion = spaces.thousandths(one.expansion)
      sizes_n[:, n] = one.heads, one.kernel, expansion, 1
  down = np.int32(spaces.downsample(space, arch))
  return network.Gates(layer.Choice(*_data(found), *sizes_n), down)


def _extract(space, arch, macro, params):
  found = {
    name: tree for name, tree in params.items() if not name.startswith('layer')
  }
  for n, one in enumerate(spaces.layers(space, arch)):
    if one is not None:
      found[f'layer{n}'] = layer.sliced(params[f'layer{n}'], one, macro)
  return found


ELASTIC = base.Elastic(
  _elastic,
  _part,
  _extract,
  spaces.largest,
  spaces.smallest,
  whole=lambda space: _part(space, spaces.largest(space)),
)

FAMILY = base.Family(
  macros=macros.BY_SPACE['conformer'],
  Network=network.Network,
  ops=_ops,
  signature=_signature,
  gates=_gates,
  unpack=_unpack,
  params=cost.params,
  macs=cost.macs,
  l2=_l2,
  fits=_blocks,
  elastic=ELASTIC,
  statistics=True,
  eight_bits=True,
)
