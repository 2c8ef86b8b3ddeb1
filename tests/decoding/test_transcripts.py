"""Transcripts for people: text, paths through labels, errors marked."""

import itertools

import numpy as np
import pytest

from nasjax.decoding import scripts, transcripts


@pytest.mark.parametrize(
  ('symbols', 'pieces', 'text'),
  [
    (('aa', 'b', 'sil x'), ('b', 'aa', 'sil x'), 'b aa sil_x'),
    ((' ', 'g', 'o', '|'), (' ', 'g', 'o', ' ', ' ', 'g', ' '), 'go g'),
    (('|', 'a', 'b|c'), ('a', '|', 'b|c', '|', '|', 'a'), 'a b|c a'),
    (('▁go', 'ing', '▁on', '▁'), ('▁go', 'ing', '▁on', '▁', 'ing'),
     'going on ing'),
    ((' ', 'a'), (), ''),
  ],
)  # fmt: skip
def test_words_are_spelt_where_units_know_of_them(symbols, pieces, text):
  labels = np.array([1 + symbols.index(piece) for piece in pieces], np.int32)
  assert transcripts.spelt(labels, symbols) == text


def _collapsed(path):
  return [v for v, _ in itertools.groupby(path) if v]


@pytest.mark.parametrize('labels', [[], [1], [1, 1], [2, 1, 2], [1, 1, 1]])
def test_the_best_path_is_that_of_enumeration(labels):
  rng = np.random.default_rng(len(labels))
  logprobs_tv = np.log(rng.dirichlet(np.ones(3), 4))
  paths = itertools.product(range(3), repeat=4)
  fitting = [path for path in paths if _collapsed(path) == labels]
  found = transcripts.best_path(logprobs_tv, np.array(labels, int))
  if not fitting:
    assert found is None
    return
  best = max(fitting, key=lambda path: logprobs_tv[range(4), path].sum())
  assert found.tolist() == list(best)


def test_no_frame_has_room_for_no_label():
  none_tv = np.zeros((0, 3))
  assert transcripts.best_path(none_tv, []).tolist() == []
  assert transcripts.best_path(none_tv, [1]) is None


def test_errors_stand_under_each_other():
  text = transcripts.side_by_side(
    ['a', 'bb', 'c', 'd'], ['a', 'x', 'c', 'd', 'ee']
  )
  assert text == ('spoken  a bb c d -\nheard   a x  c d ee\n          S      I')
  narrow = transcripts.side_by_side(['a', 'bb', 'c'], ['a', 'c'], 13)
  assert narrow == (
    'spoken  a bb\nheard   a -\n          D\n\nspoken  c\nheard   c\n'
  )
  assert transcripts.side_by_side([], []) == 'spoken\nheard\n'


def test_marks_and_letters_from_the_right_side_by_side():
  text = transcripts.side_by_side(['த', 'ி', 'x'], ['த', 'y'])
  spoken, heard, _ = text.split('\n')
  # A mark alone stands on a circle, which with it is two columns wide.
  assert (spoken, heard) == ('spoken  த ◌ி x', 'heard   த y  -')
  arabic = transcripts.side_by_side(['مرحبا', 'a'], ['a'])
  first = arabic.split('\n')[0]
  assert first == 'spoken  \u2068مرحبا\u2069 a'
  assert scripts.columns(first) == len('spoken  ') + 5 + 2
