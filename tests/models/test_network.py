import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
import reference
import torch_weights

from nasjax import cells, cost, models
from nasjax.models import common, macros
from nasjax.spaces import NB_ASR as SPACE

FORWARDS = {
  'a_conv5x3_noskip': [[1, 0], [1, 0, 0], [1, 0, 0, 0]],
  'b_linear3_allskip': [[0, 1], [0, 1, 1], [0, 1, 1, 1]],
  'c_conv7_conv5d2_linear_mixskip': None,
  'd_conv7d2_zero_linear': None,
}
MIXED = [[3, 1], [0, 0, 1], [2, 1, 0, 1]]


# Compiled as a whole: one operation at a time, a test takes seconds.
@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, x_btf, len_b, gates):
  return network.apply({'params': params}, x_btf, len_b, gates)


def _features(frames, macro=models.TINY, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(batch, frames, macro.features)).astype(np.float32)


def _shapes(network, gates):
  return jax.eval_shape(
    lambda k: common.initial_params(network, k, gates), jax.random.key(0)
  )


def _drawn(network, gates, seed=0):
  """Parameters that are drawn, biases and scales too."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
    _shapes(network, gates),
  )


def _tiny(arch):
  network = models.single(SPACE, SPACE.parse(arch), models.TINY)
  return network, cells.gates(SPACE, SPACE.parse(arch))


@reference.needed
@pytest.mark.parametrize('name', FORWARDS)
def test_forward_equals_reference(name):
  folder = reference.DIRECTORY / 'nb-asr'
  index = json.loads((folder / 'forward_index.json').read_text())[name]
  arch = SPACE.parse(index['arch'])
  with np.load(folder / f'forward_{name}.npz') as stored:
    weights = {
      k.removeprefix('param/'): stored[k] for k in stored if 'param/' in k
    }
    x_btf = stored['input_BFT'].transpose(0, 2, 1)
    expected_btv = stored['output_BTC']
    l2 = float(stored['reg/tf_0.01_sum_of_squares'])
  macro = dataclasses.replace(models.SMALL, outputs=49)
  params = torch_weights.network_params(weights, arch, macro)
  network = models.single(SPACE, arch, macro)
  # The reference masks nothing: to it, all 40 frames are valid.
  logits_btv, len_b = network.apply(
    {'params': params}, x_btf, jnp.full(2, 40), cells.gates(SPACE, arch)
  )
  np.testing.assert_array_equal(len_b, [10, 10])
  np.testing.assert_allclose(logits_btv, expected_btv, atol=1e-4)
  np.testing.assert_allclose(
    0.01 * common.conv_kernel_norm(params), l2, rtol=1e-5
  )
  # The torch LSTM has a second bias vector.
  assert cost.leaves(params) == index['params'] - 2000
  assert cost.params(SPACE, arch, macro) == index['params'] - 2000


def test_published_parameter_counts():
  count = cost.params(SPACE, [[1, 0], [1, 0, 0], [1, 0, 0, 0]], models.NB_ASR)
  assert count == 26_338_848
  count = cost.params(SPACE, [[0, 1], [1, 1, 0], [4, 1, 0, 1]], models.NB_ASR)
  assert count == 43_100_448


@pytest.mark.parametrize('macro', [models.NB_ASR, models.SMALL, models.QUICK])
@pytest.mark.parametrize('arch', [MIXED, [[5, 1], [4, 0, 0], [0, 0, 0, 1]]])
def test_params_formula_counts_the_real_tree(arch, macro):
  arch = SPACE.parse(arch)
  network = models.single(SPACE, arch, macro)
  shapes = _shapes(network, cells.gates(SPACE, arch))
  tree = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.int8), shapes)
  assert cost.leaves(tree) == cost.params(SPACE, arch, macro)


def test_macs_count_every_product():
  arch = SPACE.parse(MIXED)
  params = _shapes(*_tiny(MIXED))
  macro, frames = models.TINY, 23
  total = 0
  width = {f'block{b}': w for b, w in enumerate(macro.filters)}
  block_frames = {'block0': 12, 'block1': 6}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [p.key for p in path]
    if 'kernel' in names[-1]:
      block = names[0].split('_')[0]
      assert block in width or names[0] in ('lstm', 'head')
      total += leaf.size * block_frames.get(block, 6)
  assert cost.macs(SPACE, arch, macro, frames) == total


def test_linear_macs_scale_with_the_reference_count():
  # 100 frames, 18 cells: 830,000,000 for one linear operation in each.
  one = cost.macs(SPACE, [[0, 0], [5, 0, 0], [5, 0, 0, 0]], models.NB_ASR, 100)
  none = cost.macs(SPACE, [[5, 0], [5, 0, 0], [5, 0, 0, 0]], models.NB_ASR, 100)
  assert one - none == 830_000_000
  conv = cost.macs(SPACE, [[3, 0], [5, 0, 0], [5, 0, 0, 0]], models.NB_ASR, 100)
  assert conv - none == 58_100_000


@pytest.mark.parametrize(
  'frames, padded', [(1, 2), (1, 24), (2, 13), (13, 24), (24, 35)]
)
def test_padding_never_reaches_valid_logits(frames, padded):
  network, gates = _tiny(MIXED)
  params = _drawn(network, gates)
  x_btf = _features(frames)
  len_b = jnp.full(2, frames)
  alone_btv, out_b = _apply(network, params, x_btf, len_b, gates)
  junk_btf = _features(padded, seed=1) * 50
  junk_btf[:, :frames] = x_btf
  padded_btv, padded_b = _apply(network, params, junk_btf, len_b, gates)
  assert out_b[0] == padded_b[0] == models.TINY.output_frames(frames)
  n = int(out_b[0])
  np.testing.assert_allclose(
    padded_btv[:, :n], alone_btv[:, :n], rtol=1e-5, atol=1e-5
  )


def test_population_program_equals_plain_networks():
  archs = [MIXED, [[1, 0], [0, 1, 1], [4, 0, 1, 0]]]
  archs = [SPACE.parse(a) for a in archs]
  signature = cells.signature(SPACE, archs[0])
  assert signature == cells.signature(SPACE, archs[1])
  network = models.Network(models.TINY, tuple((name,) for name in signature))
  each = [cells.gates(SPACE, a) for a in archs]
  gates_p = cells.stack(each)
  drawn = [_drawn(network, gates, seed) for seed, gates in enumerate(each)]
  params_p = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
  x_btf, len_b = _features(24), jnp.array([24, 15])
  logits_pbtv, _ = jax.jit(
    jax.vmap(lambda p, g: network.apply({'params': p}, x_btf, len_b, g))
  )(params_p, gates_p)
  for i, arch in enumerate(archs):
    params = models.unpack(
      SPACE, arch, jax.tree.map(lambda leaf, i=i: leaf[i], params_p)
    )
    plain = models.single(SPACE, arch, models.TINY)
    logits_btv, _ = _apply(
      plain, params, x_btf, len_b, cells.gates(SPACE, arch)
    )
    np.testing.assert_allclose(logits_pbtv[i], logits_btv, atol=2e-5)
    assert cost.leaves(params) == cost.params(SPACE, arch, models.TINY)


@functools.partial(jax.jit, static_argnums=0)
def _pulled(network, params, x_btf, len_b, gates, key, dy_btv):
  logits_btv, pull = jax.vjp(
    lambda p: network.apply({'params': p}, x_btf, len_b, gates, key)[0], params
  )
  return logits_btv, pull(jnp.asarray(dy_btv, jnp.float32))[0]


@native.needed
@pytest.mark.parametrize(
  'macro, names',
  [
    (models.TINY, ('conv7', 'linear', 'conv5d2')),
    # Three channels a group; one block, for XLA compiles it for seconds.
    (
      dataclasses.replace(models.TINY, filters=(24,), cells=(1,), strides=(4,)),
      ('conv', 'linear', 'conv'),
    ),
  ],
)
def test_native_kernels_change_nothing(macro, names):
  gates = cells.gates(SPACE, SPACE.parse(MIXED))
  x_btf, len_b = _features(29, batch=3), jnp.array([29, 14, 0])
  dy_btv = np.random.default_rng(1).normal(size=(3, 8, macro.outputs))
  dy_btv[np.arange(8) >= [[8], [4], [0]]] = 0
  key = np.array([3, 4], np.uint32)
  results = []
  for kernels in ('xla', 'native', 'twice'):
    network = models.Network(
      macro, tuple((name,) for name in names), 0.2, kernels=kernels
    )
    logits_btv, gradient = _pulled(
      network, _drawn(network, gates), x_btf, len_b, gates, key, dy_btv
    )
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient)))
    assert norm > 1
    gradient = jax.tree.map(lambda g, norm=norm: g / norm, gradient)
    results.append((logits_btv, gradient))
  for other in results[1:]:
    chex.assert_trees_all_close(results[0], other, rtol=1e-5, atol=1e-5)


def test_supernet_with_one_hot_gates_equals_the_single_operation():
  arch = SPACE.parse(MIXED)
  names = ('linear', 'conv7', 'zero')
  supernet = models.Network(models.TINY, (names, ('linear',), ('conv5d2',)))
  gates = cells.gates(SPACE, arch)
  one_hot = np.eye(3, dtype=np.float32)[1]
  gates = gates._replace(op_no=(one_hot, *gates.op_no[1:]))
  params = _drawn(supernet, gates)
  x_btf, len_b = _features(24), jnp.array([24, 9])
  mixed_btv, _ = _apply(supernet, params, x_btf, len_b, gates)
  plain = models.single(SPACE, arch, models.TINY)
  cut = {k: dict(v) for k, v in params.items()}
  for name in ('block0_cell0', 'block1_cell0'):
    cut[name].pop('node0_linear')
  plain_btv, _ = _apply(plain, cut, x_btf, len_b, gates)
  np.testing.assert_allclose(mixed_btv, plain_btv, atol=1e-6)


def test_initialisation_is_the_references():
  network, gates = _tiny(MIXED)
  init = jax.jit(common.initial_params, static_argnums=0)
  params = init(network, jax.random.key(5), gates)
  lstm = params['lstm']
  hidden = models.TINY.lstm
  np.testing.assert_array_equal(lstm['bias'][hidden : 2 * hidden], 1)
  assert np.sum(np.abs(lstm['bias'])) == hidden
  product = lstm['recurrent_kernel'] @ lstm['recurrent_kernel'].T
  np.testing.assert_allclose(product, np.eye(hidden), atol=1e-5)
  kernel = params['block1_cell0']['node0_conv7']['kernel']
  limit = np.sqrt(6 / (7 * 2 + 7 * 16))
  assert 0.9 * limit < np.abs(kernel).max() <= limit
  assert not params['block1_cell0']['node0_conv7']['bias'].any()


def test_widths_must_divide_into_groups():
  with pytest.raises(ValueError, match='150 filters'):
    macros.Cells('x', (150,), (1,), (1,), 0)
  with pytest.raises(ValueError, match='strides'):
    macros.Cells('x', (100, 100), (1, 1), (1,), 0)
