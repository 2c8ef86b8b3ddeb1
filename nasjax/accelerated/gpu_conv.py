"""Ways to write a cell's grouped convolution for a GPU.

Channels lie one group after the other. Taps are data: each of the seven is
placed on one of the ten frames that any convolution of the space reads, by a
0/1 matrix, so that offsets are fixed. Which way is fastest only a card can tell
(launch/gpu.sh races them); until then it is `grouped`, which by an H100's
compiler takes the least memory. The gradient of its weights is rounded as the
activations are.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from nasjax.accelerated import layers
from nasjax.taps import UNION

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


def block_products(x_btl, kernel_uil, lanes=64):
  """Block-diagonal products of whole groups, taps stacked; as `grouped`."""
  taps, c, width = kernel_uil.shape
  groups = width // c
  most = max(1, lanes // c)
  size = next(s for s in range(most, 0, -1) if groups % s == 0)
  kernel_uingj = kernel_uil.reshape(taps, c, groups // size, size, c)
  eye_gh = jnp.eye(size, dtype=kernel_uil.dtype)
  # [tap, block, in (group, i), out (group, j)]
  full = jnp.einsum('uingj,gh->ungihj', kernel_uingj, eye_gh)
  rows = size * c
  full = full.reshape(taps, groups // size, rows, rows)
  x_utbnr = jnp.stack(_frames(x_btl)).reshape(
    taps, *x_btl.shape[:2], groups // size, rows
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


WAYS = {
  'grouped': grouped,
  'tap_products': tap_products,
  'block_products': block_products,
  'multiply_adds': multiply_adds,
}


@functools.cache
def conv(way='grouped'):
  """Returns the `layers.Product` of a grouped convolution.

  Its kernel is [7, c, lanes]; its context is (place_uk, len_b), see
  `taps.placement`; frames past len_b count as zeros.
  """

  def forward(x_btl, kernel_kil, context):
    place_uk, len_b = context
    kernel_uil = jnp.einsum(
      'uk,kil->uil', place_uk, kernel_kil, precision='highest'
    )
    x_btl = layers.masked(x_btl, len_b, 1)
    return WAYS[way](x_btl, kernel_uil.astype(x_btl.dtype))

  def backward(x_btl, kernel_kil, context, dz_btl):
    _, pull = jax.vjp(
      lambda x, kernel: forward(x, kernel, context), x_btl, kernel_kil
    )
    return pull(dz_btl)

  return layers.Product(forward, backward)
