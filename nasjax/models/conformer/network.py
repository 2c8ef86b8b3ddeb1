"""Conformer-like encoders for outputs of frames, by themselves and elastic.

Frames are stacked and brought to the network's channels, go through layers that
may differ (`layer.Layer`), are halved before one of them, the mean of each two,
and end normalised in a product. What is left out of an elastic network is
computed and does not count: any of its networks is one program, and so are many
at a time.
"""

import functools
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax.layers import attention, modules
from nasjax.models import macros
from nasjax.models.conformer import layer as layer_lib

DOWN = 'down'


class Gates(NamedTuple):
  """What tells one network from another inside one program.

  Attributes:
    layers: `layer.Choice` of arrays [layers].
    down: int32, the layer, from 1, before which frames are halved, where that
      is data.
  """

  layers: layer_lib.Choice
  down: jax.Array | None = None


class Network(nn.Module):
  """Features to logits.

  The parameters of layer n are called layer<n>, from 0, whether or not layers
  before it are left out; of the others stem, norm and head.

  Attributes:
    macro: the numbers.
    ops: for each layer its name (`layer.written`), and behind them down<n>, one
      or, where that is data, all places where frames may be halved.
    rate: of dropout, behind each part of a layer.
    conv_dropout: not used: convolutions drop as the other parts do.
    kernels: of convolutions.
    precision: of products with weights, as in `custom_vjps.matmul`.
    mode: not used: candidates are not mixed.
    adaptive: of `layer.Layer`.
  """

  macro: macros.Conformer
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'
  adaptive: bool = False

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None):
    """Runs one network.

    Args:
      x_btf: normalised features.
      len_b: valid frames; whatever lies beyond never reaches valid logits.
      gates: `Gates`; () where all is fixed.
      key: uint32 (2,) of dropout. None to evaluate, that is to drop nothing and
        to normalise batches by running statistics.

    Returns:
      logits_btv and their valid lengths.
    """
    macro = self.macro
    chex.assert_shape(x_btf, (None, None, macro.features))
    chex.assert_shape(len_b, x_btf.shape[:1])
    *names, places = self.ops
    if len(names) != macro.blocks:
      raise ValueError(
        f'{len(names)} layers, but macro {macro.name} has {macro.blocks}'
      )
    places = tuple(int(place.removeprefix(DOWN)) for place in places)
    x_btc, len_b = stacked(x_btf, len_b, macro.stacked)
    x_btc = self._dense(macro.width, 'stem')(x_btc)
    x_btc = modules.mask_frames(x_btc, len_b)
    seen_bts = self._seen(x_btc, len_b, 2)
    for n in range(macro.blocks + 1):
      if n + 1 in places:
        x_btc, len_b, share = _maybe_halved(x_btc, len_b, n + 1, places, gates)
        seen_bts = self._seen(x_btc, len_b, share)
      if n < macro.blocks:
        x_btc = self._layer(n, names[n], gates)(x_btc, len_b, seen_bts, key)
    x_btc = modules.LayerNorm(macro.epsilon, name='norm')(x_btc)
    return self._dense(macro.outputs, 'head')(x_btc), len_b

  def _dense(self, width, name):
    return modules.Dense(width, self.precision, name=name)

  def _seen(self, x_btc, len_b, share):
    """Which frames see which; `share` of them are one frame of the output."""
    macro = self.macro
    return attention.seen(
      x_btc.shape[1], len_b, macro.attention, macro.chunk * share, macro.left
    )

  def _layer(self, n, names, gates):
    (name,) = names
    shape = layer_lib.read(name)
    if shape is None:
      return lambda x_btc, *_: x_btc
    choice = None
    if gates:
      choice = jax.tree.map(lambda leaf: leaf[n], gates.layers)
    run = layer_lib.Layer(
      shape, self.macro, layer_lib.SITES * n, self.rate, self.kernels,
      self.precision, self.adaptive, name=f'layer{n}',
    )  # fmt: skip
    return functools.partial(run, choice=choice)


def stacked(x_btf, len_b, count):
  """Puts `count` frames into one; the last is filled up with zeros.

  Returns:
    x_btf and its lengths, ceil(len / count).
  """
  x_btf = modules.mask_frames(x_btf, len_b)
  batch, frames, features = x_btf.shape
  x_btf = jnp.pad(x_btf, ((0, 0), (0, -frames % count), (0, 0)))
  x_btf = x_btf.reshape(batch, -(-frames // count), count * features)
  return x_btf, -(-len_b // count)


def halved(x_btc, len_b):
  """Returns the mean of each two frames, and the lengths, ceil(len / 2).

  A last valid frame that has no other is itself.
  """
  batch, frames, channels = x_btc.shape
  x_btc = jnp.pad(x_btc, ((0, 0), (0, frames % 2), (0, 0)))
  x_bt2c = x_btc.reshape(batch, -(-frames // 2), 2, channels)
  second_t = 2 * jnp.arange(x_bt2c.shape[1]) + 1
  both_bt = second_t[None] < len_b[:, None]
  mean_btc = (x_bt2c[:, :, 0] + x_bt2c[:, :, 1]) / 2
  y_btc = jnp.where(both_bt[..., None], mean_btc, x_bt2c[:, :, 0])
  return y_btc, -(-len_b // 2)


def _maybe_halved(x_btc, len_b, place, places, gates):
  """Halves frames if this is the place, of those there may be.

  Where that is data, what is halved stands before nothing in as many frames as
  it had, up to the last place.

  Returns:
    x_btc, len_b, and how many frames now are one of the output (int, int32).
  """
  if len(places) == 1:
    return *halved(x_btc, len_b), 1
  frames = x_btc.shape[1]
  half_btc, half_b = halved(x_btc, len_b)
  spare = frames - half_btc.shape[1]
  wide_btc = jnp.pad(half_btc, ((0, 0), (0, spare), (0, 0)))
  here = gates.down == place
  x_btc = jnp.where(here, wide_btc, x_btc)
  len_b = jnp.where(here, half_b, len_b)
  if place == max(places):
    return x_btc[:, : half_btc.shape[1]], len_b, 1
  return x_btc, len_b, jnp.where(gates.down <= place, 1, 2)
