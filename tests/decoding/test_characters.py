"""Tests of nasjax/decoding/characters.py against enumeration."""

import itertools

import numpy as np
import pytest

from nasjax.decoding import arpa, characters, words


def logprobs(frames, symbols, seed):
  logits_tv = np.random.default_rng(seed).normal(size=(frames, 1 + symbols))
  return logits_tv - np.log(np.exp(logits_tv).sum(1, keepdims=True))


def by_enumeration(logprobs_tv):
  """Returns the log probability of every sequence of labels."""
  frames, size = logprobs_tv.shape
  found = {}
  for path in itertools.product(range(size), repeat=frames):
    labels = tuple(v for v, _ in itertools.groupby(path) if v)
    score = logprobs_tv[np.arange(frames), path].sum()
    found[labels] = np.logaddexp(found.get(labels, -np.inf), score)
  return found


def test_the_best_and_their_probabilities():
  symbols = (' ', 'ก', 'é')
  logprobs_tv = logprobs(5, 3, 0)
  want = by_enumeration(logprobs_tv)
  best = sorted(want, key=want.get, reverse=True)
  found = characters.n_best(logprobs_tv, symbols, 200)
  assert [h.labels for h in found[:12]] == best[:12]
  np.testing.assert_allclose(
    [h.ctc for h in found[:12]], [want[labels] for labels in best[:12]]
  )


def test_rescoring_is_the_sum_at_the_head_of_the_file():
  symbols = (' ', 'a', 'b')
  logprobs_tv = logprobs(5, 3, 1)
  lm = characters.language_model([[2, 3, 1, 2], [2, 3, 3]], symbols)
  assert lm.order == 5
  names_v = characters.names(symbols)
  want = by_enumeration(logprobs_tv)
  score = {
    labels: ctc
    + 0.6 * arpa.log_prob(lm, [names_v[v - 1] for v in labels])
    + 0.5 * len(labels)
    for labels, ctc in want.items()
  }
  lists = [characters.n_best(logprobs_tv, symbols, 500)]
  fusion = words.Fusion(lm, 0.6, 0.5)
  assert characters.ranked(lists, fusion) == [max(score, key=score.get)]


def test_what_is_fitted_is_no_worse_than_no_model():
  symbols = ('a', 'b')
  refs = [np.array([1, 2, 1, 2]), np.array([1, 2])]
  lists = [
    characters.n_best(logprobs(6, 2, seed), symbols) for seed in range(2)
  ]
  lm = characters.language_model([[1, 2] * n for n in (1, 2, 3)], symbols)
  found = characters.fit(lists, refs, lm)
  plain = characters.rate([own[0].labels for own in lists], refs)
  assert found.rate < plain
  assert characters.rate(characters.ranked(lists, found.fusion), refs) == (
    pytest.approx(found.rate)
  )
