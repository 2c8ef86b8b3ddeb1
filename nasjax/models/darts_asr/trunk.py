"""What follows a front end: LSTMs in both directions and linear outputs."""

import flax.linen as nn
import jax.numpy as jnp

from nasjax.layers import dropout as drop
from nasjax.layers import modules

# Logit of what is no symbol of a language.
_NEVER = -1e9


class Trunk(nn.Module):
  """Planes to logits.

  Modules are blstm0, blstm1, ..; and head, or with several languages head0,
  head1, .. in the order of `macro.heads`.

  Attributes:
    macro: `macros.Graph` or `macros.Vgg`.
    rate: of dropout, at the input of each layer of LSTMs.
    precision: as in `custom_vjps.matmul`.
  """

  macro: object
  rate: float = 0.0
  precision: str = 'float32'

  @nn.compact
  def __call__(self, x_btfc, len_b, key=None, language_b=None):
    """Runs it.

    Args:
      x_btfc: what the front end gave.
      len_b: its valid frames.
      key: uint32 (2,) of dropout, or None.
      language_b: number of each row's language; 0 if not given.

    Returns:
      logits_btv; symbols that a row's language does not have are never chosen,
      and only the output of its own language is moved by it.
    """
    macro = self.macro
    x_btc = x_btfc.reshape(*x_btfc.shape[:2], -1)
    for n in range(macro.lstms):
      x_btc = drop.dropout(x_btc, key, n, self.rate)
      layer = modules.BiLSTM(macro.lstm, self.precision, name=f'blstm{n}')
      x_btc = layer(x_btc, len_b)
    if not macro.heads:
      return modules.Dense(macro.outputs, self.precision, name='head')(x_btc)
    if language_b is None:
      language_b = jnp.zeros_like(len_b)
    logits_btv = None
    for n, symbols in enumerate(macro.heads):
      head = modules.Dense(symbols, self.precision, name=f'head{n}')
      pad = ((0, 0), (0, 0), (0, macro.outputs - symbols))
      own_btv = jnp.pad(head(x_btc), pad, constant_values=_NEVER)
      if logits_btv is None:
        logits_btv = own_btv
      else:
        is_own = (language_b == n)[:, None, None]
        logits_btv = jnp.where(is_own, own_btv, logits_btv)
    return logits_btv


def params(macro, channels):
  """Counts the parameters of a trunk behind so many channels and height."""
  total = 0
  for _ in range(macro.lstms):
    total += 2 * 4 * macro.lstm * (channels + macro.lstm + 1)
    channels = 2 * macro.lstm
  return total + (channels + 1) * sum(macro.heads or (macro.outputs,))


def macs(macro, channels, frames):
  """Counts the multiply-accumulates of a trunk; all outputs are computed."""
  total = 0
  for _ in range(macro.lstms):
    total += 2 * 4 * macro.lstm * (channels + macro.lstm)
    channels = 2 * macro.lstm
  return frames * (total + channels * sum(macro.heads or (macro.outputs,)))
