"""Which networks run the architectures of which space: families.

A family is one record of pure functions, an entry of one dict. Nobody else asks
which space or which macro network it has.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from nasjax import kernels, spaces
from nasjax.models import macros
from nasjax.models.base import PLAIN, Form, Numbers, nothing
from nasjax.models.base import Family as Family
from nasjax.models.conformer import family as conformer
from nasjax.models.darts_asr import family as darts_asr
from nasjax.models.nb_asr import family as nb_asr
from nasjax.models.nb_asr.cell import stack as stack
from nasjax.models.st_nas import family as st_nas
from nasjax.models.todm import family as todm
from nasjax.models.transducer import family as transducer


def _of_space(family, name):
  """Returns a family with the macro networks of one of its spaces."""
  return dataclasses.replace(family, macros=macros.BY_SPACE[name])


# By the name of a space.
FAMILIES = {
  'nb_asr': nb_asr.FAMILY,
  'st_nas': st_nas.FAMILY,
  'st_nas_swbd': st_nas.FAMILY,
  'todm': _of_space(todm.FAMILY, 'todm'),
  'todm_small': _of_space(todm.FAMILY, 'todm_small'),
  'todm_low_rank': _of_space(todm.FAMILY, 'todm_low_rank'),
  'transducer': transducer.FAMILY,
  'darts_asr': darts_asr.FAMILY,
  'vgg': darts_asr.VGG,
  'conformer': _of_space(conformer.FAMILY, 'conformer'),
  'conformer_small': _of_space(conformer.FAMILY, 'conformer_small'),
}
MACROS = {n: m for found in FAMILIES.values() for n, m in found.macros.items()}
_OURS = tuple(FAMILIES)


def add(space, family):
  """Makes a space of one's own known to launchers, tables and searches.

  Args:
    space: `spaces.Space`; one of the same name that was added before goes.
    family: the `Family` of its networks, perhaps one that there is already.

  Raises:
    ValueError: the name is that of a space of nasjax.
  """
  if space.name in _OURS:
    raise ValueError(
      f'space {space.name!r} is one of nasjax: {", ".join(_OURS)}; give yours '
      'another name'
    )
  spaces.SPACES[space.name] = space
  macros.BY_SPACE[space.name] = family.macros
  FAMILIES[space.name] = family


def family(space):
  """Returns the `Family` of a space.

  Raises:
    ValueError: there is none.
  """
  if space.name not in FAMILIES:
    raise ValueError(
      f'no network for space {space.name!r}; there are networks for '
      f'{", ".join(FAMILIES)}'
    )
  return FAMILIES[space.name]


def _family_of(network):
  for found in FAMILIES.values():
    if type(network) is found.Network:
      return found
  raise ValueError(f'{type(network).__name__} is the Network of no family')


def check(space, macro):
  """Raises a ValueError unless `macro` is a macro network of `space`."""
  found = family(space)
  if not isinstance(macro, type(next(iter(found.macros.values())))):
    raise ValueError(
      f'macro {macro.name!r} is none of space {space.name}; take one of '
      f'{", ".join(found.macros)}'
    )
  found.fits(space, macro)


def made(space, macro, ops, numbers=PLAIN):
  """Returns the linen module of a family, once `check` let both through.

  Args:
    space: search space.
    macro: its macro network, of `Family.macros` or like one of them.
    ops: for each place the names of its candidates.
    numbers: `Numbers`.
  """
  check(space, macro)
  if numbers.precision == 'int8' and any(len(names) > 1 for names in ops):
    raise ValueError(_unrounded('a supernet'))
  if numbers.precision == 'int8' and not family(space).eight_bits:
    raise ValueError(_unrounded(f'networks of space {space.name}'))
  return family(space).Network(macro, ops, *numbers)


def _unrounded(what):
  able = [name for name, found in FAMILIES.items() if found.eight_bits]
  return (
    f"precision='int8': {what} cannot be trained for eight bits; plain "
    f'networks of {", ".join(able)} can'
  )


def macro(space, values):
  """Returns a macro network of a space from its values as JSON has them."""
  kind = type(next(iter(family(space).macros.values())))
  return kind(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
  )


def _numbers(recipe, kernels_name, mode='mixed'):
  return Numbers(
    recipe.dropout, recipe.conv_dropout, kernels_name, recipe.precision, mode
  )


def network(space, arch, macro, recipe, platform=None, checkpoint=True):
  """Returns the network that all architectures of one signature share.

  Args:
    space: search space.
    arch: one architecture of it.
    macro: as in `made`.
    recipe: `Recipe`.
    platform: as in `kernels.choose`.
    checkpoint: as in `models.Network`; without a form of its own a network has
      no use for it.

  Returns:
    a linen module; see `Family.Network`.

  Raises:
    ValueError: of `check`.
  """
  macros.check_loss(macro, recipe.loss)
  ops = tuple((kind,) for kind in signature(space, arch))
  numbers = _numbers(recipe, kernels.choose(platform))
  found = made(space, macro, ops, numbers)
  if checkpoint and family(space).form(found) is not None:
    return dataclasses.replace(found, checkpoint=True)
  return found


@functools.lru_cache(maxsize=256)
def form(network):
  """Returns the `Form` in which a network is trained and run.

  On CPUs, and where there is none for accelerators (supernets, TDNNs), that is
  the network itself.
  """
  found = _family_of(network).form(network)
  if found is not None:
    return found

  def itself(params, lead=0):
    del lead
    return params

  def apply(params, *inputs):
    return network.apply({'params': params}, *inputs)

  def observe(params, *inputs):
    outputs, held = network.apply(
      {'params': params}, *inputs, mutable=['statistics']
    )
    return outputs, held.get('statistics', {})

  keeps = _family_of(network).statistics
  return Form(itself, itself, apply, observe if keeps else None)


def keeps_statistics(network):
  """Tells whether the network has statistics among its parameters."""
  return form(network).observe is not None


def observed(network, params, *inputs):
  """Runs a network in training, as `Form.apply`.

  Returns:
    its outputs, and what `replaced` is to put into its parameters.
  """
  found = form(network)
  if found.observe is None:
    return found.apply(params, *inputs), {}
  return found.observe(params, *inputs)


def replaced(params, seen, made=True):
  """Returns parameters with the statistics of a batch, if a step was `made`.

  Args:
    params: of the network.
    seen: of `observed`; a tree of some leaves of `params`.
    made: bool.
  """
  if not isinstance(seen, dict):
    return jnp.where(made, seen, params)
  return {
    name: replaced(leaf, seen[name], made) if name in seen else leaf
    for name, leaf in params.items()
  }


def inputs(network, batch):
  """Returns what a network is called with behind the key, of a batch."""
  return tuple(getattr(batch, name) for name in _family_of(network).inputs)


def l2(network, params):
  """Returns the sum of squares of the parameters that L2 decays."""
  return _family_of(network).l2(params)


def spared_flops(network, space, arch, frames, batch):
  """FLOPs of a step that kernels name and do not run for `arch`.

  See `accelerated.spared_flops`; 0 where a network has no form of its own.
  """
  found = family(space)
  if found.form(network) is None:
    return 0
  return found.spared_flops(network, found.ops(space, arch), frames, batch)


def single(space, arch, macro, rate=0.0):
  """Returns the plain network of one architecture, its operations fixed."""
  ops = tuple((name,) for name in family(space).ops(space, arch))
  return made(space, macro, ops, Numbers(rate))


def unpack(space, arch, params):
  """Turns a population member's parameters into those of `single`."""
  return family(space).unpack(space, arch, params)


def gates(space, arch):
  """Returns what tells `arch` apart in the program of its signature."""
  return family(space).gates(space, arch)


def signature(space, arch):
  """Returns for each node which arithmetic it needs, a tuple of str.

  Architectures of equal signature run in one program.
  """
  return family(space).signature(space, arch)


def alone(space, arch):
  """Returns what tells which program runs one architecture by itself."""
  found = family(space)
  return (found.alone or found.signature)(space, arch)


def supernet(space, ops, macro, recipe, mode, twice=False, platform=None):
  """Returns the network of several candidates a node.

  Args:
    space: search space.
    ops: for each node, the names of its candidates.
    macro: its macro network.
    recipe: `Recipe`, for dropout and precision.
    mode: of `mixed_op.MODES`.
    twice: whether it will be differentiated twice.
    platform: as in `kernels.choose`.

  Returns:
    a linen module; see `Family.Network`.
  """
  macros.check_loss(macro, recipe.loss)
  found = family(space)
  # Of one candidate each they are a network by itself.
  if found.supernet_gates is nothing and max(map(len, ops)) > 1:
    why = 'each network has weights of its own'
    if found.elastic is not None:
      why = 'its networks are parts of one another (experiments/todm.py)'
    raise ValueError(f'candidates of space {space.name} are not mixed; {why}')
  kind = kernels.choose(platform)
  if twice and kind == 'native':
    kind = 'twice'
  return made(space, macro, ops, _numbers(recipe, kind, mode))


def elastic(space):
  """Returns the `base.Elastic` of a space.

  Raises:
    ValueError: no network of it is a part of another.
  """
  found = family(space).elastic
  if found is None:
    able = [name for name, one in FAMILIES.items() if one.elastic is not None]
    raise ValueError(
      f'no network of space {space.name} is a part of another; there are '
      f'elastic ones of {", ".join(able)}'
    )
  return found


def elastic_network(space, macro, recipe, adaptive=True, exits=()):
  """Returns the network of which all others of a space are a part.

  Args:
    space: search space.
    macro: its macro network.
    recipe: `Recipe`, for dropout and precision.
    adaptive, exits: see `base.Elastic.network`.

  Raises:
    ValueError: of `check`, `macros.check_loss` or `elastic`.
  """
  check(space, macro)
  macros.check_loss(macro, recipe.loss)
  if recipe.precision == 'int8':
    raise ValueError(_unrounded('an elastic network'))
  numbers = _numbers(recipe, 'xla')
  return elastic(space).network(space, macro, numbers, adaptive, exits)


def groups(space, edges, params):
  """Says which candidate each parameter of a supernet belongs to.

  Args:
    space: search space.
    edges: pairs of a name and the names of candidates.
    params: of the supernet.

  Returns:
    a tree like `params` of ints: candidates are numbered through the edges; -1
    for what every network has.
  """
  first_e = np.cumsum([0, *(len(names) for _, names in edges)])
  find = family(space).candidate

  def group(path, leaf):
    del leaf
    found = find([entry.key for entry in path], edges)
    return -1 if found is None else int(first_e[found[0]]) + found[1]

  return jax.tree_util.tree_map_with_path(group, params)
