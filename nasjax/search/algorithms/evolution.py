"""Regularised evolution: the oldest of the population dies.

Real et al., Regularized Evolution for Image Classifier Architecture Search,
AAAI 2019, Algorithm 1. NAS-Bench-ASR (section 6) names no settings; population,
sample and the mutation of one digit are those of NATS-Bench (Dong et al., TPAMI
2021). The paper's own, for 20,000 models, are 100 and 25.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nasjax.search.algorithms import base, draws


class State(NamedTuple):
  """The population, oldest first.

  Attributes:
    archs_pd: int32.
    pers_p: float32; infinite where nobody has been born yet.
  """

  archs_pd: jax.Array
  pers_p: jax.Array


def make(
  sizes, epochs, budget, batch=1, population=10, sample=3, limit=None, tries=16
):
  """Returns the Searcher.

  Suggestions are random until the population is full. From then on each is a
  child, with one digit changed, of the best of a sample of the population,
  drawn with replacement as in the paper.

  Args:
    sizes: how many values each digit takes.
    epochs: of full training.
    budget: evaluations; not needed here.
    batch: children born and elders dying at a time. All children of a
      suggestion have parents from before it.
    population: how many live.
    sample: how many compete to be a parent.
    limit: `base.Limit`; what does not meet it is never suggested: the first of
      so many `tries` that does is, or else the cheapest vector.
    tries: see `limit`.

  Raises:
    ValueError: naming the value.
  """
  sizes_d = base.check(sizes, epochs, budget, batch)
  numbers = ('population', population), ('sample', sample), ('tries', tries)
  for name, value in numbers:
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name}={value}; want a positive integer')

  def init(key):
    del key
    archs_pd = jnp.zeros((population, len(sizes_d)), jnp.int32)
    return State(archs_pd, jnp.full(population, jnp.inf))

  def drawn(key, state, count):
    u_nk = draws.floats(key, count, max(len(sizes_d), sample + 2))
    drawn_ns = draws.integers(u_nk[:, :sample], population)
    best_n = jnp.argmin(state.pers_p[drawn_ns], axis=1)
    parent_n = jnp.take_along_axis(drawn_ns, best_n[:, None], axis=1)[:, 0]
    child_nd = jax.vmap(draws.mutate, in_axes=(0, None, 0))(
      u_nk[:, sample : sample + 2], sizes_d, state.archs_pd[parent_n]
    )
    # The same floats serve both: only one of the two is ever used.
    random_nd = draws.integers(u_nk[:, : len(sizes_d)], sizes_d[None])
    full = jnp.isfinite(state.pers_p).all()
    return jnp.where(full, child_nd, random_nd)

  def ask(key, state):
    if limit is None:
      return base.full(drawn(key, state, batch), epochs), state
    arch_md = drawn(key, state, batch * tries)
    meets_nt = limit.meets(arch_md).reshape(batch, tries)
    arch_ntd = arch_md.reshape(batch, tries, len(sizes_d))
    first_n = jnp.argmax(meets_nt, axis=1)
    arch_nd = jnp.take_along_axis(arch_ntd, first_n[:, None, None], 1)[:, 0]
    cheapest_d = jnp.asarray(limit.cheapest, jnp.int32)
    arch_nd = jnp.where(meets_nt.any(1)[:, None], arch_nd, cheapest_d[None])
    return base.full(arch_nd, epochs), state

  def tell(state, suggestion, per_n):
    archs = jnp.concatenate([state.archs_pd, suggestion.arch_nd])
    pers = jnp.concatenate([state.pers_p, per_n.astype(jnp.float32)])
    # What was not trained goes to the front, and falls off with the oldest.
    born = jnp.concatenate(
      [jnp.ones(population, bool), suggestion.epochs_n > 0]
    )
    newest_p = jnp.argsort(born, stable=True)[-population:]
    return State(archs[newest_p], pers[newest_p])

  return base.Searcher(init, ask, tell, batch)
