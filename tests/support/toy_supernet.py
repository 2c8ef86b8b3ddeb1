"""A supernet whose loss compiles in a second, in place of a network's.

Three nodes, each a matrix, a matrix behind a shift in time, or nothing, put
together by `mixing` as in the networks; a skip; a mean over time; a softmax
that is to tell the first label. Steps, passes and searches know no difference.
"""

import jax
import jax.numpy as jnp
import tiny_corpus

from nasjax import spaces
from nasjax.layers import mixed_op
from nasjax.losses import ctc
from nasjax.oneshot import steps
from nasjax.oneshot.supernet import Supernet

OPS = ('linear', 'conv5', 'zero')
SUPERNET = Supernet(spaces.NB_ASR, tiny_corpus.MACRO, OPS, ('s00',))
RECIPE = tiny_corpus.variant(l2=0.0, dropout=0.0, clip=float('inf'))
WEIGHTS = steps.Weights('adam', RECIPE)
WIDTH = tiny_corpus.FEATURES


def _linear(params, x_btc, context):
  del context
  return x_btc @ params['kernel']


def _shifted(params, x_btc, context):
  return _linear(params, jnp.roll(x_btc, 1, axis=1), context)


def _zero(params, x_btc, context):
  del params, context
  return jnp.zeros_like(x_btc)


def _finish(params, z_btc, context):
  del params, context
  return jnp.tanh(z_btc)


CANDIDATES = mixed_op.Candidates((_linear, _shifted, _zero), _finish)


def initial_params(network, key, gates):
  """Takes the place of `common.initial_params`."""
  del network, gates
  names = [f'node{n}_{op}' for n in range(3) for op in OPS[:2]]
  keys = jax.random.split(key, len(names) + 1)
  params = {
    name: {'kernel': 0.5 * jax.random.normal(k, (WIDTH, WIDTH))}
    for name, k in zip(names, keys)
  }
  return params | {'head': 0.5 * jax.random.normal(keys[-1], (WIDTH, 6))}


def make_loss(supernet, weights, mode, twice=False):
  """Takes the place of `steps.make_loss`."""
  del supernet, weights, twice

  def loss(params, edge_e, batch, key, constants=None):
    del key, constants
    x_btc = batch.x_btf
    for n, edge in enumerate(edge_e[:3]):
      affine_k = tuple(params.get(f'node{n}_{op}', {}) for op in OPS)
      y_btc = mixed_op.mix(
        mode, CANDIDATES, affine_k, ((),) * 3, edge, x_btc, ()
      )
      if n == 0:
        y_btc = y_btc + edge_e[3].weight_k[1] * x_btc
      # A way past nodes that are nothing.
      x_btc = y_btc + 0.5 * x_btc
    logits_bv = jnp.mean(x_btc, 1) @ params['head']
    log_bv = jax.nn.log_softmax(logits_bv)
    told_b = jnp.take_along_axis(log_bv, batch.labels_bl[:, :1], 1)[:, 0]
    rows = jnp.maximum(jnp.sum(batch.weight_b), 1)
    needed_b = ctc.required_frames(batch.labels_bl, batch.label_len_b)
    valid_b = needed_b <= tiny_corpus.MACRO.output_frames(batch.len_b)
    loss = -jnp.sum(told_b * batch.weight_b) / rows
    return loss, (jnp.sum(batch.weight_b * valid_b), {})

  return loss


def install(monkeypatch):
  """Puts the toy where the networks are."""
  monkeypatch.setattr(steps, 'make_loss', make_loss)
  monkeypatch.setattr(steps.common, 'initial_params', initial_params)
