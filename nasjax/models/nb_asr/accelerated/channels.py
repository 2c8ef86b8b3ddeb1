"""Where channels lie on an accelerator, and the way there and back.

`ops` keeps channel i of group g at position i * G + g. Here a layer has lanes,
of which each holds one channel or none; what none lies in is zero and stays so:
its weights are zero and get no gradient.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.kernels import tpu_conv


@dataclasses.dataclass(frozen=True, eq=False)
class Lanes:
  """The order of a layer's channels.

  Attributes:
    channel_l: int32, the channel of each lane, -1 where there is none.
    lane_c: int32, its inverse: the lane of each channel.
  """

  channel_l: np.ndarray
  lane_c: np.ndarray


def lanes(channel_l):
  """Returns `Lanes` from the channel of each lane."""
  lane_c = np.argsort(np.where(channel_l < 0, len(channel_l), channel_l))
  real = int(np.sum(channel_l >= 0))
  return Lanes(channel_l.astype(np.int32), lane_c[:real].astype(np.int32))


@functools.cache
def natural(width):
  """The order of `ops`."""
  return lanes(np.arange(width))


@functools.cache
def in_blocks(width, groups):
  """Blocks of 128 lanes that hold whole groups, as `tpu_conv` wants them."""
  shape = tpu_conv.Shape(width, groups, 0.0, 0.0)
  block, lane = np.divmod(
    np.arange(shape.blocks * tpu_conv.LANES), tpu_conv.LANES
  )
  i, g = np.divmod(lane, shape.per)
  g = block * shape.per + g
  return lanes(np.where((i < shape.c) & (g < groups), i * groups + g, -1))


@functools.cache
def by_group(width, groups):
  """One group after the other, as libraries of GPUs want them."""
  g, i = np.divmod(np.arange(width), width // groups)
  return lanes(i * groups + g)


def spread(x, axis, lanes):
  """Takes an axis of channels to lanes, 0 where there is no channel.

  As `gather`, for NumPy arrays as well, which stay such.
  """
  xp = np if isinstance(x, np.ndarray) else jnp
  found = xp.take(x, np.maximum(lanes.channel_l, 0), axis)
  shape = [1] * x.ndim
  shape[axis] = -1
  return xp.where((lanes.channel_l >= 0).reshape(shape), found, 0)


def gather(x, axis, lanes):
  """Takes an axis of lanes back to channels."""
  xp = np if isinstance(x, np.ndarray) else jnp
  return xp.take(x, lanes.lane_c, axis)


def positions(tile, lanes, time_axis, row=0):
  """Numbers the elements of an activation as those of [b, t, c] in `ops`.

  Args:
    tile: shape of the activation; its last axis is lanes.
    lanes: `Lanes`.
    time_axis: 0 or 1; the other one is the batch.
    row: uint32, of the batch, where its first one stands.

  Returns:
    uint32, of shape `tile`; arbitrary where a lane has no channel.
  """
  width = len(lanes.lane_c)
  t = jax.lax.broadcasted_iota(jnp.uint32, tile, time_axis)
  b = jax.lax.broadcasted_iota(jnp.uint32, tile, 1 - time_axis)
  frames = jnp.uint32(tile[time_axis])
  channel_l = jnp.asarray(np.maximum(lanes.channel_l, 0), jnp.uint32)
  return ((b + row) * frames + t) * jnp.uint32(width) + channel_l[None, None]
