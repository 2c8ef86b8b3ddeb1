"""VGG front ends, which DARTS-ASR is compared with.

Twice two convolutions of 3 by 3 and a pool that halves both axes, all with
equally many channels: 128 (small) or 512 (large). The paper says as much of
their depth and leaves its figure to tell the rest; the layout is that of
ESPnet's VGG, a reading. Each convolution is followed by ReLU and batch
normalisation, as those of the dense graph are, so that the pattern of
connections alone differs.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from nasjax.layers import planes
from nasjax.models import macros
from nasjax.models.darts_asr import network
from nasjax.models.darts_asr.trunk import Trunk

_DEPTH = 4


def width(macro, name):
  """Returns the channels of the front end 'small' or 'large'."""
  return {'small': macro.small, 'large': macro.large}[name]


class Network(nn.Module):
  """Features to logits; called as `network.Network` is.

  With a stride above 1 a projection stands before it, as there; modules are
  stem_conv, conv0, .., conv3 and trunk.

  Attributes:
    macro: the numbers.
    ops: the front end, (('small',),) or (('large',),).
    rate, conv_dropout, kernels, precision, mode: as in `network.Network`; mode
      is not used.
  """

  macro: macros.Vgg
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None, language_b=None):
    del gates
    macro = self.macro
    chex.assert_shape(x_btf, (None, None, macro.features))
    # Integers without a sign have no ceil(len / stride) as it is taken below.
    len_b = jnp.asarray(len_b, jnp.int32)
    chex.assert_shape(len_b, x_btf.shape[:1])
    if len(self.ops) != 1 or len(self.ops[0]) != 1:
      raise ValueError(
        f'VGG has one front end and nothing to search, got {self.ops}'
      )
    channels = width(macro, self.ops[0][0])
    x_btfc = planes.mask(x_btf[..., None], len_b)
    if macro.stride > 1:
      side = macro.stride
      stem = self.param(
        'stem_conv', network.conv_params, side, side, 1, channels
      )
      x_btfc = planes.patches(
        x_btfc[..., 0], stem['kernel'], stem['bias'], self.precision
      )
      len_b = -(-len_b // side)
      x_btfc = planes.mask(x_btfc, len_b)
    for n in range(_DEPTH):
      x_btfc = self._layer(n, channels, x_btfc, (len_b, key))
      x_btfc = planes.mask(x_btfc, len_b)
      if n % 2:
        x_btfc, len_b = planes.halved(x_btfc, len_b)
    trunk = Trunk(macro, self.rate, self.precision, name='trunk')
    return trunk(x_btfc, len_b, key, language_b), len_b

  def _layer(self, n, channels, x_btfc, context):
    name = f'conv{n}'
    params = self.param(
      name, network.layer_params, 3, x_btfc.shape[-1], channels
    )
    z_btfc = network.affine('conv3x3', self.precision, params, x_btfc, context)
    if context[1] is not None:
      found = network.statistics(z_btfc, context)
      network.tell(self, name, params, found, self.macro.momentum)
    return network.activate(self.macro.epsilon, params, z_btfc, context)
