"""Predictors and joiners of a transducer, behind an encoder that stays.

What knows the labels said so far may be LSTMs, the last labels alone (Ghodsi et
al. 2020, "RNN-Transducer with Stateless Prediction Network"), or depthwise-
separable convolutions over labels; how it goes together with the encoder, a
sum, a product or a gate. Some decisions mean nothing for some predictors: LSTMs
know all labels, and what is stateless has one layer. So of 162 vectors there
are 99 networks.
"""

from nasjax.spaces.base import Space, written_digits
from nasjax.spaces.reading import read

PREDICTOR, LAYERS, CONTEXT = range(3)
_FIELDS = {
  'predictor': ('lstm', 'stateless', 'separable'),
  'layers': ('1', '2'),
  'context': ('1', '2', '4'),
  'width': ('32', '64', '128'),
  'joiner': ('add', 'multiply', 'gate'),
}
# By predictor, the decision that means nothing for it.
_WITHOUT = {'lstm': CONTEXT, 'stateless': LAYERS}


def _canonical(digits):
  digits = list(digits)
  kind = _FIELDS['predictor'][digits[PREDICTOR]]
  if kind in _WITHOUT:
    digits[_WITHOUT[kind]] = 0
  return digits


def _written(digits):
  return written_digits(_canonical(digits))


def canonical(space, arch):
  """Returns the architecture, plain integers, with 0 for what means nothing."""
  return _canonical(read(space, arch))


TRANSDUCER = Space('transducer', _FIELDS, _written, _written)
