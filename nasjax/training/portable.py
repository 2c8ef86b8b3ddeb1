"""What a network needs to hear and to speak, kept beside its weights.

  PLACE/portable.npz    once a shard or search, beside its checkpoints
  PLACE/pieces.model    of sub-words: sentencepiece's own file

NumPy alone reads it: `about`, a JSON text with space, macro network, recipe,
members, symbols and front end; `window_k` and `filters_nf`, by which frames
become log-mel energies; `mean_f` and `variance_f`, by which these are
normalised, or `speaker_mean_sf` and `speaker_variance_sf` of the speakers that
`about` names; `fold_v`, the class that each label is scored as.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from nasjax.data import frontend as frontend_lib
from nasjax.decoding import metrics
from nasjax.storage import disk

NAME = 'portable.npz'
PIECES = 'pieces.model'
# Raise when a change of the code changes what stands in the file.
FORMAT = 1


class Portable(NamedTuple):
  """What stands in the file.

  Attributes:
    about: dict of plain values: what the checkpoints say of themselves.
    fitted: `frontend.Fitted`.
    units: `metrics.Units`: symbols, and the classes that they are scored as.
    classes: names of the scoring classes; the number of a class is its index
      + 1.
  """

  about: dict
  fitted: frontend_lib.Fitted
  units: metrics.Units
  classes: tuple


class MissingError(ValueError):
  """There is no such file: an older nasjax kept none."""


def keep(place, prepared, about):
  """Writes the file, whole or not at all, unless it is there.

  Who was killed when he wrote it has left a part of it, which is removed.

  Args:
    place: directory of the checkpoints.
    prepared: of `trainer.device_corpus`.
    about: see `Portable`.
  """
  path = pathlib.Path(place) / NAME
  model = path.with_name(PIECES)
  if prepared.pieces is not None and not model.exists():
    disk.make_directory(path.parent)
    disk.clear(path.parent, '.')
    disk.publish(model, prepared.pieces)
  if path.exists():
    return
  disk.make_directory(path.parent)
  disk.clear(path.parent, '.')
  found = Portable(about, prepared.fitted, prepared.units, prepared.classes)
  disk.publish(path, written(found))


def written(portable):
  """Returns the bytes of the file."""
  fitted = portable.fitted
  speakers = sorted(fitted.speakers)
  about = {
    'format': FORMAT,
    'about': portable.about,
    'symbols': list(portable.units.symbols),
    'classes': list(portable.classes),
    'frontend': dataclasses.asdict(fitted.frontend),
    'sample_rate': fitted.sample_rate,
    'hop': fitted.hop,
    'speakers': speakers,
  }
  arrays = {
    'about': np.array(json.dumps(about)),
    'window_k': fitted.window_k,
    'filters_nf': fitted.filters_nf,
    'fold_v': portable.units.fold_v,
  }
  if fitted.mean_f is not None:
    arrays |= {'mean_f': fitted.mean_f, 'variance_f': fitted.variance_f}
  for i, name in enumerate(('mean', 'variance')):
    rows = [fitted.speakers[key][i] for key in speakers]
    arrays[f'speaker_{name}_sf'] = np.array(rows, np.float32)
  payload = io.BytesIO()
  np.savez_compressed(payload, **arrays)
  return payload.getvalue()


def read(place):
  """Returns the `Portable` of a directory of checkpoints.

  Raises:
    MissingError: there is no such file.
    ValueError: it is damaged, of another format, or its windows and filters are
      others than those of this code.
  """
  path = pathlib.Path(place) / NAME
  if not path.exists():
    raise MissingError(
      f'{path} is missing: an older nasjax trained this, and kept neither '
      'symbols nor front end beside the weights; give the command of the run '
      'again, with its corpus: it adds the file and trains nothing anew'
    )
  try:
    with np.load(io.BytesIO(path.read_bytes())) as file:
      arrays = dict(file)
    head = json.loads(str(arrays.pop('about')))
    version = head['format']
    found = _found(head, arrays) if version == FORMAT else None
  except (
    *(OSError, EOFError, ValueError, KeyError, TypeError, IndexError),
    *(zipfile.BadZipFile, zlib.error, AttributeError, NotImplementedError),
  ) as e:
    reason = ' '.join(str(e).split())[:100]
    raise ValueError(
      f'{path} is damaged ({reason}); remove it and give the command of the '
      'run again: it is written anew, and nothing is trained anew'
    ) from None
  if found is None:
    raise ValueError(
      f'{path} has format {version!r}, this code reads {FORMAT}; take the '
      'nasjax that wrote it'
    )
  if not _hears_alike(found.fitted, head, arrays):
    raise ValueError(
      f'{path} was written where windows or filters were others than those of '
      'this code; take the nasjax that wrote it'
    )
  return found


def _found(head, arrays):
  speakers = zip(
    map(tuple, head['speakers']),
    zip(arrays['speaker_mean_sf'], arrays['speaker_variance_sf'], strict=True),
    strict=True,
  )
  fitted = frontend_lib.Fitted(
    frontend_lib.Frontend(**head['frontend']),
    arrays.get('mean_f'),
    arrays.get('variance_f'),
    dict(speakers),
  )
  units = metrics.Units(tuple(head['symbols']), arrays['fold_v'])
  return Portable(head['about'], fitted, units, tuple(head['classes']))


def _hears_alike(fitted, head, arrays):
  """Tells whether this code makes energies as that which wrote a file."""
  return (
    (fitted.sample_rate, fitted.hop) == (head['sample_rate'], head['hop'])
    and np.array_equal(fitted.window_k, arrays['window_k'])
    and fitted.filters_nf.shape == arrays['filters_nf'].shape
    # Logarithms may differ in the last bit between libraries.
    and np.allclose(fitted.filters_nf, arrays['filters_nf'], 0, 1e-9)
  )
