"""One node of a cell as Pallas kernels for GPUs, lowered by Triton: grouped
convolution, bias, clipped ReLU and dropout, with a gradient of its own.

cuDNN's grouped convolutions are slow at a few channels a group, and so is
finding out which of them is the least slow: XLA tries them when it compiles.
Here a program computes some frames of a block of whole groups: what each tap
reads comes from the cache and goes through the matrix unit with a
block-diagonal matrix. Nothing is unfolded, and nothing but the output is kept.

Layout. Activations are [b, t, lanes], one group after the other. Taps are data:
how many there are and which frame each reads. A member with five of them does
not run seven. Sums are float32, those of the weights' gradient over some
utterances in the kernel and over their partial sums outside of it, always in
the same order: one seed gives the same bits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from nasjax.kernels import node
from nasjax.kernels.bits import stays
from nasjax.kernels.taps import MAX_TAPS

_NARROW = 2  # channels of a group


class Tiles(NamedTuple):
  """How the work is cut.

  Attributes:
    lanes: of a block, at least; a power of two, 16 or more.
    frames: of a product, a power of two, 16 or more.
    utterances: of a partial sum of the weights' gradient.
    warps: of a program.
  """

  lanes: int
  frames: int
  utterances: int
  warps: int


def tiles_for(c, dtype):
  """Returns the `Tiles` of groups of c channels that were fastest on an H100.

  Wide blocks read whole lines of memory, and multiply more zeros.
  """
  if dtype == jnp.float32:
    return Tiles(32, 32, 2, 4)  # what fits shared memory
  return Tiles(32, 64, 2, 4) if c <= _NARROW else Tiles(64, 64, 1, 4)


class Shape(NamedTuple):
  """What is fixed when the kernels are compiled.

  Attributes:
    width: channels.
    groups: of the convolution.
    rate: of dropout.
    cap: of the ReLU.
    tiles: `Tiles`, `tiles_for` what is computed if not given.
  """

  width: int
  groups: int
  rate: float
  cap: float
  tiles: Tiles | None = None

  @property
  def c(self):
    """Channels of a group."""
    return self.width // self.groups

  @property
  def step(self):
    """Channels of a block: those of whole groups."""
    return max(1, min(self.tiles.lanes // self.c, self.groups)) * self.c

  @property
  def lanes(self):
    """Lanes of a block: a power of two."""
    return max(self.tiles.lanes, pl.next_power_of_2(self.step))

  @property
  def blocks(self):
    return -(-self.width // self.step)


def conv_node(x_btl, kernel_kil, bias_l, taps_n, len_b, key_3, shape):
  """Grouped convolution, bias, clipped ReLU, dropout. Maps over members.

  Args:
    x_btl: bfloat16 or float32 [b, t, width].
    kernel_kil, bias_l, taps_n, len_b, key_3: as in `tpu_conv.conv_node`, of
      `width` lanes.
    shape: `Shape`.

  Returns:
    y_btl, like x_btl. Without a GPU the kernels are interpreted, slowly.
  """
  if shape.tiles is None:
    shape = shape._replace(tiles=tiles_for(shape.c, x_btl.dtype))
  return _node(x_btl, kernel_kil, bias_l, taps_n, len_b, key_3, shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _node(x_btl, kernel_kil, bias_l, taps_n, len_b, key_3, shape):
  return _forward(x_btl, kernel_kil, bias_l, taps_n, len_b, key_3, shape)[0]


def _dot(a, b):
  """Product of matrices, summed in float32, factors as exact as they are."""
  # Triton knows no name for what JAX calls the default.
  exact = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return triton.dot(a, b, precision=exact)


class _Block:
  """The lanes of a block of whole groups, and what is read at them."""

  def __init__(self, shape, number):
    self._shape = shape
    first = number * shape.step
    self.lane_l = first + jnp.arange(shape.lanes)
    most = jnp.minimum(shape.width, first + shape.step)
    self.real_l = self.lane_l < most

  def read(self, ref, row_t, most, *before):
    """Frames [t, l] of an activation; zero before 0 and from `most` on."""
    within = ((row_t >= 0) & (row_t < most))[:, None] & self.real_l[None]
    at = ref.at[*before, row_t[:, None], self.lane_l[None]]
    return triton.load(at, mask=within, other=0.0)

  def write(self, ref, row_t, most, values_tl, *before):
    within = (row_t < most)[:, None] & self.real_l[None]
    at = ref.at[*before, row_t[:, None], self.lane_l[None]]
    triton.store(at, values_tl.astype(ref.dtype), mask=within)

  def vector(self, ref):
    return triton.load(ref.at[self.lane_l], mask=self.real_l, other=0.0)

  def _together(self):
    """[l, l]: which lanes belong to one group."""
    row, column, c = self.lane_l[:, None], self.lane_l[None], self._shape.c
    same = lax.div(row, c) == lax.div(column, c)
    return same & self.real_l[:, None] & self.real_l[None]

  def matrix(self, kernel_ref, k, dtype, transposed=False):
    """The block-diagonal matrix of a tap, [in, out]."""
    row, column = self.lane_l[:, None], self.lane_l[None]
    if transposed:
      row, column = column, row
    at = kernel_ref.at[k, lax.rem(row, self._shape.c), column]
    return triton.load(at, mask=self._together(), other=0.0).astype(dtype)

  def collect(self, out_ref, k, full):
    """Stores the weights of a tap out of such a matrix.

    The reference has a row more than channels of a group, for what is none.
    """
    row, column, c = self.lane_l[:, None], self.lane_l[None], self._shape.c
    same = self._together()
    at = out_ref.at[k, jnp.where(same, lax.rem(row, c), c), column]
    triton.store(at, full, mask=same)


def _kept(key_ref, shape, b, row_t, lane_l, frames):
  """Which elements of a tile [t, l] of utterance b survive dropout.

  The positions are those of [b, t, c] arrays with channels in (c, G) order, as
  `dropout.keep_mask` counts them, so that the bits are the same.
  """
  group = lax.div(lane_l, shape.c)
  channel_l = lax.rem(lane_l, shape.c) * shape.groups + group
  b = b.astype(jnp.uint32) + key_ref[2]
  at = b * jnp.uint32(frames) + row_t.astype(jnp.uint32)[:, None]
  at = at * jnp.uint32(shape.width) + channel_l.astype(jnp.uint32)[None]
  return stays(at, key_ref[0], key_ref[1], shape.rate)


def _forward_kernel(
  shape, taps_ref, key_ref, len_ref, x_ref, kernel_ref, bias_ref, y_ref
):
  frames, _ = x_ref.shape
  b, block = pl.program_id(0), _Block(shape, pl.program_id(1))
  tile = shape.tiles.frames
  row_t = pl.program_id(2) * tile + jnp.arange(tile)
  length = len_ref[b]

  def run(taps):
    z_tl = jnp.zeros((tile, shape.lanes), jnp.float32)
    for k in range(taps):
      x_tl = block.read(x_ref, row_t + taps_ref[1 + k], length)
      z_tl += _dot(x_tl, block.matrix(kernel_ref, k, x_ref.dtype))
    y_tl = jnp.clip(z_tl + block.vector(bias_ref)[None], 0, shape.cap)
    if shape.rate:
      keep_tl = _kept(key_ref, shape, b, row_t, block.lane_l, frames)
      scale = np.float32(1 / (1 - shape.rate))
      y_tl = jnp.where(keep_tl, y_tl * scale, 0)
    block.write(y_ref, row_t, frames, y_tl)

  node.by_taps(taps_ref[0], run)


def _input_kernel(shape, taps_ref, len_ref, kernel_ref, dz_ref, dx_ref):
  frames, _ = dx_ref.shape
  b, block = pl.program_id(0), _Block(shape, pl.program_id(1))
  tile, dtype = shape.tiles.frames, dx_ref.dtype
  row_t = pl.program_id(2) * tile + jnp.arange(tile)
  length = len_ref[b]

  def run(taps):
    dx_tl = jnp.zeros((tile, shape.lanes), jnp.float32)
    for k in range(taps):
      dz_tl = block.read(dz_ref, row_t - taps_ref[1 + k], frames)
      dx_tl += _dot(dz_tl, block.matrix(kernel_ref, k, dtype, transposed=True))
    dx_tl = jnp.where((row_t < length)[:, None], dx_tl, 0)
    block.write(dx_ref, row_t, frames, dx_tl)

  node.by_taps(taps_ref[0], run)


def _weights_kernel(
  shape, taps_ref, len_ref, x_ref, y_ref, dy_ref,
  dkernel_ref, dbias_ref, dz_ref,
):  # fmt: skip
  """Gradients before the activation, and of the weights."""
  utterances, frames, _ = x_ref.shape
  first, block = pl.program_id(0) * utterances, _Block(shape, pl.program_id(1))
  size = shape.tiles.frames
  tiles = pl.cdiv(frames, size)

  def run(taps):
    def add(i, totals):
      # Signed quotients rounded down are more than Triton's lowering knows.
      b = lax.div(i, jnp.int32(tiles))
      row_t = lax.rem(i, jnp.int32(tiles)) * size + jnp.arange(size)
      y_tl, dy_tl = (
        block.read(ref, row_t, frames, b) for ref in (y_ref, dy_ref)
      )
      dz_tl = node.back(y_tl, dy_tl, shape.rate, shape.cap)
      rounded_tl = dz_tl.astype(x_ref.dtype)
      block.write(dz_ref, row_t, frames, rounded_tl, b)
      bias_l, *weight_k = totals
      new = [bias_l + jnp.sum(dz_tl, 0)]
      for k in range(taps):
        read_t = row_t + taps_ref[1 + k]
        x_tl = block.read(x_ref, read_t, len_ref[first + b], b)
        new.append(weight_k[k] + _dot(x_tl.T, rounded_tl))
      return tuple(new)

    zeros = jnp.zeros((shape.lanes, shape.lanes), jnp.float32)
    start = (jnp.zeros(shape.lanes, jnp.float32), *[zeros] * taps)
    bias_l, *weight_k = lax.fori_loop(0, utterances * tiles, add, start)
    triton.store(dbias_ref.at[block.lane_l], bias_l, mask=block.real_l)
    for k in range(MAX_TAPS):
      block.collect(dkernel_ref, k, weight_k[k] if k < taps else zeros)

  node.by_taps(taps_ref[0], run)


def _call(kernel, shape, **how):
  """`pl.pallas_call` of a kernel; its first argument is the shape."""

  def call(interpret):
    return pl.pallas_call(
      functools.partial(kernel, shape),
      compiler_params=triton.CompilerParams(num_warps=shape.tiles.warps),
      interpret=interpret,
      **how,
    )

  def run(*arguments):
    return lax.platform_dependent(
      *arguments, cuda=call(interpret=False), default=call(interpret=True)
    )

  return run


def _whole(array):
  """An array that every program sees all of."""
  return pl.BlockSpec(array.shape, lambda *_: (0,) * array.ndim)


def _over_frames(kernel, name, shape, x_btl, arguments):
  """Runs a kernel that computes an activation, a tile a program.

  Args:
    kernel: function of the shape, a reference for each argument, and the
      activation's own.
    name: of the kernel.
    shape: `Shape`.
    x_btl: an activation of the same shape.
    arguments: activations as they are, others whole.
  """
  b, frames, width = x_btl.shape
  own = pl.BlockSpec((None, frames, width), lambda b, n, t: (b, 0, 0))
  return _call(
    kernel,
    shape,
    grid=(b, shape.blocks, pl.cdiv(frames, shape.tiles.frames)),
    in_specs=[own if a.shape == x_btl.shape else _whole(a) for a in arguments],
    out_specs=own,
    out_shape=jax.ShapeDtypeStruct(x_btl.shape, x_btl.dtype),
    name=name,
  )(*arguments)


def _forward(x_btl, kernel_kil, bias_l, taps_n, len_b, key_3, shape):
  y_btl = _over_frames(
    _forward_kernel,
    'conv_node_forward',
    shape,
    x_btl,
    (taps_n, key_3, len_b, x_btl, kernel_kil, bias_l),
  )
  return y_btl, (x_btl, kernel_kil, y_btl, taps_n, len_b)


def _backward(shape, residuals, dy_btl):
  x_btl, kernel_kil, y_btl, taps_n, len_b = residuals
  b, frames, width = x_btl.shape
  most = shape.tiles.utterances
  some = next(n for n in range(most, 0, -1) if b % n == 0)
  part = pl.BlockSpec((some, frames, width), lambda b, n: (b, 0, 0))
  taps, c, _ = kernel_kil.shape
  dkernel_bkil, dbias_bl, dz_btl = _call(
    _weights_kernel,
    shape,
    grid=(b // some, shape.blocks),
    in_specs=[_whole(taps_n), _whole(len_b), part, part, part],
    out_specs=[
      pl.BlockSpec((None, taps, c + 1, width), lambda b, n: (b, 0, 0, 0)),
      pl.BlockSpec((None, width), lambda b, n: (b, 0)),
      part,
    ],
    out_shape=[
      jax.ShapeDtypeStruct((b // some, taps, c + 1, width), jnp.float32),
      jax.ShapeDtypeStruct((b // some, width), jnp.float32),
      jax.ShapeDtypeStruct(x_btl.shape, x_btl.dtype),
    ],
    name='conv_node_weights',
  )(taps_n, len_b, x_btl, y_btl, dy_btl)
  dx_btl = _over_frames(
    _input_kernel,
    'conv_node_input',
    shape,
    x_btl,
    (taps_n, len_b, kernel_kil, dz_btl),
  )
  return (
    dx_btl,
    jnp.sum(dkernel_bkil[:, :, :c], 0),
    jnp.sum(dbias_bl, 0),
    None,
    None,
    None,
  )


_node.defvjp(_forward, _backward)
