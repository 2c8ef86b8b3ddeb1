"""Elastic layers: a smaller network is a beginning of a larger one's channels.

A feed-forward part of width c is the first c channels of its widest form. Every
width is a branch of its own of a `lax.switch`, on slices of a size that is
known: what a narrow one does not need is not computed, and all widths are one
program. (Mapped over members a switch runs every branch.)

The branches keep nothing for the gradient, which computes the channels between
the two products again: one product of six more, and the largest arrays of a
layer less; otherwise each branch would keep its own beside those of all others.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nasjax.layers import dropout as drop
from nasjax.layers import modules
from nasjax.layers.custom_vjps import matmul


class ElasticFeedForward(nn.Module):
  """`ssm.FeedForward` of several widths, with the dropout behind it.

  Its parameters are those of the widest; `sliced` gives those of another.

  Attributes:
    widths: channels between the products, increasing.
    rate: of dropout at the widest.
    site: of dropout, see `dropout.keep_mask`.
    adaptive: whether narrower ones drop in proportion to their width (TODM,
      adaptive dropout); as much as the widest if not.
  """

  widths: tuple[int, ...]
  rate: float = 0.0
  site: int = 0
  adaptive: bool = True

  @nn.compact
  def __call__(self, x_btc, choice, key=None):
    """Returns y_btc; `choice`, int32, says which of the widths.

    None is the widest, and keeps what it computes for the gradient.
    """
    widths = tuple(self.widths)
    if list(widths) != sorted(set(widths)) or not widths or widths[0] < 1:
      raise ValueError(f'widths are {widths}; they must increase from 1 on')
    channels, most = x_btc.shape[-1], widths[-1]
    if self.is_initializing():
      modules.Dense(most, name='into')(x_btc[:1, :1])
      modules.Dense(channels, name='out')(jnp.zeros((1, 1, most)))
      return x_btc
    params = {
      name: self.get_variable('params', name) for name in ('into', 'out')
    }
    if choice is None:
      return _branch(most, self.rate, self.site, params, x_btc, key)
    form = widths, self.rate, self.site, self.adaptive
    return _switch(form, params, x_btc, choice, key)


def sliced(params, width):
  """Returns parameters of a `ssm.FeedForward`, views of the widest one's."""
  into, out = params['into'], params['out']
  return {
    'into': {
      'kernel': into['kernel'][..., :width], 'bias': into['bias'][..., :width]
    },
    'out': {'kernel': out['kernel'][..., :width, :], 'bias': out['bias']},
  }  # fmt: skip


def _branch(width, rate, site, params, x_btc, key):
  params = sliced(params, width)
  into, out = params['into'], params['out']
  y_btw = matmul(x_btc, into['kernel']) + into['bias'][None, None]
  y_btc = matmul(nn.gelu(y_btw), out['kernel']) + out['bias'][None, None]
  return drop.dropout(y_btc, key, site, rate)


def _branches(form):
  widths, rate, site, adaptive = form
  most = widths[-1]
  return [
    functools.partial(
      _branch, width, rate * width / most if adaptive else rate, site
    )
    for width in widths
  ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _switch(form, params, x_btc, choice, key):
  return lax.switch(choice, _branches(form), params, x_btc, key)


def _switch_fwd(form, *arguments):
  return _switch(form, *arguments), arguments


def _switch_bwd(form, arguments, dy_btc):
  params, x_btc, choice, key = arguments

  def pull(branch, params, x_btc, key, dy_btc):
    _, vjp = jax.vjp(lambda p, x: branch(p, x, key), params, x_btc)
    return vjp(dy_btc)

  pulls = [functools.partial(pull, branch) for branch in _branches(form)]
  return *lax.switch(choice, pulls, params, x_btc, key, dy_btc), None, None


_switch.defvjp(_switch_fwd, _switch_bwd)
