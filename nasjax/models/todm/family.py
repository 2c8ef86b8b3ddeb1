"""TODM's family: transducers, and encoders for CTC, of elastic layers.

A network of one architecture has the widths of its layers fixed. Of the largest
one, elastic, all others are a part; `ELASTIC` says which.
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nasjax.layers import elastic
from nasjax.models import base, macros
from nasjax.models.todm import cost, network
from nasjax.spaces import todm as spaces


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
  """What a transducer gives: its scores, of all nodes, would be large.

  Attributes:
    enc_btd: of the encoder.
    len_b: its frames.
    pred_bud: of the predictor, u from 0 to L labels said; None where no labels
      were given.
    params: of predictor and joiner.
    predictor: the module.
    kind: of the joiner.
  """

  enc_btd: jax.Array
  len_b: jax.Array
  pred_bud: jax.Array | None
  params: dict
  predictor: network.Predictor = dataclasses.field(metadata={'static': True})
  kind: str = dataclasses.field(default='add', metadata={'static': True})

  @property
  def joiner(self):
    """The joiner's parameters, those of `join`."""
    return self.params['joiner']

  @property
  def join(self):
    """The joiner as losses take it, of (params, enc_bt1d, pred_b1ud)."""
    return network.JOINS[self.kind]

  def decoding(self):
    """Returns start, predict and join of a `decoding.transducer.Model`."""
    return network.decoding(self, self.params, self.join)


def outputs(module, enc_btd, len_b, labels_bl):
  """Returns the `Outputs` of a module that has `predictor` and `joiner`.

  Args:
    module: a linen module, in a call.
    enc_btd, len_b: of its encoder.
    labels_bl: transcripts, or None.
  """
  if labels_bl is None and module.is_initializing():
    labels_bl = jnp.zeros((len(enc_btd), 1), jnp.int32)
  pred_bud = None if labels_bl is None else module.predictor(labels_bl)
  if module.is_initializing():
    module.joiner(enc_btd[:, :1, None], pred_bud[:, None, :1])
  parts = module.variables['params']
  return Outputs(
    enc_btd,
    len_b,
    pred_bud,
    {name: parts[name] for name in ('predictor', 'joiner')},
    module.predictor.clone(parent=None, name=None),
    module.joiner.kind,
  )


def check_precision(macro, precision):
  """Raises a ValueError where products are not to be of float32."""
  if precision != 'float32':
    raise ValueError(
      f"precision={precision!r}: macro {macro.name} computes in 'float32' alone"
    )


class Network(nn.Module):
  """Features to what a criterion reads.

  Attributes:
    macro: the numbers.
    ops: widths of each layer, by name, with an r and the rank behind it where
      products are of low rank. One makes a plain network, several an elastic
      one.
    rate: of dropout.
    conv_dropout, kernels, mode: not used.
    precision: of products; float32.
    least: layers that an elastic one never leaves out; 0 for all.
    adaptive: whether narrower parts of an elastic one drop less.
    exits: as in `network.Encoder`.
  """

  macro: macros.Todm
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'
  least: int = 0
  adaptive: bool = True
  exits: tuple[int, ...] = ()

  def setup(self):
    macro = self.macro
    if not 1 <= len(self.ops) <= macro.blocks:
      raise ValueError(
        f'{len(self.ops)} layers, but macro {macro.name} has {macro.blocks}'
      )
    check_precision(macro, self.precision)
    self.encoder = encoder(
      macro,
      tuple(
        _hidden(names[0]) if len(names) == 1 else tuple(map(_hidden, names))
        for names in self.ops
      ),
      rate=self.rate,
      least=self.least or len(self.ops),
      adaptive=self.adaptive,
      exits=self.exits,
    )
    if macro.transduces:
      self.predictor = predictor(macro)
      self.joiner = network.Joiner(macro.outputs)

  def __call__(self, x_btf, len_b, gates, key=None, labels_bl=None):
    """Runs one network.

    Args:
      x_btf: normalised features.
      len_b: valid frames; whatever lies beyond never reaches valid outputs.
      gates: () for a plain network; of an elastic one `network.Choice`, or
        None for the largest.
      key: uint32 (2,) of dropout, None to switch it off.
      labels_bl: transcripts, for the predictor; None where nobody asks what
        it says to them.

    Returns:
      `Outputs`; without a predictor logits_btv and their lengths.
    """
    return self.with_exits(x_btf, len_b, gates, key, labels_bl)[0]

  def with_exits(self, x_btf, len_b, gates, key=None, labels_bl=None):
    """Returns the outputs, and a tuple of those behind each exit."""
    chex.assert_shape(x_btf, (None, None, self.macro.features))
    choice = gates or None
    enc_btd, len_b, *inner = self.encoder(x_btf, len_b, key, choice=choice)
    inner = inner[0] if inner else ()
    if not self.macro.transduces:
      return (enc_btd, len_b), tuple((x_btv, len_b) for x_btv in inner)
    found = outputs(self, enc_btd, len_b, labels_bl)
    return found, tuple(
      dataclasses.replace(found, enc_btd=x_btd) for x_btd in inner
    )


def encoder(macro, hidden, **options):
  """Returns the encoder of a macro network, of some widths a layer."""
  return network.Encoder(
    hidden,
    channels=macro.width,
    joined=macro.joined if macro.transduces else macro.outputs,
    stacked=macro.stacked,
    heads=macro.heads,
    depth=macro.depth,
    gate=macro.gate,
    states=macro.states,
    causal=macro.causal,
    padded=macro.padded,
    **options,
  )


def predictor(macro):
  """Returns the predictor of a macro network."""
  return network.Predictor(
    macro.outputs,
    macro.predictor_width,
    macro.joined,
    macro.predictor,
    macro.predictor_depth,
    macro.context,
  )


def _hidden(name):
  """Returns a width from its name, 256 or 256r16."""
  width, _, rank = name.partition('r')
  return elastic.Factored(int(width), int(rank)) if rank else int(width)


def _ops(space, arch):
  rank = spaces.rank(space, arch)
  behind = '' if rank is None else f'r{rank}'
  return tuple(f'{width}{behind}' for width in spaces.widths(space, arch))


def _all_ops(space):
  """Returns the names of what each layer may be, rank by rank of a width."""
  behind = [f'r{rank}' for rank in spaces.ranks(space)] or ['']
  return tuple(
    tuple(width + end for width in widths for end in behind)
    for widths in space.choices[: spaces.layers(space)]
  )


def hidden_of(space, arch):
  """Returns the widths of an architecture's layers, as `encoder` takes them."""
  return tuple(map(_hidden, _ops(space, arch)))


def _blocks(space, macro):
  if macro.blocks != spaces.layers(space):
    raise ValueError(
      f'macro {macro.name!r} has {macro.blocks} blocks, space {space.name} has '
      f'{spaces.layers(space)}'
    )


def _params(space, arch, macro):
  built = encoder(macro, hidden_of(space, arch))
  total = cost.encoder_params(built, macro.features)
  if macro.transduces:
    total += cost.predictor_params(predictor(macro))
    total += cost.dense(macro.joined, macro.outputs)
  return total


def transducer_macs(encoder, predictor, macro, frames):
  """Counts multiply-accumulates; `predictor` is None where there is none.

  A transducer is run as if it said a label a frame: its predictor once, and its
  joiner.
  """
  frames = macro.output_frames(frames)
  total = cost.encoder_macs(encoder, macro.features, frames)
  if predictor is not None:
    joiner = macro.joined * macro.outputs
    total += frames * (cost.predictor_macs(predictor) + joiner)
  return total


def _macs(space, arch, macro, frames):
  built = encoder(macro, hidden_of(space, arch))
  said = predictor(macro) if macro.transduces else None
  return transducer_macs(built, said, macro, frames)


def l2(params):
  """Sum of squares of all products; of biases, norms and states none."""
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key.endswith('kernel'):
      total = total + jnp.sum(jnp.square(leaf))
  return total


def _elastic(space, macro, numbers, adaptive=True, exits=()):
  least = min(spaces.depths(space))
  return Network(
    macro, _all_ops(space), *numbers, least, adaptive, tuple(exits)
  )


def _choice(space, arch):
  layers, ranks = spaces.layers(space), spaces.ranks(space)
  *others, depth = space.parse(arch).astype(np.int32)
  width_n = np.array(others[:layers], np.int32)
  if ranks:
    width_n = width_n * np.int32(len(ranks)) + others[layers]
  return network.Choice(width_n, np.int32(spaces.depths(space)[depth]))


def _extract(space, arch, macro, params):
  exits = tuple(
    int(name.removeprefix('exit'))
    for name in params['encoder']
    if name.startswith('exit')
  )
  hidden = tuple(tuple(map(_hidden, names)) for names in _all_ops(space))
  least = min(spaces.depths(space))
  _, kept = network.alone(
    encoder(macro, hidden, least=least, exits=exits),
    params['encoder'],
    hidden_of(space, arch),
  )
  return params | {'encoder': kept}


def _parts(space):
  if spaces.ranks(space):
    return ()  # what a rank is worth for each layer nobody has told
  blocks = spaces.layers(space)
  widths = [
    (n, k - 1, k) for n in range(blocks) for k in range(1, space.sizes[n])
  ]
  depths = [(blocks, k, k - 1) for k in range(space.sizes[-1] - 1, 0, -1)]
  return (*widths, *depths)


def _pull(space, params, grads):
  def dot(*path):
    weights, slopes = params['encoder'], grads['encoder']
    for name in path:
      weights, slopes = weights[name], slopes[name]
    pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(slopes))
    return sum(jnp.sum(weight * slope) for weight, slope in pairs)

  def layer(n):
    # What a whole layer adds to the sum: its two last products.
    ssm = params['encoder'][f'layer{n}']['ssm']
    last = ('join',) if 'join' in ssm else (max(ssm), 'mix')
    return dot(f'layer{n}', 'ssm', *last) + dot(f'layer{n}', 'ffn', 'out')

  found, depths = [], spaces.depths(space)
  for decision, before, after in _parts(space):
    if decision < spaces.layers(space):
      low, high = (int(space.choices[decision][k]) for k in (before, after))
      weight, slope = (
        tree['encoder'][f'layer{decision}']['ffn']['out']['kernel'][low:high]
        for tree in (params, grads)
      )
      found.append(jnp.sum(weight * slope))
    else:
      found.append(sum(map(layer, range(depths[before], depths[after]))))
  return jnp.stack(found)


ELASTIC = base.Elastic(
  _elastic,
  _choice,
  _extract,
  spaces.largest,
  spaces.smallest,
  whole=base.nothing,
  exits=lambda space: tuple(sorted(spaces.depths(space)[1:])),
  parts=_parts,
  pull=_pull,
)

FAMILY = base.Family(
  macros=macros.BY_SPACE['todm'] | macros.BY_SPACE['todm_small'],
  Network=Network,
  ops=_ops,
  signature=_ops,
  params=_params,
  macs=_macs,
  l2=l2,
  fits=_blocks,
  inputs=('labels_bl',),
  elastic=ELASTIC,
)
