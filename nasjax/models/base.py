"""The contracts of networks: what a family is, and the form of a network."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nasjax.models import common


class Numbers(NamedTuple):
  """What a network is made of beside its macro network and its operations.

  Attributes:
    rate: of dropout.
    conv_dropout: whether convolutions drop, too.
    kernels: what `kernels.choose` returned.
    precision: of dense products, as `recipes.Recipe` has it.
    mode: how several candidates are put together, of `mixed_op.MODES`.
  """

  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'


PLAIN = Numbers()


class Form(NamedTuple):
  """How a network lies on a device, and how it is computed there.

  Attributes:
    pack: function of (params, lead=0) that takes the parameters of
      the linen module to those of the form; `lead` leading axes come before
      the network's own. Linear, so moments of optimisers go the same way.
    unpack: its inverse. Both keep NumPy arrays on the host.
    apply: function of (params, x_btf, len_b, gates, key, *rest), the same as
      `network.apply` but for the order of parameters; `rest` is what
      `Family.inputs` names of a batch.
    observe: as `apply`, in training: returns the outputs, and what of the
      parameters is to be replaced (`Family.statistics`); None where nothing is.
  """

  pack: Callable
  unpack: Callable
  apply: Callable
  observe: Callable | None = None


def nothing(*_):
  return None


class Elastic(NamedTuple):
  """How the networks of a space are parts of the largest one's.

  Attributes:
    network: (space, macro, numbers, adaptive, exits) -> linen module of the
      largest, called as `Family.Network` is.
      `adaptive`: whether narrower parts drop less; `exits`: layers with an
      output of their own, which its method `with_exits` also returns.
    gates: (space, arch) -> what picks `arch` in it, NumPy.
    extract: (space, arch, macro, params) -> parameters of `families.single`,
      views of the largest one's.
    largest, smallest: space -> their architectures.
    whole: space -> gates of the largest.
    exits: space -> layers where a smaller network may end.
    parts: space -> what one choice of a decision adds to another, triples of a
      decision's number and those of the choices before and after, in order from
      the smallest on; () where that is not known.
    pull: (space, params, grads) -> the gradient by a gate of 1 at each part's
      output, from that by the weights.
  """

  network: Callable
  gates: Callable
  extract: Callable
  largest: Callable
  smallest: Callable
  whole: Callable
  exits: Callable = lambda space: ()
  parts: Callable = lambda space: ()
  pull: Callable = nothing


def _fits(space, macro):
  del space, macro


def choices(space, arch):
  """Returns the choice at each decision: an operation at each place."""
  return space.names_of_choices(arch)


def _no_gates(space, arch):
  # Each architecture has a program of its own: nothing is left to tell.
  del space, arch
  return ()


def _as_it_is(space, arch, params):
  del space, arch
  return params


@dataclasses.dataclass(frozen=True)
class Family:
  """The networks of some spaces.

  A macro network is a frozen dataclass of plain values, for JSON, with `name`,
  `features` (input channels), `outputs`, `reduction` (input frames for each of
  the output), `output_frames(frames)` and `with_outputs(outputs)`;
  `macros.Plain` has no more. Its macro networks and its `Network` make a
  family, in which each architecture has a program of its own.

  Attributes:
    macros: macro networks by name, all of one class.
    Network: class of linen modules whose attributes are the macro network,
      `ops` (for each place the names of its candidates) and the `Numbers`;
      called with x_btf, len_b, gates and a dropout key, it returns what the
      criterion reads: logits_btv and their lengths.
    ops: (space, arch) -> the operation at each place of the plain network; the
      choice at each decision if not given.
    signature: (space, arch) -> tuple of str, the arithmetic that each place
      needs: architectures of equal signature run in one program.
    gates: (space, arch) -> what tells `arch` apart in that program, NumPy.
    unpack: (space, arch, params) -> parameters of the plain network from those
      of a member of the program.
    params: (space, arch, macro) -> how many there are; None to have them
      counted in the network (`counting`).
    macs: (space, arch, macro, frames) -> multiply-accumulates; likewise.
    l2: params -> the sum of squares that L2 decays.
    fits: (space, macro); raises a ValueError where they do not go together.
    supernet_gates: (space, edges, edge_e) -> gates of a supernet, from the
      `mixed_op.Edge` of each of its edges (pairs of a name and candidates).
    candidate: (path, edges) -> edge and candidate that a parameter belongs to,
      or None; path are the names that lead to it.
    form: network -> its `Form`, None where it runs as it stands.
    spared_flops: (network, ops, frames, batch) -> FLOPs of a step that kernels
      name and do not run.
    alone: (space, arch) -> what tells which program runs one architecture by
      itself; `signature` if not given.
    baselines: architectures by name that people made, to be beaten.
    inputs: names of arrays of a batch (`training.batches.Batch`) that its
      networks are called with behind the key: labels for a predictor, or
      languages. They do without where nobody has them.
    elastic: `Elastic`, None where no network is a part of another.
    statistics: whether networks keep statistics of the batches that they were
      trained with. Such a network has them among its parameters, so that
      whatever keeps or moves these does so with them, and no gradient reaches
      them; in training, that is with a dropout key, it sows what they become in
      the collection 'statistics', under the names that they have there. They
      move by a share of the way to a batch's, the macro network's `momentum`.
    eight_bits: whether plain networks round where their precision is 'int8'.
  """

  macros: Mapping[str, Any]
  Network: type
  ops: Callable = choices
  signature: Callable = choices
  gates: Callable = _no_gates
  unpack: Callable = _as_it_is
  params: Callable | None = None
  macs: Callable | None = None
  l2: Callable = common.conv_kernel_norm
  fits: Callable = _fits
  supernet_gates: Callable = nothing
  candidate: Callable = nothing
  form: Callable = nothing
  spared_flops: Callable = lambda *_: 0
  alone: Callable | None = None
  baselines: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  inputs: tuple[str, ...] = ()
  elastic: Elastic | None = None
  statistics: bool = False
  eight_bits: bool = False
