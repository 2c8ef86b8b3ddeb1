"""Networks: what runs an architecture.

`families` says which, for every space; `macros` has their numbers, and needs no
JAX, for flags read it. What notebooks use is handed on when it is asked for.
"""

import importlib

_HANDED_ON = {
  'macros': ('NB_ASR', 'NB_ASR_49', 'SMALL', 'COMPACT', 'QUICK', 'TINY'),
  'families': ('MACROS', 'single', 'unpack'),
  'nb_asr.network': ('Network',),
}


def __getattr__(name):
  for module, names in _HANDED_ON.items():
    if name in names:
      return getattr(importlib.import_module(f'{__name__}.{module}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
