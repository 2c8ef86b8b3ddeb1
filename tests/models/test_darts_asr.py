"""The dense graphs of DARTS-ASR and VGG: what they compute, count and keep."""

import dataclasses

import jax
import jax.numpy as jnp
import native
import numpy as np
import pytest
import tiny_corpus

from nasjax import cost, spaces
from nasjax.benchmark import running
from nasjax.layers import mixed_op, planes
from nasjax.models import common, counting, families, macros
from nasjax.models.darts_asr import network as darts_asr

SPACE = spaces.DARTS_ASR
MACRO = macros.Graph(
  'pocket', lstm=3, lstms=1, outputs=6, features=8, stride=2, width=2
)
VGG = macros.Vgg(
  'pocket', lstm=3, lstms=1, outputs=6, features=8, small=2, large=3
)
# Every operation, at two nodes at least.
ARCH = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 5]
NETWORKS = {
  'graph': (SPACE, ARCH, MACRO),
  'stride 1': (SPACE, ARCH[::-1], dataclasses.replace(MACRO, stride=1)),
  'small': (spaces.VGG, [0], VGG),
  'large': (spaces.VGG, [1], dataclasses.replace(VGG, stride=2)),
}
KEY = jnp.array([1, 2], jnp.uint32)
LEN_B = jnp.array([19, 8, 13])


def _features(frames=19, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(3, frames, 8)), jnp.float32)


def _made(name, macro=None):
  space, arch, own = NETWORKS[name]
  network = families.single(space, arch, macro or own)
  init = jax.jit(lambda key: common.initial_params(network, key, ()))
  params = init(jax.random.key(3))

  def differ(path, leaf):
    # Statistics and scales that tell whether they are used.
    if path[-1].key in ('mean', 'shift'):
      return leaf + jnp.linspace(-0.3, 0.2, leaf.size)
    if path[-1].key in ('variance', 'scale'):
      return leaf * jnp.linspace(0.5, 1.5, leaf.size)
    return leaf

  return network, jax.tree_util.tree_map_with_path(differ, params)


@pytest.mark.parametrize(
  'name',
  [
    'graph',
    pytest.param('stride 1', marks=pytest.mark.slow),
    'small',
    pytest.param('large', marks=pytest.mark.slow),
  ],
)
def test_padding_reaches_no_valid_frame(name):
  network, params = _made(name)
  apply = jax.jit(lambda x, n: network.apply({'params': params}, x, n, ()))
  x_btf = _features()
  junk_btf = jnp.where(
    jnp.arange(19)[None, :, None] < LEN_B[:, None, None], x_btf, 7.0
  )
  logits_btv, len_b = apply(junk_btf, LEN_B)
  assert len_b.tolist() == network.macro.output_frames(LEN_B).tolist()
  own, alone_b = apply(x_btf[1:2, :8], LEN_B[1:2].astype(jnp.uint8))
  valid = int(len_b[1])
  assert alone_b.tolist() == [valid]
  np.testing.assert_allclose(
    logits_btv[1, :valid], own[0, :valid], rtol=1e-5, atol=1e-5
  )
  assert np.isfinite(logits_btv).all()


def test_training_normalises_over_valid_frames_alone():
  network, params = _made('graph')
  other = jax.tree.map(lambda leaf: 0.5 * leaf, params)
  x_btf = _features()
  junk_btf = jnp.where(
    jnp.arange(19)[None, :, None] < LEN_B[:, None, None], x_btf, 9.0
  )
  observe = families.form(network).observe
  population = jax.jit(jax.vmap(observe, (0, None, None, None, None)))

  def ran(x_btf, *members):
    params_p = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    return population(params_p, x_btf, LEN_B, (), KEY)

  # Each member has its own statistics, wherever it stands.
  (logits_pbtv, len_pb), seen_p = ran(x_btf, params, other)
  (again_pbtv, _), same_p = ran(junk_btf, other, params)
  frame_t = np.arange(logits_pbtv.shape[2])
  valid_bt = frame_t[None] < np.asarray(len_pb)[0][:, None]
  np.testing.assert_array_equal(
    logits_pbtv[0][valid_bt], again_pbtv[1][valid_bt]
  )
  jax.tree.map(
    lambda own, same: np.testing.assert_array_equal(own[0], same[1]),
    seen_p, same_p,
  )  # fmt: skip
  mean_pc = np.asarray(seen_p['edge0_conv3x3']['mean'])
  assert (mean_pc[0] != mean_pc[1]).all()
  # Convolutions alone have statistics, and evaluation makes none.
  assert set(seen_p) == {k for k in params if 'conv' in k} - {'stem_conv'}
  _, none = jax.eval_shape(observe, params, x_btf, LEN_B, (), None)
  assert none == {}


def test_statistics_are_those_of_valid_elements_by_numpy():
  rng = np.random.default_rng(1)
  x_btfc = rng.normal(2, 3, (3, 9, 4, 2)).astype(np.float32)
  len_b = np.array([9, 2, 5])
  rows = np.concatenate([x[:n].reshape(-1, 2) for x, n in zip(x_btfc, len_b)])
  mean_c, variance_c = planes.moments(jnp.asarray(x_btfc), jnp.asarray(len_b))
  np.testing.assert_allclose(mean_c, rows.mean(0), rtol=1e-5)
  np.testing.assert_allclose(variance_c, rows.var(0), rtol=1e-5)
  params = planes.norm_params(2)
  new = planes.moved(params, (mean_c, variance_c), 0.1)
  np.testing.assert_allclose(new['mean'], 0.1 * rows.mean(0), rtol=1e-5)
  np.testing.assert_allclose(new['variance'], 0.9 + 0.1 * rows.var(0), 1e-5)
  a_c, b_c = planes.norm_factors(params, x_btfc, jnp.asarray(len_b), True, 0.0)
  y_nc = rows * np.asarray(a_c) + np.asarray(b_c)
  np.testing.assert_allclose(y_nc.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(y_nc.std(0), 1, rtol=1e-5)


def _pooled(x_tf, join):
  """A pool of 3 by 3 by hand, of the elements that are there."""
  frames, height = x_tf.shape
  return np.array(
    [
      [
        join(x_tf[max(t - 1, 0) : t + 2, max(f - 1, 0) : f + 2])
        for f in range(height)
      ]
      for t in range(frames)
    ]
  )


def test_pools_are_those_of_what_is_there():
  rng = np.random.default_rng(2)
  x_btfc = rng.normal(-5, 1, (2, 7, 4, 1)).astype(np.float32)
  len_b = jnp.array([7, 3])
  masked = planes.mask(jnp.asarray(x_btfc), len_b)
  for pool, join in ((planes.avg_pool, np.mean), (planes.max_pool, np.max)):
    y_btfc = pool(masked, len_b)
    for b, n in enumerate(len_b):
      by_hand = _pooled(x_btfc[b, :n, :, 0], join)
      np.testing.assert_allclose(y_btfc[b, :n, :, 0], by_hand, rtol=1e-5)
  half, n_b = planes.halved(masked, len_b)
  assert n_b.tolist() == [4, 2] and half.shape == (2, 4, 2, 1)
  assert half[1, 1, 0, 0] == x_btfc[1, 2, :2, 0].max()
  assert (half[1, 2:] == 0).all()


@pytest.mark.parametrize('name', NETWORKS)
def test_formulas_count_what_there_is(name):
  space, arch, macro = NETWORKS[name]
  network = families.single(space, arch, macro)
  params = jax.eval_shape(
    lambda key: common.initial_params(network, key, ()), jax.random.key(0)
  )
  counted = sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key not in ('mean', 'variance')
  )
  assert cost.params(space, arch, macro) == counted
  frames = 19
  counted = counting.macs(space, space.parse(arch), macro, frames)
  assert cost.macs(space, arch, macro, frames) == counted


def test_the_sizes_of_the_paper():
  # Inputs of the LSTMs outweigh all else: 5 nodes of 32 channels, 83 high, are
  # 38 M weights; VGG has 21 of 83 left, and so less with many channels.
  found = {
    'DARTS-ASR': cost.params(SPACE, spaces.DARTS_ASR_CONV3, macros.DARTS_ASR),
    'VGG-Small': cost.params(spaces.VGG, [0], macros.VGG),
    'VGG-Large': cost.params(spaces.VGG, [1], macros.VGG),
  }
  first = 2 * 4 * 360 * (5 * 32 * 83 + 360 + 1)
  rest = 2 * 2 * 4 * 360 * (720 + 360 + 1) + 721 * 48
  convs = 15 * (32 * 32 * 9 + 3 * 32) + 2 * 32
  assert found['DARTS-ASR'] == first + rest + convs
  assert found['VGG-Small'] == 15_487_344
  assert found['VGG-Large'] == 45_355_248


def test_gradients_of_other_heads_are_exactly_zero():
  macro = MACRO.with_heads((6, 4, 5))
  assert macro.outputs == 6 and macro.languages == 3
  network, params = _made('graph', macro)
  assert {'head0', 'head1', 'head2'} <= set(params['trunk'])
  language_b = jnp.array([1, 1, 1])

  def loss(params):
    logits_btv, _ = network.apply(
      {'params': params}, _features(), LEN_B, (), KEY, language_b
    )
    return jax.nn.log_softmax(logits_btv)[..., 1].sum(), logits_btv

  (_, logits_btv), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  for name in 'head0', 'head2':
    for leaf in jax.tree.leaves(grads['trunk'][name]):
      assert not np.asarray(leaf).any()
  assert np.asarray(grads['trunk']['head1']['kernel']).all()
  assert np.asarray(grads['edge0_conv3x3']['kernel']).any()
  # The second language has four symbols.
  assert (jax.nn.softmax(logits_btv)[..., 4:] == 0).all()
  assert cost.params(SPACE, ARCH, macro) == cost.params(
    SPACE, ARCH, MACRO
  ) + 7 * (4 + 5)
  with pytest.raises(ValueError, match='more than the 6 outputs'):
    dataclasses.replace(MACRO, heads=(7,))


RECIPE = tiny_corpus.variant(l2=0.0)


def _trainer(members, space=SPACE, macro=MACRO):
  tiny = tiny_corpus.corpus()
  job = running.Job(space, macro, RECIPE, tiny.name, tiny.fingerprint)
  (shard,) = running.plan(job, members, len(members))
  return running.Trainer(job, shard, tiny_corpus.prepared(RECIPE))


@pytest.mark.slow
def test_a_population_trains_as_each_alone_would():
  def trained(seeds):
    trainer = _trainer(
      [(np.array([0]), seed) for seed in seeds], spaces.VGG, VGG
    )
    state = trainer.epoch(trainer.initial(), 1)
    return trainer.unload(state)

  both, alone = trained((5, 6)), trained((6,))
  jax.tree.map(
    lambda two, one: np.testing.assert_allclose(two[1], one[0], 1e-5, 1e-6),
    (both.members, both.best),
    (alone.members, alone.best),
  )
  for name, curve in both.curves.items():
    np.testing.assert_allclose(curve[1], alone.curves[name][0], rtol=1e-5)
  mean_pc = both.members.params['conv0']['mean']
  assert (mean_pc[0] != mean_pc[1]).all() and (mean_pc != 0).all()
  assert both.curves['train_loss'][0, 0] > 0


def _by_hand(network, params, x_btf, len_b, gates):
  """The planes of a mixture, an operation and an edge after the other."""
  macro, stem = network.macro, params['stem_conv']
  x_btf = planes.mask(x_btf[..., None], len_b)[..., 0]
  x_btfc = planes.patches(x_btf, stem['kernel'], stem['bias'])
  len_b, edge = macro.output_frames(len_b), 0
  tensors = [planes.mask(x_btfc, len_b)]
  while edge < len(network.ops):
    sums = 0.0
    for x_btfc in tensors:
      names = network.ops[edge]
      for k, name in enumerate(names):
        own = params.get(f'edge{edge}_{name}', {})
        y_btfc = darts_asr.affine(name, 'float32', own, x_btfc, (len_b, KEY))
        if own:
          y_btfc = darts_asr.activate(macro.epsilon, own, y_btfc, (len_b, KEY))
        weight = gates[edge].weight_k[k] if len(names) > 1 else 1
        sums += weight * y_btfc
      edge += 1
    tensors.append(planes.mask(sums, len_b))
  return jnp.concatenate(tensors[1:], -1)


@pytest.mark.parametrize(
  'kernels', ['xla', pytest.param('native', marks=native.needed)]
)
def test_a_mixture_is_the_sum_of_its_edges(kernels, monkeypatch):
  # Edges of one, of some and of all candidates.
  ops = (spaces.darts_asr.OPS, ('conv3x3',), ('skip', 'conv3x3', 'max_pool3x3'))
  network = darts_asr.Network(MACRO, ops, kernels=kernels)
  rng = np.random.default_rng(5)
  weights = [jnp.float32(rng.normal(size=len(names))) for names in ops]

  def gates(weights):
    none = jnp.int32(0)
    return tuple(mixed_op.Edge(w_k, none, none) for w_k in weights)

  params = common.initial_params(network, jax.random.key(0), gates(weights))
  # The planes themselves, so that nothing is hidden by what follows.
  monkeypatch.setattr(darts_asr, 'Trunk', lambda *_, **__: lambda x, *_: x)

  def ours(params, weights):
    (y_btfc, _), _ = network.apply(
      {'params': params}, _features(), LEN_B, gates(weights), KEY,
      mutable=['statistics'],
    )  # fmt: skip
    return y_btfc

  def by_hand(params, weights):
    return _by_hand(network, params, _features(), LEN_B, gates(weights))

  def pulled(run):
    y_btfc, pull = jax.vjp(run, params, weights)
    dy_btfc = jnp.sin(jnp.arange(y_btfc.size).reshape(y_btfc.shape))
    return y_btfc, *pull(dy_btfc)

  found, want = (jax.jit(lambda f=f: pulled(f))() for f in (ours, by_hand))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    found, want,
  )  # fmt: skip
