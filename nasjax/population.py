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
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from nasjax import cells, decoding, dropout, models
from nasjax.losses import ctc


class Member(NamedTuple):
  """Training state of one network.

  Attributes:
    params: of the network.
    opt_state: of Adam.
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


class Data(NamedTuple):
  """A split on the device.

  Attributes:
    x_nf: features of all utterances one after another, and one bucket of
      zeros at the end.
    offset_u: first frame of each utterance.
    frames_u: its length.
    labels_ul: its transcript, padded with 0.
    label_len_u: length of its transcript.
  """

  x_nf: jax.Array
  offset_u: jax.Array
  frames_u: jax.Array
  labels_ul: jax.Array
  label_len_u: jax.Array


class Batch(NamedTuple):
  """One batch, padded to its bucket; rows of weight 0 are empty."""

  x_btf: jax.Array
  len_b: jax.Array
  labels_bl: jax.Array
  label_len_b: jax.Array
  weight_b: jax.Array


def device_data(split, buckets, frames=0, utterances=0):
  """Returns the `Data` of a `data.corpus.Split`, as NumPy arrays.

  Args:
    split: the utterances.
    buckets: shapes into which they will be cut.
    frames, utterances: pad to so many, so that two splits share a program.
  """
  count = max(len(split.labels), utterances)
  labels_ul = np.zeros((count, max(b.labels for b in buckets)), np.int32)
  for u, labels in enumerate(split.labels):
    labels_ul[u, : len(labels)] = labels
  rows, width = split.features.shape
  x_nf = np.zeros((max(rows, frames) + buckets[-1].frames, width), np.float32)
  x_nf[:rows] = split.features

  def padded(values):
    return np.pad(np.asarray(values, np.int32), (0, count - len(values)))

  return Data(
    x_nf,
    padded(split.offset_u),
    padded(split.frames_u),
    labels_ul,
    padded([len(labels) for labels in split.labels]),
  )


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


def gather(data, index_b, bucket):
  """Cuts one batch out of the split; a negative index is an empty row."""
  safe_b = jnp.maximum(index_b, 0)
  real_b = index_b >= 0
  width = data.x_nf.shape[1]
  x_btf = jax.vmap(
    lambda n: lax.dynamic_slice(data.x_nf, (n, 0), (bucket.frames, width))
  )(data.offset_u[safe_b])
  len_b = jnp.where(real_b, data.frames_u[safe_b], 0)
  valid_bt = jnp.arange(bucket.frames)[None] < len_b[:, None]
  return Batch(
    jnp.where(valid_bt[:, :, None], x_btf, 0),
    len_b,
    data.labels_ul[safe_b, : bucket.labels],
    jnp.where(real_b, data.label_len_u[safe_b], 0),
    real_b.astype(jnp.float32),
  )


def optimiser(recipe):
  """Adam behind a clip of the global norm; the learning rate comes later."""
  return optax.chain(
    optax.clip_by_global_norm(recipe.clip),
    optax.scale_by_adam(eps=recipe.adam_epsilon),
  )


def init_member(network, recipe, key, gates):
  """Returns the first state of one network."""
  params = models.initial_params(network, jax.random.fold_in(key, 0), gates)
  return Member(
    params,
    optimiser(recipe).init(params),
    jnp.zeros((), jnp.int32),
    jnp.ones((), bool),
    jax.random.key_data(jax.random.fold_in(key, 1)),
  )


def _forward(network, recipe, params, gates, batch, key=None):
  """Returns the mean loss of a batch, its logits_btv and their lengths."""
  logits_btv, len_b = network.apply(
    {'params': params}, batch.x_btf, batch.len_b, gates, key
  )
  loss = ctc.mean_ctc_loss(
    logits_btv,
    len_b,
    batch.labels_bl,
    batch.label_len_b,
    weight_b=batch.weight_b,
    normalise=recipe.loss_norm,
  )
  return loss, logits_btv, len_b


def make_train_step(network, recipe):
  """Returns the update of one network. `vmap` it to train a population."""
  tx = optimiser(recipe)

  def train_step(member, gates, batch, lr):
    key = dropout.step_key(
      jax.random.wrap_key_data(member.key, impl='threefry2x32'), member.step
    )

    def objective(params):
      loss, _, _ = _forward(network, recipe, params, gates, batch, key)
      return loss + recipe.l2 * models.conv_kernel_norm(params), loss

    (_, loss), grads = jax.value_and_grad(objective, has_aux=True)(
      member.params
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    alive = member.alive & finite
    updates, opt_state = tx.update(grads, member.opt_state, member.params)
    params = jax.tree.map(lambda p, u: p - lr * u, member.params, updates)
    new = Member(params, opt_state, member.step + 1, alive, member.key)
    new = jax.tree.map(
      lambda after, before: jnp.where(alive, after, before), new, member
    )
    return new._replace(alive=alive), loss

  return train_step


def make_train_pass(network, recipe, buckets):
  """Returns the program of one pass over a plan, for a population.

  Its arguments: members_p, gates_p, row_p (the data stream of each member),
  data, plan, steps (batches of the plan to run), lr. It returns the members
  and the mean over batches of each member's training loss, without L2.
  """
  step = make_train_step(network, recipe)

  def train_pass(members_p, gates_p, row_p, data, plan, steps, lr):
    shared = plan.index_skb.shape[1] == 1

    def run(bucket, index_kb, members_p):
      batch = jax.vmap(lambda index_b: gather(data, index_b, bucket))(
        index_kb[:, : bucket.batch]
      )
      if shared:
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        return jax.vmap(step, (0, 0, None, None))(members_p, gates_p, batch, lr)
      batch = jax.tree.map(lambda leaf: leaf[row_p], batch)
      return jax.vmap(step, (0, 0, 0, None))(members_p, gates_p, batch, lr)

    def body(s, carry):
      members_p, total_p = carry
      branches = [functools.partial(run, bucket) for bucket in buckets]
      members_p, loss_p = lax.switch(
        plan.bucket_s[s], branches, plan.index_skb[s], members_p
      )
      return members_p, total_p + loss_p

    zeros_p = jnp.zeros_like(members_p.step, jnp.float32)
    members_p, total_p = lax.fori_loop(0, steps, body, (members_p, zeros_p))
    return members_p, total_p / jnp.maximum(steps, 1)

  return train_pass


def make_eval_pass(network, recipe, buckets):
  """Returns the program that scores and decodes a split, for a population.

  Its arguments: params_p, gates_p, data, plan, steps. It returns
  loss_ps [p, batches], the sum over each batch of the normalised loss;
  count_ps, the utterances in that sum (those that have an alignment);
  labels_psbl, the decoded symbols (int16, 0 behind the end); label_len_psb.
  """
  widest = max(b.batch for b in buckets)
  longest = network.macro.output_frames(max(b.frames for b in buckets))

  def score(params, gates, batch):
    loss, logits_btv, len_b = _forward(network, recipe, params, gates, batch)
    if recipe.decoder == 'greedy':
      labels_bl, length_b = decoding.greedy(logits_btv, len_b)
    else:
      labels_bl, length_b, _ = decoding.beam_search(
        logits_btv, len_b, width=recipe.beam_width
      )
    rows, columns = widest - labels_bl.shape[0], longest - labels_bl.shape[1]
    labels_bl = jnp.pad(labels_bl.astype(jnp.int16), ((0, rows), (0, columns)))
    # The mean was over the rows that have an alignment: so must the sum be.
    needed_b = ctc.required_frames(batch.labels_bl, batch.label_len_b)
    count = jnp.sum(batch.weight_b * (needed_b <= len_b))
    return loss * count, count, labels_bl, jnp.pad(length_b, (0, rows))

  def eval_pass(params_p, gates_p, data, plan, steps):
    members = jax.tree.leaves(params_p)[0].shape[0]

    def run(bucket, index_kb):
      batch = gather(data, index_kb[0, : bucket.batch], bucket)
      return jax.vmap(score, (0, 0, None))(params_p, gates_p, batch)

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
    return lax.fori_loop(0, steps, body, start)

  return eval_pass


def member_mesh(devices=None):
  """Returns the mesh over which members are spread."""
  devices = jax.devices() if devices is None else devices
  return jax.sharding.Mesh(np.array(devices), ('member',))


class Programs(NamedTuple):
  """Compiled functions of one signature on one mesh."""

  init: callable
  train: callable
  evaluate: callable
  keep_best: callable


@functools.lru_cache(maxsize=64)
def programs(network, recipe, buckets, mesh):
  """Returns the jitted programs that all populations of a signature share."""
  member, everyone = PartitionSpec('member'), PartitionSpec()

  def mapped(function, in_specs, out_specs, donate=()):
    # Members never talk to each other: each device runs its own.
    return jax.jit(
      jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
      ),
      donate_argnums=donate,
    )

  def init(keys_p, gates_p):
    return jax.vmap(
      lambda bits, gates: init_member(
        network,
        recipe,
        jax.random.wrap_key_data(bits, impl='threefry2x32'),
        gates,
      )
    )(keys_p, gates_p)

  def keep_best(better_p, params_p, best_p):
    def choose(new, old):
      shape = (-1,) + (1,) * (new.ndim - 1)
      return jnp.where(better_p.reshape(shape), new, old)

    return jax.tree.map(choose, params_p, best_p)

  return Programs(
    # Not mapped over devices: the QR of the orthogonal start, run on several
    # CPU devices at once, waits for itself.
    jax.jit(init),
    mapped(
      make_train_pass(network, recipe, buckets),
      (member, member, member, everyone, everyone, everyone, everyone),
      member,
      donate=(0,),
    ),
    mapped(
      make_eval_pass(network, recipe, buckets),
      (member, member, everyone, everyone, everyone),
      member,
    ),
    mapped(keep_best, (member, member, member), member, donate=(2,)),
  )


def network_of(space, arch, macro, recipe):
  """Returns the `Network` that all cells of the same signature share."""
  kinds = cells.signature(space, arch)
  return models.Network(
    macro,
    tuple((kind,) for kind in kinds),
    recipe.dropout,
    recipe.conv_dropout,
  )


def on_members(tree, mesh):
  """Moves arrays to the mesh, their leading axis spread over members."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec('member')))


def on_all(tree, mesh):
  """Copies arrays to every device of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def labels_of(labels_psbl, length_psb, plan):
  """Unpacks decoded batches into [p][utterance] label arrays.

  Args:
    labels_psbl, length_psb: what the evaluation program returned.
    plan: the `Plan` it ran.

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
