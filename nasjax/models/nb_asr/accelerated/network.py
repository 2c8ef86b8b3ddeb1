"""NB-ASR networks as accelerators run them: parameters, and what they compute.

The same networks as `models.Network`, of its parameters in another order, with
the same dropout masks bit for bit. Cells of a block can be one loop, in which
each is computed again for its gradient: a quarter of the memory, a third of
the compilation, and a third more arithmetic.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nasjax.kernels import gpu_conv, node, tpu_conv
from nasjax.kernels.taps import CONVOLUTIONS, MAX_TAPS
from nasjax.layers import dropout as drop
from nasjax.layers.custom_vjps import CLIP, recurrence
from nasjax.models.base import Form
from nasjax.models.nb_asr.accelerated import channels, layers, long_conv


class Backend(NamedTuple):
  """What is different for a kind of accelerator.

  Attributes:
    time_axis: of activations; the other one is the batch.
    lanes: function of (width, groups) that returns `channels.Lanes`.
    conv_node: function of (x, params, gates of the node, len_b, draw, network,
      lanes) that returns what a convolution's node computes.
    block_conv: function of a stride that returns the `layers.Product` of the
      convolution that opens a block.
    rows: a batch is padded to a multiple of this.
  """

  time_axis: int
  lanes: callable
  conv_node: callable
  block_conv: callable
  rows: int


def _words(place_uk, draw):
  """Taps, int32 (8,), and dropout's key, uint32 (3,), as kernels read them."""
  key, site = draw or (jnp.zeros(2, jnp.uint32), 0)
  row = key[2] if key.shape[0] == 3 else jnp.uint32(0)
  return node.tap_words(place_uk), jnp.stack(
    [key[0], drop.salt(key, site), row]
  )


def _tpu_conv_node(x_tbl, params, place_uk, len_b, draw, network, lanes):
  """The node of a convolution by the Pallas kernel."""
  macro, rate = network.macro, conv_rate(network)
  shape = tpu_conv.Shape(
    len(lanes.lane_c), macro.groups, rate if draw else 0.0, CLIP
  )
  if not tpu_conv.fits(shape, x_tbl.shape[0], x_tbl.dtype.itemsize):
    return layers.activated(
      long_conv.conv(shape), layers.Rest(lanes, 0, rate), x_tbl,
      params['kernel'], params['bias'], (place_uk, len_b), draw,
    )  # fmt: skip
  taps_n, key_3 = _words(place_uk, draw)
  return tpu_conv.conv_node(
    x_tbl, params['kernel'], params['bias'], taps_n, len_b, key_3, shape
  )


def _gpu_conv_node(x_btl, params, place_uk, len_b, draw, network, lanes):
  """The node of a convolution by the Pallas kernels that Triton lowers."""
  rate = conv_rate(network) if draw else 0.0
  shape = gpu_conv.Shape(len(lanes.lane_c), network.macro.groups, rate, CLIP)
  taps_n, key_3 = _words(place_uk, draw)
  return gpu_conv.conv_node(
    x_btl, params['kernel'], params['bias'], taps_n, len_b, key_3, shape
  )


BACKENDS = {
  'tpu': Backend(
    0, channels.in_blocks, _tpu_conv_node, layers.block_conv, tpu_conv.ROWS
  ),
  'gpu': Backend(1, channels.by_group, _gpu_conv_node, layers.unfolded_conv, 1),
}


def _lanes(network, backend, width):
  """Returns the `channels.Lanes` of a block."""
  if ('conv',) not in network.ops:
    return channels.natural(width)
  return backend.lanes(width, network.macro.groups)


def conv_rate(network):
  """Returns the rate of dropout behind convolutions."""
  return network.rate if network.conv_dropout else 0.0


@functools.lru_cache(maxsize=256)
def make(network):
  """Returns the `Form` of a `models.Network` whose `kernels` is of `BACKENDS`.

  Every node has one operation: 'linear', 'conv' or 'zero'.
  """
  backend = BACKENDS[network.kernels]
  return Form(
    functools.partial(_reordered, network, backend, True),
    functools.partial(_reordered, network, backend, False),
    functools.partial(_apply, network, backend),
  )


def spared_flops(network, ops, frames, batch):
  """FLOPs of a training step that fewer taps than seven spare a TPU.

  What a kernel says of its cost is for the most taps that there can be.

  Args:
    network: `models.Network`.
    ops: the operation of each node, by name.
    frames, batch: of the features.
  """
  if network.kernels != 'tpu':
    return 0
  macro, total = network.macro, 0
  batch = -(-batch // tpu_conv.ROWS) * tpu_conv.ROWS
  passes = 4 if network.checkpoint else 3
  for width, cells, stride in zip(macro.filters, macro.cells, macro.strides):
    frames = -(-frames // stride)
    shape = tpu_conv.Shape(width, macro.groups, 0.0, CLIP)
    for name in ops:
      if name in CONVOLUTIONS:
        all_taps, used = (
          tpu_conv.flops(shape, frames, batch, taps)
          for taps in (MAX_TAPS, CONVOLUTIONS[name][0])
        )
        total += passes * cells * (all_taps - used)
  return total


def supports(network):
  """Tells whether a network has a form for accelerators."""
  if network.precision == 'int8':  # the module rounds, the form does not
    return False
  return network.kernels in BACKENDS and all(
    ops in (('linear',), ('conv',), ('zero',)) for ops in network.ops
  )


def _reordered(network, backend, pack, params, lead=0):
  """Takes parameters to the form, or back.

  Args:
    network: `models.Network`.
    backend: of `BACKENDS`.
    pack: whether to go to the form.
    params: dict, of the form if not `pack`.
    lead: leading axes before those of a network: 1 for a population's.
  """
  macro = network.macro
  move = channels.spread if pack else channels.gather
  before = channels.natural(macro.features)
  out = {}

  def reshaped(leaf, *shape):
    return leaf.reshape(*leaf.shape[:lead], *shape)

  def vectors(tree, lanes):
    return {name: move(leaf, -1, lanes) for name, leaf in tree.items()}

  def node(tree, lanes):
    if 'Dense_0' in tree:
      dense = tree['Dense_0']
      kernel = move(move(dense['kernel'], -2, lanes), -1, lanes)
      return {
        'Dense_0': {'kernel': kernel, 'bias': move(dense['bias'], -1, lanes)}
      }
    kernel, width = tree['kernel'], len(lanes.lane_c)
    taps, c = kernel.shape[lead], width // macro.groups
    if pack:
      kernel = reshaped(kernel, taps, c, width)
    kernel = move(kernel, -1, lanes)
    if not pack:
      kernel = reshaped(kernel, taps, c, c, macro.groups)
    return {'kernel': kernel, 'bias': move(tree['bias'], -1, lanes)}

  def cell(tree, lanes):
    return {
      name: (vectors if name == 'norm' else node)(child, lanes)
      for name, child in tree.items()
    }

  for block, width in enumerate(macro.filters):
    lanes = _lanes(network, backend, width)
    name = f'block{block}'
    conv = params[f'{name}_conv']
    kernel = conv['kernel']
    if pack:
      kernel = reshaped(kernel, macro.kernel, -1, width)
    kernel = move(move(kernel, -2, before), -1, lanes)
    if not pack:
      kernel = reshaped(kernel, -1, width)
    out[f'{name}_conv'] = {
      'kernel': kernel,
      'bias': move(conv['bias'], -1, lanes),
    }
    out[f'{name}_norm'] = vectors(params[f'{name}_norm'], lanes)
    names = [f'{name}_cell{i}' for i in range(macro.cells[block])]
    if not network.checkpoint:
      out |= {n: cell(params[n], lanes) for n in names}
    elif pack:
      cells = [cell(params[n], lanes) for n in names]
      out[f'{name}_cells'] = jax.tree.map(
        functools.partial(_stacked, lead), *cells
      )
    else:
      for i, n in enumerate(names):
        at = (slice(None),) * lead + (i,)
        one = jax.tree.map(lambda x, at=at: x[at], params[f'{name}_cells'])
        out[n] = cell(one, lanes)
    before = lanes
  for name in ('lstm', 'head'):
    if name in params:
      first = 'input_kernel' if name == 'lstm' else 'kernel'
      out[name] = dict(params[name])
      if name == 'lstm' or not macro.lstm:
        out[name][first] = move(params[name][first], -2, before)
  return out


def _stacked(axis, *leaves):
  xp = np if isinstance(leaves[0], np.ndarray) else jnp
  return xp.stack(leaves, axis)


def _node(network, backend, name, params, x, place_uk, len_b, draw, lanes):
  """What one operation computes from its input."""
  if name == 'zero':
    return jnp.zeros_like(x)
  if name == 'conv':
    return backend.conv_node(x, params, place_uk, len_b, draw, network, lanes)
  rest = layers.Rest(lanes, backend.time_axis, network.rate)
  dense = params['Dense_0']
  return layers.activated(
    layers.LINEAR, rest, x, dense['kernel'], dense['bias'], None, draw
  )


def _cell(network, backend, lanes, params, number, x, len_b, gates, key):
  """Runs a cell; `number` counts the cells of the network."""
  xs = [x]
  for n, (name,) in enumerate(network.ops):
    place_uk = gates.place_nuk[n]
    draw = None if key is None else (key, number * len(network.ops) + n)
    own = params.get(f'node{n}_{name}')
    total = _node(
      network, backend, name, own, xs[-1], place_uk, len_b, draw, lanes
    ).astype(jnp.float32)
    for m, past in enumerate(xs):
      total = total + gates.skip_nm[n, m] * past
    xs.append(total.astype(x.dtype))
  norm = params['norm']
  return layers.layer_norm(
    xs[-1],
    norm['scale'],
    norm['bias'],
    lanes,
    network.macro.epsilon,
  )


def _cells(network, backend, block, first, params, x, len_b, gates, key):
  """Runs the cells of a block; `first` is the number of the first one."""
  lanes = _lanes(network, backend, network.macro.filters[block])
  count = network.macro.cells[block]
  run = functools.partial(_cell, network, backend, lanes)
  if not network.checkpoint:
    for i in range(count):
      own = params[f'block{block}_cell{i}']
      x = run(own, jnp.int32(first + i), x, len_b, gates, key)
    return x

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def again(own, number, x, shared):
    return run(own, number, x, *shared)

  def body(x, inputs):
    return again(*inputs, x, (len_b, gates, key)), None

  numbers = first + jnp.arange(count)
  return jax.lax.scan(body, x, (params[f'block{block}_cells'], numbers))[0]


def _padded(x_btf, len_b, rows):
  """Adds empty utterances up to a multiple of `rows`."""
  spare = -len(len_b) % rows
  if not spare:
    return x_btf, len_b
  x_btf = jnp.pad(x_btf, ((0, spare), (0, 0), (0, 0)))
  return x_btf, jnp.pad(len_b, (0, spare))


def _apply(network, backend, params, x_btf, len_b, gates, key=None):
  """Runs a network: `models.Network.__call__` on parameters of the form."""
  macro, batch = network.macro, len(len_b)
  chex.assert_shape(x_btf, (batch, None, macro.features))
  dtype = jnp.dtype(network.precision)
  time_axis = backend.time_axis
  x, len_b = _padded(x_btf, len_b, backend.rows)
  x = x.astype(dtype)
  if time_axis == 0:
    x = jnp.swapaxes(x, 0, 1)
  number = 0
  for block, width in enumerate(macro.filters):
    lanes = _lanes(network, backend, width)
    conv, norm = params[f'block{block}_conv'], params[f'block{block}_norm']
    stride = macro.strides[block]
    x = layers.activated(
      backend.block_conv(stride),
      layers.Rest(lanes, time_axis, 0.0),
      x, conv['kernel'], conv['bias'], len_b, None,
    )  # fmt: skip
    len_b = -(-len_b // stride)
    x = layers.layer_norm(x, norm['scale'], norm['bias'], lanes, macro.epsilon)
    x = _cells(network, backend, block, number, params, x, len_b, gates, key)
    number += macro.cells[block]
  if macro.lstm:
    draw = None if key is None else (key, number * len(network.ops))
    rest = layers.Rest(lanes, time_axis, network.rate)
    x = _lstm(params['lstm'], layers.dropout(x, draw, rest), time_axis)
  head = params['head']
  logits = layers.dense(x.astype(dtype), head['kernel'])
  logits = logits + head['bias'][None, None]
  if time_axis == 0:
    logits = jnp.swapaxes(logits, 0, 1)
  return logits[:batch], len_b[:batch]


def _lstm(params, x, time_axis):
  """The LSTM: [.., lanes] to [.., hidden], float32."""
  z = layers.dense(x, params['input_kernel']) + params['bias'][None, None]
  if time_axis:
    z = jnp.swapaxes(z, 0, 1)
  precision = layers.precision_of(x.dtype)
  h_tbh = recurrence(z, params['recurrent_kernel'], precision)
  return jnp.swapaxes(h_tbh, 0, 1) if time_axis else h_tbh
