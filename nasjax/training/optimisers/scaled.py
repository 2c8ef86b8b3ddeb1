"""ScaledAdam, whose steps are as large as the parameters are.

Yao et al. 2023, "Zipformer: A faster and better encoder for automatic speech
recognition", as icefall's `zipformer/optim.py` has it: Adam's step times the
root mean square of its tensor, and every few steps a step for the size of the
tensor itself.

A vector that begins at 0 has no size: it moves by `param_min_rms` of a rate a
step, and then grows by about the rate. Biases and gates want a small start
that is not 0, or another optimiser.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# At these steps the norms so far give a first, looser bound.
_EARLY = (10, 20, 40)
_LARGEST_SCALE_STEP = 0.1


class ScaledAdamState(NamedTuple):
  """State of `scaled_adam`; n counts the tensors, in the order of their leaves.

  Attributes:
    count: steps so far, int32.
    mu: the moving average of steps, like the parameters.
    nu: that of squared gradients, like the parameters.
    rms_n: root mean squares, as they were when they were last looked at.
    scale_nu_n: the moving average of squared gradients by the size.
    scale_grad_nk: gradients by the size, of the last k steps.
    norms_k: norms of the last gradients, by step.
    threshold: norm at which gradients are clipped; inf before there is one.
  """

  count: jax.Array
  mu: optax.Params
  nu: optax.Params
  rms_n: jax.Array
  scale_nu_n: jax.Array
  scale_grad_nk: jax.Array
  norms_k: jax.Array
  threshold: jax.Array


def scaled_adam(
  lr,
  betas=(0.9, 0.98),
  eps=1e-8,
  scalar_lr_scale=0.1,
  param_min_rms=1e-5,
  param_max_rms=3.0,
  scalar_max=10.0,
  size_update_period=4,
  clipping_scale=2.0,
  clipping_update_period=100,
  plain=(),
  plain_lr=1e-3,
):
  """Returns ScaledAdam as an optax pair; its `update` needs the parameters.

  Args:
    lr: learning rate, a number or traced, or a function of the steps so far.
    betas: decay of the average of steps, and of that of squared gradients.
    eps: added to roots.
    scalar_lr_scale: times the rate, for sizes and for tensors of one element.
    param_min_rms: what smaller tensors count as; their size stays.
    param_max_rms: no step for its size takes a tensor above it.
    scalar_max: what tensors of one element are clipped at.
    size_update_period: steps between those for the size.
    clipping_scale: gradients are clipped at so many times the median of their
      norms, each tensor's weighed by its size; None for no clipping.
    clipping_update_period: steps that the median is of, and after which it is
      found anew; before, after 10, 20 and 40 steps, at twice the median.
    plain: names (last of a path) of tensors whose size is no scale: they take
      Adam's step as it is, and none for their size.
    plain_lr: their rate, where `lr` is not lower.

  Returns:
    `optax.GradientTransformation`. No weight decay, and no correction of the
    average of steps for its beginning.

  Raises:
    ValueError: a period is below 1; in `update`, parameters are not given.
  """
  for name, period in (
    ('size_update_period', size_update_period),
    ('clipping_update_period', clipping_update_period),
  ):
    if period < 1:
      raise ValueError(f'{name} is {period}; it must be 1 step or more')
  beta1, beta2 = betas

  def init(params):
    leaves = jax.tree.leaves(params)
    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p)), params)
    return ScaledAdamState(
      jnp.zeros((), jnp.int32),
      zeros,
      zeros,
      jnp.zeros(len(leaves)),
      jnp.zeros(len(leaves)),
      jnp.zeros((len(leaves), size_update_period)),
      jnp.zeros(clipping_update_period),
      jnp.float32(jnp.inf),
    )

  def is_plain(params):
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    return [
      getattr((path or [None])[-1], 'key', None) in plain for path, _ in paths
    ]

  def clipped(grads, leaves, state, plain_n):
    """Returns gradients, norms and the threshold."""
    t, k = state.count, clipping_update_period
    if clipping_scale is None:
      return grads, state.norms_k, state.threshold
    squares = [
      jnp.square(g * (scalar_lr_scale if p.size == 1 or own else r)).sum()
      for g, p, r, own in zip(grads, leaves, state.rms_n, plain_n)
    ]
    norm = jnp.sqrt(sum(squares))
    # The first gradient is not looked at: no size is known then.
    norms_k = jnp.where(t > 0, state.norms_k.at[t % k].set(norm), state.norms_k)
    threshold = state.threshold
    sorted_k = jnp.sort(norms_k)
    for step in _EARLY:
      if step < k:
        median = sorted_k[k - step + step // 4 * 2]
        threshold = jnp.where(t == step, 2 * clipping_scale * median, threshold)
    median = sorted_k[k // 4 * 2]
    is_due = (t > 0) & (t % k == 0)
    threshold = jnp.where(is_due, clipping_scale * median, threshold)
    scale = jnp.minimum(1.0, threshold / (norm + 1e-20))
    scale = jnp.where(jnp.isnan(scale), 0.0, scale)
    scale = jnp.where((t == 0) | jnp.isposinf(threshold), 1.0, scale)
    # Where nothing is left of them they may hold NaN.
    grads = [jnp.where(scale > 0, scale * g, 0.0) for g in grads]
    return grads, norms_k, threshold

  def update(grads, state, params=None):
    if params is None:
      raise ValueError('scaled_adam scales steps by the parameters: give them')
    leaves, structure = jax.tree.flatten(params)
    dtypes = [jnp.result_type(p) for p in leaves]
    leaves = [jnp.asarray(p, jnp.float32) for p in leaves]
    grads = [
      jnp.asarray(g, jnp.float32) for g in structure.flatten_up_to(grads)
    ]
    t, period = state.count, size_update_period
    rate = jnp.asarray(lr(t) if callable(lr) else lr, jnp.float32)
    is_last = t % period == period - 1
    plain_n = is_plain(params)
    grads, norms_k, threshold = clipped(grads, leaves, state, plain_n)

    nu = [
      beta2 * v + (1 - beta2) * jnp.square(g)
      for v, g in zip(structure.flatten_up_to(state.nu), grads)
    ]
    fix = 1 - beta2 ** (t + 1).astype(jnp.float32)
    fix = jnp.where(fix < 0.99, fix, 1.0)
    steps = [-rate * g / (jnp.sqrt(v / fix) + eps) for g, v in zip(grads, nu)]

    # An array, not a stack: where others train all tensors, there is none.
    rms_n = jnp.array([jnp.sqrt(jnp.mean(jnp.square(p))) for p in leaves])
    rms_n = jnp.where((t == 0) | is_last, rms_n, state.rms_n)
    scale_grad_nk = state.scale_grad_nk.at[:, t % period].set(
      jnp.array([(p * g).sum() for p, g in zip(leaves, grads)])
    )
    beta = beta2**period
    scale_nu_n = beta * state.scale_nu_n
    scale_nu_n += (1 - beta) * jnp.square(scale_grad_nk).mean(axis=1)
    rounds = ((t + 1) // period).astype(jnp.float32)
    grow_n = -scalar_lr_scale * rate * jnp.sqrt(1 - beta**rounds)
    grow_n = grow_n * scale_grad_nk.sum(axis=1) / (jnp.sqrt(scale_nu_n) + eps)
    grow_n = jnp.where(rms_n < param_min_rms, 0.0, grow_n)
    grow_n = jnp.clip(grow_n, -_LARGEST_SCALE_STEP, _LARGEST_SCALE_STEP)
    grow_n = jnp.minimum(grow_n, (param_max_rms - rms_n) / rms_n)
    grow_n = jnp.where(is_last, grow_n, 0.0)
    scale_nu_n = jnp.where(is_last, scale_nu_n, state.scale_nu_n)

    mu, updates = [], []
    before = structure.flatten_up_to(state.mu)
    for n, (p, step, m) in enumerate(zip(leaves, steps, before)):
      if p.size == 1:
        m = beta1 * m + (1 - beta1) * scalar_lr_scale * step
        updates.append(jnp.clip(p + m, -scalar_max, scalar_max) - p)
      elif plain_n[n]:
        share = jnp.minimum(1.0, plain_lr / jnp.maximum(rate, 1e-30))
        m = beta1 * m + (1 - beta1) * share * step
        updates.append(m)
      else:
        step = step * jnp.maximum(rms_n[n], param_min_rms) + grow_n[n] * p
        m = beta1 * m + (1 - beta1) * step
        updates.append(m)
      mu.append(m)
    updates = [u.astype(dtype) for u, dtype in zip(updates, dtypes)]
    new = ScaledAdamState(
      optax.safe_increment(t),
      structure.unflatten(mu),
      structure.unflatten(nu),
      rms_n,
      scale_nu_n,
      scale_grad_nk,
      norms_k,
      threshold,
    )
    return structure.unflatten(updates), new

  return optax.GradientTransformation(init, update)


def eden(
  batch, epoch, lr=0.045, batches=7500, epochs=3.5, warmup=500, start=0.5
):
  """The rate of a batch by Zipformer's schedule: its number counts, and epochs.

  Args:
    batch: steps so far.
    epoch: epochs so far.
    lr: the rate that it comes down from.
    batches, epochs: after so many it has fallen to 2^(-1/4), each.
    warmup: batches in which it comes up.
    start: the part of it to begin with; icefall's Zipformer has 0.1.

  Returns:
    float32.
  """
  batch, epoch = jnp.float32(batch), jnp.float32(epoch)
  fall = (1 + (batch / batches) ** 2) * (1 + (epoch / epochs) ** 2)
  return lr * fall**-0.25 * jnp.minimum(1, start + (1 - start) * batch / warmup)
