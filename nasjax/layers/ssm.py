"""Multi-head state-space layers (MH-SSM) of diagonal S4 heads.

Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State
Space Models" (S4D), for the heads; Fathullah et al. 2023, "Multi-Head State
Space Model for Speech Recognition", for what is made of them. In a channel n
pairs of complex states follow h' = A h + u, sampled at a step of the channel's
own; the output is 2 Re(C h) + D u. All frames at once it is a convolution, by
FFT; a frame after the other a recurrence, which streams, and which exports.

Complex numbers are pairs of real ones throughout: no exporter needs more.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax.layers import dropout as drop
from nasjax.layers import elastic, modules

# Names of what says how a state turns and decays: as large as it is for no
# reason of scale, and trained at a rate of 1e-3 at most (Gu et al. 2022, S4D).
DYNAMICS = 'log_step', 'log_decay', 'frequency'
FORMS = ('fft', 'scan')
GATES = ('none', 'sigmoid', 'gelu')
# Range of the sampling steps at the beginning, uniform in their logs.
_STEPS = 1e-3, 1e-1


def reverse(x_btc, len_b):
  """Turns each utterance round; what lies beyond its end stays there."""
  t_1t = jnp.arange(x_btc.shape[1])[None]
  index_bt = jnp.where(t_1t < len_b[:, None], len_b[:, None] - 1 - t_1t, t_1t)
  return jnp.take_along_axis(x_btc, index_bt[:, :, None], axis=1)


def _log_steps(key, shape):
  low, high = map(math.log, _STEPS)
  return jax.random.uniform(key, shape, jnp.float32, low, high)


def _frequencies(key, shape):
  del key
  return jnp.broadcast_to(math.pi * jnp.arange(shape[-1])[None], shape) * 1.0


class S4D(nn.Module):
  """One causal state-space model a channel.

  Attributes:
    states: real numbers of state a channel, twice the complex ones: even.
    form: 'fft', all frames at once; 'scan', one after the other.
  """

  states: int = 32
  form: str = 'fft'

  @nn.compact
  def __call__(self, x_btc, len_b, state=None):
    """Runs it.

    Args:
      x_btc: input.
      len_b: frames of each utterance; what lies beyond reaches nothing.
      state: of the frames before, two arrays [bcn], which only the recurrence
        takes; None where there are none.

    Returns:
      y_btc; where a state is given, y_btc and the state after the last frame.
    """
    if self.form not in FORMS:
      raise ValueError(f'form is {self.form!r}; it must be one of {FORMS}')
    if state is not None and self.form != 'scan':
      raise ValueError(f"form {self.form!r} keeps no state; take 'scan'")
    if self.states < 2 or self.states % 2:
      raise ValueError(f'states is {self.states}; it must be even, 2 or more')
    x_btc = modules.mask_frames(x_btc, len_b)
    shape = x_btc.shape[-1], self.states // 2
    normal = nn.initializers.normal(1.0)
    step_c1 = jnp.exp(self.param('log_step', _log_steps, (shape[0], 1)))
    decay_cn = jnp.exp(
      self.param('log_decay', nn.initializers.constant(math.log(0.5)), shape)
    )
    turn_cn = self.param('frequency', _frequencies, shape)
    out_cn2 = self.param(
      'output', nn.initializers.normal(0.5**0.5), (*shape, 2)
    )
    skip_c = self.param('skip', normal, shape[:1])
    # A times the step; and what a frame adds to the state, (e^A - 1) / A.
    rate = -decay_cn * step_c1, turn_cn * step_c1
    factor = _exp(*rate)
    into = _divide((factor[0] - 1, factor[1]), (-decay_cn, turn_cn))
    out = _times((out_cn2[..., 0], out_cn2[..., 1]), into)
    if self.form == 'fft':
      y_btc = _convolve(x_btc, rate, out)
    else:
      y_btc, new = _recur(x_btc, len_b, factor, out, state)
    y_btc = y_btc + skip_c[None, None] * x_btc
    return y_btc if state is None else (y_btc, new)


def _times(a, b):
  return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _divide(a, b):
  size = b[0] * b[0] + b[1] * b[1]
  real, imaginary = _times(a, (b[0], -b[1]))
  return real / size, imaginary / size


def _exp(real, imaginary):
  size = jnp.exp(real)
  return size * jnp.cos(imaginary), size * jnp.sin(imaginary)


def _convolve(x_btc, rate, out):
  """Convolves each channel with 2 Re(out e^(rate l)), l frames ago."""
  frames = x_btc.shape[1]
  ago_l = jnp.arange(frames, dtype=jnp.float32)
  power = _exp(*(part_cn[:, :, None] * ago_l[None, None] for part_cn in rate))
  kernel_cl = 2 * (
    jnp.einsum('cn,cnl->cl', out[0], power[0])
    - jnp.einsum('cn,cnl->cl', out[1], power[1])
  )
  # So long that its end does not come round to the beginning.
  length = 2 * frames
  y_bkc = jnp.fft.rfft(x_btc, length, axis=1)
  y_bkc = y_bkc * jnp.fft.rfft(kernel_cl.T, length, axis=0)[None]
  return jnp.fft.irfft(y_bkc, length, axis=1)[:, :frames]


def _recur(x_btc, len_b, factor, out, state):
  """The same, frame by frame; returns the state, too."""
  batch, frames, channels = x_btc.shape
  if state is None:
    zeros_bcn = jnp.zeros((batch, channels, factor[0].shape[1]))
    state = zeros_bcn, zeros_bcn
  factor = [part_cn[None] for part_cn in factor]

  def step(state, frame):
    x_bc, valid_b = frame
    new = _times(state, factor)
    new = new[0] + x_bc[:, :, None], new[1]
    y_bc = 2 * (
      jnp.einsum('cn,bcn->bc', out[0], new[0])
      - jnp.einsum('cn,bcn->bc', out[1], new[1])
    )
    keep = [
      jnp.where(valid_b[:, None, None], after, before)
      for after, before in zip(new, state)
    ]
    return tuple(keep), y_bc

  valid_tb = jnp.arange(frames)[:, None] < len_b[None]
  state, y_tbc = jax.lax.scan(
    step, tuple(state), (jnp.swapaxes(x_btc, 0, 1), valid_tb)
  )
  return jnp.swapaxes(y_tbc, 0, 1), state


class SSM(nn.Module):
  """State-space models in both directions, and a product of the two.

  Attributes:
    states, form: of `S4D`.
    causal: whether there is only the direction from the past, so that the
      product is half as large.
  """

  states: int = 32
  form: str = 'fft'
  causal: bool = False

  @nn.compact
  def __call__(self, x_btc, len_b, state=None):
    """Returns y_btc, with the state as `S4D` does; it needs `causal`."""
    if state is not None and not self.causal:
      raise ValueError('what sees the future keeps no state; take causal=True')
    x_btc = modules.mask_frames(x_btc, len_b)
    y_btc = S4D(self.states, self.form, name='ahead')(x_btc, len_b, state)
    if state is not None:
      y_btc, state = y_btc
    parts = [y_btc]
    if not self.causal:
      back = S4D(self.states, self.form, name='back')
      parts.append(reverse(back(reverse(x_btc, len_b), len_b), len_b))
    y_btc = nn.gelu(jnp.concatenate(parts, axis=-1))
    y_btc = modules.Dense(x_btc.shape[-1], name='mix')(y_btc)
    return y_btc if state is None else (y_btc, state)


class MHSSM(nn.Module):
  """Heads of stacked `SSM`s, with gates between them.

  A single head is the stack itself. Of several each has its share of the
  channels of a first product; with a gate the first half of the heads goes on,
  each times the gate of a head of the second; a last product joins them.

  Attributes:
    heads: a divisor of the channels, even with a gate.
    depth: `SSM`s on one another.
    gate: 'none', 'sigmoid' or 'gelu'; a single head has none to be gated by.
    states, form, causal: of `SSM`.
  """

  heads: int = 1
  depth: int = 2
  gate: str = 'none'
  states: int = 32
  form: str = 'fft'
  causal: bool = False

  @nn.compact
  def __call__(self, x_btc, len_b, state=None):
    """Runs it.

    Args:
      x_btc: input.
      len_b: frames of each utterance.
      state: what `initial_state` or the call before returned, to stream; None
        for utterances as a whole.

    Returns:
      y_btc; where a state is given, y_btc and the next one.
    """
    width, heads = x_btc.shape[-1], self.heads
    self._check(width)
    if heads == 1:
      inputs = [x_btc]
    else:
      # In front of the product: its gradient sums over all frames.
      x_btc = modules.mask_frames(x_btc, len_b)
      mixed_btc = modules.Dense(width, name='into')(x_btc)
      inputs = jnp.split(mixed_btc, heads, axis=-1)
    outputs, states = [], []
    for head, y_btc in enumerate(inputs):
      for n in range(self.depth):
        ssm = SSM(
          *(self.states, self.form, self.causal), name=f'head{head}_ssm{n}'
        )
        if state is None:
          y_btc = ssm(y_btc, len_b)
        else:
          y_btc, new = ssm(y_btc, len_b, state[len(states)])
          states.append(new)
      outputs.append(y_btc)
    if heads > 1:
      outputs = self._gated(outputs)
      y_btc = jnp.concatenate(outputs, axis=-1)
      y_btc = modules.Dense(width, name='join')(y_btc)
    return y_btc if state is None else (y_btc, tuple(states))

  def _check(self, width):
    if self.gate not in GATES:
      raise ValueError(f'gate is {self.gate!r}; it must be one of {GATES}')
    if self.heads < 1 or width % self.heads:
      raise ValueError(f'{self.heads} heads do not share {width} channels')
    if self.heads > 1 and self.gate != 'none' and self.heads % 2:
      raise ValueError(
        f'{self.heads} heads with a gate; half of them gate the others, so '
        'give an even number'
      )

  def _gated(self, outputs):
    if self.gate == 'none':
      return outputs
    function = {'sigmoid': nn.sigmoid, 'gelu': nn.gelu}[self.gate]
    half = self.heads // 2
    return [y * function(g) for y, g in zip(outputs[:half], outputs[half:])]


def initial_state(module, batch, width):
  """Returns the state before the first frame of an `MHSSM` or an `SSMLayer`.

  Args:
    module: either.
    batch: utterances.
    width: channels of its input.
  """
  shape = batch, width // module.heads, module.states // 2
  pair = jnp.zeros(shape), jnp.zeros(shape)
  return (pair,) * (module.heads * module.depth)


class FeedForward(nn.Module):
  """Two products with a GELU between them, of each frame.

  Attributes:
    hidden: channels between them, an int or `elastic.Factored`.
  """

  hidden: int | elastic.Factored

  @nn.compact
  def __call__(self, x_btc):
    width = elastic.width_of(self.hidden)
    y_btc = nn.gelu(elastic.affine(width, self.hidden, 'into')(x_btc))
    return elastic.affine(x_btc.shape[-1], self.hidden, 'out')(y_btc)


class SSMLayer(nn.Module):
  """A layer of an encoder: `MHSSM` and `FeedForward`, each on a normalised sum.

  Attributes:
    hidden: of `FeedForward`; several, increasing, for an elastic one.
    heads, depth, gate, states, form, causal: of `MHSSM`.
    rate: of dropout behind either; see `elastic.ElasticFeedForward`.
    site: of the first dropout; a layer takes two (`dropout.keep_mask`).
    adaptive: of `elastic.ElasticFeedForward`.
  """

  hidden: int | tuple
  heads: int = 1
  depth: int = 2
  gate: str = 'none'
  states: int = 32
  form: str = 'fft'
  causal: bool = False
  rate: float = 0.0
  site: int = 0
  adaptive: bool = True

  def setup(self):
    self.norm = modules.LayerNorm(1e-5)
    self.ssm = MHSSM(
      *(self.heads, self.depth, self.gate, self.states, self.form, self.causal)
    )
    self.norm_ffn = modules.LayerNorm(1e-5)
    if elastic.is_one(self.hidden):
      self.ffn = FeedForward(self.hidden)
    else:
      self.ffn = elastic.ElasticFeedForward(
        tuple(self.hidden), self.rate, self.site + 1, self.adaptive
      )

  def __call__(self, x_btc, len_b, key=None, state=None, choice=None):
    """Runs it.

    Args:
      x_btc: input.
      len_b: frames of each utterance.
      key: of `dropout`, or None.
      state: as in `MHSSM`.
      choice: int32, which of several hidden widths; the last if not given.

    Returns:
      x_btc; where a state is given, x_btc and the next one.
    """
    x_btc = modules.mask_frames(x_btc, len_b)
    y_btc = self.ssm(self.norm(x_btc), len_b, state)
    if state is not None:
      y_btc, state = y_btc
    x_btc = x_btc + drop.dropout(y_btc, key, self.site, self.rate)
    y_btc = self.norm_ffn(x_btc)
    if elastic.is_one(self.hidden):
      y_btc = drop.dropout(self.ffn(y_btc), key, self.site + 1, self.rate)
    else:
      y_btc = self.ffn(y_btc, choice, key)
    x_btc = modules.mask_frames(x_btc + y_btc, len_b)
    return x_btc if state is None else (x_btc, state)
