"""A search in generations, its state a file: killed, it goes on."""

import json

import numpy as np

from nasjax.search.algorithms import pareto
from nasjax.storage import disk


def run(search, evaluate, path, about=None, tell=lambda state: None):
  """Runs what is left of a search; returns its last state.

  Args:
    search: `pareto.Evolution`.
    evaluate: arch_nd -> error_n, NaN for what failed; the same every time.
    path: where the state stands after each generation.
    about: plain values that errors rest on beside what `search` says of itself.
    tell: called with each state, also with that which was read.

  Raises:
    ValueError: the file is damaged, or of another search.
  """
  about = json.loads(json.dumps(search.about | (about or {})))
  state = search.init()
  if path.exists():
    state = _read(path, about)
    tell(state)
  while search.asks(state):
    arch_nd = search.ask(state)
    error_n = evaluate(arch_nd) if len(arch_nd) else np.zeros(0)
    state = search.tell(state, arch_nd, error_n)
    disk.publish(path, _written(state, about))
    tell(state)
  return state


def read(path):
  """Returns the state in a file, and what it says of its search.

  Raises:
    ValueError: it is damaged.
  """
  try:
    found = json.loads(path.read_text())
    arch_nd = np.array(found['archs'], np.int8)
    state = pareto.State(
      int(found['generation']),
      arch_nd.reshape(len(arch_nd), -1),
      np.array(found['costs'], np.float64),
      np.array(found['errors'], np.float64),  # None is NaN
    )
    about = dict(found['about'])
    if not len(arch_nd) == len(state.cost_n) == len(state.error_n):
      raise ValueError('columns of several lengths')
  except (ValueError, KeyError, TypeError) as e:
    told = ' '.join(str(e).split())
    raise ValueError(
      f'{path} is damaged ({told}); remove it and give the same command again: '
      'the search begins anew'
    ) from None
  return state, about


def _read(path, about):
  state, begun = read(path)
  others = [name for name in about if begun.get(name) != about[name]]
  if others:
    told = ', '.join(
      f'{name} was {begun.get(name)!r}, is {about[name]!r}' for name in others
    )
    raise ValueError(f'{path} is of another search: {told}; remove it')
  return state


def _written(state, about):
  errors = [None if np.isnan(e) else e for e in state.error_n.tolist()]
  found = {
    'about': about,
    'generation': state.generation,
    'archs': state.arch_nd.tolist(),
    'costs': state.cost_n.tolist(),
    'errors': errors,
  }
  return json.dumps(found).encode()
