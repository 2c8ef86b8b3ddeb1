"""CPU kernels of our own, called from XLA programs.

XLA's CPU backend has no fast gradient of a grouped convolution, and matrix
products can only imitate one by multiplying with zeros; its Adam and its layer
normalisation walk through memory more often than they must. These kernels are
compiled by the system's C++ compiler for the processor at hand when they are
first needed, and kept in `~/.cache/nasjax`. Without a compiler, and on
GPUs, everything runs on XLA alone; `choose` says which it is, and the
environment variable NASJAX_KERNELS (native or xla) overrides it.
"""

from nasjax.kernels.adam import adam as adam
from nasjax.kernels.building import FORMS as FORMS
from nasjax.kernels.building import KINDS as KINDS
from nasjax.kernels.building import KernelError as KernelError
from nasjax.kernels.building import choose as choose
from nasjax.kernels.building import why_not as why_not
from nasjax.kernels.conv import conv as conv
from nasjax.kernels.conv import conv_clip_dropout as conv_clip_dropout
from nasjax.kernels.norm import layer_norm as layer_norm
from nasjax.kernels.once import once as once
