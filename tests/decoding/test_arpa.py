"""Tests of nasjax/decoding/arpa.py, against KenLM where it is installed."""

import gzip
import importlib.util
import itertools
import math
import sys

import numpy as np
import pytest

from nasjax.decoding import arpa
from nasjax.losses import ngram

SENTENCES = [
  line.split()
  for line in """the cat sat on the mat
the dog sat
a cat saw the dog
the cat sat on a dog
on the mat sat the cat""".splitlines()
]
with_kenlm = pytest.mark.skipif(
  importlib.util.find_spec('kenlm') is None, reason="pip install '.[lexicon]'"
)


def _written(tmp_path, lm, name='lm.arpa'):
  path = tmp_path / name
  path.write_bytes(arpa.write(lm))
  return path


@pytest.mark.parametrize('order', [1, 2, 3, 4])
def test_what_follows_a_history_adds_up_to_one(order):
  lm = arpa.estimate(SENTENCES, order)
  words = sorted(lm.words)
  assert len(words) == 8 and 'cat' in lm and '<s>' not in lm
  for history in itertools.product(words[:4], repeat=2):
    state = lm.start()
    for word in history:
      state, _ = lm.score(state, word)
    total = sum(
      math.exp(lm.score(state, word)[1])
      for word in (*words, arpa.END, arpa.UNKNOWN)
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_bigrams_are_those_of_the_labels_model():
  # Its vocabulary has one label more, which stands for what is unknown.
  lm = arpa.estimate(SENTENCES, 2)
  words = sorted(lm.words)
  labels = [[1 + words.index(word) for word in s] for s in SENTENCES]
  dense = ngram.estimate(labels, len(words) + 2, order=2, unique=False)
  for tested in (*labels, [1, 1, 4], []):
    spoken = [words[label - 1] for label in tested]
    assert arpa.log_prob(lm, spoken) == pytest.approx(
      ngram.log_prob(dense, tested), abs=1e-9
    )
  unknown = arpa.log_prob(lm, ['cow'])
  assert unknown == pytest.approx(ngram.log_prob(dense, [len(words) + 1]))


@pytest.mark.parametrize('order', [1, 3])
def test_a_file_says_the_same(tmp_path, order):
  lm = arpa.estimate(SENTENCES, order)
  path = _written(tmp_path, lm)
  packed = tmp_path / 'lm.arpa.gz'
  packed.write_bytes(gzip.compress(path.read_bytes()))
  for found in (arpa.read(path), arpa.read(packed)):
    assert found.order == order and found.grams.keys() == lm.grams.keys()
    for words in (*SENTENCES, ['mat', 'cow', 'the']):
      assert arpa.log_prob(found, words) == pytest.approx(
        arpa.log_prob(lm, words), abs=1e-5
      )
  assert arpa.perplexity(lm, SENTENCES) < arpa.perplexity(
    arpa.estimate(SENTENCES, 1), SENTENCES
  ) + 1e-9 * (order == 1)


@with_kenlm
@pytest.mark.parametrize('order', [2, 3, 4])
def test_kenlm_reads_it_and_says_the_same(tmp_path, order):
  import kenlm

  lm = arpa.estimate(SENTENCES, order)
  path = _written(tmp_path, lm)
  model, wrapped = kenlm.Model(str(path)), arpa.KenLM(path)
  rng = np.random.default_rng(0)
  words = [*sorted(lm.words), 'cow']
  assert 'cat' in wrapped and 'cow' not in wrapped and '<s>' not in wrapped
  for _ in range(20):
    spoken = rng.choice(words, rng.integers(0, 8)).tolist()
    own = arpa.log_prob(lm, spoken)
    assert own / math.log(10) == pytest.approx(
      model.score(' '.join(spoken)), abs=1e-4
    )
    assert arpa.log_prob(wrapped, spoken) == pytest.approx(own, abs=1e-4)


@with_kenlm
def test_a_model_without_unknown(tmp_path):
  import kenlm

  path = tmp_path / 'lm.arpa'
  path.write_text(
    '\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n'
    '-99\t<s>\t-0.3\n-0.5\ta\n-0.7\t</s>\n\n\\2-grams:\n-0.1\t<s> a\n\n'
    '\\end\\\n'
  )
  lm, model = arpa.read(path), kenlm.Model(str(path))
  for spoken in ('a', 'a a', 'b', 'a b a', ''):
    assert arpa.log_prob(lm, spoken.split()) / math.log(10) == pytest.approx(
      model.score(spoken), abs=1e-4
    )


@pytest.mark.parametrize(
  ('old', 'new', 'words'),
  [
    ('\\data\\', 'data', 'no \\\\data\\\\'),
    ('\\end\\', '', 'no \\\\end\\\\'),
    ('ngram 1=11', 'ngram 1=10', ':18: .*want 10 1-grams before it, not 11'),
    ('ngram 1=11', 'ngram one', ':2: .*ngram N=COUNT'),
    ('\\2-grams:', '\\two:', ':18: .*or .end'),
    ('\tsat\t', '\tsat ok\t', ':14: .*log10 probability, 1 words'),
    ('\tdog\t', '\tcat\t', '31 different n-grams, but its head says 32'),
  ],
)
def test_what_is_no_model(tmp_path, old, new, words):
  path = _written(tmp_path, arpa.estimate(SENTENCES, 2))
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(arpa.ArpaError, match=words) as error:
    arpa.read(path)
  assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


def test_no_file_and_other_files(tmp_path, monkeypatch):
  with pytest.raises(arpa.ArpaError, match='No such file'):
    arpa.read(tmp_path / 'none.arpa')
  path = tmp_path / 'lm.gz'
  path.write_bytes(b'no gzip')
  with pytest.raises(arpa.ArpaError, match='unpacked'):
    arpa.read(path)
  path = tmp_path / 'lm.bin'
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(arpa.ArpaError, match='no text in UTF-8'):
    arpa.read(path)
  path.write_bytes(b'mmap lm http://kheafield.com/code format version 5\n')
  monkeypatch.setitem(sys.modules, 'kenlm', None)
  with pytest.raises(arpa.ArpaError, match=r"'\.\[lexicon\]'"):
    arpa.read(path)
  monkeypatch.undo()
  if importlib.util.find_spec('kenlm'):
    with pytest.raises(arpa.ArpaError, match='KenLM does not read it'):
      arpa.read(path)


def test_what_cannot_be_estimated():
  with pytest.raises(ValueError, match='order is 0'):
    arpa.estimate(SENTENCES, 0)
  with pytest.raises(ValueError, match='no sentences'):
    arpa.estimate([], 2)
  with pytest.raises(ValueError, match="sentence 2 has '</s>'"):
    arpa.estimate([['a'], ['</s>']], 2)
