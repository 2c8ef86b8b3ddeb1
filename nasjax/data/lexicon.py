"""Words to phones by a lexicon, which is looked up and not guessed from.

  ABANDON  AH0 B AE1 N D AH0 N
  A  AH0
  A(2)  EY1

is CMUdict's text: a word, its phones, further pronunciations numbered or on
lines of their own; lines that begin with ;;; and what follows # are comments.
Kaldi's lexicon.txt is of the same kind, and so is lexiconp.txt, whose
probabilities are left out. The first pronunciation is the one that is taken.
"""

import collections
import pathlib
import re
from collections.abc import Iterable

from nasjax.data import checks

# The marks of stress of ARPAbet's vowels; other digits (tones, SAMPA) stay.
_VOWELS = 'AA AE AH AO AW AX AY EH ER EY IH IY OW OY UH UW'.replace(' ', '|')
_STRESSED = re.compile(rf'^({_VOWELS})[012]$', re.IGNORECASE)
_NUMBERED = re.compile(r'(.+)\(\d+\)')
_COMMENT = re.compile(r'\s#(\s.*)?$')
# What is no part of a word at its ends, and, but for apostrophes, is not asked.
_MARKS = re.compile(r'^[^\w]+|[^\w]+$')


class Lexicon:
  """Pronunciations by word.

  Attributes:
    missing: how often each word that it lacks was asked for.
    variants: pronunciations that are not taken, for others stand before them.
  """

  def __init__(self, stress: bool = False):
    """
    Args:
      stress: keep the marks of stress of ARPAbet (AH0, AH1, AH2).
    """
    self.missing: collections.Counter = collections.Counter()
    self.variants = 0
    self._stress = stress
    self._phones: dict[str, tuple[str, ...]] = {}

  def __len__(self):
    return len(self._phones)

  def read(self, path: pathlib.Path, reading) -> None:
    """Adds the words of a file; those that are there already stay.

    Args:
      path: the file.
      reading: `layouts.reading.Reading`, which is told what is wrong.
    """
    rows, before = [], len(reading.problems)
    known = {word.casefold() for word in self._phones}
    for number, line in reading.lines(path):
      if not line.startswith((';;;', '# ')):
        rows.append((number, *_COMMENT.sub('', line).split()))
    weighted = bool(rows) and all(
      len(row) > 2 and _is_probability(row[2]) for row in rows
    )
    if not rows and len(reading.problems) == before:
      reading.problem(path, 0, 'missing_field', 'no word in it')
    for number, word, *phones in rows:
      phones = [checks.one_name(p) for p in phones[weighted:]]
      if not phones:
        message = f'{word!r} has no phones'
        reading.problem(path, number, 'bad_field', message)
        continue
      if not self._stress:
        phones = [_STRESSED.sub(r'\1', p) for p in phones]
      numbered = _NUMBERED.fullmatch(word)
      key = checks.one_name(numbered[1] if numbered else word)
      if key in self._phones or key.casefold() in known:
        self.variants += 1
        continue
      self._phones[key] = tuple(phones)
      # Transcripts and lexicons differ in the case of words.
      self._phones.setdefault(key.casefold(), tuple(phones))

  def look_up(
    self, text: str, spell: bool = False
  ) -> tuple[tuple[str, ...], list[str]]:
    """Returns the phones of a text, and the words that are not there.

    A word is looked up as it stands, then without regard to case, without
    punctuation, and in its parts between hyphens.

    Args:
      text: words between spaces.
      spell: pronounce a word that is not there letter by letter, where the
        lexicon has the letters.
    """
    phones, lacking = [], []
    for word in text.replace('\u2019', "'").split():
      found = self._word(word)
      if found is None and spell:
        found = self._spelled(word)
      if found is None:
        bare = _MARKS.sub('', word).casefold()
        lacking.append(bare)
        self.missing[bare] += 1
      phones += found or ()
    return tuple(phones), lacking

  def _word(self, word):
    bare = _MARKS.sub('', word)
    # As it stands for <noise>; with its apostrophes for 'cause and dogs'.
    for form in (word, word.strip('.,;:!?"()'), bare):
      for key in (form, form.casefold()):
        if key in self._phones:
          return self._phones[key]
    if not bare:
      return ()
    parts = bare.split('-')
    found = [self._word(part) for part in parts if len(parts) > 1]
    return None if not found or None in found else sum(found, ())

  def _spelled(self, word):
    found = ()
    for letter in _MARKS.sub('', word).casefold():
      # CMUdict has `a` for the word and `a.` for the letter.
      own = self._phones.get(f'{letter}.') or self._phones.get(letter)
      if own is None and letter.isalnum():
        return None
      found += own or ()
    return found


def _is_probability(text):
  try:
    return 0 < float(text) <= 1
  except ValueError:
    return False


def plain(text: str) -> str:
  """Returns a text in lower case and without punctuation around its words."""
  words = text.replace('\u2019', "'").split()
  return ' '.join(filter(None, (_MARKS.sub('', w).lower() for w in words)))


def shown(words: Iterable[tuple[str, int]], most: int = 20) -> str:
  """Returns words with their counts in a line, of many the first ones."""
  words = list(words)
  told = ', '.join(f'{word} ({count})' for word, count in words[:most])
  return f'{told} and {len(words) - most} more' * (len(words) > most) or told
