"""A layer of a conformer-like encoder, by itself and elastic."""

import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax.layers import attention, elastic, modules, planes
from nasjax.layers import dropout as drop
from nasjax.layers.custom_vjps import depthwise_conv
from nasjax.models import macros
from nasjax.spaces import conformer as spaces

_ACTIVATE = {'relu': nn.relu, 'gelu': nn.gelu, 'swish': nn.swish}
# The order of `spaces.ACTIVATIONS`, which gates count.
_ACTIVATIONS = tuple(_ACTIVATE[name] for name in spaces.ACTIVATIONS)
SKIP = 'skip'
_NAME = re.compile(
  r'heads(\d+)_kernel(\d+)_x([\d.]+)'
  rf'(?:_({"|".join(spaces.ACTIVATIONS)})_({"|".join(spaces.NORMS)}))?'
)
# Places of dropout in a layer.
SITES = 3


class Shape(NamedTuple):
  """What is fixed of a layer; `spaces.Layer`, whose last two may be data."""

  heads: int
  kernel: int
  expansion: float
  activation: str | None = None
  norm: str | None = None


class Choice(NamedTuple):
  """What is data of layers, int32, one number or one a layer.

  Attributes:
    activation: number of `spaces.ACTIVATIONS`.
    norm: of `spaces.NORMS`.
    heads, kernel: of an elastic layer, how many there are.
    expansion: of an elastic layer, in thousandths.
    keep: whether it is there at all, 0 or 1.
  """

  activation: jax.Array
  norm: jax.Array
  heads: jax.Array | None = None
  kernel: jax.Array | None = None
  expansion: jax.Array | None = None
  keep: jax.Array | None = None


def written(layer, whole=True):
  """Returns the name of a `spaces.Layer` as operations have it.

  Args:
    layer: `spaces.Layer`, or None for one that is left out.
    whole: whether activation and norm are in it.
  """
  if layer is None:
    return SKIP
  name = f'heads{layer.heads}_kernel{layer.kernel}_x{layer.expansion:g}'
  return f'{name}_{layer.activation}_{layer.norm}' if whole else name


def read(name):
  """Returns the `Shape` of a name, None for `SKIP`.

  Raises:
    ValueError: it is the name of no layer.
  """
  if name == SKIP:
    return None
  found = _NAME.fullmatch(name)
  if not found:
    raise ValueError(f'{name!r} is no layer; want {SKIP} or heads4_kernel3_x2')
  heads, kernel, expansion, *rest = found.groups()
  return Shape(int(heads), int(kernel), float(expansion), *rest)


def hidden(shape, macro):
  """Returns the channels within a feed-forward part."""
  return spaces.hidden(spaces.thousandths(shape.expansion), macro.width)


class Norm(nn.Module):
  """Normalisation of channels, by frame or by batch.

  By batch it is of the valid frames, and has `mean` and `variance` among its
  parameters: evaluation reads them, training replaces them (`Family.statistics`
  of `models.base`).

  Attributes:
    kind: of `spaces.NORMS`; None where that is data.
    epsilon: added to the variance.
    momentum: weight of a batch in the running statistics.
  """

  kind: str | None
  epsilon: float
  momentum: float

  @nn.compact
  def __call__(self, x_btc, len_b, trains, kind=None):
    """Returns y_btc; `kind`, int32, is a number of `spaces.NORMS`."""
    width = x_btc.shape[-1]
    fresh = planes.norm_params(width)
    if self.kind == 'layer':
      fresh = {name: fresh[name] for name in ('scale', 'shift')}
    params = {
      name: self.param(name, lambda key, value=value: value)
      for name, value in fresh.items()
    }
    by_frame = by_batch = None
    if self.kind != 'batch':
      by_frame = self._by_frame(params, x_btc)
    if self.kind != 'layer':
      by_batch = self._by_batch(params, x_btc, len_b, trains)
    if self.kind is None:
      return jnp.where(kind == spaces.NORMS.index('batch'), by_batch, by_frame)
    return by_frame if by_batch is None else by_batch

  def _by_frame(self, params, x_btc):
    # In two passes, for accuracy.
    x_btc = x_btc - jnp.mean(x_btc, -1, keepdims=True)
    variance_bt1 = jnp.mean(jnp.square(x_btc), -1, keepdims=True)
    y_btc = x_btc * jax.lax.rsqrt(variance_bt1 + self.epsilon)
    return y_btc * params['scale'][None, None] + params['shift'][None, None]

  def _by_batch(self, params, x_btc, len_b, trains):
    x_btfc = x_btc[:, :, None]
    a_c, b_c = planes.norm_factors(params, x_btfc, len_b, trains, self.epsilon)
    if trains:
      found = jax.lax.stop_gradient(planes.moments(x_btfc, len_b))
      moved = planes.moved(params, found, self.momentum)
      for name, value in moved.items():
        self.sow(
          'statistics', name, value, lambda _, last: last, lambda: None
        )  # fmt: skip
    return a_c[None, None] * x_btc + b_c[None, None]


class Conv(nn.Module):
  """One filter a channel over time.

  Taps stand in the order of `shifts`: those in the middle are the first.

  Attributes:
    taps: how many, odd.
    causal: whether it reads no later frame.
    kernels: as in `custom_vjps.depthwise_conv`.
  """

  taps: int
  causal: bool = False
  kernels: str = 'xla'

  @nn.compact
  def __call__(self, x_btc, taps=None):
    """Returns y_btc; `taps`, int32, is how many there are, None for all."""
    limit = self.taps**-0.5
    kernel_kc = self.param(
      'kernel',
      lambda key, shape: jax.random.uniform(
        key, shape, jnp.float32, -limit, limit
      ),
      (self.taps, x_btc.shape[-1]),
    )
    shift_k = shifts(self.taps, self.causal)
    if taps is not None:
      there_k = jnp.arange(self.taps) < taps
      kernel_kc = jnp.where(there_k[:, None], kernel_kc, 0)
    return depthwise_conv(x_btc, kernel_kc, shift_k, self.kernels)


def shifts(taps, causal):
  """Returns the frames that so many taps read, counted from the one written.

  From the middle outwards, so that fewer taps are a beginning of more.
  """
  first = 1 - taps if causal else -(taps // 2)
  return tuple(sorted(range(first, first + taps), key=abs))


class Layer(nn.Module):
  """Attention, convolution and feed-forward part, each on a sum.

  Attributes:
    shape: `Shape`, of an elastic layer the largest.
    macro: the numbers of the network.
    site: of its first dropout, see `dropout.keep_mask`; it takes `SITES`.
    rate: of dropout.
    kernels, precision: of the network.
    adaptive: whether the feed-forward part of an elastic layer drops in
      proportion to its channels.
  """

  shape: Shape
  macro: macros.Conformer
  site: int = 0
  rate: float = 0.0
  kernels: str = 'xla'
  precision: str = 'float32'
  adaptive: bool = False

  @nn.compact
  def __call__(self, x_btc, len_b, seen_bts, key=None, choice=None):
    """Runs it.

    Args:
      x_btc: zero past each utterance's end.
      len_b: valid frames.
      seen_bts: of `attention.seen`.
      key: of dropout, or None; where there is one, it trains.
      choice: `Choice` of one layer, None where all is fixed.

    Returns:
      x_btc, zero past each utterance's end.
    """
    choice = choice or Choice(None, None)
    before_btc = x_btc
    if self.shape.heads:
      y_btc = self._normed('norm_attention', x_btc, len_b, key, choice)
      y_btc = attention.SelfAttention(
        self.shape.heads, self.macro.head, self.precision, name='attention'
      )(y_btc, seen_bts, choice.heads)
      x_btc = self._added(x_btc, y_btc, key, 0, choice.heads)
    if self.shape.kernel:
      y_btc = self._convolved(x_btc, len_b, key, choice)
      x_btc = self._added(x_btc, y_btc, key, 1, choice.kernel)
    y_btc = self._normed('norm_ffn', x_btc, len_b, key, choice)
    y_btc = self._fed_forward(y_btc, choice)
    if self.adaptive and choice.expansion is not None:
      y_btc = self._dropped_by_width(y_btc, key, choice)
      x_btc = x_btc + y_btc
    else:
      x_btc = self._added(x_btc, y_btc, key, 2)
    if choice.keep is not None:
      x_btc = jnp.where(choice.keep > 0, x_btc, before_btc)
    return modules.mask_frames(x_btc, len_b)

  @property
  def hidden(self):
    """Channels within the feed-forward part, of an elastic one the most."""
    return hidden(self.shape, self.macro)

  def _there(self, choice):
    """How many of these there are."""
    return spaces.hidden(choice.expansion, self.macro.width)

  def _normed(self, name, x_btc, len_b, key, choice):
    norm = Norm(
      self.shape.norm, self.macro.epsilon, self.macro.momentum, name=name
    )
    return norm(x_btc, len_b, key is not None, choice.norm)

  def _activated(self, x_btc, choice):
    if self.shape.activation is not None:
      return _ACTIVATE[self.shape.activation](x_btc)
    return jax.lax.select_n(
      jnp.broadcast_to(choice.activation, x_btc.shape),
      *(activate(x_btc) for activate in _ACTIVATIONS),
    )

  def _added(self, x_btc, y_btc, key, number, there=None):
    y_btc = drop.dropout(y_btc, key, self.site + number, self.rate)
    return x_btc + (y_btc if there is None else jnp.where(there > 0, y_btc, 0))

  def _dense(self, width, name):
    return modules.Dense(width, self.precision, name=name)

  def _convolved(self, x_btc, len_b, key, choice):
    width = x_btc.shape[-1]
    y_btc = self._normed('norm_conv', x_btc, len_b, key, choice)
    y_btc, gate_btc = jnp.split(
      self._dense(2 * width, 'conv_into')(y_btc), 2, axis=-1
    )
    y_btc = modules.mask_frames(y_btc * nn.sigmoid(gate_btc), len_b)
    conv = Conv(
      self.shape.kernel, self.macro.streams, self.kernels, name='conv'
    )
    y_btc = conv(y_btc, choice.kernel)
    y_btc = self._normed('norm_taps', y_btc, len_b, key, choice)
    return self._dense(width, 'conv_out')(self._activated(y_btc, choice))

  def _fed_forward(self, x_btc, choice):
    y_btw = self._dense(self.hidden, 'ffn_into')(x_btc)
    y_btw = self._activated(y_btw, choice)
    if choice.expansion is not None:
      there_w = jnp.arange(self.hidden) < self._there(choice)
      y_btw = jnp.where(there_w[None, None], y_btw, 0)
    return self._dense(x_btc.shape[-1], 'ffn_out')(y_btw)

  def _dropped_by_width(self, y_btc, key, choice):
    if key is None or not self.rate:
      return y_btc
    rate = self.rate * self._there(choice) / self.hidden
    keep = drop.uniform(key, self.site + 2, y_btc.shape) >= rate
    return jnp.where(keep, y_btc / (1 - rate), 0)


def sliced(params, shape, macro):
  """Returns the parameters of a layer that is a part of a larger one.

  Args:
    params: of the larger layer, its activation and norm data.
    shape: `Shape` of the smaller, all of it fixed.
    macro: of both.

  Returns:
    views of those given.
  """
  found = {}
  for name in ('norm_attention', 'norm_conv', 'norm_taps', 'norm_ffn'):
    part = 'heads' if name == 'norm_attention' else 'kernel'
    if name != 'norm_ffn' and not getattr(shape, part):
      continue
    kept = ('scale', 'shift')
    if shape.norm != 'layer':
      kept += ('mean', 'variance')
    found[name] = {k: params[name][k] for k in kept}
  if shape.heads:
    inner = shape.heads * macro.head
    found['attention'] = attention.sliced(params['attention'], inner)
  if shape.kernel:
    found |= {name: params[name] for name in ('conv_into', 'conv_out')}
    taps_kc = params['conv']['kernel'][..., : shape.kernel, :]
    found['conv'] = {'kernel': taps_kc}
  parts = {name: params[f'ffn_{name}'] for name in ('into', 'out')}
  for name, part in elastic.sliced(parts, hidden(shape, macro)).items():
    found[f'ffn_{name}'] = part
  return found
