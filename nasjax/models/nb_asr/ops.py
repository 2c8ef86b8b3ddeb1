"""Operations of the NB-ASR networks (Mehrotra et al. 2021, section 3).

Layout. A grouped convolution with G groups of c channels each holds channel
(i, g) at position i * G + g, so that a tensor reshapes to [b, t, c, G] without
moving data and the groups fill the vector units. Dense layers mix all channels
and layer normalisation treats them alike, so this is the published network
with its channels renamed.

Padding (`taps`). Every convolution zeroes the frames past an utterance's end
before it reads them, so an utterance's output does not depend on its batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from nasjax import kernels as kernels_lib
from nasjax.kernels.taps import (
  CONVOLUTIONS,
  MAX_TAPS,
  UNION,
  offsets,
  reach,
)
from nasjax.kernels.taps import placement as placement
from nasjax.layers import eight_bits
from nasjax.layers.custom_vjps import (
  CLIP,
  clip_dropout,
  grouped_conv,
  matmul,
)
from nasjax.layers.custom_vjps import clipped_relu as clipped_relu
from nasjax.layers.modules import Dense, glorot, mask_frames


def affine(op, precision, kernels, params, x_btc, context):
  """What an operation computes before it clips and drops.

  Args:
    op: one of `OPS`, but for 'conv', or of `OWN`.
    precision: of dense products.
    kernels: 'native', 'xla', or 'twice' for what can be differentiated twice
      and takes the native convolution.
    params: of the operation's module.
    x_btc: input.
    context: tuple whose first element is len_b.

  Returns:
    z_btc, affine in params and in x_btc.
  """
  if op in OWN:
    return OWN[op].apply(params, x_btc, context[0])
  if op == 'zero':
    return jnp.zeros_like(x_btc)
  if op == 'linear':
    dense = params['Dense_0']
    y_btc = matmul(x_btc, dense['kernel'], precision)
    return y_btc + dense['bias'][None, None]
  kernel_kijg, bias_c, shifts = params['kernel'], params['bias'], offsets(op)
  if kernels in ('native', 'twice'):
    taps_n = jnp.array((len(shifts), *shifts), jnp.int32)
    return kernels_lib.conv(x_btc, kernel_kijg, bias_c, taps_n, context[0])
  y_btc = grouped_conv(
    mask_frames(x_btc, context[0]), kernel_kijg, shifts, precision, kernels
  )
  return y_btc + bias_c[None, None]


class Linear(nn.Module):
  """Dense, clipped ReLU, dropout: applied to each frame."""

  width: int
  groups: int
  rate: float
  site: int
  kernels: str = 'xla'
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc, len_b, place_uk, key):
    del len_b, place_uk
    y_btc = Dense(self.width, self.precision)(x_btc)
    return clip_dropout(y_btc, key, self.site, self.rate)


class Conv(nn.Module):
  """Grouped convolution, clipped ReLU, dropout.

  Attributes:
    width: channels in and out.
    groups: divides `width`.
    rate, site: of dropout.
    kernels: 'native' for the CPU kernels of `nasjax.kernels`, 'twice' for those
      of them that can be differentiated twice, else for what runs anywhere.
    op: one of `CONVOLUTIONS`, or None to take the taps from `place_uk`.
  """

  width: int
  groups: int
  rate: float
  site: int
  kernels: str = 'xla'
  precision: str = 'float32'
  op: str | None = None

  @nn.compact
  def __call__(self, x_btc, len_b, place_uk, key):
    c = self.width // self.groups
    if self.op:
      taps = CONVOLUTIONS[self.op][0]
      shape, shifts, used_k = (taps, c, c, self.groups), offsets(self.op), None
    else:
      shape, shifts = (MAX_TAPS, c, c, self.groups), UNION
      used_k = jnp.sum(place_uk, 0)
      taps = jnp.sum(used_k)

    def init(rng, shape):
      kernel_kijg = glorot(taps * c, taps * self.width)(rng, shape)
      if used_k is None:
        return kernel_kijg
      return kernel_kijg * used_k[:, None, None, None]

    kernel_kijg = self.param('kernel', init, shape)
    bias_c = self.param('bias', nn.initializers.zeros, (self.width,))
    if self.kernels == 'native':
      return kernels_lib.conv_clip_dropout(
        x_btc,
        kernel_kijg,
        bias_c,
        self._taps(place_uk),
        len_b,
        jnp.zeros(2, jnp.uint32) if key is None else key,
        self.site,
        0.0 if key is None else self.rate,
        CLIP,
      )
    if self.kernels == 'twice':
      y_btc = kernels_lib.conv(
        x_btc, kernel_kijg, bias_c, self._taps(place_uk), len_b
      )
      return clip_dropout(y_btc, key, self.site, self.rate)
    if not self.op:
      kernel_kijg = jnp.einsum('uk,kijg->uijg', place_uk, kernel_kijg)
    y_btc = grouped_conv(
      mask_frames(x_btc, len_b),
      kernel_kijg,
      shifts,
      self.precision,
      self.kernels,
    )
    y_btc = y_btc + bias_c[None, None]
    return clip_dropout(y_btc, key, self.site, self.rate)

  def _taps(self, place_uk):
    """Returns int32: how many taps are used, and the frame that each reads."""
    if self.op:
      shifts = offsets(self.op)
      return jnp.array((len(shifts), *shifts), jnp.int32)
    shift_k = jnp.array(UNION, jnp.float32) @ place_uk
    taps = jnp.sum(place_uk)[None]
    return jnp.concatenate([taps, shift_k]).astype(jnp.int32)


class Zero(nn.Module):
  """Returns zeros: the edge is absent."""

  width: int
  groups: int
  rate: float
  site: int
  kernels: str = 'xla'
  precision: str = 'float32'

  def __call__(self, x_btc, len_b, place_uk, key):
    del len_b, place_uk, key
    return jnp.zeros_like(x_btc)


OPS = {
  'linear': Linear,
  **{op: functools.partial(Conv, op=op) for op in CONVOLUTIONS},
  'zero': Zero,
  # Any of the four convolutions, chosen by data: what populations run.
  'conv': Conv,
}


@dataclasses.dataclass(frozen=True)
class Operation:
  """An operation of one's own: clipped ReLU and dropout follow it as any other.

  Attributes:
    params: (width, groups) -> its parameters by name, each a pair of an
      initialiser of `jax.nn.initializers` and a shape.
    apply: (params, x_btc, len_b) -> z_btc of the shape of x_btc. It is written
      for one network, in `jax.numpy`. Frames from len_b on hold anything, and
      must reach no other (`layers.modules.mask_frames`). Where it is affine in
      params and in x_btc, a one-shot search runs it once, else twice.
    macs: (width, groups) -> products with weights in a frame; if not given each
      weight of a parameter of two axes or more counts as one.
  """

  params: Callable
  apply: Callable
  macs: Callable | None = None

  def sizes(self, width, groups):
    """Returns the shapes of its parameters."""
    return [shape for _, shape in self.params(width, groups).values()]

  def count(self, width, groups):
    """Returns how many parameters it has."""
    return sum(map(math.prod, self.sizes(width, groups)))

  def products(self, width, groups):
    """Returns its multiply-accumulates in a frame."""
    if self.macs is not None:
      return self.macs(width, groups)
    shapes = self.sizes(width, groups)
    return sum(math.prod(shape) for shape in shapes if len(shape) > 1)


# Operations of one's own, by name.
OWN = {}


def add(name, operation):
  """Lets the cells of a space of one's own have an operation.

  Args:
    name: what the space calls it. Where it has 'conv' in it, L2 reaches its
      parameters called `kernel`, and `conv_dropout` rules its dropout.
    operation: `Operation`.

  Raises:
    ValueError: the name is none, or that of another operation.
  """
  if name in OPS or not name.isidentifier():
    raise ValueError(
      f'operation {name!r}: want letters, digits and _, and none of '
      f'{", ".join(OPS)}'
    )
  OWN[name] = operation


def module(name):
  """Returns the class of linen modules of an operation, see `Linear`."""
  if name in OWN:
    return functools.partial(Own, operation=OWN[name])
  return OPS[name]


class Own(nn.Module):
  """An `Operation`, clipped ReLU, dropout."""

  width: int
  groups: int
  rate: float
  site: int
  kernels: str = 'xla'
  precision: str = 'float32'
  operation: Operation | None = None

  @nn.compact
  def __call__(self, x_btc, len_b, place_uk, key):
    del place_uk
    made = self.operation.params(self.width, self.groups)
    params = {name: self.param(name, *parts) for name, parts in made.items()}
    y_btc = self.operation.apply(params, x_btc, len_b)
    return clip_dropout(y_btc, key, self.site, self.rate)


class MacroConv(nn.Module):
  """Strided dense convolution and clipped ReLU that open a block.

  Written as one matrix product over unfolded frames, which maps over members
  as a batched product.
  """

  width: int
  kernel: int
  stride: int
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc, len_b):
    b, frames, channels = x_btc.shape
    if self.kernel % self.stride:
      raise ValueError(
        f'kernel {self.kernel} is not a multiple of stride {self.stride}'
      )
    out_frames = -(-frames // self.stride)
    steps = self.kernel // self.stride
    left, _ = reach(self.kernel, 1, self.stride)
    total = (out_frames + steps - 1) * self.stride
    x_btc = mask_frames(x_btc, len_b)
    x_btc = eight_bits.inputs(self, 'input', x_btc, self.precision)
    right = total - left - frames
    x_btc = jnp.pad(x_btc, ((0, 0), (left, max(right, 0)), (0, 0)))[:, :total]
    # Frames in strides of `stride`: every tap pair is then a plain slice.
    x_bsc = x_btc.reshape(b, out_frames + steps - 1, self.stride * channels)
    x_btk = jnp.concatenate(
      [x_bsc[:, k : k + out_frames] for k in range(steps)], -1
    )
    kernel_kc = self.param(
      'kernel',
      glorot(self.kernel * channels, self.kernel * self.width),
      (self.kernel * channels, self.width),
    )
    bias_c = self.param('bias', nn.initializers.zeros, (self.width,))
    kernel_kc = eight_bits.weights(kernel_kc, self.precision)
    y_btc = matmul(x_btk, kernel_kc, self.precision) + bias_c[None, None]
    y_btc = clip_dropout(y_btc, None, 0, 0.0)
    return y_btc, -(-len_b // self.stride)
