"""What is read of a corpus before it is a manifest: lines and their faults."""

import pathlib
import re
from collections.abc import Iterator, Sequence

from nasjax.data import checks


class Reading:
  """Utterances of a corpus, and what is wrong with its files.

  Lines are numbered as `checks.located` wants them: those of the n-th file
  count from n * `checks.FILE_LINES`.

  Attributes:
    paths: the files, in the order in which they were read.
    utterances: what they name.
    problems: what keeps lines, or whole files, from naming any.
    notes: lines of text for who gave the corpus.
  """

  def __init__(self):
    self.paths: list[pathlib.Path] = []
    self.utterances: list[checks.Utterance] = []
    self.problems: list[checks.Problem] = []
    self.notes: list[str] = []

  def file(self, path: pathlib.Path) -> int:
    """Takes a file in; returns the number of its line 0."""
    self.paths.append(path)
    return (len(self.paths) - 1) * checks.FILE_LINES

  def lines(self, path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of every line that is not blank."""
    before = self.file(path)
    try:
      data = path.read_bytes()
    except OSError as error:
      self.problem(path, 0, 'missing_file', f'{path}: {error.strerror}')
      return
    for number, raw in enumerate(data.split(b'\n'), start=before + 1):
      if not raw.strip():
        continue
      try:
        text = raw.decode('utf-8-sig').rstrip('\r')
      except UnicodeDecodeError as error:
        message = f'no UTF-8 ({error.reason} at byte {error.start})'
        remedy = 'write the file in UTF-8: iconv -f LATIN1 -t UTF-8 BAD > GOOD'
        self.problem(path, number, 'bad_field', message, remedy)
        continue
      yield number, text

  def problem(self, path, line, rule, message, remedy=None) -> None:
    """Notes a fault that names no utterance.

    Args:
      path: its file.
      line: as `lines` numbers it; 0 where the whole file is meant.
      rule: a key of `checks.REMEDIES`.
      message: what was found.
      remedy: what to do about it; that of the rule if None.
    """
    found = checks.problem(path, line, rule, message)
    self.problems.append(found._replace(remedy=remedy or found.remedy))

  def utterance(
    self,
    line: int,
    name: str,
    audio: pathlib.Path,
    text: str,
    speaker: str,
    split: str,
    start: float | None = None,
    seconds: float | None = None,
    channel: int | None = None,
  ) -> None:
    """Takes an utterance in, as `checks.Utterance` has it, without targets."""
    self.utterances.append(
      checks.Utterance(
        line=line,
        id=checks.one_name(name),
        audio=audio,
        start=start,
        seconds=seconds,
        text=' '.join(checks.one_name(text).split()),
        tokens=(),
        speaker=checks.one_name(speaker),
        split=split,
        channel=channel,
      )
    )

  def subsets(
    self, there: Sequence[pathlib.Path], chosen: Sequence[str], what: str
  ) -> dict[pathlib.Path, str]:
    """Returns the split of each part of a corpus that is to be read.

    The name of a part tells it (train-clean-100, dev, test_eval92). Where one
    part alone is read and that is not for training, no split is told: it is
    shared out like any corpus without.

    Args:
      there: the parts, files or directories, that the corpus has.
      chosen: names of those to take; all if none.
      what: parts are called in messages.

    Raises:
      ValueError: there is no such part.
    """
    by_name = {path.name: path for path in there}
    by_name |= {path.stem: path for path in there}
    absent = [name for name in chosen if name not in by_name]
    if absent:
      known = ', '.join(path.name for path in there)
      raise ValueError(f'--subsets={absent[0]}: there are the {what} {known}')
    parts = list(dict.fromkeys(by_name[name] for name in chosen)) or there
    splits = {path: split_of(path.name) for path in parts}
    told = set(splits.values()) - {''}
    if len(parts) == 1 and told != {'train'}:
      if told:
        self.notes.append(
          f'{parts[0].name} alone is there: all splits are taken from it'
        )
      return {parts[0]: ''}
    untold = [path for path in parts if told and not splits[path]]
    for path in untold:
      message = f'the name {path.name} tells no split, though others do'
      remedy = f'name the {what} to take: --subsets=train,dev,test'
      self.problem(path, 0, 'unknown_split', message, remedy)
      del splits[path]
    return splits


def split_of(name: str) -> str:
  """Returns the split that a name begins with, '' if it is none."""
  word = re.split(r'[^a-z]+', name.lower())[0]
  return checks.SPLITS.get('test' if word == 'eval' else word, '')
