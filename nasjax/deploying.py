"""Networks of a size, from a supernet that was trained and searched once.

  found = nasjax.best('results/todm', max_params=400_000)
  nasjax.load_network(found).transcribe('audio.wav').text

A study (`experiments/todm.py`) leaves beside each supernet what its search
kept:

  OUT/supernets/NAME.json        the networks that nothing beats in both error
                                 and size, and the best of each bin of sizes
  OUT/supernets/NAME.npz         where networks normalise batches, by what each
                                 of these does
  OUT/supernets/NAME/            the supernet's checkpoints
  OUT/networks/NAME-ARCH/        a network that was taken from it: weights and
                                 all it needs to hear, a run like others
"""

import dataclasses
import io
import json
import numbers
import os
import pathlib
import secrets
import shutil

import flax.traverse_util
import jax
import numpy as np

from nasjax.benchmark import latency
from nasjax.models import families
from nasjax.spaces import SPACES
from nasjax.storage import checkpoints, disk
from nasjax.training import portable

# Of what is timed, in frames of 10 ms: one utterance of five seconds.
FRAMES = 500
# What the file beside a supernet has, and for each network.
_STORE = (
  *('name', 'way', 'seed', 'space', 'macro', 'recipe', 'corpus'),
  'fingerprint',
)
_ROW = 'arch', 'names', 'params', 'validation'


@dataclasses.dataclass(frozen=True)
class Deployed(os.PathLike):
  """A network that was taken from a supernet; `load_network` takes it as a run.

  Attributes:
    place: its directory.
    arch: int8, its architecture.
    names: for people.
    params: how many it has.
    error: on validation, with the supernet's weights.
    latency: seconds of a pass here; None where nobody asked.
    way: how the supernet was trained.
    seed: of the supernet.
  """

  place: pathlib.Path
  arch: np.ndarray = dataclasses.field(compare=False)
  names: str
  params: int
  error: float
  latency: float | None
  way: str
  seed: int

  def __fspath__(self):
    return str(self.place)


def read(path, *more):
  """Returns what a search kept, a dict, as its file has it.

  Args:
    path: of the file.
    *more: fields that it must have, beside those that `best` reads.

  Raises:
    ValueError: it is damaged.
  """
  try:
    found = json.loads(path.read_text())
    rows = list(found['store'])
    for wanted, held in (((*_STORE, *more), [found]), (_ROW, rows)):
      lacking = [n for n in wanted if any(n not in one for one in held)]
      if lacking:
        raise ValueError(f'no {", ".join(lacking)}')
  except (ValueError, KeyError, TypeError) as e:
    told = ' '.join(str(e).split())
    raise ValueError(
      f'{path} is damaged ({told}); remove it and give the command of the '
      'study again'
    ) from None
  return found | {'store': rows}


def stores(run):
  """Returns what searches of a run kept, a dict each, as their files have it.

  Raises:
    ValueError: there is none, or one is damaged.
  """
  run = pathlib.Path(run).expanduser()
  found = [read(path) for path in sorted((run / 'supernets').glob('*.json'))]
  if not found:
    raise ValueError(
      f'{run} has no supernet that was searched (supernets/*.json); name the '
      'directory that --out of experiments/todm.py named, once a search is over'
    )
  return found


def keep_statistics(run, name, statistics):
  """Writes down by what networks of a supernet normalise batches.

  Args:
    run: directory of the study.
    name: of the supernet.
    statistics: of networks by architecture, tuples of int, each a nested dict
      of arrays, for `families.replaced`.
  """
  flat = {
    f'{_digits(arch)}/{path}': leaf
    for arch, tree in statistics.items()
    for path, leaf in flax.traverse_util.flatten_dict(tree, sep='/').items()
  }
  payload = io.BytesIO()
  np.savez(payload, **flat)
  disk.publish(_statistics(run, name), payload.getvalue())


def _statistics(run, name):
  return pathlib.Path(run).expanduser() / 'supernets' / f'{name}.npz'


def _digits(arch):
  return '-'.join(str(int(digit)) for digit in arch)


def _own_statistics(run, name, arch):
  """Returns the statistics of a network that `keep_statistics` was given."""
  path, first = _statistics(run, name), f'{_digits(arch)}/'
  try:
    with np.load(path) as held:
      own = {
        key.removeprefix(first): held[key]
        for key in held.files
        if key.startswith(first)
      }
  except (OSError, ValueError) as e:
    raise ValueError(
      f'{path}: {e}; it has by what networks normalise batches: give the '
      'command of the study again'
    ) from None
  if not own:
    raise ValueError(
      f'{path} has no statistics of {list(map(int, arch))}; take a network '
      'that the search kept'
    )
  return flax.traverse_util.unflatten_dict(own, sep='/')


def best(
  run, max_params=None, max_latency=None, *, way=None, seed=None, frames=FRAMES
):
  """Returns the best network under bounds, taken from its supernet.

  Args:
    run: directory of a study.
    max_params: the most parameters that it may have.
    max_latency: the most seconds that a pass of one utterance may take, the
      median measured here.
    way: of training, such as 'D'; all are looked at if not given.
    seed: of the supernet, likewise.
    frames: of the utterance that is timed, 10 ms each.

  Returns:
    `Deployed`, that of the lowest error on validation; of equal ones the
    smallest.

  Raises:
    ValueError: none is within the bounds; it names the smallest that there is.
      Or a bound is no number.
  """
  bounds = {'max_params': max_params, 'max_latency': max_latency}
  for name, bound in bounds.items():
    if not (bound is None or isinstance(bound, numbers.Real) and bound > 0):
      raise ValueError(f'{name} is {bound!r}; want a number above 0, or None')
  found = stores(run)
  chosen = [
    store
    for store in found
    if way in (None, store['way']) and seed in (None, store['seed'])
  ]
  if not chosen:
    known = sorted({f'{s["way"]}, seed {s["seed"]}' for s in found})
    raise ValueError(
      f'{run} has no supernet of way {way!r} and seed {seed!r}; there are '
      f'{"; ".join(known)}'
    )
  rows = [(row, store) for store in chosen for row in store['store']]
  if not rows:
    raise ValueError(
      f'{run}: its search kept no network, for none has a finite error: the '
      'training diverged; train with a lower --lr'
    )
  most = float('inf') if max_params is None else max_params
  fitting = [pair for pair in rows if pair[0]['params'] <= most]
  if not fitting:
    row, _ = min(rows, key=lambda pair: pair[0]['params'])
    raise ValueError(
      f'{run}: no network has at most {max_params:,} parameters; the smallest '
      f'has {row["params"]:,}: {row["names"]}'
    )
  fitting.sort(key=lambda pair: (pair[0]['validation'], pair[0]['params']))
  if max_latency is None:
    return _deployed(run, *fitting[0], None)
  # The best comes first, so most are never timed.
  timed = []
  for row, store in fitting:
    seconds = _seconds(row, store, frames)
    if seconds <= max_latency:
      return _deployed(run, row, store, seconds)
    timed.append((seconds, row))
  seconds, row = min(timed, key=lambda pair: pair[0])
  raise ValueError(
    f'{run}: no network takes at most {max_latency:g} s for {frames} frames '
    f'here; the fastest takes {seconds:.3g} s and has {row["params"]:,} '
    f'parameters: {row["names"]}'
  )


def _seconds(row, store, frames):
  space = SPACES[store['space']]
  macro = families.macro(space, store['macro'])
  watch = latency.Stopwatch(space, macro, 1, frames)
  return watch.time(space.parse(row['arch'])).median


def _deployed(run, row, store, seconds):
  arch = np.array(row['arch'], np.int8)
  return Deployed(
    taken(run, store, arch),
    arch,
    *(row['names'], row['params'], row['validation'], seconds),
    *(store['way'], store['seed']),
  )


def taken(run, store, arch):
  """Writes a network of a supernet as a run of its own; returns its directory.

  It stands there whole or not at all, and is not written twice.

  Args:
    run: directory of the study.
    store: of `stores`.
    arch: its architecture.
  """
  space = SPACES[store['space']]
  arch = space.parse(arch)
  final = pathlib.Path(run).expanduser() / 'networks'
  final /= f'{store["name"]}-{_digits(arch)}'
  if final.is_dir():
    return final
  place = pathlib.Path(run).expanduser() / 'supernets' / store['name']
  epoch, state, _ = checkpoints.last(place)
  macro = families.macro(space, store['macro'])
  params = state['params']
  if families.family(space).statistics:
    own = _own_statistics(run, store['name'], arch)
    params = families.replaced(params, own)
  params = families.elastic(space).extract(space, arch, macro, params)
  kept = portable.read(place)
  about = {
    'space': space.name,
    'macro': store['macro'],
    'recipe': store['recipe'],
    'corpus': store['corpus'],
    'corpus_fingerprint': store['fingerprint'],
    'members': [{'arch': arch.tolist(), 'seed': store['seed']}],
  }
  disk.make_directory(final.parent)
  temporary = final.with_name(f'.{final.name}.{secrets.token_hex(4)}.tmp')
  inside = temporary / 'checkpoints' / store['name']
  try:
    _save(inside, epoch, params, about)
    pieces = place / portable.PIECES
    if pieces.exists():
      disk.publish(inside / portable.PIECES, pieces.read_bytes())
    disk.publish(
      inside / portable.NAME, portable.written(kept._replace(about=about))
    )
    try:
      os.replace(temporary, final)
    except OSError:
      if not final.is_dir():  # another was faster
        raise
    disk.sync_directory(final.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return final


def _save(place, epoch, params, about):
  """Saves a network as members of a shard are saved, the only one of it."""
  state = {
    'best': jax.tree.map(lambda leaf: np.array(leaf)[None], params),
    'best_epoch': np.array([epoch]),
    'diverged_epoch': np.array([0]),
    'seconds': np.zeros(epoch),
  }
  with checkpoints.manager(place, keep=2) as saved:
    saver = checkpoints.Saver(saved, place)
    saver.save(epoch, state, about)
    saver.finish()
