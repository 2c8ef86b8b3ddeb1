"""The grouped convolution of a TPU for utterances that its kernel cannot hold.

XLA's own convolution over blocks of 128 lanes, dense in each: as many products
as the kernel has, of 13 taps instead of those that are used, and more memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax.kernels import tpu_conv
from nasjax.kernels.taps import UNION
from nasjax.models.nb_asr.accelerated import layers

_LEFT, _RIGHT = -min(UNION), max(UNION)


def conv(shape):
  """Returns the `layers.Product` of a convolution in blocks of lanes.

  Its kernel is [7, c, lanes]; its context is (place_uk, len_b), see
  `taps.placement`; activations are [t, b, lanes].

  Args:
    shape: `tpu_conv.Shape`.
  """
  lane = np.arange(tpu_conv.LANES)
  used = lane < shape.c * shape.per
  first_pi = (lane[:, None] // shape.per == np.arange(shape.c)) & used[:, None]
  same_pl = (lane[:, None] % shape.per == lane % shape.per) & used

  def forward(x_tbl, kernel_kil, context):
    place_uk, len_b = context
    kernel_uil = jnp.einsum(
      'uk,kil->uil', place_uk, kernel_kil, precision='highest'
    )
    full_upl = jnp.einsum(
      'pi,uil->upl', first_pi.astype(np.float32), kernel_uil,
      precision='highest',
    )  # fmt: skip
    full_upl = jnp.where(np.tile(same_pl, shape.blocks)[None], full_upl, 0)
    dense = jnp.zeros((_LEFT + _RIGHT + 1, *full_upl.shape[1:]))
    dense = dense.at[jnp.array([_LEFT + s for s in UNION])].set(full_upl)
    return lax.conv_general_dilated(
      layers.masked(x_tbl, len_b, 0),
      dense.astype(x_tbl.dtype),
      (1,),
      [(_LEFT, _RIGHT)],
      dimension_numbers=('WNC', 'WIO', 'WNC'),
      feature_group_count=shape.blocks,
      precision=layers.precision_of(x_tbl.dtype),
    )

  def backward(x_tbl, kernel_kil, context, dz_tbl):
    _, pull = jax.vjp(
      lambda x, kernel: forward(x, kernel, context), x_tbl, kernel_kil
    )
    return pull(dz_tbl)

  return layers.Product(forward, backward)
