"""One node of a cell as a Pallas kernel for TPUs: grouped convolution, bias,
clipped ReLU and dropout, with a gradient of its own.

XLA writes the shifted copies of a grouped convolution to memory, and their
gradient again; here an utterance's frames stay in VMEM while every tap reads
them. Experiments/PERFORMANCE.md has what either costs.

Layout. Activations are [t, b, lanes] (time first, so that a tap's shift moves
whole tiles), channels in blocks of 128 lanes that hold whole groups: channel i
of the r-th group of a block lies at lane i * per + r, with per = 128 // c
groups a block. Lanes that no channel takes are zero. Wide groups are products
with block-diagonal matrices, which the matrix unit runs at its own width;
groups of one or two channels are multiply-adds on the vector unit.

Taps are data: how many there are and which frame each reads. A member with
five of them does not run seven.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from nasjax.kernels import node
from nasjax.kernels.bits import stays
from nasjax.kernels.taps import MAX_TAPS

LANES = 128
ROWS = 16  # utterances of a block: the rows of a tile of bfloat16
# Frames that a tap may read before the first frame and behind the last one.
_MARGIN = 8
_CHUNK = 16  # frames whose sums stay in registers
_NARROW = 2  # channels of a group up to which multiply-adds are used
# Of VMEM, beside an activation's blocks: matrices, sums, what spills. The rest
# is left to XLA, which keeps activations there between the layers.
_SPARE_VMEM = 6 * 2**20
_MOST_VMEM = 100 * 2**20


class Shape(NamedTuple):
  """What is fixed when the kernel is compiled.

  Attributes:
    width: channels.
    groups: of the convolution.
    rate: of dropout.
    cap: of the ReLU.
  """

  width: int
  groups: int
  rate: float
  cap: float

  @property
  def c(self):
    """Channels of a group."""
    return self.width // self.groups

  @property
  def per(self):
    """Groups of a block of lanes."""
    return LANES // self.c

  @property
  def blocks(self):
    """Blocks of lanes."""
    return -(-self.groups // self.per)


def fits(shape, frames, itemsize):
  """Tells whether the kernels can run: on groups and frames of such a size."""
  return shape.c <= LANES and _vmem(frames, itemsize, 10) <= _MOST_VMEM


def _vmem(frames, itemsize, blocks):
  """Bytes of VMEM for so many blocks of an activation."""
  block = (frames + 2 * _MARGIN) * ROWS * LANES * itemsize
  return blocks * block + _SPARE_VMEM


def flops(shape, frames, batch, taps):
  """Floating-point operations of the forward pass; the gradient has twice.

  Args:
    shape: `Shape`.
    frames, batch: of the activations.
    taps: that are used.
  """
  inputs = shape.c if shape.c <= _NARROW else LANES
  run = MAX_TAPS if taps > node.FEW_TAPS else node.FEW_TAPS
  return 2 * run * frames * batch * shape.blocks * LANES * inputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def conv_node(x_tbl, kernel_kil, bias_l, taps_n, len_b, key_3, shape):
  """Grouped convolution, bias, clipped ReLU, dropout. Maps over members.

  Args:
    x_tbl: bfloat16 or float32 [t, b, blocks * 128]; frames past `len_b` count
      as zeros. b is a multiple of 16.
    kernel_kil: float32 [7, c, lanes], the weight of each tap from channel i of
      the group of an output lane.
    bias_l: float32.
    taps_n: int32 (8,): how many taps are used, and the frame that each reads.
    len_b: int32, valid frames.
    key_3: uint32: first word of the key of dropout, the salt of the site
      (`dropout.salt`), and the first row of the batch that stands here.
    shape: `Shape`.

  Returns:
    y_tbl, like x_tbl. Without a TPU the kernel is interpreted, slowly.
  """
  return _forward(x_tbl, kernel_kil, bias_l, taps_n, len_b, key_3, shape)[0]


def _lane(axis_shape):
  return lax.broadcasted_iota(jnp.int32, axis_shape, len(axis_shape) - 1)


def _together(shape):
  """[128, 128]: which lanes belong to one group."""
  row, column = (
    lax.broadcasted_iota(jnp.int32, (LANES, LANES), a) for a in (0, 1)
  )
  used = shape.c * shape.per
  return (
    (row % shape.per == column % shape.per) & (row < used) & (column < used)
  )


def _dot(a, b):
  """Product of matrices, summed in float32, factors as exact as they are."""
  precision = (
    lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
  )
  return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=precision)


def _expanded(kernel_il, shape, dtype):
  """Spreads [c, 128] weights to a block-diagonal matrix [128, 128]."""
  first = lax.broadcasted_iota(jnp.int32, (LANES, shape.c), 0) // shape.per
  second = lax.broadcasted_iota(jnp.int32, (LANES, shape.c), 1)
  # A product with zeros and ones copies rows, so it may round to the dtype.
  full = _dot((first == second).astype(dtype), kernel_il.astype(dtype))
  return jnp.where(_together(shape), full, 0).astype(dtype)


def _collected(full, shape):
  """The transpose of `_expanded`: [128, 128] to [c, 128], in float32."""
  first = lax.broadcasted_iota(jnp.int32, (shape.c, LANES), 0)
  second = lax.broadcasted_iota(jnp.int32, (shape.c, LANES), 1) // shape.per
  full = jnp.where(_together(shape), full, 0)
  return _dot((first == second).astype(jnp.float32), full)


def _turned(kernel_il, shape, turn, transposed=False):
  """Weights of the vector unit's way, [1, 128].

  Args:
    kernel_il: [c, 128].
    shape: `Shape`.
    turn: by how many channels the input is turned.
    transposed: for the gradient of the input.

  Returns:
    the weight with which a lane takes the input turned by `turn` channels.
  """
  own = _lane((1, LANES)) // shape.per
  out = jnp.zeros((1, LANES), kernel_il.dtype)
  for i in range(shape.c):
    if transposed:
      weights = _turn(kernel_il[i : i + 1], turn, shape)
      here = own == i
    else:
      weights = kernel_il[i : i + 1]
      here = own == (i + turn) % shape.c
    out = jnp.where(here, weights, out)
  return out


def _turn(x, turn, shape):
  """Moves every channel's lanes `turn` channels on, around."""
  if not turn:
    return x
  return pltpu.roll(x, turn * shape.per, x.ndim - 1)


def _keep(key_ref, t0, b0, block, tile, frames, shape):
  """Which elements of a [t, b, 128] tile survive dropout.

  The positions are those of [b, t, c] arrays with channels in (c, G) order, as
  `dropout.keep_mask` counts them, so that the bits are the same.
  """
  t, b, lane = (lax.broadcasted_iota(jnp.uint32, tile, a) for a in range(3))
  per = jnp.uint32(shape.per)
  group = block.astype(jnp.uint32) * per + lane % per
  channel = lane // per * jnp.uint32(shape.groups) + group
  b = b + b0.astype(jnp.uint32) + key_ref[0, 2]
  t = t + jnp.uint32(t0)
  at = (b * jnp.uint32(frames) + t) * jnp.uint32(shape.width) + channel
  return stays(at, key_ref[0, 0], key_ref[0, 1], shape.rate)


def _chunks(frames, body):
  """Calls body(first frame, frames) over all frames: a loop, and the rest."""
  whole = frames // _CHUNK

  def step(i, carry):
    body(i * _CHUNK, _CHUNK)
    return carry

  if whole:
    lax.fori_loop(0, whole, step, 0)
  if frames % _CHUNK:
    body(whole * _CHUNK, frames % _CHUNK)


def _masked(x_ref, length, t0, size):
  """Frames of a block, zero past the ends of the utterances."""
  tile = (size, *x_ref.shape[1:])
  valid = lax.broadcasted_iota(jnp.int32, tile, 0) + t0 < length[None]
  return jnp.where(valid, x_ref[pl.ds(t0, size)], jnp.zeros((), x_ref.dtype))


def _clear_margins(ref, frames):
  zeros = jnp.zeros((_MARGIN, *ref.shape[1:]), ref.dtype)
  ref[pl.ds(0, _MARGIN)] = zeros
  ref[pl.ds(_MARGIN + frames, _MARGIN)] = zeros


def _frames_of(ref, start, size):
  """Frames of a padded block as rows."""
  return ref[pl.ds(_MARGIN + start, size)].reshape(size * ref.shape[1], LANES)


def _used(kernel_kil, taps):
  """Weights of taps that are not used count as zero."""
  tap = lax.broadcasted_iota(jnp.int32, kernel_kil.shape, 0)
  return jnp.where(tap < taps, kernel_kil, 0)


def _weights(kernel_ref, wide_ref, taps, shape, transposed=False):
  """Makes the products' matrices; returns the weights as loaded."""
  kernel_kil = _used(kernel_ref[...], taps)
  if shape.c > _NARROW:
    for k in range(MAX_TAPS):
      full = _expanded(kernel_kil[k], shape, wide_ref.dtype)
      wide_ref[k] = full.T if transposed else full
  return kernel_kil


def _sum_of_taps(
  ref, wide_ref, kernel_kil, taps_ref, t0, size, run, shape, sign
):
  """Sum over taps of what they read times their weights: float32 [rows, 128].

  Args:
    ref: a block with margins.
    wide_ref: matrices of the taps.
    kernel_kil: their weights.
    taps_ref: which frames they read.
    t0, size: of the frames.
    run: taps to run.
    shape: `Shape`.
    sign: 1, or -1 for the gradient of the input.
  """
  rows = size * ref.shape[1]
  total = jnp.zeros((rows, LANES), jnp.float32)
  for k in range(run):
    x = _frames_of(ref, t0 + sign * taps_ref[0, 1 + k], size)
    if shape.c > _NARROW:
      total = total + _dot(x, wide_ref[k])
      continue
    x = x.astype(jnp.float32)
    for turn in range(shape.c):
      weights = _turned(kernel_kil[k], shape, turn, transposed=sign < 0)
      total = total + _turn(x, turn, shape) * weights
  return total


def _forward_kernel(
  taps_ref, key_ref, len_ref, x_ref, kernel_ref, bias_ref,
  y_ref, pad_ref, wide_ref, *, shape,
):  # fmt: skip
  block, part = pl.program_id(0), pl.program_id(1)
  frames, rows, _ = x_ref.shape
  kernel_kil = _weights(kernel_ref, wide_ref, taps_ref[0, 0], shape)
  _clear_margins(pad_ref, frames)

  def copy(t0, size):
    pad_ref[pl.ds(_MARGIN + t0, size)] = _masked(x_ref, len_ref[...], t0, size)

  _chunks(frames, copy)

  def convolve(run, t0, size):
    z = _sum_of_taps(
      pad_ref, wide_ref, kernel_kil, taps_ref, t0, size, run, shape, 1
    )
    y = jnp.clip(z + bias_ref[...], 0, shape.cap).reshape(size, rows, LANES)
    if shape.rate:
      keep = _keep(key_ref, t0, part * rows, block, y.shape, frames, shape)
      y = jnp.where(keep, y * (1 / (1 - shape.rate)), 0)
    y_ref[pl.ds(t0, size)] = y.astype(y_ref.dtype)

  node.by_taps(
    taps_ref[0, 0],
    lambda run: _chunks(frames, functools.partial(convolve, run)),
  )


def _backward_kernel(
  taps_ref, len_ref, x_ref, kernel_ref, y_ref, dy_ref,
  dx_ref, dkernel_ref, dbias_ref, x_pad_ref, dz_pad_ref, wide_ref, sum_ref,
  *, shape,
):  # fmt: skip
  part = pl.program_id(1)
  frames, rows, _ = x_ref.shape
  taps, length = taps_ref[0, 0], len_ref[...]
  kernel_kil = _weights(kernel_ref, wide_ref, taps, shape, transposed=True)
  for ref in (x_pad_ref, dz_pad_ref):
    _clear_margins(ref, frames)

  @pl.when(part == 0)
  def _():
    dbias_ref[...] = jnp.zeros_like(dbias_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

  def activation(t0, size):
    x_pad_ref[pl.ds(_MARGIN + t0, size)] = _masked(x_ref, length, t0, size)
    y, dy = y_ref[pl.ds(t0, size)], dy_ref[pl.ds(t0, size)]
    dz = node.back(y, dy, shape.rate, shape.cap)
    dz_pad_ref[pl.ds(_MARGIN + t0, size)] = dz.astype(dz_pad_ref.dtype)
    total = jnp.sum(dz.reshape(size * rows, LANES), 0, keepdims=True)
    dbias_ref[...] += total

  _chunks(frames, activation)

  def gradients(run, t0, size):
    dx = _sum_of_taps(
      dz_pad_ref, wide_ref, kernel_kil, taps_ref, t0, size, run, shape, -1
    )
    tile = (size, rows, LANES)
    valid = lax.broadcasted_iota(jnp.int32, tile, 0) + t0 < length[None]
    dx = jnp.where(valid, dx.reshape(tile), 0)
    dx_ref[pl.ds(t0, size)] = dx.astype(dx_ref.dtype)
    dz = _frames_of(dz_pad_ref, t0, size)
    for k in range(run):
      x = _frames_of(x_pad_ref, t0 + taps_ref[0, 1 + k], size)
      if shape.c > _NARROW:
        sum_ref[k] += _dot(x.T, dz)
        continue
      x, dz32 = x.astype(jnp.float32), dz.astype(jnp.float32)
      for turn in range(shape.c):
        product = _turn(x, turn, shape) * dz32
        sum_ref[k, turn : turn + 1] += jnp.sum(product, 0, keepdims=True)

  node.by_taps(
    taps, lambda run: _chunks(frames, functools.partial(gradients, run))
  )

  @pl.when(part == pl.num_programs(1) - 1)
  def _():
    own = _lane((1, LANES)) // shape.per
    for k in range(MAX_TAPS):
      if shape.c > _NARROW:
        found = _collected(sum_ref[k], shape)
        dkernel_ref[k] = jnp.where(k < taps, found, 0)
        continue
      for i in range(shape.c):
        found = jnp.zeros((1, LANES), jnp.float32)
        for turn in range(shape.c):
          here = own == (i + turn) % shape.c
          found = jnp.where(here, sum_ref[k, turn : turn + 1], found)
        dkernel_ref[k, i : i + 1] = jnp.where(k < taps, found, 0)


def _specs(frames, c):
  """How each kind of array is cut: words, activations, kernels, vectors."""
  words = pl.BlockSpec(memory_space=pltpu.SMEM)
  activation = pl.BlockSpec((frames, ROWS, LANES), lambda n, b: (0, b, n))
  kernel = pl.BlockSpec((MAX_TAPS, c, LANES), lambda n, b: (0, 0, n))
  vector = pl.BlockSpec((1, LANES), lambda n, b: (0, n))
  lengths = pl.BlockSpec((ROWS, LANES), lambda n, b: (b, 0))
  return words, activation, kernel, vector, lengths


def _scratch(x_tbl, padded):
  """Copies of a block with margins, and matrices of the taps."""
  block = (x_tbl.shape[0] + 2 * _MARGIN, ROWS, LANES)
  return [pltpu.VMEM(block, x_tbl.dtype)] * padded + [
    pltpu.VMEM((MAX_TAPS, LANES, LANES), x_tbl.dtype)
  ]


def _call(kernel, x_tbl, shape, products, **how):
  """`pl.pallas_call` over the blocks of lanes and of utterances."""
  frames, batch, _ = x_tbl.shape
  # Each activation twice, for the copies under way: x and y; or x, y, dy and
  # dx. And one or two with margins.
  blocks = 5 * products
  call = functools.partial(
    pl.pallas_call,
    functools.partial(kernel, shape=shape),
    grid=(shape.blocks, batch // ROWS),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary'),
      vmem_limit_bytes=_vmem(frames, x_tbl.dtype.itemsize, blocks),
    ),
    cost_estimate=pl.CostEstimate(
      flops=products * flops(shape, frames, batch, MAX_TAPS),
      bytes_accessed=2 * products * x_tbl.size * x_tbl.dtype.itemsize,
      transcendentals=0,
    ),
    **how,
  )

  def run(*arguments):
    return lax.platform_dependent(
      *arguments, tpu=call(interpret=False), default=call(interpret=True)
    )

  return run


def _lengths(len_b):
  """[b, 128]: the lengths as a kernel reads them."""
  return jnp.broadcast_to(
    len_b.astype(jnp.int32)[:, None], (len_b.shape[0], LANES)
  )


def _forward(x_tbl, kernel_kil, bias_l, taps_n, len_b, key_3, shape):
  words, activation, kernel, vector, lengths = _specs(x_tbl.shape[0], shape.c)
  y_tbl = _call(
    _forward_kernel,
    x_tbl,
    shape,
    1,
    out_shape=jax.ShapeDtypeStruct(x_tbl.shape, x_tbl.dtype),
    in_specs=[words, words, lengths, activation, kernel, vector],
    out_specs=activation,
    scratch_shapes=_scratch(x_tbl, 1),
    name='conv_node_forward',
  )(taps_n[None], key_3[None], _lengths(len_b), x_tbl, kernel_kil, bias_l[None])
  return y_tbl, (x_tbl, kernel_kil, y_tbl, taps_n, len_b)


def _backward(shape, residuals, dy_tbl):
  x_tbl, kernel_kil, y_tbl, taps_n, len_b = residuals
  words, activation, kernel, vector, lengths = _specs(x_tbl.shape[0], shape.c)
  width = x_tbl.shape[-1]
  sums = (LANES, LANES) if shape.c > _NARROW else (8, LANES)
  dx_tbl, dkernel_kil, dbias_l = _call(
    _backward_kernel,
    x_tbl,
    shape,
    2,
    out_shape=[
      jax.ShapeDtypeStruct(x_tbl.shape, x_tbl.dtype),
      jax.ShapeDtypeStruct(kernel_kil.shape, jnp.float32),
      jax.ShapeDtypeStruct((1, width), jnp.float32),
    ],
    in_specs=[words, lengths, activation, kernel, activation, activation],
    out_specs=[activation, kernel, vector],
    scratch_shapes=[
      *_scratch(x_tbl, 2),
      pltpu.VMEM((MAX_TAPS, *sums), jnp.float32),
    ],
    name='conv_node_backward',
  )(taps_n[None], _lengths(len_b), x_tbl, kernel_kil, y_tbl, dy_tbl)
  return dx_tbl, dkernel_kil, dbias_l[0], None, None, None


conv_node.defvjp(_forward, _backward)
