"""What was searched goes on elsewhere: pruned, or on another corpus.

Chen et al., DARTS-ASR, Interspeech 2020, sections 2.3 and 3.3. A supernet that
was searched on source languages is adapted to a target in one of three ways:

  parameters  weights alone; architecture parameters stay, bit for bit
  both        weights and architecture parameters go on
  pruned      the three largest candidates of each edge are kept, then `both`

A search that is to begin so takes the `State` and the name of its source:

  state = adapting.begun(search, source.supernet, source_state)
  searching.run(search, prepared, fingerprint, out, start=state)
"""

import dataclasses

import jax
import numpy as np

from nasjax.models import common
from nasjax.oneshot import steps

WAYS = ('parameters', 'both', 'pruned')
KEPT = 3


def method(found, way):
  """Returns the `Method` with which a search goes on.

  Args:
    found: the method of the source.
    way: one of `WAYS`.

  Raises:
    ValueError: there is no such way.
  """
  _check(way)
  if way != 'parameters':
    return found
  return dataclasses.replace(
    found, name=f'{found.name}_fixed', single_level=False, arch_every=0
  )


def supernet(source, way, alpha_e, macro):
  """Returns the `Supernet` with which a search goes on.

  Args:
    source: that of the source.
    way: one of `WAYS`.
    alpha_e: architecture parameters of the source.
    macro: the source's macro network but for its outputs.
  """
  _check(way)
  moved = dataclasses.replace(source, macro=macro)
  return moved if way != 'pruned' else pruned_supernet(moved, alpha_e)


def _check(way):
  if way not in WAYS:
    raise ValueError(f'way is {way!r}; it must be one of {", ".join(WAYS)}')


def largest(alpha_e, count=KEPT):
  """Returns for each edge the numbers of its largest candidates, rising.

  Of equal ones the first are taken.
  """
  return [
    np.sort(np.argsort(-np.asarray(alpha_k), kind='stable')[:count])
    for alpha_k in alpha_e
  ]


def pruned_supernet(supernet, alpha_e, count=KEPT):
  """Returns the `Supernet` of each edge's `count` largest candidates."""
  kept = tuple(
    tuple(names[k] for k in numbers)
    for (_, names), numbers in zip(supernet.mains, largest(alpha_e, count))
  )
  return dataclasses.replace(supernet, kept=kept)


def pruned(supernet, state, count=KEPT):
  """Removes all but each edge's `count` largest candidates.

  What is removed is no longer computed: the weights of the others are a softmax
  over these alone, so that their ratios stay.

  Args:
    supernet: `Supernet`, of a space that is no chain.
    state: `steps.State` of it.
    count: how many each edge keeps, or all that it has.

  Returns:
    the smaller `Supernet`, and the state in it: weights, optimisers and
    architecture parameters of what is kept.
  """
  smaller = pruned_supernet(supernet, state.alpha_e, count)
  numbers_e = largest(state.alpha_e, count)
  first_e = np.cumsum([0, *(len(names) for _, names in supernet.mains)])
  kept_g = np.concatenate(
    [first + numbers for first, numbers in zip(first_e, numbers_e)]
  )
  groups = supernet.groups(state.params)

  def of_kept(tree):
    return None if tree is None else _chosen(tree, groups, {-1, *kept_g})

  def of_edge(numbers, tree, size):
    return jax.tree.map(
      lambda leaf: leaf[numbers] if leaf.shape == (size,) else leaf, tree
    )

  alpha_e, alpha_opt = zip(
    *(
      of_edge(numbers, both, alpha_k.size)
      for numbers, alpha_k, both in zip(
        numbers_e, state.alpha_e, zip(state.alpha_e, state.alpha_opt)
      )
    )
  )
  opt = state.opt._replace(
    first=of_kept(state.opt.first),
    second=of_kept(state.opt.second),
    count_g=state.opt.count_g[np.append(kept_g, -1)],
  )
  return smaller, state._replace(
    params=of_kept(state.params), opt=opt, alpha_e=alpha_e, alpha_opt=alpha_opt
  )


def _chosen(tree, groups, wanted):
  """Returns a tree of those leaves whose group is wanted."""
  found = {}
  for name, child in tree.items():
    own = groups[name]
    if isinstance(child, dict):
      below = _chosen(child, own, wanted)
      if below:
        found[name] = below
    elif own in wanted:
      found[name] = child
  return found


def begun(search, source_supernet, source):
  """Returns the first state of a search that goes on from another's.

  Weights of all but the heads are those of the source, and its architecture
  parameters; heads are drawn anew from the search's seed, and optimisers begin
  anew. Where the search's supernet is a pruned one, what it lacks is left out.

  Args:
    search: `search.Search`, with a supernet of `supernet`.
    source_supernet: the `Supernet` that was searched.
    source: its `steps.State`.

  Raises:
    ValueError: the source is of another macro network or of other candidates.
  """
  own = search.supernet
  if own.kept and own.kept != source_supernet.kept:
    count = len(own.kept[0])
    source_supernet, source = pruned(source_supernet, source, count)
  if own.edges != source_supernet.edges:
    raise ValueError(
      f'the search has the candidates {own.mains}, its source '
      f'{source_supernet.mains}; take the supernet of adapting.supernet'
    )
  key = jax.random.key(search.seed)
  first = steps.init(own, search.method, search.weights, key)
  return first._replace(
    params=common.transplanted(first.params, source.params),
    alpha_e=source.alpha_e,
  )
