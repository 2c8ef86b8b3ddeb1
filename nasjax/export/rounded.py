"""Networks as their files of eight bits compute, in JAX: many at a time.

Weights and the inputs of products are rounded as `quantise.static` has them,
with ranges of the same calibration utterances; what the file leaves in float32
stays so. Sums are made in another order, so now and then an input falls to the
next step: error rates agree, logits to about such a step.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nasjax import listening
from nasjax.export.text import ExportError
from nasjax.layers import eight_bits
from nasjax.losses import criterion
from nasjax.models import families
from nasjax.programs import keeping

# Utterances of a call.
BATCH = 16


@dataclasses.dataclass(frozen=True, eq=False)
class RoundedNetwork(listening.TrainedNetwork):
  """A network that hears as its file of eight bits does.

  Attributes:
    steps: the collection `eight_bits.STEPS` of its module.
  """

  steps: Any = None

  @property
  def variables(self):
    return {'params': self.params, eight_bits.STEPS: self.steps}

  def logits(self, x_btf, len_b):
    """Returns logits_btv and the frames of each, NumPy."""
    outputs = _apply(self.module)(self.variables, self.gates, x_btf, len_b)
    return tuple(map(np.asarray, outputs))


@keeping.kept(16)
def _apply(module):
  return jax.jit(
    lambda variables, gates, x_btf, len_b: module.apply(
      variables, x_btf, len_b, gates
    )
  )


def of(network, calibration):
  """Returns the `RoundedNetwork` of a `listening.TrainedNetwork`.

  Args:
    network: of a family that rounds.
    calibration: as `onnx.save` takes it.

  Raises:
    ExportError: its family does not, or there is nothing to calibrate on.
  """
  one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], network.params)
  gates = jax.tree.map(lambda leaf: np.asarray(leaf)[None], network.gates)
  members = Members(
    network.space, network.macro, network.module, network.recipe, one, gates
  )
  steps_p = members.steps(calibration)
  names = [field.name for field in dataclasses.fields(network)]
  fields = {name: getattr(network, name) for name in names}
  module = dataclasses.replace(network.module, precision=eight_bits.PRECISION)
  return RoundedNetwork(
    **fields | {'module': module},
    steps=jax.tree.map(lambda leaf_p: leaf_p[0], steps_p),
  )


class Heard(NamedTuple):
  """What members heard: labels of each utterance, for each member."""

  float_pu: list
  int8_pu: list


class Members:
  """Networks of one program, with their weights."""

  def __init__(self, space, macro, module, recipe, params_p, gates_p):
    """
    Args:
      space, macro: of the networks.
      module: linen module that all of them are.
      recipe: `Recipe`, for its criterion and its decoder.
      params_p, gates_p: of the members, a leading axis each.

    Raises:
      ExportError: their family does not round.
    """
    if not families.family(space).eight_bits:
      able = [n for n, one in families.FAMILIES.items() if one.eight_bits]
      raise ExportError(
        f'networks of space {space.name} have no eight bits; those of '
        f'{", ".join(able)} have'
      )
    self._macro, self._module, self._recipe = macro, module, recipe
    self._params_p, self._gates_p = params_p, gates_p

  def steps(self, calibration):
    """Returns the steps of each member's inputs, a tree of float32 [p, 2].

    Args:
      calibration: a list of features x_tf, of training utterances.
    """
    calibration = [np.asarray(x, np.float32) for x in calibration if len(x)]
    if not calibration:
      raise ExportError(
        'no utterance to calibrate eight bits on; give features of some dozens'
      )
    run = _programs(self._module, self._recipe)[0]
    ranges = None
    for x_btf, len_b in batches(calibration, self._macro.reduction):
      _, found = run(self._params_p, self._gates_p, x_btf, len_b)
      found = jax.tree.map(np.asarray, found)
      ranges = found if ranges is None else jax.tree.map(_wider, ranges, found)
    return jax.tree.map(
      lambda range_p2: np.stack([eight_bits.steps(*pair) for pair in range_p2]),
      ranges,
    )

  def hear(self, utterances, steps_p):
    """Returns what float32 and eight bits hear, `Heard`.

    Args:
      utterances: a list of features x_tf.
      steps_p: of `steps`.
    """
    whole, rounded = _programs(self._module, self._recipe)
    float_pu, int8_pu = [], []
    given = self._params_p, self._gates_p
    for x_btf, len_b in batches(utterances, self._macro.reduction):
      found, _ = whole(*given, x_btf, len_b)
      float_pu.append(_labels(found))
      found = rounded(*given, steps_p, x_btf, len_b)
      int8_pu.append(_labels(found))
    count = len(utterances)
    return Heard(
      *([sum(rows, [])[:count] for rows in zip(*parts)]
        for parts in (float_pu, int8_pu))
    )  # fmt: skip


def _wider(one_p2, other_p2):
  low_p = np.minimum(one_p2[:, 0], other_p2[:, 0])
  return np.stack([low_p, np.maximum(one_p2[:, 1], other_p2[:, 1])], 1)


def _labels(found):
  """Returns the labels of each utterance of a batch, for each member."""
  labels_pbl, length_pb = map(np.asarray, found)
  return [
    [labels_l[:n].astype(np.int32) for labels_l, n in zip(*member)]
    for member in zip(labels_pbl, length_pb)
  ]


def batches(utterances, multiple):
  """Yields x_btf and len_b of all utterances, every batch of one shape.

  Frames are a multiple of so many; rows that are left over have none.
  """
  frames = -(-max(map(len, utterances)) // multiple) * multiple
  shape = BATCH, frames, utterances[0].shape[1]
  for first in range(0, len(utterances), BATCH):
    x_btf, len_b = np.zeros(shape, np.float32), np.zeros(BATCH, np.int32)
    for b, x_tf in enumerate(utterances[first : first + BATCH]):
      x_btf[b, : len(x_tf)], len_b[b] = x_tf, len(x_tf)
    yield x_btf, len_b


@keeping.kept(64)
def _programs(module, recipe):
  """Returns the programs of a module in float32 and in eight bits.

  Members take turns: on CPUs weights stay in the cache, and nothing depends on
  who else is there.
  """
  held = criterion.of(recipe)
  # Of what was trained for eight bits the weights are float32, too.
  precision = 'bfloat16' if recipe.precision == 'bfloat16' else 'float32'
  whole = dataclasses.replace(module, precision=precision)
  rounded = dataclasses.replace(module, precision=eight_bits.PRECISION)

  @jax.jit
  def watch(params_p, gates_p, x_btf, len_b):
    def one(member):
      params, gates = member
      outputs, seen = whole.apply(
        {'params': params}, x_btf, len_b, gates, mutable=[eight_bits.SEEN]
      )
      ranges = jax.tree.map(
        lambda seen_bt2: _range(seen_bt2, x_btf.shape[1], len_b),
        seen[eight_bits.SEEN],
      )
      return held.decode(outputs, recipe), ranges

    return jax.lax.map(one, (params_p, gates_p))

  @jax.jit
  def run(params_p, gates_p, steps_p, x_btf, len_b):
    def one(member):
      params, gates, steps = member
      variables = {'params': params, eight_bits.STEPS: steps}
      outputs = rounded.apply(variables, x_btf, len_b, gates)
      return held.decode(outputs, recipe)

    return jax.lax.map(one, (params_p, gates_p, steps_p))

  return watch, run


def _range(seen_bt2, frames, len_b):
  """Returns the lowest and the highest number of valid frames, [2]."""
  t = seen_bt2.shape[1]
  valid_bt = jnp.arange(t)[None] < -(-len_b // (frames // t))[:, None]
  low = jnp.where(valid_bt, seen_bt2[..., 0], jnp.inf).min()
  return jnp.stack([low, jnp.where(valid_bt, seen_bt2[..., 1], -jnp.inf).max()])
