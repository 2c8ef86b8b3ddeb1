"""Ways to write a cell's grouped convolution for a GPU with what XLA offers.

Channels lie one group after the other. Taps are data: each of the seven is
placed on one of the ten frames that any convolution of the space reads, by a
0/1 matrix, so that offsets are fixed. `gpu.py` races them against the kernels
of `nasjax.kernels.gpu_conv`, which networks use.
"""

import functools

import jax.numpy as jnp
from jax import lax

from nasjax.kernels.taps import UNION
from nasjax.layers.custom_vjps import CLIP
from nasjax.models.nb_asr.accelerated import layers

_LEFT, _RIGHT = -min(UNION), max(UNION)
_PADDING = ((0, 0), (_LEFT, _RIGHT), (0, 0))


def grouped(x_btl, kernel_uil):
  """One grouped convolution of 13 taps, three of them zero: cuDNN's.

  Args:
    x_btl: activations.
    kernel_uil: weight at each of the frames of `UNION`, from channel i of the
      group of an output lane; of the dtype of x.

  Returns:
    z_btl, of the dtype of x.
  """
  taps, c, width = kernel_uil.shape
  dense = jnp.zeros((_LEFT + _RIGHT + 1, c, width), kernel_uil.dtype)
  places = jnp.array([_LEFT + shift for shift in UNION])
  return lax.conv_general_dilated(
    x_btl,
    dense.at[places].set(kernel_uil),
    (1,),
    [(_LEFT, _RIGHT)],
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=width // c,
    precision=layers.precision_of(x_btl.dtype),
  )


def _frames(x_btl):
  """What each offset reads: arrays [b, t, lanes], in the order of `UNION`."""
  frames = x_btl.shape[1]
  x_btl = jnp.pad(x_btl, _PADDING)
  return [x_btl[:, _LEFT + s : _LEFT + s + frames] for s in UNION]


def tap_products(x_btl, kernel_uil):
  """A product for each tap, batched over groups; as `grouped`."""
  taps, c, width = kernel_uil.shape
  b, frames, _ = x_btl.shape
  kernel_uigj = kernel_uil.reshape(taps, c, width // c, c)
  z_gnj = 0
  for x, kernel_igj in zip(_frames(x_btl), kernel_uigj):
    z_gnj += jnp.einsum(
      'ngi,igj->gnj',
      x.reshape(b * frames, -1, c),
      kernel_igj,
      preferred_element_type=jnp.float32,
      precision=layers.precision_of(x.dtype),
    )
  z_ngj = jnp.swapaxes(z_gnj, 0, 1)
  return z_ngj.reshape(x_btl.shape).astype(x_btl.dtype)


def _in_blocks(kernel_uil, lanes):
  """Cuts groups into blocks of at most `lanes` channels.

  Returns:
    the weights [tap, i, block, group of the block, j], and which groups of a
    block are the same.
  """
  taps, c, width = kernel_uil.shape
  groups = width // c
  most = max(1, lanes // c)
  size = next(s for s in range(most, 0, -1) if groups % s == 0)
  return (
    kernel_uil.reshape(taps, c, groups // size, size, c),
    jnp.eye(size, dtype=kernel_uil.dtype),
  )


def block_products(x_btl, kernel_uil, lanes=64):
  """Block-diagonal products of whole groups, taps stacked; as `grouped`."""
  kernel_uingj, eye_gh = _in_blocks(kernel_uil, lanes)
  taps, c, blocks, size, _ = kernel_uingj.shape
  # [tap, block, in (group, i), out (group, j)]
  full = jnp.einsum('uingj,gh->ungihj', kernel_uingj, eye_gh)
  rows = size * c
  full = full.reshape(taps, blocks, rows, rows)
  x_utbnr = jnp.stack(_frames(x_btl)).reshape(
    taps, *x_btl.shape[:2], blocks, rows
  )
  z_btns = jnp.einsum(
    'ubtnr,unrs->btns',
    x_utbnr,
    full,
    preferred_element_type=jnp.float32,
    precision=layers.precision_of(x_btl.dtype),
  )
  return z_btns.reshape(x_btl.shape).astype(x_btl.dtype)


def multiply_adds(x_btl, kernel_uil):
  """Multiply-adds of whole activations, float32 sums; as `grouped`."""
  taps, c, width = kernel_uil.shape
  kernel_uigj = kernel_uil.reshape(taps, c, width // c, c)
  total = 0
  for x, kernel_igj in zip(_frames(x_btl), kernel_uigj):
    x_btgi = x.reshape(*x.shape[:2], width // c, c)
    for i in range(c):
      x_i = x_btgi[..., i, None].astype(jnp.float32)
      total += x_i * kernel_igj[None, None, i]
  return total.reshape(x_btl.shape).astype(x_btl.dtype)


def block_conv(x_btl, kernel_uil, lanes=128):
  """A grouped convolution of larger groups: block-diagonal kernels.

  As `grouped`; tensor cores want 8 channels of a group at least.
  """
  kernel_uingj, eye_hg = _in_blocks(kernel_uil, lanes)
  taps, c, _, size, _ = kernel_uingj.shape
  wide = jnp.einsum('uingj,hg->uhingj', kernel_uingj, eye_hg)
  return grouped(x_btl, wide.reshape(taps, size * c, -1))


WAYS = {
  'tap_products': tap_products,
  'block_products_64': functools.partial(block_products, lanes=64),
  'multiply_adds': multiply_adds,
  'block_conv_128': functools.partial(block_conv, lanes=128),
  'block_conv_64': functools.partial(block_conv, lanes=64),
  'grouped': grouped,
}


def node(way):
  """Returns a node without dropout, whose convolution is one of `WAYS`.

  Args:
    way: its name.

  Returns:
    function of (x_btl, kernel_kil, bias_l, place_uk, len_b): y_btl. Its
    gradient rounds that of the weights as the activations are.
  """

  def run(x_btl, kernel_kil, bias_l, place_uk, len_b):
    kernel_uil = jnp.einsum(
      'uk,kil->uil', place_uk, kernel_kil, precision='highest'
    )
    x_btl = layers.masked(x_btl, len_b, 1)
    z_btl = WAYS[way](x_btl, kernel_uil.astype(x_btl.dtype))
    y_btl = jnp.clip(z_btl.astype(jnp.float32) + bias_l[None, None], 0, CLIP)
    return y_btl.astype(x_btl.dtype)

  return run
