"""Tests of nasjax/decoding/error_rates.py against a plain dynamic programme."""

import json

import numpy as np
import pytest

from nasjax.data import checks
from nasjax.decoding import error_rates


def distance_by_table(hyp, ref):
  table = np.zeros((len(hyp) + 1, len(ref) + 1), int)
  table[:, 0] = np.arange(len(hyp) + 1)
  table[0, :] = np.arange(len(ref) + 1)
  for i, a in enumerate(hyp):
    for j, b in enumerate(ref):
      table[i + 1, j + 1] = min(
        table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a != b)
      )
  return table[-1, -1]


def random_corpus(rng, utterances, symbols, longest=9):
  return [
    rng.integers(1, symbols, rng.integers(0, longest + 1)).tolist()
    for _ in range(utterances)
  ]


def pad(corpus, width, filler):
  labels_nu = np.full((len(corpus), width), filler)
  for row, labels in zip(labels_nu, corpus):
    row[: len(labels)] = labels
  return labels_nu, np.array([len(labels) for labels in corpus])


@pytest.mark.parametrize('symbols', [2, 5, 300])
def test_edits_equal_the_table(symbols):
  rng = np.random.default_rng(symbols)
  hyps = random_corpus(rng, 60, symbols)
  refs = random_corpus(rng, 60, symbols)
  edits_n = error_rates.edits(hyps, refs)
  assert edits_n.dtype == np.int64
  expected = [distance_by_table(*pair) for pair in zip(hyps, refs)]
  np.testing.assert_array_equal(edits_n, expected)


def test_edits_of_any_integer_type_and_any_label():
  # 0xD83D and 0xDE00 would be one character if they were taken for UTF-16.
  hyps = [[0, 5], (0xD83D, 0xDE00), np.array([7], np.int8), [0x10FFFF], []]
  refs = [[5], [0xD83D], [7], [0x10FFFE], np.array([3, 3], np.uint16)]
  np.testing.assert_array_equal(error_rates.edits(hyps, refs), [1, 1, 0, 1, 2])
  assert error_rates.edits([], []).shape == (0,)


def test_fold_deletes_classes_below_one_and_merges_nothing():
  fold_v = np.array([0, 4, 4, -1, 2])
  folded = error_rates.fold([1, 2, 3, 4, 0, 4], fold_v)
  assert folded.dtype == np.int64
  np.testing.assert_array_equal(folded, [4, 4, 2, 2])
  assert error_rates.fold([], fold_v).size == 0


def test_errors_by_kind():
  refs = [[1, 2, 3], [4, 4], [5]]
  said = [
    # A substitution and a deletion; two insertions; all right.
    [[1, 9], [4, 7, 4, 7], [5]],
    [[], [], []],
    [[2, 3, 3, 3], [4, 4], [6]],
  ]
  labels_pnu, len_pn = (
    np.stack(values) for values in zip(*(pad(hyps, 5, 7) for hyps in said))
  )
  edits_pk, total = error_rates.population_edits(labels_pnu, len_pn, refs)
  assert total == 6 and edits_pk.dtype == np.int64
  np.testing.assert_array_equal(edits_pk[:2], [[1, 1, 2], [0, 6, 0]])
  # Delete 1 and insert two, or substitute one more: as few, as 'per' has them.
  assert edits_pk[2].sum() == 4
  rng = np.random.default_rng(0)
  fold_v = np.array([0, 1, 1, 2, 3, 0, 4])
  refs = random_corpus(rng, 40, 7)
  hyps = [random_corpus(rng, 40, 7) for _ in range(3)]
  labels_pnu, len_pn = (
    np.stack(values) for values in zip(*(pad(one, 9, 3) for one in hyps))
  )
  found = error_rates.population_edits(labels_pnu, len_pn, refs, fold_v)
  per_p = error_rates.population_per(labels_pnu, len_pn, refs, fold_v)
  np.testing.assert_array_equal(found[0].sum(1) / found[1], per_p)
  # What is added and what is left out make up for the lengths.
  kept = [
    sum(len(error_rates.fold(labels, fold_v)) for labels in one) for one in hyps
  ]
  _, deleted_p, inserted_p = found[0].T
  np.testing.assert_array_equal(found[1] - deleted_p + inserted_p, kept)


def test_per_is_total_edits_over_total_length():
  hyps, refs = [[1, 2, 3, 4], []], [[1, 2, 3, 5], [9, 9]]
  # Not the mean of 1/4 and 2/2.
  assert error_rates.per(hyps, refs) == 0.5
  assert error_rates.per([[1, 2, 3]], [[4]]) == 3.0
  assert isinstance(error_rates.per(hyps, refs), float)


def test_per_folds_both_sides_before_scoring():
  rng = np.random.default_rng(0)
  hyps, refs = random_corpus(rng, 40, 12), random_corpus(rng, 40, 12)
  fold_v = np.array([0, 1, 1, 2, 3, 3, 0, 4, 5, -1, 5, 2])
  slow = [
    [[fold_v[x] for x in labels if fold_v[x] > 0] for labels in corpus]
    for corpus in (hyps, refs)
  ]
  edits = sum(distance_by_table(*pair) for pair in zip(*slow))
  expected = edits / sum(map(len, slow[1]))
  assert error_rates.per(hyps, refs, fold_v) == expected
  folded = [[error_rates.fold(x, fold_v) for x in c] for c in (hyps, refs)]
  assert error_rates.per(*folded) == expected


def test_population_per_equals_per_of_each_member():
  rng = np.random.default_rng(1)
  refs = random_corpus(rng, 50, 12)
  members = [random_corpus(rng, 50, 12) for _ in range(3)]
  # What fills the rows would count if it were read, and has no class.
  padded = [pad(hyps, 11, filler) for hyps, filler in zip(members, (1, 99, -7))]
  labels_pnu, len_pn = map(np.stack, zip(*padded))
  for fold_v in (None, np.array([0, 1, 1, 2, 3, 3, 0, 4, 5, -1, 5, 2])):
    per_p = error_rates.population_per(labels_pnu, len_pn, refs, fold_v)
    assert per_p.dtype == np.float64
    expected = [error_rates.per(hyps, refs, fold_v) for hyps in members]
    np.testing.assert_array_equal(per_p, expected)
  assert len(set(expected)) == 3


SYMBOLS = tuple("' AB")  # sorted, as a corpus has them; the space has id 2


def ids(text, symbols=SYMBOLS):
  return [symbols.index(character) + 1 for character in text]


def slow_wer(hyps, refs):
  """Of texts: words numbered by one list, and the plain table."""
  words = sorted({w for text in (*hyps, *refs) for w in text.split()})
  numbered = [
    [[words.index(w) for w in text.split()] for text in corpus]
    for corpus in (hyps, refs)
  ]
  edits = sum(distance_by_table(*pair) for pair in zip(*numbered))
  return edits / sum(map(len, numbered[1]))


def test_wer_is_word_edits_over_words():
  refs = ["AB A B'A", 'B']
  hyps = ["AB AB B'A A", 'B']  # one word wrong, one too many, of four
  found = error_rates.wer(*(list(map(ids, c)) for c in (hyps, refs)), SYMBOLS)
  assert found == 0.5 and isinstance(found, float)
  # A letter more is as wrong as any other word, and no word is half right.
  assert error_rates.wer([ids('AAAAB')], [ids('AAAA')], SYMBOLS) == 1
  assert error_rates.wer([ids('A B A')], [ids('AB')], SYMBOLS) == 3
  assert error_rates.wer([[]], [ids('AB A')], SYMBOLS) == 1
  # The corpus counts, not the mean of 1/1 and 0/3.
  hyps, refs = ['A', 'A B A'], ['B', 'A B A']
  found = error_rates.wer(*(list(map(ids, c)) for c in (hyps, refs)), SYMBOLS)
  assert found == 0.25


def test_wer_equals_the_slow_one_on_any_text():
  rng = np.random.default_rng(3)
  hyps, refs = (
    [
      ''.join(rng.choice(SYMBOLS, rng.integers(0, 25), p=[0.1, 0.4, 0.3, 0.2]))
      for _ in range(60)
    ]
    for _ in range(2)
  )
  # Spaces at either end, and several together, make no words.
  assert any(text.startswith(' ') for text in hyps)
  assert any('  ' in text for text in refs) and '' in hyps + refs
  hyp_ids = [np.array(ids(text), np.int32) for text in hyps]
  found = error_rates.wer(hyp_ids, list(map(ids, refs)), SYMBOLS)
  assert found == slow_wer(hyps, refs)
  assert found != error_rates.per(hyp_ids, list(map(ids, refs)))
  # Renaming the ids, the space being another, changes nothing.
  for symbols in (tuple(" 'AB"), tuple("BA' "), ('unused', *"BA' ", '\ud83d')):
    renamed = [[ids(t, symbols) for t in corpus] for corpus in (hyps, refs)]
    assert error_rates.wer(*renamed, symbols) == found


def test_words_of_a_manifest_are_those_of_its_text(tmp_path):
  """The space is the symbol that `checks` puts between words."""
  spoken = ['go  on', ' stop\tit ', 'na\u0131ve cafe\u0301']
  heard = ['go gone', 'stop it', 'na\u0131ve caf\xe9 on']
  for name, lines in (('ref', spoken), ('hyp', heard)):
    (tmp_path / f'{name}.jsonl').write_text(
      '\n'.join(
        json.dumps({'audio_filepath': f'{n}.wav', 'duration': 1, 'text': text})
        for n, text in enumerate(lines)
      )
    )
  refs, hyps = (
    [
      u.tokens
      for u in checks.parse(tmp_path / f'{name}.jsonl', 'characters')[0]
    ]
    for name in ('ref', 'hyp')
  )
  symbols = tuple(sorted({token for tokens in hyps + refs for token in tokens}))
  labels = [[ids(t, symbols) for t in corpus] for corpus in (hyps, refs)]
  assert error_rates.wer(*labels, symbols) == 2 / 6


PIECES = ('\u2581a', 'b', 'ab', '\u2581', '\u2581b')


def spelt(text, rng, symbols=PIECES):
  """Cuts a text into sub-words at random; returns their ids."""
  rest, found = ''.join('\u2581' + word for word in text.split()), []
  while rest:
    fitting = [s for s in symbols if rest.startswith(s)]
    found.append(symbols.index(rng.choice(fitting)) + 1)
    rest = rest[len(symbols[found[-1] - 1]) :]
  return found


def test_words_of_sub_words_are_what_they_spell():
  rng = np.random.default_rng(5)
  symbols = (*PIECES, 'a')
  hyps, refs = (
    [''.join(rng.choice(list('ab '), 12, p=[0.4, 0.4, 0.2])) for _ in range(40)]
    for _ in range(2)
  )
  labels = [[spelt(t, rng, symbols) for t in corpus] for corpus in (hyps, refs)]
  assert error_rates.wer(*labels, symbols) == slow_wer(hyps, refs)
  again = [spelt(t, rng, symbols) for t in refs]
  assert again != labels[1]
  assert error_rates.wer(again, labels[1], symbols) == 0
  # What stands before the first mark is a word, too.
  assert error_rates.wer([[2, 1]], [[5, 1]], PIECES) == 0
  assert error_rates.has_words(PIECES) and error_rates.has_words(SYMBOLS)
  assert not error_rates.has_words(('aa', 'b', 'k'))


def test_wer_without_words_is_refused():
  with pytest.raises(ValueError, match='0 of 3 symbols are spaces.*characters'):
    error_rates.wer([[1]], [[1]], ('aa', 'b', 'k'))
  with pytest.raises(ValueError, match='2 of 3 symbols are spaces'):
    error_rates.wer([[1]], [[1]], (' ', 'a', ' '))
  for nothing in ([], ids('   ')):
    with pytest.raises(ValueError, match='no word'):
      error_rates.wer([ids('A')], [nothing], SYMBOLS)
  with pytest.raises(ValueError, match='no word'):
    error_rates.wer([], [], SYMBOLS)
  with pytest.raises(ValueError, match='1 hypotheses for 2 references'):
    error_rates.wer([[1]], [[1], [1]], SYMBOLS)
  for bad in (0, 5, -1):
    with pytest.raises(ValueError, match='symbols have the ids 1 to 4'):
      error_rates.wer([[3, bad]], [[3]], SYMBOLS)
    with pytest.raises(ValueError, match='symbols have the ids 1 to 4'):
      error_rates.wer([[3]], [[3, bad]], SYMBOLS)
  with pytest.raises(ValueError, match='float64'):
    error_rates.wer([[0.5]], [[1]], SYMBOLS)


def test_unpad_cuts_rows():
  rows = error_rates.unpad(np.arange(6).reshape(2, 3), np.array([0, 2]))
  assert [row.tolist() for row in rows] == [[], [3, 4]]


def test_a_corpus_without_reference_labels_has_no_rate():
  with pytest.raises(ValueError, match='no label'):
    error_rates.per([], [])
  with pytest.raises(ValueError, match='no label'):
    error_rates.per([[1]], [[]])
  with pytest.raises(ValueError, match='no label'):
    error_rates.per([[1]], [[2]], fold_v=[0, 1, 0])
  with pytest.raises(ValueError, match='no label'):
    error_rates.population_per(np.ones((2, 1, 1), int), [[1], [1]], [[]])


def test_bad_corpora_are_named():
  with pytest.raises(ValueError, match='2 hypotheses for 1 references'):
    error_rates.edits([[1], [2]], [[1]])
  with pytest.raises(ValueError, match='0 hypotheses for 1 references'):
    error_rates.per([], [[1]])
  with pytest.raises(ValueError, match='1 hypotheses for 2 references'):
    error_rates.population_per(np.ones((3, 1, 4), int), [[1]] * 3, [[1], [2]])
  with pytest.raises(ValueError, match='from -1'):
    error_rates.edits([[-1]], [[1]])
  with pytest.raises(ValueError, match='to 3; the folding has classes for 0'):
    error_rates.fold([1, 3], [0, 1, 2])
  with pytest.raises(ValueError, match='float64'):
    error_rates.edits([[0.5]], [[1]])
  with pytest.raises(ValueError, match='sequence of integers'):
    error_rates.edits([3], [[1]])
  with pytest.raises(ValueError, match='from 0 to 4; rows hold 3'):
    error_rates.unpad(np.ones((2, 3), int), [0, 4])
  with pytest.raises(ValueError, match='axes'):
    error_rates.unpad(np.ones((2, 3), int), [1])
