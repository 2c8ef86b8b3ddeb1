"""Neural architecture search for speech recognition in JAX."""

import importlib

__version__ = '0.1.0'
_PLACES = {'best': 'nasjax.deploying', 'load_network': 'nasjax.listening'}


def __getattr__(name):
  # Imported when it is asked for: it brings JAX.
  if name in _PLACES:
    return getattr(importlib.import_module(_PLACES[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return [*globals(), *_PLACES]
