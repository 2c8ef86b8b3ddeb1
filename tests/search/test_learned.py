import functools
import itertools

import jax
import jax.numpy as jnp
import landscapes
import numpy as np
import pytest
from scipy import stats

from nasjax.predictors import gcn
from nasjax.search import SEARCHERS
from nasjax.search.algorithms import base, brp_nas, reinforce
from nasjax.spaces import NB_ASR

TINY = (2, 3, 1, 2)
POLICIES = {
  'lstm': reinforce.lstm(TINY, hidden=6, temperature=2.0),
  'independent': reinforce.independent(TINY),
}


def _moved(policy, seed=0, by=4.0):
  """Params of a policy that prefers some vectors clearly."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  return jax.tree.map(
    lambda leaf: jnp.asarray(by * rng.normal(size=leaf.shape), leaf.dtype),
    shapes,
  )


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(policy, params, arch_nd):
  one = functools.partial(reinforce.logprob, policy, params)
  return jax.vmap(one)(jnp.asarray(arch_nd))


# REINFORCE.


@pytest.mark.parametrize('name', POLICIES)
def test_gradient_is_unbiased(name):
  policy = POLICIES[name]
  params = _moved(policy, by=1.0)
  arch_nd = landscapes.vectors(TINY)
  reward_n = np.random.default_rng(5).uniform(size=len(arch_nd))
  reward_n = jnp.asarray(reward_n, jnp.float32)

  def expected(params, entropy):
    logprob_n = _logprobs(policy, params, arch_nd)
    p_n = jnp.exp(logprob_n)
    return jnp.sum(p_n * reward_n) - entropy * jnp.sum(p_n * logprob_n)

  def estimate(params, arch_d, reward):
    return reinforce.objective(
      policy, params, arch_d[None], reward[None], 0.4, 0.3, jnp.ones(1)
    )

  @jax.jit
  def both(params):
    p_n = jnp.exp(_logprobs(policy, params, arch_nd))
    each = jax.vmap(jax.grad(estimate), in_axes=(None, 0, 0))
    grads = each(params, jnp.asarray(arch_nd), reward_n)
    mean = jax.tree.map(lambda g: jnp.tensordot(p_n, g, 1), grads)
    return p_n, mean, jax.grad(expected)(params, 0.3)

  p_n, mean, true = both(params)
  assert len(p_n) == 12
  np.testing.assert_allclose(p_n.sum(), 1, rtol=1e-5)
  assert p_n.max() > 3 * p_n.min()
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(true))
  assert largest > 1e-2
  for leaf, want in zip(jax.tree.leaves(mean), jax.tree.leaves(true)):
    np.testing.assert_allclose(leaf, want, atol=1e-5 * max(largest, 1))


@pytest.mark.parametrize('name', POLICIES)
def test_draws_follow_the_probabilities(name):
  policy = POLICIES[name]
  params = _moved(policy, by=1.0)
  u_nd = np.random.default_rng(2).uniform(size=(6000, len(TINY)))
  u_nd = jnp.asarray(u_nd, jnp.float32).clip(max=1 - 2**-24)
  draw = jax.jit(jax.vmap(lambda u: reinforce.sample(policy, params, u)))
  drawn_n = np.asarray(landscapes.index_of(TINY, draw(u_nd)))
  p_n = np.exp(_logprobs(policy, params, landscapes.vectors(TINY)))
  p_n = np.asarray(p_n, float) / np.sum(p_n, dtype=float)
  counts = np.bincount(drawn_n, minlength=12)
  assert stats.chisquare(counts, 6000 * p_n).pvalue > 1e-3
  # The ends of the interval: a masked value has no probability to fall into.
  ends = jnp.array([[0.0] * 4, [np.nextafter(np.float32(1), 0)] * 4])
  arch_nd = np.asarray(draw(ends))
  assert (arch_nd >= 0).all() and (arch_nd < np.array(TINY)).all()


def test_a_value_that_is_not_there_has_no_probability():
  policy = POLICIES['lstm']
  # Digit 0 takes two values, and the largest digit three.
  outside = jnp.array([2, 0, 0, 0])
  assert _logprobs(policy, _moved(policy), outside[None])[0] == -np.inf


def test_logits_are_bounded():
  policy = reinforce.independent((2,))
  bounded = reinforce.lstm((2,), hidden=6, tanh_constant=0.5)
  surest = []
  for p in (policy, bounded):
    params = _moved(p, by=50.0)
    surest.append(float(_logprobs(p, params, jnp.array([[0], [1]])).max()))
  assert surest[0] > np.log(0.99)
  assert surest[1] <= np.log(1 / (1 + np.exp(-1))) + 1e-5


def test_update_by_hand():
  searcher = reinforce.make(
    (3,), 4, 10, batch=3, controller='independent', decay=0.75
  )
  tell = jax.jit(searcher.tell)
  state = jax.jit(searcher.init)(jax.random.key(0))
  arch_nd, epochs_n = jnp.array([[0], [1], [2]]), jnp.array([4, 4, 0])
  suggestion = base.Suggestion(arch_nd, epochs_n)
  state = tell(state, suggestion, jnp.array([0.5, 0.25, 0.0]))
  # Rewards .5 and .75: the third has not been trained.
  assert np.isclose(state.baseline, 0.625)
  logit_v = np.asarray(state.params['logits_dv'][0])
  assert logit_v[1] > 0.4 and logit_v[0] < -0.4
  state = tell(state, suggestion, jnp.array([0.75, 0.75, 0.0]))
  assert np.isclose(state.baseline, 0.75 * 0.625 + 0.25 * 0.25)
  assert int(state.updates) == 2
  nothing = base.Suggestion(arch_nd, jnp.zeros(3, jnp.int32))
  same = tell(state, nothing, jnp.zeros(3))
  for leaf, want in zip(jax.tree.leaves(same), jax.tree.leaves(state)):
    np.testing.assert_array_equal(leaf, want)


# Of what is inverted in small: test_algorithms.
@pytest.mark.parametrize(
  'invert', [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_controller_learns_a_planted_optimum(invert):
  plant = landscapes.separable(landscapes.SMALL, noise=0.02)
  plant = landscapes.inverted(plant) if invert else plant
  searcher = reinforce.make(
    plant.sizes, plant.epochs, 1000, batch=4, learning_rate=2e-3
  )
  trace = landscapes.run(searcher, plant, steps=250, repeats=6)
  assert landscapes.found(trace, plant).all()
  per_rs = trace.per_rsn.mean(2)
  all_c = plant.per_ce[:, -1]
  # It began with uniform draws; in the end most are among the best tenth.
  assert abs(per_rs[:, :10].mean() - all_c.mean()) < 0.05
  assert np.median(trace.per_rsn[:, -25:]) < np.quantile(all_c, 0.1)


def test_repeats_together_are_repeats_alone():
  searcher = reinforce.make(TINY, 2, 10, batch=2)

  def search(key):
    def step(state, s):
      suggestion, state = searcher.ask(jax.random.fold_in(key, s), state)
      state = searcher.tell(state, suggestion, suggestion.arch_nd.mean(1) / 4)
      return state, suggestion.arch_nd

    state, arch_snd = jax.lax.scan(step, searcher.init(key), jnp.arange(3))
    return state.params, arch_snd

  key_r = jax.random.split(jax.random.key(0), 3)
  together = jax.jit(jax.vmap(search))(key_r)
  single = jax.jit(search)
  for r in range(3):
    alone = jax.tree.leaves(single(key_r[r]))
    for leaf, want in zip(jax.tree.leaves(together), alone):
      np.testing.assert_allclose(leaf[r], want, atol=1e-6)


@pytest.mark.parametrize(
  'setting, part',
  [
    ({'controller': 'gru'}, "controller='gru'"),
    ({'learning_rate': 0.0}, 'learning_rate=0.0'),
    ({'entropy': -1.0}, 'entropy=-1.0'),
    ({'decay': 1.0}, 'decay=1.0'),
    ({'batch': 0}, 'batch=0'),
  ],
)
def test_bad_settings_of_reinforce(setting, part):
  with pytest.raises(ValueError, match=part):
    SEARCHERS['reinforce'](TINY, 4, 10, **setting)


# Graphs.

KINDS = ['linear', 'conv5', 'conv5d2', 'conv7', 'conv7d2', 'input', 'output']


def _edges(graph):
  """Kinds of the live vertices, and edges between their places, as sets."""
  adjacency_nm, features_nf = graph
  live = [n for n in range(1, 6) if features_nf[n].any()]
  # Live vertices come first, each reading from itself and read by the global.
  assert live == list(range(1, len(live) + 1))
  np.testing.assert_array_equal(features_nf[0], [0] * 7 + [1])
  np.testing.assert_array_equal(
    adjacency_nm[0], [1] + [n in live for n in range(1, 6)]
  )
  assert not adjacency_nm[1:, 0].any()
  np.testing.assert_array_equal(np.diag(adjacency_nm)[1:], adjacency_nm[0, 1:])
  edges = {
    (n - 1, m - 1)
    for n, m in itertools.product(range(1, 6), repeat=2)
    if n != m and adjacency_nm[n, m]
  }
  return [KINDS[features_nf[n].argmax()] for n in live], edges


@pytest.mark.parametrize(
  'arch, kinds, edges',
  [
    (
      [[0, 1], [1, 0, 0], [2, 0, 0, 1]],
      ['input', 'linear', 'conv5', 'conv5d2', 'output'],
      {(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (2, 4)},
    ),
    # The first operation leads to the zero only, and goes with it.
    (
      [[1, 0], [5, 1, 0], [3, 0, 0, 0]],
      ['input', 'conv7', 'output'],
      {(0, 1), (1, 2)},
    ),
    # The second zero is passed by a skip of the first operation.
    (
      [[4, 1], [5, 0, 1], [0, 1, 0, 1]],
      ['input', 'conv7d2', 'linear', 'output'],
      {(0, 1), (1, 2), (2, 3), (0, 3)},
    ),
    ([[5, 1], [5, 1, 1], [5, 1, 0, 0]], ['input', 'output'], {(0, 1)}),
    ([[0, 1], [1, 1, 1], [5, 0, 0, 0]], [], set()),
  ],
)
def test_graphs_by_hand(arch, kinds, edges):
  graph = gcn.graphs(NB_ASR, [arch])
  assert graph.adjacency_pnm.shape == (1, 6, 6)
  assert graph.features_pnf.shape == (1, 6, 8)
  assert _edges(tuple(x[0] for x in graph)) == (kinds, edges)


KEY = jax.random.key(0)
SMALL_NET = gcn.Recipe(hidden=16, epochs=6, batch=8)


@functools.cache
def _untrained():
  # Scales and shifts are not left at 1 and 0, so that they count.
  rng = np.random.default_rng(3)
  shapes = jax.eval_shape(lambda key: gcn.init(key, 8, SMALL_NET), KEY)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4, jnp.float32),
    shapes,
  )


_embed = jax.jit(gcn.embed, static_argnums=3)


def _embed_slowly(params, adjacency_nm, features_nf):
  """One graph, vertex by vertex, in double precision."""
  x = [row.astype(float) for row in features_nf]
  for layer in params['layers']:
    layer = {name: np.asarray(leaf, float) for name, leaf in layer.items()}
    y = []
    for n in range(len(x)):
      total = layer['bias_o'].copy()
      for m in range(len(x)):
        if adjacency_nm[n, m]:
          total += x[m] @ layer['kernel_io']
      normal = (total - total.mean()) / np.sqrt(total.var() + 1e-5)
      y.append(np.maximum(normal * layer['scale_o'] + layer['shift_o'], 0))
    x = y
  return x[0]


def test_embedding_matches_vertex_by_vertex():
  graphs = gcn.graphs(NB_ASR, NB_ASR.enumerate()[::1500])
  embedding_ph = _embed(_untrained(), graphs)
  for p, embedding_h in enumerate(embedding_ph):
    want = _embed_slowly(_untrained(), *(x[p] for x in graphs))
    np.testing.assert_allclose(embedding_h, want, atol=2e-5)


def test_isomorphic_graphs_have_one_embedding():
  archs_pd = NB_ASR.enumerate()
  archs_pd = archs_pd[(archs_pd[:, list(NB_ASR.op_positions)] == 5).any(1)]
  _, class_p = np.unique(NB_ASR.keys(archs_pd), return_inverse=True)
  embedding_ph = np.asarray(_embed(_untrained(), gcn.graphs(NB_ASR, archs_pd)))
  _, first_p = np.unique(class_p, return_index=True)
  assert len(first_p) == 242
  np.testing.assert_allclose(
    embedding_ph, embedding_ph[first_p[class_p]], atol=1e-5
  )
  # And different ones have different ones.
  apart = embedding_ph[first_p]
  gaps = np.abs(apart[:, None] - apart[None]).max(-1) + np.eye(len(apart))
  assert gaps.min() > 1e-4


def test_order_of_vertices_and_empty_rows_do_not_matter():
  graph = gcn.graphs(NB_ASR, [[[4, 1], [5, 0, 1], [0, 1, 0, 1]]])
  order = np.array([0, 5, 3, 1, 4, 2])
  shuffled = gcn.Graphs(
    graph.adjacency_pnm[:, order][:, :, order], graph.features_pnf[:, order]
  )
  cut = gcn.Graphs(graph.adjacency_pnm[:, :5, :5], graph.features_pnf[:, :5])
  want = _embed(_untrained(), graph)
  assert np.abs(want).max() > 0.1
  for other in (shuffled, cut):
    np.testing.assert_allclose(_embed(_untrained(), other), want, atol=1e-5)


# The relation.


def test_relation_and_loss_match_pair_by_pair():
  graphs = gcn.graphs(NB_ASR, NB_ASR.enumerate()[[3, 700, 5000, 9000]])
  params = _untrained()
  score_p = np.array([0.2, 1.3, -0.4, 0.9], np.float32)
  e_ph = np.asarray(_embed(params, graphs), float)
  kernel = np.asarray(params['head']['kernel_io'], float)
  bias = np.asarray(params['head']['bias_o'], float)
  total, logprobs = 0.0, np.zeros((4, 4, 2))
  for i, j in itertools.product(range(4), repeat=2):
    logit = np.concatenate([e_ph[i], e_ph[j]]) @ kernel + bias
    logprobs[i, j] = logit - np.logaddexp(*logit)
    if i != j and 2 not in (i, j):
      target = np.exp(score_p[[i, j]])
      target = target / target.sum()
      total += np.sum(target * (np.log(target) - logprobs[i, j]))
  present_p = jnp.array([True, True, False, True])
  got, pairs = jax.jit(gcn.loss)(
    params, graphs, jnp.asarray(score_p), present_p
  )
  np.testing.assert_allclose(got, total, rtol=1e-4)
  assert pairs == 6
  i, j = np.array([0, 1, 3]), np.array([2, 1, 0])
  got = jax.jit(gcn.compare)(params, graphs.take(i), graphs.take(j))
  np.testing.assert_allclose(got, logprobs[i, j], atol=1e-5)
  p_ij = np.exp(logprobs[..., 0])
  error = np.abs(p_ij + p_ij.T - 1)[~np.eye(4, dtype=bool)].mean()
  np.testing.assert_allclose(
    jax.jit(gcn.antisymmetry_error)(params, graphs), error, atol=1e-5
  )


def test_dropout_drops_its_share_and_keeps_the_mean():
  # One layer of which only shifts are left: every unit is 1.
  layer = {
    'kernel_io': jnp.zeros((8, 64)),
    'bias_o': jnp.zeros(64),
    'scale_o': jnp.zeros(64),
    'shift_o': jnp.ones(64),
  }
  params = {'layers': [layer]}
  graphs = gcn.graphs(NB_ASR, NB_ASR.enumerate()[:200])
  x_ph = np.asarray(_embed(params, graphs, KEY, 0.2))
  dropped = np.mean(x_ph == 0)
  assert abs(dropped - 51 / 256) < 4 * np.sqrt(0.16 / x_ph.size)
  np.testing.assert_allclose(x_ph.max(), 256 / 205, rtol=1e-6)


def test_absent_models_do_not_matter():
  graphs = gcn.graphs(NB_ASR, NB_ASR.enumerate()[::800])
  score_p = jnp.linspace(0, 1, len(graphs.features_pnf))
  present_p = jnp.arange(len(score_p)) < 11
  fit = jax.jit(
    lambda score_p, present_p, share: gcn.fit(
      jax.random.key(0),
      graphs,
      score_p,
      recipe=SMALL_NET,
      present_p=present_p,
      share=share,
    )
  )
  params = fit(score_p, present_p, 1.0)
  other = fit(jnp.where(present_p, score_p, 7.0), present_p, 1.0)
  for leaf, want in zip(jax.tree.leaves(other), jax.tree.leaves(params)):
    np.testing.assert_array_equal(leaf, want)
  half = fit(score_p, present_p, 0.5)
  kernel = half['layers'][0]['kernel_io']
  assert np.abs(kernel - params['layers'][0]['kernel_io']).max() > 1e-5


def _planted(archs_pd):
  """Error rates around .24, spread by .02, by operations and skips."""
  op_pk = archs_pd[:, list(NB_ASR.op_positions)].astype(int)
  skip_pd = archs_pd[:, [1, 3, 4, 6, 7, 8]].astype(float)
  loss_o = np.array([0.5, 0.2, 0.15, 0.1, 0.0, 1.0])
  loss_p = loss_o[op_pk] @ np.array([0.5, 0.3, 0.6])
  loss_p += 0.05 * np.abs(skip_pd.sum(1) - 3)
  loss_p += 0.08 * (op_pk[:, 0] == op_pk[:, 1])
  loss_p -= 0.1 * skip_pd[:, 0] * skip_pd[:, 5]
  return 0.24 + 0.02 * (loss_p - loss_p.mean()) / loss_p.std()


def test_relation_ranks_what_it_has_not_seen():
  archs_pd = NB_ASR.unique()
  archs_pd = archs_pd[np.random.default_rng(0).permutation(len(archs_pd))]
  archs_pd = archs_pd[:600]
  per_p = _planted(archs_pd)
  graphs = gcn.graphs(NB_ASR, archs_pd)
  seen = graphs.take(np.arange(100))
  params = jax.jit(gcn.fit)(jax.random.key(0), seen, 1 - per_p[:100])
  for ranking in brp_nas.RANKINGS:
    score_p = jax.jit(brp_nas.rank, static_argnums=2)(params, graphs, ranking)
    tau = stats.kendalltau(np.asarray(score_p)[100:], -per_p[100:])[0]
    assert tau > 0.6
  assert jax.jit(gcn.antisymmetry_error)(params, graphs) < 0.1


# Ranking.


def test_borda_counts_all_pairs():
  rng = np.random.default_rng(0)
  first_p, second_p = rng.normal(size=(2, 45)).astype(np.float32)
  want = np.zeros(45)
  for i, j in itertools.permutations(range(45), 2):
    p = 1 / (1 + np.exp(-first_p[i] - second_p[j]))
    want[i] += p / 88
    want[j] += (1 - p) / 88
  got = brp_nas.borda(jnp.asarray(first_p), jnp.asarray(second_p))
  np.testing.assert_allclose(got, want, atol=1e-5)
  # One order of each pair alone would only have sorted by the first.
  assert (np.argsort(want) != np.argsort(first_p)).any()


@pytest.mark.parametrize('n', [2, 3, 8, 45])
def test_comparison_sort_sorts(n):
  rng = np.random.default_rng(n)
  value_p = rng.permutation(n).astype(np.float32)
  # A transitive relation.
  score_p = brp_nas.comparison_sort(jnp.asarray(value_p), -jnp.asarray(value_p))
  np.testing.assert_array_equal(score_p, value_p - (n - 1))
  # Another one: still every place once.
  first_p, second_p = rng.normal(size=(2, n)).astype(np.float32)
  score_p = brp_nas.comparison_sort(jnp.asarray(first_p), jnp.asarray(second_p))
  np.testing.assert_array_equal(np.sort(score_p), np.arange(n) - (n - 1))


# The rounds.

CELLS = NB_ASR.unique()[::60].astype(np.int32)
ROUNDS, PER_ROUND, BATCH = 3, 12, 6


@functools.cache
def _searcher():
  return brp_nas.make(
    NB_ASR.sizes,
    40,
    300,
    batch=BATCH,
    candidates=CELLS,
    graphs=gcn.graphs(NB_ASR, CELLS),
    models=ROUNDS * PER_ROUND,
    rounds=ROUNDS,
    # So small a network learns little in so few steps at the rate of 600 units.
    recipe=SMALL_NET._replace(epochs=60, learning_rate=5e-3),
  )


@functools.cache
def _compiled():
  return tuple(map(jax.jit, _searcher()[:3]))


@functools.cache
def _landscape():
  return landscapes.separable(noise=0.02)


@functools.cache
def _history(seed, steps):
  """States and places of the suggestions, asked for one by one."""
  key = jax.random.split(jax.random.key(seed), 2)[1]
  k_init, k_ask = jax.random.split(key)
  init, ask, tell = _compiled()
  state, history = init(k_init), []
  for step in range(steps):
    suggestion, state = ask(jax.random.fold_in(k_ask, step), state)
    same_nc = (np.asarray(suggestion.arch_nd)[:, None] == CELLS[None]).all(-1)
    history.append((state, same_nc.argmax(1), np.asarray(suggestion.epochs_n)))
    per_n = landscapes.evaluate(_landscape(), suggestion)
    state = tell(state, suggestion, per_n)
  return history, state


STEPS = -(-len(CELLS) // BATCH) + 1


def test_rounds_take_the_best_and_some_of_the_pool():
  history, _ = _history(0, STEPS)
  rank = jax.jit(brp_nas.rank)
  graphs = gcn.graphs(NB_ASR, CELLS)
  asked, scores = [], []
  for stage in range(ROUNDS + 1):
    first, second = history[2 * stage : 2 * stage + 2]
    picks = [*first[1], *second[1]]
    score_c = np.asarray(rank(first[0].params, graphs))
    scores.append(score_c)
    order = [c for c in np.argsort(-score_c, kind='stable')]
    new = [c for c in order if c not in asked]
    top = PER_ROUND if stage == ROUNDS else PER_ROUND // 2
    if stage:
      assert sorted(picks[:top]) == sorted(new[:top])
      pool = order[: -(-len(CELLS) // 2**stage)]
      assert set(picks[top:]) <= set(pool)
      # Training happens at the start of a round only.
      for leaf, want in zip(
        jax.tree.leaves(first[0].params), jax.tree.leaves(second[0].params)
      ):
        np.testing.assert_array_equal(leaf, want)
    asked += picks
  # Each training went on from the last and changed the ranking.
  assert all((a != b).any() for a, b in itertools.pairwise(scores))
  # Random, not simply the next best.
  picks = [*history[2][1], *history[3][1]]
  order = np.argsort(-scores[1])
  places = [int(np.flatnonzero(order == c)[0]) for c in picks[PER_ROUND // 2 :]]
  assert max(places) > 2 * PER_ROUND


def test_every_candidate_comes_once_and_then_none():
  history, state = _history(0, STEPS)
  given = [c for _, place_n, ran_n in history for c in place_n[ran_n > 0]]
  assert sorted(given) == list(range(len(CELLS)))
  assert all((ran_n == 40).all() for _, _, ran_n in history[:-2])
  assert (history[-1][2] == 0).all()
  # What was told: the first rounds, in order.
  told = ROUNDS * PER_ROUND
  assert int(state.count) == told
  np.testing.assert_array_equal(state.told_m, given[:told])
  cell_m = landscapes.index_of(NB_ASR.sizes, CELLS[given[:told]])
  per_m = _landscape().per_ce[np.asarray(cell_m), -1]
  np.testing.assert_allclose(state.score_m, 1 - per_m, rtol=1e-6)


def test_the_ranking_finds_better_cells_than_chance():
  per_c = _landscape().per_ce[
    np.asarray(landscapes.index_of(NB_ASR.sizes, CELLS)), -1
  ]
  rank_c = stats.rankdata(per_c) / len(per_c)
  chosen = []
  for seed in (0, 1):
    history, _ = _history(seed, STEPS if seed == 0 else 8)
    # The first halves of two rounds, and two batches after the last.
    chosen += [rank_c[history[step][1]] for step in (2, 4, 6, 7)]
  # By chance .5; four standard deviations of a mean of 48.
  assert np.mean(chosen) < 0.5 - 4 / np.sqrt(12 * 48)


def test_mapped_repeats_are_repeats_alone():
  trace = landscapes.run(_searcher(), _landscape(), steps=8, repeats=2)
  again = landscapes.run(_searcher(), _landscape(), steps=8, repeats=2)
  history, _ = _history(0, STEPS)
  alone = np.stack([CELLS[place_n] for _, place_n, _ in history[:8]])
  np.testing.assert_array_equal(trace.arch_rsnd[1], alone)
  np.testing.assert_array_equal(trace.arch_rsnd, again.arch_rsnd)
  assert (trace.arch_rsnd[0] != trace.arch_rsnd[1]).any()


def test_only_trained_candidates_are_learned_from():
  init, _, tell = _compiled()
  state = init(KEY)
  arch_nd = np.concatenate([CELLS[:4], CELLS[:2]])
  stranger = next(
    a for a in NB_ASR.enumerate() if not (a == CELLS).all(1).any()
  )
  arch_nd[1] = stranger
  epochs_n = jnp.array([40, 40, 0, 40, 0, 0])
  suggestion = base.Suggestion(jnp.asarray(arch_nd), epochs_n)
  state = tell(state, suggestion, jnp.linspace(0.1, 0.6, 6))
  assert int(state.count) == 2
  np.testing.assert_array_equal(state.told_m[:3], [0, 3, 0])
  np.testing.assert_allclose(state.score_m[:3], [0.9, 0.6, 0.0], atol=1e-6)
  np.testing.assert_array_equal(np.flatnonzero(state.asked_c), [0, 3])


@pytest.mark.parametrize(
  'setting, part',
  [
    ({'candidates': CELLS[:, :8]}, r'want \(c, 9\)'),
    ({'candidates': CELLS + 1}, 'digits below'),
    ({'candidates': CELLS[[0, 0]]}, 'each once'),
    ({'candidates': CELLS[:7]}, 'for 7 candidates'),
    ({'rounds': 7}, 'rounds=7'),
    ({'batch': 7}, 'batch=7'),
    ({'ranking': 'elo'}, "ranking='elo'"),
  ],
)
def test_bad_settings_of_the_rounds(setting, part):
  given = {'candidates': CELLS, 'graphs': gcn.graphs(NB_ASR, CELLS)} | setting
  with pytest.raises(ValueError, match=part):
    SEARCHERS['gcn'](NB_ASR.sizes, 40, 100, **given)
