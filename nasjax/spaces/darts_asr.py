"""The convolutional front end of DARTS-ASR, and VGG beside it.

Chen et al., DARTS-ASR: Differentiable Architecture Search for Multilingual
Speech Recognition and Adaptation, Interspeech 2020, section 2. Five nodes stand
in a dense graph behind the features as a plane of time and frequency; each of
the 15 edges is one of seven operations of two dimensions, all of stride 1.

`DARTS_ASR_CONV3` is the architecture that has nothing but convolutions of 3 by
3, which the paper trains with more channels. `VGG` are the networks that it
compares with, two front ends of the same kind with few or many channels.
"""

from nasjax.spaces.base import Space
from nasjax.spaces.dense import Dense

# Taps along either axis and dilation of each convolution.
CONVOLUTIONS = {
  'conv3x3': (3, 1),
  'conv5x5': (5, 1),
  'dil_conv3x3': (3, 2),
  'dil_conv5x5': (5, 2),
}
OPS = (*CONVOLUTIONS, 'avg_pool3x3', 'max_pool3x3', 'skip')
NODES = 5

DARTS_ASR = Dense('darts_asr', NODES, OPS)
DARTS_ASR_CONV3 = (OPS.index('conv3x3'),) * len(DARTS_ASR.edges)
VGG = Space('vgg', {'vgg': ('small', 'large')})
