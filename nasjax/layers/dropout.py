"""Dropout from a counter-based generator that stays cheap under `vmap`.

Threefry costs 5 to 8 ms a member for a million draws when mapped over keys,
more than the layer it drops. Here every element hashes its own position with
two rounds of a 32-bit finaliser, which XLA fuses into the layer: nothing is
stored but the mask, and a member's mask depends on its own key alone.
"""

import jax
import jax.numpy as jnp
from jax import lax

from nasjax.kernels import bits


def keep_mask(key, site, shape, rate):
  """Draws which elements survive.

  Args:
    key: uint32 (2,), raw bits of a key that is fresh at every step; or (3,),
      see `from_row`.
    site: int or int32, tells the places of one network apart.
    shape: of the mask; at most 2**32 elements.
    rate: probability of dropping, in [0, 1).

  Returns:
    bool mask of `shape`, True where the element stays.
  """
  return survives(_position(key, shape), key, site, rate)


def _position(key, shape):
  """The number of each element in an array of all rows, see `from_row`."""
  position = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index = lax.broadcasted_iota(jnp.uint32, shape, axis)
    if axis == 0 and key.shape[0] == 3:
      index = index + key[2]
    position = position + index * jnp.uint32(stride)
    stride *= shape[axis]
  return position


def uniform(key, site, shape):
  """Draws float32 in [0, 1), independent of each other; see `keep_mask`."""
  drawn = bits.mix(bits.mix(_position(key, shape) ^ key[0]) + salt(key, site))
  return (drawn >> 8).astype(jnp.float32) * 2**-24


def survives(position, key, site, rate):
  """Draws whether the element at each position survives.

  Args:
    position: uint32, the element's number in its array, row by row.
    key, site, rate: as in `keep_mask`.

  Returns:
    bool, like `position`.
  """
  return bits.stays(position, key[0], salt(key, site), rate)


def salt(key, site):
  """Returns uint32: what tells one site's draws from another's."""
  if isinstance(site, int):
    number = jnp.uint32((site * 0x9E3779B9) & 0xFFFFFFFF)
  else:
    number = site.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
  return bits.mix(key[1] ^ number)


def dropout(x, key, site, rate):
  """Zeroes elements of `x` with probability `rate` and scales up the rest.

  Args:
    x: any array.
    key: as in `keep_mask`, or None to return `x` as it is.
    site: int, the place in the network.
    rate: probability in [0, 1).

  Returns:
    An array like `x` with the same expectation.
  """
  if key is None or rate == 0:
    return x
  keep = keep_mask(key, site, x.shape, rate)
  # A product, not a quotient: what is clipped is then at the scaled cap.
  return jnp.where(keep, x * (1 / (1 - rate)), jnp.zeros((), x.dtype))


def step_key(key, step):
  """Returns uint32 (2,): the dropout key of one training step."""
  return jax.random.key_data(jax.random.fold_in(key, step))


def another(key):
  """Returns a key whose draws share nothing with those of `key`."""
  return key.at[1].set(bits.mix(key[1] + jnp.uint32(0x9E3779B9)))


def from_row(key, row):
  """Returns uint32 (3,): the key for the rows of a batch from `row` on.

  A device that has only some rows of a batch drops in them what one that has
  all of them does.
  """
  return jnp.append(key, row.astype(key.dtype))
