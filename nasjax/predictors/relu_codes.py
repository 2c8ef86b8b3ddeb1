"""Which ReLU of a function are on, whatever made it.

The function's program is gone through, operation by operation, and what is the
maximum of a value and 0 is looked at: `jax.nn.relu`, `jnp.maximum(x, 0)`,
`jnp.clip(x, 0, 20)` all are. Kernels of one's own hide theirs.
"""

import jax
from jax import lax
from jax.extend import core

# Operations that hand a constant 0 on.
_SAME = ('convert_element_type', 'broadcast_in_dim', 'copy', 'reshape')
# Those whose program stands for themselves.
_CALLS = ('jit', 'pjit', 'custom_jvp_call', 'custom_vjp_call', 'remat2')
_CALLS += ('checkpoint', 'closed_call', 'core_call')


def traced(function, *args):
  """Runs a function and returns its results and the codes.

  Args:
    function: of arrays.
    args: arrays, perhaps traced.

  Returns:
    what `function` returns, and a list of bool arrays, True where a ReLU let
    its value through; of one in a loop with the steps behind the first axis.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  flat, codes = _evaluated(
    closed.jaxpr, closed.consts, jax.tree.leaves(args), set()
  )
  return jax.tree.unflatten(jax.tree.structure(shapes), flat), codes


def _evaluated(jaxpr, consts, args, zeros):
  """Evaluates a program.

  Args:
    jaxpr: the program.
    consts, args: its inputs.
    zeros: numbers of the arguments that are known to be 0.

  Returns:
    outputs and codes.
  """
  values = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, args))
  zero = {jaxpr.invars[n] for n in zeros}
  codes = []

  def read(var):
    return var.val if isinstance(var, core.Literal) else values[var]

  def is_zero(var):
    if isinstance(var, core.Literal):
      return var.aval.shape == () and var.val == 0
    return var in zero

  for equation in jaxpr.eqns:
    name, given = equation.primitive.name, equation.params
    inputs = [read(var) for var in equation.invars]
    known = {n for n, var in enumerate(equation.invars) if is_zero(var)}
    if name in _CALLS:
      # Closed over its constants, or without any.
      inner = given.get('jaxpr', given.get('call_jaxpr'))
      outputs, found = _evaluated(
        getattr(inner, 'jaxpr', inner),
        getattr(inner, 'consts', ()),
        inputs,
        known,
      )
      codes += found
    elif name == 'scan':
      outputs, found = _scanned(given, inputs, known)
      codes += found
    else:
      outputs = equation.primitive.bind(*inputs, **given)
      if not equation.primitive.multiple_results:
        outputs = [outputs]
      if name in _SAME and known:
        zero.add(equation.outvars[0])
      if name == 'max' and len(known) == 1:
        codes.append(outputs[0] > 0)
      if name == 'clamp' and 0 in known:
        codes.append(outputs[0] > 0)
    values |= dict(zip(equation.outvars, outputs))
  return [read(var) for var in jaxpr.outvars], codes


def _scanned(given, inputs, known):
  """Evaluates a loop; codes of its steps come as one array."""
  closed, count = given['jaxpr'], given['num_consts']
  carried = given['num_carry']
  shared = inputs[:count]

  def step(carry, x):
    outputs, codes = _evaluated(
      closed.jaxpr,
      closed.consts,
      [*shared, *carry, *x],
      {n for n in known if n < count},
    )
    return outputs[:carried], (outputs[carried:], codes)

  carry, (ys, codes) = lax.scan(
    step,
    inputs[count : count + carried],
    inputs[count + carried :],
    length=given['length'],
    reverse=given['reverse'],
  )
  moved = [c.swapaxes(0, 1) if c.ndim > 1 else c for c in codes]
  return [*carry, *ys], moved
