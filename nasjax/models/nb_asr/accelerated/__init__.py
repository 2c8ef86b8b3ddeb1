"""The form in which accelerators run and train the NB-ASR networks.

The networks are those of `models`; parameters lie otherwise (`channels`), some
operations have functions of their own for a kind of device (`layers`), and the
cells of a block can be one loop that recomputes them (`network`).
"""

from nasjax.models.nb_asr.accelerated.network import Form as Form
from nasjax.models.nb_asr.accelerated.network import make as make
from nasjax.models.nb_asr.accelerated.network import (
  spared_flops as spared_flops,
)
from nasjax.models.nb_asr.accelerated.network import supports as supports
