"""What is said of predictors where no network can be held out."""

import sys

import numpy as np

from nasjax import spaces
from nasjax.models import macros
from nasjax.predictors import latency

sys.path.insert(0, 'experiments')
from studies import latency_predictors  # noqa: E402


def test_networks_that_share_nothing_are_too_few():
  space = spaces.ST_NAS
  archs_nd = np.array([[n] * 6 for n in range(4)], np.int8)
  profile = latency.Profile(
    space, macros.ST_NAS_TINY, 'here', 1, 200, archs_nd, np.arange(1.0, 5)
  )
  said = []
  found = latency_predictors.judged(['macs'], profile, 2, said.append)
  assert found == {'macs': {'median_error': None, 'left_out': 4}}
  assert said == [
    'macs: every network has a choice that no other fold has; profile more '
    'than 4'
  ]
