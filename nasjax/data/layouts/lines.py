"""Utterances of any layout to the lines of a manifest that can be trained."""

import os
import pathlib
from typing import NamedTuple

from nasjax.data import checks, manifest
from nasjax.data import lexicon as lexicon_lib
from nasjax.data.layouts.reading import Reading

# Segments may end so many seconds after their recording, as for Kaldi's
# extract-segments; they end with it.
_OVERSHOOT = 0.5


class Made(NamedTuple):
  """A corpus as a manifest.

  Attributes:
    rows: of the manifest, in order of split and id.
    examined: `manifest.Examined`, whose problems keep it from being written.
    notes: lines of text about what was made of the corpus.
  """

  rows: list[dict]
  examined: manifest.Examined
  notes: list[str]


def make(
  reading: Reading,
  source: pathlib.Path,
  folder: pathlib.Path,
  *,
  lexicon: lexicon_lib.Lexicon | None = None,
  unknown_words: str = 'refuse',
  plain_text: bool = False,
  drop: tuple[str, ...] = (),
  seed: int = 0,
  allow_shared_speakers: bool = False,
) -> Made:
  """Reads every recording once and returns the manifest.

  Args:
    reading: what a layout and the lexicon have told.
    source: the corpus, named where all of it is meant.
    folder: where the manifest will lie; what is below is named from there.
    lexicon: makes phones of words; None leaves them out.
    unknown_words: 'refuse' words that it lacks, 'spell' them, or 'leave_out'
      their utterances.
    plain_text: texts in lower case, without punctuation.
    drop: rules whose utterances are left out, as of a manifest.
    seed: of splits that the corpus does not tell.
    allow_shared_speakers: whether a speaker may be in two splits.

  Raises:
    ValueError: such a rule cannot be dropped.
  """
  if unknown_words == 'leave_out':
    drop = (*drop, 'unknown_word')
  options = manifest.Options(
    targets='phones' if lexicon is not None else 'characters',
    seed=seed,
    allow_shared_speakers=allow_shared_speakers,
    drop=drop,
    duration_tolerance=_OVERSHOOT,
  )
  utterances, problems = checks.name(reading.utterances, source)
  utterances, faults = _transcribed(
    utterances, source, lexicon, unknown_words == 'spell', plain_text
  )
  problems += reading.problems + faults
  if not reading.utterances and not problems:
    message = 'no utterance in it'
    problems.append(checks.problem(source, 0, 'empty_split', message))
  found = manifest.examined(
    reading.paths, source, utterances, list(problems), options
  )
  if not allow_shared_speakers and _share_speakers(found):
    message = 'too few speakers to give each split its own'
    remedy = '--allow_shared_speakers lets splits have speakers in common'
    own = checks.problem(source, 0, 'shared_speaker', message)
    found.problems.append(own._replace(remedy=remedy))
  notes = reading.notes + _notes(utterances, found, lexicon) + found.notes
  return Made(_rows(found, folder, lexicon is not None), found, notes)


def _share_speakers(found):
  """Whether splits that were made here share speakers.

  Of those that the corpus tells that is told already, with their lines.
  """
  if any(p.rule == 'shared_speaker' for p in found.problems):
    return False
  seen = [{u.speaker for u in split} - {''} for split in found.splits.values()]
  return len(set.union(*seen)) < sum(map(len, seen))


def _transcribed(utterances, source, lexicon, spell, plain_text):
  """Gives utterances their targets; returns them, and problems."""
  done, problems = [], []
  for utterance in utterances:
    text = utterance.text
    if plain_text:
      text = lexicon_lib.plain(text)
    rule = message = None
    tokens = tuple(text)
    if lexicon is not None:
      tokens, lacking = lexicon.look_up(utterance.text, spell)
      if lacking:
        rule, message = 'unknown_word', f'not in the lexicon: {lacking}'
    if not rule and not tokens:
      rule, message = 'empty_transcript', f'{utterance.id} has no words'
    if rule:
      problems.append(checks.problem(source, utterance.line, rule, message))
    done.append(utterance._replace(text=text, tokens=tokens))
  return done, problems


def _notes(utterances, found, lexicon):
  notes = []
  kept = [u for split in found.splits.values() for u in split]
  cut = [
    u
    for u in kept
    if u.seconds is not None and u.seconds - found.seconds[u.line] > 1e-3
  ]
  if cut:
    notes.append(
      f'{len(cut)} segments end after their recordings, by {_OVERSHOOT} s at '
      'most; they end with them'
    )
  if not any(u.split for u in utterances):
    by = 'speakers' if all(u.speaker for u in utterances) else 'utterances'
    notes.append(f'splits are by {by}, about a tenth each held out')
  formats = {u.audio.suffix.lower().strip('.') for u in kept}
  for name in sorted(formats - {'wav', 'flac', 'wave', 'sph'}):
    one = next(u.audio.name for u in kept if u.audio.suffix[1:].lower() == name)
    notes.append(
      f'{name.upper()} is read as this libsndfile decodes it, another may '
      f'differ in the last bits; for files that last: ffmpeg -i {one} -ac 1 '
      f'{pathlib.Path(one).stem}.flac'
    )
  if lexicon is not None:
    notes.append(
      f'phones are those of the first pronunciation of each word, '
      f'{lexicon.variants} further ones are not used'
    )
  return notes


def _rows(found, folder, phones):
  rows = []
  for split, utterances in found.splits.items():
    for u in utterances:
      row = {
        'id': u.id,
        'audio_filepath': _path(u.audio, folder),
        'duration': round(found.seconds[u.line], 6),
        'text': u.text,
        'speaker': u.speaker,
        'split': split,
      }
      if u.start is not None:
        row['offset'] = u.start
      if u.channel is not None:
        row['channel'] = u.channel
      if not u.speaker:
        del row['speaker']
      if phones:
        row['phones'] = list(u.tokens)
      rows.append(row)
  return rows


def _path(audio, folder):
  """Names a file from the folder of the manifest if it lies below."""
  audio, folder = (pathlib.Path(os.path.abspath(p)) for p in (audio, folder))
  if audio.is_relative_to(folder):
    return str(audio.relative_to(folder))
  return str(audio)
