"""Tests of nasjax/data/joined.py."""

import dataclasses

import numpy as np
import pytest
import tiny_corpus

from nasjax.data import joined


def languages():
  """Two languages of five and of three symbols."""
  first = dataclasses.replace(
    tiny_corpus.corpus(), fold_v=np.arange(6), classes=tiny_corpus.SYMBOLS
  )
  second = tiny_corpus.corpus(train=7, seed=5)

  def fewer(split):
    labels = tuple(np.minimum(labels, 3) for labels in split.labels)
    return dataclasses.replace(split, labels=labels)

  second = dataclasses.replace(
    second,
    symbols=('x', 'y', 'z'),
    classes=('x', 'y', 'z'),
    fold_v=np.arange(4),
    mean_f=second.mean_f + 1,
    train=fewer(second.train),
    validation=fewer(second.validation),
    test=fewer(second.test),
  )
  return {'aa': first, 'bb': second}


def test_utterances_keep_features_and_labels():
  given = languages()
  whole = joined.joined(given)
  assert whole.alphabets == {'aa': tuple('abcde'), 'bb': tuple('xyz')}
  assert len(whole.symbols) == 5
  for name in joined.SPLITS:
    split, numbers = getattr(whole, name), getattr(whole, name).language_u
    assert numbers.dtype == np.int32
    u = 0
    for number, (code, corpus) in enumerate(given.items()):
      own = getattr(corpus, name)
      for i, labels in enumerate(own.labels):
        assert numbers[u] == number and split.ids[u] == f'{code}/{own.ids[i]}'
        np.testing.assert_array_equal(split.x_tf(u), own.x_tf(i))
        np.testing.assert_array_equal(split.labels[u], labels)
        u += 1
    assert u == len(split.ids) == len(numbers)
  np.testing.assert_array_equal(whole.fitted.of_speaker('bb')[0], 1)
  assert joined.joined({'bb': given['bb'], 'aa': given['aa']}).fingerprint != (
    whole.fingerprint
  )


def test_what_cannot_be_joined():
  given = languages()
  with pytest.raises(ValueError, match='no corpus'):
    joined.joined({})
  with pytest.raises(ValueError, match='aa: .* scores several symbols as one'):
    joined.joined({'aa': tiny_corpus.corpus()})
  with pytest.raises(ValueError, match='ab: .* has languages already'):
    joined.joined({'ab': joined.joined(given)})
  speakers = dataclasses.replace(given['aa'], mean_f=None)
  with pytest.raises(ValueError, match='normalised by speaker'):
    joined.joined({'aa': speakers})
