"""Weights that a training begins with instead of drawn ones: fine-tuning.

They are those of networks that a run keeps: of the same architecture in the
same macro network, after the best epoch by validation. The head, which is all
parameters whose shape follows the number of outputs, comes along where the
symbols are the same, and is drawn anew where they are others.
"""

import dataclasses
import functools
import hashlib
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from nasjax.models import common, families
from nasjax.storage import checkpoints
from nasjax.training import portable


class Origin(NamedTuple):
  """Where the weights of a member come from.

  Attributes:
    place: directory of the checkpoints.
    index: which of its members they are of.
    seed: of their training.
    epoch: after which they were the best.
    digest: SHA-256, in hexadecimal, of those that are taken.
  """

  place: pathlib.Path
  index: int
  seed: int
  epoch: int
  digest: str


def places(path):
  """Returns the directories of checkpoints that a path stands for.

  Args:
    path: of a run (what --out named), or of the checkpoints of one shard.

  Raises:
    ValueError: it is neither.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_dir():
    what = 'is a file' if path.exists() else 'is not there'
    raise ValueError(f'{path} {what}; name the directory of a run')
  if (path / portable.NAME).exists():
    return [path]
  found = sorted(path.glob(f'checkpoints/*/{portable.NAME}'))
  if not found:
    raise ValueError(
      f'{path} keeps no network; name what --out of a run named, or one of the '
      'directories in its checkpoints/'
    )
  return [file.parent for file in found]


class Initial:
  """The weights that the members of a run begin with.

  Attributes:
    path: as it was given.
    mark: what the fingerprint of the corpus gets, so that tables keep apart
      what began elsewhere.
    symbols: that the networks there know.
    head: whether the head comes along; known after `take`.
  """

  def __init__(self, path, space, macro, members):
    """Finds the networks; reads no weights yet.

    Args:
      path: as `places` takes it.
      space: of the members.
      macro: their macro network; its number of outputs may be another one.
      members: (architecture, seed) pairs.

    Raises:
      ValueError: what is there is damaged, of another space or macro network,
        or lacks an architecture.
    """
    self.path, self.symbols, self.head = str(path), None, False
    self._space, self._origins, self._shapes = space, {}, {}
    found, kept = places(path), {}
    names = '\n'.join(place.name for place in found)
    self.mark = f'initial-{hashlib.sha256(names.encode()).hexdigest()[:8]}'
    for place in found:
      told = portable.read(place)
      _check(place, told.about, space, macro)
      if self.symbols not in (None, told.units.symbols):
        raise ValueError(
          f'{path} has networks of several alphabets; name one of the '
          'directories in its checkpoints/'
        )
      self.symbols = told.units.symbols
      for index, member in enumerate(told.about['members']):
        choice = place, index, member['seed']
        kept.setdefault(tuple(member['arch']), []).append(choice)
    self._choices = {}
    for arch, seed in members:
      arch = tuple(int(d) for d in space.parse(arch))
      if arch not in kept:
        raise ValueError(
          f'{path} has no weights of {self._names(arch)}, one of the networks '
          f'to be trained; it has those of {len(kept)} others'
        )
      self._choices[arch, int(seed)] = kept[arch]

  def _names(self, arch):
    return self._space.names(np.array(arch, np.int8))

  def take(self, macro, recipe, symbols):
    """Chooses the weights of each member, and takes their digests.

    Args:
      macro: macro network, with its outputs.
      recipe: `Recipe` of the training.
      symbols: that the networks shall know.

    Raises:
      ValueError: a checkpoint is missing, damaged, or of other shapes; or a
        network there has no best epoch.
    """
    self._macro, self._recipe = macro, recipe
    self.head = tuple(symbols) == tuple(self.symbols)
    self._origins = {key: self._chosen(*key) for key in self._choices}

  def _chosen(self, arch, seed):
    """Returns an `Origin`: of the same seed, else the best by validation."""
    choices = self._choices[arch, seed]
    choices = [choice for choice in choices if choice[2] == seed] or choices
    ranked = []
    for place, index, own in choices:
      epoch = int(_kept(place)['best_epoch'][index])
      if epoch:
        error = np.nanmin(_kept(place)['curves']['val_per'][index])
        ranked.append((float(error), own, str(place), place, index, epoch))
    if not ranked:
      raise ValueError(
        f'{self.path}: {self._names(arch)} has no weights yet: no epoch of it '
        'is over, or it diverged'
      )
    _, own, _, place, index, epoch = min(ranked)
    digest = hashlib.sha256()
    for name, leaf in self._read(arch, place, index).items():
      digest.update(f'{name} {leaf.shape} {leaf.dtype}\n'.encode())
      digest.update(leaf.tobytes())
    return Origin(place, index, own, epoch, digest.hexdigest())

  def digest(self, arch, seed):
    """Returns the digest of a member's weights."""
    return self._origins[tuple(arch), seed].digest

  def described(self, arch, seed):
    """Returns where a member's weights come from, plain values for JSON."""
    found = self._origins[tuple(arch), seed]._asdict()
    del found['index']
    return found | {'place': str(found['place']), 'head': self.head}

  def fill(self, params_p, members):
    """Puts weights in the place of those of a population, on the host.

    Args:
      params_p: NumPy, as `Trainer.unload` has them; changed in place.
      members: (architecture, seed) of each.
    """
    into = _by_path(params_p)
    for p, (arch, seed) in enumerate(members):
      origin = self._origins[tuple(arch), seed]
      for name, leaf in self._read(arch, origin.place, origin.index).items():
        into[name][p] = leaf

  def _read(self, arch, place, index):
    """Returns the arrays that are taken, by path."""
    found = _by_path(_kept(place)['best'])
    own, head = self._shapes_of(arch)
    names = [name for name in sorted(own) if self.head or name not in head]
    for name in names:
      shape = found[name].shape[1:] if name in found else None
      if shape != own[name]:
        raise ValueError(
          f'{place} has {name} of shape {shape}, where the network to be '
          f'trained has {own[name]}; take a checkpoint of the same network'
        )
    return {name: np.asarray(found[name])[index] for name in names}

  def _shapes_of(self, arch):
    """Returns the shapes of parameters by path, and the paths of the head."""
    arch = np.array(arch, np.int8)
    kind = families.signature(self._space, arch)
    if kind not in self._shapes:
      own, wider = (
        self._network_shapes(arch, self._macro.outputs + more)
        for more in (0, 1)
      )
      head = {name for name in own if own[name] != wider[name]}
      self._shapes[kind] = own, head
    return self._shapes[kind]

  def _network_shapes(self, arch, outputs):
    network = families.network(
      self._space, arch, self._macro.with_outputs(outputs), self._recipe, 'cpu'
    )
    params = jax.eval_shape(
      functools.partial(common.initial_params, network),
      jax.random.key(0),
      families.gates(self._space, arch),
    )
    return {name: leaf.shape for name, leaf in _by_path(params).items()}


def _check(place, about, space, macro):
  """Refuses networks of another space or macro network."""
  if about['space'] != space.name:
    raise ValueError(
      f'{place} has networks of space {about["space"]}, not {space.name}'
    )
  own = families.macro(space, about['macro'])
  same = dataclasses.replace(own.with_outputs(macro.outputs), name=macro.name)
  if same != macro:
    others = [
      f'{name} {value}, not {vars(macro)[name]}'
      for name, value in vars(same).items()
      if value != vars(macro)[name]
    ]
    raise ValueError(
      f'{place} has networks of --macro={own.name} with {"; ".join(others)}; '
      'take the macro network that they have'
    )


# Members that stand together come from one file.
@functools.lru_cache(maxsize=1)
def _kept(place):
  """Returns what a checkpoint has of the best epochs."""
  state = checkpoints.last(place)[1]
  return {name: state[name] for name in ('best', 'best_epoch', 'curves')}


def _by_path(tree):
  return {
    '/'.join(entry.key for entry in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
