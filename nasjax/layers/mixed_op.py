"""How the candidate operations of an edge are put together.

A candidate is an affine map of the input, which differs from candidate to
candidate, followed by a rest that has one shape for all of them (activation,
normalisation, dropout). Modes, by what is computed and what it costs, with C1
the memory of one network's training and C2 that of one output:

  mixed      sum_k w_k o_k(x): K C1; DARTS, SNAS
  path       o_i(x) alone: C1; what sampled methods train weights with
  scaled     w_i o_i(x): C1; GDAS
  scaled_sum as scaled, plus the other w_k, as the released code of GDAS has it
  straight   o_i(x), and w_k gets the gradient <dL/do, o_k(x)> of every
             candidate, the outputs of the others kept: C1 + (K - 1) C2; ST-NAS,
             and ProxylessNAS with binary gates
  recomputed as straight, but the others run only in the backward pass: C1
  pair       as straight, but of i and one other candidate alone: C1 + C2

i is `Edge.index`. In all modes but `mixed` the gradient of weights and input
goes through candidate i only, with factor 1.

A switch that is differentiated by JAX keeps what every branch would need for
its gradient. Here it holds affine maps only, whose gradients need nothing but
input and weights, so that it costs what its one branch costs. A candidate that
is not affine, such as a pool of the largest, is run once more for its gradient.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

MODES = (
  'mixed', 'path', 'scaled', 'scaled_sum', 'straight', 'recomputed', 'pair'
)  # fmt: skip


class Edge(NamedTuple):
  """What an edge is to do.

  Attributes:
    weight_k: float32, weight of each candidate.
    index: int32, the candidate that runs; not used by `mixed`.
    other: int32, the second of a `pair`.
  """

  weight_k: jax.Array
  index: jax.Array
  other: jax.Array


class Candidates(NamedTuple):
  """The candidate operations of an edge, as pure functions.

  Attributes:
    affines: for each, a function (params, x_btc, context) that returns z_btc,
      affine in both params and x.
    finish: function (params, z_btc, context) that returns y_btc.
    tell: function (z_btc, context) of what is to be known of the candidate that
      runs, beside its output; None where nothing is.
  """

  affines: tuple
  finish: callable
  tell: callable = None


def mix(mode, candidates, affine_k, rest_k, edge, x_btc, context):
  """Returns y_btc, what an edge makes of its input.

  Args:
    mode: one of `MODES`.
    candidates: `Candidates`.
    affine_k: for each candidate, the parameters of its affine map.
    rest_k: for each candidate, those of its rest; all of the same shapes.
    edge: `Edge`.
    x_btc: input.
    context: arrays that are not differentiated: lengths, key of dropout.

  Raises:
    ValueError: unknown mode.
  """
  return mix_and_tell(mode, candidates, affine_k, rest_k, edge, x_btc, context)[
    0
  ]


def mix_and_tell(mode, candidates, affine_k, rest_k, edge, x_btc, context):
  """Returns y_btc as `mix`, and what `Candidates.tell` knows of what ran.

  That is None where there is no such function, and for 'mixed', where all run.
  """
  if mode not in MODES:
    raise ValueError(f'mode is {mode!r}; it must be one of {MODES}')
  count = len(candidates.affines)
  chex.assert_shape(edge.weight_k, (count,))
  if mode == 'mixed':
    outputs = (
      run(k, candidates, affine_k, rest_k, x_btc, context) for k in range(count)
    )
    return sum(w * y for w, y in zip(edge.weight_k, outputs, strict=True)), None
  z_btc = _switch(candidates.affines, affine_k, edge.index, x_btc, context)
  told = None if candidates.tell is None else candidates.tell(z_btc, context)
  rest = jax.tree.map(lambda *leaves: jnp.stack(leaves)[edge.index], *rest_k)
  y_btc = candidates.finish(rest, z_btc, context)
  if mode == 'path':
    return y_btc, told
  if mode in ('scaled', 'scaled_sum'):
    weight = edge.weight_k[edge.index]
    y_btc = weight * y_btc
    if mode == 'scaled_sum':
      y_btc = y_btc + (jnp.sum(edge.weight_k) - weight)
    return y_btc, told
  others = (
    edge.other[None]
    if mode == 'pair'
    else (edge.index + 1 + jnp.arange(count - 1)) % count
  )
  y_btc = _attach(
    candidates,
    mode != 'recomputed',
    edge.weight_k,
    edge.index,
    others,
    y_btc,
    (affine_k, rest_k, x_btc, context),
  )
  return y_btc, told


def run(k, candidates, affine_k, rest_k, x_btc, context):
  """Returns the output of candidate k, a static number."""
  z_btc = candidates.affines[k](affine_k[k], x_btc, context)
  return candidates.finish(rest_k[k], z_btc, context)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _switch(affines, params_k, index, x_btc, context):
  """Applies affine map number `index`."""
  branches = [
    lambda p_k, x, c, k=k: affines[k](p_k[k], x, c) for k in range(len(affines))
  ]
  return lax.switch(index, branches, params_k, x_btc, context)


def _switch_fwd(affines, params_k, index, x_btc, context):
  y_btc = _switch(affines, params_k, index, x_btc, context)
  return y_btc, (params_k, index, x_btc, context)


def _switch_bwd(affines, residuals, dz_btc):
  params_k, index, x_btc, context = residuals

  def branch(k):
    def pull(params_k, x_btc, context, dz_btc):
      # Affine: what the forward pass computed is not needed.
      _, vjp = jax.vjp(
        lambda p, x: affines[k](p, x, context), params_k[k], x_btc
      )
      dparams, dx_btc = vjp(dz_btc)
      zeros_k = jax.tree.map(jnp.zeros_like, params_k)
      return (*zeros_k[:k], dparams, *zeros_k[k + 1 :]), dx_btc

    return pull

  branches = [branch(k) for k in range(len(affines))]
  dparams_k, dx_btc = lax.switch(
    index, branches, params_k, x_btc, context, dz_btc
  )
  return dparams_k, None, dx_btc, None


_switch.defvjp(_switch_fwd, _switch_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attach(candidates, keep, weight_k, index, others, y_btc, arguments):
  """Returns y_btc; its gradient also tells what each weight would change.

  Args:
    candidates: `Candidates`.
    keep: whether outputs of the others are kept from the forward pass, or
      computed in the backward pass.
    weight_k: get the gradient <dL/dy, o_k(x)> for k in index and others.
    index: the candidate whose output y_btc is.
    others: int32, candidates to run besides.
    y_btc: gets the gradient dL/dy.
    arguments: of `_outputs`; no gradient goes there.
  """
  del candidates, keep, weight_k, index, others, arguments
  return y_btc


def _outputs(candidates, others, arguments, function):
  """Returns function(o_k(x)) for each k in others, one after the other."""
  affine_k, rest_k, x_btc, context = arguments
  branches = [
    functools.partial(run, k, candidates)
    for k in range(len(candidates.affines))
  ]
  return lax.map(
    lambda k: function(
      lax.switch(k, branches, affine_k, rest_k, x_btc, context)
    ),
    others,
  )


def _attach_fwd(candidates, keep, weight_k, index, others, y_btc, arguments):
  kept = arguments
  if keep:
    kept = _outputs(candidates, others, arguments, lambda y_btc: y_btc)
  return y_btc, (weight_k, index, others, y_btc, kept)


def _attach_bwd(candidates, keep, residuals, dy_btc):
  weight_k, index, others, y_btc, kept = residuals

  def effect(o_btc):
    return jnp.vdot(dy_btc, o_btc)

  if keep:
    effect_o = lax.map(effect, kept)
  else:
    effect_o = _outputs(candidates, others, kept, effect)
  dweight_k = jnp.zeros_like(weight_k).at[others].set(effect_o)
  dweight_k = dweight_k.at[index].set(effect(y_btc))
  return dweight_k, None, None, dy_btc, None


_attach.defvjp(_attach_fwd, _attach_bwd)
