"""A family of networks in one file: its space, numbers, network and gates.

Two layers, each of which is a matrix or a matrix behind a shift in time, the
second also nothing at all. What a new family brings stands here; nothing else
knows of it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax import spaces
from nasjax.layers import mixed_op
from nasjax.models import families, macros

SPACE = spaces.Space(
  'toy', {'first': ('dense', 'shift'), 'second': ('dense', 'shift', 'none')}
)


MACROS = {
  m.name: m
  for m in (
    macros.Plain('toy', 8, 6, 8, 2),
    macros.Plain('toy_80', 8, 49, 80, 4),
  )
}


def _dense(params, x_btc, context):
  del context
  return x_btc @ params['kernel']


def _shift(params, x_btc, context):
  return _dense(params, jnp.roll(x_btc, 1, axis=1), context)


def _none(params, x_btc, context):
  del params, context
  return jnp.zeros_like(x_btc)


_AFFINES = {'dense': _dense, 'shift': _shift, 'none': _none}


def _finish(params, z_btc, context):
  del params
  len_b, _ = context
  valid_bt = jnp.arange(z_btc.shape[1])[None] < len_b[:, None]
  return jnp.where(valid_bt[..., None], jnp.tanh(z_btc), 0)


class Network(nn.Module):
  macro: macros.Plain
  ops: tuple
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None):
    macro = self.macro
    init = nn.initializers.lecun_normal()

    def kernel(name, rows, columns):
      return self.param(name, init, (rows, columns))

    x_btc = x_btf @ kernel('stem_kernel', macro.features, macro.width)
    for n, names in enumerate(self.ops):
      params_k = [
        {'kernel': kernel(f'layer{n}_{name}', macro.width, macro.width)}
        if name != 'none'
        else {}
        for name in names
      ]
      context = len_b, key
      if len(names) == 1:
        z_btc = _AFFINES[names[0]](params_k[0], x_btc, context)
        x_btc = x_btc + _finish({}, z_btc, context)
        continue
      candidates = mixed_op.Candidates(
        tuple(_AFFINES[name] for name in names), _finish
      )
      edge = jax.tree.map(lambda leaf: leaf, gates[n])
      x_btc = x_btc + mixed_op.mix(
        self.mode,
        candidates,
        tuple(params_k),
        ({},) * len(names),
        edge,
        x_btc,
        context,
      )
    x_btc = x_btc[:, :: macro.reduction]
    logits_btv = x_btc @ kernel('head_kernel', macro.width, macro.outputs)
    return logits_btv, macro.output_frames(len_b)


def _supernet_gates(space, edges, edge_e):
  del space, edges
  return tuple(edge_e)


def _candidate(path, edges):
  for e, (_, names) in enumerate(edges):
    for k, name in enumerate(names):
      if path[-1] == f'layer{e}_{name}':
        return e, k
  return None


FAMILY = families.Family(
  macros=MACROS,
  Network=Network,
  l2=functools.partial(
    jax.tree.reduce, lambda total, leaf: total + jnp.sum(leaf**2), initializer=0
  ),
  supernet_gates=_supernet_gates,
  candidate=_candidate,
)


def register():
  """Lets launchers, tables and searches know of the family."""
  families.add(SPACE, FAMILY)
