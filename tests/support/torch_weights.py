"""Maps the reference's torch parameters into nasjax's trees."""

import numpy as np

from nasjax.models.nb_asr import ops as ops_lib
from nasjax.spaces import NB_ASR as SPACE


def order(width, groups=100):
  """Reference channel (g, i) at each of our positions (i, g)."""
  return np.arange(width).reshape(groups, -1).T.reshape(-1)


def grouped_kernel(weight, groups=100):
  """torch (out, in / groups, k) -> [k, i, j, g]."""
  out, c, taps = weight.shape
  kernel_gjik = weight.reshape(groups, out // groups, c, taps)
  return kernel_gjik.transpose(3, 2, 1, 0)


def macro_kernel(weight, rows, columns):
  """torch (out, in, k) -> [k * in, out], channels in our order."""
  weight = weight[columns][:, rows]
  return weight.transpose(2, 1, 0).reshape(-1, weight.shape[0])


def network_params(weights, arch, macro):
  """The whole tree from `weights`, a dict of torch names to arrays."""
  tree, layer, rows = {}, 0, np.arange(macro.features)
  for block, width in enumerate(macro.filters):
    columns = order(width)
    conv = _found(weights, f'model.{layer}.', 'weight', 3)
    tree[f'block{block}_conv'] = {
      'kernel': macro_kernel(conv, rows, columns),
      'bias': _found(weights, f'model.{layer}.', 'bias', 1)[columns],
    }
    tree[f'block{block}_norm'] = _norm(weights, f'model.{layer + 1}.', columns)
    layer += 2
    for i in range(macro.cells[block]):
      prefix = f'model.{layer}.'
      cell = {'norm': _norm(weights, prefix + 'norm_layer.', columns)}
      for n, name in enumerate(SPACE.main_ops(arch)):
        at = f'{prefix}nodes.{n}.op.'
        if name == 'linear':
          weight = _found(weights, at, 'weight', 2)[columns][:, columns].T
          bias = _found(weights, at, 'bias', 1)[columns]
          dense = {'kernel': weight, 'bias': bias}
          cell[f'node{n}_linear'] = {'Dense_0': dense}
        elif name in ops_lib.CONVOLUTIONS:
          kernel = grouped_kernel(_found(weights, at, 'weight', 3))
          bias = _found(weights, at, 'bias', 1)[columns]
          cell[f'node{n}_{name}'] = {'kernel': kernel, 'bias': bias}
      tree[f'block{block}_cell{i}'] = cell
      layer += 1
    rows = columns
  lstm = {k.rsplit('.', 1)[1]: v for k, v in weights.items() if '_l0' in k}
  tree['lstm'] = {
    'input_kernel': lstm['weight_ih_l0'][:, rows].T,
    'recurrent_kernel': lstm['weight_hh_l0'].T,
    'bias': lstm['bias_ih_l0'] + lstm['bias_hh_l0'],
  }
  last = max(int(k.split('.')[1]) for k in weights)
  tree['head'] = {
    'kernel': _found(weights, f'model.{last}.', 'weight', 2).T,
    'bias': _found(weights, f'model.{last}.', 'bias', 1),
  }
  return tree


def _found(weights, prefix, kind, rank):
  names = [
    name
    for name, value in weights.items()
    if name.startswith(prefix) and name.endswith(kind) and value.ndim == rank
  ]
  if len(names) != 1:
    raise ValueError(f'{prefix}*{kind} of rank {rank}: {names}')
  return weights[names[0]]


def _norm(weights, prefix, columns):
  return {
    'scale': _found(weights, prefix, 'weight', 1)[columns],
    'bias': _found(weights, prefix, 'bias', 1)[columns],
  }
