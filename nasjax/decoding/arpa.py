"""Word n-grams with back-off, as ARPA files have them.

`read` takes an ARPA file (also .gz) in plain Python, or what KenLM has made of
one (build_binary) through the package `kenlm`; `estimate` makes a small one
from sentences, and `write` writes it so that KenLM loads it. All of them answer
the same questions:

  state, ln_p = lm.score(lm.start(), 'HELLO'); lm.end(state); 'HELLO' in lm

Witten and Bell 1991, as in `losses.ngram`: interpolated, which back-off weights
can express exactly.
"""

import collections
import gzip
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

BEGIN, END, UNKNOWN = '<s>', '</s>', '<unk>'
_SPECIAL = frozenset((BEGIN, END, UNKNOWN, '<UNK>'))
_LN10 = math.log(10.0)
# What KenLM takes for a word that a model without UNKNOWN lacks.
_NOTHING = -100.0
_BINARY = b'mmap lm http://kheafield.com/code'


class ArpaError(ValueError):
  """A file that is no language model; names the line."""


class Arpa(NamedTuple):
  """An n-gram model.

  Attributes:
    order: n.
    grams: log10 of probability and of back-off weight, by words.
    unknown: how it calls words that it lacks; '' where it has no name for them.
  """

  order: int
  grams: Mapping[tuple[str, ...], tuple[float, float]]
  unknown: str = UNKNOWN

  @property
  def words(self) -> frozenset[str]:
    """Its vocabulary, without what begins and ends sentences."""
    return frozenset(g[0] for g in self.grams if len(g) == 1) - _SPECIAL

  def __contains__(self, word: str) -> bool:
    return (word,) in self.grams and word not in _SPECIAL

  def start(self) -> tuple[str, ...]:
    """Returns the state at the beginning of a sentence."""
    return (BEGIN,) if self.order > 1 else ()

  def score(self, state: tuple[str, ...], word: str):
    """Returns the state after a word, and the natural log of its probability.

    The state is as much of the history as the model knows.
    """
    if (word,) not in self.grams:
      word = self.unknown
    history, weight = state, 0.0
    while (gram := (*history, word)) not in self.grams:
      if not history:
        return (), _LN10 * (weight + _NOTHING)
      weight += self.grams.get(history, (0.0, 0.0))[1]
      history = history[1:]
    probability = _LN10 * (weight + self.grams[gram][0])
    state = (*state, word)[1 - self.order :] if self.order > 1 else ()
    while state and state not in self.grams:
      state = state[1:]
    return state, probability

  def end(self, state) -> float:
    """Returns the natural log of the probability that a sentence ends here."""
    return self.score(state, END)[1]


class KenLM:
  """A model that the package `kenlm` holds; see `Arpa` for what it answers."""

  def __init__(self, path: str | os.PathLike):
    """Reads a file that KenLM has made, or an ARPA file.

    Raises:
      ArpaError: it is none, or the package is not installed.
    """
    try:
      import kenlm
    except ImportError:
      raise ArpaError(
        f"{path} is for KenLM; give: pip install -e '.[lexicon]'"
      ) from None
    self._kenlm = kenlm
    try:
      self._model = kenlm.Model(os.fspath(path))
    except (OSError, RuntimeError) as e:
      words = ' '.join(str(e).split())
      raise ArpaError(f'{path}: KenLM does not read it: {words}') from None
    self.order = self._model.order

  # The package does not tell its vocabulary.
  words = None

  def __contains__(self, word):
    return word in self._model and word not in _SPECIAL

  def start(self):
    state = self._kenlm.State()
    self._model.BeginSentenceWrite(state)
    return state

  def score(self, state, word):
    after = self._kenlm.State()
    return after, _LN10 * self._model.BaseScore(state, word, after)

  def end(self, state):
    return self.score(state, END)[1]


def log_prob(lm, words: Sequence[str]) -> float:
  """Returns the natural log of a sentence's probability, its end included."""
  state, total = lm.start(), 0.0
  for word in words:
    state, found = lm.score(state, word)
    total += found
  return total + lm.end(state)


def perplexity(lm, sentences: Iterable[Sequence[str]]) -> float:
  """Returns the perplexity of sentences, each with its end.

  Raises:
    ValueError: there are none.
  """
  total, count = 0.0, 0
  for words in sentences:
    total += log_prob(lm, words)
    count += len(words) + 1
  if not count:
    raise ValueError('no sentence to take the perplexity of')
  return math.exp(-total / count)


def read(path: str | os.PathLike) -> Arpa | KenLM:
  """Reads a language model.

  Args:
    path: an ARPA file, perhaps with .gz, or a binary file of KenLM.

  Raises:
    ArpaError: it is not there, or is no model; names file, line and value.
  """
  path = pathlib.Path(path).expanduser()
  try:
    with path.open('rb') as file:
      if file.read(len(_BINARY)) == _BINARY:
        return KenLM(path)
    opened = gzip.open if path.suffix == '.gz' else open
    with opened(path, 'rt', encoding='utf-8') as lines:
      return _parsed(path, lines)
  except UnicodeDecodeError:
    raise ArpaError(f'{path} is no text in UTF-8, and not of KenLM') from None
  except (OSError, EOFError) as e:
    told = getattr(e, 'strerror', None) or 'it cannot be unpacked'
    raise ArpaError(f'{path}: {told}') from None


def _parsed(path, lines) -> Arpa:
  """Reads the lines of an ARPA file."""
  counts, grams, section, ended, seen = {}, {}, None, False, 0
  names = {}  # each word once in memory

  def fault(number, line, want):
    shown = line if len(line) <= 60 else line[:60] + '..'
    return ArpaError(f'{path}:{number}: {shown!r}; want {want}')

  number = 0
  for number, raw in enumerate(lines, start=1):
    line = raw.strip()
    if not line or (section is None and not line.startswith('\\data\\')):
      continue  # what stands before is a comment
    if line.startswith('\\'):
      if isinstance(section, int) and seen != counts[section]:
        want = f'{counts[section]} {section}-grams before it, not {seen}'
        raise fault(number, line, want)
      if line == '\\end\\':
        ended = True
        break
      section, seen = _section(line, counts), 0
      if section is None:
        raise fault(number, line, '\\data\\, \\N-grams: or \\end\\')
    elif section == 'data':
      order, _, count = line.removeprefix('ngram').partition('=')
      if not (order.strip().isdecimal() and count.strip().isdecimal()):
        raise fault(number, line, 'ngram N=COUNT')
      counts[int(order)] = int(count)
    else:
      seen += 1
      fields = line.split()
      try:
        values = [float(f) for f in (fields[0], *fields[section + 1 :])]
      except ValueError:
        values = []
      if not 1 <= len(values) <= 2 or len(fields) < section + 1:
        want = f'log10 probability, {section} words, perhaps a weight'
        raise fault(number, line, want)
      words = tuple(names.setdefault(w, w) for w in fields[1 : section + 1])
      grams[words] = (values[0], values[1] if len(values) > 1 else 0.0)
  if not ended or not grams:
    what = 'no \\data\\' if section is None else 'no \\end\\'
    raise ArpaError(
      f'{path}:{number}: {what}; give an ARPA file, whole, or one of KenLM'
    )
  if len(grams) != sum(counts.values()):
    raise ArpaError(
      f'{path}: {len(grams)} different n-grams, but its head says '
      f'{sum(counts.values())}; fetch it again'
    )
  unknown = [u for u in (UNKNOWN, '<UNK>') if (u,) in grams]
  return Arpa(max(counts), grams, unknown[0] if unknown else '')


def _section(line, counts):
  if line == '\\data\\':
    return 'data'
  name = line.removeprefix('\\').removesuffix('-grams:')
  return int(name) if name.isdecimal() and int(name) in counts else None


def estimate(sentences: Iterable[Sequence[str]], order: int = 3) -> Arpa:
  """Estimates a model of words (interpolated Witten-Bell).

  p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), where c counts, t(h) is
  the number of different words seen after h, and h' is h without its oldest
  word; under the unigrams lies the uniform distribution over all words seen,
  the end of a sentence, and what is unknown. All probabilities after a history
  add up to 1.

  Args:
    sentences: words each.
    order: n; 1 or more.

  Raises:
    ValueError: the order is below 1, there is no sentence, or one has a word
      that stands for something else in such files, or has a blank in it.
  """
  if order < 1:
    raise ValueError(f'order is {order}; it must be 1 or more')
  counts = [collections.Counter() for _ in range(order)]
  number = 0
  for words in sentences:
    number += 1
    for word in words:
      if word in _SPECIAL or len(word.split()) != 1:
        raise ValueError(f'sentence {number} has {word!r}, which is no word')
    padded = (BEGIN, *words, END)
    for n in range(order):
      counts[n].update(zip(*(padded[i:] for i in range(n + 1))))
  if not number:
    raise ValueError('there are no sentences to estimate from')
  del counts[0][BEGIN,]
  grams = {}
  uniform = 1 / (len(counts[0]) + 1)
  probs = {(): uniform}
  followed = _followed(counts[0])
  for n, own in enumerate(counts):
    found = {}
    for gram, count in own.items():
      total, kinds = followed[gram[:-1]]
      lower = probs[gram[1:]] if n else uniform
      found[gram] = (count + kinds * lower) / (total + kinds)
    if not n:
      total, kinds = followed[()]
      found[UNKNOWN,] = kinds * uniform / (total + kinds)
    followed = _followed(counts[n + 1]) if n + 1 < order else {}
    for gram, prob in found.items():
      grams[gram] = (math.log10(prob), _weight(followed.get(gram)))
    if not n:
      grams[BEGIN,] = (-99.0, _weight(followed.get((BEGIN,))))
    probs = found
  return Arpa(order, grams)


def _followed(counts):
  """Returns how often and by how many words each history is followed."""
  found = {}
  for gram, count in counts.items():
    total, kinds = found.get(gram[:-1], (0, 0))
    found[gram[:-1]] = total + count, kinds + 1
  return found


def _weight(followed):
  if followed is None:
    return 0.0
  total, kinds = followed
  return math.log10(kinds / (total + kinds))


def write(lm: Arpa) -> bytes:
  """Returns the ARPA file of a model, which KenLM reads, too."""
  by_order = [[] for _ in range(lm.order)]
  for gram, (prob, weight) in sorted(lm.grams.items()):
    line = f'{prob:.7f}\t{" ".join(gram)}'
    if len(gram) < lm.order and gram[-1] != END:
      line += f'\t{weight:.7f}'
    by_order[len(gram) - 1].append(line)
  lines = ['\\data\\']
  lines += [f'ngram {n}={len(own)}' for n, own in enumerate(by_order, start=1)]
  for n, own in enumerate(by_order, start=1):
    lines += ['', f'\\{n}-grams:', *own]
  return '\n'.join([*lines, '', '\\end\\', '']).encode()
