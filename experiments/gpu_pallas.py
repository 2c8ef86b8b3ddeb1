"""A cell's grouped convolution for GPUs as Pallas kernels, lowered by Triton.

A program computes some frames of a block of whole groups: what each tap reads
comes from the cache and goes through the matrix unit with a block-diagonal
matrix. Nothing is unfolded in memory. `gpu.py` races it against the ways of
`nasjax.accelerated.gpu_conv`.

Sums are float32, also those of the weights' gradient: over the frames of some
utterances in the kernel, over their partial sums outside of it, always in the
same order.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from nasjax.taps import UNION

_FRAMES = 64  # of a program's products
_LANES = 32  # of a block, at least; the matrix unit takes 16 or more
_UTTERANCES = 4  # of a partial sum of the weights' gradient
_BACK = tuple(-shift for shift in UNION)


def pallas(x_btl, kernel_uil):
  """One grouped convolution; as `gpu_conv.grouped`.

  Off GPUs the kernels are interpreted, slowly.
  """
  matrix_unij = _matrices(kernel_uil)
  return _conv(x_btl, matrix_unij, _step(kernel_uil.shape))


def _step(shape):
  """Channels of a block: those of whole groups."""
  _, c, width = shape
  return max(1, min(_LANES // c, width // c)) * c


def _matrices(kernel_uil):
  """Returns the block-diagonal matrices [u, block, lane in, lane out]."""
  taps, c, width = kernel_uil.shape
  step = _step(kernel_uil.shape)
  blocks = -(-width // step)
  kernel_uil = jnp.pad(kernel_uil, ((0, 0), (0, 0), (0, blocks * step - width)))
  kernel_unigj = jnp.moveaxis(
    kernel_uil.reshape(taps, c, blocks, step // c, c), 1, 2
  )
  eye_gh = jnp.eye(step // c, dtype=kernel_uil.dtype)
  matrix = jnp.einsum('unigj,gh->unhigj', kernel_unigj, eye_gh)
  spare = max(_LANES, pl.next_power_of_2(step)) - step
  return jnp.pad(
    matrix.reshape(taps, blocks, step, step),
    ((0, 0), (0, 0), (0, spare), (0, spare)),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x_btl, matrix_unij, step):
  return _multiplied(x_btl, matrix_unij, step, UNION)


def _conv_forward(x_btl, matrix_unij, step):
  return _conv(x_btl, matrix_unij, step), (x_btl, matrix_unij)


def _conv_backward(step, residuals, dz_btl):
  x_btl, matrix_unij = residuals
  dx_btl = _multiplied(dz_btl, jnp.swapaxes(matrix_unij, 2, 3), step, _BACK)
  return dx_btl, _correlated(x_btl, dz_btl, matrix_unij, step)


_conv.defvjp(_conv_forward, _conv_backward)


def _dot(a, b, dtype):
  # Triton knows no name for what JAX calls the default.
  precision = lax.Precision.HIGHEST if dtype == jnp.float32 else None
  return triton.dot(a, b, precision=precision)


class _Tile:
  """Some frames of a block of channels of an utterance [t, width]."""

  def __init__(self, shape, block, step, lanes):
    self._frames, self._width = shape
    self._lane = block * step + jnp.arange(lanes)
    self._most = jnp.minimum(self._width, (block + 1) * step)

  def _at(self, ref, rows, *before):
    within = ((rows >= 0) & (rows < self._frames))[:, None]
    within &= (self._lane < self._most)[None]
    return ref.at[*before, rows[:, None], self._lane[None]], within

  def read(self, ref, rows, *before):
    at, within = self._at(ref, rows, *before)
    return triton.load(at, mask=within, other=0.0)

  def write(self, ref, rows, values):
    at, within = self._at(ref, rows)
    triton.store(at, values.astype(ref.dtype), mask=within)


def _multiply_kernel(step, shifts, x_ref, matrix_ref, z_ref):
  lanes, dtype = matrix_ref.shape[-1], x_ref.dtype
  tile = _Tile(x_ref.shape, pl.program_id(1), step, lanes)
  rows = pl.program_id(2) * _FRAMES + jnp.arange(_FRAMES)
  total = jnp.zeros((_FRAMES, lanes), jnp.float32)
  for u, shift in enumerate(shifts):
    total += _dot(tile.read(x_ref, rows + shift), matrix_ref[u], dtype)
  tile.write(z_ref, rows, total)


def _multiplied(x_btl, matrix_unij, step, shifts):
  """Sums the frames at all shifts, each times its matrices."""
  b, frames, width = x_btl.shape
  taps, blocks, lanes, _ = matrix_unij.shape
  whole = pl.BlockSpec((None, frames, width), lambda b, n, t: (b, 0, 0))
  return _call(
    functools.partial(_multiply_kernel, step, shifts),
    grid=(b, blocks, pl.cdiv(frames, _FRAMES)),
    in_specs=[
      whole,
      pl.BlockSpec((taps, None, lanes, lanes), lambda b, n, t: (0, n, 0, 0)),
    ],
    out_specs=whole,
    out_shape=jax.ShapeDtypeStruct(x_btl.shape, x_btl.dtype),
  )(x_btl, matrix_unij)


def _correlate_kernel(step, x_ref, dz_ref, out_ref):
  utterances, frames, width = x_ref.shape
  lanes, dtype = out_ref.shape[-1], x_ref.dtype
  tile = _Tile((frames, width), pl.program_id(1), step, lanes)
  tiles = pl.cdiv(frames, _FRAMES)

  def body(i, total_u):
    # Signed quotients rounded down are more than Triton's lowering knows.
    b = lax.div(i, jnp.int32(tiles))
    rows = lax.rem(i, jnp.int32(tiles)) * _FRAMES + jnp.arange(_FRAMES)
    dz = tile.read(dz_ref, rows, b)
    return tuple(
      total + _dot(tile.read(x_ref, rows + shift, b).T, dz, dtype)
      for total, shift in zip(total_u, UNION)
    )

  zeros = (jnp.zeros((lanes, lanes), jnp.float32),) * len(UNION)
  total_u = lax.fori_loop(0, utterances * tiles, body, zeros)
  for u, total in enumerate(total_u):
    out_ref[u] = total


def _correlated(x_btl, dz_btl, matrix_unij, step):
  """Gradient of the matrices."""
  b, frames, width = x_btl.shape
  taps, blocks, lanes, _ = matrix_unij.shape
  some = next(n for n in range(_UTTERANCES, 0, -1) if b % n == 0)
  part = pl.BlockSpec((some, frames, width), lambda b, n: (b, 0, 0))
  sums = _call(
    functools.partial(_correlate_kernel, step),
    grid=(b // some, blocks),
    in_specs=[part, part],
    out_specs=pl.BlockSpec(
      (None, taps, None, lanes, lanes), lambda b, n: (b, 0, n, 0, 0)
    ),
    out_shape=jax.ShapeDtypeStruct(
      (b // some, *matrix_unij.shape), jnp.float32
    ),
  )(x_btl, dz_btl)
  return jnp.sum(sums, 0).astype(matrix_unij.dtype)


def _call(kernel, **shapes):
  def call(interpret):
    params = triton.CompilerParams(num_warps=4)
    return pl.pallas_call(
      kernel, compiler_params=params, interpret=interpret, **shapes
    )

  def run(*arguments):
    return lax.platform_dependent(
      *arguments, cuda=call(interpret=False), default=call(interpret=True)
    )

  return run
