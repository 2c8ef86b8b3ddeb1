"""Errors of eight bits of a run's networks, a column of its table.

Networks of one shard are one program (`rounded.Members`): weights and inputs of
dense products are rounded as a file of each would have them, and what both
hear of the test split is counted. No file is written for it.
"""

import datetime
import hashlib
import json
from typing import NamedTuple

import numpy as np

from nasjax import table
from nasjax.decoding import error_rates
from nasjax.export import quantise, rounded
from nasjax.models import families
from nasjax.spaces import SPACES
from nasjax.storage import checkpoints, provenance
from nasjax.training import initial, portable, recipes


class Network(NamedTuple):
  """A network that was measured.

  Attributes:
    arch, seed, recipe: which one.
    float_error, int8_error: fractions, of the test split.
  """

  arch: np.ndarray
  seed: int
  recipe: str
  float_error: float
  int8_error: float


def measure(
  t, run, calibration, said, on_network=lambda done, of: None, say=print
):
  """Measures what networks of a run lose by eight bits; writes it to its table.

  Killed and called again, it goes on behind the last shard that was written.

  Args:
    t: the Table of the run.
    run: its directory, with checkpoints.
    calibration: features x_tf of training utterances, which give ranges.
    said: of the test split, pairs of features and labels.
    on_network: called with networks done, and all of them.
    say: called with a line for each shard that cannot be measured.

  Returns:
    list of `Network`, those that were measured before included.

  Raises:
    ValueError: there is no checkpoint, or nothing to measure with.
  """
  if not said:
    raise ValueError('no utterance of the test split; give some')
  places = initial.places(run)
  members = [len(portable.read(place).about['members']) for place in places]
  found, done = [], 0
  on_network(0, sum(members))
  for place, count in zip(places, members):
    found += _of_shard(t, place, calibration, said, say)
    done += count
    on_network(done, sum(members))
  return found


def _of_shard(t, place, calibration, said, say):
  """Returns the `Network`s of a shard; writes their rows unless they stand."""
  kept = portable.read(place)
  about = kept.about
  counts = {'calibration': len(calibration), 'utterances': len(said)}
  text = json.dumps([place.name, counts], sort_keys=True)
  name = f'int8-{hashlib.sha256(text.encode()).hexdigest()[:16]}'
  if table.is_committed(t.path, name):
    shard = table.load(t.path, name)
    return [_network(row) for row in table.shards.read(shard).to_pylist()]
  state = checkpoints.last(place)[1]
  # A network without a best epoch has diverged: it has no weights to round.
  there = np.flatnonzero(state['best_epoch'])
  if len(there) < len(about['members']):
    say(f'{place.name}: {len(about["members"]) - len(there)} have no weights')
  if not len(there):
    return []
  rows = _rows(about, there, state['best'], kept.units, calibration, said)
  rows = [row | counts for row in rows]
  table.write_shard(t.path, name, rows, {'trained': place.name})
  return [_network(row) for row in rows]


def _rows(about, there, best, units, calibration, said):
  """Returns the rows of some members of a shard."""
  space = SPACES[about['space']]
  macro = families.macro(space, about['macro'])
  members = [about['members'][p] for p in there]
  own = [recipes.Recipe(**m.get('recipe', about['recipe'])) for m in members]
  archs = [np.array(member['arch'], np.int8) for member in members]
  module = families.network(space, archs[0], macro, own[0])
  population = rounded.Members(
    space,
    macro,
    module,
    own[0],
    _taken(best, there),
    families.stack([families.gates(space, arch) for arch in archs]),
  )
  heard = population.hear(
    [x_tf for x_tf, _ in said], population.steps(calibration)
  )
  refs = [labels for _, labels in said]
  common = {
    'space': space.name,
    'macro': macro.name,
    'corpus_fingerprint': about['corpus_fingerprint'],
    'rounded': quantise.WHAT,
    'versions': json.dumps(provenance.versions(), sort_keys=True),
    'commit': provenance.commit(),
    'created': datetime.datetime.now(datetime.UTC).isoformat(),
  }
  return [
    common
    | {
      'arch': arch,
      'semantic_key': space.semantic_key(arch),
      'seed': member['seed'],
      'recipe': recipe.name,
      'float_error': _error(heard.float_pu[p], refs, units),
      'int8_error': _error(heard.int8_pu[p], refs, units),
    }
    for p, (arch, member, recipe) in enumerate(zip(archs, members, own))
  ]


def _taken(tree, there):
  if isinstance(tree, dict):
    return {name: _taken(leaf, there) for name, leaf in tree.items()}
  return np.asarray(tree)[there]


def _error(labels, refs, units):
  edits_k, of = error_rates.edits_by_kind(labels, refs, units.fold_v)
  return float(edits_k.sum() / of)


def _network(row):
  return Network(
    np.array(row['arch'], np.int8),
    *(row[name] for name in ('seed', 'recipe', 'float_error', 'int8_error')),
  )
