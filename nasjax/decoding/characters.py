"""Transcripts of characters, ranked again by an n-gram of characters.

Each symbol of an alphabet counts as a word of `words.Search`: a prefix beam
search of sequences of symbols, n best of them, which `words.rescored` ranks by

  ln p(symbols | speech) + weight ln p(symbols) + bonus * symbols

The n-gram comes from transcripts of training; weight and bonus are the best of
a few on validation. On the host.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nasjax.decoding import arpa, error_rates, words

ORDER = 5
N_BEST = 16
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BONUSES = (0.0, 0.5, 1.0)


class Fitted(NamedTuple):
  """What rescoring goes by.

  Attributes:
    fusion: `words.Fusion`.
    rate: character error rate on the utterances that it was fitted on.
  """

  fusion: words.Fusion
  rate: float


def names(symbols: Sequence[str]) -> list[str]:
  """Returns a word for each symbol: as it is, but for those with blanks."""
  # An n-gram file parts words by blanks, and has words of its own.
  return [
    ''.join(f'U+{ord(c):04X}' if c.isspace() or c in '<>' else c for c in s)
    for s in symbols
  ]


def language_model(transcripts, symbols, order=ORDER):
  """Returns an `arpa.Arpa` of symbols.

  Args:
    transcripts: ids of each utterance of training, from 1.
    symbols: the alphabet; the id of a symbol is its index + 1.
    order: n.
  """
  names_v = names(symbols)
  return arpa.estimate(
    ([names_v[label - 1] for label in labels] for labels in transcripts), order
  )


def n_best(logprobs_tv, symbols, most=N_BEST) -> list[words.Hypothesis]:
  """Returns the most probable transcripts of an utterance, best first.

  Args:
    logprobs_tv: natural logarithms, blank first.
    symbols: the alphabet.
    most: how many at most, and the width of the beam.
  """
  lexicon = words.Lexicon(
    {name: ((v,),) for v, name in enumerate(names(symbols), start=1)}
  )
  search = words.Search(names(symbols), lexicon=lexicon, width=most)
  return search(np.asarray(logprobs_tv), most)


def fit(lists, references, lm) -> Fitted:
  """Chooses weight and bonus; of equals the smallest, which trust speech most.

  Args:
    lists: `n_best` of each utterance of validation.
    references: ids of each.
    lm: of `language_model`.
  """
  found = []
  for weight, bonus in itertools.product(WEIGHTS, BONUSES):
    fusion = words.Fusion(lm, weight, bonus)
    found.append(Fitted(fusion, rate(ranked(lists, fusion), references)))
  return min(found, key=lambda f: f.rate)


def ranked(lists, fusion) -> list[tuple[int, ...]]:
  """Returns the ids of the best transcript of each list."""
  return [words.rescored(own, fusion)[0].labels for own in lists]


def rate(heard, references) -> float:
  """Returns the character error rate, edits over characters spoken."""
  edits = error_rates.edits(list(heard), list(references))
  return float(np.sum(edits) / max(1, sum(map(len, references))))
