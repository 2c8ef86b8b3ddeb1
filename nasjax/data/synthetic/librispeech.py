"""Synthetic speech written in LibriSpeech's layout, to be read as if it were.

Speakers and sentences are those of `synthesis`; each speaker has two chapters,
and the words are in upper case, as LibriSpeech's are.
"""

import contextlib
import itertools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping

import soundfile

from nasjax.data import text
from nasjax.data.synthetic import synthesis

# By split; they have the names of the real ones, not their size.
SUBSETS = {
  'train': 'train-clean-100',
  'validation': 'dev-clean',
  'test': 'test-clean',
}
_HALF = synthesis.SENTENCES_PER_SPEAKER // 2


def write(
  root: str | os.PathLike,
  spec: synthesis.Spec,
  *,
  subsets: Mapping[str, str] = SUBSETS,
  workers: int = 2,
  progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
  """Writes a corpus; it appears whole, or not at all.

  Args:
    root: the directory `LibriSpeech` is made there.
    spec: the speech.
    subsets: the name of each split's subset.
    workers: as in `synthesis.synthesise`.
    progress: called with (utterances done, of all).

  Returns:
    the directory `LibriSpeech`.

  Raises:
    ValueError: it is there already, or what `synthesise` raises.
  """
  root = pathlib.Path(root).expanduser()
  place = root / 'LibriSpeech'
  if place.exists():
    raise ValueError(f'{place} is there already; give another directory')
  root.mkdir(parents=True, exist_ok=True)
  made = pathlib.Path(tempfile.mkdtemp(prefix='.LibriSpeech-', dir=root))
  # As mkdir makes them: the temporary one is its maker's alone.
  whole = made / 'LibriSpeech'
  try:
    _fill(whole, spec, subsets, workers, progress)
    whole.rename(place)
  finally:
    shutil.rmtree(made, ignore_errors=True)
  return place


def _fill(place, spec, subsets, workers, progress):
  done, speakers = 0, []
  for split, subset in subsets.items():
    numbers = synthesis.speakers_of(spec, split)
    # Closed at once when interrupted: its processes end with it.
    with contextlib.closing(
      synthesis.synthesise(spec, split, workers)
    ) as spoken:
      for number in numbers:
        count = len(spec.utterances_of(number))
        own = list(itertools.islice(spoken, count))
        speakers.append(_session(place / subset, number, own))
        done += count
        if progress is not None:
          progress(done, spec.num_utterances)
  table = [';ID  |SEX| SUBSET           |MINUTES| NAME', *speakers]
  (place / 'SPEAKERS.TXT').write_text('\n'.join(table) + '\n')


def _session(folder, number, utterances) -> str:
  """Writes what a speaker said; returns the speaker's line of SPEAKERS.TXT."""
  speaker, samples = 100 + number, 0
  for half in range(0, len(utterances), _HALF):
    chapter = 10_000 + 2 * number + half // _HALF
    own = folder / str(speaker) / str(chapter)
    own.mkdir(parents=True)
    lines = []
    for i, utterance in enumerate(utterances[half : half + _HALF]):
      name = f'{speaker}-{chapter}-{i:04d}'
      soundfile.write(
        own / f'{name}.flac', utterance.audio_t, synthesis.SAMPLE_RATE
      )
      lines.append(f'{name} {text.normalised(utterance.text)}\n')
      samples += len(utterance.audio_t)
    (own / f'{speaker}-{chapter}.trans.txt').write_text(''.join(lines))
  minutes = samples / synthesis.SAMPLE_RATE / 60
  name = utterances[0].speaker
  return (
    f'{speaker:<5}| {name[0].upper()} | {folder.name:<17}| {minutes:5.2f} | '
    f'{name}'
  )
