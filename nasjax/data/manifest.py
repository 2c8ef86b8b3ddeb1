"""Anybody's corpus: a `manifest.jsonl` in NeMo's style as a TFDS builder.

One JSON object a line:

  {"audio_filepath": "audio/a1.flac", "duration": 1.52, "text": "go on",
   "phones": ["G", "OW", "AO", "N"], "speaker": "mblw", "split": "train"}

`audio_filepath` (or `audio_filename`; absolute, from `~` on, or relative to the
manifest) and `duration`, in seconds, are needed; `phones` (a list, or symbols
between spaces) if phones are the targets, `text` if characters are. `id` is
otherwise the file's stem; `speaker` may be missing; with `offset`, it is the
`duration` seconds from that second on. WAV or FLAC, 8 to 192 kHz, resampled
to 16 kHz; mono, or `channel` says which one: 0, 1 and on (or A, B, as of
telephone speech). Further fields are ignored.

`split` is train, validation (also dev, valid, val) or test, on every line or on
none; of several manifests, the name of each may tell it (train.json), and must
where its lines do not. A split that no line names is taken from the training
lines: about a tenth of them, in an order drawn by hashing the seed, the split
and the speaker (or the id). Whole speakers are taken, so that none is on both
sides; single utterances where that cannot be: a line without a speaker, too few
speakers, or speakers that other splits share. Whatever holds a symbol that
training would then lack is passed over where possible. `test` is taken before
`validation`.

Characters are the code points of the text in Unicode's composed form (NFC),
with case kept and runs of white space made one space. Words and sub-words are
those of the text after the rule of `text`, which characters may have as well
(`text_case`). Sub-words are learnt from the training transcripts
(`word_pieces`). Words are those of training; what other splits have beside
them is one unknown word, which training never has, and so an error each time.
Both are written with `word_pieces.MARK` before each word.
"""

import base64
import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from nasjax.data import audio, checks, corpus, features, word_pieces
from nasjax.data import text as text_lib

_FORMAT = 1  # raise it when the same manifest is to be prepared differently
_SPLITS = ('train', 'validation', 'test')
_HELD_OUT = 0.1
TARGETS = ('phones', 'characters', 'word_pieces', 'words')
# Targets that are made of words, by the rule of `text`.
_WORDED = ('word_pieces', 'words')


class ManifestError(ValueError):
  """A manifest with problems; its text counts them and lists the first 50.

  Attributes:
    problems: all of them.
  """

  def __init__(self, message: str, problems: Sequence[checks.Problem] = ()):
    super().__init__(message)
    self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Options:
  """How a manifest is read.

  Attributes:
    targets: 'phones', 'characters', 'word_pieces' or 'words'.
    alphabet_path: file of the symbols that are allowed, one a line; they are
      then the training alphabet. None takes the symbols of the training split.
    seed: of the splits that no line names.
    allow_shared_speakers: whether a speaker may be in two splits.
    drop: rules of `checks.DROPPABLE`; utterances that break them are left out
      instead of stopping the preparation.
    duration_tolerance: seconds by which a declared duration may be wrong.
    min_seconds, max_seconds: utterances that last less, or longer, are left
      out.
    pieces: how many sub-words.
    piece_model: 'unigram' or 'bpe'.
    text_case: of `text.normalised`, which every text goes through then; None
      leaves texts as they are. Words and sub-words need it: 'upper' if None.
    digits: of the same.
    allow_infeasible: whether targets may be more than CTC could align, as a
      transducer's may.
  """

  targets: str = 'phones'
  alphabet_path: str | None = None
  seed: int = 0
  allow_shared_speakers: bool = False
  drop: tuple[str, ...] = ()
  duration_tolerance: float = audio.DURATION_TOLERANCE
  min_seconds: float = 0.0
  max_seconds: float | None = None
  # Without them, names of prepared corpora are those of before there were any.
  pieces: int = dataclasses.field(default=word_pieces.PIECES, repr=False)
  piece_model: str = dataclasses.field(default='unigram', repr=False)
  text_case: str | None = dataclasses.field(default=None, repr=False)
  digits: str = dataclasses.field(default='refuse', repr=False)
  allow_infeasible: bool = dataclasses.field(default=False, repr=False)

  def __post_init__(self):
    if self.targets not in TARGETS:
      raise ValueError(f'targets {self.targets!r}: {", ".join(TARGETS)}')
    if self.targets in _WORDED and self.text_case is None:
      object.__setattr__(self, 'text_case', 'upper')
    if self.targets in _WORDED and self.alphabet_path is not None:
      raise ValueError(
        f'alphabet_path {self.alphabet_path!r}: {self.targets} come from the '
        'training transcripts; leave it'
      )
    if self.text_case is not None:
      text_lib.normalised('', self.text_case, self.digits)
    if self.piece_model not in word_pieces.KINDS:
      known = ', '.join(word_pieces.KINDS)
      raise ValueError(f'piece_model {self.piece_model!r}: {known}')
    if self.pieces < 1:
      raise ValueError(f'pieces {self.pieces}: at least 1')
    if not 0 <= self.duration_tolerance < math.inf:
      raise ValueError(
        f'duration_tolerance {self.duration_tolerance}: seconds from 0 on'
      )
    if self.max_seconds is not None and self.max_seconds <= self.min_seconds:
      raise ValueError(
        f'max_seconds {self.max_seconds} leaves nothing above min_seconds '
        f'{self.min_seconds}'
      )
    if isinstance(self.drop, str):
      raise ValueError(f'drop {self.drop!r}: give a tuple of rules')
    object.__setattr__(self, 'drop', tuple(self.drop))
    unknown = sorted(set(self.drop) - checks.DROPPABLE)
    if unknown:
      known = ', '.join(sorted(checks.DROPPABLE))
      raise ValueError(f'drop {unknown}: these rules can be dropped: {known}')

  def told(self) -> str:
    """Returns all of it as text that equal options have in common."""
    later = [
      (f.name, value)
      for f in dataclasses.fields(self)
      if not f.repr and (value := getattr(self, f.name)) != f.default
    ]
    told = (self, self.alphabet())
    return repr((*told, later) if later else told)

  def alphabet(self) -> tuple[str, ...] | None:
    """Returns the allowed symbols in order, or None where any is."""
    if self.alphabet_path is None:
      return None
    return _alphabet(pathlib.Path(os.path.expanduser(self.alphabet_path)))


def _alphabet(path: pathlib.Path) -> tuple[str, ...]:
  """Reads a file of symbols, one a line.

  Lines may be numbered as Kaldi's symbol tables are; what stands for nothing
  and disambiguation symbols are then left out. `#` with something behind it
  begins a comment.
  """
  if not os.path.isfile(path):
    raise ValueError(f'no alphabet {path}')
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path}: no UTF-8 ({e.reason} at byte {e.start}); write it in UTF-8'
    ) from None
  # A line of one space is the space between words.
  lines = {
    number: checks.one_name(line) or line[:1]
    for number, line in enumerate(text.splitlines(), start=1)
    if line
  }
  comments = {n for n, line in lines.items() if line[0] == '#' < line}
  numbered = {n for n, s in lines.items() if re.fullmatch(r'\S+\s+\d+', s)}
  if numbered and not lines.keys() - comments - numbered:
    symbols = {lines[n].split()[0] for n in numbered}
    symbols = {s for s in symbols if not _NO_SYMBOL.fullmatch(s)}
  else:
    lines = {n: s for n, s in lines.items() if n not in comments}
    for number, symbol in lines.items():
      if len(symbol.split()) > 1:
        raise ValueError(
          f'{path}:{number}: {symbol!r} is more than one symbol; write one a '
          'line, or a number behind each'
        )
    symbols = set(lines.values())
  if not symbols:
    raise ValueError(f'no symbol in {path}')
  return tuple(sorted(symbols))


# Of symbol tables of Kaldi, k2 and ESPnet: nothing, the blank of CTC, and what
# tells equal paths of a graph apart.
_NO_SYMBOL = re.compile(r'<eps>|<blk>|<blank>|#\d+')


class Examined(NamedTuple):
  """A manifest after one pass over it and its audio.

  Attributes:
    splits: utterances of each split by its name, in order of id.
    digests: SHA-256 of each utterance's samples by its line.
  seconds: how long each utterance lasts, by its line; 0 where it cannot be
    read.
    symbols: training alphabet, sorted.
    problems: what keeps the corpus from being prepared, by line.
    dropped: problems of the utterances that were left out.
    left_out: what that is, by rule and split: dicts of rule, split, utterances
      and minutes, as declared.
    notes: lines of text: what is clipped, what is resampled, and which symbols
      of the alphabet are never trained.
    model: of sub-words, as `word_pieces` has it; None of others.
  """

  splits: dict[str, list[checks.Utterance]]
  digests: dict[int, str]
  seconds: dict[int, float]
  symbols: tuple[str, ...]
  problems: list[checks.Problem]
  dropped: list[checks.Problem]
  left_out: list[dict]
  notes: list[str]
  model: bytes | None = None


def _files(path) -> tuple[pathlib.Path, ...]:
  """Returns the files of a manifest: one, or one for some splits."""
  if isinstance(path, str | os.PathLike):
    path = (path,)
  files = tuple(pathlib.Path(os.path.expanduser(p)) for p in path)
  if not files:
    raise ValueError('no manifest')
  seen = {}
  for file in files:
    other = seen.setdefault(os.path.realpath(file), file)
    if other is not file:
      raise ValueError(f'{file} is given twice (as {other})')
  return files


def examine(path: str | os.PathLike, options: Options) -> Examined:
  """Reads a manifest and all of its audio, and applies every rule.

  Args:
    path: the manifest, or several: one for some splits.
    options: `Options`.
  """
  paths = _files(path)
  utterances, problems = checks.parse(
    paths if len(paths) > 1 else paths[0], options.targets
  )
  path = ', '.join(map(str, paths))
  return examined(paths, path, utterances, problems, options)


def examined(paths, path, utterances, problems, options: Options) -> Examined:
  """Applies every rule to utterances that have been read, and to their audio.

  Args:
    paths: files that their lines number, as `checks.FILE_LINES` says.
    path: what is named for what is wrong with all of them.
    utterances: `checks.Utterance`s; those without a name of audio have none
      that could be examined.
    problems: found so far.
    options: `Options`.
  """
  alphabet = options.alphabet()
  utterances, more = _read_texts(utterances, path, options)
  problems = problems + more
  audible = [u for u in utterances if u.audio.name]
  inspected = audio.map_parallel(
    lambda u: checks.inspect(
      u, options.duration_tolerance, options.allow_infeasible
    ),
    audible,
  )
  heard = {u.line: found for u, found in zip(audible, inspected)}
  problems += [
    checks.problem(path, line, *fault)
    for line, found in heard.items()
    for fault in found.faults
  ]
  problems += checks.heard_twice(audible, heard, problems, path)
  if alphabet is not None:
    problems += checks.unknown_symbols(
      utterances, alphabet, 'the alphabet', path
    )
  problems += checks.missing_splits(utterances, path)
  problems += checks.lengths(
    utterances, options.min_seconds, options.max_seconds, path
  )
  rules = (*options.drop, *checks.LENGTHS)
  kept, problems, dropped = _drop(utterances, problems, rules)
  if not options.allow_shared_speakers:
    problems += checks.shared_speakers(kept, path)
  splits = assign(kept, options.seed, {u.split for u in utterances})
  model = None
  if options.targets in _WORDED and splits['train']:
    # What has a fault already may be what no model can be learnt from.
    try:
      model = _cut_texts(splits, options)
    except word_pieces.VocabularyError as e:
      problems.append(checks.problem(path, 0, 'small_vocabulary', str(e)))
    for name, own in splits.items():
      short = [
        checks.problem(path, u.line, *fault)
        for u in own
        if (found := heard.get(u.line)) and found.samples
        for fault in checks.infeasible(
          u, found.samples, options.allow_infeasible
        )
      ]
      splits[name], short, more = _drop(own, short, options.drop)
      problems, dropped = problems + short, dropped + more
  symbols = alphabet or (model and word_pieces.symbols(model))
  if not symbols:
    symbols = {token for u in splits['train'] for token in u.tokens}
    if options.targets == 'words':
      symbols.add(word_pieces.UNKNOWN)
    symbols = tuple(sorted(symbols))
  if alphabet is None and splits['train']:
    for name in ('validation', 'test'):
      lacking = checks.unknown_symbols(
        splits[name], symbols, 'the training split', path
      )
      splits[name], lacking, more = _drop(splits[name], lacking, options.drop)
      problems, dropped = problems + lacking, dropped + more
  # Nothing is read at all for a fault that is told already.
  for name in _SPLITS if any(splits.values()) or not problems else ():
    if not splits[name]:
      message = f'no utterance for {name}'
      problems.append(checks.problem(path, 0, 'empty_split', message))
  left_out = _left_out(utterances, heard, dropped)
  # A split is empty for what is wrong with its lines.
  problems, dropped = (
    [
      checks.located(p, paths)
      for p in sorted(some, key=lambda p: (p.rule == 'empty_split', p.line))
    ]
    for some in (problems, dropped)
  )
  return Examined(
    splits=splits,
    digests={line: found.digest for line, found in heard.items()},
    seconds={line: found.seconds for line, found in heard.items()},
    symbols=symbols,
    problems=problems,
    dropped=dropped,
    left_out=left_out,
    notes=_notes(splits, heard, symbols),
    model=model,
  )


def _read_texts(utterances, path, options: Options):
  """Brings texts into the form that options want; targets follow, or wait.

  Returns:
    The utterances, those of words and sub-words still without targets; and
    problems.
  """
  if options.text_case is None:
    return utterances, []
  read, problems = [], []
  for u in utterances:
    text, fault = '', None
    try:
      text = text_lib.normalised(u.text, options.text_case, options.digits)
    except text_lib.TextError as e:
      fault = 'digits', str(e)
    if u.text.strip() and not (text or fault):
      fault = 'empty_transcript', f'text is {u.text!r}, which has no letter'
    if fault:
      problems.append(checks.problem(path, u.line, *fault))
    if options.targets != 'phones':
      u = u._replace(tokens=tuple(text) * (options.targets == 'characters'))
    read.append(u._replace(text=text))
  return read, problems


def _cut_texts(splits, options: Options) -> bytes | None:
  """Gives utterances the words or sub-words of their texts, in place.

  Returns:
    the model of sub-words, None for words.

  Raises:
    word_pieces.VocabularyError: there are not so many sub-words.
  """
  model = None
  if options.targets == 'word_pieces':
    texts = [u.text for u in splits['train']]
    model = word_pieces.train(texts, options.pieces, options.piece_model)
  known = {word for u in splits['train'] for word in u.text.split()}
  for name, own in splits.items():
    if model:
      found = word_pieces.cut(model, [u.text for u in own])
    else:
      found = [
        tuple(
          word_pieces.MARK + word if word in known else word_pieces.UNKNOWN
          for word in u.text.split()
        )
        for u in own
      ]
    splits[name] = [u._replace(tokens=t) for u, t in zip(own, found)]
  return model


def _notes(splits, heard, symbols) -> list[str]:
  """Says what becomes of recordings, and which symbols do not occur."""
  notes = []
  for name, utterances in splits.items():
    own = [heard[u.line] for u in utterances if u.line in heard]
    clipped = [found.clipped for found in own if found.clipped]
    if clipped:
      notes.append(
        f'clipped in {name}: {sum(clipped)} samples beyond full scale, of '
        f'{len(clipped)} of {len(own)} utterances'
      )
    rates = collections.Counter(found.rate for found in own)
    notes += [
      f'resampled in {name}: {count} of {len(own)} utterances, from {rate} to '
      f'{features.SAMPLE_RATE} samples a second'
      for rate, count in sorted(rates.items())
      if rate not in (0, features.SAMPLE_RATE)
    ]
  used = {token for u in splits['train'] for token in u.tokens}
  for name in ('validation', 'test') if word_pieces.UNKNOWN in symbols else ():
    words = [token for u in splits[name] for token in u.tokens]
    unknown = words.count(word_pieces.UNKNOWN)
    if unknown:
      notes.append(
        f'{unknown} of {len(words)} words of {name} are none of training, and '
        'an error each'
      )
  used.add(word_pieces.UNKNOWN)
  lacking = [repr(symbol) for symbol in symbols if symbol not in used]
  if lacking:
    shown = ' '.join(lacking[:10]) + (' ...' if len(lacking) > 10 else '')
    notes.append(
      f'{len(lacking)} of {len(symbols)} symbols of the alphabet occur in no '
      f'training utterance: {shown}'
    )
  return notes


def _left_out(utterances, heard, dropped) -> list[dict]:
  """Counts what was dropped; an utterance by the first rule that it broke."""
  by_line, found = {u.line: u for u in utterances}, {}
  for line, rule in {p.line: p.rule for p in reversed(dropped)}.items():
    # Lines without a split are training lines until one is taken from them.
    key = rule, by_line[line].split or 'train'
    seconds = by_line[line].seconds
    if seconds is None:
      seconds = heard[line].seconds if line in heard else 0.0
    count, before = found.get(key, (0, 0.0))
    found[key] = count + 1, before + seconds
  return [
    {
      'rule': rule,
      'split': split,
      'utterances': count,
      'minutes': round(seconds / 60, 3),
    }
    for (rule, split), (count, seconds) in sorted(found.items())
  ]


def _drop(utterances, problems, rules):
  """Separates utterances that break one of `rules`, with their problems."""
  # What is wrong with a whole file, or a line of no audio, cannot be dropped.
  lines = {u.line for u in utterances}
  lines &= {p.line for p in problems if p.rule in rules}
  kept = [u for u in utterances if u.line not in lines]
  dropped = [p for p in problems if p.line in lines]
  return kept, [p for p in problems if p.line not in lines], dropped


def assign(
  utterances: Iterable[checks.Utterance], seed: int, named=()
) -> dict[str, list[checks.Utterance]]:
  """Returns the utterances of each split, in order of id.

  Splits that no utterance names are taken from the training utterances, as the
  head of this file says; lines without a split are training lines.

  Args:
    utterances: of all splits.
    seed: of the order in which they are taken.
    named: splits that are not taken: others named them, which were left out.
  """
  splits = {name: [] for name in _SPLITS}
  for utterance in sorted(utterances, key=lambda u: (u.id, u.line)):
    if utterance.split is not None:
      splits[utterance.split or 'train'].append(utterance)
  elsewhere = {u.speaker for s in ('validation', 'test') for u in splits[s]}
  absent = [
    name
    for name in ('test', 'validation')
    if not splits[name] and name not in named
  ]
  speakers = {u.speaker for u in splits['train']}
  whole_speakers = (
    '' not in speakers
    and len(speakers) > len(absent)
    and not speakers & elsewhere
  )
  target = max(1, round(_HELD_OUT * len(splits['train'])))
  for name in absent:
    groups = collections.defaultdict(list)
    for utterance in splits['train']:
      own = utterance.speaker if whole_speakers else utterance.id
      groups[own].append(utterance)
    taken = _hold_out(groups, target, f'{seed}/{name}/')
    splits[name] = [u for u in splits['train'] if u.line in taken]
    splits['train'] = [u for u in splits['train'] if u.line not in taken]
  return splits


def _hold_out(groups, target: int, salt: str) -> set[int]:
  """Returns the lines of groups, taken whole, that hold `target` utterances.

  Never more than that, except where the smallest group is larger already.
  """
  if len(groups) < 2:
    return set()
  order = sorted(
    groups, key=lambda g: hashlib.sha256(f'{salt}{g}'.encode()).digest()
  )
  carriers = collections.Counter(
    token for group in groups.values() for u in group for token in set(u.tokens)
  )
  taken, spared = [], None
  for group in order:
    own = collections.Counter(t for u in groups[group] for t in set(u.tokens))
    fits = len(taken) + len(groups[group]) <= target
    if fits and all(carriers[t] > n for t, n in own.items()):
      carriers -= own
      taken += groups[group]
    elif spared is None or len(groups[group]) < len(groups[spared]):
      spared = group
  return {u.line for u in taken or groups[spared]}


def check(
  manifest_path: str | os.PathLike,
  **options,
) -> list[checks.Problem]:
  """Returns all problems of a manifest, by line; see `Options`.

  Reads every line and every recording once, in parallel. `checks.REMEDIES`
  names the rules. Problems of utterances that `drop` leaves out are not there.

  Args:
    manifest_path: the manifest, or several: one for some splits.
    options: attributes of `Options`.

  Raises:
    ValueError: options that mean nothing, or no such alphabet.
  """
  return examine(manifest_path, Options(**options)).problems


@dataclasses.dataclass(eq=False)
class ManifestConfig(tfds.core.BuilderConfig):
  """A manifest and how to read it; made by `builder`."""

  manifest_path: str = ''
  options: Options = Options()


class Manifest(tfds.core.GeneratorBasedBuilder):
  """The corpus of a manifest; make it with `builder`."""

  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = 'Speech of a manifest.jsonl, 16 kHz.'
  code_path = None  # nothing is downloaded: there is no file of checksums

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      features=corpus.example_features(),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _examined(self) -> tuple[str, Examined]:
    """Returns the name of the corpus, and the corpus."""
    config = self.builder_config
    found = examine(config.manifest_path.split('\0'), config.options)
    return title(config.manifest_path.partition('\0')[0]), found

  def _split_generators(self, dl_manager):
    """Examines the corpus; raises a ManifestError if it has problems."""
    del dl_manager
    name, found = self._examined()
    if found.problems:
      raise ManifestError(checks.summary(found.problems), found.problems)
    identity = {symbol: symbol for symbol in found.symbols}
    self.info.metadata.update(
      name=name,
      alphabet=list(found.symbols),
      train_map=identity,
      score_map=identity,
      fingerprint=fingerprint(found),
      dropped=[str(problem) for problem in found.dropped],
      left_out=found.left_out,
      notes=found.notes,
    )
    if found.model is not None:
      model = base64.b64encode(found.model).decode()
      self.info.metadata['pieces'] = model
    return {
      name: self._generate_examples(utterances, found.digests)
      for name, utterances in found.splits.items()
    }

  def _generate_examples(self, utterances, digests):
    """Yields (id, example)."""
    for utterance, samples_n in audio.map_parallel(
      lambda u: _load(u, digests[u.line]), utterances
    ):
      yield (
        utterance.id,
        {
          'id': utterance.id,
          'audio': samples_n,
          'tokens': list(utterance.tokens),
          'token_samples': np.zeros((0, 2), np.int32),
          'text': utterance.text,
          'speaker': utterance.speaker,
        },
      )


def _load(utterance: checks.Utterance, digest: str):
  """Returns the utterance with its int16 samples at 16 kHz."""
  seconds = None if utterance.start is None else utterance.seconds
  recording = audio.read(
    utterance.audio, utterance.start or 0.0, seconds, utterance.channel
  )
  if recording.digest() != digest:
    raise ManifestError(f'{utterance.audio} changed while it was being read')
  return utterance, audio.at_16_khz(recording)


def fingerprint(found: Examined) -> str:
  """Returns a SHA-256 of all that training sees: samples, targets, splits."""
  digest = hashlib.sha256(json.dumps([_FORMAT, found.symbols]).encode())
  if found.model is not None:
    digest.update(word_pieces.digest(found.model).encode())
  for name in _SPLITS:
    for u in found.splits[name]:
      row = [name, u.id, u.speaker, u.text, u.tokens, found.digests[u.line]]
      digest.update(json.dumps(row).encode())
  return digest.hexdigest()


def title(manifest_path: str | os.PathLike) -> str:
  """Returns a short name: the folder of a manifest.jsonl, else its stem."""
  path = pathlib.Path(manifest_path).absolute()
  plain = path.stem == 'manifest' or path.stem in checks.SPLIT_NAMES
  name = path.parent.name if plain else path.stem
  return re.sub(r'[^A-Za-z0-9_]+', '_', name).strip('_') or 'corpus'


def _state(paths: tuple[pathlib.Path, ...], options: Options) -> str:
  """Returns a digest of options, manifest, and sizes and times of its files."""
  digest = hashlib.sha256(options.told().encode())
  for path in paths:
    digest.update(path.read_bytes())
  for file in sorted({u.audio for u in checks.parse(paths, 'phones')[0]}):
    if os.path.isfile(file):
      status = file.stat()
      digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
  return digest.hexdigest()


def builder(
  manifest_path: str | os.PathLike,
  *,
  data_dir: str | os.PathLike,
  **given,
) -> Manifest:
  """Returns the builder of a manifest; see `Options`.

  Its configuration's name holds a digest of the options, the manifest, and the
  size and time of every audio file: whatever changes is prepared anew, beside
  the old one. Its metadata hold a `fingerprint` of the contents alone.

  Args:
    manifest_path: the manifest, or several: one for some splits.
    data_dir: folder of prepared corpora; it is made if need be.
    given: attributes of `Options`.

  Raises:
    ManifestError: no such manifest. Other problems are raised, all together,
      by `download_and_prepare`.
    ValueError: options that mean nothing, or no such alphabet.
  """
  paths = _files(manifest_path)
  options = Options(**given)
  if not all(os.path.isfile(path) for path in paths):
    problems = checks.parse(paths, options.targets)[1]
    raise ManifestError(checks.summary(problems), problems)
  state = _state(paths, options)[:12]
  config = ManifestConfig(
    name=f'{title(paths[0])}-{options.targets}-{state}',
    manifest_path='\0'.join(str(path.absolute()) for path in paths),
    options=options,
  )
  with corpus.quiet():  # it warns of configurations that are not in its list
    return Manifest(
      data_dir=os.fspath(data_dir), config=config, file_format='array_record'
    )
