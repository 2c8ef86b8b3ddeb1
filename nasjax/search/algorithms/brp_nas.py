"""BRP-NAS: search by a learned relation between architectures, in rounds.

Dudziak et al., BRP-NAS: Prediction-based NAS using GCNs, NeurIPS 2020, section
4.2, as the authors' code has it: 100 models in five rounds of 20. The first 20
are random. Then the network of `predictors.gcn` is trained on all so far, going
on from its weights, and ranks all candidates; half of round i (from 0) are the
best that were not trained yet, half are random ones of the best 1/2^i.
Epochs and mini-batches grow linearly to their full size in the last training,
on all 100. From then on suggestions follow the last ranking. NAS-Bench-ASR
(Mehrotra et al., ICLR 2021, section 6) uses it and names no settings.

Ranking compares all pairs and goes by the mean probability of winning, so that
it does not depend on an order; the authors sort with the relation as if it were
transitive (`ranking='sort'`).

A search over the 8,242 unique cells of NAS-Bench-ASR takes 5.5 s of CPU.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax.predictors import gcn
from nasjax.search.algorithms import base

# Ranking.


def borda(first_p, second_p):
  """Returns how often each is likely to win, the mean over all ordered pairs.

  Args:
    first_p: of `gcn.sides`.
    second_p: likewise.

  Returns:
    rate_p, (P(i beats j) + 1 - P(j beats i)) / 2 averaged over all j but i.
  """

  def lead(own):
    # Those of j = i cancel.
    return jnp.mean(
      jax.nn.sigmoid(own[0] + second_p) - jax.nn.sigmoid(own[1] + first_p)
    )

  lead_p = lax.map(lead, (first_p, second_p), batch_size=32)
  others = max(len(first_p) - 1, 1)
  return 0.5 + 0.5 * lead_p * (len(first_p) / others)


def comparison_sort(first_p, second_p):
  """Sorts by asking for pairs, as the authors do, with Batcher's network.

  The relation need not be transitive, so what comes out depends on the order
  they come in and on the algorithm.

  Args:
    first_p: of `gcn.sides`.
    second_p: likewise.

  Returns:
    score_p, float32: minus the place, the best at 0.
  """
  n = len(first_p)
  size = 1 << (n - 1).bit_length()
  # What fills up to a power of two loses against all.
  first_p = jnp.pad(first_p, (0, size - n), constant_values=-jnp.inf)
  second_p = jnp.pad(second_p, (0, size - n), constant_values=jnp.inf)
  widths = [2**k for k in range(1, size.bit_length())]
  stages = [
    (width, 2**k)
    for width in widths
    for k in reversed(range(width.bit_length() - 1))
  ]
  place_p = jnp.arange(size)

  def stage(item_p, widths):
    width, apart = widths
    other_p = item_p[place_p ^ apart]
    lower_p = place_p & apart == 0
    upper_item_p = jnp.where(lower_p, other_p, item_p)
    lower_item_p = jnp.where(lower_p, item_p, other_p)
    won_p = first_p[lower_item_p] + second_p[upper_item_p] > 0
    best_first_p = place_p & width == 0
    return jnp.where(won_p == best_first_p, item_p, other_p), None

  stages = jnp.array(stages, jnp.int32).reshape(-1, 2)
  item_p, _ = lax.scan(stage, place_p, (stages[:, 0], stages[:, 1]))
  return jnp.zeros(size).at[item_p].set(-place_p.astype(jnp.float32))[:n]


# By the names that flags give them.
RANKINGS = {'borda': borda, 'sort': comparison_sort}


def rank(params, graphs, ranking='borda'):
  """Scores graphs by comparing all of them; higher is better: score_p."""
  embedding_ph = lax.map(
    lambda graph: gcn.embed(params, gcn.Graphs(*(x[None] for x in graph)))[0],
    gcn.Graphs(*map(jnp.asarray, graphs)),
    batch_size=min(256, len(graphs.features_pnf)),
  )
  return RANKINGS[ranking](*gcn.sides(params, embedding_ph))


# The search.


class State(NamedTuple):
  """What one search knows, of c candidates and the m models it may train on.

  Attributes:
    params: of the network.
    priority_c: float32; the highest that was not asked for comes next.
    asked_c: bool.
    told_m: places of the candidates told.
    score_m: their accuracies.
    count: how many were told.
    asks: how often something was asked for.
  """

  params: Any
  priority_c: jax.Array
  asked_c: jax.Array
  told_m: jax.Array
  score_m: jax.Array
  count: jax.Array
  asks: jax.Array


def _priorities(key, score_c, asked_c, stage, rounds, per_round):
  """Orders the candidates for one round; see the module's docstring.

  Args:
    key: a JAX random key.
    score_c: of the ranking; higher is better.
    asked_c: bool, what was suggested already.
    stage: the round, from 0; `rounds` and above for what follows the schedule.
    rounds: how many there are.
    per_round: models in each.

  Returns:
    priority_c: above 2 for the best, in (0, 1) for those drawn from the pool,
    below 0 for those to take if the pool does not suffice.
  """
  count = len(score_c)
  random_c = jax.random.uniform(key, (count,))
  places = jnp.arange(count)
  rank_c = jnp.zeros(count, jnp.int32).at[jnp.argsort(-score_c)].set(places)
  new_c = jnp.argsort(jnp.where(asked_c, count, 0) + rank_c)
  place_c = jnp.zeros(count, jnp.int32).at[new_c].set(places)
  by_rank_c = -place_c / count
  top_c = place_c < per_round // 2
  pool_c = rank_c < count / 2.0**stage
  mixed_c = jnp.where(pool_c, random_c, by_rank_c - 1)
  mixed_c = jnp.where(top_c, by_rank_c + 3, mixed_c)
  priority_c = jnp.where(stage < rounds, mixed_c, by_rank_c)
  return jnp.where(stage == 0, random_c, priority_c)


def _checked(candidates, graphs, sizes_d, models, rounds, batch, ranking):
  """Checks what `make` alone takes; returns the candidates as int32 [c, d]."""
  candidates_cd = np.asarray(candidates)
  if candidates_cd.ndim != 2 or candidates_cd.shape[1] != len(sizes_d):
    raise ValueError(
      f'candidates of shape {candidates_cd.shape}; want (c, {len(sizes_d)})'
    )
  bad_c = ((candidates_cd < 0) | (candidates_cd >= sizes_d[None])).any(1)
  if bad_c.any():
    raise ValueError(
      f'candidates hold {candidates_cd[bad_c][0].tolist()}; want digits below '
      f'{sizes_d.tolist()}'
    )
  if len(np.unique(candidates_cd, axis=0)) < max(len(candidates_cd), 2):
    raise ValueError(
      f'candidates={len(candidates_cd)} rows; want two or more, each once'
    )
  if len(graphs.features_pnf) != len(candidates_cd):
    raise ValueError(
      f'{len(graphs.features_pnf)} graphs for {len(candidates_cd)} candidates; '
      'want gcn.graphs(space, candidates)'
    )
  if rounds < 1 or models % rounds or (models // rounds) % batch:
    raise ValueError(
      f'models={models}, rounds={rounds}, batch={batch}; want rounds of '
      'equally many models, and of whole batches'
    )
  if ranking not in RANKINGS:
    raise ValueError(f'ranking={ranking!r}; want one of {", ".join(RANKINGS)}')
  return candidates_cd.astype(np.int32)


def make(
  sizes,
  epochs,
  budget,
  batch=20,
  *,
  candidates,
  graphs,
  models=100,
  rounds=5,
  recipe=gcn.DEFAULT,
  ranking='borda',
):
  """Returns the Searcher, a serial one: it trains at the end of each round.

  No candidate is suggested twice; when all were, suggestions have no epochs.
  What is told of vectors that are no candidates is not learned from.

  Args:
    sizes: how many values each digit takes.
    epochs: of full training.
    budget: evaluations; not needed here.
    batch: how many to suggest at a time.
    candidates: all that may be suggested, integers [c, d], each once.
    graphs: theirs, `gcn.graphs(space, candidates)`.
    models: how many to train the network on at last.
    rounds: in how many rounds; each must be whole batches.
    recipe: how to train the network, a gcn.Recipe.
    ranking: 'borda' or 'sort'.

  Raises:
    ValueError: naming the value.
  """
  sizes_d = base.check(sizes, epochs, budget, batch)
  candidates_cd = _checked(
    candidates, graphs, sizes_d, models, rounds, batch, ranking
  )
  per_round = models // rounds
  some = min(batch, len(candidates_cd))

  def plan(key, state):
    k_fit, k_pick = jax.random.split(key)
    stage = state.asks // (per_round // batch)

    def learn(state):
      params = gcn.fit(
        k_fit,
        gcn.Graphs(*map(jnp.asarray, graphs)).take(state.told_m),
        state.score_m,
        state.params,
        recipe,
        jnp.arange(models) < state.count,
        stage / rounds,
      )
      return params, rank(params, graphs, ranking)

    params, score_c = lax.cond(
      stage > 0, learn, lambda s: (s.params, s.priority_c), state
    )
    priority_c = _priorities(
      k_pick, score_c, state.asked_c, stage, rounds, per_round
    )
    return state._replace(params=params, priority_c=priority_c)

  def init(key):
    return State(
      params=gcn.init(key, graphs.features_pnf.shape[-1], recipe),
      priority_c=jnp.zeros(len(candidates_cd)),
      asked_c=jnp.zeros(len(candidates_cd), bool),
      told_m=jnp.zeros(models, jnp.int32),
      score_m=jnp.zeros(models),
      count=jnp.zeros((), jnp.int32),
      asks=jnp.zeros((), jnp.int32),
    )

  def ask(key, state):
    starts = state.asks % (per_round // batch) == 0
    starts = starts & (state.asks <= models // batch)
    state = lax.cond(starts, lambda s: plan(key, s), lambda s: s, state)
    open_c = jnp.where(state.asked_c, -jnp.inf, state.priority_c)
    best_n, place_n = lax.top_k(open_c, some)
    epochs_n = jnp.where(jnp.isfinite(best_n), epochs, 0)
    suggestion = base.Suggestion(
      jnp.pad(jnp.asarray(candidates_cd)[place_n], ((0, batch - some), (0, 0))),
      jnp.pad(epochs_n, (0, batch - some)).astype(jnp.int32),
    )
    asked_c = state.asked_c.at[place_n].set(True)
    return suggestion, state._replace(asked_c=asked_c, asks=state.asks + 1)

  def tell(state, suggestion, per_n):
    same_nc = (suggestion.arch_nd[:, None] == candidates_cd[None]).all(-1)
    place_n = jnp.argmax(same_nc, axis=1)
    known_n = same_nc.any(1) & (suggestion.epochs_n > 0)
    # What is unknown, or more than there is room for, goes beyond the end.
    slot_n = state.count + jnp.cumsum(known_n) - 1
    slot_n = jnp.where(known_n, slot_n, models)
    told_m = state.told_m.at[slot_n].set(place_n, mode='drop')
    score_m = state.score_m.at[slot_n].set(1 - per_n, mode='drop')
    beyond_n = jnp.where(known_n, place_n, len(candidates_cd))
    return state._replace(
      told_m=told_m,
      score_m=score_m,
      count=jnp.minimum(state.count + known_n.sum(), models),
      asked_c=state.asked_c.at[beyond_n].set(True, mode='drop'),
    )

  return base.Searcher(init, ask, tell, batch, serial=True)
