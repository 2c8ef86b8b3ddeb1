"""The network of BRP-NAS: which of two architectures is the better one?

A graph convolutional network embeds an architecture; a linear layer on two
embeddings tells which is better. Dudziak et al., BRP-NAS: Prediction-based NAS
using GCNs, NeurIPS 2020, section 4.1, with the settings of the authors' code.
`nasjax.search.algorithms.brp_nas` searches with it.

Ours, each tried on 100 NAS-Bench-ASR cells drawn out of 2,000, whose planted
error rates spread by .02; tau is Kendall's on the other 1,900, over three
seeds where a range stands:

- A mini-batch is some graphs and all their ordered pairs, not some pairs: the
  head is linear, so a pair costs one sum once its graphs are embedded. An epoch
  sees each graph once, not 2 (n - 1) times. Batches of 10 graphs (90 pairs)
  reach tau .63 to .64, of 20 reach .61 to .62 (600 units, 40 epochs).
- Accuracies are percentages in the target softmax([acc1, acc2]). As fractions,
  differences of .02 drown in the dropout: tau .52 against .64 (128 units).
- 128 units, not 600: tau .64 to .66 for 1.1 to 1.9 s of CPU; 600 units reach
  .66 (one seed) for 6.6 s in 80 epochs. `PAPER` has 600.
- Early stopping watches the loss of the training steps, dropout included;
  single precision; 51/256 are dropped instead of a fifth; the global vertex
  does not read from the empty rows that pruned vertices leave.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from nasjax.spaces import Chain


class Graphs(NamedTuple):
  """Architectures as graphs; arrays that can be indexed together.

  Attributes:
    adjacency_pnm: float32, 1 where vertex n reads from vertex m: an edge leads
      from n to m, or n is m, or n is the global vertex 0. Rows and columns of
      vertices that are not there are 0.
    features_pnf: float32, one-hot kind of vertex.
  """

  adjacency_pnm: Any
  features_pnf: Any

  def take(self, index):
    """Returns the graphs at an index."""
    return Graphs(self.adjacency_pnm[index], self.features_pnf[index])


class Recipe(NamedTuple):
  """How the network is built and trained; see the module's docstring.

  Attributes:
    hidden: units of each layer.
    layers: graph convolutions.
    dropout: share of units dropped after each, in steps of 1/256.
    learning_rate: of AdamW, falling to 0 along a cosine, by epochs.
    weight_decay: of AdamW, on everything.
    epochs: at most; in round i of I, i / I of them.
    batch: graphs in a mini-batch; likewise.
    grace: epochs before early stopping looks.
    patience: epochs without a lower loss after which training stops.
    scale: multiplies accuracies.
  """

  hidden: int = 128
  layers: int = 4
  dropout: float = 0.2
  learning_rate: float = 3.5e-4
  weight_decay: float = 5e-4
  epochs: int = 250
  batch: int = 10
  grace: int = 20
  patience: int = 35
  scale: float = 100.0


DEFAULT = Recipe()
PAPER = Recipe(hidden=600)


# Architectures as graphs.


def _pruned(space, archs_pd):
  """Edges between input, operations and output, and which vertices are live.

  As in the hash of published files, a skip leaves the operation, not the sum.
  An operation `zero` goes with its edges, and so does every vertex that is on
  no path from the input to the output.
  """
  op_pk, names_kc = _vertices(space, archs_pd)
  count, nodes = op_pk.shape
  last = nodes + 1
  edge_pnm = np.zeros((count, last + 1, last + 1), bool)
  edge_pnm[:, np.arange(last), np.arange(last) + 1] = True
  if isinstance(space, Chain):
    skip_pkm = space.skip_matrices(archs_pd) > 0
    for k in range(nodes):
      edge_pnm[:, :nodes, k + 2] |= skip_pkm[:, k]
  live_pn = np.ones((count, last + 1), bool)
  for k, names in enumerate(names_kc):
    if 'zero' in names:
      live_pn[:, k + 1] = op_pk[:, k] != names.index('zero')
  edge_pnm &= live_pn[:, :, None] & live_pn[:, None]
  ahead_pn, behind_pn = np.zeros_like(live_pn), np.zeros_like(live_pn)
  ahead_pn[:, 0] = behind_pn[:, -1] = True
  for n in range(1, last + 1):
    ahead_pn[:, n] = (edge_pnm[:, :, n] & ahead_pn).any(1)
  for n in reversed(range(last)):
    behind_pn[:, n] = (edge_pnm[:, n] & behind_pn).any(1)
  live_pn = ahead_pn & behind_pn
  return edge_pnm & live_pn[:, :, None] & live_pn[:, None], live_pn


def _vertices(space, archs_pd):
  """The kind of each vertex between input and output, and what kinds there are.

  The operations of a chain; of any other space its decisions, one after the
  other, each with kinds of its own.

  Returns:
    op_pk, the number of each vertex's kind, and for each vertex their names.
  """
  if isinstance(space, Chain):
    return archs_pd[:, list(space.op_positions)], (space.ops,) * space.nodes
  names = [
    tuple(f'{field}={choice}' for choice in choices)
    for field, choices in zip(space.fields, space.choices)
  ]
  return archs_pd, tuple(names)


def graphs(space, archs):
  """Turns architectures into graphs, in NumPy.

  Vertex 0 is global, of a kind of its own: it reads from all others, none reads
  from it. The live ones follow in the order of the chain, each reading from
  itself too, then rows of zeros.

  Args:
    space: a `nasjax.spaces.Space`.
    archs: architectures in any form that `space.parse_all` reads.

  Returns:
    Graphs of three vertices more than a chain has nodes, or a space decisions.
    Kinds are the operations but `zero`, in the order of the space (or all
    choices of all decisions), then input, output and global.

  Raises:
    ValueError: on bad architectures.
  """
  archs_pd = space.parse_all(archs)
  edge_pnm, live_pn = _pruned(space, archs_pd)
  count, vertices = live_pn.shape
  edge_pnm = edge_pnm | (np.eye(vertices, dtype=bool) & live_pn[:, None])

  op_pk, names_kc = _vertices(space, archs_pd)
  kinds = dict.fromkeys(name for names in names_kc for name in names)
  kinds = [*(op for op in kinds if op != 'zero'), 'input', 'output']
  kind_pn = np.zeros((count, vertices), int)
  kind_pn[:, 0], kind_pn[:, -1] = len(kinds) - 2, len(kinds) - 1
  for k, names in enumerate(names_kc):
    # A zero is never live: any kind will do.
    kind_o = np.array([kinds.index(op) if op in kinds else 0 for op in names])
    kind_pn[:, k + 1] = kind_o[op_pk[:, k]]
  kind_pnf = np.eye(len(kinds), dtype=bool)[kind_pn] & live_pn[..., None]

  order_pn = np.argsort(~live_pn, axis=1, kind='stable')
  edge_pnm = np.take_along_axis(edge_pnm, order_pn[:, :, None], 1)
  edge_pnm = np.take_along_axis(edge_pnm, order_pn[:, None], 2)
  adjacency_pnm = np.zeros((count, vertices + 1, vertices + 1), np.float32)
  adjacency_pnm[:, 1:, 1:] = edge_pnm
  adjacency_pnm[:, 0, 1:] = np.sort(live_pn, axis=1)[:, ::-1]
  adjacency_pnm[:, 0, 0] = 1
  features_pnf = np.zeros((count, vertices + 1, len(kinds) + 1), np.float32)
  features_pnf[:, 1:, :-1] = np.take_along_axis(
    kind_pnf, order_pn[:, :, None], 1
  )
  features_pnf[:, 0, -1] = 1
  return Graphs(adjacency_pnm, features_pnf)


# The network.


def _uniform(key, shape, size):
  bound = size**-0.5
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def init(key, kinds, recipe=DEFAULT):
  """Returns params: uniform within 1 / sqrt(units), the head by its inputs.

  Args:
    key: a JAX random key.
    kinds: of vertices, the last dimension of the features.
    recipe: a Recipe.
  """
  h = recipe.hidden
  keys = iter(jax.random.split(key, 2 * recipe.layers + 2))
  layers = [
    {
      'kernel_io': _uniform(next(keys), (h if n else kinds, h), h),
      'bias_o': _uniform(next(keys), (h,), h),
      'scale_o': jnp.ones(h),
      'shift_o': jnp.zeros(h),
    }
    for n in range(recipe.layers)
  ]
  head = {
    'kernel_io': _uniform(next(keys), (2 * h, 2), 2 * h),
    'bias_o': _uniform(next(keys), (2,), 2 * h),
  }
  return {'layers': layers, 'head': head}


def embed(params, graphs, key=None, dropout=0.0):
  """Embeds graphs: the global vertex after the last layer.

  Args:
    params: of `init`.
    graphs: Graphs.
    key: for dropout, or None for none.
    dropout: share to drop.

  Returns:
    embedding_ph.
  """
  adjacency_pnm, x_pnh = jnp.asarray(graphs[0]), jnp.asarray(graphs[1])
  units = params['layers'][0]['bias_o'].size
  cut = round(256 * dropout)
  for n, layer in enumerate(params['layers']):
    if n == len(params['layers']) - 1:
      adjacency_pnm = adjacency_pnm[:, :1]  # Nothing else is read any more.
    x_pnh = (adjacency_pnm @ x_pnh) @ layer['kernel_io']
    x_pnh = x_pnh + layer['bias_o'][None, None]
    x_pnh = x_pnh - x_pnh.mean(-1, keepdims=True)
    x_pnh = x_pnh * lax.rsqrt(jnp.mean(x_pnh**2, -1, keepdims=True) + 1e-5)
    x_pnh = x_pnh * layer['scale_o'][None, None] + layer['shift_o'][None, None]
    x_pnh = jax.nn.relu(x_pnh)
    if key is not None and cut:
      # One word serves four layers: drawing words is what dropout costs.
      if n % 4 == 0:
        shape = (*adjacency_pnm.shape[:2], units)
        bits_pnh = jax.random.bits(jax.random.fold_in(key, n), shape, 'uint32')
      byte_pnh = (bits_pnh[:, : x_pnh.shape[1]] >> (8 * (n % 4))) & 255
      x_pnh = jnp.where(byte_pnh >= cut, x_pnh * (256 / (256 - cut)), 0.0)
  return x_pnh[:, 0]


def sides(params, embedding_ph):
  """What each graph adds to a pair as its first and as its second member.

  The log-odds that i is better than j, asked in this order, are first_p[i] +
  second_p[j].

  Args:
    params: of `init`.
    embedding_ph: of `embed`.

  Returns:
    first_p and second_p.
  """
  h = embedding_ph.shape[1]
  head = params['head']
  odds_h = head['kernel_io'][:, 0] - head['kernel_io'][:, 1]
  bias = head['bias_o'][0] - head['bias_o'][1]
  return embedding_ph @ odds_h[:h], embedding_ph @ odds_h[h:] + bias


def compare(params, graphs_i, graphs_j):
  """Returns log-probabilities [p, 2]: the first is better, the second is."""
  first_p, _ = sides(params, embed(params, graphs_i))
  _, second_p = sides(params, embed(params, graphs_j))
  odds_p = first_p + second_p
  return jax.nn.log_sigmoid(jnp.stack([odds_p, -odds_p], axis=-1))


def antisymmetry_error(params, graphs):
  """Returns the mean of |P(i > j) + P(j > i) - 1| over all pairs of graphs.

  The relation is learned, so the two need not sum to 1.
  """
  first_p, second_p = sides(params, embed(params, graphs))
  p_ij = jax.nn.sigmoid(first_p[:, None] + second_p[None])
  error_ij = jnp.abs(p_ij + p_ij.T - 1)
  n = len(first_p)
  return jnp.sum(jnp.where(jnp.eye(n, dtype=bool), 0, error_ij)) / (n * (n - 1))


# Training.


def loss(params, graphs, score_p, present_p, key=None, dropout=0.0):
  """Sums the divergence of the relation from its target over ordered pairs.

  Args:
    params: of `init`.
    graphs: Graphs.
    score_p: higher is better; the target is softmax([score_i, score_j]).
    present_p: bool; pairs with one that is not present do not count.
    key: for dropout, or None.
    dropout: share to drop.

  Returns:
    The sum, and the number of pairs.
  """
  first_p, second_p = sides(params, embed(params, graphs, key, dropout))
  odds_ij = first_p[:, None] + second_p[None]
  true_ij = score_p[:, None] - score_p[None]
  both = jax.nn.log_sigmoid
  kl_ij = jax.nn.sigmoid(true_ij) * (both(true_ij) - both(odds_ij))
  kl_ij = kl_ij + jax.nn.sigmoid(-true_ij) * (both(-true_ij) - both(-odds_ij))
  pair_ij = present_p[:, None] & present_p[None]
  pair_ij = pair_ij & ~jnp.eye(len(score_p), dtype=bool)
  return jnp.sum(jnp.where(pair_ij, kl_ij, 0)), jnp.sum(pair_ij)


class Training(NamedTuple):
  """Where a training stands: epochs done, weights, Adam, early stopping."""

  epoch: jax.Array
  params: Any
  adam: optax.OptState
  best: jax.Array
  worse: jax.Array


def fit(
  key, graphs, score_p, params=None, recipe=DEFAULT, present_p=None, share=1.0
):
  """Trains the relation. Runs under jit; under `vmap` all wait for the longest.

  Args:
    key: a JAX random key.
    graphs: Graphs of the trained architectures.
    score_p: their accuracies, as fractions.
    params: to go on from; None for new ones.
    recipe: a Recipe.
    present_p: bool, which of them count; None for all.
    share: of the recipe's epochs, and of its graphs in a mini-batch (the rest
      of which stays empty), to train with. It may be traced.

  Returns:
    The params after the last epoch.
  """
  n = len(score_p)
  k_init, key = jax.random.split(key)
  graphs = Graphs(*map(jnp.asarray, graphs))
  score_p = recipe.scale * jnp.asarray(score_p, jnp.float32)
  if present_p is None:
    present_p = jnp.ones(n, bool)
  if params is None:
    params = init(k_init, graphs.features_pnf.shape[-1], recipe)
  adam = optax.scale_by_adam()
  batch = min(recipe.batch, n)
  filled = jnp.clip(jnp.round(recipe.batch * share), min(2, batch), batch)
  filled = filled.astype(jnp.int32)
  epochs = jnp.maximum(jnp.round(recipe.epochs * share), 1)
  count = present_p.sum()

  def train_step(step, carry):
    params, adam_state, rate, index_p, key, total, seen = carry
    place_b = step * filled + jnp.arange(batch)
    within_b = (jnp.arange(batch) < filled) & (place_b < count)
    index_b = index_p[jnp.minimum(place_b, n - 1)]
    (kl, pairs), grads = jax.value_and_grad(loss, has_aux=True)(
      params,
      graphs.take(index_b),
      score_p[index_b],
      within_b,
      jax.random.fold_in(key, step),
      recipe.dropout,
    )
    grads, adam_state = adam.update(grads, adam_state)
    params = jax.tree.map(
      lambda p, g: p - rate * (g + recipe.weight_decay * p), params, grads
    )
    return params, adam_state, rate, index_p, key, total + kl, seen + pairs

  def train_epoch(state):
    k_order, k_steps = jax.random.split(jax.random.fold_in(key, state.epoch))
    # Those that do not count come last, so that batches are full.
    index_p = jnp.argsort(jax.random.uniform(k_order, (n,)) + ~present_p)
    rate = (1 + jnp.cos(jnp.pi * state.epoch / epochs)) / 2
    rate = recipe.learning_rate * rate
    steps = (count + filled - 1) // filled
    carry = (state.params, state.adam, rate, index_p, k_steps, 0.0, 0)
    carry = lax.fori_loop(0, steps, train_step, carry)
    params, adam_state, *_, total, seen = carry
    mean = total / jnp.maximum(seen, 1)
    watched = state.epoch > recipe.grace
    worse = jnp.where(watched & (mean >= state.best), state.worse + 1, 0)
    best = jnp.where(watched, jnp.minimum(mean, state.best), state.best)
    return Training(state.epoch + 1, params, adam_state, best, worse)

  def going(state):
    return (state.epoch < epochs) & (state.worse < recipe.patience)

  zero, never = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf)
  start = Training(zero, params, adam.init(params), never, zero)
  return lax.while_loop(going, train_epoch, start).params
