"""Error rates by name: of the transcripts of one network, on the host.

`per`, `cer` and `ler` are rates of labels, which are phones, characters or
sub-words, after folding; `wer` is that of the words which labels spell, where
they say where words begin. Which of them decides follows from the units.
"""

from typing import NamedTuple

import numpy as np

from nasjax.decoding import error_rates


class Units(NamedTuple):
  """What transcripts are made of.

  Attributes:
    symbols: of a `data.corpus.Corpus`; the id of a symbol is its index + 1.
    fold_v: the class that each id is scored as, see `error_rates.fold`; None
      to score labels as they are.
  """

  symbols: tuple[str, ...]
  fold_v: np.ndarray | None = None


class Rate(NamedTuple):
  """An error rate, and the errors behind it.

  Attributes:
    rate: 0.25 means 25 %.
    edits_k: int64, substitutions, deletions and insertions.
  """

  rate: float
  edits_k: np.ndarray


def _labels(hyps, refs, units):
  edits_k, total = error_rates.edits_by_kind(hyps, refs, units.fold_v)
  return Rate(float(edits_k.sum() / total), edits_k)


def _words(hyps, refs, units):
  words = error_rates.words(hyps, refs, units.symbols)
  return _labels(*words, Units(()))


# Each is a function of (hyps, refs, units): N integer sequences, as many
# references, and `Units`. It returns a `Rate`, and raises a ValueError as those
# of `error_rates` do.
METRICS = {'per': _labels, 'cer': _labels, 'ler': _labels, 'wer': _words}


def decides(units, targets='phones'):
  """Returns how the metric that decides on a corpus is called: 'LER'.

  Args:
    units: `Units`; of which some begin words (`error_rates.WORD_MARK` and
      something behind it) are sub-words, wherever they come from.
    targets: what transcripts are made of otherwise, a key of
      `error_rates.METRICS`.
  """
  mark = error_rates.WORD_MARK
  if targets == 'phones' and any(
    symbol.startswith(mark) and symbol != mark for symbol in units.symbols
  ):
    targets = 'sub-words'
  return error_rates.METRICS[targets]


def beside(metric, units):
  """Returns the names of the metrics that are told beside the one that decides.

  Args:
    metric: name of the one that decides.
    units: `Units`.
  """
  worded = error_rates.has_words(units.symbols)
  return ('wer',) if worded and metric != 'wer' else ()


def named(metric, decides, units, what='metric'):
  """Returns how a metric of networks that are still to be trained is called.

  Args:
    metric: its name, in lower or upper case; None for what decides.
    decides: how that is called: 'CER'.
    units: `Units`.
    what: how the error names what was given.

  Raises:
    ValueError: there will be no such metric; names those there are.
  """
  known = (decides.lower(), *beside(decides.lower(), units))
  if metric is not None and metric.lower() not in known:
    raise ValueError(
      f'{what}={metric}: networks on this corpus have {", ".join(known)}'
    )
  return decides if metric is None else metric.upper()
