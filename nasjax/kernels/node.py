"""What the Pallas kernels of a convolution's node have in common."""

import functools

import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from nasjax.kernels.taps import MAX_TAPS, UNION

FEW_TAPS = 5  # convolutions have five or seven


def tap_words(place_uk):
  """Returns int32 (8,): how many taps are used, and the frame that each reads.

  Args:
    place_uk: as `taps.placement`.
  """
  shift_k = jnp.array(UNION, jnp.float32) @ place_uk
  taps_n = jnp.concatenate([jnp.sum(place_uk)[None], shift_k])
  return taps_n.astype(jnp.int32)


def by_taps(taps, run):
  """Calls run(5) or run(7) in a kernel, as many taps as are needed."""
  pl.when(taps <= FEW_TAPS)(functools.partial(run, FEW_TAPS))
  pl.when(taps > FEW_TAPS)(functools.partial(run, MAX_TAPS))


def back(y, dy, rate, cap):
  """The gradient before clipped ReLU and dropout: float32.

  Args:
    y: the output, as it was rounded.
    dy: its gradient.
    rate: of dropout.
    cap: of the ReLU.
  """
  scale = np.float32(1 / (1 - rate))
  # What was dropped or clipped is 0 or at the cap, rounded as the output was.
  top = (np.float32(cap) * scale).astype(y.dtype).astype(np.float32)
  y, dy = y.astype(jnp.float32), dy.astype(jnp.float32)
  return jnp.where((y > 0) & (y < top), dy * scale, 0)
