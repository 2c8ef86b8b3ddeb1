"""Tests of nasjax/decoding/ctc.py against slow searches over dictionaries."""

import collections
import itertools
import math

import jax
import numpy as np
import pytest

from nasjax import decoding
from nasjax.decoding import ctc


def log_softmax(logits_tv):
  logits_tv = np.asarray(logits_tv, np.float64)
  return logits_tv - np.logaddexp.reduce(logits_tv, axis=-1, keepdims=True)


def collapse(path, blank=0):
  return tuple(int(v) for v, _ in itertools.groupby(path) if v != blank)


def logaddexp(a, b):
  """NumPy's takes three times as long on single numbers."""
  high, low = max(a, b), min(a, b)
  return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def beam_by_dictionary(logits_tv, width, blank=0):
  """Prefix beam search over all extensions, prefixes being tuples.

  Returns:
    The best prefix, its log probability, and how often a prefix came back into
    the beam while a prefix that begins with it was still there.
  """
  beam = [((), 0.0, -math.inf)]
  returned = 0
  for logprobs_v in log_softmax(logits_tv).tolist():
    symbols = [v for v in range(len(logprobs_v)) if v != blank]
    symbols.sort(key=lambda v: (-logprobs_v[v], v))
    by_blank = collections.defaultdict(lambda: -math.inf)
    by_label = collections.defaultdict(lambda: -math.inf)
    order = {}
    for rank, (prefix, _, _) in enumerate(beam):
      order[prefix] = (0, rank, 0)
    for rank, (prefix, blank_score, label_score) in enumerate(beam):
      either = logaddexp(blank_score, label_score)
      by_blank[prefix] = logaddexp(by_blank[prefix], either + logprobs_v[blank])
      if prefix:
        by_label[prefix] = logaddexp(
          by_label[prefix], label_score + logprobs_v[prefix[-1]]
        )
      for place, v in enumerate(symbols):
        before = blank_score if prefix and prefix[-1] == v else either
        longer = (*prefix, v)
        by_label[longer] = logaddexp(by_label[longer], before + logprobs_v[v])
        order.setdefault(longer, (1, rank, place))
    score = {p: logaddexp(by_blank[p], by_label[p]) for p in order}
    kept = sorted(order, key=lambda p: (-score[p], order[p]))[:width]
    kept = [p for p in kept if score[p] > -math.inf]
    old = {p for p, _, _ in beam}
    returned += sum(
      p not in old and any(q[: len(p)] == p for q in old & set(kept))
      for p in kept
    )
    beam = [(p, by_blank[p], by_label[p]) for p in kept]
  prefix, blank_score, label_score = beam[0]
  return prefix, logaddexp(blank_score, label_score), returned


def best_by_enumeration(logits_tv):
  logprobs_tv = log_softmax(logits_tv)
  frames, vocabulary = logprobs_tv.shape
  score = collections.defaultdict(lambda: -np.inf)
  for path in itertools.product(range(vocabulary), repeat=frames):
    labels = collapse(path)
    score[labels] = np.logaddexp(
      score[labels], logprobs_tv[np.arange(frames), path].sum()
    )
  return max(score.items(), key=lambda item: item[1])


def transcripts(labels_bu, label_len_b, blank=0):
  """As tuples, after checking what fills the rows."""
  labels_bu, label_len_b = np.asarray(labels_bu), np.asarray(label_len_b)
  assert labels_bu.dtype == np.int32 and label_len_b.dtype == np.int32
  beyond_bu = np.arange(labels_bu.shape[1]) >= label_len_b[:, None]
  assert (labels_bu[beyond_bu] == blank).all()
  assert (labels_bu[~beyond_bu] != blank).all()
  return [
    tuple(row[:count].tolist()) for row, count in zip(labels_bu, label_len_b)
  ]


def example(seed=0, batch=16, frames=10, vocabulary=20):
  """Utterances from almost uniform to nearly certain, many with repeats."""
  rng = np.random.default_rng(seed)
  logits_btv = rng.normal(size=(batch, frames, vocabulary))
  logits_btv *= np.geomspace(0.3, 12, batch)[:, None, None]
  # Few labels compete, so that prefixes meet, leave and return.
  logits_btv[::2, :, 4:] -= 8
  # Runs of one label, some with a blank between.
  logits_btv[1::4, :, 3] += 5
  logits_btv[1::4, ::3, 0] += 8
  len_b = rng.integers(frames // 2, frames + 1, batch)
  len_b[:4] = [0, 1, frames, frames]
  return logits_btv.astype(np.float32), len_b.astype(np.int32)


@pytest.mark.parametrize('width', [1, 2, 3, 12, 100])
def test_beam_search_equals_the_dictionary(width):
  logits_btv, len_b = example()
  labels_bu, label_len_b, score_b = decoding.beam_search(
    logits_btv, len_b, width
  )
  expected = [
    beam_by_dictionary(logits_tv[:frames], width)
    for logits_tv, frames in zip(logits_btv, len_b)
  ]
  assert transcripts(labels_bu, label_len_b) == [e[0] for e in expected]
  np.testing.assert_allclose(score_b, [e[1] for e in expected], atol=3e-5)


@pytest.mark.parametrize('vocabulary, width', [(2, 3), (3, 8), (6, 5)])
def test_small_vocabularies_equal_the_dictionary(vocabulary, width):
  rng = np.random.default_rng(vocabulary)
  logits_btv = rng.normal(size=(60, 14, vocabulary)).astype(np.float32) * 3
  labels_bu, label_len_b, score_b = decoding.beam_search(
    logits_btv, np.full(60, 14), width
  )
  expected = [beam_by_dictionary(logits_tv, width) for logits_tv in logits_btv]
  assert transcripts(labels_bu, label_len_b) == [e[0] for e in expected]
  np.testing.assert_allclose(score_b, [e[1] for e in expected], atol=3e-5)
  if vocabulary == 3:
    # Prefixes did come back while longer ones were still there.
    assert sum(e[2] for e in expected) > 20


def test_a_wide_beam_finds_the_best_of_all_transcripts():
  rng = np.random.default_rng(1)
  logits_btv = rng.normal(size=(30, 5, 3)).astype(np.float32)
  labels_bu, label_len_b, score_b = decoding.beam_search(
    logits_btv, np.full(30, 5), 64
  )
  expected = [best_by_enumeration(logits_tv) for logits_tv in logits_btv]
  assert transcripts(labels_bu, label_len_b) == [e[0] for e in expected]
  np.testing.assert_allclose(score_b, [e[1] for e in expected], atol=1e-5)
  # Greedy search would not do.
  greedy = transcripts(*decoding.greedy(logits_btv, np.full(30, 5)))
  assert greedy != [e[0] for e in expected]


def test_equal_scores_go_by_the_stated_rule():
  logits_btv, len_b = example()
  logits_btv[:4] = 0.0
  logits_btv[1, 0, 5:7] = 3.0
  logits_btv[2, :, 0] = -9.0
  logits_btv[3, :, 0] = -np.inf
  len_b[:4] = [1, 1, 2, 1]
  labels_bu, label_len_b, _ = decoding.beam_search(logits_btv, len_b, 2)
  # No label before any; the lower label; of the two lowest, both kept, the
  # lower again; a label where there must be one.
  assert transcripts(labels_bu, label_len_b)[:4] == [(), (5,), (1,), (1,)]


def test_frames_beyond_the_length_change_nothing():
  logits_btv, len_b = example()
  beyond_bt = np.arange(10)[None] >= len_b[:, None]
  garbage_btv = logits_btv.copy()
  garbage_btv[beyond_bt] = np.nan
  for decode in (
    lambda x: decoding.beam_search(x, len_b, 3),
    lambda x: decoding.greedy(x, len_b),
  ):
    for clean, dirty in zip(decode(logits_btv), decode(garbage_btv)):
      np.testing.assert_array_equal(clean, dirty)


def test_vmap_over_members_equals_the_loop():
  logits_btv, len_b = example()
  logits_pbtv = np.stack([logits_btv, logits_btv[::-1], -logits_btv])
  for decode in (
    lambda x: decoding.beam_search(x, len_b, 3),
    lambda x: decoding.greedy(x, len_b),
  ):
    mapped = jax.jit(jax.vmap(decode))(logits_pbtv)
    for p, logits_btv in enumerate(logits_pbtv):
      alone = decode(logits_btv)
      for x, y in zip(mapped[:2], alone[:2]):
        np.testing.assert_array_equal(x[p], y)
      for x, y in zip(mapped[2:], alone[2:]):
        np.testing.assert_allclose(x[p], y, rtol=1e-6, atol=1e-6)


def test_an_utterance_with_nan_has_no_labels_and_leaves_the_others_alone():
  logits_btv, len_b = example()
  clean = decoding.beam_search(logits_btv, len_b, 3)
  clean_greedy = decoding.greedy(logits_btv, len_b)
  # A copy: what was asked before may still be reading the first array.
  logits_btv = logits_btv.copy()
  logits_btv[5, 2, 7] = np.nan
  labels_bu, label_len_b, score_b = decoding.beam_search(logits_btv, len_b, 3)
  greedy_bt, greedy_len_b = decoding.greedy(logits_btv, len_b)
  assert clean[1][5] > 0 and label_len_b[5] == 0 and np.isnan(score_b[5])
  assert clean_greedy[1][5] > 0 and greedy_len_b[5] == 0
  others = np.arange(16) != 5
  np.testing.assert_array_equal(labels_bu[others], clean[0][others])
  np.testing.assert_array_equal(score_b[others], clean[2][others])
  np.testing.assert_array_equal(greedy_bt[others], clean_greedy[0][others])


def test_labels_of_no_probability_are_never_found():
  logits_btv, len_b = example()
  rng = np.random.default_rng(2)
  logits_btv[rng.random(logits_btv.shape) < 0.7] = -np.inf
  # In every frame something is possible.
  logits_btv[:, :, 2] = 0.0
  labels_bu, label_len_b, score_b = decoding.beam_search(logits_btv, len_b, 12)
  expected = [
    beam_by_dictionary(logits_tv[:frames], 12)
    for logits_tv, frames in zip(logits_btv, len_b)
  ]
  assert transcripts(labels_bu, label_len_b) == [e[0] for e in expected]
  np.testing.assert_allclose(score_b, [e[1] for e in expected], atol=3e-5)


def test_another_blank_and_fewer_columns():
  logits_btv, len_b = example()
  labels_bu, label_len_b, score_b = decoding.beam_search(logits_btv, len_b, 3)
  expected = transcripts(labels_bu, label_len_b)
  # Symbol v becomes v - 1, and the blank becomes 19.
  rolled_btv = np.roll(logits_btv, -1, axis=2)
  labels_bu, label_len_b, rolled_score_b = decoding.beam_search(
    rolled_btv, len_b, 3, blank=19, max_labels=4
  )
  assert labels_bu.shape == (16, 4)
  assert max(map(len, expected)) > 4
  assert transcripts(labels_bu, label_len_b, blank=19) == [
    tuple(v - 1 for v in labels[:4]) for labels in expected
  ]
  np.testing.assert_allclose(rolled_score_b, score_b, rtol=1e-5, atol=1e-6)


def test_a_vocabulary_of_the_blank_alone_and_no_frames():
  labels_bu, label_len_b, score_b = decoding.beam_search(
    np.ones((2, 3, 1)), np.array([3, 2]), 4
  )
  assert transcripts(labels_bu, label_len_b) == [(), ()]
  np.testing.assert_array_equal(score_b, [0.0, 0.0])
  labels_bu, label_len_b, score_b = decoding.beam_search(
    np.ones((2, 0, 5)), np.array([0, 0]), 4
  )
  assert transcripts(labels_bu, label_len_b) == [(), ()]
  np.testing.assert_array_equal(score_b, [0.0, 0.0])


@pytest.mark.parametrize('blank', [0, 2])
def test_greedy_merges_the_best_path(blank):
  rng = np.random.default_rng(4)
  logits_btv = rng.normal(size=(30, 12, 4)).astype(np.float32)
  len_b = rng.integers(0, 13, 30)
  labels_bt, label_len_b = decoding.greedy(logits_btv, len_b, blank=blank)
  expected = [
    collapse(logits_tv[:frames].argmax(axis=1), blank)
    for logits_tv, frames in zip(logits_btv, len_b)
  ]
  assert transcripts(labels_bt, label_len_b, blank) == expected
  assert any(a == b for labels in expected for a, b in zip(labels, labels[1:]))


def test_different_prefixes_have_different_hashes():
  prefixes = np.array(list(itertools.product(range(12), repeat=5)))
  hash_iwb = np.zeros((2, 1, len(prefixes)), np.uint32)
  append = jax.jit(ctc._hash_append)
  for symbol_b in prefixes.T:
    hash_iwb = append(hash_iwb, symbol_b[None].astype(np.int32))
  words = np.asarray(hash_iwb)[:, 0].astype(np.uint64)
  assert len(np.unique(words[0] << np.uint64(32) | words[1])) == len(prefixes)
  # Each word alone as well, but for the seven pairs that chance allows.
  for word in words:
    assert len(np.unique(word)) >= len(prefixes) - 20


def test_bad_arguments_are_named():
  logits_btv, len_b = example()
  with pytest.raises(ValueError, match='width is 0'):
    decoding.beam_search(logits_btv, len_b, 0)
  with pytest.raises(ValueError, match='max_labels is -1'):
    decoding.beam_search(logits_btv, len_b, max_labels=-1)
  with pytest.raises(ValueError, match='blank is 20'):
    decoding.beam_search(logits_btv, len_b, blank=20)
  with pytest.raises(ValueError, match='shapes of logits'):
    decoding.greedy(logits_btv[0], len_b)
  with pytest.raises(ValueError, match='shapes of logits'):
    decoding.greedy(logits_btv, len_b[:3])
