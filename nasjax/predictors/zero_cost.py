"""Zero-cost proxies: scores of networks that were never trained.

One batch, at initialisation; a higher score is to mean a better network.
`grad_norm`, `snip`, `grasp`, `fisher`, `synflow`, `jacob_cov` and `l2` are
those of Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
and of its code; `naswot` is that of Mellor et al., Neural Architecture Search
without Training, ICML 2021; `zen` that of Lin et al., Zen-NAS, ICCV 2021.
`params` and `macs` are what they must beat.

A weight is a parameter of two axes or more: of convolutions, dense layers and
recurrences, no biases, no normalisation. The loss is that of a criterion
(CTC), the mean over the utterances that have an alignment; dropout is off.

Ours, where the papers' networks differ from those of speech:

- fisher. An affine layer y = x W + b, its channel c multiplied by a gate, has
  the derivative sum(W_c dL/dW_c) + b_c dL/db_c at gate 1, which is the sum over
  frames of the activation times its gradient. So no activation is kept, and
  whatever has weights is a layer. L is the loss of one utterance.
- synflow, synflow_bn: in float64; biases are 0. `synflow` leaves normalisation
  out; its input of ones is scaled by 1e-30, where clipped ReLU, sigmoid and
  tanh are all in their linear part and R is proportional to the input, so that
  the logarithm is corrected by the scale. `synflow_bn` keeps normalisation, on
  an input of 0.1, for ones would all be clipped.
- naswot: utterances are cut to the shortest (to a multiple of 32 frames, so
  that other batches need no other program), and codes are found where the
  program takes the maximum of something and 0. Networks without ReLU have none.
- zen: layer normalisation, not batch normalisation: the first term alone. New
  Gaussian weights in each of 32 repeats, of the variance that the network's own
  initialiser gives each of them.
"""

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax import cost, kernels
from nasjax.losses import criterion
from nasjax.models import common, families
from nasjax.predictors import relu_codes
from nasjax.programs import keeping
from nasjax.training import recipes

BASELINES = ('params', 'macs')
RECIPE = recipes.E40  # of which the loss is read, and no more
# Networks that one call of a program scores, one after the other on CPUs.
MOST = 64
_TINY, _SMALL = 1e-30, 0.1
_REPEATS, _GAMMA = 32, 0.01
_STEP = 32  # frames


class _Proxy(NamedTuple):
  """How one is computed.

  Attributes:
    of: (Subject, params, gates, batch, key) -> array of one network.
    finish: (array, batch) -> float, on the host.
    kernels: `kernels.choose`'s, replaced where its kernels cannot do it.
    wide: whether it is computed in float64.
  """

  of: Callable
  finish: Callable = lambda value, batch: float(value)
  kernels: Callable = lambda name: name
  wide: bool = False


class Subject(NamedTuple):
  """A network and the loss that it would be trained by."""

  network: nn.Module
  recipe: recipes.Recipe

  def outputs(self, params, gates, x_btf, len_b, *inputs):
    variables = {'params': params}
    return self.network.apply(variables, x_btf, len_b, gates, None, *inputs)

  def of_batch(self, params, gates, batch):
    inputs = families.inputs(self.network, batch)
    return self.outputs(params, gates, batch.x_btf, batch.len_b, *inputs)

  def loss(self, params, gates, batch):
    outputs = self.of_batch(params, gates, batch)
    held = criterion.of(self.recipe)
    return held.loss(
      outputs, batch, None, self.recipe, self.network.kernels, None
    )

  def count(self, params, gates, batch):
    """Returns how many utterances have a loss."""
    outputs = self.of_batch(params, gates, batch)
    valid_b = criterion.of(self.recipe).valid(outputs, batch)
    return jnp.sum(valid_b * (batch.weight_b > 0))


def _weights(tree):
  """Returns the leaves of a tree of parameters that are weights."""
  return [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim > 1]


def _products(params, other):
  """Returns the sum of each weight's products with those of a like tree."""
  return jnp.stack(
    [jnp.sum(w * g) for w, g in zip(_weights(params), _weights(other))]
  )


def _l2(subject, params, gates, batch, key):
  del subject, gates, batch, key
  return sum(jnp.linalg.norm(w.ravel()) for w in _weights(params))


def _grad_norm(subject, params, gates, batch, key):
  grads = jax.grad(subject.loss)(params, gates, batch)
  return _l2(subject, grads, gates, batch, key)


def _snip(subject, params, gates, batch, key):
  del key
  grads = jax.grad(subject.loss)(params, gates, batch)
  pairs = zip(_weights(params), _weights(grads))
  return sum(jnp.sum(jnp.abs(w * g)) for w, g in pairs)


def _grasp(subject, params, gates, batch, key):
  del key
  still = lax.stop_gradient(params)

  def along(params):
    grads = jax.grad(subject.loss)(params, gates, batch)
    return _products(grads, still).sum(), grads

  # The Hessian is symmetric, so that W H g is g H W, for which g needs not be
  # there before.
  turned, grads = jax.grad(along, has_aux=True)(params)
  return -_products(turned, grads).sum()


def _fisher(subject, params, gates, batch, key):
  del key

  def of_row(b):
    row = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, b, 1), batch)
    grads = jax.grad(subject.loss)(params, gates, row)
    return [a_c**2 for a_c in _saliencies(params, grads)]

  squared = lax.map(of_row, jnp.arange(len(batch.len_b)))
  count = jnp.maximum(subject.count(params, gates, batch), 1)
  return sum(jnp.sum(a_bc) for a_bc in squared) / count / 2


def _saliencies(params, grads):
  """Returns for each weight, by channel, activation times gradient, summed.

  The bias beside a weight, if there is one, tells how many of the weight's last
  axes are channels; else the last one is.
  """
  found = []
  if not isinstance(params, dict):
    return found
  bias = params.get('bias')
  for name, leaf in params.items():
    if isinstance(leaf, dict):
      found += _saliencies(leaf, grads[name])
    elif leaf.ndim > 1:
      channels, axes = leaf.shape[-1], 1
      while bias is not None and channels < bias.size and axes < leaf.ndim - 1:
        axes += 1
        channels *= leaf.shape[-axes]
      a_c = (leaf * grads[name]).reshape(-1, channels).sum(0)
      if bias is not None and bias.size == channels:
        a_c = a_c + (bias * grads['bias']).ravel()
      found.append(a_c)
  return found


def conserved(subject, params, gates, batch, scale):
  """Returns the sum of |W dR/dW| of each weight, at positive weights.

  R is the sum of the outputs for an input of ones times `scale`. In a chain of
  linear maps and ReLU without biases the sums are all R. The rows of a batch
  are all the same then, so one is computed.
  """
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      jnp.zeros_like(leaf)
      if 'bias' in path[-1].key.lower()
      else jnp.abs(leaf).astype(jnp.float64)
    ),
    params,
  )
  rows, *shape = batch.x_btf.shape
  x_btf = jnp.full((1, *shape), scale, jnp.float64)
  len_b = jnp.full(1, shape[0], batch.len_b.dtype)

  def total(params):
    outputs = subject.outputs(params, gates, x_btf, len_b)
    return jnp.sum(jax.tree.leaves(outputs)[0])

  pairs = zip(_weights(params), _weights(jax.grad(total)(params)))
  return rows * jnp.stack([jnp.sum(jnp.abs(w * g)) for w, g in pairs])


def _synflow(subject, params, gates, batch, key):
  del key
  with nn.intercept_methods(_skip_norms):
    sums = conserved(subject, params, gates, batch, _TINY)
  return jnp.log(sums.sum()) - np.log(_TINY)


def _skip_norms(call, args, given, context):
  """Lets modules that normalise return what they were given."""
  named = type(context.module).__name__.endswith('Norm')
  if named and context.method_name == '__call__':
    return args[0]
  return call(*args, **given)


def _synflow_bn(subject, params, gates, batch, key):
  del key
  return jnp.log(conserved(subject, params, gates, batch, _SMALL).sum())


def _jacobian(subject, params, gates, batch, key):
  """Returns how the outputs' gradients by input of utterances correlate."""
  del key

  def total(x_btf):
    outputs = subject.outputs(params, gates, x_btf, batch.len_b)
    return jnp.sum(jax.tree.leaves(outputs)[0])

  j_bn = jax.grad(total)(batch.x_btf).reshape(len(batch.len_b), -1)
  j_bn = j_bn - j_bn.mean(1, keepdims=True)
  # A row of gradients far below 1 would be 0 once squared.
  j_bn = j_bn / jnp.max(jnp.abs(j_bn), axis=1, keepdims=True)
  j_bn = j_bn / jnp.linalg.norm(j_bn, axis=1, keepdims=True)
  return j_bn @ j_bn.T


def _spread(c_bb, batch):
  """Scores the correlations of `_jacobian`, of the rows that are filled."""
  c_bb = _filled(c_bb, batch)
  if not np.isfinite(c_bb).all():
    return -np.inf
  v_b = np.maximum(np.linalg.eigvalsh(c_bb), 0) + 1e-5
  return float(-np.sum(np.log(v_b) + 1 / v_b))


def _filled(matrix_bb, batch):
  rows = np.flatnonzero(np.asarray(batch.weight_b) > 0)
  return np.asarray(matrix_bb, np.float64)[np.ix_(rows, rows)]


def _naswot(subject, params, gates, batch, key):
  """Returns how many ReLU agree for each two utterances."""
  del key
  _, codes = relu_codes.traced(
    lambda x_btf: subject.outputs(
      params, gates, x_btf, jnp.full_like(batch.len_b, x_btf.shape[1])
    ),
    batch.x_btf,
  )
  rows = len(batch.len_b)
  codes = [code for code in codes if code.shape[:1] == (rows,)]
  if not codes:
    raise ValueError(
      f'naswot: {type(subject.network).__name__} has no ReLU, so no codes'
    )
  total_bb = jnp.zeros((rows, rows))
  for code in codes:
    c_bn = code.reshape(rows, -1).astype(jnp.float32)
    total_bb += c_bn @ c_bn.T + (1 - c_bn) @ (1 - c_bn).T
  return total_bb


def _log_determinant(k_bb, batch):
  sign, value = np.linalg.slogdet(_filled(k_bb, batch))
  return float(value) if sign > 0 else -np.inf


def _zen(subject, params, gates, batch, key):
  shape = (1, *batch.x_btf.shape[1:])
  len_b = jnp.full((1,), shape[1], batch.len_b.dtype)
  leaves, structure = jax.tree.flatten(params)

  def drawn(key):
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
      structure, [_gaussian(k, leaf) for k, leaf in zip(keys, leaves)]
    )

  def repeat(key):
    k_params, k_x, k_shift = jax.random.split(key, 3)
    params = drawn(k_params)
    x_btf = jax.random.normal(k_x, shape)
    shifted_btf = x_btf + _GAMMA * jax.random.normal(k_shift, shape)
    first, second = (
      jax.tree.leaves(subject.outputs(params, gates, x, len_b))[0]
      for x in (x_btf, shifted_btf)
    )
    return jnp.sum(jnp.abs(first - second))

  return jnp.log(jnp.mean(lax.map(repeat, jax.random.split(key, _REPEATS))))


def _gaussian(key, leaf):
  """Draws weights again; those that are 0 are not there."""
  if leaf.ndim < 2:
    return leaf
  there = leaf != 0
  size = jnp.sqrt(jnp.sum(leaf**2) / jnp.maximum(jnp.sum(there), 1))
  return jax.random.normal(key, leaf.shape, leaf.dtype) * size * there


def _twice(name):
  return 'twice' if name == 'native' else name


def _plain(name):
  del name
  return 'xla'


PROXIES = {
  'grad_norm': _Proxy(_grad_norm),
  'snip': _Proxy(_snip),
  'grasp': _Proxy(_grasp, kernels=_twice),
  'fisher': _Proxy(_fisher),
  'synflow': _Proxy(_synflow, kernels=_plain, wide=True),
  'synflow_bn': _Proxy(_synflow_bn, kernels=_plain, wide=True),
  'jacob_cov': _Proxy(_jacobian, _spread),
  'naswot': _Proxy(_naswot, _log_determinant, _plain),
  'zen': _Proxy(_zen),
  'l2': _Proxy(_l2),
}
NAMES = (*PROXIES, *BASELINES)


def score(name, space, archs, macro, batch, key, recipe=RECIPE):
  """Scores architectures without training them.

  Args:
    name: one of `NAMES`.
    space: search space.
    archs: architectures of it, in any form that `space.parse_all` reads.
    macro: macro network of the space.
    batch: `training.batches.Batch`, of features normalised as in training; its
      rows of weight 0 count nowhere. `params` asks for none of it, `macs` for
      its frames alone.
    key: a JAX random key, or an integer to make one of. An architecture's
      weights follow from it and from the architecture, whoever stands beside.
    recipe: `Recipe`, for the loss.

  Returns:
    float64 [n], higher for what should be better; -inf where nothing reaches
    the output.

  Raises:
    ValueError: the name is unknown; an architecture is none of the space; the
      macro network is of another; the batch has other features, or no room for
      an output; the loss needs a corpus (CTC-CRF); naswot of networks without
      ReLU.
  """
  if name not in NAMES:
    raise ValueError(
      f'zero-cost proxy {name!r} is unknown; there are {", ".join(NAMES)}'
    )
  families.check(space, macro)
  archs_pd = space.parse_all(archs)
  if name == 'params':
    return _each(cost.params, space, archs_pd, macro)
  if name == 'macs':
    frames = int(batch.x_btf.shape[1])
    return _each(cost.macs, space, archs_pd, macro, frames)
  _check(batch, macro)
  if isinstance(key, int | np.integer):
    key = jax.random.key(key)
  elif not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if name == 'naswot':
    batch = _cropped(batch, macro)
  found_p = np.empty(len(archs_pd))
  groups = {}
  for p, arch in enumerate(archs_pd):
    groups.setdefault(families.signature(space, arch), []).append(p)
  for kinds, places in groups.items():
    programs = _programs(name, space, kinds, macro, recipe)
    # Few sizes, for each is compiled.
    size = min(MOST, 1 << (len(places) - 1).bit_length())
    for start in range(0, len(places), size):
      some = places[start : start + size]
      found_p[some] = _run(
        PROXIES[name], programs, space, archs_pd[some], batch, key, size
      )
  return found_p


def _each(count, space, archs_pd, *rest):
  return np.array([count(space, arch, *rest) for arch in archs_pd], np.float64)


def _check(batch, macro):
  features = batch.x_btf.shape[-1]
  if features != macro.features:
    raise ValueError(
      f'the batch has {features} features, macro {macro.name} takes '
      f'{macro.features}'
    )
  if not (np.asarray(batch.weight_b) > 0).any():
    raise ValueError('the batch has no utterance of a weight above 0')


def _cropped(batch, macro):
  """Cuts every utterance to the shortest one."""
  weight_b, len_b = np.asarray(batch.weight_b), np.asarray(batch.len_b)
  frames = int(len_b[weight_b > 0].min())
  if frames < macro.reduction:
    raise ValueError(
      f'the shortest utterance has {frames} frames, macro {macro.name} needs '
      f'{macro.reduction}'
    )
  if frames > _STEP:
    frames -= frames % _STEP
  return batch._replace(x_btf=batch.x_btf[:, :frames])


def _in_turns(of_one):
  """Maps a function of one network's own (tree) and of what all share."""

  def of_all(own_p, *shared):
    if jax.default_backend() == 'cpu':
      return lax.map(lambda own: of_one(*own, *shared), own_p)
    axes = (0,) * len(own_p) + (None,) * len(shared)
    return jax.vmap(of_one, axes)(*own_p, *shared)

  return jax.jit(of_all)


def _made(space, kinds, macro, numbers):
  return families.made(space, macro, tuple((k,) for k in kinds), numbers)


@keeping.kept(256)
def _initial(space, kinds, macro):
  """Returns what draws the weights of all networks of a signature."""
  network = _made(space, kinds, macro, families.PLAIN)
  return _in_turns(functools.partial(common.initial_params, network))


@keeping.kept(1024)
def _programs(name, space, kinds, macro, recipe):
  """Returns what draws weights, (keys_p, gates_p), and what scores them,
  ((params_p, gates_p, keys_p), batch), compiled for a signature.
  """
  proxy = PROXIES[name]
  initial = _initial(space, kinds, macro)
  if name == 'synflow' and getattr(macro, 'epsilon', None) is not None:
    # Where normalisation is no module of its own.
    macro = dataclasses.replace(macro, epsilon=None)
  numbers = families.Numbers(
    kernels=proxy.kernels(kernels.choose()), precision=recipe.precision
  )
  subject = Subject(_made(space, kinds, macro, numbers), recipe)

  def of_one(params, gates, key, batch):
    return proxy.of(subject, params, gates, batch, key)

  return initial, _in_turns(of_one)


def weights(space, archs, macro, key):
  """Returns the weights that architectures are scored with, a list of trees.

  Args:
    space, archs, macro: as in `score`.
    key: a JAX random key.
  """
  archs_pd = space.parse_all(archs)
  found = []
  for arch in archs_pd:
    keys_p, gates_p = _own(space, arch[None], key, 1)
    initial = _initial(space, families.signature(space, arch), macro)
    params_p = initial((keys_p, gates_p))
    found.append(jax.tree.map(lambda leaf: leaf[0], params_p))
  return found


def _own(space, archs_pd, key, size):
  """Returns keys and gates of architectures, repeated up to `size`."""
  filled = np.resize(np.arange(len(archs_pd)), size)
  gates = [families.gates(space, arch) for arch in archs_pd]
  digests = [zlib.crc32(space.key(arch).encode()) for arch in archs_pd]
  keys_p = jax.vmap(jax.random.fold_in, (None, 0))(
    key, np.array(digests, np.uint32)[filled]
  )
  gates_p = jax.tree.map(lambda *g: np.stack(g), *(gates[p] for p in filled))
  return keys_p, gates_p


def _run(proxy, programs, space, archs_pd, batch, key, size):
  """Scores up to `size` architectures of one signature."""
  initial, scored = programs
  keys_p, gates_p = _own(space, archs_pd, key, size)
  params_p = initial((keys_p, gates_p))
  wide = jax.enable_x64(True) if proxy.wide else contextlib.nullcontext()
  with wide:
    # One key draws the weights, its fold what else is random.
    data_p = jax.random.key_data(keys_p) ^ np.uint32(1)
    kind = jax.random.key_impl(keys_p)
    own_p = params_p, gates_p, jax.random.wrap_key_data(data_p, impl=kind)
    value_p = np.asarray(scored(own_p, batch))
  return [proxy.finish(value, batch) for value in value_p[: len(archs_pd)]]
