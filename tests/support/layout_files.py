"""Small corpora of noise that lie as LibriSpeech, Common Voice and Kaldi do."""

import soundfile
from manifests import noise

WORDS = ('GO ON', "DON'T GO", 'ON AND ON', 'AND GO')
LEXICON = """;;; CMUdict's way
A  AH0
A.  EY1
AND  AH0 N D  # as it is mostly said
AND(2)  AE1 N D
GO  G OW1
ON  AA1 N
ON(1)  AO1 N
DON'T  D OW1 N T
B.  B IY1
"""


def _write(path, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  samples_n = noise(seconds=1.0 + seed / 100, seed=seed)
  subtype = 'PCM_16' if path.suffix in ('.wav', '.flac') else None
  soundfile.write(path, samples_n, 16_000, subtype)


def librispeech(folder):
  """Writes three subsets of two speakers each; returns `LibriSpeech`."""
  root, seed = folder / 'LibriSpeech', 0
  for subset in ('train-clean-100', 'dev-clean', 'test-clean'):
    for _ in range(2):
      chapter, lines = root / subset / f'{seed}' / '9', []
      for n in range(3):
        name = f'{chapter.parent.name}-9-000{n}'
        lines.append(f'{name} {WORDS[(n + seed) % 4]}')
        _write(chapter / f'{name}.flac', seed)
        seed += 1
      # As in LibriSpeech, nothing stands behind the last word.
      path = chapter / f'{chapter.parent.name}-9.trans.txt'
      path.write_text('\n'.join(lines))
  return root


def common_voice(folder, tables=('train', 'dev', 'test'), suffix='.flac'):
  """Writes three tables of two speakers each; returns the language's folder."""
  root, seed = folder / 'en', 0
  for table in tables:
    lines = ['client_id\tpath\tsentence_id\tsentence\tup_votes']
    for _ in range(6 // len(tables)):
      speaker = f'{seed:064x}'
      for n in range(3):
        name = f'common_voice_en_{seed}'
        text = WORDS[(n + seed) % 4].capitalize()
        lines.append(f'{speaker}\t{name}.mp3\t{seed:x}\t{text}.\t2')
        _write(root / 'clips' / f'{name}{suffix}', seed)
        seed += 1
    (root / f'{table}.tsv').write_text('\n'.join(lines) + '\n')
  return root


def kaldi(folder, subsets=('train', 'dev', 'test'), segments=False):
  """Writes data folders of two speakers each; returns their directory.

  With `segments` a speaker's utterances are stretches of one recording.
  """
  root, seed = folder / 'data', 0
  for subset in subsets:
    files = {'wav.scp': [], 'text': [], 'utt2spk': [], 'segments': []}
    for _ in range(6 // len(subsets)):
      speaker = f'spk{seed}'
      audio = folder / 'audio' / f'{speaker}.wav'
      if segments:
        _write(audio, 300 + seed)  # of four seconds and more
        files['wav.scp'].append(f'{speaker} audio/{audio.name}')
      for n in range(3):
        name = f'{speaker}-{n}'
        files['text'].append(f'{name} {WORDS[(n + seed) % 4].lower()}')
        files['utt2spk'].append(f'{name} {speaker}')
        if segments:
          stretch = f'{n + 0.25} {n + 1.25}'
          files['segments'].append(f'{name} {speaker} {stretch}')
        else:
          _write(audio.with_stem(name), seed + n)
          files['wav.scp'].append(f'{name} audio/{name}.wav')
      seed += 3
    (root / subset).mkdir(parents=True)
    for name, lines in files.items():
      if lines:
        (root / subset / name).write_text('\n'.join(lines) + '\n')
  return root


WRITERS = {
  'librispeech': librispeech,
  'common_voice': common_voice,
  'kaldi': kaldi,
}
