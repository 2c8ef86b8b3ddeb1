"""TIMIT from a directory, as a TFDS builder.

The corpus itself is licensed (LDC93S1) and has to be there already, laid out as
on its disc, in upper or lower case, at any depth:

  TRAIN|TEST/DR1..8/<SEX><SPEAKER>/<SENTENCE>.{WAV,PHN,WRD,TXT}

WAV files are NIST SPHERE. Where a converted copy lies beside one (`.RIFF.WAV`,
`.WAV.wav`, or any other that begins with RIFF), the copy is read, and the
utterance only once. Nothing is ever written into the directory.

The two SA sentences that all speakers read are left out. Training has the other
3,696 utterances of the 462 training speakers; validation the 400 of the 50
development speakers that Kaldi's TIMIT recipe draws from the TEST directory;
test the 192 of the core test set, 24 speakers named in TIMIT's documentation.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from nasjax.data import audio, checks, corpus, phones

_VALIDATION = (
  'faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 '
  'mcsh0 fadg0 fdms0 fedw0 mgjf0 mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 '
  'frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 '
  'fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 '
  'fmml0 mrws1'
)
_CORE_TEST = (
  'mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 '
  'mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0'
)
VALIDATION_SPEAKERS = tuple(_VALIDATION.split())
TEST_SPEAKERS = tuple(_CORE_TEST.split())
# Utterances, speakers, and phones that are scored: 39 classes, without q.
COUNTS = {
  'train': {'utterances': 3696, 'speakers': 462},
  'validation': {'utterances': 400, 'speakers': 50, 'phones': 15_057},
  'test': {'utterances': 192, 'speakers': 24, 'phones': 7_215},
}
_FILE = re.compile(
  r'(?:^|/)(?P<part>train|test)/dr[1-8]/(?P<speaker>[fm][a-z]{3}\d)/'
  r'(?P<sentence>s[ix]\d+)\.(?P<kind>(?:riff\.|wav\.)?wav|phn|wrd|txt)$',
  re.IGNORECASE,
)
_RATE = 16_000
# Transcripts may end a little after the audio; half a second means a cut.
_MOST_MISSING = _RATE // 2
_CONVERT = (
  'sox {0}.WAV -b 16 {0}.RIFF.WAV, '
  'or, if it is compressed, sph2pipe -f rif {0}.WAV {0}.RIFF.WAV'
)


class TimitError(ValueError):
  """A directory that is not TIMIT, or not all of it.

  Attributes:
    problems: faults of single files, if that is what is wrong.
  """

  def __init__(self, message: str, problems: Sequence[checks.Problem] = ()):
    super().__init__(message)
    self.problems = tuple(problems)


class Utterance(NamedTuple):
  """Files and transcript of one utterance.

  Attributes:
    id: speaker and sentence, lower case, as in 'fcjf0_si1027'.
    speaker: lower case, as in 'fcjf0'.
    audio: the file to be read.
    text: the sentence, '' if it is not there.
    phones: of the alphabet of 61.
    samples: first and (exclusive) last sample of each phone.
  """

  id: str
  speaker: str
  audio: pathlib.Path
  text: str
  phones: tuple[str, ...]
  samples: tuple[tuple[int, int], ...]


def _files(root: pathlib.Path) -> dict[tuple, dict[str, list[pathlib.Path]]]:
  """Returns files by (part, speaker, sentence), and then by kind.

  Raises:
    TimitError: no such directory, or nothing in it that looks like TIMIT.
  """
  if not root.is_dir():
    raise TimitError(f'no directory {root}')
  found = collections.defaultdict(lambda: collections.defaultdict(list))
  for folder, _, names in os.walk(root, followlinks=True):
    for name in sorted(names):
      path = pathlib.Path(folder, name)
      match = _FILE.search(path.relative_to(root.parent).as_posix())
      if match:
        part, speaker, sentence, kind = match.groups()
        key = (part.lower(), speaker.lower(), sentence.lower())
        found[key]['wav' if 'wav' in kind.lower() else kind.lower()].append(
          path
        )
  if not found:
    raise TimitError(
      f'no utterance of TIMIT under {root}; looked, in upper and lower case, '
      'for TRAIN|TEST/DR1..8/<SEX><SPEAKER>/<SENTENCE>.{WAV,PHN}'
    )
  return dict(sorted(found.items()))


def _split(part: str, speaker: str) -> str | None:
  """Returns the split of a speaker, None for those of TEST in neither."""
  if part == 'train':
    return 'train'
  if speaker in VALIDATION_SPEAKERS:
    return 'validation'
  return 'test' if speaker in TEST_SPEAKERS else None


def _begins_with(path: pathlib.Path, magic: bytes) -> bool:
  with path.open('rb') as file:
    return file.read(len(magic)) == magic


def find(
  root: str | os.PathLike,
) -> tuple[dict[str, list[Utterance]], list[checks.Problem]]:
  """Reads the transcripts of the corpus, without its audio.

  Returns:
    The utterances of each split in order of id, and what is wrong with files.

  Raises:
    TimitError: no such directory, or nothing in it that looks like TIMIT.
  """
  splits, problems = {name: [] for name in COUNTS}, []
  for (part, speaker, sentence), kinds in _files(pathlib.Path(root)).items():
    split = _split(part, speaker)
    if split is None:
      continue
    anything = next(iter(kinds.values()))[0]
    folders = {path.parent for paths in kinds.values() for path in paths}
    if len(folders) > 1:
      places = ', '.join(map(str, sorted(folders)))
      problem = _problem(anything, 'duplicate_id', f'copies in {places}')
      problems.append(
        problem._replace(remedy='give the directory of one copy of TIMIT')
      )
      continue
    missing = {'wav', 'phn'} - set(kinds)
    if missing:
      kind = missing.pop().upper()
      message = f'no {kind} of {part}/{speaker}/{sentence}'
      problems.append(_problem(anything, 'missing_file', message))
      continue
    # Converted copies first; among them, and among others, by name.
    recordings = sorted(
      kinds['wav'], key=lambda p: (not _begins_with(p, b'RIFF'), p.name)
    )
    rows, faults = _read_phones(kinds['phn'][0])
    problems += faults
    splits[split].append(
      Utterance(
        id=f'{speaker}_{sentence}',
        speaker=speaker,
        audio=recordings[0],
        text=_read_text(kinds),
        phones=tuple(phone for _, _, phone in rows),
        samples=tuple((first, last) for first, last, _ in rows),
      )
    )
  return splits, problems


def _problem(path, rule: str, message: str, line: int = 0) -> checks.Problem:
  """Returns a problem; audio that cannot be read has TIMIT's own remedy."""
  problem = checks.problem(path, line, rule, message)
  if rule in ('unreadable_audio', 'shorten'):
    stem = path.with_name(path.name.split('.')[0])
    return problem._replace(remedy='convert it: ' + _CONVERT.format(stem))
  return problem


def _read_phones(path: pathlib.Path):
  """Returns (first, last, phone) of each line of a PHN file, and problems."""
  rows, problems = [], []
  lines = path.read_text('latin-1').splitlines()
  for number, line in enumerate(lines, start=1):
    fields = line.split()
    if not fields:
      continue
    if len(fields) != 3 or not all(field.isdigit() for field in fields[:2]):
      message = f'{line!r}, not "first_sample last_sample phone"'
      problems.append(_problem(path, 'bad_field', message, number))
      continue
    first, last, phone = int(fields[0]), int(fields[1]), fields[2].lower()
    if phone not in phones.FOLD_61_TO_48:
      message = f'{phone!r} is none of the 61 phones'
      problems.append(_problem(path, 'unknown_phone', message, number))
    if last <= first or last >= 2**31:
      message = f'phone from sample {first} to {last}'
      problems.append(_problem(path, 'bad_field', message, number))
    rows.append((first, last, phone))
  if not rows and not problems:
    problems.append(_problem(path, 'empty_transcript', 'no phone'))
  return rows, problems


def _read_text(kinds: dict[str, list[pathlib.Path]]) -> str:
  """Returns the sentence of the TXT file, the words of WRD, or ''."""
  for kind in ('txt', 'wrd'):
    if kind in kinds:
      lines = kinds[kind][0].read_text('latin-1').splitlines()
      words = [line.split(maxsplit=2)[2:] for line in lines]
      return ' '.join(' '.join(word) for word in words).strip()
  return ''


def _inspect(utterance: Utterance) -> tuple[str, list[checks.Problem]]:
  """Returns the digest of an utterance's samples, and what is wrong."""
  try:
    recording = audio.read(utterance.audio)
  except audio.AudioError as error:
    return '', [_problem(utterance.audio, *error.fault)]
  problems = []
  if recording.rate != _RATE:
    message = f'{recording.rate} samples a second, not {_RATE}'
    problems.append(_problem(utterance.audio, 'unsupported_rate', message))
  end = max((last for _, last in utterance.samples), default=0)
  if end - len(recording.samples_n) > _MOST_MISSING:
    message = f'{len(recording.samples_n)} samples, but phones up to {end}'
    problems.append(_problem(utterance.audio, 'truncated_audio', message))
  return recording.digest(), problems


def counts(splits: dict[str, list[Utterance]]) -> dict[str, dict[str, int]]:
  """Returns utterances, speakers and scored phones of each split."""
  return {
    name: {
      'utterances': len(utterances),
      'speakers': len({u.speaker for u in utterances}),
      'phones': sum(phone != 'q' for u in utterances for phone in u.phones),
    }
    for name, utterances in splits.items()
  }


def count_report(splits: dict[str, list[Utterance]]) -> str:
  """Returns found and expected counts, '' if this is the whole corpus."""
  found, lines, wrong = counts(splits), [], False
  for name, expected in COUNTS.items():
    for what, number in expected.items():
      mark = '' if found[name][what] == number else '  <-- differs'
      wrong = wrong or bool(mark)
      lines.append(f'  {name} {what}: {found[name][what]} of {number}{mark}')
  if not wrong:
    return ''
  return (
    'not the whole TIMIT (found of expected):\n' + '\n'.join(lines) + '\n'
    'Copy the corpus again, or take it as it is with partial=True.'
  )


@dataclasses.dataclass(eq=False)
class TimitConfig(tfds.core.BuilderConfig):
  """Where TIMIT is, and whether it may be a part of it; made by `builder`."""

  root: str = ''
  partial: bool = False


class Timit(tfds.core.GeneratorBasedBuilder):
  """TIMIT with Kaldi's splits; make it with `builder`."""

  VERSION = tfds.core.Version('1.0.0')
  code_path = None  # nothing is downloaded: there is no file of checksums

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='TIMIT, 16 kHz, transcribed in 61 phones.',
      features=corpus.example_features(),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    """Examines the corpus; raises a TimitError if something is wrong."""
    del dl_manager
    splits, problems = find(self.builder_config.root)
    utterances = [u for split in splits.values() for u in split]
    digests = {}
    for utterance, (digest, faults) in zip(
      utterances, audio.map_parallel(_inspect, utterances)
    ):
      digests[utterance.id] = digest
      problems += faults
    if self.builder_config.partial:
      missing = [name for name, split in splits.items() if not split]
      report = f'no utterance for {", ".join(missing)}' if missing else ''
    else:
      report = count_report(splits)
    if report or problems:
      faults = checks.summary(problems) if problems else ''
      raise TimitError(f'{report}\n{faults}'.strip(), problems)
    self.info.metadata.update(
      name='timit',
      alphabet=list(phones.PHONES_61),
      train_map=phones.FOLD_61_TO_48,
      score_map=phones.FOLD_48_TO_39,
      fingerprint=_fingerprint(splits, digests),
    )
    return {
      name: self._generate_examples(split) for name, split in splits.items()
    }

  def _generate_examples(self, utterances):
    """Yields (id, example)."""
    recordings = audio.map_parallel(lambda u: audio.read(u.audio), utterances)
    for utterance, recording in zip(utterances, recordings):
      yield (
        utterance.id,
        {
          'id': utterance.id,
          'audio': audio.at_16_khz(recording),
          'tokens': list(utterance.phones),
          'token_samples': np.array(utterance.samples, np.int32),
          'text': utterance.text,
          'speaker': utterance.speaker,
        },
      )


def _fingerprint(splits, digests: dict[str, str]) -> str:
  """Returns a SHA-256 of samples, transcripts and splits."""
  digest = hashlib.sha256(b'timit 1')
  for name, utterances in splits.items():
    for u in utterances:
      row = [name, u.id, u.text, u.phones, u.samples, digests[u.id]]
      digest.update(json.dumps(row).encode())
  return digest.hexdigest()


def builder(
  root: str | os.PathLike, *, data_dir: str | os.PathLike, partial: bool = False
) -> Timit:
  """Returns the builder of TIMIT in a directory.

  Args:
    root: the directory, or one above it.
    data_dir: folder of prepared corpora; it is made if need be.
    partial: takes whatever utterances are there, for tests and trials.
      Otherwise `download_and_prepare` refuses all but the whole corpus.

  Raises:
    TimitError: no such directory, or nothing in it that looks like TIMIT.
      Problems of files, and counts, are raised by `download_and_prepare`.
  """
  root = pathlib.Path(root).absolute()
  # Names and times of all files: a changed directory is prepared anew.
  digest = hashlib.sha256()
  for kinds in _files(root).values():
    for path in (path for paths in kinds.values() for path in sorted(paths)):
      status = path.stat()
      row = (path.name, status.st_size, status.st_mtime_ns)
      digest.update(repr(row).encode())
  name = f'{"partial" if partial else "whole"}-{digest.hexdigest()[:12]}'
  config = TimitConfig(name=name, root=str(root), partial=partial)
  with corpus.quiet():  # it warns of configurations that are not in its list
    return Timit(
      data_dir=os.fspath(data_dir), config=config, file_format='array_record'
    )
