"""Tests of nasjax/decoding/words.py against sums over all paths."""

import importlib.util
import itertools
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from transcripts import log_softmax

from nasjax import decoding
from nasjax.decoding import arpa, words
from nasjax.decoding import transcripts as transcripts_lib

MARK = '\u2581'
ALPHABETS = {
  'sub-words': ('A', 'B', MARK + 'A', MARK + 'B'),
  'letters': (' ', 'A', 'B'),
  'bars': ('A', 'B', '|'),
}
SENTENCES = [line.split() for line in ('A B', 'A A', 'AB A', 'B AB B', 'A')]
FUSION = words.Fusion(arpa.estimate(SENTENCES, 2), 0.7, 0.4)
with_flashlight = pytest.mark.skipif(
  importlib.util.find_spec('flashlight') is None,
  reason="pip install '.[lexicon]'",
)


def _logprobs(symbols, frames, seed=0):
  rng = np.random.default_rng(seed)
  return log_softmax(2 * rng.normal(size=(frames, 1 + len(symbols))))


def _all(logprobs_tv, symbols):
  """Sums the probability of all paths by the words that they spell."""
  found = {}
  frames, size = logprobs_tv.shape
  for path in itertools.product(range(size), repeat=frames):
    labels = [v for v, _ in itertools.groupby(path) if v]
    spoken = tuple(transcripts_lib.spelt(labels, symbols).split())
    score = logprobs_tv[np.arange(frames), path].sum()
    found[spoken] = np.logaddexp(found.get(spoken, -np.inf), score)
  return found


@pytest.mark.parametrize('kind', ALPHABETS)
@pytest.mark.parametrize('lexicon', [None, ('A', 'AB')])
def test_every_transcript_has_its_score(kind, lexicon):
  symbols = ALPHABETS[kind]
  logprobs_tv = _logprobs(symbols, 5)
  expected = {
    spoken: FUSION.score(ctc, arpa.log_prob(FUSION.lm, spoken), len(spoken))
    for spoken, ctc in _all(logprobs_tv, symbols).items()
    if lexicon is None or set(spoken) <= set(lexicon)
  }
  found = words.beam(
    logprobs_tv,
    symbols,
    fusion=FUSION,
    lexicon=lexicon and words.lexicon_of(lexicon),
    width=10_000,
    n_best=10_000,
  )
  assert len({h.words for h in found if h.whole}) == len(expected)
  for hypothesis in found:
    if not hypothesis.whole:
      continue
    spelt = transcripts_lib.spelt(hypothesis.labels, symbols)
    assert tuple(spelt.split()) == hypothesis.words
    score = expected.pop(hypothesis.words)
    assert hypothesis.score == pytest.approx(score, abs=1e-9)
  assert not expected
  scores = [h.score for h in found if h.whole]
  assert scores == sorted(scores, reverse=True)
  assert all(h.whole for h in found[: len(scores)])


def test_without_a_model_it_is_the_search_on_the_device():
  symbols = ('A', 'B', MARK + 'A', MARK + 'B', MARK)
  for seed in range(4):
    logprobs_tv = _logprobs(symbols, 12, seed)
    labels_bu, len_b, score_b = decoding.beam_search(
      jnp.asarray(logprobs_tv[None]), jnp.array([12]), width=8
    )
    labels = labels_bu[0, : len_b[0]].tolist()
    best = words.Search(symbols, width=200)(logprobs_tv, n_best=200)
    heard = transcripts_lib.spelt(labels, symbols).split()
    assert heard in [list(h.words) for h in best]
    (same,) = (h for h in best if list(h.words) == heard)
    # Other ways to cut the same words add to it.
    assert same.ctc >= float(score_b[0]) - 1e-4
    assert words.beam_search(
      jnp.asarray(logprobs_tv[None]), jnp.array([12]), symbols, 8
    ) == [heard]
  path = [v for v, _ in itertools.groupby(logprobs_tv.argmax(1)) if v]
  spelt = transcripts_lib.spelt(path, symbols).split()
  greedy = words.greedy(
    jnp.asarray(logprobs_tv[None]), jnp.array([12]), symbols
  )
  assert greedy == [spelt]


def test_a_model_changes_what_is_heard():
  symbols = ALPHABETS['sub-words']
  logprobs_tv = np.full((2, 5), -30.0)
  logprobs_tv[0, 3], logprobs_tv[1, [3, 4]] = -0.1, (-0.8, -0.6)
  logprobs_tv[1, 0] = -50
  lm = arpa.estimate([['B', 'B']] * 9 + [['A']], 2)
  (plain,) = words.beam(logprobs_tv, symbols)
  assert plain.words == ('A', 'B') and plain.lm == 0
  found = words.beam(logprobs_tv, symbols, n_best=2)
  assert [h.words for h in found] == [('A', 'B'), ('A',)]
  (first, second) = words.rescored(found, words.Fusion(lm, 1.0))
  assert first.words == ('A',) and first.ctc == found[1].ctc
  assert first.lm == pytest.approx(arpa.log_prob(lm, ['A']))
  (heard,) = words.beam(logprobs_tv, symbols, fusion=words.Fusion(lm, 1.0))
  assert heard.words == ('A',)
  assert heard.score == pytest.approx(first.score)
  # A bonus for words brings the other one back.
  kept = words.rescored(found, words.Fusion(lm, 1.0, 20.0))
  assert kept[0].words == ('A', 'B')
  assert second.words == ('A', 'B')


def test_a_lexicon_that_ends_in_no_word():
  symbols = ALPHABETS['letters']
  logprobs_tv = np.full((1, 4), -math.inf)
  logprobs_tv[0, 2] = 0.0
  lexicon = words.lexicon_of(['AB'])
  (heard,) = words.beam(logprobs_tv, symbols, lexicon=lexicon)
  assert heard.words == ('A',) and not heard.whole
  logprobs_tv[0, [2, 3]] = logprobs_tv[0, [3, 2]]
  assert words.beam(logprobs_tv, symbols, lexicon=lexicon) == [words.NOTHING]


def test_strange_frames():
  search = words.Search(ALPHABETS['letters'])
  (heard,) = search(np.full((3, 4), np.nan))
  assert heard.words == () and math.isnan(heard.score)
  (heard,) = search(np.zeros((0, 4)))
  assert heard.words == () and heard.ctc == 0
  with pytest.raises(ValueError, match=r'shape \(3, 5\); want \(T, 4\)'):
    search(np.zeros((3, 5)))
  with pytest.raises(ValueError, match='width is 0'):
    words.Search(ALPHABETS['letters'], width=0)
  with pytest.raises(ValueError, match='aa b c .*where words begin'):
    words.Search(('aa', 'b', 'c'))


# Flashlight.


@with_flashlight
@pytest.mark.parametrize('kind', ['letters', 'bars'])
@pytest.mark.parametrize('fusion', [FUSION, None])
def test_flashlight_finds_the_same(kind, fusion):
  symbols = ALPHABETS[kind]
  lexicon = words.lexicon_of(['A', 'AB', 'B'])
  spelt = words.spellings(lexicon, symbols)
  engine = words.Flashlight(symbols, spelt, fusion, width=3000)
  own = words.Search(symbols, fusion, lexicon, width=3000)
  for seed in range(3):
    logprobs_tv = _logprobs(symbols, 6, seed)
    one, other = engine(logprobs_tv, 1000), own(logprobs_tv, 3000)
    other = {h.words: h for h in other if h.whole}
    assert one[0].words == next(iter(other))
    assert {h.words for h in one} == set(other)
    for hypothesis in one:
      same = other[hypothesis.words]
      assert hypothesis.lm == pytest.approx(same.lm, abs=1e-4)
      assert hypothesis.ctc == pytest.approx(same.ctc, abs=1e-3)


def _of_phones(logprobs_tv, lexicon):
  """Sums the probability of all paths by words that a lexicon spells."""
  expected, frames = {}, len(logprobs_tv)
  for path in itertools.product(range(logprobs_tv.shape[1]), repeat=frames):
    labels = tuple(v for v, _ in itertools.groupby(path) if v)
    for count in range(3):
      for spoken in itertools.product(lexicon.spellings, repeat=count):
        ways = itertools.product(*(lexicon.spellings[w] for w in spoken))
        if any(sum(way, ()) == labels for way in ways):
          score = logprobs_tv[np.arange(frames), path].sum()
          expected[spoken] = np.logaddexp(expected.get(spoken, -np.inf), score)
  return expected


def test_words_of_phones():
  """Phones know of no words but by a lexicon; two words sound alike."""
  symbols = ('aa', 'b', 'c')
  spelt = {'AB': ((1, 2),), 'ABC': ((1, 2, 3), (1, 3)), 'OB': ((1, 2),)}
  lexicon = words.Lexicon(spelt)
  lm = arpa.estimate([['AB', 'OB']] * 3 + [['ABC']], 2)
  fusion = words.Fusion(lm, 0.5)
  logprobs_tv = _logprobs(symbols, 4)
  expected = _of_phones(logprobs_tv, lexicon)
  search = words.Search(symbols, fusion, lexicon, width=1000)
  found = [h for h in search(logprobs_tv, 1000) if h.whole]
  assert {h.words for h in found} == set(expected)
  for hypothesis in found:
    ctc = expected[hypothesis.words]
    assert hypothesis.ctc == pytest.approx(ctc, abs=1e-9)
    score = fusion.score(
      ctc, arpa.log_prob(lm, hypothesis.words), len(hypothesis.words)
    )
    assert hypothesis.score == pytest.approx(score, abs=1e-9)
  with pytest.raises(ValueError, match='spells no word in symbols of the net'):
    words.Search(symbols, lexicon=words.lexicon_of(['AB']))


@with_flashlight
def test_flashlight_and_phones():
  symbols = ('aa', 'b', 'c')
  lexicon = words.Lexicon({'AB': ((1, 2),), 'ABC': ((1, 2, 3), (1, 3))})
  logprobs_tv = _logprobs(symbols, 4)
  found = words.Flashlight(symbols, lexicon, width=1000)(logprobs_tv, 100)
  expected = _of_phones(logprobs_tv, lexicon)
  assert {h.words for h in found} == set(expected)
  # It takes the last phone of a word to last one frame.
  assert all(h.ctc <= expected[h.words] + 1e-4 for h in found)


@with_flashlight
def test_flashlight_and_sub_words():
  symbols = (MARK + 'A', 'B', MARK + 'B', MARK)
  lexicon = words.lexicon_of(['AB', 'B', 'C'])
  spelt = words.spellings(
    lexicon, symbols, lambda texts: [(MARK + t[0], *t[1:]) for t in texts]
  )
  assert spelt.spellings == {'AB': ((1, 2),), 'B': ((3,),)}
  engine = words.Flashlight(symbols, spelt)
  assert 'C' not in engine.lexicon and 'AB' in engine.lexicon
  logprobs_tv = np.full((4, 5), -20.0)
  logprobs_tv[[0, 1, 2, 3], [1, 2, 0, 3]] = 0.0
  (heard,) = engine(logprobs_tv)
  assert heard.words == ('AB', 'B') and heard.labels == (1, 2, 3)
  assert heard.score == pytest.approx(0.0, abs=1e-4)
  with pytest.raises(ValueError, match='spells no word'):
    words.Flashlight(symbols, words.lexicon_of(['C']))


def test_without_flashlight(monkeypatch):
  monkeypatch.setitem(sys.modules, 'flashlight.lib.text', None)
  with pytest.raises(ValueError, match=r"'\.\[lexicon\]'"):
    words.Flashlight(('a',), words.Lexicon({'A': ((1,),)}))


# Lexicons and alphabets.


def test_a_lexicon(tmp_path):
  path = tmp_path / 'lexicon.txt'
  path.write_text('AB A B |\nAB A |\n\nB\n')
  lexicon = words.read_lexicon(path, ('A', 'B', ' '))
  assert lexicon.spellings == {'AB': ((1, 2, 3), (1, 3)), 'B': ()}
  path.write_text('AB A B |\nC C X\nX X\n')
  with pytest.raises(ValueError, match=r"txt:2: C: 'C' is no .*2 such lines"):
    words.read_lexicon(path, ('A', 'B', ' '))
  path.write_text('\n')
  with pytest.raises(ValueError, match='has no word'):
    words.read_lexicon(path, ('A',))
  with pytest.raises(ValueError, match='No such file'):
    words.read_lexicon(tmp_path / 'none', ('A',))


def test_words_that_are_lacking():
  lexicon = words.lexicon_of(['A', 'B'])
  references = [['A', 'C'], ['B'], ['C', 'D', 'A'], []]
  assert words.lacking(references, lexicon) == {
    'words': 3, 'of': 6, 'utterances': 2, 'distinct': ['C', 'D']
  }  # fmt: skip
  assert words.lacking(references, FUSION.lm)['words'] == 3


def test_another_alphabet():
  symbols = ALPHABETS['sub-words']
  assert words.check_alphabet(['A', 'BA', 'C'], symbols, 'lm.arpa') == 2
  with pytest.raises(ValueError) as error:
    words.check_alphabet(['a', 'ab', 'A'], symbols, 'lm.arpa')
  told = str(error.value)
  assert (
    told.startswith('lm.arpa: another alphabet: 2 of 3') and '\n' not in told
  )
  assert "no 'a' for 'a'" in told and 'write it in upper case' in told
  with pytest.raises(ValueError, match='take one of the alphabet'):
    words.check_alphabet(['\u0436'], ALPHABETS['letters'], 'lm.arpa')
