"""Search spaces: an architecture is a vector of integers, a space reads it."""

from nasjax.spaces.base import Space
from nasjax.spaces.nb_asr import NB_ASR

__all__ = ['NB_ASR', 'Space']
