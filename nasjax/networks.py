"""Which network runs the architectures of which space.

`models` has the networks of NB-ASR, `cells` what tells its cells apart; `tdnn`
has both for the spaces of ST-NAS. Whoever works with any space asks here.
"""

import dataclasses
import functools

from nasjax import accelerated, cells, kernels, models, tdnn
from nasjax.cells import stack as stack

# By the name of a space: the module of its networks, and that of its gates.
_MODELS = {'nb_asr': models, 'st_nas': tdnn, 'st_nas_swbd': tdnn}
_GATES = {'nb_asr': cells, 'st_nas': tdnn, 'st_nas_swbd': tdnn}
MACROS = models.MACROS | tdnn.MACROS


def _of(modules, space):
  if space.name not in modules:
    raise ValueError(
      f'no network for space {space.name!r}; there are networks for '
      f'{", ".join(modules)}'
    )
  return modules[space.name]


def check(space, macro):
  """Raises a ValueError unless `macro` is a macro network of `space`."""
  module = _of(_MODELS, space)
  if not isinstance(macro, module.Macro):
    raise ValueError(
      f'macro {macro.name!r} is none of space {space.name}; take one of '
      f'{", ".join(module.MACROS)}'
    )
  if module is tdnn and macro.before + macro.after != space.nodes:
    raise ValueError(
      f'macro {macro.name!r} has {macro.before} + {macro.after} blocks, space '
      f'{space.name} has {space.nodes}'
    )


def network_class(space, macro):
  """Returns the class `Network` of a space, once `check` let both through.

  All are called with macro, ops, rate, conv_dropout, kernels, precision, mode;
  see `models.Network`.
  """
  check(space, macro)
  return _of(_MODELS, space).Network


def network(space, arch, macro, recipe, platform=None, checkpoint=True):
  """Returns the network that all architectures of one signature share.

  Args:
    space: search space.
    arch: one architecture of it.
    macro: its macro network, of `MACROS` or like one of them.
    recipe: `Recipe`.
    platform: as in `kernels.choose`.
    checkpoint: as in `models.Network`; on CPUs it has no meaning.

  Returns:
    a linen module, called as `models.Network` is.

  Raises:
    ValueError: of `check`.
  """
  found = network_class(space, macro)(
    macro,
    tuple((kind,) for kind in signature(space, arch)),
    recipe.dropout,
    recipe.conv_dropout,
    kernels.choose(platform),
    recipe.precision,
  )
  if checkpoint and _has_form(found):
    return dataclasses.replace(found, checkpoint=True)
  return found


def _has_form(network):
  return isinstance(network, models.Network) and accelerated.supports(network)


@functools.lru_cache(maxsize=256)
def form(network):
  """Returns the `accelerated.Form` in which a network is trained and run.

  On CPUs, and where there is none for accelerators (supernets, TDNNs), that is
  the network itself.
  """
  if _has_form(network):
    return accelerated.make(network)

  def itself(params, lead=0):
    del lead
    return params

  def apply(params, *inputs):
    return network.apply({'params': params}, *inputs)

  return accelerated.Form(itself, itself, apply)


def spared_flops(network, space, arch, frames, batch):
  """FLOPs of a step that kernels name and do not run for `arch`.

  See `accelerated.spared_flops`; 0 where a network has no form of its own.
  """
  if not _has_form(network):
    return 0
  return accelerated.spared_flops(
    network, space.main_ops(arch), frames, batch
  )


def single(space, arch, macro, rate=0.0):
  """Returns the plain network of one architecture, its operations fixed."""
  check(space, macro)
  return _of(_MODELS, space).single(space, arch, macro, rate)


def unpack(space, arch, params):
  """Turns a population member's parameters into those of `single`."""
  return _of(_MODELS, space).unpack(space, arch, params)


def gates(space, arch):
  """Returns what tells `arch` apart in the program of its signature."""
  return _of(_GATES, space).gates(space, arch)


def signature(space, arch):
  """Returns for each node which arithmetic it needs, a tuple of str.

  Architectures of equal signature run in one program.
  """
  return _of(_GATES, space).signature(space, arch)


def supernet(space, ops, macro, recipe, mode, twice=False, platform=None):
  """Returns the network of several candidates a node.

  Args:
    space: search space.
    ops: for each node, the names of its candidates.
    macro: its macro network.
    recipe: `Recipe`, for dropout and precision.
    mode: of `mixing.MODES`.
    twice: whether it will be differentiated twice.
    platform: as in `kernels.choose`.

  Returns:
    a linen module, called as `models.Network` is.
  """
  kind = kernels.choose(platform)
  if twice and kind == 'native':
    kind = 'twice'
  return network_class(space, macro)(
    macro, ops, recipe.dropout, recipe.conv_dropout, kind, recipe.precision,
    mode,
  )  # fmt: skip


def supernet_gates(space, op_no, skip_nm, index_n, other_n):
  """Returns the gates of a supernet.

  Args:
    space: search space.
    op_no: for each node, the weights of its candidates.
    skip_nm: as in `cells.Gates`; a space without skips ignores it.
    index_n, other_n: int32 [nodes], as in `mixing.Edge`.
  """
  if _of(_GATES, space) is cells:
    return cells.Gates(op_no, skip_nm, None, index_n, other_n)
  return tdnn.Gates(op_no, None, index_n, other_n)
