"""Kaldi's data folders: wav.scp, text, perhaps segments and utt2spk."""

import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from nasjax.data.layouts.reading import Reading

_CONVERTED = 'name a WAV or FLAC file'


class _Piece(NamedTuple):
  """Where an utterance is heard; `audio` is None where that is told as wrong.

  Attributes:
    line: that says so.
    audio: the file.
    start, seconds, channel: as in `checks.Utterance`.
  """

  line: int
  audio: pathlib.Path | None
  start: float | None = None
  seconds: float | None = None
  channel: int | None = None


def read(
  source: pathlib.Path, reading: Reading, subsets: Sequence[str] = ()
) -> None:
  """Reads a data folder, or all that lie in a directory.

  Args:
    source: a folder with wav.scp, or a directory of such (data/train,
      data/dev, ..).
    reading: takes what is there.
    subsets: names of folders to read; all if none.

  Raises:
    ValueError: there is no data folder, or no such one.
  """
  there = [source] if (source / 'wav.scp').exists() else []
  there = there or sorted(path.parent for path in source.glob('*/wav.scp'))
  if not there:
    raise ValueError(
      f'{source} holds no wav.scp, nor does a folder in it; name a data folder '
      'of Kaldi, or the directory of several'
    )
  for folder, split in reading.subsets(there, subsets, 'folders').items():
    _folder(folder, split, reading)


def _folder(folder, split, reading):
  pieces = _recordings(folder, reading)
  where = 'wav.scp'
  if (folder / 'segments').exists():
    pieces, where = _segments(folder, pieces, reading), 'segments'
  speakers = None
  if (folder / 'utt2spk').exists():
    speakers = dict(_pairs(folder / 'utt2spk', reading).values())
  else:
    reading.notes.append(f'{folder.name} has no utt2spk: no speaker is known')
  texts = _pairs(folder / 'text', reading, empty=True)
  for number, (name, text) in texts.items():
    piece = pieces.pop(name, None)
    if piece is None:
      message = f'{name!r} is not in {where}'
      remedy = f'add it there, or take the line out; {_FIX}'
      reading.problem(folder / 'text', number, 'missing_file', message, remedy)
    elif speakers is not None and name not in speakers:
      message = f'{name!r} is not in utt2spk'
      remedy = f'add it there; {_FIX}'
      reading.problem(folder / 'text', number, 'missing_field', message, remedy)
    elif piece.audio is not None:
      speaker = (speakers or {}).get(name, '')
      _, audio, *stretch = piece
      reading.utterance(number, name, audio, text, speaker, split, *stretch)
  for name, piece in pieces.items():
    if piece.audio is not None:
      # Without a transcript; it can be dropped by that rule.
      number, audio, *stretch = piece
      reading.utterance(number, name, audio, '', '', split, *stretch)


_FIX = "Kaldi's utils/fix_data_dir.sh does so"


def _pairs(path, reading, empty=False):
  """Returns (key, rest) by the number of the line, each key once."""
  found, seen = {}, set()
  for number, line in reading.lines(path):
    key, *rest = line.strip().split(None, 1)
    if not rest and not empty:
      message = f'nothing behind {key!r}'
      reading.problem(path, number, 'bad_field', message)
    elif key in seen:
      message = f'{key!r} stands in {path.name} twice'
      reading.problem(path, number, 'duplicate_id', message)
    else:
      found[number] = key, rest[0].strip() if rest else ''
    seen.add(key)
  return found


def _recordings(folder, reading):
  """Returns a `_Piece` by each name of wav.scp."""
  path, found = folder / 'wav.scp', {}
  for number, (name, place) in _pairs(path, reading).items():
    wrong = _unreadable(name, place)
    if wrong:
      reading.problem(path, number, 'unreadable_audio', *wrong)
    found[name] = _Piece(number, None if wrong else _file(folder, place))
  return found


def _unreadable(name, place):
  """Returns what a line of wav.scp holds instead of a file, and the remedy."""
  if place.endswith('|'):
    command = place.rstrip('| ')
    return (
      f'a command, which is not run: {command!r}',
      f'run it once ({command} > {name}.wav), and {_CONVERTED}',
    )
  if place == '-':
    return 'standard input, which is not read', _CONVERTED
  if re.search(r'\.ark(:\d+)?$', place):
    return (
      f'an archive of Kaldi: {place!r}',
      f'unpack it (wav-copy {place} {name}.wav), and {_CONVERTED}',
    )
  return None


def _file(folder, place):
  """Returns the path of a recording.

  Kaldi takes paths from where its scripts run, which is above data/train; here
  they are looked for from the folder upwards, then from the current directory.
  """
  path = pathlib.Path(os.path.expanduser(place))
  above = folder.absolute()
  for root in (above, *list(above.parents)[:3], pathlib.Path.cwd()):
    if (root / path).is_file():
      return root / path
  return folder / path


def _segments(folder, recordings, reading):
  """Returns a `_Piece` by each name of segments."""
  path, found = folder / 'segments', {}
  for number, (name, rest) in _pairs(path, reading).items():
    recording, *numbers = rest.split()
    try:
      start, end, *channel = (float(text) for text in numbers)
      last = math.inf if end == -1 else end
      good = 0 <= start < last and math.isfinite(end)
      good = good and channel in ([], [0.0], [1.0])
    except ValueError:
      good = False
    if not good:
      message = (
        f'{name!r} has {rest!r}; want a recording, its start and its end in '
        'seconds (-1 for the end of the file), and perhaps a channel, 0 or 1'
      )
      reading.problem(path, number, 'bad_field', message)
      found[name] = _Piece(number, None)
    elif recording not in recordings:
      message = f'the recording {recording!r} is not in wav.scp'
      reading.problem(path, number, 'missing_file', message)
      found[name] = _Piece(number, None)
    else:
      seconds = None if end == -1 else round(end - start, 6)
      found[name] = _Piece(
        number,
        recordings[recording].audio,
        start,
        seconds,
        int(channel[0]) if channel else None,
      )
  return found
