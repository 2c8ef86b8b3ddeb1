"""The families of DARTS-ASR's dense graphs, and of VGG beside them."""

from nasjax import spaces
from nasjax.models import base, macros
from nasjax.models.darts_asr import cost, network, vgg

FAMILY = base.Family(
  macros=macros.BY_SPACE['darts_asr'],
  Network=network.Network,
  params=cost.params,
  macs=cost.macs,
  supernet_gates=network.supernet_gates,
  candidate=network.candidate,
  baselines={'only 3x3': spaces.DARTS_ASR_CONV3},
  statistics=True,
)
VGG = base.Family(
  macros=macros.BY_SPACE['vgg'],
  Network=vgg.Network,
  params=cost.vgg_params,
  macs=cost.vgg_macs,
  baselines={'VGG-Small': (0,), 'VGG-Large': (1,)},
  statistics=True,
)
