"""DARTS-ASR: soft networks, pruning, and what goes on elsewhere."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus

from nasjax import spaces
from nasjax.models import common, families, macros
from nasjax.oneshot import adapting, estimators, methods, stages, steps
from nasjax.oneshot import search as searching
from nasjax.oneshot.supernet import Supernet
from nasjax.training import plateau, recipes

MACRO = macros.Graph(
  'pocket', lstm=3, lstms=1, outputs=6, features=tiny_corpus.FEATURES,
  stride=4, width=2,
)  # fmt: skip
FULL = Supernet(spaces.DARTS_ASR, MACRO)
# One node, one edge, all that compiles fast.
SMALL = Supernet(
  spaces.Dense('darts_asr', 1, spaces.DARTS_ASR.choices[0]), MACRO
)
RECIPE = tiny_corpus.variant(l2=0.0, dropout=0.0, clip=1.0)
WEIGHTS = steps.Weights('sgd', RECIPE)


def _state(supernet, seed=0):
  """A first state, its numbers such that each can be told from others."""
  init = functools.partial(
    steps.init, supernet, methods.DARTS_ASR, WEIGHTS, jax.random.key(seed)
  )
  state = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(init)
  )
  rng = np.random.default_rng(seed)

  def drawn(leaf):
    return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

  return state._replace(
    params=jax.tree.map(drawn, state.params),
    opt=state.opt._replace(
      first=jax.tree.map(drawn, state.opt.first),
      count_g=np.arange(state.opt.count_g.size),
    ),
    alpha_e=jax.tree.map(drawn, state.alpha_e),
    alpha_opt=jax.tree.map(drawn, state.alpha_opt),
  )


def test_fifteen_edges_begin_with_a_seventh_each():
  assert len(FULL.edges) == 15 and FULL.group_count == 105
  alpha_e = FULL.alpha(jax.random.key(1), methods.DARTS_ASR.alpha_init)
  for edge in estimators.draw(
    methods.DARTS_ASR.estimator, jax.random.key(2), alpha_e
  ):
    np.testing.assert_allclose(edge.weight_k, 1 / 7, rtol=1e-6)


def test_pruning_keeps_45_operations_and_their_ratios():
  state = _state(FULL)
  smaller, kept = adapting.pruned(FULL, state)
  assert sum(len(names) for _, names in smaller.mains) == 45
  own = {
    f'edge{e}_{name}'
    for e, (_, names) in enumerate(smaller.mains)
    for name in names
    if 'conv' in name
  }
  assert {n for n in kept.params if n.startswith('edge')} == own
  for name in own | {'stem_conv', 'trunk'}:
    for old, new in (
      (state.params, kept.params),
      (state.opt.first, kept.opt.first),
    ):
      jax.tree.map(np.testing.assert_array_equal, old[name], new[name])
  edges = zip(
    FULL.mains, smaller.mains, state.alpha_e, kept.alpha_e, strict=True
  )
  for e, ((_, names), (_, left), old_k, new_k) in enumerate(edges):
    places = np.array([names.index(name) for name in left])
    old_k = np.asarray(old_k)
    dropped = set(range(7)) - set(places.tolist())
    assert min(old_k[places]) >= max(old_k[k] for k in dropped)
    old_k, new_k = (np.asarray(jax.nn.softmax(k)) for k in (old_k, new_k))
    np.testing.assert_allclose(new_k.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(
      new_k / new_k[0], old_k[places] / old_k[places[0]], rtol=1e-5
    )
    for old, new in zip(
      jax.tree.leaves(state.alpha_opt[e]), jax.tree.leaves(kept.alpha_opt[e])
    ):
      np.testing.assert_array_equal(old[places] if old.ndim else old, new)
    first = 3 * e
    assert kept.opt.count_g[first : first + 3].tolist() == [
      7 * e + k for k in places
    ]
  assert kept.opt.count_g[-1] == 105 and kept.opt.count_g.size == 46
  # It is a supernet of its own, with architectures of the same space.
  arch = smaller.arch([2] * 15)
  assert smaller.choices(arch).tolist() == [2] * 15
  with pytest.raises(ValueError, match='is not among'):
    smaller.choices(FULL.arch([next(iter(dropped))] * 15))
  # Ties keep the first.
  even, _ = adapting.pruned(
    FULL, state._replace(alpha_e=FULL.alpha(jax.random.key(0), 0.0))
  )
  assert even.kept == (FULL.edges[0][1][:3],) * 15


def test_the_pruned_mixture_is_that_of_its_survivors():
  state = _state(SMALL)
  smaller, kept = adapting.pruned(SMALL, state)
  rng = np.random.default_rng(3)
  x_btf = jnp.asarray(rng.normal(size=(2, 9, MACRO.features)), jnp.float32)

  def logits(supernet, state, weight_k):
    edge = estimators.fixed(0, weight_k.size)._replace(weight_k=weight_k)
    network = supernet.network(RECIPE, 'mixed')
    return jax.jit(network.apply)(
      {'params': state.params}, x_btf, jnp.array([9, 5]), (edge,), None
    )[0]

  (alpha_k,), (new_k,) = state.alpha_e, kept.alpha_e
  gone_k = np.array(
    [name not in smaller.mains[0][1] for name in SMALL.mains[0][1]]
  )
  masked_k = jax.nn.softmax(jnp.where(gone_k, -jnp.inf, alpha_k))
  variances = {
    n: t | {'variance': jnp.abs(t['variance'])} if 'variance' in t else t
    for n, t in state.params.items()
  }
  state = state._replace(params=variances)
  kept = kept._replace(params={n: variances[n] for n in kept.params})
  np.testing.assert_allclose(
    logits(SMALL, state, masked_k),
    logits(smaller, kept, jax.nn.softmax(new_k)),
    rtol=1e-5,
    atol=1e-6,
  )


def _search(way=None, source=SMALL, alpha_e=None, macro=MACRO, **changes):
  supernet, method = source, methods.DARTS_ASR
  if way is not None:
    supernet = adapting.supernet(source, way, alpha_e, macro)
    method = adapting.method(method, way)
  search = searching.Search(
    supernet, method, WEIGHTS, stages.darts_asr(0, 2, 0.05), 3
  )
  return dataclasses.replace(search, **changes)


def _prepared():
  return tiny_corpus.prepared(RECIPE)


@pytest.mark.slow
def test_a_soft_network_is_found_and_goes_on_elsewhere(tmp_path):
  source = _search()
  found = searching.run(source, _prepared(), 'tiny', tmp_path)
  curves = found['curves']
  assert len(curves['soft_val_per']) == found['epochs'] == 2
  # Its own validation loss decides.
  assert curves['held_out_loss'] == curves['soft_val_loss']
  assert curves['train_loss'][1] < curves['train_loss'][0]
  for split in 'validation', 'test':
    assert set(found['worth'][split]) == {'soft', 'shared'}
  assert found['worth']['validation']['soft'] == [
    curves['soft_val_loss'][-1], curves['soft_val_per'][-1]
  ]  # fmt: skip
  assert any(alpha != 0 for alpha in curves['alpha_e0_1'][-1])
  searcher, state = searching.restore(source, _prepared(), 'tiny', tmp_path)
  trained = state.search
  # All utterances were trained with.
  assert not searcher.held_u.any()
  # A convolution of the soft network has seen something.
  assert np.asarray(trained.params['edge0_conv3x3']['mean']).all()
  # Weights alone go on: the architecture parameters stay, bit for bit.
  search = _search('parameters', alpha_e=trained.alpha_e, source=SMALL)
  search = dataclasses.replace(search, source=source.name('tiny'))
  start = adapting.begun(search, SMALL, trained)
  np.testing.assert_array_equal(
    start.params['edge0_conv5x5']['kernel'],
    trained.params['edge0_conv5x5']['kernel'],
  )
  head, old = (
    p['trunk']['head']['kernel'] for p in (start.params, trained.params)
  )
  assert (np.asarray(head) != np.asarray(old)).all()
  assert search.name('tiny') != dataclasses.replace(search, source='x').name(
    'tiny'
  )
  with pytest.raises(ValueError, match='give both'):
    searching.run(search, _prepared(), 'tiny', tmp_path / 'a')
  searching.run(search, _prepared(), 'tiny', tmp_path / 'a', start=start)
  _, after = searching.restore(search, _prepared(), 'tiny', tmp_path / 'a')
  for old, new in zip(trained.alpha_e, after.search.alpha_e):
    np.testing.assert_array_equal(old, new)
  kernels = (s.params['edge0_conv5x5']['kernel'] for s in (start, after.search))
  assert not np.array_equal(*map(np.asarray, kernels))


def test_other_sources_are_refused():
  state = _state(SMALL)
  wide = _state(
    dataclasses.replace(SMALL, macro=dataclasses.replace(MACRO, width=3))
  )
  with pytest.raises(ValueError, match='edge0_conv3x3/.* has shape'):
    common.transplanted(wide.params, state.params)
  with pytest.raises(ValueError, match='take the supernet of adapting'):
    adapting.begun(_search(), FULL, state)
  with pytest.raises(ValueError, match="way is 'all'"):
    adapting.method(methods.DARTS_ASR, 'all')
  with pytest.raises(ValueError, match='has all candidates'):
    dataclasses.replace(methods.ST_NAS, soft=True)
  with pytest.raises(ValueError, match='are not some of'):
    dataclasses.replace(SMALL, kept=(('skip', 'conv3x3'),))


def test_rates_fall_to_a_fifth_after_three_bad_epochs():
  (stage,) = stages.darts_asr(0, 50, 0.01)
  state, rates = plateau.State(stage.lr), []
  losses = [3, 2, 2.5, 2.5, 2.5, 1.0] + [2.0] * 12
  for epoch, loss in enumerate(losses, start=1):
    state = plateau.step(stage.plateau, state, epoch, loss)
    rates.append(0.0 if state.stopped else round(state.lr, 7))
  # So do those of networks by themselves.
  alone = recipes.DARTS_ASR.learning_rates(losses)[1:]
  assert [round(lr, 7) for lr in alone] == rates
  # Counted anew behind each fall; the fourth one ends it.
  third, fourth = 0.0004, 8e-5
  assert rates == (
    [0.01] * 4 + [0.002] * 4 + [third] * 3 + [fourth] * 3 + [0.0] * 4
  )


@pytest.mark.slow
def test_methods_that_sample_search_in_it(tmp_path):
  search = _search(method=methods.ST_NAS, stages=stages.fixed(1, 1, 0.02))
  found = searching.run(search, _prepared(), 'tiny', tmp_path)
  assert found['epochs'] == 2 and 'worth' not in found
  assert np.isfinite(found['curves']['held_out_loss']).all()
  assert found['executions']['arch_steps'] > 0
  assert any(alpha != 0 for alpha in found['curves']['alpha_e0_1'][-1])


@pytest.mark.slow
@pytest.mark.parametrize('way', ['both', 'pruned'])
def test_architecture_goes_on_pruned_or_not(way):
  state = _state(SMALL)
  positive = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.abs(leaf) if path[-1].key == 'variance' else leaf,
    state.params,
  )
  state = state._replace(params=positive)
  search = _search(way, alpha_e=state.alpha_e, source=SMALL)
  search = dataclasses.replace(search, source='there')
  start = adapting.begun(search, SMALL, state)
  assert start.alpha_e[0].size == (3 if way == 'pruned' else 7)
  searcher = searching.SupernetTrainer(search, _prepared())
  begun = searcher.initial()._replace(search=searcher._on_device(start))
  alpha_k = np.asarray(start.alpha_e[0])
  after, _ = searcher.epoch(begun, 1)
  assert np.isfinite(after.history['soft_val_loss'][0])
  assert (np.asarray(after.search.alpha_e[0]) != alpha_k).all()


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['path', 'straight', 'recomputed', 'scaled'])
def test_modes_run_one_candidate_and_note_its_statistics(mode):
  network = SMALL.network(RECIPE, mode)
  params = jax.jit(
    lambda key: common.initial_params(network, key, SMALL.gates_of([0]))
  )(jax.random.key(0))
  rng = np.random.default_rng(4)
  x_btf = jnp.asarray(rng.normal(size=(2, 9, MACRO.features)), jnp.float32)
  inputs = x_btf, jnp.array([9, 5])
  key = jnp.array([1, 2], jnp.uint32)
  observe = jax.jit(families.form(network).observe)
  names = SMALL.mains[0][1]
  for name in ('dil_conv3x3', 'max_pool3x3'):
    index = names.index(name)
    (logits_btv, _), seen = observe(
      params, *inputs, SMALL.gates_of([index]), key
    )
    alone = families.single(SMALL.space, [index], MACRO)
    own_names = 'stem_conv', 'trunk', f'edge0_{name}'
    (own_btv, _), own = jax.jit(families.form(alone).observe)(
      {n: t for n, t in params.items() if n in own_names},
      *inputs, (), key,
    )  # fmt: skip
    np.testing.assert_allclose(logits_btv, own_btv, rtol=1e-5, atol=1e-6)
    for other, tree in seen.items():
      wanted = own[other] if other in own else {
        n: params[other][n] for n in ('mean', 'variance')
      }  # fmt: skip
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), tree, wanted
      )
