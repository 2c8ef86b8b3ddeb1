"""The random bits of dropout, for kernels and for `layers.dropout`."""

import jax.numpy as jnp


def mix(h):
  """The `lowbias32` integer hash (Wellons 2018): a bijection of 32 bits."""
  h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
  h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
  return h ^ (h >> 16)


def stays(position, word, site_salt, rate):
  """Draws whether the element at each position survives dropout.

  Args:
    position: uint32, the element's number in its array, row by row.
    word: uint32, the first word of the step's key.
    site_salt: uint32, of `layers.dropout.salt`.
    rate: probability of dropping, in [0, 1).

  Returns:
    bool, like `position`.
  """
  drawn = mix(mix(position ^ word) + site_salt)
  return drawn >= jnp.uint32(round(rate * 2**32))
