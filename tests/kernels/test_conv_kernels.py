"""Kernels of a convolution's node, interpreted, against XLA's form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.kernels import gpu_conv, taps, tpu_conv
from nasjax.kernels import node as node_lib
from nasjax.layers import custom_vjps, dropout, modules
from nasjax.models.nb_asr.accelerated import channels

RATE, SITE, FRAMES, BATCH = 0.2, 5, 21, 16
# Members of a population, each with taps of its own.
MEMBERS = ('conv5', 'conv7d2')


def _drawn(c, groups, dtype):
  """Arguments of two members; float32, but exact in the dtype."""
  rng = np.random.default_rng(0)
  width, pair = c * groups, len(MEMBERS)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), dtype).astype(jnp.float32)

  return (
    draw(pair, BATCH, FRAMES, width),
    draw(pair, 7, c, c, groups) / 8,
    draw(pair, width) / 8,
    draw(pair, BATCH, FRAMES, width),
    jnp.asarray(rng.integers(0, FRAMES + 1, (pair, BATCH)), jnp.int32),
    jnp.asarray(rng.integers(0, 2**32, (pair, 2), np.uint32)),
  )


def _plain(x_btc, kernel_kijg, bias_c, place_uk, len_b, key):
  kernel_uijg = jnp.einsum(
    'uk,kijg->uijg', place_uk, kernel_kijg, precision='highest'
  )
  y_btc = custom_vjps.grouped_conv(
    modules.mask_frames(x_btc, len_b), kernel_uijg, taps.UNION
  )
  return custom_vjps.clip_dropout(y_btc + bias_c[None, None], key, SITE, RATE)


def _arguments(kernel_kijg, bias_c, place_uk, len_b, key, lanes):
  """What both kernels take behind the activations."""
  taps_k, c, _, groups = kernel_kijg.shape
  return (
    channels.spread(kernel_kijg.reshape(taps_k, c, c * groups), 2, lanes),
    channels.spread(bias_c, 0, lanes),
    node_lib.tap_words(place_uk),
    len_b,
    jnp.stack([key[0], dropout.salt(key, SITE), jnp.uint32(0)]),
  )


def _on_tpu(dtype, x_btc, kernel_kijg, *rest):
  groups, width = kernel_kijg.shape[-1], x_btc.shape[-1]
  lanes = channels.in_blocks(width, groups)
  y_tbl = tpu_conv.conv_node(
    channels.spread(jnp.swapaxes(x_btc, 0, 1), 2, lanes).astype(dtype),
    *_arguments(kernel_kijg, *rest, lanes),
    tpu_conv.Shape(width, groups, RATE, custom_vjps.CLIP),
  )
  y_btl = jnp.swapaxes(y_tbl, 0, 1).astype(jnp.float32)
  return channels.gather(y_btl, 2, lanes)


def _on_gpu(dtype, x_btc, kernel_kijg, *rest):
  groups, width = kernel_kijg.shape[-1], x_btc.shape[-1]
  lanes = channels.by_group(width, groups)
  # Several tiles, and a last one that is not full.
  tiles = gpu_conv.Tiles(lanes=32, frames=16, utterances=3, warps=4)
  y_btl = gpu_conv.conv_node(
    channels.spread(x_btc, 2, lanes).astype(dtype),
    *_arguments(kernel_kijg, *rest, lanes),
    gpu_conv.Shape(width, groups, RATE, custom_vjps.CLIP, tiles),
  )
  return channels.gather(y_btl.astype(jnp.float32), 2, lanes)


@pytest.mark.parametrize(
  'c, groups, dtype, bound',
  [
    (6, 24, 'float32', 1e-6),  # two blocks of lanes, products
    # Its shapes in float32, its type in the third.
    pytest.param(6, 24, 'bfloat16', 5e-3, marks=pytest.mark.slow),
    # The vector unit; in float32 in the form of a network, test_accelerated.
    (1, 5, 'bfloat16', 5e-3),
    pytest.param(2, 3, 'float32', 1e-6, marks=pytest.mark.slow),
  ],
)
def test_members_with_taps_lengths_and_masks_of_their_own(
  c, groups, dtype, bound
):
  *arguments, dy_btc, len_b, key = _drawn(c, groups, dtype)
  place_uk = jnp.stack([taps.placement(op) for op in MEMBERS])

  @jax.jit
  def answers_of_all(x, kernel, bias):
    answers = []
    on_tpu, on_gpu = (functools.partial(f, dtype) for f in (_on_tpu, _on_gpu))
    for node in (_plain, on_tpu, on_gpu):
      y, pull = jax.vjp(
        lambda *a, node=node: jax.vmap(node)(*a, place_uk, len_b, key),
        x, kernel, bias,
      )  # fmt: skip
      answers.append((y, *pull(dy_btc)))
    return answers

  plain, *by_kernels = answers_of_all(*arguments)
  for kernel, found in zip(('tpu', 'gpu'), by_kernels, strict=True):
    for one, other in zip(plain, found, strict=True):
      # The masks are the same; rounded sums may fall on either side of zero.
      apart = np.mean((one == 0) != (other == 0))
      assert apart <= (0 if dtype == 'float32' else 1e-3), kernel
      error = np.linalg.norm(one - other) / np.linalg.norm(one)
      assert error < bound, (kernel, error)


def test_a_device_that_has_some_rows_of_a_batch_drops_as_the_whole():
  key = jnp.array([7, 9], jnp.uint32)
  lanes = channels.in_blocks(6, 3)
  at = channels.positions((FRAMES, 8, 128), lanes, 0, jnp.uint32(8))
  whole = dropout.keep_mask(key, SITE, (BATCH, FRAMES, 6), RATE)
  keep = dropout.survives(at, key, SITE, RATE)[..., lanes.lane_c]
  np.testing.assert_array_equal(np.swapaxes(keep, 0, 1), whole[8:])


def test_what_does_not_run_is_not_counted():
  shape = tpu_conv.Shape(600, 100, 0.2, 20.0)
  # Five blocks of lanes, each a product of 128 x 128 for every tap and frame.
  assert tpu_conv.flops(shape, 10, 16, 7) == 2 * 7 * 160 * 5 * 128 * 128
  assert tpu_conv.flops(shape, 10, 16, 5) * 7 == 5 * tpu_conv.flops(
    shape, 10, 16, 7
  )
  narrow = tpu_conv.Shape(200, 100, 0.2, 20.0)
  assert tpu_conv.flops(narrow, 10, 16, 7) == 2 * 7 * 160 * 256 * 2
