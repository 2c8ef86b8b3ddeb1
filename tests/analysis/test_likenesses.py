"""Tests of nasjax/analysis/likenesses.py on planted graphs."""

import numpy as np
import pytest

from nasjax.analysis import likenesses


def graphs(rng, languages, seeds, own):
  """Draws graphs; with `own` those of a language have one pattern in common."""
  found, labels = [], []
  for language in range(languages):
    pattern_ek = rng.normal(size=(15, 7))
    for _ in range(seeds):
      logits_ek = own * pattern_ek + rng.normal(size=(15, 7))
      p_ek = np.exp(logits_ek)
      found.append(p_ek / p_ek.sum(-1, keepdims=True))
      labels.append(str(language))
  return np.stack(found), labels


def test_numbers_by_hand():
  p_gek = np.zeros((2, 2, 3))
  p_gek[0] = [[1, 0, 0], [0.5, 0.5, 0]]
  p_gek[1] = [[1, 0, 0], [0.2, 0.3, 0.5]]
  found = likenesses.likeness(p_gek, ['a', 'b'], draws=50)
  assert found.matrix_gg[0, 1] == pytest.approx((1 + 0.5) / 2)
  assert found.same_gg[0, 1] == 0.5
  assert found.within is None and found.between.value == pytest.approx(0.75)
  alone = likenesses.likeness(p_gek, ['a', 'a'])
  assert alone.between is None and alone.within is None


def test_what_is_planted_is_found():
  p_gek, labels = graphs(np.random.default_rng(0), 4, 3, own=2.0)
  found = likenesses.likeness(p_gek, labels, draws=300)
  assert found.within.value > 0.1 and found.within.p < 0.01
  assert found.within.low < 0 < found.within.high < found.within.value
  # One pattern for all languages: alike between them, and not more within.
  rng = np.random.default_rng(1)
  p_gek, _ = graphs(rng, 1, 12, own=2.0)
  found = likenesses.likeness(p_gek, labels, draws=300)
  assert found.between.p < 0.01 and found.between.value > found.between.high
  assert found.within.p > 0.05


def test_chance_is_seldom_taken_for_more():
  rng = np.random.default_rng(2)
  p_n = [
    likenesses.likeness(*graphs(rng, 2, 2, own=0.0), 100, n).between.p
    for n in range(40)
  ]
  # At a level of 5 %, two of 40 are expected; nine or more are not (p < 1e-3).
  assert sum(p <= 0.05 for p in p_n) < 9


def test_what_are_no_graphs():
  p_gek = np.full((3, 2, 2), 0.5)
  with pytest.raises(ValueError, match='with 2 labels'):
    likenesses.likeness(p_gek, ['a', 'b'])
  with pytest.raises(ValueError, match='add up to 1'):
    likenesses.likeness(2 * p_gek, ['a', 'b', 'c'])
