"""Training of one network: its state and its update.

Written for one member; `population` maps it and spreads it over devices.
"""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from nasjax.layers import dropout
from nasjax.losses import criterion
from nasjax.models import common, families
from nasjax.training import augmentation, optimisers
from nasjax.training.optimisers import one_pass


class Member(NamedTuple):
  """Training state of one network.

  Attributes:
    params: of the network.
    opt_state: of the optimiser.
    step: int32, updates so far.
    alive: bool, False from the first non-finite loss or gradient on; the state
      then stays as it was before that step.
    key: uint32 (2,), the source of dropout.
  """

  params: dict
  opt_state: optax.OptState
  step: jax.Array
  alive: jax.Array
  key: jax.Array


def member_key(seed, cell_key):
  """The key of (seed, architecture), whatever population it stands in.

  Args:
    seed: int.
    cell_key: hexadecimal digest of the architecture (`Space.key`).
  """
  digest = hashlib.sha256(f'{seed}/{cell_key}'.encode()).digest()
  return jax.random.wrap_key_data(
    jnp.asarray(np.frombuffer(digest[:8], np.uint32)), impl='threefry2x32'
  )


def init_member(network, recipe, key, gates):
  """Returns the first state of one network, in its form."""
  params = common.initial_params(network, jax.random.fold_in(key, 0), gates)
  params = families.form(network).pack(params)
  return Member(
    params,
    optimisers.of(recipe, network.kernels).init(params),
    jnp.zeros((), jnp.int32),
    jnp.ones((), bool),
    jax.random.key_data(jax.random.fold_in(key, 1)),
  )


def reordered(member, function):
  """Returns a member with all that is like its parameters reordered.

  Args:
    member: `Member`, of one network or of many.
    function: `pack` or `unpack` of the network's form.
  """
  return member._replace(
    params=function(member.params),
    opt_state=optimisers.like_params(function, member.opt_state, member.params),
  )


def forward(
  network,
  recipe,
  params,
  gates,
  batch,
  key=None,
  axis=None,
  constants=None,
):
  """Runs a network on a batch.

  Args:
    network: `Network`.
    recipe: `Recipe`.
    params: of the network, in its form (`families.form`).
    gates: `cells.Gates`.
    batch: `Batch`.
    key: of dropout and of what the recipe hides, None to switch both off.
    axis: as in `ctc.mean_ctc_loss`.
    constants: of the recipe's `criterion.Criterion`.

  Returns:
    the mean loss of the batch, and the outputs, which the criterion reads. With
    the recipe's `consistency` the loss is the mean of that of two views and its
    regularisation; the outputs are those of the first.

  Raises:
    ValueError: as `observed`.
  """
  found = observed(
    network, recipe, params, gates, batch, key, axis, constants
  )
  return found[:2]


def observed(
  network, recipe, params, gates, batch, key=None, axis=None, constants=None
):
  """Runs a network on a batch, as `forward` does.

  Returns:
    loss and outputs, and what of the parameters a step replaces
    (`families.observed`), seen in the first view.

  Raises:
    ValueError: the recipe's loss is unknown, or its constants are missing, or
      the outputs of two views cannot be compared.
  """
  held = criterion.of(recipe)

  def view(key):
    x_btf = batch.x_btf
    if key is not None and (recipe.frequency_masks or recipe.time_masks):
      x_btf = augmentation.masked(x_btf, batch.len_b, key, recipe)
    rest = () if batch.language_b is None else (batch.language_b,)
    outputs, seen = families.observed(
      network, params, x_btf, batch.len_b, gates, key, *rest
    )
    return outputs, seen, held.loss(
      outputs, batch, constants, recipe, network.kernels, axis
    )

  outputs, seen, loss = view(key)
  if key is None or not recipe.consistency:
    return loss, outputs, seen
  if held.consistency is None:
    raise ValueError(
      f'recipe {recipe.name}: consistency={recipe.consistency!r} is for losses '
      f'whose outputs can be compared; loss={recipe.loss!r} has none'
    )
  others, _, another = view(dropout.another(key))
  apart = held.consistency(outputs, others, batch, recipe, axis)
  return (loss + another) / 2 + recipe.consistency * apart, outputs, seen


def make_train_step(network, recipe, axis=None):
  """Returns the update of one network. `vmap` it to train a population.

  Args:
    network: `Network`.
    recipe: `Recipe`.
    axis: name of the mapped axis over whose devices the rows of each batch are
      spread, in order and equally many on each; None if they are together.
      Every device then makes the same update.

  Returns:
    function of (member, gates, batch, lr, constants) that returns the member
    after the update, and its loss. At a learning rate of 0 there is no update:
    the member stays as it is, its optimiser included.

  Raises:
    ValueError: batches are spread, and the network keeps statistics of them.
  """
  if axis is not None and families.keeps_statistics(network):
    raise ValueError(
      f'macro {network.macro.name}: its networks normalise by statistics of a '
      'batch, which must not be spread over devices; leave out --data_devices'
    )

  def train_step(member, gates, batch, lr, constants=None):
    key = dropout.step_key(
      jax.random.wrap_key_data(member.key, impl='threefry2x32'), member.step
    )
    if axis is not None:
      rows = batch.weight_b.shape[0]
      key = dropout.from_row(key, lax.axis_index(axis) * rows)
    # What each device computes is summed over all: L2 must count once.
    devices = 1 if axis is None else lax.axis_size(axis)
    l2 = recipe.l2 / devices

    def objective(params):
      loss, _, seen = observed(
        network, recipe, params, gates, batch, key, axis, constants
      )
      if not recipe.l2:
        return loss, (loss, seen)
      return loss + l2 * families.l2(network, params), (loss, seen)

    (_, (loss, seen)), grads = jax.value_and_grad(objective, has_aux=True)(
      member.params
    )
    if axis is not None:
      loss, grads = lax.psum((loss, grads), axis)
    trains = lr > 0
    params, opt_state, made = one_pass.step(
      optimisers.of(recipe, network.kernels, lr),
      grads,
      member.opt_state,
      member.params,
      member.alive & trains & jnp.isfinite(loss),
    )
    params = families.replaced(params, seen, made)
    step, alive = member.step + made, jnp.where(trains, made, member.alive)
    return Member(params, opt_state, step, alive, member.key), loss

  return train_step


def make_score(network, recipe, widest, longest):
  """Returns the evaluation of one network on a batch.

  Args:
    network: `Network`.
    recipe: `Recipe`, for its loss and its decoder.
    widest, longest: rows and columns that decoded labels are padded to.

  Returns:
    function of (params, gates, batch, constants) that returns the sum of the
    normalised losses, the number of utterances in it (those that are valid),
    labels_bl (int16, 0 behind the end) and their lengths.
  """
  held = criterion.of(recipe)

  def score(params, gates, batch, constants=None):
    loss, outputs = forward(
      network, recipe, params, gates, batch, constants=constants
    )
    labels_bl, length_b = held.decode(outputs, recipe)
    rows, columns = widest - labels_bl.shape[0], longest - labels_bl.shape[1]
    labels_bl = jnp.pad(labels_bl.astype(jnp.int16), ((0, rows), (0, columns)))
    # The mean was over the rows that are valid: so must the sum be.
    count = jnp.sum(batch.weight_b * held.valid(outputs, batch))
    return loss * count, count, labels_bl, jnp.pad(length_b, (0, rows))

  return score
