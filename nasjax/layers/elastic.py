"""Elastic layers: a smaller network is a beginning of a larger one's channels.

A feed-forward part of width c is the first c channels of its widest form. Every
width is a branch of its own of a `lax.switch`, on slices of a size that is
known: what a narrow one does not need is not computed, and all widths are one
program. (Mapped over members a switch runs every branch.)

The branches keep nothing for the gradient, which computes the channels between
the two products again: one product of six more, and the largest arrays of a
layer less; otherwise each branch would keep its own beside those of all others.

Products may be of low rank, each of two matrices with few numbers between them;
then a smaller rank is a beginning of a larger one, too.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nasjax.layers import dropout as drop
from nasjax.layers import modules
from nasjax.layers.custom_vjps import matmul


class Factored(NamedTuple):
  """A width whose products are of low rank.

  Attributes:
    width: channels between the products.
    rank: numbers within either product.
  """

  width: int
  rank: int


def is_one(hidden):
  """Whether this is one width, not several to choose from."""
  return isinstance(hidden, int | Factored)


class LowRank(nn.Module):
  """Affine map of each frame by way of `rank` numbers."""

  width: int
  rank: int

  @nn.compact
  def __call__(self, x_btk):
    init = nn.initializers.glorot_uniform()
    left_kr = self.param('left_kernel', init, (x_btk.shape[-1], self.rank))
    right_rn = self.param('right_kernel', init, (self.rank, self.width))
    bias_n = self.param('bias', nn.initializers.zeros, (self.width,))
    return matmul(matmul(x_btk, left_kr), right_rn) + bias_n[None, None]


def affine(width, hidden, name):
  """Returns a map to `width` channels, of low rank where `hidden` is."""
  if isinstance(hidden, Factored):
    return LowRank(width, hidden.rank, name=name)
  return modules.Dense(width, name=name)


def width_of(hidden):
  """Returns the channels between the products, an int."""
  return hidden.width if isinstance(hidden, Factored) else hidden


class ElasticFeedForward(nn.Module):
  """`ssm.FeedForward` of several widths, with the dropout behind it.

  Its parameters are those of the widest; `sliced` gives those of another.

  Attributes:
    widths: channels between the products, increasing; or `Factored`s, of which
      the last has both the most channels and the highest rank.
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
    least = min(map(_least, widths), default=0)
    if list(widths) != sorted(set(widths)) or least < 1:
      raise ValueError(f'widths are {widths}; they must increase from 1 on')
    channels, most = x_btc.shape[-1], widths[-1]
    if self.is_initializing():
      affine(width_of(most), most, 'into')(x_btc[:1, :1])
      between = jnp.zeros((1, 1, width_of(most)))
      affine(channels, most, 'out')(between)
      return x_btc
    params = {
      name: self.get_variable('params', name) for name in ('into', 'out')
    }
    if choice is None:
      return _branch(most, self.rate, self.site, params, x_btc, key)
    form = widths, self.rate, self.site, self.adaptive
    return _switch(form, params, x_btc, choice, key)


def _least(hidden):
  return min(hidden) if isinstance(hidden, Factored) else hidden


def sliced(params, width):
  """Returns parameters of a `ssm.FeedForward`, views of the widest one's.

  Args:
    params: of the widest.
    width: int, or `Factored`.
  """
  into, out = params['into'], params['out']
  if isinstance(width, Factored):
    width, rank = width
    return {
      'into': {
        'left_kernel': into['left_kernel'][..., :rank],
        'right_kernel': into['right_kernel'][..., :rank, :width],
        'bias': into['bias'][..., :width],
      },
      'out': {
        'left_kernel': out['left_kernel'][..., :width, :rank],
        'right_kernel': out['right_kernel'][..., :rank, :],
        'bias': out['bias'],
      },
    }
  return {
    'into': {
      'kernel': into['kernel'][..., :width], 'bias': into['bias'][..., :width]
    },
    'out': {'kernel': out['kernel'][..., :width, :], 'bias': out['bias']},
  }  # fmt: skip


def _branch(width, rate, site, params, x_btc, key):
  params = sliced(params, width)
  y_btw = _mapped(params['into'], x_btc)
  y_btc = _mapped(params['out'], nn.gelu(y_btw))
  return drop.dropout(y_btc, key, site, rate)


def _mapped(params, x_btk):
  if 'kernel' in params:
    y_btn = matmul(x_btk, params['kernel'])
  else:
    y_btn = matmul(matmul(x_btk, params['left_kernel']), params['right_kernel'])
  return y_btn + params['bias'][None, None]


def _branches(form):
  widths, rate, site, adaptive = form
  most = width_of(widths[-1])
  return [
    functools.partial(
      _branch, width, rate * width_of(width) / most if adaptive else rate, site
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
