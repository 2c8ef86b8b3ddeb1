"""What a network in a file needs to hear and to speak, as a text inside it.

JSON, under the key `nasjax` of the file's metadata:

  format             of this text, 1
  nasjax             version that wrote it
  space, arch, cell  the network, as an encoding and for people
  macro              the numbers of its macro network
  recipe, seed, epoch, fingerprint   of its training; null where not told
  inputs, outputs    names and what they are
  blank, symbols     number of the blank's output; symbols[i] is that of output
                     i + 1, null where not told
  fold, classes      the class that each label is scored as, and their names
  reduction          input frames for each frame of the output
  features           rate, window, hop and filters of the front end, and mean
                     and variance of its features; null where not told
  precision          float32, or what eight bits have been put to

Nothing but JSON reads it, so a text is what it was in any language.
"""

import dataclasses
import json
from typing import NamedTuple

import numpy as np

import nasjax
from nasjax.data import features
from nasjax.data import frontend as frontend_lib
from nasjax.decoding import metrics

KEY = 'nasjax'
# Raise when a change of the code changes what stands in the text.
FORMAT = 1
BLANK = 0
# What a file that hears must tell, beside features and alphabet.
_NEEDED = (
  *('nasjax', 'space', 'arch', 'cell', 'macro', 'recipe', 'seed', 'epoch'),
  *('classes', 'precision'),
)


class ExportError(ValueError):
  """A network that cannot be exported, or a file that cannot be run."""


class UnsupportedError(ExportError):
  """A network of a kind that nobody has written down yet."""


class Speech(NamedTuple):
  """What stands between recordings, a network and a transcript.

  Attributes:
    fitted: `frontend.Fitted`.
    units: `metrics.Units`.
    classes: names of the scoring classes.
    recipe: `recipes.Recipe` of the training.
    seed, epoch: of the training.
    fingerprint: of its corpus.
  """

  fitted: frontend_lib.Fitted
  units: metrics.Units
  classes: tuple
  recipe: object
  seed: int
  epoch: int
  fingerprint: str


def of_network(network):
  """Returns the `Speech` of a `listening.TrainedNetwork`."""
  return Speech(
    network.frontend,
    network.units,
    network.classes,
    network.recipe,
    network.seed,
    network.epoch,
    network.about['corpus_fingerprint'],
  )


def written(space, arch, macro, speech=None):
  """Returns the text, a dict of plain values.

  Args:
    space, arch, macro: the network.
    speech: `Speech`; without it the text tells of the network alone.
  """
  told = {
    'format': FORMAT,
    'nasjax': nasjax.__version__,
    'space': space.name,
    'arch': np.asarray(arch).tolist(),
    'cell': space.names(arch),
    'macro': dataclasses.asdict(macro),
    'recipe': None,
    'seed': None,
    'epoch': None,
    'fingerprint': None,
    'inputs': {
      'features': f'float32 [batch, frames, {macro.features}], normalised',
      'lengths': 'int64 [batch], frames of each',
    },
    'outputs': {
      'logits': f'float32 [batch, frames / reduction, {macro.outputs}]',
      'logits_lengths': 'int64 [batch], frames of each, rounded up',
    },
    'blank': BLANK,
    'symbols': None,
    'fold': None,
    'classes': None,
    'reduction': macro.reduction,
    'features': None,
    'precision': 'float32',
  }
  if speech is None:
    return told
  units = speech.units
  return told | {
    'recipe': dataclasses.asdict(speech.recipe),
    'seed': int(speech.seed),
    'epoch': int(speech.epoch),
    'fingerprint': speech.fingerprint,
    'symbols': list(units.symbols),
    'fold': None if units.fold_v is None else np.asarray(units.fold_v).tolist(),
    'classes': list(speech.classes),
    'features': _features(speech.fitted),
  }


def _features(fitted):
  def numbers(x_f):
    return None if x_f is None else np.asarray(x_f, np.float32).tolist()

  return {
    'sample_rate': fitted.sample_rate,
    'window': features.WINDOW,
    'hop': fitted.hop,
    'frontend': dataclasses.asdict(fitted.frontend),
    'floor': features.FLOOR,
    'variance_floor': features.VARIANCE_FLOOR,
    # None: each recording is normalised by itself.
    'mean': numbers(fitted.mean_f),
    'variance': numbers(fitted.variance_f),
  }


def dumped(told):
  """Returns the text as it stands in the file: equal dicts, equal texts."""
  return json.dumps(told, sort_keys=True, ensure_ascii=False)


def read(text, path):
  """Returns the dict of a text, and its `Speech` fields but for the recipe.

  Args:
    text: as it stands in the file; None where there is none.
    path: of the file, for people.

  Returns:
    told, fitted, units.

  Raises:
    ExportError: there is none, or it is not what this code reads.
  """
  if text is None:
    raise ExportError(
      f'{path} has no text of nasjax (key {KEY!r} of its metadata), which '
      'tells features and alphabet; take one that experiments/export.py wrote'
    )
  try:
    told = json.loads(text)
    version = told['format']
    if version == FORMAT:
      return told, *_read(told)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    reason = ' '.join(str(e).split())[:100]
    raise ExportError(
      f'{path}: its text of nasjax is damaged ({type(e).__name__}: {reason}); '
      'write the file again by experiments/export.py'
    ) from None
  raise ExportError(
    f'{path}: its text of nasjax has format {version!r}, this code reads '
    f'{FORMAT}; take the nasjax that wrote it, {told.get("nasjax")}'
  )


def _read(told):
  for name in _NEEDED:
    told[name]  # a KeyError where it is missing
  fitted = units = None
  made = told['features']
  if made is not None:
    # Fewer choices than there are now were those of an older front end.
    front = frontend_lib.Frontend(**made['frontend'])
    mean_f, variance_f = (
      None if made[name] is None else np.array(made[name], np.float32)
      for name in ('mean', 'variance')
    )
    fitted = frontend_lib.Fitted(front, mean_f, variance_f)
    own = features.SAMPLE_RATE, features.WINDOW, features.HOP
    if (made['sample_rate'], made['window'], made['hop']) != own:
      raise ValueError('frames of another rate, window or hop')
  if told['symbols'] is not None:
    fold = told['fold']
    fold_v = None if fold is None else np.array(fold, np.int32)
    units = metrics.Units(tuple(told['symbols']), fold_v)
  return fitted, units
