"""Neural architecture search for speech recognition in JAX."""

import importlib

__version__ = '0.1.0'


def __getattr__(name):
  # Imported when it is asked for: it brings JAX.
  if name == 'load_network':
    return importlib.import_module('nasjax.listening').load_network
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return [*globals(), 'load_network']
