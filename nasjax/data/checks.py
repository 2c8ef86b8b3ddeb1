"""What can be wrong with a corpus, and how it is said.

A corpus is examined as a whole: every fault found becomes a `Problem`, and all
of them are reported together, before anything is trained.
"""

import collections
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from nasjax.data import audio, features

# Strides in time of the networks: they leave a quarter of the frames.
_STRIDES = (2, 2)
_MOST_SECONDS = 1e6
# More than a manifest has: lines of several files are numbered one behind the
# other.
FILE_LINES = 10**9
_SHOWN = 50

# Every rule, with what to do about it.
REMEDIES = {
  'malformed_json': 'write one JSON object a line, in UTF-8',
  'missing_field': 'give the field',
  'bad_field': 'correct the value',
  'unknown_split': 'use train, validation (dev, valid, val) or test',
  'missing_file': 'correct the path, or take the line out',
  'unreadable_audio': 'convert it: ffmpeg -i BAD -ac 1 GOOD.wav; if that '
  'fails as well, fetch it again',
  'shorten': 'unpack it: sph2pipe -f wav BAD GOOD.wav',
  'empty_audio': 'take the line out, or fetch the file again',
  'truncated_audio': 'correct the duration, or fetch the file again',
  'duration_mismatch': 'correct the duration, or give an offset',
  'unsupported_rate': 'convert it: ffmpeg -i BAD -ar 16000 GOOD.wav',
  'stereo': 'give `channel` on the line, or mix: ffmpeg -i BAD -ac 1 GOOD.wav',
  'nan_samples': 'make the file again; some software wrote it wrongly',
  # Other programs clip what is beyond full scale before they scale it.
  'out_of_range': 'scale it: python -c "import soundfile as s; '
  "x, r = s.read('BAD'); s.write('GOOD.wav', x / abs(x).max(), r)\"",
  'empty_transcript': 'transcribe it, or take the line out',
  'missing_transcript': 'add its line to the .trans.txt, or drop this rule',
  'malformed_line': 'write ID TEXT, or drop this rule and its audio',
  'wrong_id': 'name it SPEAKER-CHAPTER-NUMBER as its folders say',
  'misplaced_file': 'move it to SUBSET/SPEAKER/CHAPTER, or drop this rule',
  'wrong_subset': 'name subsets that are there, each for one split',
  'digits': 'write it as it is spoken, or spell it: --digits=spell',
  'small_vocabulary': 'change --pieces, or give more transcripts',
  'unknown_phone': 'correct the transcript, or extend the alphabet',
  'unknown_word': 'extend the lexicon: --lexicon=ONE,MORE; or '
  '--unknown_words=spell or leave_out',
  'ctc_infeasible': 'correct the transcript or the audio, or drop this rule; '
  'for a transducer, set allow_infeasible',
  'duplicate_id': 'give every utterance its own id',
  'duplicate_audio': 'take one of the lines out',
  'too_short': 'lower --min_seconds to keep it',
  'too_long': 'raise --max_seconds to keep it',
  'shared_speaker': 'move the speaker, or set allow_shared_speakers',
  'empty_split': 'give the split at least one utterance',
}

# Rules broken by one utterance alone: it can be dropped, and the rest kept.
DROPPABLE = frozenset(REMEDIES) - {
  'malformed_json',
  'shared_speaker',
  'empty_split',
  'small_vocabulary',
  'wrong_subset',
}


# Rules of which the utterances are always left out.
LENGTHS = ('too_short', 'too_long')


class Problem(NamedTuple):
  """One fault of a corpus.

  Attributes:
    path: the file that has to be corrected (or holds the line that names it).
    line: line in that file, from 1; 0 where the whole file is meant.
    rule: name of the broken rule, a key of `REMEDIES`.
    message: what was found.
    remedy: what to do about it.
  """

  path: str
  line: int
  rule: str
  message: str
  remedy: str

  def __str__(self) -> str:
    return (
      f'{self.path}:{self.line}: {self.rule}: {self.message}; {self.remedy}'
    )


def problem(path, line: int, rule: str, message: str) -> Problem:
  """Returns a problem with the remedy of its rule."""
  return Problem(str(path), line, rule, message, REMEDIES[rule])


def summary(problems: Sequence[Problem]) -> str:
  """Returns counts by rule, then the first 50 problems, one a line."""
  counts = collections.Counter(p.rule for p in problems)
  noun = 'problem' if len(problems) == 1 else 'problems'
  lines = [
    f'{len(problems)} {noun}: '
    + ', '.join(f'{n} {rule}' for rule, n in counts.most_common())
  ]
  lines += [str(p) for p in problems[:_SHOWN]]
  if len(problems) > _SHOWN:
    lines.append(f'... and {len(problems) - _SHOWN} more')
  return '\n'.join(lines)


def one_name(text: str) -> str:
  """Returns a symbol or a name in the one form that it has here.

  Composed (NFC), without blanks and invisible marks at its ends.
  """
  blank = '\ufeff\u200b\u2060'
  while (stripped := text.strip().strip(blank)) != text:
    text = stripped
  return unicodedata.normalize('NFC', text)


class Utterance(NamedTuple):
  """One line of a manifest.

  Attributes:
    line: number of the line, from 1.
    id: as given, or the stem of the audio file (`stem-line` if that is taken).
    audio: path of the file.
    start: seconds before the utterance begins; None takes the whole file.
    seconds: declared duration; None where the line does not give it.
    text: words, '' if not known.
    tokens: targets: phones, characters, words or sub-words.
    speaker: '' if not known.
    split: 'train', 'validation' or 'test'; '' if not given, None if it is
      none of them.
    channel: of the file, from 0; None where it has one.
  """

  line: int
  id: str
  audio: pathlib.Path
  start: float | None
  seconds: float | None
  text: str
  tokens: tuple[str, ...]
  speaker: str
  split: str | None
  channel: int | None = None


SPLITS = {
  '': '',
  'train': 'train',
  'training': 'train',
  'validation': 'validation',
  'valid': 'validation',
  'val': 'validation',
  'dev': 'validation',
  'test': 'test',
}


SPLIT_NAMES = frozenset(SPLITS) - {''}


def parse(
  path: pathlib.Path, targets: str
) -> tuple[list[Utterance], list[Problem]]:
  """Reads the lines of a manifest, without touching the audio.

  Args:
    path: the manifest, or a tuple of them: lines of the n-th then count from
      n * `FILE_LINES`, and their split must be told by the file's name where
      they do not tell it.
    targets: 'phones', or anything else where text is needed; tokens are the
      characters of it.

  Returns:
    The utterances of all lines that name an audio file (also those with other
    problems, so that their audio can be examined as well), and the problems.
  """
  paths = path if isinstance(path, tuple) else (path,)
  utterances, problems = [], []
  for one in paths:
    if not os.path.isfile(one):
      problems.append(problem(one, 0, 'missing_file', f'no manifest {one}'))
  if problems:
    return [], problems
  for index, one in enumerate(paths):
    own, faults = _parse_file(one, index * FILE_LINES, targets)
    if len(paths) > 1:
      own, untold = _told_split(own, one)
      faults += untold
    utterances += own
    problems += faults
  named, duplicates = name(utterances, path)
  return named, problems + duplicates


def _parse_file(path, before, targets):
  """Returns utterances and problems of a file; see `parse`.

  Args:
    path: the file.
    before: what is added to its lines' numbers.
    targets: as in `parse`.
  """
  utterances, malformed, faults, lines = [], [], [], 0
  with path.open('rb') as file:
    for number, raw in enumerate(file, start=before + 1):
      if not raw.strip():
        continue
      lines += 1
      try:
        record = json.loads(raw.decode('utf-8-sig'))
        if not isinstance(record, dict):
          raise ValueError(f'a {type(record).__name__}, not an object')
      except (ValueError, RecursionError) as error:
        words = str(error)
        if isinstance(error, json.JSONDecodeError):
          words = f'{error.msg} at column {error.colno}'
        malformed.append(problem(path, number, 'malformed_json', words))
        continue
      own = []
      utterance = _utterance(record, number, path.parent, targets, own)
      if utterance.audio.name:
        utterances.append(utterance)
      faults += [(number, fault) for fault in own]
  if lines == len(malformed) > 1:
    # What holds for the whole file is told once.
    words = f'{malformed[0].message}; none of its {lines} lines is an object'
    return [], [malformed[0]._replace(message=words)]
  faults, whole = _of_all(faults, lines - len(malformed), utterances)
  problems = [problem(path, number, *fault) for number, fault in faults]
  problems += [problem(path, 0, 'missing_field', words) for words in whole]
  return utterances, problems + malformed


def _of_all(faults, records, utterances):
  """Separates fields that none of several lines has, to tell each once.

  Args:
    faults: (line, `audio.Fault`) pairs.
    records: the number of lines.
    utterances: of these lines.

  Returns:
    The other faults, and a message for each of these fields.
  """

  def field(fault):
    lacking = re.fullmatch('no (\\w+)', fault.message)
    if fault.rule == 'missing_field' and lacking:
      return lacking[1]
    return 'phones' if fault.message == _NULL_PHONES else ''

  counts = collections.Counter(field(fault) for _, fault in faults)
  absent = [f for f, n in counts.items() if f and records == n > 1]
  messages = []
  for name in absent:
    message = f'no {name} on any of its {records} lines'
    if name == 'phones' and all(u.text for u in utterances):
      message += ', though all have a text: --targets=characters takes that'
    if name == 'text':
      message += ': --targets=phones takes phones, where there are any'
    messages.append(message)
  return [pair for pair in faults if field(pair[1]) not in absent], messages


def _told_split(utterances, path):
  """Gives lines without a split that of the file's name, and problems."""
  split = _split_of(path)
  if split or not any(u.split == '' for u in utterances):
    named = [
      u._replace(split=split) if split and not u.split else u
      for u in utterances
    ]
    return named, []
  message = (
    'no split, neither on its lines nor in its name; call it train, validation '
    '(dev, valid, val) or test'
  )
  found = [problem(path, 0, 'missing_field', message)]
  return [u._replace(split=u.split or None) for u in utterances], found


def _split_of(path) -> str:
  """Returns the split that a file's name tells; '' if none or several."""
  words = re.split(r'[^a-z]+', path.stem.lower())
  found = {SPLITS[word] for word in words if word in SPLITS} - {''}
  return found.pop() if len(found) == 1 else ''


def located(found: Problem, paths) -> Problem:
  """Says a problem of several files with the file and its own line numbers."""
  if len(paths) == 1:
    return found._replace(path=str(paths[0])) if found.line else found

  def place(number):
    index, line = divmod(number, FILE_LINES)
    return paths[index], line

  message = re.sub(
    r'\bline (\d+)',
    lambda match: 'line {1} of {0.name}'.format(*place(int(match[1]))),
    found.message,
  )
  path, line = place(found.line)
  # A problem of no line names its file, or all of them.
  path = path if found.line else found.path
  return found._replace(path=str(path), line=line, message=message)


def _utterance(record, number, folder, targets, faults) -> Utterance:
  """Reads one line, appending what is wrong with it to `faults`."""
  old = 'audio_filename' in record and 'audio_filepath' not in record
  key = 'audio_filename' if old else 'audio_filepath'
  name = _string(record, key, faults, required=True)
  text = _string(record, 'text', faults, required=targets != 'phones')
  if isinstance(record.get('text'), str) and not text.strip():
    faults.append(audio.Fault('empty_transcript', 'text is empty'))
  if targets == 'phones':
    tokens = _phones(record, faults)
  else:
    tokens = tuple(' '.join(text.split()))
  split = _string(record, 'split', faults)
  if split.lower() not in SPLITS:
    faults.append(audio.Fault('unknown_split', f'split is {split!r}'))
  return Utterance(
    line=number,
    id=_string(record, 'id', faults),
    audio=_found(folder, name) if name else pathlib.Path(),
    start=_seconds(record, 'offset', faults),
    seconds=_seconds(record, 'duration', faults, required=True),
    text=text,
    tokens=tokens,
    speaker=_string(record, 'speaker', faults),
    split=SPLITS.get(split.lower()),
    channel=_channel(record, faults),
  )


def _found(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the path of a file, spelled as it is on disk."""
  path = folder / os.path.expanduser(name)
  if name.isascii() or os.path.exists(path):
    return path
  # Systems write the same letters in one of two forms, or keep a mixture.
  found = pathlib.Path(path.anchor)
  for part in path.parts[len(found.parts) :]:
    composed = unicodedata.normalize('NFC', part)
    forms = [part, composed, unicodedata.normalize('NFD', part)]
    if not any(os.path.exists(found / form) for form in forms):
      forms = [
        form
        for form in (os.listdir(found or '.') if os.path.isdir(found) else ())
        if unicodedata.normalize('NFC', form) == composed
      ]
    forms = [form for form in forms if os.path.exists(found / form)]
    if not forms:
      return path
    found = found / forms[0]
  return found


def _string(record, name: str, faults: list, required: bool = False) -> str:
  """Returns a field as a string, '' if it is not there or of another type."""
  value = record.get(name)
  if value is None:
    if required:
      faults.append(audio.Fault('missing_field', f'no {name}'))
    return ''
  if isinstance(value, int) and not isinstance(value, bool):
    value = str(value)  # speakers and ids are often numbers
  if not isinstance(value, str) or not _is_text(value):
    faults.append(audio.Fault('bad_field', f'{name} is {value!r}, no string'))
    return ''
  if name.startswith('audio_file'):
    if not value.strip():
      faults.append(audio.Fault('bad_field', f'{name} is empty'))
      return ''
    return value
  if name == 'text':
    return unicodedata.normalize('NFC', value)
  return one_name(value)


def _is_text(value: str) -> bool:
  """Whether a string can be written; JSON may hold halves of characters."""
  return not re.search('[\ud800-\udfff]', value)


def _seconds(record, name: str, faults: list, required: bool = False):
  """Returns a field as finite seconds from 0, or None."""
  value = record.get(name)
  if value is None:
    if required:
      faults.append(audio.Fault('missing_field', f'no {name}'))
    return None
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 <= value < _MOST_SECONDS:
    faults.append(audio.Fault('bad_field', f'{name} is {value!r}, no seconds'))
    return None
  return float(value)


def _channel(record, faults: list) -> int | None:
  """Returns the field channel: a number from 0, or a letter from A."""
  value = record.get('channel')
  if value is None:
    return None
  if isinstance(value, str):
    text = value.strip().upper()
    value = 'AB'.index(text) if text in ('A', 'B') else text
    value = int(text) if text.isdecimal() else value
  if isinstance(value, bool) or not isinstance(value, int) or value < 0:
    message = f'channel is {record["channel"]!r}; want 0, 1 and on, or A, B'
    faults.append(audio.Fault('bad_field', message))
    return 0  # what is wrong with the others would only follow from it
  return value


_NULL_PHONES = 'phones is null (characters can be the targets as well)'


def _phones(record, faults: list) -> tuple[str, ...]:
  """Returns the field phones: a list of strings, or symbols between spaces."""
  if 'phones' not in record:
    faults.append(audio.Fault('missing_field', 'no phones'))
    return ()
  phones = record['phones']
  if phones is None:
    faults.append(audio.Fault('unknown_phone', _NULL_PHONES))
    return ()
  if isinstance(phones, str):
    phones = phones.split()
  if not isinstance(phones, list) or not all(
    isinstance(p, str) and _is_text(p) and one_name(p) for p in phones
  ):
    message = f'phones is {phones!r}, no list of symbols'
    faults.append(audio.Fault('bad_field', message))
    return ()
  if not phones:
    faults.append(audio.Fault('empty_transcript', 'phones is empty'))
  phones = [one_name(p) for p in phones]
  several = [p for p in phones if len(p.split()) > 1]
  if several:
    message = f'phones has {several[0]!r}, which is more than one symbol'
    faults.append(audio.Fault('bad_field', message))
    return ()
  return tuple(phones)


def name(utterances, path) -> tuple[list[Utterance], list[Problem]]:
  """Fills in ids that are not given; finds ids and recordings given twice."""
  first, problems = {}, []
  for utterance in utterances:
    name, line = utterance.id, utterance.line
    if name and first.setdefault(name, line) != line:
      message = f'id {name!r} is on line {first[name]} already'
      problems.append(problem(path, line, 'duplicate_id', message))
  heard = {}
  for utterance in utterances:
    piece = (
      utterance.audio,
      utterance.start,
      utterance.seconds,
      utterance.channel,
    )
    if heard.setdefault(piece, utterance.line) != utterance.line:
      message = f'{utterance.audio} is on line {heard[piece]} already'
      problems.append(problem(path, utterance.line, 'duplicate_audio', message))
  stems = collections.Counter(u.audio.stem for u in utterances if not u.id)
  named = []
  for utterance in utterances:
    stem = utterance.audio.stem
    name = utterance.id
    if not name:
      alone = stems[stem] == 1 and stem not in first
      name = stem if alone else f'{stem}-{utterance.line}'
      while name in first:
        name += '+'
      first[name] = utterance.line
    named.append(utterance._replace(id=name))
  return named, problems


def heard_twice(utterances, heard, problems, path) -> list[Problem]:
  """Finds recordings that are equal, whatever their files are called.

  Args:
    utterances: of `parse`.
    heard: `Heard` by line.
    problems: found before; what is told there is not told again.
    path: the manifest.
  """
  told = {p.line for p in problems if p.rule == 'duplicate_audio'}
  first, found = {}, []
  for utterance in utterances:
    line, sound = utterance.line, heard[utterance.line].sound
    other = first.setdefault(sound, utterance)
    if sound and other.line != line and line not in told:
      message = (
        f'{utterance.audio} has the samples of {other.audio} (line {other.line}'
      )
      splits = {other.split, utterance.split} - {'', None}
      if len(splits) == 2:
        message += f', {other.split}; this one is {utterance.split}'
      message += ')'
      found.append(problem(path, line, 'duplicate_audio', message))
  return found


class Heard(NamedTuple):
  """What the audio of an utterance is.

  Attributes:
    digest: of the samples; '' if they cannot be read.
    sound: the same for the same samples kept in more bits.
    rate: samples a second; 0 if they cannot be read.
    clipped: samples beyond full scale.
    faults: what is wrong.
    samples: at 16 kHz.
    seconds: that there are.
  """

  digest: str
  sound: str
  rate: int
  clipped: int
  faults: tuple[audio.Fault, ...]
  samples: int = 0
  seconds: float = 0.0


def inspect(
  utterance: Utterance,
  tolerance: float = audio.DURATION_TOLERANCE,
  allow_infeasible: bool = False,
) -> Heard:
  """Reads the audio of an utterance.

  Args:
    utterance: as its line says.
    tolerance: seconds by which the declared duration may be wrong.
    allow_infeasible: as in `infeasible`.
  """
  start, seconds = utterance.start, utterance.seconds
  try:
    recording = audio.read(
      utterance.audio,
      start or 0.0,
      None if start is None else seconds,
      utterance.channel,
    )
  except audio.AudioError as error:
    return Heard('', '', 0, 0, (error.fault,))
  faults = []
  if seconds is not None:
    mismatch = audio.length_mismatch(
      recording, utterance.audio, seconds, tolerance, start or 0.0
    )
    faults += [mismatch] if mismatch else []
  if start is None:
    mismatch = audio.flac_mismatch(recording, utterance.audio)
    faults += [mismatch] if mismatch else []
  samples = audio.resampled_length(len(recording.samples_n), recording.rate)
  faults += infeasible(utterance, samples, allow_infeasible)
  digest = recording.digest()
  return Heard(
    digest,
    # All samples are hashed for it, which need not be done twice.
    digest if recording.samples_n.dtype == 'int16' else recording.sound(),
    recording.rate,
    recording.clipped(),
    tuple(faults),
    samples,
    recording.seconds,
  )


def infeasible(
  utterance: Utterance, samples: int, allow_infeasible: bool = False
) -> list[audio.Fault]:
  """Finds whether speech of so many samples is too short for its targets.

  A transducer says any number of them in a frame: where that is allowed, one
  frame is enough.
  """
  frames, needed = ctc_frames(samples), ctc_length(utterance.tokens)
  if needed <= frames or (allow_infeasible and frames):
    return []
  seconds = samples / features.SAMPLE_RATE
  return [
    audio.Fault(
      'ctc_infeasible',
      f'{len(utterance.tokens)} targets need {needed} time steps, but '
      f'{utterance.audio} ({seconds:.3f} s) gives {frames}',
    )
  ]


def unknown_symbols(utterances, symbols, where, path) -> list[Problem]:
  """Finds utterances with symbols that are not among `symbols`."""
  problems = []
  for utterance in utterances:
    strange = sorted(set(utterance.tokens).difference(symbols))
    if strange:
      message = f'{" ".join(map(repr, strange))} not in {where}'
      problems.append(problem(path, utterance.line, 'unknown_phone', message))
  return problems


def lengths(utterances, least: float, most: float | None, path):
  """Finds utterances of less than `least` or more than `most` seconds."""
  problems = []
  for utterance in utterances:
    seconds = utterance.seconds
    if seconds is None or least <= seconds <= (most or seconds):
      continue
    rule, bound = 'too_long', most
    if seconds < least:
      rule, bound = 'too_short', least
    message = f'{seconds:g} s, the bound is {bound:g} s'
    problems.append(problem(path, utterance.line, rule, message))
  return problems


def missing_splits(utterances, path) -> list[Problem]:
  """Finds lines without a split where others have one."""
  if not any(u.split for u in utterances):
    return []
  message = 'no split, though other lines have one'
  return [
    problem(path, u.line, 'missing_field', message)
    for u in utterances
    if u.split == ''
  ]


def shared_speakers(utterances, path) -> list[Problem]:
  """Finds speakers in two splits: one problem each, at the second split."""
  first, reported, problems = {}, set(), []
  for utterance in utterances:
    speaker, split = utterance.speaker, utterance.split
    if not speaker or not split or speaker in reported:
      continue
    line, other = first.setdefault(speaker, (utterance.line, split))
    if other != split:
      reported.add(speaker)
      message = (
        f'speaker {speaker!r} is in {split}, and in {other} (line {line})'
      )
      problems.append(problem(path, utterance.line, 'shared_speaker', message))
  return problems


def ctc_frames(samples: int) -> int:
  """Returns the time steps that a network with two strides of two sees."""
  frames = features.num_frames(samples)
  for stride in _STRIDES:
    frames = -(-frames // stride)
  return frames


def ctc_length(tokens: Sequence[str]) -> int:
  """Returns the time steps that CTC needs: a blank parts equal neighbours."""
  return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:]))
