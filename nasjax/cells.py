"""The NB-ASR cell, by the name that notebooks know (`models.nb_asr.cell`)."""

from nasjax.models.nb_asr.cell import Cell as Cell
from nasjax.models.nb_asr.cell import Gates as Gates
from nasjax.models.nb_asr.cell import gates as gates
from nasjax.models.nb_asr.cell import signature as signature
from nasjax.models.nb_asr.cell import stack as stack
