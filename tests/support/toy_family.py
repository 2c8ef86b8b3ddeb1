"""A family of networks in one file: its space, numbers, network and gates.

Two layers, each of which is a matrix or a matrix behind a shift in time, the
second also nothing at all. What a new family brings stands here; nothing else
knows of it.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Macro:
  name: str
  width: int = 8
  outputs: int = 6
  features: int = 8
  reduction: int = 2

  def output_frames(self, frames):
    return -(-frames // self.reduction)

  def with_outputs(self, outputs):
    return dataclasses.replace(self, outputs=outputs)


MACROS = {m.name: m for m in (Macro('toy'), Macro('toy_80', 8, 49, 80, 4))}


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
  macro: Macro
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


def _gates(space, arch):
  # Each architecture has a program of its own: nothing is left to tell.
  del space, arch
  return ()


def _supernet_gates(space, edges, edge_e):
  del space, edges
  return tuple(edge_e)


def _candidate(path, edges):
  for e, (_, names) in enumerate(edges):
    for k, name in enumerate(names):
      if path[-1] == f'layer{e}_{name}':
        return e, k
  return None


def _params(space, arch, macro):
  ops = space.names_of_choices(arch)
  layers = sum(name != 'none' for name in ops)
  ends = macro.features + macro.outputs
  return macro.width * (ends + layers * macro.width)


def _macs(space, arch, macro, frames):
  ops = space.names_of_choices(arch)
  layers = sum(name != 'none' for name in ops)
  inner = macro.width * (macro.features + layers * macro.width)
  return frames * inner + macro.output_frames(frames) * (
    macro.width * macro.outputs
  )


def _unpack(space, arch, params):
  del space, arch
  return params


FAMILY = families.Family(
  macros=MACROS,
  Network=Network,
  ops=lambda space, arch: space.names_of_choices(arch),
  signature=lambda space, arch: space.names_of_choices(arch),
  gates=_gates,
  unpack=_unpack,
  params=_params,
  macs=_macs,
  l2=functools.partial(
    jax.tree.reduce, lambda total, leaf: total + jnp.sum(leaf**2), initializer=0
  ),
  supernet_gates=_supernet_gates,
  candidate=_candidate,
)


def register():
  """Lets launchers, tables and searches know of the family."""
  spaces.SPACES[SPACE.name] = SPACE
  macros.BY_SPACE[SPACE.name] = MACROS
  families.FAMILIES[SPACE.name] = FAMILY
