"""What a network costs, counted in the network: where no formula says it."""

import math

import jax
import jax.numpy as jnp
from jax.extend import core

from nasjax.models import common, families


def _network(space, arch, macro):
  """Returns the plain network, its gates and the shapes of its parameters."""
  network = families.single(space, arch, macro)
  gates = families.gates(space, arch)
  shapes = jax.eval_shape(
    lambda key: common.initial_params(network, key, gates), jax.random.key(0)
  )
  return network, gates, shapes


def params(space, arch, macro):
  """Counts trainable parameters; see `cost.params`."""
  _, _, shapes = _network(space, arch, macro)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def macs(space, arch, macro, frames):
  """Counts multiply-accumulates; see `cost.macs`.

  Those of dense products and convolutions, of activations with each other, too.
  What is multiplied element by element does not count.

  Raises:
    ValueError: a loop runs until a condition holds, so nobody knows how often.
  """
  network, gates, shapes = _network(space, arch, macro)

  def apply(params, x_btf, len_b):
    return network.apply({'params': params}, x_btf, len_b, gates)

  x_btf = jax.ShapeDtypeStruct((1, frames, macro.features), jnp.float32)
  len_b = jax.ShapeDtypeStruct((1,), jnp.int32)
  return _products(jax.make_jaxpr(apply)(shapes, x_btf, len_b).jaxpr)


def _products(jaxpr):
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation):
  name, given = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = given['dimension_numbers']
    shape = equation.invars[0].aval.shape
    each = math.prod(shape[axis] for axis in contracted)
    return equation.outvars[0].aval.size * each
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval
    outputs = kernel.shape[given['dimension_numbers'].rhs_spec[0]]
    return equation.outvars[0].aval.size * (kernel.size // outputs)
  inner = [_products(jaxpr) for jaxpr in core.jaxprs_in_params(given)]
  if name == 'while' and any(inner):
    raise ValueError(
      'a while loop in the network runs nobody knows how often; give its '
      'Family macs'
    )
  if name == 'cond':
    return max(inner)
  return sum(inner) * (given['length'] if name == 'scan' else 1)
