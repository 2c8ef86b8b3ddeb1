"""Gate estimators: how architecture parameters become weights of candidates.

They are all that tells one-shot methods apart; training is shared. Each takes a
key, the parameters alpha_k of one edge and a temperature, and returns a
`mixed_op.Edge`. Values of weights are what the forward pass uses; their
gradient by alpha_k is the method's. pi is softmax(alpha).

A softmax, its Gumbel relaxations and the straight-through weights
sg(one_hot) + (pi - sg(pi)) have values that are exact: the bracket is 0, so a
sampled candidate has weight 1, not nearly 1.
"""

import chex
import jax
import jax.numpy as jnp

from nasjax.layers.mixed_op import Edge

# Uniform draws are kept off 0 and 1, whose logarithms are infinite.
_TINY = 1e-20


def gumbel(key, shape):
  """Standard Gumbel noise, -log(-log(u)), always finite."""
  u = jax.random.uniform(key, shape, minval=_TINY, maxval=1.0)
  return -jnp.log(jnp.maximum(-jnp.log(u), 1e-7))


def _categorical(key, logits_k):
  return jax.random.categorical(key, logits_k).astype(jnp.int32)


def _edge(weight_k, index):
  return Edge(weight_k, index.astype(jnp.int32), jnp.zeros((), jnp.int32))


def _straight(index, probability_k):
  """One-hot of `index` in value, `probability_k` in gradient."""
  one_hot_k = jax.nn.one_hot(index, probability_k.size)
  return one_hot_k + (probability_k - jax.lax.stop_gradient(probability_k))


def softmax(key, alpha_k, temperature):
  """DARTS (Liu et al. 2019, equation 2): weights pi, for mode 'mixed'."""
  del key, temperature
  return _edge(jax.nn.softmax(alpha_k), jnp.argmax(alpha_k))


def gumbel_softmax(key, alpha_k, temperature):
  """SNAS (Xie et al. 2019): a relaxed one-hot draw, for mode 'mixed'.

  weights softmax((alpha + g) / temperature), g Gumbel; the draw tends to a
  one-hot vector of law pi as the temperature tends to 0.
  """
  noisy_k = alpha_k + gumbel(key, alpha_k.shape)
  return _edge(jax.nn.softmax(noisy_k / temperature), jnp.argmax(noisy_k))


def straight_through(key, alpha_k, temperature):
  """ST-NAS (Zheng, An and Ou 2021, equation 10), for mode 'straight'.

  A candidate z drawn from pi runs; the gradient by alpha takes dz for dpi:
  dL/dalpha_i = sum_k dpi_k/dalpha_i <dL/dy, o_k(x)>.
  """
  del temperature
  index = _categorical(key, alpha_k)
  return _edge(_straight(index, jax.nn.softmax(alpha_k)), index)


def binary(key, alpha_k, temperature):
  """ProxylessNAS's binary gates (Cai et al. 2019, equations 3 and 4).

  dL/dalpha_i = sum_j dL/dg_j pi_j (delta_ij - pi_i): in the chain rule the
  same as `straight_through`. For the modes 'straight' (all outputs at once) and
  'recomputed' (one path in memory).
  """
  return straight_through(key, alpha_k, temperature)


def binary_pair(key, alpha_k, temperature):
  """ProxylessNAS's two-path gates (Cai et al. 2019, section 3.2.1).

  Two candidates are drawn from pi without replacement, one of them by the
  softmax of the pair; only these two get a gradient. For mode 'pair';
  `keep_pair_mass` belongs behind the update.
  """
  del temperature
  k_pair, k_one = jax.random.split(key)
  # The two largest perturbed logits are a draw without replacement.
  noisy_k = alpha_k + gumbel(k_pair, alpha_k.shape)
  _, pair = jax.lax.top_k(noisy_k, 2)
  probability_2 = jax.nn.softmax(alpha_k[pair])
  chosen = _categorical(k_one, jnp.log(probability_2))
  weight_2 = _straight(chosen, probability_2)
  weight_k = jnp.zeros_like(alpha_k).at[pair].set(weight_2)
  return Edge(
    weight_k, pair[chosen].astype(jnp.int32), pair[1 - chosen].astype(jnp.int32)
  )


def keep_pair_mass(old_k, new_k, edge):
  """Shifts both updated parameters of a pair so that its mass stays.

  Args:
    old_k, new_k: parameters before and after the update.
    edge: of `binary_pair`.

  Returns:
    new_k with both of the pair lowered by
    log(sum exp(new) / sum exp(old)), sums over the pair.
  """
  pair = jnp.stack([edge.index, edge.other])
  offset = jax.nn.logsumexp(new_k[pair]) - jax.nn.logsumexp(old_k[pair])
  return new_k.at[pair].add(-offset)


def gdas(key, alpha_k, temperature):
  """GDAS (Dong and Yang 2019, equations 3 and 4), for mode 'scaled'.

  p = softmax((log pi + g) / temperature), its largest entry runs, and has the
  gradient of p; the others, weight 0, have none. So a skip that is absent
  tells its parameters nothing, as an operation that does not run.
  """
  edge = gdas_all(key, alpha_k, temperature)
  runs_k = jax.nn.one_hot(edge.index, alpha_k.size)
  return edge._replace(weight_k=runs_k * edge.weight_k)


def gdas_all(key, alpha_k, temperature):
  """As `gdas`, but every weight has the gradient of p, for 'scaled_sum'.

  Of a skip, an absent one tells what it would add.
  """
  noisy_k = jax.nn.log_softmax(alpha_k) + gumbel(key, alpha_k.shape)
  index = jnp.argmax(noisy_k)
  return _edge(_straight(index, jax.nn.softmax(noisy_k / temperature)), index)


def uniform(key, alpha_k, temperature):
  """SPOS (Guo et al. 2020), and warm-up: every candidate equally likely."""
  del temperature
  index = jax.random.randint(key, (), 0, alpha_k.size)
  return fixed(index, alpha_k.size)


def fixed(index, candidates):
  """The edge of one network: candidate `index` alone, without a gradient."""
  index = jnp.asarray(index, jnp.int32)
  return _edge(jax.nn.one_hot(index, candidates), index)


def draw(estimator, key, alpha_e, temperature=1.0):
  """Returns the `Edge` of every edge, each from a key of its own."""
  chex.assert_rank(alpha_e, 1)
  return tuple(
    estimator(jax.random.fold_in(key, e), alpha_k, temperature)
    for e, alpha_k in enumerate(alpha_e)
  )


def exponential(start, end, share):
  """Temperature start * (end / start) ** share, share in [0, 1]; SNAS."""
  return max(end, start * (end / start) ** share)


def linear(start, end, share):
  """Temperature from start to end in equal steps, both exact; GDAS."""
  return start * (1 - share) + end * share
