import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest

from nasjax import cells, kernels, models
from nasjax.layers import modules
from nasjax.spaces import NB_ASR as SPACE

pytestmark = native.needed
EPSILON = 1e-3
RESULTS = ('y', 'dx', 'dscale', 'dbias')


def _native(x_btc, scale_c, bias_c):
  return kernels.layer_norm(x_btc, scale_c, bias_c, EPSILON)


def _xla(x_btc, scale_c, bias_c):
  params = {'scale': scale_c, 'bias': bias_c}
  return modules.LayerNorm(EPSILON).apply({'params': params}, x_btc)


def _with_gradients(norm):
  def pulled(x_btc, scale_c, bias_c, dy_btc):
    y_btc, pull = jax.vjp(norm, x_btc, scale_c, bias_c)
    return (y_btc, *pull(dy_btc))

  return pulled


_pulled = _with_gradients(_native)
_alone = jax.jit(_pulled)
_by_xla = jax.jit(_with_gradients(_xla))


def _operands(batch, frames, width, seed=0):
  rng = np.random.default_rng(seed)
  shapes = ((batch, frames, width), (width,), (width,), (batch, frames, width))
  x, *rest = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
  return 3 * x + 1, *rest


def _members(count, width=37):
  drawn = [_operands(3, 11, width, p) for p in range(count)]
  return [np.stack(leaves) for leaves in zip(*drawn, strict=True)]


@pytest.mark.parametrize(
  'batch, frames, width',
  [
    *((2, 9, width) for width in (1, 2, 7, 8, 15, 16, 17, 31, 32, 33)),
    *((1, 1, 17), (1, 3, 40), (3, 0, 5), (8, 200, 100), (2, 50, 600)),
    (1, 23, 1200),
  ],
)
def test_values_and_gradients_against_xla(batch, frames, width):
  operands = _operands(batch, frames, width, width)
  results = zip(RESULTS, _alone(*operands), _by_xla(*operands), strict=True)
  for name, result, expected in results:
    largest = np.max(np.abs(expected), initial=0)
    np.testing.assert_allclose(
      result, expected, rtol=1e-5, atol=1e-5 * largest, err_msg=name
    )


def test_accuracy_far_from_zero():
  x_btc, scale_c, bias_c, _ = _operands(2, 5, 100)
  x_btc += 1000
  x_btc[0, 0] = 5  # no variance
  deviation_btc = x_btc - x_btc.mean(-1, keepdims=True, dtype=np.float64)
  variance_bt1 = np.mean(deviation_btc**2, -1, keepdims=True)
  expected_btc = deviation_btc / np.sqrt(variance_bt1 + EPSILON)
  y_btc = jax.jit(_native)(x_btc, scale_c, bias_c)
  np.testing.assert_allclose(y_btc, expected_btc * scale_c + bias_c, atol=2e-4)
  np.testing.assert_allclose(y_btc[0, 0], bias_c, atol=1e-6)


def test_members_are_the_same_bits_mapped_and_alone():
  stacked = _members(6)
  mapped = jax.jit(jax.vmap(_pulled))(*stacked)
  nested = jax.jit(jax.vmap(jax.vmap(_pulled)))(
    *[leaf.reshape(2, 3, *leaf.shape[1:]) for leaf in stacked]
  )
  for p in range(6):
    alone = _alone(*[leaf[p] for leaf in stacked])
    for n, name in enumerate(RESULTS):
      np.testing.assert_array_equal(mapped[n][p], alone[n], name)
      np.testing.assert_array_equal(nested[n][p // 3, p % 3], alone[n], name)


@pytest.mark.parametrize('axes', [(None, 0, 0, None), (0, None, None, 0)])
def test_members_may_share_operands(axes):
  stacked = _members(3)
  mixed = [
    leaf[0] if axis is None else leaf
    for leaf, axis in zip(stacked, axes, strict=True)
  ]
  mapped = jax.jit(jax.vmap(_pulled, in_axes=axes))(*mixed)
  for p in range(3):
    alone = _alone(
      *[
        leaf if axis is None else leaf[p]
        for leaf, axis in zip(mixed, axes, strict=True)
      ]
    )
    for n, name in enumerate(RESULTS):
      np.testing.assert_array_equal(mapped[n][p], alone[n], name)


def test_runs_and_devices_give_the_same_bits():
  """Widths and frames that end within a vector, and within a part."""
  rng = np.random.default_rng(0)
  stacked = [
    rng.normal(size=(4, *leaf.shape)).astype(np.float32)
    for leaf in _operands(8, 203, 117)
  ]
  mapped = jax.jit(jax.vmap(_pulled))
  first = [np.asarray(leaf) for leaf in mapped(*stacked)]
  member = jax.sharding.PartitionSpec('member')
  assert len(jax.devices()) == 2
  both = jax.jit(
    jax.shard_map(
      jax.vmap(_pulled),
      mesh=jax.sharding.Mesh(np.array(jax.devices()), ('member',)),
      in_specs=member,
      out_specs=member,
      check_vma=False,
    )
  )
  for _ in range(10):
    for results in (both(*stacked), mapped(*stacked)):
      for name, result, expected in zip(RESULTS, results, first, strict=True):
        np.testing.assert_array_equal(result, expected, name)


@pytest.mark.parametrize('width', [1, 5, 17, 100])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_seen(width, bad):
  """In its own frame and nowhere else, wherever it stands there."""
  operands = _operands(2, 7, width)
  for channel in {0, width // 2, width - 1}:
    x_btc = operands[0].copy()
    x_btc[1, 4, channel] = bad
    y_btc, dx_btc, dscale_c, dbias_c = _alone(x_btc, *operands[1:])
    broken_btc = np.zeros(x_btc.shape, bool)
    broken_btc[1, 4] = True
    np.testing.assert_array_equal(np.isnan(y_btc), broken_btc)
    np.testing.assert_array_equal(np.isnan(dx_btc), broken_btc)
    assert np.isnan(dscale_c).all() and np.isfinite(dbias_c).all()


def test_scales_that_are_not_numbers_are_seen():
  x_btc, scale_c, bias_c, dy_btc = _operands(2, 7, 37)
  scale_c[36], bias_c[3] = np.nan, np.nan
  y_btc, dx_btc, dscale_c, dbias_c = _alone(x_btc, scale_c, bias_c, dy_btc)
  np.testing.assert_array_equal(
    np.isnan(y_btc),
    np.broadcast_to(np.isin(np.arange(37), (3, 36)), (2, 7, 37)),
  )
  assert np.isnan(dx_btc).all()
  assert np.isfinite(dscale_c).all() and np.isfinite(dbias_c).all()


def test_networks_normalise_with_it():
  """Every block and every cell of a network does."""
  arch = SPACE.parse([[0, 1], [1, 0, 1], [2, 1, 0, 1]])
  gates = cells.gates(SPACE, arch)
  x_btf, len_b = jnp.zeros((1, 8, models.TINY.features)), jnp.array([8])
  for kind, count in (('xla', 0), ('native', 4)):
    network = models.Network(models.TINY, (('conv',),) * 3, kernels=kind)
    traced = jax.make_jaxpr(network.init)(
      jax.random.key(0), x_btf, len_b, gates
    )
    assert str(traced).count('nasjax_norm_forward') == count


def test_there_is_no_second_derivative():
  operands = _operands(1, 3, 4)

  def slope(x_btc):
    return jnp.sum(_pulled(x_btc, *operands[1:])[1])

  with pytest.raises(ValueError, match='cannot be differentiated'):
    jax.grad(slope)(operands[0])


def test_operands_that_do_not_fit_are_refused():
  x_btc, scale_c, bias_c, _ = _operands(2, 3, 4)
  for x, scale, bias, why in (
    (x_btc, scale_c[:3], bias_c, 'sizes of input'),
    (x_btc, scale_c, bias_c[:3], 'sizes of scale'),
    (x_btc, np.ones((3, 4), np.float32), bias_c, 'sizes of input'),
    (scale_c, x_btc, bias_c, 'ranks of input'),
  ):
    with pytest.raises(jax.errors.JaxRuntimeError, match=why):
      jax.block_until_ready(jax.jit(_native)(x, scale, bias))
