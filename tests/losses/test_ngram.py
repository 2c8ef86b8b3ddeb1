"""Tests of nasjax/losses/ngram.py against counting by hand and enumeration."""

import collections
import itertools
import math

import numpy as np
import pytest

from nasjax.losses import ngram


def transcripts(seed=0, sentences=30, symbols=5, longest=8):
  """Sentences in which some labels like to follow others."""
  rng = np.random.default_rng(seed)
  drawn = []
  for _ in range(sentences):
    labels = [int(rng.integers(1, symbols))]
    while len(labels) < rng.integers(1, longest + 1):
      step = int(rng.choice([1, 1, 1, 2, 3]))
      labels.append((labels[-1] + step) % (symbols - 1) + 1)
    drawn.append(np.array(labels))
  return drawn


def witten_bell(sentences, symbols, history, word):
  """The formula, by counting over again for each probability."""
  followers = collections.Counter()
  for labels in sentences:
    padded = (0,) * len(history) + tuple(labels) + (0,)
    for n in range(len(history), len(padded)):
      if padded[n - len(history) : n] == history:
        followers[padded[n]] += 1
  if history:
    lower = witten_bell(sentences, symbols, history[1:], word)
  else:
    lower = 1 / symbols
  kinds, total = len(followers), sum(followers.values())
  if not total:
    return lower
  return (followers[word] + kinds * lower) / (total + kinds)


def total_of_sentences(lm, symbols, longest):
  return sum(
    math.exp(ngram.log_prob(lm, np.array(labels, int)))
    for count in range(longest + 1)
    for labels in itertools.product(range(1, symbols), repeat=count)
  )


def by_all_ways(lm, labels):
  """Sums a sentence's probability over every choice to forget, in log space."""

  def ways(state, rest):
    total = 0.0
    if lm.escape_s[state]:
      total += lm.escape_s[state] * ways(lm.suffix_s[state], rest)
    if not rest:
      return total + lm.end_s[state]
    arcs = (lm.source_a == state) & (lm.symbol_a == rest[0])
    for arc in np.flatnonzero(arcs):
      total += lm.prob_a[arc] * ways(lm.target_a[arc], rest[1:])
    return total

  return ways(lm.start, tuple(labels))


@pytest.mark.parametrize('order', [1, 2, 3, 4])
def test_smoothed_probabilities_are_the_formula(order):
  sentences = transcripts()
  lm = ngram.estimate(sentences, 5, order, unique=False)
  assert lm.probs.shape == (5,) * order
  assert (lm.probs > 0).all()
  np.testing.assert_allclose(lm.probs.sum(axis=-1), 1.0, rtol=1e-12)
  rng = np.random.default_rng(1)
  for gram in rng.integers(0, 5, (40, order)).tolist():
    history = tuple(gram[:-1])
    # A start is no follower of a label, and the counts never hold one.
    if any(a and not b for a, b in zip(history, history[1:])):
      continue
    expected = witten_bell(sentences, 5, history, gram[-1])
    np.testing.assert_allclose(lm.probs[tuple(gram)], expected, rtol=1e-12)


def test_sentences_add_up_to_one():
  drawn = transcripts(symbols=3, longest=3)
  for lm in (
    ngram.estimate(drawn, 3, 3),
    ngram.estimate_pruned(drawn, 3, 4, extra_states=2),
    ngram.estimate_pruned(drawn, 3, 4, extra_states=2, smoothed=False),
  ):
    shares = [total_of_sentences(lm, 3, longest) for longest in (4, 10)]
    assert shares[0] < shares[1] < 1 + 1e-9
    # What is left falls off like a geometric series.
    assert 1 - shares[1] < 0.5 * (1 - shares[0])
    assert shares[1] > 0.8


@pytest.mark.parametrize('smoothed', [True, False])
@pytest.mark.parametrize('extra_states', [0, 7, 1000])
def test_every_state_of_a_pruned_model_adds_up_to_one(smoothed, extra_states):
  lm = ngram.estimate_pruned(
    transcripts(), 5, 4, extra_states, smoothed=smoothed
  )
  out_s = np.bincount(lm.source_a, lm.prob_a, len(lm.histories))
  np.testing.assert_allclose(out_s + lm.end_s + lm.escape_s, 1.0, rtol=1e-12)
  assert lm.histories[lm.start] == (0,)
  lengths = np.array([len(history) for history in lm.histories])
  forgets = lm.escape_s > 0
  assert (lengths[lm.suffix_s] < lengths)[forgets].all()
  assert (forgets == (lengths > 1)).all() if smoothed else not forgets.any()
  for source, label, target in zip(lm.source_a, lm.symbol_a, lm.target_a):
    grown = (*lm.histories[source], label)
    suffixes = [grown[n:] for n in range(len(grown))]
    known = [suffix for suffix in suffixes if suffix in lm.histories]
    assert lm.histories[target] == known[0]


def test_unpruned_and_unsmoothed_is_maximum_likelihood():
  sentences = transcripts()
  lm = ngram.estimate_pruned(
    sentences, 5, 3, extra_states=10**6, smoothed=False, unique=False
  )
  followers = collections.defaultdict(collections.Counter)
  for labels in sentences:
    padded = (0, *labels.tolist(), 0)
    for n in range(1, len(padded)):
      followers[padded[max(0, n - 2) : n]][padded[n]] += 1
  for labels in sentences[:10]:
    padded = (0, *labels.tolist(), 0)
    expected = 0.0
    for n in range(1, len(padded)):
      seen = followers[padded[max(0, n - 2) : n]]
      expected += math.log(seen[padded[n]] / sum(seen.values()))
    np.testing.assert_allclose(ngram.log_prob(lm, labels), expected, rtol=1e-10)
  unseen = [
    [u, v, w]
    for u, v in itertools.product(range(1, 5), repeat=2)
    for w in range(1, 5)
    if followers[0,][u] and followers[0, u][v] and not followers[u, v][w]
  ]
  assert unseen
  for labels in unseen:
    assert ngram.log_prob(lm, labels) == -math.inf


def test_hard_back_off_by_hand():
  # 2 is followed by 3 after 1, and by 1 or the end after 3. The trigram
  # histories cost likelihood when they are merged; one is left to be dropped.
  sentences = [[1, 2, 3], [1, 2, 3, 1], [3, 2, 1]]
  full = ngram.estimate_pruned(
    sentences, 4, 3, extra_states=100, unpruned_order=2, smoothed=False
  )
  assert set(full.histories) == {
    *((0,), (0, 1), (0, 3), (1, 2), (2, 3), (3, 1), (3, 2), (2, 1))
  }
  bare = ngram.estimate_pruned(
    sentences, 4, 3, extra_states=0, unpruned_order=2, smoothed=False
  )
  assert set(bare.histories) == {(0,), (1,), (2,), (3,)}
  # All counts of a label's longer histories came to it: of 2's three followers
  # two are 3.
  of_2 = bare.histories.index((2,))
  arcs = np.flatnonzero(bare.source_a == of_2)
  found = dict(zip(bare.symbol_a[arcs].tolist(), bare.prob_a[arcs].tolist()))
  assert found == pytest.approx({3: 2 / 3, 1: 1 / 3})
  some = ngram.estimate_pruned(
    sentences, 4, 3, extra_states=2, unpruned_order=2, smoothed=False
  )
  assert len(bare.histories) < len(some.histories) < len(full.histories)


def test_dropping_costs_little_likelihood_first():
  sentences = transcripts(sentences=60)
  scores, states = [], []
  for extra_states in (0, 5, 10, 20, 1000):
    lm = ngram.estimate_pruned(
      sentences, 5, 4, extra_states, smoothed=False, unique=False
    )
    scores.append(sum(ngram.log_prob(lm, labels) for labels in sentences))
    states.append(len(lm.histories))
  assert (np.diff(scores) > 0).all() and (np.diff(states) > 0).all()
  # The last states to be dropped are worth the most.
  worth = np.diff(scores) / np.diff(states)
  assert worth[0] > 2 * worth[-1]


@pytest.mark.parametrize('extra_states', [0, 6, 1000])
def test_score_of_a_pruned_model_sums_all_ways(extra_states):
  lm = ngram.estimate_pruned(transcripts(), 5, 4, extra_states)
  for labels in (*transcripts(3)[:8], np.array([4, 4, 4]), np.array([], int)):
    np.testing.assert_allclose(
      ngram.log_prob(lm, labels), math.log(by_all_ways(lm, labels)), rtol=1e-10
    )


def test_longer_histories_predict_better():
  seen, unseen = transcripts(0, 400), transcripts(1, 50)
  for held in (seen, unseen):
    scores = [
      sum(ngram.log_prob(lm, labels) for labels in held)
      for lm in (
        ngram.estimate(seen, 5, 1, unique=False),
        ngram.estimate(seen, 5, 2, unique=False),
      )
    ]
    assert scores[0] < scores[1]


def test_long_sentences_have_a_finite_score():
  labels = np.tile([1, 2, 3, 4], 500)
  drawn = transcripts()
  dense = ngram.log_prob(ngram.estimate(drawn, 5, 2), labels)
  sparse = ngram.log_prob(
    ngram.estimate_pruned(drawn, 5, 2, unpruned_order=2), labels
  )
  # One-symbol histories are never forgotten: the same model, laid out anew.
  np.testing.assert_allclose(sparse, dense, rtol=1e-10)
  assert dense < -800


def test_unique_counts_a_sentence_once():
  drawn = transcripts()
  for estimate in (ngram.estimate, ngram.estimate_pruned):
    once, twice = estimate(drawn, 5), estimate([*drawn, *drawn[:3]], 5)
    weighted = estimate([*drawn, *drawn[:3]], 5, unique=False)
    labels = drawn[0]
    assert ngram.log_prob(once, labels) == ngram.log_prob(twice, labels)
    assert ngram.log_prob(weighted, labels) > ngram.log_prob(once, labels)


def test_bad_arguments_are_named():
  drawn = transcripts()
  for bad, what in (
    ([], 'no transcripts'),
    ([[1, 5]], 'labels from 1 to 5'),
    ([[0, 1]], 'labels from 0 to 1'),
    ([[1.5]], 'float64'),
    ([[[1]]], r'shape \(1, 1\)'),
  ):
    for estimate in (ngram.estimate, ngram.estimate_pruned):
      with pytest.raises(ValueError, match=what):
        estimate(bad, 5)
  with pytest.raises(ValueError, match='order is 0'):
    ngram.estimate(drawn, 5, 0)
  with pytest.raises(ValueError, match='entries'):
    ngram.estimate(drawn, 2000, 3)
  with pytest.raises(ValueError, match='symbols is 1'):
    ngram.estimate([[]], 1)
  with pytest.raises(ValueError, match='unpruned_order 5'):
    ngram.estimate_pruned(drawn, 5, 4, unpruned_order=5)
  with pytest.raises(ValueError, match='extra_states is -1'):
    ngram.estimate_pruned(drawn, 5, extra_states=-1)
  with pytest.raises(ValueError, match='labels from 7'):
    ngram.log_prob(ngram.estimate(drawn, 5), [7])
