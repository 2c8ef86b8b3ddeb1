"""LibriSpeech from an extracted directory, as a TFDS builder.

Panayotov et al. 2015, "Librispeech: an ASR corpus based on public domain audio
books"; CC BY 4.0, openslr.org/12. It has to be there already, in its own
layout, at any depth below the directory given:

  LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac
                                          /<speaker>-<chapter>.trans.txt

A line of a transcript file is an id and the words. Which subsets make a split
is said by name or by pattern (train-clean-*). The numbers of utterances and
speakers of the seven subsets are known; what has others, or is none of these,
is taken with `partial=True` only. Nothing is ever written into the directory.

Rules, and what is done about utterances that break them, are those of a
manifest (`checks`), besides: missing_transcript, audio without a line;
missing_file, a line without audio; malformed_line; wrong_id, another speaker or
chapter than the folders'; misplaced_file; unsupported_rate, not 16 kHz.
"""

import collections
import dataclasses
import fnmatch
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow_datasets as tfds

from nasjax.data import audio, checks, corpus, features, manifest

# Utterances and speakers, as the corpus's own texts give them.
COUNTS = {
  'train-clean-100': (28_539, 251),
  'train-clean-360': (104_014, 921),
  'train-other-500': (148_688, 1_166),
  'dev-clean': (2_703, 40),
  'dev-other': (2_864, 33),
  'test-clean': (2_620, 40),
  'test-other': (2_939, 33),
}
# Those of NAS-Bench-ASR.
SUBSETS = {
  'train': ('train-clean-100',),
  'validation': ('dev-clean',),
  'test': ('test-clean',),
}
_PLACE = re.compile(
  r'(?:^|/)(?P<subset>[^/]+)/(?P<speaker>\d+)/(?P<chapter>\d+)/[^/]+$'
)
_ID = re.compile(r'(?P<speaker>\d+)-(?P<chapter>\d+)-\d+')
_TRANSCRIPTS = '.trans.txt'


class LibrispeechError(manifest.ManifestError):
  """A directory that is not LibriSpeech, or not all that was asked for."""


class Chapter(NamedTuple):
  """One folder of a speaker.

  Attributes:
    folder: its path.
    subset, speaker, chapter: what the path says.
    transcripts: its transcript files, in order.
    recordings: names of its FLAC files.
  """

  folder: pathlib.Path
  subset: str
  speaker: str
  chapter: str
  transcripts: list[pathlib.Path]
  recordings: list[str]


class Found(NamedTuple):
  """What stands in a directory.

  Attributes:
    root: the directory.
    chapters: by subset, in order of their folders.
    misplaced: FLACs and transcripts that are in no chapter.
  """

  root: pathlib.Path
  chapters: dict[str, list[Chapter]]
  misplaced: list[pathlib.Path]


def find(root: str | os.PathLike) -> Found:
  """Looks for chapters; reads no file.

  Raises:
    LibrispeechError: no such directory, or no chapter in it.
  """
  root = pathlib.Path(os.path.expanduser(root)).absolute()
  if not root.is_dir():
    raise LibrispeechError(f'no directory {root}')
  chapters, misplaced = {}, []
  for folder, below, names in os.walk(root, followlinks=True):
    below.sort()
    for name in sorted(names):
      if not name.endswith((_TRANSCRIPTS, '.flac')):
        continue
      path = pathlib.Path(folder, name)
      match = _PLACE.search(path.relative_to(root.parent).as_posix())
      if not match:
        misplaced.append(path)
        continue
      chapter = chapters.setdefault(
        folder, Chapter(path.parent, *match.groups(), [], [])
      )
      if name.endswith('.flac'):
        chapter.recordings.append(name)
      else:
        chapter.transcripts.append(path)
  if not chapters:
    raise LibrispeechError(
      f'no utterance of LibriSpeech under {root}; looked for SUBSET/SPEAKER/'
      'CHAPTER/*.flac and *.trans.txt, speakers and chapters being numbers'
    )
  by_subset = collections.defaultdict(list)
  for chapter in chapters.values():
    by_subset[chapter.subset].append(chapter)
  return Found(root, dict(by_subset), misplaced)


def choose(
  found: Found, subsets: Mapping[str, Sequence[str]]
) -> tuple[dict[str, str], list[str]]:
  """Returns the split of each subset that is asked for, and what is wrong.

  Args:
    found: of `find`.
    subsets: names, or patterns of the shell, by split.

  Returns:
    splits by subset; and a line for each split without a subset, pattern that
    no subset fits, and subset of two splits.
  """
  splits, faults = {}, []
  there = ', '.join(sorted(found.chapters))
  for split in ('train', 'validation', 'test'):
    if not subsets.get(split):
      faults.append(f'no subset is named for {split}; there are {there}')
  for split, patterns in subsets.items():
    for pattern in patterns:
      fitting = fnmatch.filter(sorted(found.chapters), pattern)
      if not fitting:
        faults.append(f'{split}: there is no {pattern}; there are {there}')
      for subset in fitting:
        if splits.setdefault(subset, split) != split:
          faults.append(f'{subset} is in {splits[subset]} and in {split}')
  return splits, faults


def read(found: Found, splits: Mapping[str, str]):
  """Reads the transcripts of subsets, without their audio.

  Args:
    found: of `find`.
    splits: of `choose`.

  Returns:
    paths, numbered as `checks.FILE_LINES` says, the directory first; the
    utterances, `checks.Utterance`s whose audio may not be there; and problems,
    all of them of the directory as long as they are not located.
  """
  reading = _Reading(found.root)
  for subset, split in splits.items():
    for chapter in found.chapters[subset]:
      reading.chapter(chapter, split)
  for path in found.misplaced:
    own = [s for s in splits if s in path.relative_to(found.root.parent).parts]
    if own:
      message = f'{path} is in no chapter of {own[0]}'
      reading.alone(path, splits[own[0]], '', 'misplaced_file', message)
  return reading.paths, reading.utterances, reading.problems


class _Reading:
  """Utterances and problems, as they are found."""

  def __init__(self, root):
    self.root, self.paths = root, [root]
    self.utterances, self.problems = [], []
    self._first = {}

  def chapter(self, chapter, split):
    heard = set()
    for path in chapter.transcripts:
      heard |= self._transcripts(path, chapter, split)
    for name in chapter.recordings:
      path = chapter.folder / name
      if path.stem not in heard:
        told = ' and '.join(p.name for p in chapter.transcripts)
        message = f'{name} has no line in {told or "any " + _TRANSCRIPTS}'
        rule = 'missing_transcript'
        self.alone(path, split, chapter.speaker, rule, message)

  def alone(self, path, split, speaker, rule, message):
    """Takes down a file that no line stands for."""
    line = checks.FILE_LINES * len(self.paths)
    self.paths.append(path)
    heard = path if path.suffix == '.flac' else pathlib.Path()
    self._add(line, path.stem, heard, '', speaker, split)
    self._problem(line, rule, message)

  def _add(self, line, name, path, text, speaker, split):
    self.utterances.append(
      checks.Utterance(
        line=line,
        id=name,
        audio=path,
        start=None,
        seconds=None,
        text=text,
        tokens=tuple(text),
        speaker=speaker,
        split=split,
      )
    )

  def _problem(self, line, rule, message):
    self.problems.append(checks.problem(self.root, line, rule, message))

  def _transcripts(self, path, chapter, split):
    """Reads a file of transcripts; returns the ids that it has."""
    before = checks.FILE_LINES * len(self.paths)
    self.paths.append(path)
    heard = set()
    # The last line may lack its end.
    lines = path.read_bytes().rstrip(b'\r\n').split(b'\n')
    for number, raw in enumerate(lines, start=before + 1):
      name, text, fault = _parsed(raw)
      if fault:
        self._add(number, '', pathlib.Path(), '', chapter.speaker, split)
        self._problem(number, 'malformed_line', fault)
        continue
      heard.add(name)
      sound = chapter.folder / f'{name}.flac'
      other = self._first.setdefault(name, number)
      if other != number:
        # Its audio is that of the other line.
        sound = pathlib.Path()
        message = f'id {name!r} is on line {other} already'
        self._problem(number, 'duplicate_id', message)
      match = _ID.fullmatch(name)
      if match.groups() != (chapter.speaker, chapter.chapter):
        message = (
          f'id {name!r} stands in the folder of speaker {chapter.speaker}, '
          f'chapter {chapter.chapter}'
        )
        self._problem(number, 'wrong_id', message)
      if not text:
        message = f'no word behind {name}'
        self._problem(number, 'empty_transcript', message)
      self._add(number, name, sound, text, chapter.speaker, split)
    return heard


def _parsed(raw: bytes) -> tuple[str, str, str]:
  """Returns id, text and what is wrong with a line of transcripts."""
  try:
    line = raw.decode().strip()
  except UnicodeDecodeError as e:
    return '', '', f'byte {e.start + 1} is not of UTF-8'
  name, _, text = line.replace('\t', ' ').partition(' ')
  if not line:
    return '', '', 'an empty line'
  if not _ID.fullmatch(name):
    shown = line if len(line) <= 40 else line[:40] + '..'
    return '', '', f'{shown!r} does not begin with SPEAKER-CHAPTER-NUMBER'
  return name, ' '.join(text.split()), ''


def count_report(utterances, found: Found, splits: Mapping[str, str]) -> str:
  """Returns found and expected numbers, '' if all is there.

  Args:
    utterances: of `read`.
    found: of `find`.
    splits: of `choose`.
  """
  subset_of = {
    chapter.folder: subset
    for subset in splits
    for chapter in found.chapters[subset]
  }
  ids = {subset: set() for subset in splits}
  for u in utterances:
    if u.id and u.audio.parent in subset_of and u.text:
      ids[subset_of[u.audio.parent]].add((u.speaker, u.id))
  lines, wrong = [], False
  for subset, own in ids.items():
    counts = len(own), len({speaker for speaker, _ in own})
    if subset not in COUNTS:
      wrong = True
      lines.append(
        f'  {subset}: {counts[0]} utterances; is no subset of LibriSpeech'
      )
      continue
    for what, number, expected in zip(
      ('utterances', 'speakers'), counts, COUNTS[subset]
    ):
      mark = '' if number == expected else '  <-- differs'
      wrong = wrong or bool(mark)
      lines.append(f'  {subset} {what}: {number} of {expected}{mark}')
  if not wrong:
    return ''
  return (
    'not the whole LibriSpeech (found of expected):\n' + '\n'.join(lines) + '\n'
    'Extract the archives again, or take it as it is with partial=True '
    '(--partial_librispeech).'
  )


def options(**given) -> manifest.Options:
  """Returns `manifest.Options` whose defaults are those of this corpus.

  Sub-words of texts in upper case.

  Raises:
    ValueError: options that mean nothing, phones among them.
  """
  made = manifest.Options(
    **{'targets': 'word_pieces', 'text_case': 'upper'} | given
  )
  if made.targets == 'phones':
    raise ValueError(
      "targets 'phones': LibriSpeech has words alone; take word_pieces, "
      'characters or words'
    )
  return made


def examine(
  root: str | os.PathLike,
  subsets: Mapping[str, Sequence[str]] = SUBSETS,
  **given,
) -> manifest.Examined:
  """Reads transcripts and all audio, and applies every rule.

  Args:
    root: the directory, or one above it.
    subsets: names or patterns by split.
    given: attributes of `manifest.Options`; see `options`.

  Raises:
    LibrispeechError: no such directory, or nothing in it.
    ValueError: options that mean nothing.
  """
  return _examined(root, subsets, options(**given))[0]


def _examined(root, subsets, options):
  """Returns what `examine` does, and the report of `count_report`."""
  found = find(root)
  splits, faults = choose(found, subsets)
  paths, utterances, problems = read(found, splits)
  problems += [
    checks.problem(found.root, 0, 'wrong_subset', fault) for fault in faults
  ]
  report = count_report(utterances, found, splits)
  utterances, rates = _with_seconds(utterances, found.root)
  found = manifest.examined(
    paths, found.root, utterances, problems + rates, options
  )
  return found, report


def _with_seconds(utterances, root):
  """Tells how long recordings are, by their headers; and other rates."""
  problems = []

  def heard(utterance):
    if not utterance.audio.name:
      return None
    return audio.header(utterance.audio)

  timed = []
  for utterance, head in zip(utterances, audio.map_parallel(heard, utterances)):
    if head is not None:
      rate, samples = head
      utterance = utterance._replace(seconds=samples / rate)
      if rate != features.SAMPLE_RATE:
        message = (
          f'{utterance.audio} has {rate} samples a second, not '
          f'{features.SAMPLE_RATE}'
        )
        line, rule = utterance.line, 'unsupported_rate'
        problems.append(checks.problem(root, line, rule, message))
    timed.append(utterance)
  return timed, problems


@dataclasses.dataclass(eq=False)
class LibrispeechConfig(tfds.core.BuilderConfig):
  """Where LibriSpeech is, and how to read it; made by `builder`."""

  root: str = ''
  subsets: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  partial: bool = False
  options: manifest.Options = manifest.Options()


class Librispeech(manifest.Manifest):
  """LibriSpeech, or subsets of it; make it with `builder`."""

  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = 'LibriSpeech, read audio books, 16 kHz.'

  def _examined(self):
    config = self.builder_config
    found, report = _examined(config.root, config.subsets, config.options)
    report = '' if config.partial else report
    if report or found.problems:
      faults = checks.summary(found.problems) if found.problems else ''
      raise LibrispeechError(f'{report}\n{faults}'.strip(), found.problems)
    return 'librispeech', found


def builder(
  root: str | os.PathLike,
  *,
  data_dir: str | os.PathLike,
  subsets: Mapping[str, Sequence[str]] = SUBSETS,
  partial: bool = False,
  **given,
) -> Librispeech:
  """Returns the builder of LibriSpeech in a directory.

  Its configuration's name holds a digest of all choices, and of the size and
  time of every file: whatever changes is prepared anew, beside the old one.

  Args:
    root: the directory, or one above it.
    data_dir: folder of prepared corpora; it is made if need be.
    subsets: names or patterns by split: train, validation and test.
    partial: takes whatever utterances are there, for tests and trials.
      Otherwise `download_and_prepare` refuses all but whole subsets.
    given: attributes of `manifest.Options`; see `options`.

  Raises:
    LibrispeechError: no such directory, or nothing in it. What is wrong with
      subsets and files is raised, all together, by `download_and_prepare`.
    ValueError: options that mean nothing.
  """
  own = options(**given)
  found = find(root)
  splits, _ = choose(found, subsets)
  digest = hashlib.sha256(f'{own.told()}{sorted(subsets.items())}'.encode())
  for subset in splits:
    for chapter in found.chapters[subset]:
      named = [chapter.folder / name for name in chapter.recordings]
      for path in (*chapter.transcripts, *named):
        status = path.stat()
        row = path.relative_to(found.root), status.st_size, status.st_mtime_ns
        digest.update(repr(row).encode())
  kind = 'partial' if partial else 'whole'
  config = LibrispeechConfig(
    name=f'{kind}-{own.targets}-{digest.hexdigest()[:12]}',
    root=str(found.root),
    subsets={split: tuple(names) for split, names in subsets.items()},
    partial=partial,
    options=own,
  )
  with corpus.quiet():  # it warns of configurations that are not in its list
    return Librispeech(
      data_dir=os.fspath(data_dir), config=config, file_format='array_record'
    )
