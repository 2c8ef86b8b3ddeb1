"""What a search found: derived, counted, kept as JSON."""

import json
import pathlib

import numpy as np

from nasjax.storage import disk


def best_choices(search, alpha_e):
  """Returns index_e, the candidate of the largest parameter at each edge.

  Where the method says so, the zero operation is not chosen (DARTS).
  """
  found = []
  for (_, names), alpha_k in zip(search.supernet.edges, alpha_e, strict=True):
    alpha_k = np.asarray(alpha_k, np.float64).copy()
    if not search.method.derive_zero and 'zero' in names:
      alpha_k[names.index('zero')] = -np.inf
    found.append(int(np.argmax(alpha_k)))
  return np.array(found, np.int32)


def derive(search, history):
  """Returns the architecture that a search ends with, int8.

  Args:
    search: `Search`.
    history: of its last state.

  Returns:
    that of the last epoch, or of the last improved one of the search where the
    method says so (the released code of ST-NAS); of the last one if none
    improved. Epochs of warm-up know of no architecture.
  """
  stage_e = history['stage']
  last = np.flatnonzero(stage_e >= 0)[-1]
  improved = np.flatnonzero(
    (history['improved'] > 0) & search.searched(stage_e)
  )
  if search.method.derive_improved and improved.size:
    last = improved[-1]
  alpha_e = [
    history[f'alpha_{name}'][last] for name, _ in search.supernet.edges
  ]
  return search.supernet.arch(best_choices(search, alpha_e))


def executions(search, history):
  """Counts what a search computed.

  Returns:
    dict: weight_steps; arch_steps; candidate_forwards, runs of a candidate at a
    node in these; batches, how many batches of training one network cost as
    much, a backward pass counted as two forward passes.
  """
  method, supernet = search.method, search.supernet
  weight_steps = int(np.nanmax(history['steps'], initial=0))
  arch_steps = int((history['arch_path'][..., 0] >= 0).sum())
  weight, arch = method.weight_mode, method.arch_mode
  forwards = weight_steps * supernet.executions(weight)
  forwards += arch_steps * supernet.executions(arch) * method.passes
  batches = weight_steps * supernet.price(weight)
  batches += arch_steps * supernet.price(arch) * method.passes
  return {
    'weight_steps': weight_steps,
    'arch_steps': arch_steps,
    'candidate_forwards': forwards,
    'batches': batches,
  }


def path_of(out, name):
  """Returns where the result of a search stands."""
  return pathlib.Path(out) / 'searches' / f'{name}.json'


def load(out, name):
  """Returns the result of a search that is over, or None."""
  path = path_of(out, name)
  if not path.exists():
    return None
  remedy = 'remove the file and give the same command again'
  try:
    found = json.loads(path.read_text())
  except ValueError as e:
    line = getattr(e, 'lineno', '?')
    raise ValueError(f'{path}, line {line}: no JSON; {remedy}') from None
  if not isinstance(found, dict) or found.get('name') != name:
    raise ValueError(f'{path}: not the result of search {name}; {remedy}')
  return found


def publish(out, search, name, fingerprint, history, worth=None):
  """Writes the result of a search that is over; returns it as the file has it.

  Args:
    out: directory of the run.
    search: `Search`.
    name: of the search.
    fingerprint: of the corpus.
    history: of its last state.
    worth: what `SupernetTrainer.worth` says of each split, by its name, where
      the mixture is what was found; None or empty elsewhere.
  """
  epochs = int((history['stage'] >= 0).sum())
  arch = derive(search, history)
  curves = {
    key: _plain(values[:epochs])
    for key, values in history.items()
    if 'path' not in key
  }
  result = {
    'name': name,
    'search': search.describe() | {'corpus': fingerprint},
    'arch': arch.tolist(),
    'names': search.supernet.space.names(arch),
    'epochs': epochs,
    'seconds': float(np.nansum(history['seconds'])),
    'executions': executions(search, history),
    'edges': [[edge, list(names)] for edge, names in search.supernet.edges],
    'curves': curves,
  } | ({'worth': worth} if worth else {})
  text = json.dumps(result, indent=1)
  disk.publish(path_of(out, name), text.encode())
  return json.loads(text)


def _plain(values):
  """Lists of numbers, None where there is none: JSON knows no NaN."""
  return [
    _plain(v) if isinstance(v, np.ndarray)
    else None if np.isnan(v) else v.item()
    for v in np.asarray(values)
  ]  # fmt: skip
