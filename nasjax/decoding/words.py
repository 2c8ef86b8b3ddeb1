"""From the outputs of CTC networks to words, with a word n-gram.

Two searches on the host, of one utterance each. `beam` is a prefix beam search
(Hannun et al. 2014, algorithm 1) on letters or sub-words, whose words are what
stands between the borders that `error_rates.border` finds; any way of cutting a
word into sub-words counts. Of phones, which have no borders, words are what a
lexicon spells in them. `Flashlight` is the lexicon decoder of flashlight-text
(Kahn et al. 2022), in C++, which spells each word in the ways that a lexicon
lists. What is found is scored as

  ln p(labels | speech) + lm_weight ln p(words) + word_bonus * words

`rescored` does that to transcripts that were found without a language model.
On the device, and without words, search `ctc.greedy` and `ctc.beam_search`.
"""

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nasjax.decoding import arpa, error_rates, transcripts

_ZERO = -math.inf
# Symbols less probable than the best of a frame by more than this (e^-10 is
# 5e-5) are not looked at.
_BELOW_BEST = 10.0


class Hypothesis(NamedTuple):
  """A transcript that a search found.

  Attributes:
    words: as texts.
    labels: ids that spell them, the most probable of those found.
    ctc: natural log of the probability of all labels found that spell them.
    lm: natural log of that of the words, their end included; 0 without one.
    score: what is at the head of this file.
    whole: whether the last word is one of the lexicon; True without one.
  """

  words: tuple[str, ...]
  labels: tuple[int, ...]
  ctc: float
  lm: float
  score: float
  whole: bool = True


# What is heard where nothing is possible, or log probabilities are NaN.
NOTHING = Hypothesis((), (), _ZERO, 0.0, _ZERO)
BROKEN = Hypothesis((), (), math.nan, 0.0, math.nan)


@dataclasses.dataclass(frozen=True)
class Fusion:
  """A language model and its part in the score.

  Attributes:
    lm: as `arpa.read` and `arpa.estimate` return it; None for none.
    weight: of its log probability.
    bonus: added for each word, against the language model's love of few.
  """

  lm: object = None
  weight: float = 0.5
  bonus: float = 0.0

  def score(self, ctc: float, lm: float, words: int) -> float:
    return ctc + self.weight * lm + self.bonus * words


class Lexicon(NamedTuple):
  """The words that may be heard.

  Attributes:
    spellings: ids of symbols by word, several ways each; none where a list of
      words is all there is.
    path: where it comes from, for people.
  """

  spellings: Mapping[str, tuple[tuple[int, ...], ...]]
  path: str = 'the lexicon'

  def __contains__(self, word):
    return word in self.spellings


def greedy(logits_btv, len_b, symbols) -> list[list[str]]:
  """Returns the words of each utterance's best path, found on the device.

  Args:
    logits_btv, len_b: see `ctc.greedy`.
    symbols: of the corpus; the id of a symbol is its index + 1.
  """
  from nasjax.decoding import ctc

  return spelt(*ctc.greedy(logits_btv, len_b), symbols)


def beam_search(logits_btv, len_b, symbols, width=12) -> list[list[str]]:
  """Returns the words of the prefix beam search on the device.

  Args:
    logits_btv, len_b, width: see `ctc.beam_search`.
    symbols: of the corpus.
  """
  from nasjax.decoding import ctc

  return spelt(*ctc.beam_search(logits_btv, len_b, width)[:2], symbols)


def spelt(labels_bl, len_b, symbols) -> list[list[str]]:
  """Returns the words that padded labels spell.

  Raises:
    ValueError: the symbols know of no words.
  """
  _border(symbols)
  rows = error_rates.unpad(labels_bl, len_b)
  return [transcripts.spelt(row, symbols).split() for row in rows]


def _border(symbols):
  """Returns what tells words apart.

  Raises:
    ValueError: nothing does.
  """
  border = error_rates.border(symbols)
  if border is None:
    shown = ' '.join(map(str, symbols[:5]))
    raise ValueError(
      f'{len(symbols)} symbols ({shown} ..) do not say where words begin: take '
      'characters, word_pieces or words for targets, or give a lexicon that '
      'spells words in them'
    )
  return border


# Lexicons, and what alphabets they and language models have.


def read_lexicon(path: str | os.PathLike, symbols: Sequence[str]) -> Lexicon:
  """Reads a lexicon: a word a line, perhaps the symbols that spell it behind.

  A word may have several lines. A space is written as `|` where it is a symbol
  of the alphabet.

  Raises:
    ValueError: it cannot be read, has no word, or spells one in symbols that
      the alphabet lacks (the first is named, and how many there are).
  """
  path = pathlib.Path(path).expanduser()
  ids = {symbol: i for i, symbol in enumerate(symbols, start=1)}
  if ' ' in ids:
    ids.setdefault('|', ids[' '])
  try:
    lines = path.read_text('utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'it is no text in UTF-8'
    raise ValueError(f'{path}: {reason}') from None
  found, faults = {}, []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    word, *spelling = line.split()
    ways = found.setdefault(word, {})
    strange = [unit for unit in spelling if unit not in ids]
    if strange:
      faults.append(f'{path}:{number}: {word}: {strange[0]!r} is no symbol')
    elif spelling:
      ways[tuple(ids[unit] for unit in spelling)] = None
  if faults:
    raise ValueError(
      f'{faults[0]} of the network ({len(faults)} such lines in all); take a '
      'lexicon of its alphabet'
    )
  if not found:
    raise ValueError(f'{path} has no word')
  return Lexicon({word: tuple(ways) for word, ways in found.items()}, str(path))


def lexicon_of(words: Iterable[str], path: str = 'the words') -> Lexicon:
  """Returns a lexicon of words alone."""
  return Lexicon(dict.fromkeys(sorted(words), ()), path)


def letters(symbols: Sequence[str]) -> frozenset[str]:
  """Returns the characters that words of these symbols may have."""
  border = _border(symbols)
  own = [s for s in symbols if border == error_rates.WORD_MARK or s != border]
  return frozenset(''.join(own)) - {error_rates.WORD_MARK}


def check_alphabet(words: Iterable[str], symbols: Sequence[str], path) -> int:
  """Refuses words most of which the symbols cannot spell.

  Args:
    words: of a language model or a lexicon.
    symbols: of the network.
    path: where the words come from.

  Returns:
    how many can be spelt.

  Raises:
    ValueError: less than half; tells the first of the others, and whether it
      is a matter of upper and lower case.
  """
  known, words = letters(symbols), sorted(words)
  strange = [word for word in words if not known.issuperset(word)]
  spelt = len(words) - len(strange)
  if words and 2 * spelt < len(words):
    word = strange[0]
    letter = next(c for c in word if c not in known)
    remedy = 'take one of the alphabet of the network'
    for case in ('upper', 'lower'):
      turned = [getattr(w, case)() for w in strange]
      if 2 * sum(map(known.issuperset, turned)) > len(turned):
        remedy = f'write it in {case} case, as the network does'
    raise ValueError(
      f'{path}: another alphabet: {len(strange)} of {len(words)} words cannot '
      f'be spelt by the network (it has no {letter!r} for {word!r}); {remedy}'
    )
  return spelt


def lacking(references: Iterable[Sequence[str]], known) -> dict:
  """Counts words of references that a lexicon or a language model lacks.

  Args:
    references: words of each utterance.
    known: whatever answers `in`.

  Returns:
    a dict: words (how many), of (all), utterances (that have one), and
    distinct, them.
  """
  found, total, utterances = {}, 0, 0
  for words in references:
    total += len(words)
    own = [word for word in words if word not in known]
    utterances += bool(own)
    for word in own:
      found[word] = found.get(word, 0) + 1
  return {
    'words': sum(found.values()),
    'of': total,
    'utterances': utterances,
    'distinct': sorted(found),
  }


# The search of our own.


class _Node:
  """What prefixes of labels have in common that may go on alike.

  That is the words that they spell, what there is of the next one (letters, or
  a node of the tree of spellings), and the last label. `known` holds all nodes
  of an utterance.
  """

  __slots__ = (
    'bonus', 'children', 'known', 'label', 'lm', 'partial', 'state', 'words',
  )  # fmt: skip

  def __init__(self, known, label, words, partial, state, lm, bonus):
    self.known, self.label, self.children = known, label, {}
    self.words, self.partial = words, partial
    self.state, self.lm, self.bonus = state, lm, bonus


class _Sum:
  """Log probabilities of a node: of what ends in a blank, in its last label.

  Attributes:
    way: the labels of the most probable way to it, from the last on, as pairs;
      None for none.
    best: log probability of that way when it was found.
  """

  __slots__ = ('best', 'by_blank', 'by_label', 'way')

  def __init__(self):
    self.by_blank = self.by_label = self.best = _ZERO
    self.way = None

  def add_label(self, score, way):
    self.by_label = _add(self.by_label, score)
    self.lead(score, way)

  def lead(self, score, way):
    if score > self.best:
      self.best, self.way = score, way

  @property
  def total(self):
    return _add(self.by_blank, self.by_label)


class Search:
  """A prefix beam search for words; made once, used often.

  Frames are searched one after the other, `width` prefixes being kept, ranked
  by their score, in which the language model has said of each word what it
  thinks once the word has ended. Prefixes that spell the same and may go on
  alike are one, however words are cut.
  """

  def __init__(
    self,
    symbols: Sequence[str],
    fusion: Fusion | None = None,
    lexicon: Lexicon | None = None,
    width: int = 16,
    best_symbols: int = 20,
  ):
    """
    Args:
      symbols: of the network; the id of a symbol is its index + 1.
      fusion: `Fusion`; None for no language model.
      lexicon: words that may be heard; None for any. Its spellings count where
        symbols do not say where words begin, and there alone.
      width: prefixes kept.
      best_symbols: symbols that are looked at in each frame, the most probable;
        those below the best by more than 10 nats never.

    Raises:
      ValueError: the symbols know of no words, nor does a lexicon spell any in
        them; or a number is below 1.
    """
    if width < 1 or best_symbols < 1:
      raise ValueError(
        f'width is {width}, best_symbols {best_symbols}; want 1 or more'
      )
    self._width, self._best_symbols = width, best_symbols
    self._fusion = fusion or Fusion()
    self._lexicon, self._size = lexicon, 1 + len(symbols)
    self._beginnings = self._trie = None
    if error_rates.border(symbols) is None and lexicon is not None:
      self._trie = _trie(lexicon)
      return
    border = _border(symbols)
    self._parts = [None, *(_parts(symbol, border) for symbol in symbols)]
    if lexicon is not None:
      self._beginnings = {
        word[:n] for word in lexicon.spellings for n in range(len(word) + 1)
      }

  def __call__(self, logprobs_tv, n_best: int = 1) -> list[Hypothesis]:
    """Returns the best transcripts of different words, best first.

    Args:
      logprobs_tv: log probabilities of blank (0) and symbols in each frame.
      n_best: how many at most. There is one at least, `NOTHING` where no path
        is left, `BROKEN` where there is NaN among the log probabilities.

    Raises:
      ValueError: there are other symbols than those of the search.
    """
    logprobs_tv = _checked(logprobs_tv, self._size)
    if logprobs_tv is None:
      return [BROKEN]
    lm = self._fusion.lm
    state = None if lm is None else lm.start()
    root = _Node({}, 0, (), self._trie or '', state, 0.0, 0.0)
    start = _Sum()
    start.by_blank = 0.0
    beam = [(root, start)]
    for logprobs_v in logprobs_tv:
      beam = self._step(beam, logprobs_v)
    return self._ended(beam)[:n_best] or [NOTHING]

  def _step(self, beam, logprobs_v):
    """Returns the beam after a frame."""
    values = logprobs_v.tolist()
    order = np.argsort(-logprobs_v[1:], kind='stable')[: self._best_symbols] + 1
    floor = values[order[0]] - _BELOW_BEST if len(order) else 0.0
    chosen = [s for s in order.tolist() if values[s] >= floor]
    sums = collections.defaultdict(_Sum)  # by node
    for node, before in beam:
      total, last, way = before.total, node.label, before.way
      own = sums[node]
      own.by_blank = _add(own.by_blank, total + values[0])
      own.lead(total + values[0], way)
      if last:
        own.add_label(before.by_label + values[last], way)
      for symbol in chosen:
        reached = before.by_blank if symbol == last else total
        if reached == _ZERO:
          continue
        found = node.children.get(symbol)
        if found is None:
          extended = self._extended if self._trie is None else self._spelled
          found = node.children[symbol] = extended(node, symbol)
        score = reached + values[symbol]
        for child in found:
          sums[child].add_label(score, (symbol, way))
    ranked = [(own.total + node.bonus, node, own) for node, own in sums.items()]
    ranked.sort(key=lambda entry: -entry[0])
    return [entry[1:] for entry in ranked[: self._width] if entry[0] > _ZERO]

  def _extended(self, node, symbol):
    """Returns the node behind a symbol; none where the lexicon has no way."""
    own = node.words, node.state, node.lm
    first, *others = self._parts[symbol]
    partial = node.partial + first
    for begun in others:
      if partial:
        if self._lexicon is not None and partial not in self._lexicon:
          return ()
        own = self._said(own, partial)
      partial = begun
    if self._beginnings is not None and partial not in self._beginnings:
      return ()
    return (self._node(node, symbol, own, partial),)

  def _spelled(self, node, symbol):
    """Returns the nodes behind a symbol: within a word, and where one ends."""
    step = node.partial[0].get(symbol)
    if step is None:
      return ()
    own = node.words, node.state, node.lm
    found = [self._node(node, symbol, own, step)] if step[0] else []
    for word in step[1]:
      said = self._said(own, word)
      found.append(self._node(node, symbol, said, self._trie))
    return tuple(found)

  def _said(self, own, word):
    """Returns words, state and log probability after one more word."""
    words, state, lm = own
    if self._fusion.lm is not None:
      state, found = self._fusion.lm.score(state, word)
      lm += found
    return (*words, word), state, lm

  def _node(self, node, symbol, own, partial):
    """Returns the node of what has been said; that which is there, if any."""
    words, state, lm = own
    key = words, partial if self._trie is None else id(partial), symbol
    found = node.known.get(key)
    if found is None:
      bonus = self._fusion.score(0.0, lm, len(words))
      found = _Node(node.known, symbol, words, partial, state, lm, bonus)
      node.known[key] = found
    return found

  def _ended(self, beam):
    """Returns hypotheses of all that is in the beam, best first."""
    found = {}
    for node, sums in beam:
      own, whole = (node.words, node.state, node.lm), True
      if self._trie is not None:
        whole = node.partial is self._trie
      elif node.partial:
        whole = self._lexicon is None or node.partial in self._lexicon
        own = self._said(own, node.partial)
      words, state, score = own
      if self._fusion.lm is not None:
        score += self._fusion.lm.end(state)
      ways = found.setdefault((words, whole), [score, []])
      ways[1].append((sums.total, sums.way))
    hypotheses = []
    for (words, whole), (score, ways) in found.items():
      ctc = ways[0][0]
      for other, _ in ways[1:]:
        ctc = _add(ctc, other)
      best = max(ways, key=lambda way: way[0])[1]
      total = self._fusion.score(ctc, score, len(words))
      hypotheses.append(
        Hypothesis(words, _labels(best), ctc, score, total, whole)
      )
    # What ends in no word of the lexicon comes behind all that does.
    hypotheses.sort(key=lambda h: (not h.whole, -h.score))
    return hypotheses


def _checked(logprobs_tv, size):
  """Returns log probabilities as an array; None where there is NaN."""
  logprobs_tv = np.asarray(logprobs_tv, np.float64)
  if logprobs_tv.ndim != 2 or logprobs_tv.shape[1] != size:
    raise ValueError(
      f'log probabilities have shape {logprobs_tv.shape}; want (T, {size}), '
      'blank and symbols'
    )
  return None if np.isnan(logprobs_tv).any() else logprobs_tv


def _trie(lexicon):
  """Returns the tree of spellings: steps by symbol, and words that end.

  Raises:
    ValueError: there is no spelling.
  """
  root = ({}, [])
  for word, ways in lexicon.spellings.items():
    for way in ways:
      node = root
      for symbol in way:
        node = node[0].setdefault(symbol, ({}, []))
      node[1].append(word)
  if not root[0]:
    raise ValueError(
      f'{lexicon.path} spells no word in symbols of the network, which do not '
      'say where words begin; give them behind each word'
    )
  return root


def _parts(symbol, border):
  """Returns a symbol's text, cut where it ends one word and begins another."""
  if border == error_rates.WORD_MARK:
    return symbol.split(border)
  return ['', ''] if symbol == border else [symbol]


def _labels(way):
  """Returns the labels of a way from its last on, in order."""
  found = []
  while way is not None:
    label, way = way
    found.append(label)
  return tuple(reversed(found))


def _add(a, b):
  """log(e^a + e^b)."""
  if a < b:
    a, b = b, a
  return a if b == _ZERO else a + math.log1p(math.exp(b - a))


def beam(logprobs_tv, symbols, *, n_best=1, **given) -> list[Hypothesis]:
  """Searches one utterance; see `Search`, which has the further arguments."""
  return Search(symbols, **given)(logprobs_tv, n_best)


def rescored(
  hypotheses: Sequence[Hypothesis], fusion: Fusion
) -> list[Hypothesis]:
  """Ranks transcripts by a language model, best first.

  Args:
    hypotheses: as found without one, or with another.
    fusion: `Fusion`.
  """
  found = []
  for hypothesis in hypotheses:
    words, score = hypothesis.words, 0.0
    if fusion.lm is not None:
      score = arpa.log_prob(fusion.lm, words)
    total = fusion.score(hypothesis.ctc, score, len(words))
    found.append(hypothesis._replace(lm=score, score=total))
  return sorted(found, key=lambda h: (not h.whole, -h.score))


# That of flashlight-text.


def spellings(
  lexicon: Lexicon,
  symbols: Sequence[str],
  cut: Callable[[list[str]], list[Sequence[str]]] | None = None,
) -> Lexicon:
  """Spells the words of a lexicon that has none of their spellings.

  Args:
    lexicon: `Lexicon`; what it spells stays.
    symbols: of the network.
    cut: cuts words into sub-words, as `data.word_pieces.cut` does with a model;
      letters, or whole words, if not given. What it makes of symbols that there
      are not is left out.
  """
  ids = {symbol: i for i, symbol in enumerate(symbols, start=1)}
  bare = [word for word, ways in lexicon.spellings.items() if not ways]
  border = _border(symbols) if bare else None
  if cut is not None:
    units = cut(bare)
  elif border == error_rates.WORD_MARK:
    units = [[border + word] for word in bare]
  else:
    units = [[*word, border] for word in bare]
  found = {word: ways for word, ways in lexicon.spellings.items() if ways}
  for word, own in zip(bare, units):
    if all(unit in ids for unit in own):
      found[word] = (tuple(ids[unit] for unit in own),)
  return lexicon._replace(spellings=found)


class Flashlight:
  """The lexicon decoder of flashlight-text; made once, used often.

  It wants a symbol behind each word, as the border between letters is. Where
  words have none, of sub-words and phones, it takes the last symbol of a word
  to last one frame, and so misses paths that `Search` sums.

  Attributes:
    lexicon: the words that it can hear: those with spellings.
  """

  def __init__(
    self,
    symbols: Sequence[str],
    lexicon: Lexicon,
    fusion: Fusion | None = None,
    width: int = 16,
    best_symbols: int = 20,
  ):
    """
    Args:
      symbols: of the network.
      lexicon: with spellings; see `spellings`.
      fusion, width, best_symbols: as in `Search`.

    Raises:
      ValueError: the package is not installed, or no word is spelt.
    """
    try:
      from flashlight.lib.text import decoder
    except ImportError:
      raise ValueError(
        "this engine needs flashlight-text; give: pip install -e '.[lexicon]'"
      ) from None
    spelt = {word: ways for word, ways in lexicon.spellings.items() if ways}
    if not spelt:
      raise ValueError(
        f'{lexicon.path} spells no word in symbols of the network'
      )
    self.lexicon = lexicon._replace(spellings=spelt)
    self._fusion, self._words = fusion or Fusion(), sorted(spelt)
    self._size = 1 + len(symbols)
    # Letters are followed by a border; so is what the last word ends with.
    border = error_rates.border(symbols)
    self._border = 0
    if border != error_rates.WORD_MARK and border in symbols:
      self._border = 1 + list(symbols).index(border)
    # What it repeats between words: the border, or what is never heard.
    silence = self._border or self._size
    model = _model(decoder, self._fusion.lm, self._words)
    trie = decoder.Trie(self._size + 1, self._size)
    for number, word in enumerate(self._words):
      # Of the language model, but only what all ways through a node share.
      for way in spelt[word]:
        trie.insert(list(way), number, 0.0)
    options = decoder.LexiconDecoderOptions(
      beam_size=width,
      beam_size_token=min(best_symbols, self._size),
      beam_threshold=1e9,
      lm_weight=self._fusion.weight if self._fusion.lm is not None else 0.0,
      word_score=self._fusion.bonus,
      unk_score=_ZERO,
      sil_score=0.0,
      log_add=True,
      criterion_type=decoder.CriterionType.CTC,
    )
    self._kept = model, trie  # the decoder refers to them
    self._decoder = decoder.LexiconDecoder(
      options, trie, model, silence, 0, len(self._words), [], False
    )

  def __call__(self, logprobs_tv, n_best: int = 1) -> list[Hypothesis]:
    """Returns the best transcripts of different words, as `Search` does."""
    logprobs_tv = _checked(logprobs_tv, self._size)
    if logprobs_tv is None:
      return [BROKEN]
    frames = len(logprobs_tv) + 1
    padded_tv = np.full((frames, self._size + 1), -1e9, np.float32)
    padded_tv[:-1, :-1] = np.maximum(logprobs_tv, -1e9)
    padded_tv[-1, self._border] = 0.0
    results = self._decoder.decode(
      padded_tv.ctypes.data, frames, self._size + 1
    )
    found = {}
    for result in results:
      words = tuple(self._words[w] for w in result.words if w >= 0)
      if result.score < -1e8:  # through what is never heard
        continue
      labels = _collapsed(result.tokens, self._size)
      lm = 0.0
      if self._fusion.lm is not None:
        lm = arpa.log_prob(self._fusion.lm, words)
      ctc = result.score - self._fusion.score(0.0, lm, len(words))
      if words in found:
        ctc = _add(found[words].ctc, ctc)
        labels = found[words].labels
      total = self._fusion.score(ctc, lm, len(words))
      found[words] = Hypothesis(words, labels, ctc, lm, total)
    ranked = sorted(found.values(), key=lambda h: -h.score)
    return ranked[:n_best] or [NOTHING]


def _collapsed(tokens, silence):
  """Returns the labels of a path, which may begin and end with a silence."""
  found, last = [], 0
  for token in tokens:
    token = 0 if token >= silence or token < 0 else token
    if token and token != last:
      found.append(token)
    last = token
  return tuple(found)


def _model(decoder, lm, words):
  """Returns a language model as flashlight-text asks it."""
  if lm is None:
    return decoder.ZeroLM()

  class Model(decoder.LM):
    """States are told apart by what the model says they are."""

    def __init__(self):
      super().__init__()
      self._states = {}

    def _state(self, own, parent=None, edge=-1):
      state = decoder.LMState() if parent is None else parent.child(edge)
      self._states[state] = own
      return state

    def start(self, start_with_nothing):
      del start_with_nothing
      self._states.clear()  # those of the utterance before
      return self._state(lm.start())

    def score(self, state, word):
      after, found = lm.score(self._states[state], words[word])
      return self._state(after, state, word), found

    def finish(self, state):
      return state, lm.end(self._states[state])

  return Model()
