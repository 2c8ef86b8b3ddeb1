"""The dense graph of DARTS-ASR, as one network and as a supernet.

Chen et al., DARTS-ASR: Differentiable Architecture Search for Multilingual
Speech Recognition and Adaptation, Interspeech 2020, section 2. A convolution is
followed by ReLU and batch normalisation; pools and skips by nothing. A node is
the sum of its edges, and the outputs of all nodes stand side by side.

Where the paper is silent, and what is taken here:
- how the features become the channels of the first tensor: by a linear 1 by 1
  convolution; with a stride s by one of s by s elements that do not overlap;
- what normalises where planes are padded: statistics are of valid frames only,
  and no operation reads what is past an utterance's end (`layers.planes`);
- initialisation: kernels and biases as PyTorch has them, uniform within
  1 / sqrt(fan in).
"""

import functools
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax import kernels as kernels_lib
from nasjax.layers import mixed_op, planes
from nasjax.models import macros
from nasjax.models.darts_asr.trunk import Trunk
from nasjax.spaces.darts_asr import CONVOLUTIONS


def conv_params(key, height, width, inputs, outputs):
  """Initialises a convolution: 'kernel' [h, w, c, n] and 'bias' [n]."""
  fan_in = height * width * inputs
  limit = fan_in**-0.5
  drawn = jax.random.uniform(
    key, (fan_in + 1, outputs), jnp.float32, -limit, limit
  )
  kernel_hwcn = drawn[:-1].reshape(height, width, inputs, outputs)
  return {'kernel': kernel_hwcn, 'bias': drawn[-1]}


def layer_params(key, taps, inputs, outputs):
  """Initialises a convolution and its batch normalisation."""
  conv = conv_params(key, taps, taps, inputs, outputs)
  return conv | planes.norm_params(outputs)


def affine(name, precision, params, x_btfc, context):
  """What comes first of an operation: all of it but for convolutions."""
  if name in CONVOLUTIONS:
    z_btfc = planes.conv(
      x_btfc, params['kernel'], CONVOLUTIONS[name][1], precision
    )
    return z_btfc + params['bias'][None, None, None]
  if name == 'avg_pool3x3':
    return planes.avg_pool(x_btfc, context[0])
  if name == 'max_pool3x3':
    return planes.max_pool(x_btfc, context[0])
  return x_btfc


def factors(epsilon, params, r_btfc, context):
  """Returns a_c and b_c of the batch normalisation behind a ReLU."""
  len_b, key = context
  trains = key is not None
  return planes.norm_factors(params, r_btfc, len_b, trains, epsilon)


def activate(epsilon, params, z_btfc, context):
  """ReLU and batch normalisation."""
  r_btfc = jax.nn.relu(z_btfc)
  a_c, b_c = factors(epsilon, params, r_btfc, context)
  return a_c[None, None, None] * r_btfc + b_c[None, None, None]


def statistics(z_btfc, context):
  """What batch normalisation behind a ReLU sees of a batch."""
  return jax.lax.stop_gradient(planes.moments(jax.nn.relu(z_btfc), context[0]))


def tell(module, name, params, found, momentum, ran=True):
  """Sows the running statistics of a layer, where it trains and `ran`."""
  new = planes.moved(params, found, momentum)
  new = {k: jnp.where(ran, v, params[k]) for k, v in new.items()}
  module.sow('statistics', name, new, lambda _, last: last, lambda: None)


def node(x_btfc, len_b, kernels):
  """Returns a node's tensor: its sum, zero past the end, computed once."""
  x_btfc = planes.mask(x_btfc, len_b)
  if kernels in ('native', 'twice'):
    return kernels_lib.once(x_btfc)
  return x_btfc


def operated(name, epsilon, precision, params_e, x_btfc, context, weight_e):
  """Runs one operation on each of several edges out of the same tensor.

  A convolution computes the channels of all edges side by side, for which CPUs'
  library is several times as fast as for few; a pool runs once. Batch
  normalisation and weight are one multiplication of each element.

  Args:
    name: of the operation.
    epsilon: of batch normalisation.
    precision: of its products.
    params_e: of each edge, as `layer_params`; empty for an operation without.
    x_btfc: zero past each utterance's end.
    context: valid frames, and a key where it trains or None.
    weight_e: a number for each edge, or None for 1.

  Returns:
    y_btfc of each edge; and mean_c and variance_c of the batch of each, None
    where nothing trains or the operation has none.
  """
  edges = len(params_e)
  if name not in CONVOLUTIONS:
    z_btfc = affine(name, precision, {}, x_btfc, context)
    outputs = [z_btfc if w is None else w * z_btfc for w in weight_e]
    return outputs, [None] * edges
  params = jax.tree.map(lambda *own: jnp.concatenate(own, -1), *params_e)
  z_btfn = affine(name, precision, params, x_btfc, context)
  found_e = [None] * edges
  if context[1] is not None:
    found = (jnp.split(own_n, edges) for own_n in statistics(z_btfn, context))
    found_e = list(zip(*found, strict=True))
  r_btfn = jax.nn.relu(z_btfn)
  a_n, b_n = factors(epsilon, params, r_btfn, context)
  weight_e = jnp.stack([jnp.float32(1 if w is None else w) for w in weight_e])
  weight_n = jnp.repeat(weight_e, a_n.size // edges)
  a_n, b_n = weight_n * a_n, weight_n * b_n
  y_btfn = a_n[None, None, None] * r_btfn + b_n[None, None, None]
  return jnp.split(y_btfn, edges, -1), found_e


def _edges(count):
  """Returns source and target of each edge: tensor j, and node i behind it."""
  pairs = ((j, i) for i in itertools.count() for j in range(i + 1))
  return list(itertools.islice(pairs, count))


class Network(nn.Module):
  """Features to logits.

  The parameters of operation <name> at edge e are called edge{e}_<name>, those
  of the projection stem_conv, of all that follows trunk.

  Attributes:
    macro: the numbers.
    ops: candidates of each edge, by name, edges in the order of `spaces.Dense`.
      One makes a plain network, several a supernet.
    rate: of dropout, between the layers of LSTMs.
    conv_dropout: not used: the front end drops nothing.
    kernels: as `kernels.choose` says. XLA's convolutions run; 'native' has CPUs
      compute each node once.
    precision: of all products, as in `custom_vjps.matmul`.
    mode: how several candidates are put together, of `mixed_op.MODES`.
  """

  macro: macros.Graph
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None, language_b=None):
    """Runs one network.

    Args:
      x_btf: normalised features.
      len_b: valid frames; whatever lies beyond never reaches valid logits.
      gates: `mixed_op.Edge` of each edge; empty for a plain network.
      key: uint32 (2,) of dropout; None to evaluate, that is to drop nothing and
        to normalise by running statistics.
      language_b: as in `trunk.Trunk`.

    Returns:
      logits_btv and their valid lengths.
    """
    macro = self.macro
    chex.assert_shape(x_btf, (None, None, macro.features))
    # Integers without a sign have no ceil(len / stride) as it is taken below.
    len_b = jnp.asarray(len_b, jnp.int32)
    chex.assert_shape(len_b, x_btf.shape[:1])
    side = macro.stride
    stem = self.param('stem_conv', conv_params, side, side, 1, macro.width)
    x_btf = planes.mask(x_btf[..., None], len_b)[..., 0]
    h_btfc = planes.patches(x_btf, stem['kernel'], stem['bias'], self.precision)
    len_b = macro.output_frames(len_b)
    params_e = [self._edge_params(e) for e in range(len(self.ops))]
    edges, tensors = _edges(len(self.ops)), [node(h_btfc, len_b, self.kernels)]
    sums = [0.0] * (1 + edges[-1][1])
    # By the tensor that is read: what edges have in common is computed once.
    for j in range(len(sums)):
      own_e = [e for e, (source, _) in enumerate(edges) if source == j]
      for e, y_btfc in self._out_of(
        tensors[j], own_e, params_e, (len_b, key), gates
      ):
        sums[edges[e][1]] += y_btfc
      tensors.append(node(sums[j], len_b, self.kernels))
    h_btfc = jnp.concatenate(tensors[1:], -1)
    trunk = Trunk(macro, self.rate, self.precision, name='trunk')
    return trunk(h_btfc, len_b, key, language_b), len_b

  def _edge_params(self, e):
    """Returns the parameters of each candidate of an edge."""
    width = self.macro.width
    return [
      self.param(
        f'edge{e}_{name}', layer_params, CONVOLUTIONS[name][0], width, width
      )
      if name in CONVOLUTIONS
      else {}
      for name in self.ops[e]
    ]

  def _out_of(self, x_btfc, own_e, params_e, context, gates):
    """Yields pairs of an edge and what it makes of its tensor, to be summed."""
    together = {}  # by operation: pairs of an edge and its candidate
    for e in own_e:
      names = self.ops[e]
      if len(names) > 1 and self.is_initializing():
        yield e, x_btfc  # There is nothing to be found out by running it.
      elif len(names) > 1 and self.mode != 'mixed':
        yield e, self._switched(e, params_e[e], x_btfc, context, gates[e])
      else:
        for k, name in enumerate(names):
          together.setdefault(name, []).append((e, k))
    macro = self.macro
    for name, pairs in together.items():
      outputs, found_e = operated(
        name, macro.epsilon, self.precision,
        [params_e[e][k] for e, k in pairs], x_btfc, context,
        [gates[e].weight_k[k] if len(self.ops[e]) > 1 else None
         for e, k in pairs],
      )  # fmt: skip
      for (e, k), y_btfc, found in zip(pairs, outputs, found_e, strict=True):
        if found is not None:
          own = params_e[e][k]
          tell(self, f'edge{e}_{name}', own, found, macro.momentum)
        yield e, y_btfc

  def _switched(self, e, params_k, x_btfc, context, edge):
    """Runs the candidates of an edge by a mode that runs one of them."""
    names, width = self.ops[e], self.macro.width
    affine_k, rest_k = [], []
    for name, params in zip(names, params_k):
      norm = params if params else planes.norm_params(width)
      rest_k.append(
        {n: norm[n] for n in ('scale', 'shift', 'mean', 'variance')}
        | {'is_conv': jnp.asarray(name in CONVOLUTIONS, jnp.float32)}
      )
      affine_k.append({n: params[n] for n in ('kernel', 'bias') if params})

    def finish(rest, z_btfc, context):
      y_btfc = activate(self.macro.epsilon, rest, z_btfc, context)
      return jnp.where(rest['is_conv'] > 0, y_btfc, z_btfc)

    candidates = mixed_op.Candidates(
      tuple(functools.partial(affine, name, self.precision) for name in names),
      finish,
      statistics if context[1] is not None else None,
    )
    y_btfc, found = mixed_op.mix_and_tell(
      self.mode, candidates, tuple(affine_k), tuple(rest_k), edge, x_btfc,
      context,
    )  # fmt: skip
    if found is not None:
      for k, (name, params) in enumerate(zip(names, params_k)):
        if params:
          ran = edge.index == k
          where = f'edge{e}_{name}'
          tell(self, where, params, found, self.macro.momentum, ran)
    return y_btfc


def supernet_gates(space, edges, edge_e):
  """Returns the gates of a supernet: the edges as they are."""
  del space, edges
  return tuple(edge_e)


def candidate(path, edges):
  """Returns edge and candidate of a parameter, or None; see `base.Family`."""
  for e, (_, names) in enumerate(edges):
    for k, name in enumerate(names):
      if path[0] == f'edge{e}_{name}':
        return e, k
  return None
