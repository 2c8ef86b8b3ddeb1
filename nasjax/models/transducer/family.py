"""Transducers of one encoder, whose predictor and joiner are what differs.

All their parts are TODM's; the encoder's layers are all of one width.
"""

import chex
import flax.linen as nn

from nasjax.models import base, macros
from nasjax.models.todm import cost, network
from nasjax.models.todm import family as todm
from nasjax.spaces import transducer as spaces


class Network(nn.Module):
  """Features, and labels said so far, to what a transducer's loss reads.

  Attributes:
    macro: the numbers.
    ops: the choice at each decision, by name, each the only one.
    rate: of dropout.
    conv_dropout, kernels, mode: not used.
    precision: of products; float32.
  """

  macro: macros.Transducer
  ops: tuple[tuple[str, ...], ...]
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  def setup(self):
    todm.check_precision(self.macro, self.precision)
    self.encoder, self.predictor, self.joiner = _parts(
      self.macro, self.ops, self.rate
    )

  def __call__(self, x_btf, len_b, gates, key=None, labels_bl=None):
    """Runs one network.

    Args:
      x_btf: normalised features.
      len_b: valid frames; whatever lies beyond never reaches valid outputs.
      gates: (), for nothing is left to choose.
      key: uint32 (2,) of dropout, None to switch it off.
      labels_bl: transcripts, for the predictor; None where nobody asks what
        it says to them.

    Returns:
      `todm.family.Outputs`.
    """
    del gates
    chex.assert_shape(x_btf, (None, None, self.macro.features))
    chex.assert_shape(len_b, (x_btf.shape[0],))
    enc_btd, len_b = self.encoder(x_btf, len_b, key)
    return todm.outputs(self, enc_btd, len_b, labels_bl)


def _parts(macro, ops, rate=0.0):
  """Returns encoder, predictor and joiner."""
  (kind,), (layers,), (context,), (width,), (joiner,) = ops
  # A gate takes of encoder and predictor a number beside each.
  joined = macro.joined * (2 if joiner == 'gate' else 1)
  return (
    network.Encoder(
      (macro.hidden,) * macro.blocks,
      channels=macro.width,
      joined=joined,
      stacked=macro.stacked,
      depth=macro.depth,
      states=macro.states,
      causal=macro.causal,
      rate=rate,
    ),
    network.Predictor(
      macro.outputs, int(width), joined, kind, int(layers), int(context)
    ),
    network.Joiner(macro.outputs, joiner),
  )


def _ops(space, arch):
  return space.names_of_choices(spaces.canonical(space, arch))


def _counted(space, arch, macro):
  return _parts(macro, tuple((name,) for name in _ops(space, arch)))


def _params(space, arch, macro):
  encoder, predictor, _ = _counted(space, arch, macro)
  total = cost.encoder_params(encoder, macro.features)
  total += cost.predictor_params(predictor)
  return total + cost.dense(macro.joined, macro.outputs)


def _macs(space, arch, macro, frames):
  encoder, predictor, _ = _counted(space, arch, macro)
  return todm.transducer_macs(encoder, predictor, macro, frames)


FAMILY = base.Family(
  macros=macros.BY_SPACE['transducer'],
  Network=Network,
  ops=_ops,
  signature=_ops,
  params=_params,
  macs=_macs,
  l2=todm.l2,
  inputs=('labels_bl',),
)
