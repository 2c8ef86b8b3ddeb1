"""Training of a population: many different networks as one program.

Everything is written for one member and mapped. A member's result does not
depend on its neighbours: its parameters and its dropout come from one key,
made of (seed, architecture); its batches from (seed, epoch).

All of that is equal bit for bit in every population. So is what training makes
of it in one program, in any place and beside any members, diverging ones
included. Another size, other streams or devices are another program, which may
round otherwise: after ten steps on CPUs parameters and losses agree to 1e-5
(measured: 8e-7); the difference grows with training.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from nasjax.data import batching
from nasjax.losses import criterion
from nasjax.programs import chips, keeping
from nasjax.training.batches import ROW as ROW
from nasjax.training.batches import Data as Data
from nasjax.training.batches import device_data as device_data
from nasjax.training.batches import features_dtype as features_dtype
from nasjax.training.batches import gather
from nasjax.training.step import init_member, make_score, make_train_step
from nasjax.training.step import member_key as member_key


def _divisor(members, most):
  """Returns the largest divisor of `members` up to `most`, at least 1."""
  if most is None:
    return members
  return max(
    n for n in range(1, members + 1) if members % n == 0 and n <= max(most, 1)
  )


def _group(tree_p, start, size):
  """Returns `size` members of a population from `start` on."""
  return jax.tree.map(
    lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), tree_p
  )


def _only(tree_p):
  """Takes the one member of a population out of it."""
  return jax.tree.map(lambda leaf: leaf[0], tree_p)


def _population(tree):
  """Makes a population of one member."""
  return jax.tree.map(lambda leaf: leaf[None], tree)


def _unmapped(function, axes):
  del axes
  return function


def _train_in_turns(train_pass, at_once):
  """Lets groups of `at_once` members run the whole pass one after the other.

  So the weights of each group are copied once a pass, not once a step.
  """

  def train(members_p, gates_p, row_p, lr_p, *shared):
    members = members_p.step.shape[0]
    size = _divisor(members, at_once)
    if size == members:
      return train_pass(members_p, gates_p, row_p, lr_p, *shared)

    # The population is what the loop carries, so that it changes in place.
    def body(g, carry):
      start = g * size
      new = train_pass(
        *_group((carry[0], gates_p, row_p, lr_p), start, size), *shared
      )
      return jax.tree.map(
        lambda all_p, new_p: lax.dynamic_update_slice_in_dim(
          all_p, new_p, start, 0
        ),
        carry,
        new,
      )

    zeros_p = jnp.zeros_like(members_p.step, jnp.float32)
    return lax.fori_loop(0, members // size, body, (members_p, zeros_p))

  return train


def _eval_in_turns(eval_pass, at_once):
  """As `_train_in_turns`, for the evaluation, which changes no population."""

  def evaluate(params_p, gates_p, *shared):
    members = jax.tree.leaves(params_p)[0].shape[0]
    size = _divisor(members, at_once)
    if size == members:
      return eval_pass(params_p, gates_p, *shared)
    results = lax.map(
      lambda g: eval_pass(
        *_group((params_p, gates_p), g * size, size), *shared
      ),
      jnp.arange(members // size),
    )
    return jax.tree.map(
      lambda leaf: leaf.reshape(members, *leaf.shape[2:]), results
    )

  return evaluate


def make_train_pass(network, recipe, buckets, axis=None):
  """Returns the program of one pass over a plan, for a population.

  Its arguments: members_p, gates_p, row_p (the data stream of each member),
  lr_p (float32; a member of rate 0 stays as it is), data, plan, steps (batches
  of the plan to run), constants (as in `step_lib.forward`). It returns the
  members and the mean over batches of each member's training loss, without L2.

  Args:
    network: the `Network` that all members share.
    recipe: `Recipe`.
    buckets: shapes of the batches, as one device has them.
    axis: as in `step_lib.make_train_step`.
  """
  step = make_train_step(network, recipe, axis)

  def train_pass(
    members_p, gates_p, row_p, lr_p, data, plan, steps, constants=None
  ):
    # Nothing is to be done where all have stopped.
    steps = jnp.where(jnp.any(lr_p > 0), steps, 0)
    shared = plan.index_skb.shape[1] == 1
    # One member is not mapped: a product with a member axis of one makes XLA
    # copy weights that it would else read where they are.
    alone = row_p.shape[0] == 1
    over_members = _unmapped if alone else jax.vmap
    if alone:
      members_p, gates_p, row_p, lr_p = _only((members_p, gates_p, row_p, lr_p))

    def run(bucket, index_kb, members_p):
      batch = jax.vmap(lambda index_b: gather(data, index_b, bucket))(
        index_kb[:, : bucket.batch]
      )
      if shared:
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        train = over_members(step, (0, 0, None, 0, None))
      else:
        batch = jax.tree.map(lambda leaf: leaf[row_p], batch)
        train = over_members(step, (0, 0, 0, 0, None))
      return train(members_p, gates_p, batch, lr_p, constants)

    def body(s, carry):
      members_p, total_p = carry
      branches = [functools.partial(run, bucket) for bucket in buckets]
      members_p, loss_p = lax.switch(
        plan.bucket_s[s], branches, plan.index_skb[s], members_p
      )
      return members_p, total_p + loss_p

    zeros_p = jnp.zeros_like(members_p.step, jnp.float32)
    members_p, total_p = lax.fori_loop(0, steps, body, (members_p, zeros_p))
    results = members_p, total_p / jnp.maximum(steps, 1)
    return _population(results) if alone else results

  return train_pass


def make_eval_pass(network, recipe, buckets, axis=None):
  """Returns the program that scores and decodes a split, for a population.

  Its arguments: params_p, gates_p, data, plan, steps, constants. It returns
  loss_ps [p, batches], the sum over each batch of the normalised loss;
  count_ps, the utterances in that sum (those that are valid);
  labels_psbl, the decoded symbols (int16, 0 behind the end); label_len_psb.
  The arguments here are those of `make_train_pass`. Decoded rows come back as
  they are spread over the devices of `axis`.
  """
  widest = max(b.batch for b in buckets)
  longest = network.macro.output_frames(max(b.frames for b in buckets))
  longest *= criterion.of(recipe).per_frame
  score = make_score(network, recipe, widest, longest)

  def eval_pass(params_p, gates_p, data, plan, steps, constants=None):
    members = jax.tree.leaves(params_p)[0].shape[0]

    def run(bucket, index_kb):
      batch = gather(data, index_kb[0, : bucket.batch], bucket)
      if members == 1:
        one = _only((params_p, gates_p))
        return _population(score(*one, batch, constants))
      mapped = jax.vmap(score, (0, 0, None, None))
      return mapped(params_p, gates_p, batch, constants)

    def body(s, out):
      branches = [functools.partial(run, bucket) for bucket in buckets]
      new = lax.switch(plan.bucket_s[s], branches, plan.index_skb[s])
      return jax.tree.map(
        lambda all_ps, one_p: lax.dynamic_update_index_in_dim(
          all_ps, one_p, s, 1
        ),
        out,
        new,
      )

    batches = plan.bucket_s.shape[0]
    start = (
      jnp.zeros((members, batches), jnp.float32),
      jnp.zeros((members, batches), jnp.float32),
      jnp.zeros((members, batches, widest, longest), jnp.int16),
      jnp.zeros((members, batches, widest), jnp.int32),
    )
    loss_ps, count_ps, *decoded = lax.fori_loop(0, steps, body, start)
    if axis is not None:
      loss_ps, count_ps = lax.psum((loss_ps, count_ps), axis)
    return loss_ps, count_ps, *decoded

  return eval_pass


def member_mesh(devices=None, data=1):
  """Returns the mesh over which members and the rows of batches are spread.

  Args:
    devices: all there are if None.
    data: devices among which each batch is divided.

  Returns:
    a mesh of axes 'member' and 'data', (devices / data, data).

  Raises:
    ValueError: `data` does not divide the devices.
  """
  devices = jax.devices() if devices is None else devices
  if data < 1 or len(devices) % data:
    raise ValueError(
      f'{data} devices a batch do not divide the {len(devices)} devices; '
      'take a divisor of their number'
    )
  return jax.sharding.Mesh(
    np.array(devices).reshape(-1, data), ('member', 'data')
  )


# Each device of the data axis has its own rows of every batch.
_PLAN = batching.Plan(PartitionSpec(), PartitionSpec(None, None, 'data'))


class Programs(NamedTuple):
  """Compiled functions of one signature on one mesh."""

  init: callable
  train: callable
  evaluate: callable
  keep_best: callable


def programs(network, recipe, buckets, mesh, at_once=None, train_buckets=None):
  """Returns the jitted programs that all populations of a signature share.

  Args:
    network: the `Network` of the signature.
    recipe: `Recipe`.
    buckets: shapes of the batches.
    mesh: of `member_mesh`.
    at_once: members of a device that are mapped together, or the largest
      divisor of the members below it; the others take turns in the program. If
      not given it is 1 on CPUs: activations and weights stay in the cache,
      products need no member axis, and a member's result is the same bits in
      any population (experiments/PERFORMANCE.md). Elsewhere it is all: there
      members take turns as `parts`, whose states need no copy.
    train_buckets: the first of `buckets`, those of training; all if not given.
  """
  if at_once is None and mesh.devices.flat[0].platform == 'cpu':
    at_once = 1
  train_buckets = train_buckets or buckets
  return _programs(network, recipe, buckets, train_buckets, mesh, at_once)


# XLA would write each product in many ways and time them all on the card, for
# every one of 27 signatures: minutes where its libraries know the answer. What
# is chosen by timing also differs from process to process, and so do the bits.
_COMPILER = dict.fromkeys(
  ('gpu', 'cuda'),
  {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False},
)


def compiler_options(platform):
  """Returns what XLA is told when it compiles for devices of a platform."""
  return _COMPILER.get(platform)


@keeping.kept(64)
def _programs(network, recipe, buckets, train_buckets, mesh, at_once):
  member, everyone = PartitionSpec('member'), PartitionSpec()
  data = mesh.shape['data']
  axis = 'data' if data > 1 else None

  def local(buckets):
    return tuple(b._replace(batch=-(-b.batch // data)) for b in buckets)

  rows = PartitionSpec('member', None, 'data')
  options = compiler_options(mesh.devices.flat[0].platform)

  def mapped(function, in_specs, out_specs, donate=()):
    # By hand, not left to the compiler: members never talk to each other, and
    # kernels of our own cannot be divided.
    return jax.jit(
      jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
      ),
      donate_argnums=donate,
      compiler_options=options,
    )

  def init(keys_p, gates_p):
    # Not mapped: products of several members at once may round otherwise, and
    # a member starts with the same bits in any population.
    return lax.map(
      lambda member: init_member(
        network,
        recipe,
        jax.random.wrap_key_data(member[0], impl='threefry2x32'),
        member[1],
      ),
      (keys_p, gates_p),
    )

  def keep_best(better_p, params_p, best_p):
    def choose(new, old):
      shape = (-1,) + (1,) * (new.ndim - 1)
      return jnp.where(better_p.reshape(shape), new, old)

    return jax.tree.map(choose, params_p, best_p)

  return Programs(
    jax.jit(init),
    mapped(
      _train_in_turns(
        make_train_pass(network, recipe, local(train_buckets), axis), at_once
      ),
      (*[member] * 4, everyone, _PLAN, everyone, everyone),
      member,
      donate=(0,),
    ),
    mapped(
      _eval_in_turns(
        make_eval_pass(network, recipe, local(buckets), axis), at_once
      ),
      (member, member, everyone, _PLAN, everyone, everyone),
      (member, member, rows, rows),
    ),
    mapped(keep_best, (member, member, member), member, donate=(2,)),
  )


def _put(tree, mesh, shardings):
  """Moves arrays to the mesh, or tells how they would lie if it is not there.

  Args:
    tree: of arrays.
    mesh: of `member_mesh`.
    shardings: one for all arrays, or a tree of them.
  """
  if chips.is_there(mesh):
    return jax.device_put(tree, shardings)
  if isinstance(shardings, NamedSharding):
    shardings = jax.tree.map(lambda leaf: shardings, tree)

  def shape(leaf, sharding):
    kind = jax.typeof(leaf)  # as it is on a device
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=sharding)

  return jax.tree.map(shape, tree, shardings)


def on_members(tree, mesh):
  """Moves arrays to the mesh, their leading axis spread over members."""
  return _put(tree, mesh, member_sharding(mesh))


def member_sharding(mesh):
  """Returns how the arrays of a population lie: their leading axis spread."""
  return NamedSharding(mesh, PartitionSpec('member'))


def on_all(tree, mesh):
  """Copies arrays to every device of the mesh."""
  return _put(tree, mesh, NamedSharding(mesh, PartitionSpec()))


def on_rows(plan, buckets, mesh):
  """Moves a `Plan` to the mesh, the rows of its batches spread over 'data'."""
  plan = batching.spread(plan, buckets, mesh.shape['data'])
  return _put(
    plan, mesh, jax.tree.map(functools.partial(NamedSharding, mesh), _PLAN)
  )


def mean_losses(loss_ps, count_ps, steps):
  """Returns loss_p (NumPy), the mean loss of a split over its utterances.

  Args:
    loss_ps, count_ps: what the evaluation program returned.
    steps: batches that it ran.
  """
  total_p = np.asarray(loss_ps, np.float64)[:, :steps].sum(1)
  return total_p / np.maximum(np.asarray(count_ps)[:, :steps].sum(1), 1)


def labels_of(labels_psbl, length_psb, plan):
  """Unpacks decoded batches into [p][utterance] label arrays.

  Args:
    labels_psbl, length_psb: what the evaluation program returned.
    plan: the `Plan` it ran, as `batching.spread` laid it out.

  Returns:
    labels_pul (int16) and length_pu, utterances in the order of the split.
  """
  steps = len(plan.bucket_s)
  index_n = plan.index_skb[:, 0].reshape(-1)
  order = np.argsort(index_n, kind='stable')[np.sum(index_n < 0) :]
  members, _, _, longest = labels_psbl.shape
  labels = np.asarray(labels_psbl[:, :steps]).reshape(members, -1, longest)
  lengths = np.asarray(length_psb[:, :steps]).reshape(members, -1)
  return labels[:, order], lengths[:, order]
