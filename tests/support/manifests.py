"""Small manifests of noise, for tests; each can be spoilt in one place."""

import json

import numpy as np
import soundfile


def noise(seconds=1.0, rate=16_000, seed=0):
  rng = np.random.default_rng(seed)
  x = 0.1 * rng.normal(size=round(seconds * rate)).clip(-3, 3)
  return (32768 * x).astype(np.int16)


def write(folder, rows, name='manifest.jsonl'):
  path = folder / name
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
  return path


def good_rows(folder):
  """Writes audio and returns 12 lines: two a speaker, four speakers to train.

  The audio of line 4, u3.flac by s1, is what tests spoil.
  """
  (folder / 'audio').mkdir()
  rows = []
  for i in range(12):
    name = f'audio/u{i}.{"flac" if i % 2 else "wav"}'
    soundfile.write(folder / name, noise(seed=i), 16_000)
    rows.append(
      {
        'audio_filepath': name,
        'duration': 1.0,
        'text': 'go on',
        'phones': ['G', 'OW', 'AO', 'N'],
        'speaker': f's{i // 2}',
        'split': ['train', 'train', 'train', 'train', 'dev', 'test'][i // 2],
      }
    )
  return rows


def found(problems):
  return [(p.line, p.rule) for p in problems]
