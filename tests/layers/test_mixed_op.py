"""Modes of mixing against formulas that compute every candidate plainly."""

import functools

import chex
import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
import tiny_run

from nasjax.layers import mixed_op
from nasjax.models.nb_asr import ops
from nasjax.oneshot import estimators

SAMPLED = tuple(mode for mode in mixed_op.MODES if mode != 'mixed')
# Modes that tell the weights of candidates that do not run something, too.
TELLING = ('straight', 'recomputed', 'pair')
COUNT, BATCH, FRAMES, WIDTH = 4, 2, 5, 3
INDEX, OTHER = 2, 0


# Candidates with parameters of different shapes.
def _product(params, x_btc, context):
  del context
  return x_btc @ params['kernel'] + params['bias'][None, None]


def _ahead(params, x_btc, context):
  shifted_btc = jnp.roll(x_btc, -1, axis=1).at[:, -1].set(0)
  return _product(params, shifted_btc, context)


def _scaling(params, x_btc, context):
  return x_btc * params['scale'] * context[0][:, None, None]


def _nothing(params, x_btc, context):
  del params, context
  return jnp.zeros_like(x_btc)


def _finish(params, z_btc, context):
  return jnp.tanh(z_btc) * params['gain'][None, None] + context[1]


CANDIDATES = mixed_op.Candidates(
  (_product, _ahead, _scaling, _nothing), _finish
)


def _arguments(seed=0):
  """Weights, parameters of both kinds, input."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  dense_2 = [{'kernel': draw(3, 3), 'bias': draw(3)} for _ in range(2)]
  affine_k = (*dense_2, {'scale': draw()}, {})
  rest_k = tuple({'gain': draw(WIDTH)} for _ in range(COUNT))
  return draw(COUNT), affine_k, rest_k, draw(BATCH, FRAMES, WIDTH)


CONTEXT = np.array([0.5, 2.0], np.float32), np.float32(0.25)


def _loss(y_btc):
  return jnp.sum(jnp.sin(y_btc) * jnp.arange(1.0, WIDTH + 1)[None, None])


@functools.cache
def _program(mode):
  """Value and gradients by weights, parameters and input; and the output."""

  def objective(weight_k, affine_k, rest_k, x_btc, index, other):
    edge = mixed_op.Edge(weight_k, index, other)
    y_btc = mixed_op.mix(
      mode, CANDIDATES, affine_k, rest_k, edge, x_btc, CONTEXT
    )
    return _loss(y_btc), y_btc

  gradient = jax.value_and_grad(objective, (0, 1, 2, 3), has_aux=True)
  return jax.jit(gradient, compiler_options=tiny_run.OF_USERS)


def _found(mode, weight_k, arguments, index=INDEX, other=OTHER):
  """The output and the gradients."""
  program = _program(mode)
  indices = np.int32(index), np.int32(other)
  (_, y_btc), grads = program(weight_k, *arguments, *indices)
  return jax.device_get((y_btc, grads))


def _outputs(affine_k, rest_k, x_btc):
  """The output of every candidate, one after the other."""
  return jnp.stack(
    [
      _finish(
        rest_k[k], CANDIDATES.affines[k](affine_k[k], x_btc, CONTEXT), CONTEXT
      )
      for k in range(COUNT)
    ]
  )


@functools.cache
def _plain():
  """The same of sum_k w_k o_k(x), and all outputs; w weighs the gradient."""

  def objective(weight_k, affine_k, rest_k, x_btc):
    o_kbtc = _outputs(affine_k, rest_k, x_btc)
    y_btc = jnp.einsum('k,kbtc->btc', weight_k, o_kbtc)
    return _loss(y_btc), (y_btc, o_kbtc)

  gradient = jax.value_and_grad(objective, (0, 1, 2, 3), has_aux=True)
  return jax.jit(gradient, compiler_options=tiny_run.OF_USERS)


def _expected(weight_k, arguments):
  (_, (y_btc, o_kbtc)), grads = _plain()(weight_k, *arguments)
  return jax.device_get((y_btc, o_kbtc, grads))


def _one_hot(index=INDEX):
  return np.eye(COUNT, dtype=np.float32)[index]


def _assert_close(found, expected):
  chex.assert_trees_all_close(
    found,
    expected,
    rtol=2e-5,
    atol=2e-5,
  )


def test_mixed_is_the_weighted_sum():
  weight_k, *arguments = _arguments()
  y_btc, grads = _found('mixed', weight_k, arguments)
  expected_btc, _, expected_grads = _expected(weight_k, arguments)
  _assert_close((y_btc, grads), (expected_btc, expected_grads))


@pytest.mark.parametrize('index', range(COUNT))
def test_mixed_by_a_one_hot_vector_is_the_single_candidate(index):
  _, *arguments = _arguments()
  y_btc, _ = _found('mixed', _one_hot(index), arguments)
  _, o_kbtc, _ = _expected(_one_hot(index), arguments)
  np.testing.assert_allclose(y_btc, o_kbtc[index], rtol=1e-6)


@pytest.mark.parametrize('mode', SAMPLED)
@pytest.mark.parametrize('index', range(COUNT))
def test_sampled_modes_are_the_active_candidate(mode, index):
  _, *arguments = _arguments()
  other = (index + 1) % COUNT
  y_btc, grads = _found(mode, _one_hot(index), arguments, index, other)
  # What runs is the same to the bit, whatever else hangs on it.
  path_btc, _ = _found('path', _one_hot(index), arguments, index, other)
  np.testing.assert_array_equal(y_btc, path_btc)
  expected_btc, _, expected = _expected(_one_hot(index), arguments)
  _assert_close(y_btc, expected_btc)
  # Weights and input: through the active candidate alone, with factor 1.
  _assert_close(grads[1:], expected[1:])
  for k in set(range(COUNT)) - {index}:
    for leaf in jax.tree.leaves((grads[1][k], grads[2][k])):
      np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize('mode', ['straight', 'recomputed'])
@pytest.mark.parametrize('index', range(COUNT))
def test_straight_weights_feel_every_candidate(mode, index):
  _, *arguments = _arguments()
  _, grads = _found(mode, _one_hot(index), arguments, index)
  # <dL/dy, o_k>, which is also what the plain sum gives.
  _, _, expected = _expected(_one_hot(index), arguments)
  _assert_close(grads[0], expected[0])
  assert (np.abs(expected[0][:3]) > 0.1).all()


def test_straight_and_recomputed_agree():
  weight_k, *arguments = _arguments(1)
  straight = _found('straight', weight_k, arguments)
  recomputed = _found('recomputed', weight_k, arguments)
  chex.assert_trees_all_close(
    straight,
    recomputed,
    rtol=1e-6,
    atol=1e-6,
  )


def test_a_pair_feels_its_two_candidates():
  _, *arguments = _arguments()
  for index, other in ((2, 0), (0, 2), (1, 3)):
    _, grads = _found('pair', _one_hot(index), arguments, index, other)
    _, _, expected = _expected(_one_hot(index), arguments)
    among_k = np.isin(np.arange(COUNT), (index, other))
    _assert_close(grads[0], np.where(among_k, expected[0], 0))


@pytest.mark.parametrize('mode', ['scaled', 'scaled_sum'])
def test_scaled_weights_feel_the_active_candidate(mode):
  _, *arguments = _arguments()
  y_btc, grads = _found(mode, _one_hot(), arguments)
  _, _, expected = _expected(_one_hot(), arguments)
  # The released code of GDAS adds the other weights: as if they were of ones.
  ones = float(jax.grad(lambda c: _loss(y_btc + c))(0.0))
  others = ones if mode == 'scaled_sum' else 0.0
  expected_k = np.where(_one_hot() > 0, expected[0], others)
  _assert_close(grads[0], expected_k)
  assert abs(ones) > 0.1


def test_scaled_multiplies_what_it_says():
  weight_k, *arguments = _arguments()
  _, o_kbtc, _ = _expected(weight_k, arguments)
  active_btc = weight_k[INDEX] * o_kbtc[INDEX]
  _assert_close(_found('scaled', weight_k, arguments)[0], active_btc)
  rest = weight_k.sum() - weight_k[INDEX]
  _assert_close(_found('scaled_sum', weight_k, arguments)[0], active_btc + rest)


def test_the_path_tells_the_weights_nothing():
  weight_k, *arguments = _arguments()
  _, grads = _found('path', weight_k, arguments)
  np.testing.assert_array_equal(grads[0], 0)


@pytest.mark.parametrize('mode', ['straight', 'recomputed'])
def test_the_straight_through_gradient_of_alpha(mode):
  alpha_k, *arguments = _arguments(2)
  pi_k = np.exp(np.float64(alpha_k)) / np.exp(np.float64(alpha_k)).sum()

  @jax.jit
  def alpha_gradient(alpha_k, key):
    def objective(alpha_k):
      edge = estimators.straight_through(key, alpha_k, 1.0)
      y_btc = mixed_op.mix(
        mode, CANDIDATES, *arguments[:2], edge, arguments[2], CONTEXT
      )
      return _loss(y_btc), edge.index

    return jax.grad(objective, has_aux=True)(alpha_k)

  seen = set()
  for seed in range(8):
    grad_k, index = alpha_gradient(alpha_k, jax.random.key(seed))
    seen.add(int(index))
    # dL/dy at what ran, in float64: the loss is sin(y) . (1, 2, 3).
    _, o_kbtc, _ = _expected(_one_hot(index), arguments)
    o_kbtc = np.float64(o_kbtc)
    dy_btc = np.cos(o_kbtc[index]) * np.arange(1, WIDTH + 1)
    d_k = (dy_btc[None] * o_kbtc).sum((1, 2, 3))
    np.testing.assert_allclose(
      grad_k, pi_k * (d_k - pi_k @ d_k), rtol=1e-4, atol=1e-5
    )
  assert len(seen) > 1


@pytest.mark.parametrize('mode', ['path', 'scaled', 'scaled_sum'])
def test_what_does_not_run_can_be_poisoned(mode):
  _, affine_k, rest_k, x_btc = _arguments()
  clean = _found(mode, _one_hot(), (affine_k, rest_k, x_btc))

  def poisoned(trees_k):
    return tuple(
      tree
      if k == INDEX
      else jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), tree)
      for k, tree in enumerate(trees_k)
    )

  found = _found(
    mode, _one_hot(), (poisoned(affine_k), poisoned(rest_k), x_btc)
  )
  chex.assert_trees_all_equal(found, clean)


@functools.cache
def _runs(mode, differentiated):
  """Returns which candidates compute anything, and how often."""
  counts = np.zeros(COUNT, int)

  def counted(k, params, x_btc, context):
    def count():
      counts[k] += 1

    jax.debug.callback(count)
    return CANDIDATES.affines[k](params, x_btc, context)

  candidates = mixed_op.Candidates(
    tuple(functools.partial(counted, k) for k in range(COUNT)), _finish
  )
  weight_k, affine_k, rest_k, x_btc = _arguments()

  def objective(weight_k, x_btc, index, other):
    edge = mixed_op.Edge(weight_k, index, other)
    return _loss(
      mixed_op.mix(mode, candidates, affine_k, rest_k, edge, x_btc, CONTEXT)
    )

  # Indices are data: with constants the compiler could choose the branch.
  program = jax.grad(objective) if differentiated else objective
  jax.jit(program)(weight_k, x_btc, np.int32(INDEX), np.int32(OTHER))
  jax.effects_barrier()
  return tuple(counts)


@pytest.mark.parametrize('mode', SAMPLED)
def test_a_forward_pass_runs_one_candidate(mode):
  assert _runs(mode, False) == tuple(_one_hot().astype(int))


@pytest.mark.parametrize(
  ('mode', 'runs'),
  [
    ('mixed', {0, 1, 2, 3}),
    ('path', {INDEX}),
    ('scaled', {INDEX}),
    ('scaled_sum', {INDEX}),
    ('pair', {INDEX, OTHER}),
    ('straight', {0, 1, 2, 3}),
    ('recomputed', {0, 1, 2, 3}),
  ],
)
def test_a_gradient_by_weights_runs_as_many_as_the_mode_says(mode, runs):
  counts = _runs(mode, True)
  assert {k for k in range(COUNT) if counts[k]} == runs
  # Those that do not run the network compute once: nothing goes back there.
  if mode in TELLING:
    assert all(counts[k] == 1 for k in runs - {INDEX})


def test_the_kept_outputs_are_what_the_backward_pass_needs():
  weight_k, *arguments = _arguments()

  def residuals(mode):
    def output(weight_k):
      edge = mixed_op.Edge(weight_k, np.int32(INDEX), np.int32(OTHER))
      return mixed_op.mix(
        mode, CANDIDATES, *arguments[:2], edge, arguments[2], CONTEXT
      )

    pull = jax.eval_shape(lambda w: jax.vjp(output, w)[1], weight_k)
    return sum(leaf.size for leaf in jax.tree.leaves(pull))

  # In outputs: those of the others in one mode, of one other in the next.
  size = BATCH * FRAMES * WIDTH
  base = residuals('recomputed')
  arguments_size = sum(leaf.size for leaf in jax.tree.leaves(arguments))
  kept = {mode: residuals(mode) for mode in ('straight', 'pair')}
  assert kept['straight'] - kept['pair'] == (COUNT - 2) * size + COUNT - 2
  assert base <= arguments_size + 2 * size + 3 * COUNT


def test_the_compiled_program_branches():
  weight_k, *arguments = _arguments()
  indices = np.int32(INDEX), np.int32(OTHER)
  text = _program('path').lower(weight_k, *arguments, *indices).compile()
  # Once forward, once backward.
  assert text.as_text().count(' conditional(') == 2


def test_an_unknown_mode_is_named():
  weight_k, affine_k, rest_k, x_btc = _arguments()
  edge = mixed_op.Edge(weight_k, np.int32(0), np.int32(1))
  with pytest.raises(ValueError, match="'soft'.*must be one of.*'mixed'"):
    mixed_op.mix('soft', CANDIDATES, affine_k, rest_k, edge, x_btc, CONTEXT)


@native.needed
def test_the_native_convolution_has_second_derivatives():
  rng = np.random.default_rng(0)
  op, groups, c, frames = 'conv5d2', 3, 2, 11
  shapes = {
    'x': (3, frames, c * groups),
    'kernel': (ops.CONVOLUTIONS[op][0], c, c, groups),
    'bias': (c * groups,),
  }
  args, moved = (
    {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    for _ in range(2)
  )
  len_b = np.array([frames, 4, 0], np.int32)
  # reads_kts: 1 where tap k, writing frame t, reads frame s.
  reads_kts = np.stack([np.eye(frames, k=s) for s in ops.offsets(op)])
  valid_bs = np.arange(frames)[None] < len_b[:, None]

  def native_conv(args):
    return ops.affine(op, 'float32', 'twice', args, args['x'], (len_b,))

  def plain_conv(args):
    x_bsig = args['x'].reshape(3, frames, c, groups)
    y_btjg = jnp.einsum(
      'kts,bs,bsig,kijg->btjg',
      reads_kts.astype(np.float32),
      valid_bs.astype(np.float32),
      x_bsig,
      args['kernel'],
    )
    return y_btjg.reshape(3, frames, -1) + args['bias'][None, None]

  @functools.partial(jax.jit, static_argnums=0)
  def derivatives(conv, args):
    def loss(args):
      y_btc = conv(args)
      return jnp.sum(jnp.sin(y_btc)), y_btc

    def along(args):
      grads, y_btc = jax.grad(loss, has_aux=True)(args)
      products = [jnp.vdot(jnp.cos(grads[n]), moved[n]) for n in args]
      return sum(products), (grads, y_btc)

    return jax.grad(along, has_aux=True)(args)

  found, expected = (
    derivatives(native_conv, args),
    derivatives(plain_conv, args),
  )
  chex.assert_trees_all_close(
    found,
    expected,
    rtol=1e-4,
    atol=1e-4,
  )
  assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(expected))
