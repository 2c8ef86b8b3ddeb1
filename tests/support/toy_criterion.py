"""A criterion in one file.

It holds each frame against the label that stands there when a transcript is
stretched evenly over its frames; who emits no blank is decoded without.
"""

import jax
import jax.numpy as jnp
import numpy as np

from nasjax import decoding
from nasjax.decoding import error_rates
from nasjax.losses import criterion


def _weights(corpus, recipe):
  """Returns how rare each label is in training: the rarer, the more it counts.

  The recipe is there to be read, too.
  """
  del recipe
  labels = np.concatenate(corpus.train.labels)
  count_v = np.bincount(labels, minlength=1 + len(corpus.symbols))
  return {'weight_v': (len(labels) / np.maximum(count_v, 1)).astype('float32')}


def _valid(outputs, batch):
  return (batch.label_len_b > 0) & (outputs[1] >= batch.label_len_b)


def _loss(outputs, batch, constants, recipe, kernels, axis):
  del recipe, kernels
  assert axis is None
  logits_btv, len_b = outputs
  place_bt = jnp.arange(logits_btv.shape[1])[None] * batch.label_len_b[:, None]
  place_bt = place_bt // jnp.maximum(len_b, 1)[:, None]
  last = batch.labels_bl.shape[1] - 1
  target_bt = jnp.take_along_axis(
    batch.labels_bl, jnp.minimum(place_bt, last), axis=1
  )
  log_btv = jax.nn.log_softmax(logits_btv)
  told_bt = jnp.take_along_axis(log_btv, target_bt[:, :, None], 2)[:, :, 0]
  counts_bt = jnp.arange(logits_btv.shape[1])[None] < len_b[:, None]
  told_bt = jnp.where(counts_bt, told_bt * constants['weight_v'][target_bt], 0)
  weight_b = batch.weight_b * _valid(outputs, batch)
  loss_b = -told_bt.sum(1) / jnp.maximum(len_b, 1)
  return jnp.sum(loss_b * weight_b) / jnp.maximum(jnp.sum(weight_b), 1)


def _decode(outputs, recipe):
  del recipe
  logits_btv, len_b = outputs
  return decoding.greedy(logits_btv.at[:, :, 0].set(-1e30), len_b)


def _score(labels_pnu, len_pn, refs, fold_v):
  """No label is folded: b and c are two."""
  del fold_v
  return error_rates.population_per(labels_pnu, len_pn, refs)


def register():
  """Lets recipes name it."""
  criterion.CRITERIA['even'] = criterion.Criterion(
    _weights, _loss, _valid, _decode, _score
  )
