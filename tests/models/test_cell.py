import collections
import functools

import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest

from nasjax import cells
from nasjax.layers import dropout, modules
from nasjax.models.nb_asr import ops
from nasjax.spaces import NB_ASR as SPACE

GROUPS, WIDTH, FRAMES = 3, 6, 15
LEN_B = np.array([15, 9])
KEY = np.array([12345, 67890], np.uint32)
ARCHS = [
  [[0, 0], [0, 0, 0], [0, 0, 0, 0]],
  [[0, 1], [1, 0, 1], [2, 1, 0, 1]],
  [[3, 0], [4, 1, 1], [0, 0, 1, 0]],
  [[5, 1], [1, 1, 0], [3, 1, 0, 0]],
  [[2, 1], [5, 0, 0], [4, 0, 0, 1]],
  [[4, 1], [2, 1, 1], [5, 1, 1, 1]],
]


_mask = jax.jit(dropout.keep_mask, static_argnums=(1, 2, 3))


@functools.partial(jax.jit, static_argnums=0)
def _apply(cell, params, x_btc, gates, key=None):
  return cell.apply({'params': params}, x_btc, LEN_B, gates, key)


def _drawn(cell, gates, seed=0):
  """Parameters that are drawn, biases and scales too."""
  shapes = jax.eval_shape(
    cell.init, jax.random.key(0), _input(), jnp.asarray(LEN_B), gates
  )['params']
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(np.float32), shapes
  )


def _input():
  rng = np.random.default_rng(7)
  return rng.normal(size=(2, FRAMES, WIDTH)).astype(np.float32)


def _slow_op(name, params, x_btc):
  """One product at a time; channel (i, g) of a group stands at i * G + g."""
  if name == 'zero':
    return np.zeros_like(x_btc)
  if name == 'linear':
    dense = params['Dense_0']
    return np.clip(x_btc @ dense['kernel'] + dense['bias'], 0, 20)
  y_btc = np.zeros_like(x_btc)
  for b, t in np.ndindex(2, FRAMES):
    for k, offset in enumerate(ops.offsets(name)):
      if 0 <= t + offset < LEN_B[b]:
        for g in range(GROUPS):
          x_i = x_btc[b, t + offset, g::GROUPS]
          y_btc[b, t, g::GROUPS] += x_i @ params['kernel'][k, :, :, g]
  return np.clip(y_btc + params['bias'], 0, 20)


def _slow_norm(x_btc, params, epsilon=1e-3):
  mean = x_btc.mean(-1, keepdims=True)
  y_btc = (x_btc - mean) / np.sqrt(x_btc.var(-1, keepdims=True) + epsilon)
  return y_btc * params['scale'] + params['bias']


def _slow_cell(arch, params, keep=lambda site, name, y_btc: y_btc):
  """The cell of an encoding, read from its nested lists in float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  names = ('linear', 'conv5', 'conv5d2', 'conv7', 'conv7d2', 'zero')
  xs = [np.asarray(_input(), np.float64)]
  for n, (op, *skips) in enumerate(arch):
    name = names[op]
    y_btc = _slow_op(name, params.get(f'node{n}_{name}'), xs[-1])
    y_btc = keep(n, name, y_btc)
    xs.append(y_btc + sum(x for x, skip in zip(xs, skips, strict=True) if skip))
  return _slow_norm(xs[-1], params['norm'])


def _assert_valid_frames_equal(y_btc, expected_btc):
  for b, length in enumerate(LEN_B):
    np.testing.assert_allclose(
      y_btc[b, :length], expected_btc[b, :length], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize('kernels', native.KINDS)
@pytest.mark.parametrize('arch', ARCHS)
def test_cell_against_a_plain_loop(arch, kernels):
  names = tuple((name,) for name in SPACE.main_ops(SPACE.parse(arch)))
  cell = cells.Cell(names, WIDTH, GROUPS, kernels=kernels)
  gates = cells.gates(SPACE, SPACE.parse(arch))
  params = _drawn(cell, gates)
  y_btc = _apply(cell, params, _input(), gates)
  _assert_valid_frames_equal(y_btc, _slow_cell(arch, params))


@pytest.mark.parametrize('kernels', native.KINDS)
@pytest.mark.parametrize('conv_dropout', [True, False])
def test_every_node_drops_at_a_site_of_its_own(conv_dropout, kernels):
  arch, rate, first = ARCHS[1], 0.4, 12
  names = tuple((name,) for name in SPACE.main_ops(SPACE.parse(arch)))
  cell = cells.Cell(
    names,
    WIDTH,
    GROUPS,
    rate,
    first,
    conv_dropout=conv_dropout,
    kernels=kernels,
  )
  gates = cells.gates(SPACE, SPACE.parse(arch))
  params = _drawn(cell, gates)
  dropped = []

  def keep(node, name, y_btc):
    if 'conv' in name and not conv_dropout:
      return y_btc
    mask_btc = np.asarray(_mask(KEY, first + node, y_btc.shape, rate))
    dropped.append(mask_btc)
    return y_btc * mask_btc / (1 - rate)

  expected_btc = _slow_cell(arch, params, keep)
  _assert_valid_frames_equal(
    _apply(cell, params, _input(), gates, KEY), expected_btc
  )
  assert len(dropped) == (3 if conv_dropout else 1)
  assert len({mask.tobytes() for mask in dropped}) == len(dropped)
  # Without a key nothing is dropped.
  _assert_valid_frames_equal(
    _apply(cell, params, _input(), gates), _slow_cell(arch, params)
  )


def test_candidates_are_mixed_by_their_gates():
  arch = [[0, 1], [1, 0, 1], [0, 1, 0, 0]]
  plain = cells.gates(SPACE, SPACE.parse(arch))
  weights = np.array([0.3, 0.0, -1.5, 2.0], np.float32)
  gates = plain._replace(op_no=(plain.op_no[0], weights, plain.op_no[2]))
  mixed_ops = ('conv5', 'zero', 'linear', 'conv7d2')
  cell = cells.Cell((('linear',), mixed_ops, ('linear',)), WIDTH, GROUPS)
  params = _drawn(cell, gates)
  nodes = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x0 = np.asarray(_input(), np.float64)
  x1 = _slow_op('linear', nodes['node0_linear'], x0) + x0
  x2 = x1 + sum(
    w * _slow_op(name, nodes.get(f'node1_{name}'), x1)
    for w, name in zip(weights, mixed_ops)
  )
  x3 = _slow_op('linear', nodes['node2_linear'], x2) + x0
  y_btc = _apply(cell, params, _input(), gates)
  _assert_valid_frames_equal(y_btc, _slow_norm(x3, nodes['norm']))


@pytest.mark.parametrize('kernels', native.KINDS)
def test_a_population_of_cells_equals_each_alone(kernels):
  archs = [
    SPACE.parse(nested)
    for nested in (
      [[1, 1], [0, 0, 1], [2, 1, 0, 1]],
      [[4, 0], [0, 1, 0], [3, 0, 1, 1]],
      [[3, 1], [0, 1, 1], [1, 1, 1, 0]],
    )
  ]
  assert len({cells.signature(SPACE, arch) for arch in archs}) == 1
  gates_p = cells.stack([cells.gates(SPACE, arch) for arch in archs])
  names = (('conv',), ('linear',), ('conv',))
  cell = cells.Cell(names, WIDTH, GROUPS, kernels=kernels)
  first = jax.tree.map(lambda leaf: leaf[0], gates_p)
  drawn = [_drawn(cell, first, seed) for seed in range(3)]
  params_p = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
  y_pbtc = jax.jit(
    jax.vmap(lambda p, g: cell.apply({'params': p}, _input(), LEN_B, g))
  )(params_p, gates_p)
  for p, arch in enumerate(archs):
    params = {
      name.replace('conv', SPACE.main_ops(arch)[int(name[4])])
      if 'conv' in name
      else name: tree
      for name, tree in drawn[p].items()
    }
    expected_btc = _slow_cell(SPACE.nested(arch), params)
    _assert_valid_frames_equal(y_pbtc[p], expected_btc)


def test_gates_of_an_encoding():
  gates = cells.gates(SPACE, SPACE.parse([[1, 1], [0, 0, 1], [5, 1, 0, 1]]))
  np.testing.assert_array_equal(
    gates.skip_nm, [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
  )
  assert gates.skip_nm.dtype == gates.place_nuk.dtype == np.float32
  assert [g.tolist() for g in gates.op_no] == [[1.0]] * 3
  np.testing.assert_array_equal(gates.place_nuk[0], ops.placement('conv5'))
  assert not gates.place_nuk[1:].any()
  stacked = cells.stack([gates, gates])
  assert stacked.place_nuk.shape == (2, 3, 10, 7)
  assert [g.shape for g in stacked.op_no] == [(2, 1)] * 3


def test_signatures_are_few():
  counts = collections.Counter(
    cells.signature(SPACE, arch) for arch in SPACE.enumerate()
  )
  without_zero = [kind for kind in counts if 'zero' not in kind]
  assert len(counts) == 27 and len(without_zero) == 8
  # 64 patterns of skips; four convolutions to one linear.
  for kind, count in counts.items():
    assert count == 64 * 4 ** kind.count('conv')


def test_layer_norm_keeps_its_accuracy_far_from_zero():
  rng = np.random.default_rng(3)
  x_btc = (1000 + rng.normal(size=(2, 3, 32))).astype(np.float32)
  x_btc[0, 0] = 5  # no variance
  params = {'scale': rng.normal(size=32), 'bias': rng.normal(size=32)}
  y_btc = modules.LayerNorm(1e-3).apply({'params': params}, x_btc)
  expected = _slow_norm(x_btc.astype(np.float64), params)
  np.testing.assert_allclose(y_btc, expected, atol=2e-4)
  np.testing.assert_allclose(y_btc[0, 0], params['bias'], atol=1e-6)
