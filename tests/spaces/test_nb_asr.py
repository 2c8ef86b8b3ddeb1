"""Tests of nasjax/spaces."""

import hashlib
import json
import math
import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from nasjax import spaces
from nasjax.spaces import NB_ASR

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = pathlib.Path(
  os.environ.get('NASJAX_REFERENCE_DIR', ROOT.parent / 'shared' / 'reference')
)
SIZES = (6, 2, 6, 2, 2, 6, 2, 2, 2)
ZERO = 5
EMPTY_HASH = 'd751713988987e9331980363e24189ce'


@pytest.fixture(scope='module')
def archs_pd():
  return NB_ASR.enumerate()


@pytest.fixture(scope='module')
def keys_p(archs_pd):
  return NB_ASR.keys(archs_pd)


@pytest.fixture(scope='module')
def semantic_p(archs_pd):
  return NB_ASR.semantic_keys(archs_pd)


# Layout and order.


def test_sizes_and_names():
  assert NB_ASR.size == 13_824
  assert NB_ASR.sizes == SIZES
  assert NB_ASR.nodes == 3
  assert NB_ASR.ops == (
    'linear',
    'conv5',
    'conv5d2',
    'conv7',
    'conv7d2',
    'zero',
  )
  assert NB_ASR.op_positions == (0, 2, 5)
  assert NB_ASR.fields == (
    'op1',
    's00',
    'op2',
    's10',
    's11',
    'op3',
    's20',
    's21',
    's22',
  )


def test_enumerate_is_an_odometer_with_the_first_position_fastest(archs_pd):
  assert archs_pd.dtype == np.int8
  assert archs_pd.shape == (13_824, 9)
  digits = [0] * 9
  for row in archs_pd.tolist():
    assert row == digits
    for d, size in enumerate(SIZES):
      digits[d] = (digits[d] + 1) % size
      if digits[d]:
        break


def test_index_is_the_place_in_enumerate(archs_pd):
  places_p = NB_ASR.indices(archs_pd)
  np.testing.assert_array_equal(places_p, np.arange(13_824))
  for place in (0, 1, 5, 6, 4711, 13_823):
    arch_d = NB_ASR.from_index(place)
    assert arch_d.dtype == np.int8
    np.testing.assert_array_equal(arch_d, archs_pd[place])
    assert NB_ASR.index(arch_d) == place
    assert type(NB_ASR.index(arch_d)) is int
  np.testing.assert_array_equal(
    NB_ASR.from_index(np.array([[3, 5]])), archs_pd[None, [3, 5]]
  )


@pytest.mark.parametrize('index', [-1, 13_824, 1.0, True, '3', None, [0, -7]])
def test_from_index_refuses_what_is_no_place(index):
  with pytest.raises(ValueError, match='index'):
    NB_ASR.from_index(index)


# Reading.

NESTED = [[1, 0], [2, 0, 1], [5, 1, 1, 0]]
FLAT = [1, 0, 2, 0, 1, 5, 1, 1, 0]


@pytest.mark.parametrize(
  'arch',
  [
    NESTED,
    tuple(tuple(node) for node in NESTED),
    [np.array(node, np.int8) for node in NESTED],
    [(np.int64(1), 0), [np.uint8(2), 0, 1], (5, 1, 1, np.int8(0))],
    FLAT,
    tuple(FLAT),
    [np.int16(v) for v in FLAT],
    [jnp.asarray(v) for v in FLAT],
    np.array(FLAT),
    np.array(FLAT, np.int8),
    np.array(FLAT, np.uint64),
    jnp.array(FLAT),
    jnp.array(FLAT, jnp.int8),
    np.array(FLAT, object),
  ],
)
def test_parse_reads_every_form(arch):
  arch_d = NB_ASR.parse(arch)
  assert arch_d.dtype == np.int8
  assert arch_d.tolist() == FLAT
  assert NB_ASR.nested(arch) == NESTED
  assert all(type(v) is int for node in NB_ASR.nested(arch) for v in node)


def test_parse_returns_its_own_array():
  given_d = np.array(FLAT, np.int8)
  NB_ASR.parse(given_d)[0] = 4
  assert given_d.tolist() == FLAT


def test_nested_inverts_parse(archs_pd):
  for arch_d in archs_pd[::97]:
    np.testing.assert_array_equal(NB_ASR.parse(NB_ASR.nested(arch_d)), arch_d)


BAD_VALUES = [
  6,
  -1,
  1.0,
  math.nan,
  True,
  False,
  None,
  'conv5',
  '1',
  b'1',
  10**30,
  [1],
  1j,
  np.float32(1),
  np.True_,
  np.array([1]),
  np.array(1.0),
]


@pytest.mark.parametrize('position', [0, 2, 5])
@pytest.mark.parametrize('value', BAD_VALUES, ids=repr)
def test_parse_names_position_and_value_of_a_bad_op(position, value):
  _expect_named(position, value)


@pytest.mark.parametrize('position', [1, 3, 4, 6, 7, 8])
@pytest.mark.parametrize('value', [7, 2, -1, 1.0, True, None], ids=repr)
def test_parse_names_position_and_value_of_a_bad_skip(position, value):
  _expect_named(position, value)


def _expect_named(position, value):
  flat = list(FLAT)
  flat[position] = value
  nested = [flat[:2], flat[2:5], flat[5:]]
  # A list inside a flat vector makes it a malformed nested one.
  is_list = isinstance(value, list) or np.ndim(value) > 0
  for arch in [nested] if is_list else [flat, tuple(flat), nested]:
    with pytest.raises(ValueError) as caught:
      NB_ASR.parse(arch)
    message = str(caught.value)
    assert f'position {position} ' in message
    assert NB_ASR.fields[position] in message
    assert repr(value) in message
  with pytest.raises(ValueError, match='row 1'):
    NB_ASR.keys([FLAT, nested])


@pytest.mark.parametrize(
  'array, value',
  [
    (np.array(FLAT, np.float32), '1.0'),
    (np.array(FLAT, bool), 'True'),
    (np.full(9, np.nan), 'nan'),
    (jnp.array(FLAT, jnp.bfloat16), '1'),
    (jnp.array(FLAT, bool), 'True'),
    (np.array(FLAT, str), "'1'"),
  ],
)
def test_arrays_that_are_not_integers_are_refused(array, value):
  with pytest.raises(ValueError, match='position 0') as caught:
    NB_ASR.parse(array)
  assert value in str(caught.value)


@pytest.mark.parametrize(
  'arch, part',
  [
    ([], 'got 0'),
    (FLAT[:8], 'got 8'),
    (FLAT + [0], 'got 10'),
    (NESTED[:2], 'got 2'),
    ([[1, 0, 0], [2, 0, 1], [5, 1, 1, 0]], 'node 1 has 3'),
    ([[1, 0], [2, 0], [5, 1, 1, 0]], 'node 2 has 2'),
    ([[1, 0], [2, 0, 1], []], 'node 3 has 0'),
    ([[1, 0], 2, [5, 1, 1, 0]], 'node 2 is 2'),
    ([[1, 0], None, [5, 1, 1, 0]], 'node 2 is None'),
    ([[1, 0], 'conv5', [5, 1, 1, 0]], "node 2 is 'conv5'"),
    ([NESTED], 'got 1'),
    ([*FLAT[:8], [0]], 'got 9'),
    (np.array([FLAT]), 'got 1'),
    (np.zeros((3, 4), int), 'node 1 has 4'),
    (np.array(3), 'int 3'),
    ('102015110', "str '102015110'"),
    (bytes(FLAT), 'bytes'),
    (None, 'NoneType'),
    (7, 'int 7'),
    ({0: 1}, 'dict'),
    (iter(FLAT), 'iterator'),
  ],
)
def test_malformed_architectures_are_refused(arch, part):
  with pytest.raises(ValueError, match='nb_asr') as caught:
    NB_ASR.parse(arch)
  assert part in str(caught.value)


def test_every_singular_method_checks_its_architecture():
  methods = [
    NB_ASR.nested,
    NB_ASR.index,
    NB_ASR.key,
    NB_ASR.semantic_key,
    NB_ASR.neighbours,
    NB_ASR.main_ops,
    NB_ASR.skip_matrix,
    NB_ASR.has_skip_path,
    NB_ASR.names,
    NB_ASR.describe,
    lambda arch: NB_ASR.mutate(jax.random.key(0), arch),
  ]
  for method in methods:
    with pytest.raises(ValueError, match='position 8 .* is 7'):
      method([1, 0, 1, 0, 0, 1, 0, 0, 7])


def test_every_plural_method_checks_its_rows():
  bad_pd = np.zeros((4, 9), int)
  bad_pd[2, 5] = -1
  methods = [
    NB_ASR.parse_all,
    NB_ASR.indices,
    NB_ASR.keys,
    NB_ASR.semantic_keys,
    NB_ASR.skip_matrices,
    NB_ASR.has_skip_paths,
  ]
  for method in methods:
    with pytest.raises(ValueError, match=r'row 2: .*position 5 .* is -1'):
      method(bad_pd)
    with pytest.raises(ValueError, match='row 0: .*position 0'):
      method(bad_pd.astype(float))
    for not_rows in (FLAT, bad_pd[0], bad_pd[None], NESTED, 'abc', None, 3):
      with pytest.raises(ValueError, match='nb_asr'):
        method(not_rows)


def test_plural_methods_read_mixed_forms_and_none_at_all():
  mixed = [NESTED, FLAT, jnp.array(FLAT), np.array(FLAT, np.int8)]
  assert NB_ASR.parse_all(mixed).tolist() == [FLAT] * 4
  assert len(set(NB_ASR.keys(mixed).tolist())) == 1
  entries = np.empty(2, object)
  entries[:] = [NESTED, NESTED]
  assert NB_ASR.parse_all(entries).tolist() == [FLAT] * 2
  for none in ([], np.zeros((0, 9), np.int8)):
    assert NB_ASR.parse_all(none).shape == (0, 9)
    assert NB_ASR.keys(none).shape == (0,)
    assert NB_ASR.skip_matrices(none).shape == (0, 3, 3)


# The released hash.


def test_keys_of_all_encodings_are_the_released_ones(keys_p):
  # SHA-256 of the released hashes of all encodings, in order of enumeration.
  digest = hashlib.sha256(''.join(keys_p.tolist()).encode()).hexdigest()
  assert digest == (
    '96cc8f7b4ba4aa283fba025feaefd66c7f716a4185e588f84a484fd26def8038'
  )


def test_keys_against_the_reference_file(archs_pd, keys_p):
  path = REFERENCE / 'nb-asr' / 'hashes_all_13824.json'
  if not path.exists():
    pytest.skip('no reference numbers; set NASJAX_REFERENCE_DIR')
  released = json.loads(path.read_text())
  assert list(released) == [''.join(map(str, row)) for row in archs_pd.tolist()]
  assert list(released.values()) == keys_p.tolist()


@pytest.mark.parametrize(
  'arch, key',
  [
    ([[1, 0], [1, 0, 0], [1, 0, 0, 0]], '36855332a5778e0df5114305bc3ce238'),
    ([[1, 0], [0, 1, 0], [0, 1, 1, 1]], '1b219cc8f41f6c818e59d1694a354d41'),
    ([[0, 0], [0, 0, 0], [0, 0, 0, 0]], '7b23d5980c2d91151af3dfcd98fce513'),
    ([[5, 0], [5, 0, 0], [5, 0, 0, 0]], EMPTY_HASH),
  ],
)
def test_key_of_known_cells(arch, key):
  assert NB_ASR.key(arch) == key
  assert type(NB_ASR.key(arch)) is str


def test_key_equals_keys(archs_pd, keys_p, semantic_p):
  for place in range(0, 13_824, 577):
    assert NB_ASR.key(archs_pd[place]) == keys_p[place]
    assert NB_ASR.semantic_key(archs_pd[place]) == semantic_p[place]


def test_counts_of_the_released_hash(archs_pd, keys_p):
  names, counts = np.unique(keys_p, return_counts=True)
  assert len(names) == 8_242
  assert counts[names == EMPTY_HASH] == 812
  sizes, classes = np.unique(counts, return_counts=True)
  assert dict(zip(sizes.tolist(), classes.tolist())) == {
    1: 8_000,
    12: 200,
    8: 20,
    160: 10,
    4: 10,
    812: 2,
  }
  zero_free_p = (archs_pd[:, [0, 2, 5]] != ZERO).all(axis=1)
  assert zero_free_p.sum() == 8_000
  assert len(set(keys_p[zero_free_p])) == 8_000
  assert not set(keys_p[zero_free_p]) & set(keys_p[~zero_free_p])


# The semantic key, against forward passes of a small network of its own.

WIDTH, GROUPS, FRAMES = 4, 2, 13
TAPS = {
  1: (0, 1, 2, 3, 4),
  2: (-4, -2, 0, 2, 4),
  3: (-2, -1, 0, 1, 2, 3, 4),
  4: (-8, -6, -4, -2, 0, 2, 4),
}


def _draw_weights(rng, op):
  if op == 0:
    return rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH))
  shape = (len(TAPS[op]), GROUPS, WIDTH // GROUPS, WIDTH // GROUPS)
  return rng.normal(0, 0.4, shape)


def _apply_op(op, weights, bias_c, x_tc):
  """min(relu(op(x) + bias), 20), the convolutions grouped and zero-padded."""
  y_tc = np.zeros_like(x_tc)
  if op == 0:
    y_tc = x_tc @ weights
  else:
    for tap, offset in enumerate(TAPS[op]):
      shifted_tc = np.zeros_like(x_tc)
      for t in range(max(0, -offset), min(FRAMES, FRAMES - offset)):
        shifted_tc[t] = x_tc[t + offset]
      x_tgc = shifted_tc.reshape(FRAMES, GROUPS, -1)
      y_tgc = np.einsum('tgc,gcd->tgd', x_tgc, weights[tap])
      y_tc += y_tgc.reshape(FRAMES, WIDTH)
  return np.clip(y_tc + bias_c, 0, 20)


def _run_cell(arch, x_tc, apply):
  """The cell's output; `apply(k, op, t)` is the main operation of node k."""
  op1, s00, op2, s10, s11, op3, s20, s21, s22 = (int(v) for v in arch)
  t1 = apply(1, op1, x_tc) + s00 * x_tc
  t2 = apply(2, op2, t1) + s10 * x_tc + s11 * t1
  t3 = apply(3, op3, t2) + s20 * x_tc + s21 * t1 + s22 * t2
  mean_t1 = t3.mean(axis=1, keepdims=True)
  var_t1 = t3.var(axis=1, keepdims=True)
  return (t3 - mean_t1) / np.sqrt(var_t1 + 1e-3)


def test_semantic_key_is_equality_of_functions_on_all_encodings(
  archs_pd, semantic_p
):
  """Runs every encoding, and compares all outputs with all others.

  Weights are matched in the simplest way: one set for each kind of operation.
  An operation is then a plain function, and two cells give one output on random
  input and weights when they are the same expression, and otherwise never.
  """
  rng = np.random.default_rng(0)
  x_tc = rng.normal(size=(FRAMES, WIDTH))
  bias_c = rng.uniform(0.1, 0.5, WIDTH)
  weights = {op: _draw_weights(rng, op) for op in range(5)}
  done = {}

  def apply(_, op, t_tc):
    if op == ZERO:
      return np.zeros_like(t_tc)
    seen = op, np.round(t_tc, 9).tobytes()
    if seen not in done:
      done[seen] = _apply_op(op, weights[op], bias_c, t_tc)
    return done[seen]

  outputs = np.array([_run_cell(arch_d, x_tc, apply) for arch_d in archs_pd])
  outputs = outputs.reshape(len(outputs), -1)

  names, first_p, class_p = np.unique(
    semantic_p, return_index=True, return_inverse=True
  )
  assert len(names) == 8_903
  distinct = outputs[first_p]
  assert np.abs(outputs - distinct[class_p]).max() < 1e-6
  assert not cKDTree(distinct).query_pairs(1e-5)


def test_hash_classes_with_zero_merge_functions(archs_pd, keys_p, semantic_p):
  merged = {}
  for key, semantic in zip(keys_p.tolist(), semantic_p.tolist()):
    merged.setdefault(key, set()).add(semantic)
  several = {key for key, functions in merged.items() if len(functions) > 1}
  assert len(several) == 242
  assert EMPTY_HASH in several
  has_zero_p = (archs_pd[:, [0, 2, 5]] == ZERO).any(axis=1)
  assert several == set(keys_p[has_zero_p])
  assert sum(key in several for key in keys_p.tolist()) == 5_824
  assert len(set(semantic_p[~has_zero_p])) == 8_000


def test_equal_semantic_keys_are_equal_with_weights_of_each_node(
  archs_pd, semantic_p
):
  """Random weights at every node, carried over to the other cell's nodes.

  A node of the second cell takes the weights of a node of the first that does
  the same operation on the same values; a node without such takes its own.
  """
  rng = np.random.default_rng(1)
  _, class_p, counts = np.unique(
    semantic_p, return_inverse=True, return_counts=True
  )
  shared = np.flatnonzero(counts > 1)
  for c in rng.choice(shared, 120, replace=False):
    members = np.flatnonzero(class_p == c)
    a, b = rng.choice(members, 2, replace=False)
    x_tc = rng.normal(size=(FRAMES, WIDTH))
    matched = []

    def apply(_, op, t_tc, rng=rng, matched=matched):
      if op == ZERO:
        return np.zeros_like(t_tc)
      for kind, argument_tc, weights, bias_c in matched:
        # On zeros only the bias is left, whichever the operation.
        same = kind == op or not t_tc.any()
        if same and np.allclose(argument_tc, t_tc, rtol=0, atol=1e-9):
          return _apply_op(kind, weights, bias_c, t_tc)
      weights = _draw_weights(rng, op)
      bias_c = rng.normal(size=WIDTH)
      matched.append((op, t_tc, weights, bias_c))
      return _apply_op(op, weights, bias_c, t_tc)

    y_a = _run_cell(archs_pd[a], x_tc, apply)
    y_b = _run_cell(archs_pd[b], x_tc, apply)
    np.testing.assert_allclose(y_a, y_b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
  'arch, function',
  [
    ([[5, 0], [5, 0, 0], [5, 0, 0, 0]], '0'),
    ([[0, 0], [1, 0, 0], [5, 0, 0, 0]], '0'),
    ([[5, 0], [5, 0, 0], [5, 1, 0, 0]], 'x'),
    ([[5, 1], [5, 1, 1], [5, 1, 1, 1]], '4*x'),
    ([[5, 0], [5, 0, 0], [3, 0, 0, 0]], 'bias'),
    ([[5, 0], [4, 0, 0], [5, 0, 0, 1]], 'bias'),
    ([[5, 0], [4, 0, 0], [1, 0, 0, 1]], 'bias + conv5(bias)'),
    ([[0, 0], [1, 0, 0], [2, 0, 0, 0]], 'conv5d2(conv5(linear(x)))'),
    ([[5, 1], [1, 0, 0], [5, 0, 0, 1]], 'conv5(x)'),
    ([[1, 1], [5, 0, 0], [5, 0, 1, 0]], 'conv5(x) + x'),
    ([[1, 0], [5, 0, 1], [5, 0, 1, 1]], '2*conv5(x)'),
    ([[3, 0], [5, 1, 0], [3, 0, 1, 0]], '2*conv7(x)'),
    ([[5, 1], [0, 1, 1], [4, 0, 1, 0]], 'conv7d2(linear(x) + 2*x) + x'),
  ],
)
def test_semantic_key_writes_the_function(arch, function):
  assert NB_ASR.semantic_key(arch) == function


def test_cells_that_the_hash_takes_for_one():
  with_skip = [[5, 1], [0, 0, 1], [0, 0, 0, 0]]
  without = [[5, 1], [0, 0, 0], [0, 0, 0, 0]]
  assert NB_ASR.key(with_skip) == NB_ASR.key(without)
  assert NB_ASR.semantic_key(with_skip) != NB_ASR.semantic_key(without)


def test_twins_are_the_only_cells_that_weights_tell_apart(archs_pd, semantic_p):
  """The documented twenty: were every node its own, there would be 8,923."""
  twins, others = set(), set()
  for arch, function in zip(archs_pd.tolist(), semantic_p.tolist()):
    op1, _, op2, s10, s11, op3, _, s21, _ = arch
    both_read_x = op2 == ZERO and s10 and not s11
    if op1 == op3 != ZERO and both_read_x and s21:
      twins.add(function)
    else:
      others.add(function)
  assert len(twins) == 20
  assert twins <= others


# Sets of architectures.


def test_unique_keeps_the_first_of_each_class(archs_pd, keys_p, semantic_p):
  for by, names_p, count in (
    ('key', keys_p, 8_242),
    ('semantic', semantic_p, 8_903),
  ):
    seen, first = set(), []
    for row, name in zip(archs_pd.tolist(), names_p.tolist()):
      if name not in seen:
        seen.add(name)
        first.append(row)
    unique_pd = NB_ASR.unique(by=by)
    assert unique_pd.dtype == np.int8
    assert len(unique_pd) == count
    assert unique_pd.tolist() == first
  np.testing.assert_array_equal(NB_ASR.unique(), NB_ASR.unique(by='key'))
  with pytest.raises(ValueError, match="'graph'"):
    NB_ASR.unique(by='graph')


def test_neighbours_are_all_at_distance_one(archs_pd):
  for arch_d in archs_pd[[0, 999, 13_823]]:
    rows_pd = NB_ASR.neighbours(arch_d)
    assert rows_pd.shape == (21, 9)
    assert rows_pd.dtype == np.int8
    assert len({tuple(row) for row in rows_pd.tolist()}) == 21
    np.testing.assert_array_equal((rows_pd != arch_d).sum(axis=1), 1)
    NB_ASR.parse_all(rows_pd)


# Drawing at random.


def test_sample_is_uniform_over_encodings():
  draws_pd = np.asarray(NB_ASR.sample(jax.random.key(0), 60_000))
  assert draws_pd.dtype == np.int8
  assert draws_pd.shape == (60_000, 9)
  places_p = NB_ASR.indices(draws_pd)
  for d, size in enumerate(SIZES):
    counts = np.bincount(draws_pd[:, d], minlength=size)
    expected = 60_000 / size
    assert len(counts) == size
    # Five standard deviations.
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)
  # All encodings are reached at the rate of independent draws.
  missing = 13_824 - len(np.unique(places_p))
  expected = 13_824 * math.exp(-60_000 / 13_824)
  assert abs(missing - expected) < 5 * math.sqrt(expected)


def test_sample_is_a_function_of_its_key():
  draw = jax.jit(NB_ASR.sample, static_argnums=1)
  key = jax.random.key(3)
  archs_pd = NB_ASR.sample(key, 7)
  np.testing.assert_array_equal(archs_pd, draw(key, 7))
  np.testing.assert_array_equal(
    archs_pd, NB_ASR.sample(jax.random.PRNGKey(3), 7)
  )
  assert (archs_pd != NB_ASR.sample(jax.random.key(4), 7)).any()
  keys = jax.random.split(key, 4)
  mapped = jax.vmap(lambda k: NB_ASR.sample(k, 5))(keys)
  np.testing.assert_array_equal(mapped[2], NB_ASR.sample(keys[2], 5))
  assert NB_ASR.sample(key, 0).shape == (0, 9)


def test_mutate_changes_one_digit_uniformly():
  arch_d = NB_ASR.parse([[5, 1], [0, 0, 1], [3, 1, 0, 1]])
  keys = jax.random.split(jax.random.key(0), 20_000)
  children_pd = jax.jit(jax.vmap(NB_ASR.mutate, (0, None)))(keys, arch_d)
  assert children_pd.dtype == jnp.int8
  children_pd = np.asarray(children_pd)
  NB_ASR.parse_all(children_pd)
  changed_pd = children_pd != arch_d
  np.testing.assert_array_equal(changed_pd.sum(axis=1), 1)
  for d, size in enumerate(SIZES):
    at_d = children_pd[changed_pd[:, d], d]
    assert abs(len(at_d) - 20_000 / 9) < 5 * math.sqrt(20_000 / 9)
    counts = np.delete(np.bincount(at_d, minlength=size), arch_d[d])
    expected = len(at_d) / (size - 1)
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


def test_mutate_maps_over_architectures():
  archs_pd = NB_ASR.sample(jax.random.key(1), 64)
  keys = jax.random.split(jax.random.key(2), 64)
  children_pd = jax.vmap(NB_ASR.mutate)(keys, archs_pd)
  for p in (0, 63):
    np.testing.assert_array_equal(
      children_pd[p], NB_ASR.mutate(keys[p], archs_pd[p])
    )
    np.testing.assert_array_equal(
      children_pd[p], NB_ASR.mutate(keys[p], NB_ASR.nested(archs_pd[p]))
    )


@pytest.mark.parametrize(
  'arch_d',
  [
    jnp.zeros(8, jnp.int8),
    jnp.zeros((2, 9), jnp.int8),
    jnp.zeros(9, jnp.float32),
    jnp.zeros(9, bool),
  ],
)
def test_mutate_checks_shape_and_type_under_jit(arch_d):
  with pytest.raises(ValueError, match='want integers of shape'):
    jax.jit(NB_ASR.mutate)(jax.random.key(0), arch_d)


# What a cell contains.


def test_main_ops_and_names():
  arch = [[1, 1], [0, 0, 1], [5, 1, 1, 0]]
  assert NB_ASR.main_ops(arch) == ('conv5', 'linear', 'zero')
  assert NB_ASR.names(arch) == 'conv5, linear, zero [[1,1],[0,0,1],[5,1,1,0]]'
  words, vector = NB_ASR.names(arch, '\n').split('\n')
  assert words == 'conv5, linear, zero' and json.loads(vector) == arch
  described = NB_ASR.describe(arch)
  for part in (NB_ASR.names(arch), NB_ASR.key(arch), 'conv5(x) + 2*x'):
    assert part in described


def test_names_are_distinct(archs_pd):
  assert len({NB_ASR.names(arch_d) for arch_d in archs_pd[::7]}) == len(
    archs_pd[::7]
  )


def test_skip_matrix_places_each_skip(archs_pd):
  skip_nm = NB_ASR.skip_matrix([[0, 1], [0, 0, 1], [0, 1, 1, 0]])
  assert skip_nm.dtype == np.float32
  assert skip_nm.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
  skip_pnm = NB_ASR.skip_matrices(archs_pd)
  for p in range(0, 13_824, 1_013):
    _, s00, _, s10, s11, _, s20, s21, s22 = archs_pd[p].tolist()
    expected = [[s00, 0, 0], [s10, s11, 0], [s20, s21, s22]]
    assert skip_pnm[p].tolist() == expected


def test_skip_paths_by_hand(archs_pd):
  has_path_p = NB_ASR.has_skip_paths(archs_pd)
  assert has_path_p.dtype == bool
  for p, arch in enumerate(archs_pd.tolist()):
    _, s00, _, s10, s11, _, s20, s21, s22 = arch
    to_2 = s10 or (s00 and s11)
    assert has_path_p[p] == bool(s20 or (s00 and s21) or (to_2 and s22))
  assert NB_ASR.has_skip_path([[0, 1], [0, 0, 1], [0, 0, 0, 1]]) is True
  assert NB_ASR.has_skip_path([[0, 1], [0, 0, 1], [0, 0, 0, 0]]) is False
  # Skips alone lead through exactly when the input is a term of the output.
  written_p = np.array(
    [
      ' x' in f' {text}' or '*x' in text
      for text in map(_outside_brackets, NB_ASR.semantic_keys(archs_pd))
    ]
  )
  np.testing.assert_array_equal(has_path_p, written_p)


def _outside_brackets(text):
  depth, kept = 0, []
  for letter in text:
    depth += letter == '('
    if not depth:
      kept.append(letter)
    depth -= letter == ')'
  return ''.join(kept)


# The record serves other spaces.


def test_a_chain_without_skips_is_a_space():
  chain = spaces.Chain(
    name='chain',
    ops=('narrow', 'wide', 'dilated'),
    skips=(0, 0, 0, 0),
    key_of=str,
    semantic_key_of=str,
  )
  assert chain.size == 81
  assert chain.sizes == (3, 3, 3, 3)
  assert len(set(chain.keys(chain.enumerate()))) == 81
  assert chain.nested([0, 1, 2, 0]) == [[0], [1], [2], [0]]
  assert chain.names([[0], [1], [2], [0]]) == (
    'narrow, wide, dilated, narrow [[0],[1],[2],[0]]'
  )
  assert not chain.has_skip_paths(chain.enumerate()).any()
  with pytest.raises(ValueError, match=r'position 3 \(op4\) is 3'):
    chain.parse([0, 1, 2, 3])
  draws_pd = chain.sample(jax.random.key(0), 50)
  assert chain.parse_all(draws_pd).shape == (50, 4)
  child_d = chain.mutate(jax.random.key(1), draws_pd[0])
  assert (child_d != draws_pd[0]).sum() == 1


@pytest.mark.parametrize(
  'change', [{'skips': (2,)}, {'skips': (-1,)}, {'ops': ('linear',)}]
)
def test_impossible_spaces_are_refused(change):
  fields = {'ops': ('linear', 'zero'), 'skips': (1,)} | change
  with pytest.raises(ValueError, match='tiny'):
    spaces.Chain('tiny', **fields)


def test_the_record_is_hashable_and_survives_pickling():
  copy = pickle.loads(pickle.dumps(NB_ASR))
  assert copy == NB_ASR
  assert hash(copy) == hash(NB_ASR)
  assert copy.key(FLAT) == NB_ASR.key(FLAT)
