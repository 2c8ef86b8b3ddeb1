"""The accelerator form of the networks, against the networks as written."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import tiny_run

from nasjax import cells, models, spaces
from nasjax.kernels import tpu_conv
from nasjax.models import common, families, macros
from nasjax.models.nb_asr import accelerated
from nasjax.models.nb_asr.accelerated import channels, layers
from nasjax.training import population

SPACE = spaces.NB_ASR
# Groups of six and of two channels, a stride, cells in loops; 20 frames are one
# chunk of the kernel and a rest, and 6 utterances are padded to 16.
MACRO = macros.Cells(
  'form', (24, 8), (1, 2), (1, 2), 8, outputs=6, groups=4, features=8
)
ARCH = SPACE.parse([[4, 1], [0, 1, 0], [5, 0, 1, 1]])
GATES = jax.tree.map(jnp.asarray, cells.gates(SPACE, ARCH))
BATCH, FRAMES = 6, 20
KEY = np.array([3, 4], np.uint32)
LENGTHS = np.array([20, 7, 12, 1, 0, 19], np.int32)


def _network(kernels, precision='float32', checkpoint=False, macro=MACRO):
  ops = tuple((kind,) for kind in cells.signature(SPACE, ARCH))
  return models.Network(
    macro, ops, 0.2, True, kernels, precision, checkpoint=checkpoint
  )


@functools.cache
def _drawn(macro=MACRO):
  """Parameters, features, and what multiplies the logits."""
  rng = np.random.default_rng(0)
  params = jax.jit(
    lambda key: common.initial_params(_network('xla', macro=macro), key, GATES)
  )(jax.random.key(0))
  x_btf = rng.normal(size=(BATCH, FRAMES, 8)).astype(np.float32)
  weight_btv = rng.normal(size=(BATCH, FRAMES // 2, 6)).astype(np.float32)
  return jax.tree.map(np.array, params), x_btf, weight_btv


@functools.cache
def _found(kernels, precision='float32', checkpoint=False, macro=MACRO):
  """Logits on valid frames, and gradients in the order of `models`."""
  params, x_btf, weight_btv = _drawn(macro)
  form = families.form(_network(kernels, precision, checkpoint, macro))

  options = tiny_run.OF_USERS if precision == 'float32' else {}

  @functools.partial(jax.jit, compiler_options=options)
  @functools.partial(jax.value_and_grad, has_aux=True)
  def run(params):
    logits_btv, len_b = form.apply(params, x_btf, LENGTHS, GATES, KEY)
    valid_bt = jnp.arange(logits_btv.shape[1])[None] < len_b[:, None]
    logits_btv = jnp.where(valid_bt[:, :, None], logits_btv, 0)
    return jnp.sum(logits_btv * weight_btv), logits_btv

  (_, logits_btv), grads = run(form.pack(params))
  grads = form.unpack(jax.tree.map(np.array, grads))
  return np.array(logits_btv), grads


def test_what_is_too_long_for_the_kernel(monkeypatch):
  # Nothing but its convolution is another.
  macro = macros.Cells(
    'long', (24,), (1,), (2,), 8, outputs=6, groups=4, features=8
  )
  expected_btv, expected = _found('xla', macro=macro)
  monkeypatch.setattr(tpu_conv, 'fits', lambda *_: False)
  accelerated.make.cache_clear()
  long_btv, long_grads = _found('tpu', macro=macro)
  accelerated.make.cache_clear()
  assert _error(long_btv, expected_btv) < 3e-6
  errors = jax.tree.map(_error, long_grads, expected)
  assert max(jax.tree.leaves(errors)) < 1e-5, errors


def _error(one, other):
  return np.linalg.norm(one - other) / np.linalg.norm(other)


# One of the other two in bfloat16: test_bfloat16_is_near.
@pytest.mark.parametrize(
  'kernels, checkpoint',
  [
    ('tpu', True),
    ('gpu', False),
    pytest.param('tpu', False, marks=pytest.mark.slow),
    pytest.param('gpu', True, marks=pytest.mark.slow),
  ],
)
def test_the_form_computes_what_the_network_does(kernels, checkpoint):
  # Masks of dropout included: one other bit would be seen.
  logits_btv, grads = _found(kernels, checkpoint=checkpoint)
  expected_btv, expected = _found('xla')
  assert _error(logits_btv, expected_btv) < 3e-6
  assert jax.tree.structure(grads) == jax.tree.structure(expected)
  errors = jax.tree.map(_error, grads, expected)
  assert max(jax.tree.leaves(errors)) < 1e-5, errors


# The TPU's kernels in bfloat16 in small: kernels/test_conv_kernels.
@pytest.mark.parametrize(
  'kernels, checkpoint',
  [pytest.param('tpu', False, marks=pytest.mark.slow), ('gpu', True)],
)
def test_bfloat16_is_near(kernels, checkpoint):
  logits_btv, grads = _found(kernels, 'bfloat16', checkpoint)
  expected_btv, expected = _found('xla')
  assert _error(logits_btv, expected_btv) < 0.03
  one, other = (
    np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    for tree in (grads, expected)
  )
  cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
  assert cosine > 0.98


@pytest.mark.parametrize('kernels', ['tpu', 'gpu'])
@pytest.mark.parametrize('checkpoint', [False, True])
@pytest.mark.parametrize('on_host', [False, True])
def test_there_and_back(kernels, checkpoint, on_host):
  params, _, _ = _drawn()
  form = accelerated.make(_network(kernels, 'float32', checkpoint))
  given = params if on_host else jax.tree.map(jnp.asarray, params)
  packed = form.pack(given)
  kind = np.ndarray if on_host else jax.Array
  assert all(isinstance(leaf, kind) for leaf in jax.tree.leaves(packed))
  chex.assert_trees_all_equal(form.unpack(packed), params)
  # A population's, with members in front.
  pair = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), params)
  packed_pair = form.pack(pair, lead=1)
  jax.tree.map(
    lambda leaf_p, leaf: np.testing.assert_array_equal(leaf_p[1], 2 * leaf),
    packed_pair,
    packed,
  )
  back = form.unpack(packed_pair, lead=1)
  chex.assert_trees_all_equal(back, pair)
  # The norm that decays, and that of gradients, are those of the network.
  np.testing.assert_allclose(
    common.conv_kernel_norm(packed), common.conv_kernel_norm(params), rtol=1e-5
  )


@pytest.mark.parametrize(
  'width, groups, spare', [(600, 100, 40), (1000, 100, 152), (100, 100, 28)]
)
def test_blocks_hold_whole_groups(width, groups, spare):
  lanes = channels.in_blocks(width, groups)
  assert len(lanes.channel_l) % 128 == 0
  assert np.sum(lanes.channel_l < 0) == spare
  np.testing.assert_array_equal(lanes.channel_l[lanes.lane_c], np.arange(width))
  block_c = lanes.lane_c // 128
  for g in range(groups):
    assert len(set(block_c[g::groups])) == 1


def test_cells_without_convolutions_need_no_blocks():
  linear = models.Network(MACRO, (('linear',),) * 3, kernels='tpu')
  shapes = jax.eval_shape(
    lambda key: accelerated.make(linear).pack(
      common.initial_params(linear, key, GATES)
    ),
    jax.random.key(0),
  )
  assert shapes['block0_cell0']['norm']['scale'].shape == (24,)


def test_who_has_a_form():
  assert accelerated.supports(_network('gpu'))
  assert not accelerated.supports(_network('native'))
  several = models.Network(MACRO, (('linear', 'conv5'),) * 3, kernels='gpu')
  plain = models.Network(MACRO, (('conv5',),) * 3, kernels='gpu')
  for network in (several, plain):
    assert not accelerated.supports(network)
    assert families.form(network).pack({'a': 1}) == {'a': 1}


@pytest.mark.parametrize('stride, frames', [(1, 9), (2, 9), (2, 12), (4, 7)])
def test_block_convolutions_agree_and_have_gradients(stride, frames):
  rng = np.random.default_rng(0)
  x_tbi = jnp.asarray(rng.normal(size=(frames, 3, 5)), jnp.float32)
  kernel_kio = jnp.asarray(rng.normal(size=(8, 5, 4)), jnp.float32)
  len_b = jnp.array([frames, 3, 0])
  op = layers.block_conv(stride)
  z_tbo, pull = jax.vjp(lambda x, k: op.forward(x, k, len_b), x_tbi, kernel_kio)
  dz_tbo = jnp.asarray(rng.normal(size=z_tbo.shape), jnp.float32)
  found = op.backward(x_tbi, kernel_kio, len_b, dz_tbo)
  for one, other in zip(found, pull(dz_tbo)):
    np.testing.assert_allclose(one, other, atol=1e-4)
  other = layers.unfolded_conv(stride)
  x_bti, dz_bso = jnp.swapaxes(x_tbi, 0, 1), jnp.swapaxes(dz_tbo, 0, 1)
  z_bso = other.forward(x_bti, kernel_kio, len_b)
  np.testing.assert_allclose(jnp.swapaxes(z_bso, 0, 1), z_tbo, atol=1e-4)
  dx_bti, dkernel_kio = other.backward(x_bti, kernel_kio, len_b, dz_bso)
  np.testing.assert_allclose(jnp.swapaxes(dx_bti, 0, 1), found[0], atol=1e-4)
  np.testing.assert_allclose(dkernel_kio, found[1], atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_layer_norm_leaves_spare_lanes_out(dtype):
  rng = np.random.default_rng(0)
  real = np.arange(8) % 4 < 3
  lanes = channels.lanes(np.where(real, np.cumsum(real) - 1, -1))
  x_ntl = jnp.asarray(np.where(real, rng.normal(2, 1, (2, 5, 8)), 0), dtype)
  scale_l, bias_l = (jnp.where(real, rng.normal(size=8), 0) for _ in range(2))
  scale_l, bias_l = scale_l.astype('float32'), bias_l.astype('float32')
  dy_ntl = jnp.asarray(np.where(real, rng.normal(size=x_ntl.shape), 0), dtype)

  def plain(x, scale, bias):
    x = x.astype(jnp.float32)[..., real]
    x = x - jnp.mean(x, -1, keepdims=True)
    x = x / jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-3)
    y = x * scale[None, None, real] + bias[None, None, real]
    return jnp.zeros(x_ntl.shape).at[..., real].set(y)

  y, pull = jax.vjp(
    lambda *a: layers.layer_norm(*a, lanes, 1e-3), x_ntl, scale_l, bias_l
  )
  expected, pull_plain = jax.vjp(plain, x_ntl, scale_l, bias_l)
  atol = 1e-5 if dtype == 'float32' else 0.06
  np.testing.assert_allclose(y.astype('float32'), expected, atol=atol)
  for one, other in zip(pull(dy_ntl), pull_plain(dy_ntl.astype('float32'))):
    one, other = (np.asarray(v, np.float32) for v in (one, other))
    np.testing.assert_allclose(one, other, atol=atol)
    assert not one[..., ~real].any()


@pytest.mark.parametrize(
  'kernels', [pytest.param('tpu', marks=pytest.mark.slow), 'gpu']
)
def test_a_population_trains_as_on_a_cpu(kernels, monkeypatch):
  members = (
    ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
    ([[3, 0], [0, 1, 0], [5, 1, 0, 1]], 9),
  )
  recipe = tiny_corpus.variant(adam_epsilon=1e-3)
  states = []
  for kind in ('xla', kernels):
    monkeypatch.setenv('NASJAX_KERNELS', kind)
    trainer = tiny_corpus.trainer(members, recipe)
    assert trainer.network.kernels == kind
    trainer.programs = population.programs(
      trainer.network,
      recipe,
      trainer.prepared.buckets,
      trainer.prepared.mesh,
      2,
    )
    state = trainer.epoch(trainer.initial(), 1)
    host = trainer.unload(state)
    again = trainer.unload(trainer.load(host))
    chex.assert_trees_all_equal(host, again)
    states.append(host)
  plain, own = states
  assert (plain.members.step == own.members.step).all()
  chex.assert_trees_all_close(
    plain.members.params,
    own.members.params,
    rtol=1e-4,
    atol=1e-5,
  )
  for curve in ('train_loss', 'val_loss'):
    np.testing.assert_allclose(
      plain.curves[curve], own.curves[curve], rtol=1e-5
    )


def test_a_kernel_has_room_for_so_many_frames():
  shape = tpu_conv.Shape(600, 100, 0.2, 20.0)
  assert tpu_conv.fits(shape, 1200, 2)
  assert not tpu_conv.fits(shape, 5000, 2)
