"""Search spaces: an architecture is a vector of integers, a space reads it."""

from nasjax.spaces.base import MOST_LISTED, Space, check_listed
from nasjax.spaces.chain import Chain
from nasjax.spaces.conformer import CONFORMER, CONFORMER_SMALL
from nasjax.spaces.darts_asr import DARTS_ASR, DARTS_ASR_CONV3, VGG
from nasjax.spaces.dense import Dense
from nasjax.spaces.nb_asr import NB_ASR
from nasjax.spaces.st_nas import ST_NAS, ST_NAS_SWBD, TDNN_D
from nasjax.spaces.todm import TODM, TODM_SMALL
from nasjax.spaces.transducer import TRANSDUCER

# By name: those that tables may hold.
SPACES = {
  space.name: space
  for space in (
    *(NB_ASR, ST_NAS, ST_NAS_SWBD, TODM, TODM_SMALL, TRANSDUCER),
    *(DARTS_ASR, VGG, CONFORMER, CONFORMER_SMALL),
  )
}

__all__ = [
  'CONFORMER', 'CONFORMER_SMALL', 'DARTS_ASR', 'DARTS_ASR_CONV3',
  'MOST_LISTED', 'NB_ASR', 'SPACES', 'ST_NAS', 'ST_NAS_SWBD', 'TDNN_D', 'TODM',
  'TODM_SMALL', 'TRANSDUCER', 'VGG', 'Chain', 'Dense', 'Space', 'check_listed',
]  # fmt: skip
