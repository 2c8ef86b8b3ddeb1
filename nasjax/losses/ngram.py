"""N-gram language models of label sequences, estimated from transcripts.

`estimate` makes a smoothed model with a probability for everything, as a dense
table; `estimate_pruned` one that knows only some of the longer histories, as
states and arcs. Symbol 0 stands for the start of a sentence within a history,
and for its end as the next symbol: it is the blank of a network and no label.

Witten and Bell 1991, "The zero-frequency problem: estimating the probabilities
of novel events in adaptive text compression", method C, interpolated. Povey et
al. 2016, "Purely sequence-trained neural networks for ASR based on lattice-free
MMI", for hard back-off.
"""

import collections
import heapq
import math
from typing import NamedTuple

import numpy as np

# Entries of a dense table: 1 GiB in float64.
MAX_TABLE = 2**27


class Dense(NamedTuple):
  """A language model with every probability.

  Attributes:
    probs: float64, as many axes as the order and all as long as the
      vocabulary. probs[h1, .., w] is the probability of w after h1, ..: a
      history that is shorter than it could be begins with zeros, and w = 0 is
      the end.
  """

  probs: np.ndarray


class Pruned(NamedTuple):
  """A language model as a weighted automaton.

  A state is a history. In it a sentence ends, or a label is emitted along an
  arc, or the oldest symbols are forgotten, which takes no label: with
  probability escape_s the state changes to suffix_s. All of a state's
  probabilities add up to 1. A sentence's probability is the sum over all ways.

  Attributes:
    symbols: size of the vocabulary, with symbol 0.
    histories: of each state, oldest symbol first; a tuple of tuples.
    source_a, symbol_a, target_a: int32, state, label and next state of each
      arc.
    prob_a: float64.
    end_s: float64, the probability of the end.
    escape_s: float64; 0 throughout where there is no smoothing.
    suffix_s: int32; the state itself where nothing can be forgotten.
    start: the first state.
  """

  symbols: int
  histories: tuple[tuple[int, ...], ...]
  source_a: np.ndarray
  symbol_a: np.ndarray
  target_a: np.ndarray
  prob_a: np.ndarray
  end_s: np.ndarray
  escape_s: np.ndarray
  suffix_s: np.ndarray
  start: int


def estimate(transcripts, symbols, order=3, unique=True):
  """Estimates a smoothed n-gram model (interpolated Witten-Bell).

  p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), where c counts, t(h) is
  the number of different symbols seen after h, and h' is h without its oldest
  symbol; under the unigrams lies the uniform distribution. Nothing has
  probability 0.

  Args:
    transcripts: sequences of labels, integers from 1 to `symbols` - 1.
    symbols: size of the vocabulary, with symbol 0.
    order: n; 1 or more.
    unique: count a sentence once however often it occurs, as the recipes of
      CTC-CRF do (An et al. 2020, "CAT: A CTC-CRF based ASR toolkit").

  Returns:
    A `Dense`.

  Raises:
    ValueError: there are no transcripts, one holds what is no label, the order
      is below 1, or the table would be too large.
  """
  if order < 1:
    raise ValueError(f'order is {order}; it must be 1 or more')
  if symbols**order > MAX_TABLE:
    raise ValueError(
      f'a table of {symbols} symbols and order {order} would have '
      f'{symbols**order} entries, more than {MAX_TABLE}; lower the order or '
      'take estimate_pruned'
    )
  counts = np.zeros((symbols,) * order)
  for labels in _sentences(transcripts, symbols, unique):
    padded = np.array((0,) * (order - 1) + labels + (0,))
    grams = np.lib.stride_tricks.sliding_window_view(padded, order)
    np.add.at(counts, tuple(grams.T), 1)
  probs = np.full(symbols, 1 / symbols)
  for n in range(1, order + 1):
    of_order = counts.sum(axis=tuple(range(order - n)))
    kinds = (of_order > 0).sum(axis=-1, keepdims=True)
    total = of_order.sum(axis=-1, keepdims=True)
    smoothed = (of_order + kinds * probs) / np.maximum(total + kinds, 1)
    probs = np.where(total > 0, smoothed, probs)
  return Dense(probs)


def estimate_pruned(
  transcripts,
  symbols,
  order=4,
  extra_states=2000,
  unpruned_order=3,
  smoothed=True,
  unique=True,
):
  """Estimates an n-gram model that knows only some of its longer histories.

  Starts from all histories of `order` - 1 symbols and drops, one after the
  other, the one whose merging with its suffix costs the least likelihood, as
  the phone language models of Kaldi's lattice-free MMI. A history is kept
  where a step needs it to reach a longer one.

  Without smoothing the result is Kaldi's: maximum likelihood, with arcs only
  for what was seen (a dropped history's counts go to its suffix), so that a
  sentence may have probability 0. With it, a history's own counts leave as
  much as Witten and Bell do for forgetting its oldest symbols, down to one
  symbol, after which the smoothed bigram stands; that adds at most `symbols`
  squared arcs, and gives every sentence a probability.

  Args:
    transcripts: see `estimate`.
    symbols: see `estimate`.
    order: n; 2 or more.
    extra_states: states beyond as many as there are histories of
      `unpruned_order` - 1 symbols; fewer where all histories are fewer, more
      where none can be dropped.
    unpruned_order: from 2 to `order`; histories of so many symbols less one,
      and shorter ones, are never dropped.
    smoothed: see above.
    unique: see `estimate`.

  Returns:
    A `Pruned`.

  Raises:
    ValueError: there are no transcripts, one holds what is no label, the
      orders are out of order, or `extra_states` is negative.
  """
  if not 2 <= unpruned_order <= order:
    raise ValueError(
      f'order is {order} and unpruned_order {unpruned_order}; they must be '
      '2 <= unpruned_order <= order'
    )
  if extra_states < 0:
    raise ValueError(f'extra_states is {extra_states}; it must be 0 or more')
  sentences = _sentences(transcripts, symbols, unique)
  kept = _hard_back_off(
    _history_counts(sentences, order), unpruned_order, extra_states
  )
  if not smoothed:
    return _automaton(symbols, kept, {history: 0.0 for history in kept})
  bigrams = estimate(sentences, symbols, order=2, unique=False).probs
  rows = {(h,): dict(enumerate(bigrams[h])) for h in range(symbols)}
  escapes = {history: 0.0 for history in rows}
  for history, counts in _full_counts(sentences, kept).items():
    if len(history) > 1:
      escapes[history] = len(counts) / (sum(counts.values()) + len(counts))
      rows[history] = counts
  return _automaton(symbols, rows, escapes)


def log_prob(lm, labels):
  """Log probability of a whole sentence, its end included, in nats.

  Args:
    lm: a `Dense` or a `Pruned`.
    labels: integers from 1 to the vocabulary's size less one; may be none.

  Returns:
    A float; -inf where the model has no such sentence.

  Raises:
    ValueError: labels outside the vocabulary.
  """
  symbols = lm.probs.shape[0] if isinstance(lm, Dense) else lm.symbols
  labels = _checked(labels, symbols)
  if isinstance(lm, Dense):
    order = lm.probs.ndim
    padded = (0,) * (order - 1) + labels + (0,)
    grams = (padded[n : n + order] for n in range(len(labels) + 1))
    return float(sum(math.log(lm.probs[gram]) for gram in grams))
  mass_s = np.zeros(len(lm.histories))
  mass_s[lm.start] = 1.0
  total = 0.0
  lengths = np.array([len(history) for history in lm.histories])
  for label in (*labels, 0):
    for length in range(lengths.max(), 1, -1):
      here = np.flatnonzero(lengths == length)
      escaping = mass_s[here] * lm.escape_s[here]
      np.add.at(mass_s, lm.suffix_s[here], escaping)
    if label:
      arcs = np.flatnonzero(lm.symbol_a == label)
      flow_a = mass_s[lm.source_a[arcs]] * lm.prob_a[arcs]
      mass_s = np.bincount(lm.target_a[arcs], flow_a, len(lm.histories))
    else:
      mass_s = mass_s * lm.end_s
    # Scaled, for long sentences are less likely than any float.
    scale = mass_s.sum()
    if not scale:
      return -math.inf
    total += math.log(scale)
    mass_s /= scale
  return total


def _checked(labels, symbols):
  """Returns the labels as a tuple of integers."""
  array = np.asarray(labels)
  if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
    raise ValueError(
      f'a transcript has shape {array.shape} and type {array.dtype}; it must '
      'be a sequence of integers'
    )
  if array.size and not 1 <= array.min() <= array.max() < symbols:
    raise ValueError(
      f'a transcript has labels from {array.min()} to {array.max()}; they must '
      f'be from 1 to {symbols - 1}'
    )
  return tuple(array.tolist())


def _sentences(transcripts, symbols, unique):
  """Returns the transcripts as a sorted list of tuples."""
  if symbols < 2:
    raise ValueError(f'symbols is {symbols}; it must be 2 or more')
  sentences = [_checked(labels, symbols) for labels in transcripts]
  if not sentences:
    raise ValueError('there are no transcripts to estimate from')
  return sorted(set(sentences) if unique else sentences)


def _history_counts(sentences, order):
  """Counts what follows each history; those at a start are shorter."""
  counts = collections.defaultdict(collections.Counter)
  for labels in sentences:
    history = (0,)
    for label in labels:
      counts[history][label] += 1
      history = (*history, label)[1 - order :]
    counts[history][0] += 1
  return counts


def _full_counts(sentences, histories):
  """Counts what follows each of the histories, however long the context."""
  longest = max(map(len, histories))
  counts = collections.defaultdict(collections.Counter)
  for labels in sentences:
    padded = (0, *labels, 0)
    for n in range(1, len(padded)):
      for length in range(1, min(longest, n) + 1):
        history = padded[n - length : n]
        if history in histories:
          counts[history][padded[n]] += 1
  return counts


def _hard_back_off(counts, unpruned_order, extra_states):
  """Merges histories with their suffixes until few enough are left.

  Returns:
    What follows each history that is left, as counts of its own.
  """
  longer = collections.Counter()  # counts of the histories that end in this one
  for history in list(counts):
    total = sum(counts[history].values())
    while len(history) >= unpruned_order:
      history = history[1:]
      counts[history]  # a suffix may never have been seen on its own
      longer[history] += total
  basic = sum(len(history) == unpruned_order - 1 for history in counts)
  active = sum(bool(seen) for seen in counts.values())

  def allowed(history):
    if len(history) < unpruned_order or not counts[history]:
      return False
    steps = ((*history, label) for label in counts[history] if label)
    return not longer[history] and not any(
      counts.get(step) or longer[step] for step in steps
    )

  def cost(history):
    here, suffix = counts[history], counts[history[1:]]
    if not suffix:
      # It costs nothing; the rarest first.
      return 1e-15 * sum(here.values())
    merged = _log_likelihood(here + suffix)
    return _log_likelihood(here) + _log_likelihood(suffix) - merged

  progress = True
  while progress and active > basic + extra_states:
    progress = False
    queue = [(cost(h), h) for h in counts if allowed(h)]
    heapq.heapify(queue)
    while queue and active > basic + extra_states:
      before, history = heapq.heappop(queue)
      now = cost(history)
      if now > before + 1e-9:
        heapq.heappush(queue, (now, history))
        continue
      suffix = history[1:]
      active -= bool(counts[suffix])
      longer[suffix] -= sum(counts[history].values())
      counts[suffix] += counts[history]
      counts[history] = collections.Counter()
      progress = True
      if allowed(suffix):
        heapq.heappush(queue, (cost(suffix), suffix))
  return {history: seen for history, seen in counts.items() if seen}


def _log_likelihood(counts):
  values = np.fromiter(counts.values(), float)
  return (values * np.log(values / values.sum())).sum()


def _automaton(symbols, rows, escapes):
  """Numbers the histories and lays their arcs in arrays.

  Args:
    symbols: size of the vocabulary.
    rows: what follows each history: weights that are yet to be normalised.
    escapes: the share of each history that goes to forgetting.
  """
  histories = sorted(rows, key=lambda history: (history[-1], history))
  state = {history: s for s, history in enumerate(histories)}

  def longest_known(history):
    while history not in state:
      history = history[1:]
    return state[history]

  arcs, ends, suffixes = [], [], []
  for s, history in enumerate(histories):
    total = sum(rows[history].values()) / (1 - escapes[history])
    ends.append(rows[history].get(0, 0.0) / total)
    suffixes.append(longest_known(history[1:]) if escapes[history] else s)
    for label, weight in sorted(rows[history].items()):
      if label:
        target = longest_known((*history, label))
        arcs.append((s, label, target, weight / total))
  source_a, symbol_a, target_a, prob_a = zip(*arcs) if arcs else ((),) * 4
  return Pruned(
    symbols,
    tuple(histories),
    np.array(source_a, np.int32),
    np.array(symbol_a, np.int32),
    np.array(target_a, np.int32),
    np.array(prob_a, np.float64),
    np.array(ends, np.float64),
    np.array([escapes[history] for history in histories], np.float64),
    np.array(suffixes, np.int32),
    longest_known((0,)),
  )
