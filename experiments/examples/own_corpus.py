"""A corpus of one's own: a manifest of recordings as they lie on a disk.

  python experiments/examples/own_corpus.py mine
  python experiments/benchmark.py --corpus=manifest --targets=characters \\
    --corpus_path=mine/manifest.jsonl --random_cells=8 --out=results/mine

Here a folder has a folder for each speaker, in it recordings (WAV or FLAC of 8
to 192 kHz) and beside each its transcript, a text file of the same name:

  mine/anna/0001.wav  mine/anna/0001.txt  mine/ben/0001.flac  ..

`lines` is all that knows of that, and what to change for another layout. It
gives a dict for each recording: path, seconds, text, for phones a list of them
(`phones`, then without --targets), and speaker: where no `split` is given, some
are drawn for validation and test (`nasjax/data/manifest.py`). What is wrong
with text or audio is told of all lines at once, with its remedy.
"""

import json
import pathlib
import sys

import soundfile

from nasjax.data import checks, manifest
from nasjax.storage import disk


def lines(folder):
  """Yields the line of each recording of a folder, a dict."""
  for path in sorted(folder.glob('*/*')):
    if path.suffix.lower() in ('.wav', '.flac'):
      yield {
        'id': f'{path.parent.name}-{path.stem}',
        'audio_filepath': str(path.relative_to(folder)),
        'duration': soundfile.info(path).duration,
        'text': path.with_suffix('.txt').read_text('utf-8').strip().lower(),
        'speaker': path.parent.name,
      }


def main(folder):
  found, path = list(lines(folder)), folder / 'manifest.jsonl'
  if not found:
    sys.exit(f'own_corpus.py: {folder} has no SPEAKER/NAME.wav or .flac')
  disk.publish(path, ''.join(f'{json.dumps(x)}\n' for x in found).encode())
  problems = manifest.check(path, targets='characters')
  if problems:
    sys.exit(checks.summary(problems))
  seconds = sum(line['duration'] for line in found)
  print(f'{path}: {len(found)} recordings, {seconds / 60:.1f} minutes')


if __name__ == '__main__':
  try:
    main(pathlib.Path(sys.argv[1] if sys.argv[1:] else 'mine'))
  except (OSError, ValueError, soundfile.SoundFileError) as error:
    sys.exit(f'own_corpus.py: {error}')
