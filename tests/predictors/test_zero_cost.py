"""Proxies against derivatives by hand, and what must not change them."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
import tiny_corpus

from nasjax import cost, spaces
from nasjax.models import families, macros
from nasjax.predictors import relu_codes, zero_cost
from nasjax.training.batches import Batch


class Chain(nn.Module):
  """A chain of dense layers without biases, ReLU between them."""

  macro: macros.Plain
  ops: tuple
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None):
    init = nn.initializers.lecun_normal()
    y, macro = x_btf, self.macro
    for n, (kind,) in enumerate(self.ops):
      if kind == 'dense':
        kernel = self.param(
          f'kernel{n}', init, (y.shape[-1], macro.width), jnp.float32
        )
        y = jax.nn.relu(y @ kernel)
    kernel = self.param('head', init, (y.shape[-1], macro.outputs))
    return y @ kernel, len_b


SPACE = spaces.Space('chain', {f'layer{n}': ('dense', 'none') for n in '012'})
LINEAR, DEEP = [1, 1, 1], [0, 0, 0]
MACRO = macros.Plain('chain', 4, 3, 5, 1)
MACROS = {m.name: m for m in (MACRO, macros.Plain('five', 1, 3, 2, 1))}


@pytest.fixture(autouse=True, scope='module')
def _registered():
  families.add(SPACE, families.Family(macros=MACROS, Network=Chain))
  yield
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    del names['chain']


def batch(features=5, rows=4, frames=1, labels=1, vocabulary=3, seed=0):
  rng = np.random.default_rng(seed)
  return Batch(
    rng.normal(size=(rows, frames, features)).astype(np.float32),
    np.full(rows, frames, np.int32),
    rng.integers(1, vocabulary, (rows, labels)).astype(np.int32),
    np.full(rows, labels, np.int32),
    np.ones(rows, np.float32),
  )


def params_of(arch, macro, key=0):
  """The weights that `score` gives an architecture."""
  return zero_cost.weights(SPACE, [arch], macro, jax.random.key(key))[0]


def score(name, arch, made, macro=MACRO, key=0):
  return zero_cost.score(name, SPACE, [arch], macro, made, key)[0]


def gradient_by_hand(w_fv, made):
  """Of CTC on one frame and one label, which is cross-entropy over 1 + 1."""
  x_bf, label_b = made.x_btf[:, 0], made.labels_bl[:, 0]
  z_bv = x_bf @ w_fv
  p_bv = np.exp(z_bv) / np.exp(z_bv).sum(1, keepdims=True)
  return x_bf, (p_bv - np.eye(3)[label_b]) / 2  # of frames + 1


def test_snip_and_its_kin_of_a_linear_model_by_hand():
  made = batch()
  w_fv = np.asarray(params_of(LINEAR, MACRO)['head'], np.float64)
  x_bf, d_bv = gradient_by_hand(w_fv, made)
  g_fv = x_bf.T @ d_bv / len(x_bf)
  a_bv = np.einsum('bf,fv,bv->bv', x_bf, w_fv, d_bv)
  wanted = {
    'snip': np.abs(w_fv * g_fv).sum(),
    'grad_norm': np.linalg.norm(g_fv),
    'l2': np.linalg.norm(w_fv),
    'fisher': (a_bv**2).mean(0).sum() / 2,
    'params': 15,
    'macs': 15,
  }
  for name, value in wanted.items():
    assert score(name, LINEAR, made) == pytest.approx(value, rel=1e-5), name


def test_keys_of_any_kind_draw_weights():
  made = batch()
  keys = 0, np.int64(0), jax.random.key(0), jax.random.PRNGKey(0)
  assert len({float(score('zen', LINEAR, made, key=key)) for key in keys}) == 1
  other = jax.random.key(0, impl='rbg')
  assert np.isfinite(score('zen', LINEAR, made, key=other))


def test_grasp_against_a_hessian_of_five_parameters():
  made, macro = batch(2, rows=6), MACROS['five']
  params = params_of([0, 1, 1], macro, key=3)
  flat, back = jax.flatten_util.ravel_pytree(params)
  assert flat.size == 5

  def loss(flat):
    w = back(flat)
    z_bv = jax.nn.relu(made.x_btf[:, 0] @ w['kernel0']) @ w['head']
    picked_b = jax.nn.log_softmax(z_bv)[np.arange(6), made.labels_bl[:, 0]]
    return -picked_b.mean() / 2

  hessian = jax.hessian(loss)(flat)
  wanted = -flat @ hessian @ jax.grad(loss)(flat)
  found = score('grasp', [0, 1, 1], made, macro, key=3)
  assert abs(wanted) > 1e-5
  assert found == pytest.approx(float(wanted), rel=1e-4)


def test_synflow_is_conserved_from_layer_to_layer():
  made = batch()
  params = params_of(DEEP, MACRO)
  network = families.single(SPACE, DEEP, MACRO)
  subject = zero_cost.Subject(network, zero_cost.RECIPE)
  with jax.enable_x64(True):
    sums = np.asarray(zero_cost.conserved(subject, params, (), made, 1.0))
  product = np.ones((4, 5))
  for name in ('kernel0', 'kernel1', 'kernel2', 'head'):
    product = product @ np.abs(np.asarray(params[name], np.float64))
  np.testing.assert_allclose(sums, product.sum(), rtol=1e-12)
  np.testing.assert_allclose(
    score('synflow', DEEP, made), np.log(4 * product.sum()), rtol=1e-9
  )


def test_naswot_counts_codes_and_minds_no_order():
  made = batch(rows=5, frames=6)
  found = score('naswot', DEEP, made)
  order = np.array([3, 0, 4, 1, 2])
  mixed = jax.tree.map(lambda leaf: np.asarray(leaf)[order], made)
  assert score('naswot', DEEP, mixed) == pytest.approx(found, rel=1e-6)

  y, codes = made.x_btf, []
  params = params_of(DEEP, MACRO)
  for n in range(3):
    y = np.maximum(y @ np.asarray(params[f'kernel{n}']), 0)
    codes.append((y > 0).reshape(5, -1))
  c_bn = np.concatenate(codes, 1).astype(float)
  k_bb = c_bn @ c_bn.T + (1 - c_bn) @ (1 - c_bn).T
  assert found == pytest.approx(np.linalg.slogdet(k_bb)[1], rel=1e-6)


def test_jacob_cov_by_hand():
  made = batch(rows=4, frames=3)
  network = families.single(SPACE, DEEP, MACRO)
  params = params_of(DEEP, MACRO)
  j_bn = jax.grad(
    lambda x: network.apply({'params': params}, x, made.len_b, ())[0].sum()
  )(made.x_btf).reshape(4, -1)
  v_b = np.linalg.eigvalsh(np.corrcoef(np.asarray(j_bn, np.float64)))
  wanted = -np.sum(np.log(v_b + 1e-5) + 1 / (v_b + 1e-5))
  assert score('jacob_cov', DEEP, made) == pytest.approx(wanted, rel=1e-2)


def test_zen_of_a_linear_model_is_what_chance_says():
  # |sum_f w_f d_f| of Gaussians: E = 2 / pi a feature, were there but one.
  macro = macros.Plain('wide', 4, 3, 1, 1)
  found = zero_cost.score(
    'zen', SPACE, [LINEAR], macro, batch(1, rows=2, frames=400), 0
  )[0]
  w = zero_cost.weights(SPACE, [LINEAR], macro, jax.random.key(0))[0]['head']
  size = float(np.sqrt(np.mean(np.square(w))))
  wanted = np.log(0.01 * 400 * 3 * size * 2 / np.pi)
  assert found == pytest.approx(wanted, abs=0.2)


def test_relus_are_found_wherever_they_are():
  def function(x):
    x = jnp.clip(x, 0, 20) - 1
    x = jax.nn.relu(x) + jnp.max(x) + jnp.maximum(x, 2.0)

    def step(carry, row):
      carry = jnp.maximum(carry + row, 0) - 1
      return carry, carry

    return jax.lax.scan(step, x[0], x)[1]

  x = np.random.default_rng(0).normal(0, 2, (3, 4)).astype(np.float32)
  y, codes = jax.jit(lambda x: relu_codes.traced(function, x))(x)
  np.testing.assert_allclose(y, function(x), rtol=1e-6)
  assert [c.shape for c in codes] == [(3, 4), (3, 4), (4, 3)]
  np.testing.assert_array_equal(codes[0], x > 0)
  np.testing.assert_array_equal(codes[1], np.clip(x, 0, 20) > 1)
  np.testing.assert_array_equal(np.asarray(codes[2]).T, np.asarray(y) > -1)


NB, TDNN = spaces.NB_ASR, spaces.SPACES['st_nas']
# All of one program: what differs is data, so few are compiled.
CELLS = [[[1, 1], [2, 0, s], [3, 0, 1, 1]] for s in (0, 1)]


@pytest.mark.parametrize(
  'name',
  [
    'naswot',
    *(pytest.param(n, marks=pytest.mark.slow) for n in ('fisher', 'synflow')),
  ],
)
def test_scores_of_cells_are_their_own(name):
  made = batch(8, rows=4, frames=24, labels=3, vocabulary=6)
  both = zero_cost.score(name, NB, CELLS, tiny_corpus.MACRO, made, 0)
  assert both.dtype == np.float64
  assert both.shape == (2,) and np.isfinite(both).all()
  assert both[0] != both[1]
  back = zero_cost.score(name, NB, CELLS[::-1], tiny_corpus.MACRO, made, 0)
  np.testing.assert_array_equal(back[::-1], both)
  again = zero_cost.score(name, NB, CELLS, tiny_corpus.MACRO, made, 1)
  assert (again != both).all()


@native.needed
def test_grasp_of_a_cell_against_differences_of_its_gradient():
  made = batch(8, rows=4, frames=24, labels=3, vocabulary=6)
  arch, macro = CELLS[1], tiny_corpus.MACRO
  found = zero_cost.score('grasp', NB, [arch], macro, made, 1)[0]

  params = zero_cost.weights(NB, [arch], macro, jax.random.key(1))[0]
  kinds = families.signature(NB, NB.parse(arch))
  network = families.made(NB, macro, tuple((k,) for k in kinds), families.PLAIN)
  subject = zero_cost.Subject(network, zero_cost.RECIPE)
  gates = families.gates(NB, NB.parse(arch))

  @jax.jit
  def gradient(size):
    grown = jax.tree.map(lambda w: w * size if w.ndim > 1 else w, params)
    grads = jax.grad(subject.loss)(grown, gates, made)
    return [g for g in jax.tree.leaves(grads) if g.ndim > 1]

  # So small that no ReLU is switched between the two.
  step = 3e-4
  pairs = zip(*map(gradient, (1.0, 1 + step, 1 - step)))
  wanted = -sum(np.vdot(g, (up - down) / (2 * step)) for g, up, down in pairs)
  assert found == pytest.approx(float(wanted), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('name', zero_cost.NAMES)
@pytest.mark.parametrize('space', ['nb_asr', 'st_nas'])
def test_every_proxy_of_every_family(name, space):
  macro, archs = tiny_corpus.MACRO, CELLS[:1]
  if space == 'st_nas':
    macro = macros.Tdnn('pocket', 8, outputs=6, features=8)
    archs = TDNN.from_index([0])
  made = batch(8, rows=3, frames=24, labels=2, vocabulary=6)
  found = zero_cost.score(name, spaces.SPACES[space], archs, macro, made, 0)
  assert np.isfinite(found).all()


def test_what_is_wrong_is_told():
  made = batch()
  with pytest.raises(ValueError, match="'nwot' is unknown; there are"):
    score('nwot', LINEAR, made)
  with pytest.raises(ValueError, match='batch has 5 features, macro five take'):
    score('snip', LINEAR, made, MACROS['five'])
  with pytest.raises(ValueError, match='Chain has no ReLU'):
    score('naswot', LINEAR, made)
  empty = made._replace(weight_b=np.zeros(4, np.float32))
  with pytest.raises(ValueError, match='no utterance'):
    score('snip', LINEAR, empty)
  with pytest.raises(ValueError, match='layer0'):
    score('params', [2, 0, 0], made)


def test_baselines_are_the_costs():
  archs = np.array(list(itertools.product((0, 1), repeat=3)), np.int8)
  made = batch(frames=7)
  for name, wanted in (
    ('params', [cost.params(SPACE, a, MACRO) for a in archs]),
    ('macs', [cost.macs(SPACE, a, MACRO, 7) for a in archs]),
  ):
    found = zero_cost.score(name, SPACE, archs, MACRO, made, 0)
    np.testing.assert_array_equal(found, wanted)
