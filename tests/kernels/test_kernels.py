import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
from jax import lax

from nasjax import kernels
from nasjax.layers import dropout
from nasjax.models.nb_asr import ops

SITE, KEY = 3, np.array([12345, 67890], np.uint32)
# Of NB-ASR's convolutions, and none at all.
TAPS_N8 = np.array(
  [
    (len(shifts), *shifts, *[0] * (7 - len(shifts)))
    for shifts in (*map(ops.offsets, ops.CONVOLUTIONS), ())
  ],
  np.int32,
)


def _slow(x_btc, kernel_kijg, bias_c, shifts, len_b, dy_btc, keep_btc, cap):
  """In float64, a tap at a time. Returns y, dx, dkernel and dbias.

  Where the ReLU is about to bend, rounding decides: there `dy` is zeroed.
  """
  batch, frames, channels = x_btc.shape
  _, c, _, groups = kernel_kijg.shape
  valid_bt1 = (np.arange(frames) < np.asarray(len_b)[:, None])[..., None]
  x_btig = np.where(valid_bt1, x_btc, 0).astype(np.float64)
  x_btig = x_btig.reshape(batch, frames, c, groups)
  read_k = []
  for shift in shifts:
    read_btig = np.zeros_like(x_btig)
    for t in range(max(0, -shift), min(frames, frames - shift)):
      read_btig[:, t] = x_btig[:, t + shift]
    read_k.append(read_btig)
  z_btc = np.broadcast_to(bias_c, x_btc.shape).astype(np.float64)
  for read_btig, w_ijg in zip(read_k, kernel_kijg, strict=False):
    product = np.einsum('btig,ijg->btjg', read_btig, w_ijg, optimize=True)
    z_btc = z_btc + product.reshape(x_btc.shape)
  dy_btc[(np.abs(z_btc) < 1e-3) | (np.abs(z_btc - cap) < 1e-3)] = 0
  dz_btc = dy_btc * keep_btc * ((z_btc > 0) & (z_btc < cap))
  dz_btjg = dz_btc.reshape(x_btig.shape)
  dx_btig, dkernel_kijg = np.zeros_like(x_btig), np.zeros(kernel_kijg.shape)
  for k, shift in enumerate(shifts):
    dkernel_kijg[k] = np.einsum(
      'btig,btjg->ijg', read_k[k], dz_btjg, optimize=True
    )
    d_btig = np.einsum('btjg,ijg->btig', dz_btjg, kernel_kijg[k], optimize=True)
    for t in range(max(0, -shift), min(frames, frames - shift)):
      dx_btig[:, t + shift] += d_btig[:, t]
  dx_btc = np.where(valid_bt1, dx_btig.reshape(x_btc.shape), 0)
  y_btc = np.clip(z_btc, 0, cap) * keep_btc
  return y_btc, dx_btc, dkernel_kijg, dz_btc.sum((0, 1))


def _lengths(batch, frames, first):
  """Full, none, and in between."""
  kinds = (frames, 0, (frames + 1) // 2, max(frames - 1, 0))
  return np.array([kinds[(b + first) % 4] for b in range(batch)], np.int32)


def _operands(c, groups, frames, batch, taps_n, seed=0):
  """Drawn operands and dy; what must not be read is NaN."""
  rng = np.random.default_rng(seed)
  shape = (batch, frames, c * groups)
  x_btc, dy_btc = rng.normal(size=(2, *shape)).astype(np.float32)
  len_b = _lengths(batch, frames, seed)
  x_btc[np.arange(frames) >= len_b[:, None]] = np.nan
  kernel_kijg = rng.normal(0, 0.3, (7, c, c, groups)).astype(np.float32)
  kernel_kijg[taps_n[0] :] = np.nan
  bias_c = rng.normal(0, 0.3, c * groups).astype(np.float32)
  return x_btc, kernel_kijg, bias_c, np.asarray(taps_n), len_b, KEY, dy_btc


def _pulled(x, kernel, bias, taps, len_b, key, dy, rate=0.3, cap=1.5):
  y, pull = jax.vjp(
    lambda *args: kernels.conv_clip_dropout(
      *args, taps, len_b, key, SITE, rate, cap
    ),
    x,
    kernel,
    bias,
  )
  return (y, *pull(dy))


_alone = jax.jit(_pulled, static_argnums=(7, 8))
_mapped = jax.jit(jax.vmap(_pulled))


@jax.jit
def _forward(x, kernel, bias, taps, len_b, key, dy):
  del dy
  return kernels.conv_clip_dropout(
    x, kernel, bias, taps, len_b, key, SITE, 0.3, 1.5
  )


_mask = jax.jit(dropout.keep_mask, static_argnums=(1, 2, 3))


# Every size of groups, number of them, of frames and utterances, in turn.
_CASES = [
  (
    (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13)[n % 11],
    (100, 64, 8, 17, 1)[n % 5],
    (*range(1, 14), 40)[n % 14],
    (3, 1, 6, 5)[n % 4],
  )
  for n in range(33)
]


@native.needed
@pytest.mark.parametrize('c, groups, frames, batch', _CASES)
def test_values_and_gradients_against_numpy(c, groups, frames, batch):
  seed = 7 * c + frames
  rng = np.random.default_rng(seed)
  shifts = rng.permutation(np.arange(-9, 8))[: seed % 8].tolist()
  taps_n = np.array((len(shifts), *shifts, *[99] * (7 - len(shifts))), np.int32)
  operands = _operands(c, groups, frames, batch, taps_n, seed)
  x_btc, kernel_kijg, bias_c, _, len_b, key, dy_btc = operands
  rate, cap = (0.3, 1.5) if seed % 2 else (0.0, 20.0)
  keep_btc = np.asarray(_mask(key, SITE, x_btc.shape, rate)) / (1 - rate)
  expected = _slow(
    x_btc, kernel_kijg, bias_c, shifts, len_b, dy_btc, keep_btc, cap
  )
  results = _alone(*operands[:-1], dy_btc, rate, cap)
  for result, wanted in zip(results, expected, strict=True):
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=3e-5)
  assert not np.any(results[2][len(shifts) :])
  if shifts and np.any(len_b) and frames > 9:
    assert np.any(results[1]) and np.any(results[2])


@native.needed
@pytest.mark.parametrize('row', [None, 0, 9])
def test_masks_are_those_of_keep_mask(row):
  shape, rate = (4, 11, 34), 0.35
  keys_p = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
  if row is not None:
    keys_p = jax.vmap(lambda k: dropout.from_row(k, jnp.int32(row)))(keys_p)

  @jax.jit
  @jax.vmap
  def both(key):
    y_btc = kernels.conv_clip_dropout(
      jnp.zeros(shape),
      jnp.zeros((1, 2, 2, 17)),
      jnp.ones(34),
      jnp.zeros(2, jnp.int32),
      jnp.zeros(4, jnp.int32),
      key,
      SITE,
      rate,
      20.0,
    )
    return y_btc, dropout.keep_mask(key, SITE, shape, rate)

  y_pbtc, keep_pbtc = both(keys_p)
  assert 0.6 < np.mean(keep_pbtc) < 0.7
  np.testing.assert_array_equal(
    y_pbtc, np.where(keep_pbtc, np.float32(1 / 0.65), np.float32(0))
  )


@native.needed
def test_rows_of_a_batch_drop_what_the_whole_drops():
  operands = _operands(2, 17, 9, 6, TAPS_N8[2])
  x_btc, kernel_kijg, bias_c, taps_n, len_b, key, dy_btc = operands
  whole_btc = _alone(*operands)[0]
  for rows in (slice(0, 3), slice(3, 6)):
    part_key = dropout.from_row(key, np.int32(rows.start))
    part = (x_btc[rows], kernel_kijg, bias_c, taps_n, len_b[rows], part_key)
    np.testing.assert_array_equal(
      _alone(*part, dy_btc[rows])[0], whole_btc[rows]
    )


@native.needed
def test_what_is_not_a_number_is_seen():
  """A diverged member must not come out of the ReLU as zero or twenty."""
  c, groups, frames = 2, 17, 9
  operands = _operands(c, groups, frames, 1, TAPS_N8[0])
  operands[0][:] = 1  # all frames are valid
  x_btc, kernel_kijg, bias_c, *rest = operands
  rest[1] = np.array([frames])
  # conv5 reads 0 to 4 frames ahead: frame 6 is read at 2 to 6, by its group.
  broken_btc = x_btc.copy()
  broken_btc[0, 6, 17 + 3] = np.nan
  y_btc = np.asarray(_alone(broken_btc, kernel_kijg, bias_c, *rest, 0.0)[0])
  expected_btc = np.zeros(y_btc.shape, bool)
  expected_btc[0, 2:7, 3::17] = True
  np.testing.assert_array_equal(np.isnan(y_btc), expected_btc)
  bias_c[5] = np.nan
  y_btc = np.asarray(_alone(x_btc, kernel_kijg, bias_c, *rest, 0.0)[0])
  assert np.isnan(y_btc[..., 5]).all() and np.isnan(y_btc).sum() == frames
  bias_c[5], kernel_kijg[1, 1, 0, 16] = 0, np.nan
  y_btc, dx_btc, _, _ = _alone(x_btc, kernel_kijg, bias_c, *rest, 0.0)
  # The last frame is past what tap 1 reads ahead, and times zero is NaN too.
  assert np.isnan(y_btc[0, :, 16]).all() and np.isnan(y_btc).sum() == frames


def _members(count):
  """Operands of members that have all but their sizes for themselves."""
  drawn = []
  for p in range(count):
    operands = list(_operands(3, 17, 23, 5, TAPS_N8[p % 5], p))
    operands[5] = KEY + np.uint32(p)
    drawn.append(operands)
  return drawn


@native.needed
def test_members_are_the_same_bits_mapped_and_alone():
  drawn = _members(6)
  stacked = [np.stack(leaves) for leaves in zip(*drawn, strict=True)]
  mapped = _mapped(*stacked)
  nested = jax.jit(jax.vmap(jax.vmap(_pulled)))(
    *[leaf.reshape(2, 3, *leaf.shape[1:]) for leaf in stacked]
  )
  for p, operands in enumerate(drawn):
    for n, alone in enumerate(_alone(*operands)):
      np.testing.assert_array_equal(mapped[n][p], alone)
      np.testing.assert_array_equal(nested[n][p // 3, p % 3], alone)


@native.needed
def test_members_may_share_operands():
  x_btc, kernel_kijg, bias_c, _, len_b, key, dy_btc = _members(1)[0]
  kernel_kijg[:] = np.nan_to_num(kernel_kijg, nan=0.5)
  shared = (x_btc, kernel_kijg, bias_c, TAPS_N8, len_b, key, dy_btc)
  axes = (None, None, None, 0, None, None, None)
  mapped = jax.jit(jax.vmap(_pulled, in_axes=axes))(*shared)
  for p, taps_n in enumerate(TAPS_N8):
    alone = _alone(x_btc, kernel_kijg, bias_c, taps_n, len_b, key, dy_btc)
    for n in range(4):
      np.testing.assert_array_equal(mapped[n][p], alone[n])


def _descent(devices, steps=100):
  """Members that step together: in each step all devices meet in a sum.

  They are not mapped here, so that a device makes several calls at once.
  """

  def descend(*operands_p):
    def step(n, carry):
      kernel_p, total = carry
      members = [
        jax.tree.map(lambda leaf_p, p=p: leaf_p[p], operands_p)
        for p in range(len(kernel_p))
      ]
      found = [
        _pulled(x, kernel, *rest)
        for (x, _, *rest), kernel in zip(members, kernel_p, strict=True)
      ]
      met = lax.psum(sum(jnp.sum(y_btc) for y_btc, *_ in found), 'member')
      dkernel_p = jnp.stack([dkernel for _, _, dkernel, _ in found])
      return kernel_p - 1e-3 * dkernel_p, total + met

    return lax.fori_loop(0, steps, step, (operands_p[1], jnp.zeros(())))

  member, everyone = (jax.sharding.PartitionSpec(*n) for n in (['member'], []))
  return jax.jit(
    jax.shard_map(
      descend,
      mesh=jax.sharding.Mesh(np.array(devices), ('member',)),
      in_specs=member,
      out_specs=(member, everyone),
      check_vma=False,
    )
  )


@native.needed
def test_devices_that_wait_for_each_other_do_not_stop():
  drawn = _members(8)
  stacked = [np.stack(leaves) for leaves in zip(*drawn, strict=True)]
  kernel_p, total = _descent(jax.devices()[:1])(*stacked)
  assert len(jax.devices()) == 2
  both = _descent(jax.devices())
  for _ in range(5):
    again_p, total_again = both(*stacked)
    np.testing.assert_array_equal(again_p, kernel_p)
    np.testing.assert_allclose(total_again, total, rtol=1e-5)
  # The weights did move, but for those that are not used.
  used = np.isfinite(stacked[1])
  assert np.mean(np.asarray(kernel_p)[used] != stacked[1][used]) > 0.9


@native.needed
def test_there_is_no_second_derivative():
  operands = _operands(1, 1, 3, 1, TAPS_N8[0])

  def slope(x_btc):
    return jnp.sum(_pulled(x_btc, *operands[1:])[1])

  with pytest.raises(ValueError, match='cannot be differentiated'):
    jax.grad(slope)(operands[0])


@native.needed
@pytest.mark.parametrize(
  'number, change, what',
  [
    (1, lambda kernel_kijg: kernel_kijg[..., :4], 'sizes of input and kernel'),
    (1, lambda kernel_kijg: kernel_kijg[0], 'ranks of input and kernel'),
    (2, lambda bias_c: bias_c[:4], 'size of bias'),
    (3, lambda taps_n: taps_n[:3], 'size of taps'),
    (4, lambda len_b: len_b[:2], 'size of lengths'),
    (5, lambda key: key[:1], 'size of key'),
  ],
)
def test_operands_that_do_not_fit_are_refused(number, change, what):
  operands = list(_operands(2, 8, 3, 4, TAPS_N8[0]))
  jax.block_until_ready(_forward(*operands))
  operands[number] = change(operands[number])
  with pytest.raises(jax.errors.JaxRuntimeError, match=what):
    jax.block_until_ready(_forward(*operands))


@native.needed
def test_a_population_of_nobody_is_computed_at_once():
  nobody = [
    np.zeros((0, *np.shape(leaf)), np.asarray(leaf).dtype)
    for leaf in _operands(2, 8, 3, 4, TAPS_N8[0])
  ]
  shapes = [leaf.shape for leaf in _mapped(*nobody)]
  assert shapes == [(0, 4, 3, 16), (0, 4, 3, 16), (0, 7, 2, 2, 8), (0, 16)]
