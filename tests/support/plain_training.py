"""Training of one network, written plainly: no population, optax throughout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nasjax.data import batching
from nasjax.layers import dropout
from nasjax.models import families
from nasjax.training import population


def batch_of(split, index_b, bucket):
  """Returns features, frames, labels and their count; empty rows are zeros."""
  rows = [u for u in index_b if u >= 0]
  width = split.features.shape[1]
  x_btf = np.zeros((bucket.batch, bucket.frames, width), np.float32)
  labels_bl = np.zeros((bucket.batch, bucket.labels), np.int32)
  frames_b, count_b = np.zeros((2, bucket.batch), np.int32)
  for b, u in enumerate(rows):
    frames_b[b], count_b[b] = split.frames_u[u], len(split.labels[u])
    x_btf[b, : frames_b[b]] = split.x_tf(u)
    labels_bl[b, : count_b[b]] = split.labels[u]
  return x_btf, frames_b, labels_bl, count_b


@jax.jit
def losses_of(logits_btv, len_b, labels_bl, count_b):
  """CTC loss of each row over its frames + 1."""
  frames_bt = jnp.arange(logits_btv.shape[1])[None] >= len_b[:, None]
  labels_pad_bl = jnp.arange(labels_bl.shape[1])[None] >= count_b[:, None]
  nll_b = optax.ctc_loss(
    logits_btv, frames_bt.astype(float), labels_bl, labels_pad_bl.astype(float)
  )
  return nll_b / (len_b + 1)


def _kernels(params):
  """The kernels that L2 decays, found by the names of their layers."""
  found = []
  for layer, tree in params.items():
    if layer.startswith('block') and layer.endswith('_conv'):
      found.append(tree['kernel'])
    if '_tdnn' in layer:
      found.append(tree['kernel'])
    if '_cell' in layer:
      found += [tree[n]['kernel'] for n in tree if n.endswith('_conv')]
  return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(network, l2, params, gates, key, batch):
  x_btf, frames_b, labels_bl, count_b = batch

  def objective(params):
    logits_btv, len_b = network.apply(
      {'params': params}, x_btf, frames_b, gates, key
    )
    loss_b = losses_of(logits_btv, len_b, labels_bl, count_b)
    loss = jnp.sum(jnp.where(frames_b > 0, loss_b, 0)) / jnp.sum(frames_b > 0)
    return loss + l2 * sum(jnp.sum(k**2) for k in _kernels(params)), loss

  (_, loss), grads = jax.value_and_grad(objective, has_aux=True)(params)
  return loss, grads


def train(job, member, prepared, split, params, epochs):
  """Trains one network from its first parameters.

  Args:
    job: `running.Job`.
    member: (architecture, seed).
    prepared: `trainer.DeviceCorpus`, for its buckets.
    split: of training.
    params: to start from.
    epochs: counted epochs.

  Returns:
    For each epoch the mean of its batches' losses, and the parameters after
    it; then the number of all steps, and of those whose gradient was clipped.
  """
  (arch, seed), recipe = member, job.recipe
  arch = np.array(arch, np.int8)
  network = families.network(job.space, arch, job.macro, recipe)
  gates = families.gates(job.space, arch)
  key = population.member_key(seed, job.space.key(arch))
  key = jax.random.fold_in(key, 1)
  tx = optax.inject_hyperparams(
    lambda learning_rate: optax.chain(
      optax.clip_by_global_norm(recipe.clip),
      optax.adam(learning_rate, b1=0.9, b2=0.999, eps=recipe.adam_epsilon),
    )
  )(learning_rate=recipe.lr)
  update = jax.jit(tx.update)
  opt_state, step, clipped, found = tx.init(params), 0, 0, []
  for epoch in range(1, epochs + 1):
    opt_state.hyperparams['learning_rate'] = jnp.float32(
      recipe.lr * recipe.decay ** max(0, epoch - recipe.start)
    )
    plan = batching.train_plan(
      prepared.bucket_u, prepared.buckets, (seed,), epoch
    )
    losses = []
    for bucket, index_kb in zip(*plan):
      bucket = prepared.buckets[bucket]
      batch = batch_of(split, index_kb[0, : bucket.batch], bucket)
      step_key = dropout.step_key(key, step)
      loss, grads = _gradient(
        network, recipe.l2, params, gates, step_key, batch
      )
      clipped += float(optax.tree.norm(grads)) > recipe.clip
      updates, opt_state = update(grads, opt_state, params)
      params = jax.tree.map(lambda p, u: p + u, params, updates)
      losses.append(float(loss))
      step += 1
    found.append((np.mean(losses), params))
  return found, step, clipped
