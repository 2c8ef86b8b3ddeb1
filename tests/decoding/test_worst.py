"""Tests of nasjax/decoding/worst.py: jiwer's counts beside our own."""

import sys

import numpy as np
import pytest

from nasjax.decoding import error_rates, worst

pytest.importorskip('jiwer', reason="pip install '.[words]'")
REFERENCES = [line.split() for line in ('a b c d', 'a b', 'c', 'd d', '')]
HEARD = [line.split() for line in ('a x d e', 'a b', '', 'd d d d d', 'b')]


def test_errors_and_the_worst():
  found = worst.utterances(REFERENCES, HEARD)
  assert [u.errors.total for u in found] == [3, 0, 1, 3, 1]
  assert found[0].alignment[0] == ('equal', ('a',), ('a',))
  assert found[2].alignment == (('delete', ('c',), ()),)
  ranked = worst.worst(found, 3)
  assert [u.index for u in ranked] == [4, 3, 2]
  assert ranked[0].errors.rate == float('inf')
  assert ranked[1].errors == (0, 0, 3, 2) and ranked[1].errors.rate == 1.5
  assert len(worst.worst(found, 100)) == 5
  lines = found[0].text().splitlines()
  assert lines[0].split() == ['spoken', *'abcd', '-'] or 'a' in lines[0]
  assert lines[2].split() and set(lines[2].split()) <= {'S', 'D', 'I'}


def test_jiwer_counts_what_we_count():
  rng = np.random.default_rng(0)
  words = np.array(list('abcdef'))
  ids = {word: i for i, word in enumerate(words)}
  pairs = [
    [words[rng.integers(0, 6, rng.integers(1, 12))].tolist() for _ in range(2)]
    for _ in range(50)
  ]
  references, heard = zip(*pairs)
  numbered = [
    [[ids[w] for w in s] for s in side] for side in (heard, references)
  ]
  edits_k, of = error_rates.edits_by_kind(*numbered)
  found = worst.total(worst.utterances(references, heard))
  assert found.of == of and found.total == edits_k.sum()
  assert found.deletions - found.insertions == edits_k[1] - edits_k[2]


def test_what_cannot_be_compared(monkeypatch):
  assert worst.utterances([], []) == []
  with pytest.raises(ValueError, match='1 transcripts for 2 references'):
    worst.utterances([['a'], ['b']], [['a']])
  monkeypatch.setitem(sys.modules, 'jiwer', None)
  with pytest.raises(ValueError, match=r"'\.\[words\]'"):
    worst.utterances([['a']], [['a']])
