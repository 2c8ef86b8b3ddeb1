"""A split of a corpus on a device, and the batches that are cut out of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ROW = 8  # frames


class Data(NamedTuple):
  """A split on the device.

  Attributes:
    x_rk: features of all utterances one after another, `ROW` frames to a row,
      and one bucket of zeros at the end. Each utterance begins a row. Rows
      that are multiples of 128 long lie in a TPU's memory as they are read,
      without a second copy of the corpus.
    row_u: first row of each utterance.
    frames_u: its length.
    labels_ul: its transcript, padded with 0.
    label_len_u: length of its transcript.
    language_u: number of its language; None where there is one only.
  """

  x_rk: jax.Array
  row_u: jax.Array
  frames_u: jax.Array
  labels_ul: jax.Array
  label_len_u: jax.Array
  language_u: jax.Array | None = None


class Batch(NamedTuple):
  """One batch, padded to its bucket; rows of weight 0 are empty.

  `language_b` is the number of each row's language, for networks of several
  outputs; None where corpora know of none.
  """

  x_btf: jax.Array
  len_b: jax.Array
  labels_bl: jax.Array
  label_len_b: jax.Array
  weight_b: jax.Array
  language_b: jax.Array | None = None


def features_dtype(recipe, platform):
  """Returns in what features are kept on devices of a platform.

  An accelerator that computes with bfloat16 rounds them first of all.
  """
  rounded = platform != 'cpu' and recipe.precision == 'bfloat16'
  return jnp.bfloat16 if rounded else jnp.float32


def device_data(
  split, buckets, frames=0, utterances=0, dtype=np.float32, only_n=None
):
  """Returns the `Data` of a `data.corpus.Split`, as NumPy arrays.

  Args:
    split: the utterances.
    buckets: shapes into which they will be cut.
    frames, utterances: pad to so many, so that two splits share a program.
    dtype: of the features.
    only_n: numbers of the utterances to take, in this order; all if not given.
  """
  only_n = np.arange(len(split.labels)) if only_n is None else only_n
  frames_u, offset_u = (
    np.asarray(values)[only_n] for values in (split.frames_u, split.offset_u)
  )
  own = [split.labels[u] for u in only_n]
  count = max(len(own), utterances)
  labels_ul = np.zeros((count, max(b.labels for b in buckets)), np.int32)
  for u, labels in enumerate(own):
    labels_ul[u, : len(labels)] = labels
  width = split.features.shape[1]
  rows_u = rows_of(frames_u)
  row_u = np.cumsum(rows_u) - rows_u
  rows = max(int(rows_u.sum()), -(-frames // ROW) + utterances)
  rows += -(-buckets[-1].frames // ROW)
  x_rk = np.zeros((rows, ROW * width), dtype)
  x_nf = x_rk.reshape(-1, width)
  for row, start, length in zip(row_u, offset_u, frames_u):
    x_nf[row * ROW :][:length] = split.features[start : start + length]

  def padded(values):
    return np.pad(np.asarray(values, np.int32), (0, count - len(values)))

  language_u = getattr(split, 'language_u', None)
  return Data(
    x_rk,
    padded(row_u),
    padded(frames_u),
    labels_ul,
    padded([len(labels) for labels in own]),
    None if language_u is None else padded(language_u[only_n]),
  )


def rows_of(frames_u):
  """Returns the rows of `Data` that utterances take."""
  return -(-np.asarray(frames_u) // ROW)


def gather(data, index_b, bucket):
  """Cuts one batch out of the split; a negative index is an empty row."""
  safe_b = jnp.maximum(index_b, 0)
  real_b = index_b >= 0
  rows, length = -(-bucket.frames // ROW), data.x_rk.shape[1]
  x_brk = jax.vmap(
    lambda r: lax.dynamic_slice(data.x_rk, (r, 0), (rows, length))
  )(data.row_u[safe_b])
  x_btf = x_brk.reshape(len(index_b), rows * ROW, -1)[:, : bucket.frames]
  len_b = jnp.where(real_b, data.frames_u[safe_b], 0)
  valid_bt = jnp.arange(bucket.frames)[None] < len_b[:, None]
  return Batch(
    jnp.where(valid_bt[:, :, None], x_btf, 0),
    len_b,
    data.labels_ul[safe_b, : bucket.labels],
    jnp.where(real_b, data.label_len_u[safe_b], 0),
    real_b.astype(jnp.float32),
    None if data.language_u is None else data.language_u[safe_b],
  )
