"""Self-attention that never sees padding, whole, causal or in chunks.

Positions are relative, by rotation (Su et al. 2021, "RoFormer"): they have no
parameters, the same for all heads of one size, so that fewer heads are a
beginning of more; what streams needs no length; and an exporter finds products,
sines and cosines alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax.layers import modules

# 'full' sees the whole utterance; 'causal' no later frame; 'chunked' none of a
# later chunk, and so many chunks before its own.
MODES = ('full', 'causal', 'chunked')
BASE = 10_000.0
# Of what is not seen: finite, so that a row that sees nothing makes no NaN.
LOW = -1e30


def seen(frames, len_b, mode='full', chunk=1, left=None):
  """Returns which frames each frame sees, bool [b, t, t].

  Args:
    frames: of the arrays.
    len_b: of each utterance; no frame sees what lies beyond.
    mode: of `MODES`.
    chunk: frames of a chunk, an int or an int32 array of no axes.
    left: chunks before its own that a frame sees; None for all.

  Raises:
    ValueError: another mode.
  """
  if mode not in MODES:
    raise ValueError(f'mode is {mode!r}; it must be one of {MODES}')
  index_t = jnp.arange(frames)
  valid_bs = index_t[None] < len_b[:, None]
  there_b1s = valid_bs[:, None]
  if mode == 'full':
    return jnp.broadcast_to(there_b1s, (len(len_b), frames, frames))
  number_t = index_t if mode == 'causal' else index_t // chunk
  ago_ts = number_t[:, None] - number_t[None]
  past_ts = ago_ts >= 0
  if mode == 'chunked' and left is not None:
    past_ts &= ago_ts <= left
  return there_b1s & past_ts[None]


def rotated(x_bthd):
  """Turns pairs of channels by angles that grow with the frame."""
  _, frames, _, size = x_bthd.shape
  half = size // 2
  speed_d = BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_td = jnp.arange(frames, dtype=jnp.float32)[:, None] * speed_d[None]
  cos_td, sin_td = (f(angle_td)[None, :, None] for f in (jnp.cos, jnp.sin))
  first, second = x_bthd[..., :half], x_bthd[..., half:]
  return jnp.concatenate(
    [first * cos_td - second * sin_td, first * sin_td + second * cos_td], -1
  )


def attended(q_bthd, k_bthd, v_bthd, seen_bts):
  """Returns y_bthd: of each frame the mean of the values that it sees."""
  scale = q_bthd.shape[-1] ** -0.5
  score_bhts = jnp.einsum('bthd,bshd->bhts', q_bthd * scale, k_bthd)
  score_bhts = jnp.where(seen_bts[:, None], score_bhts, LOW)
  return jnp.einsum('bhts,bshd->bthd', jax.nn.softmax(score_bhts), v_bthd)


class SelfAttention(nn.Module):
  """Attention of so many heads of a size.

  Its kernels are `query`, `key` and `value`, heads one behind the other in
  their columns, and `out`, in its rows; `sliced` gives those of fewer heads.

  Attributes:
    heads: how many.
    size: channels of each, even.
    precision: of products with weights, as in `custom_vjps.matmul`.
  """

  heads: int
  size: int
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btc, seen_bts, heads=None):
    """Runs it.

    Args:
      x_btc: input, zero past each utterance's end.
      seen_bts: of `seen`.
      heads: int32, how many of the first heads there are; None for all.

    Returns:
      y_btc; what lies past an utterance's end has no meaning.
    """
    if self.heads < 1 or self.size < 2 or self.size % 2:
      raise ValueError(
        f'{self.heads} heads of {self.size} channels; want at least 1, of an '
        'even number'
      )
    batch, frames, width = x_btc.shape
    inner = self.heads * self.size

    def project(name):
      y_btk = modules.Dense(inner, self.precision, name=name)(x_btc)
      return y_btk.reshape(batch, frames, self.heads, self.size)

    query, key, value = map(project, ('query', 'key', 'value'))
    y_bthd = attended(rotated(query), rotated(key), value, seen_bts)
    if heads is not None:
      there_h = jnp.arange(self.heads) < heads
      y_bthd = jnp.where(there_h[None, None, :, None], y_bthd, 0)
    y_btk = y_bthd.reshape(batch, frames, inner)
    return modules.Dense(width, self.precision, name='out')(y_btk)


def sliced(params, inner):
  """Returns parameters of the first heads, of `inner` channels together."""
  found = {
    name: {
      'kernel': params[name]['kernel'][..., :inner],
      'bias': params[name]['bias'][..., :inner],
    }
    for name in ('query', 'key', 'value')
  }
  out = params['out']
  found['out'] = {'kernel': out['kernel'][..., :inner, :], 'bias': out['bias']}
  return found
