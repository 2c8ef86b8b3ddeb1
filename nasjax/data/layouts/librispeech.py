"""LibriSpeech: SUBSET/SPEAKER/CHAPTER/*.flac and *.trans.txt beside them."""

import pathlib
from collections.abc import Sequence

from nasjax.data.layouts.reading import Reading

_CHAPTERS = '*/*/*.trans.txt'
_AUDIO = ('.flac', '.wav')


def read(
  source: pathlib.Path, reading: Reading, subsets: Sequence[str] = ()
) -> None:
  """Reads LibriSpeech, or what lies like it.

  Args:
    source: `LibriSpeech`, the directory it is in, or one of its subsets.
    reading: takes what is there.
    subsets: names of directories to read; all if none.

  Raises:
    ValueError: no transcript is where LibriSpeech has them, or there is no such
      subset.
  """
  inner = source / 'LibriSpeech'
  root = inner if inner.is_dir() else source
  there = [d for d in sorted(root.iterdir()) if any(d.glob(_CHAPTERS))]
  if not there and any(root.glob(_CHAPTERS)):
    there = [root]
  if not there:
    raise ValueError(
      f'{source} holds no SUBSET/SPEAKER/CHAPTER/*.trans.txt; name the '
      'directory LibriSpeech'
    )
  for folder, split in reading.subsets(there, subsets, 'subsets').items():
    for chapter in sorted(folder.glob('*/*')):
      if chapter.is_dir():
        _chapter(chapter, split, reading)


def _chapter(folder, split, reading):
  """Reads one chapter: its transcripts, and recordings that have none."""
  recordings = {
    path.stem: path
    for path in sorted(folder.iterdir())
    if path.suffix.lower() in _AUDIO
  }
  transcripts = sorted(folder.glob('*.trans.txt'))
  if recordings and not transcripts:
    message = f'no *.trans.txt beside {len(recordings)} recordings'
    reading.problem(folder, 0, 'missing_file', message)
    return
  told = set()
  for path in transcripts:
    for number, line in reading.lines(path):
      name, _, text = line.strip().partition(' ')
      told.add(name)
      audio = recordings.get(name, folder / f'{name}.flac')
      reading.utterance(number, name, audio, text, folder.parent.name, split)
  for name, path in recordings.items():
    if name not in told:
      # A line 0 of its own: such a recording can be dropped by its rule.
      number = reading.file(path)
      reading.utterance(number, name, path, '', folder.parent.name, split)
