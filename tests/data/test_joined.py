"""Tests of nasjax/data/joined.py."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_corpus

from nasjax.data import batching, joined
from nasjax.training import batches


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
  alone = joined.joined({'bb': given['bb']})
  assert alone.symbols == ('x', 'y', 'z') == alone.alphabets['bb']
  assert alone.mean_f is given['bb'].mean_f and not alone.test.language_u.any()
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


def test_batches_mix_languages_and_know_them():
  whole = joined.joined(languages())
  recipe = dataclasses.replace(tiny_corpus.RECIPE, batch=6, batch_long=6)
  lengths = [batching.lengths(getattr(whole, n)) for n in joined.SPLITS]
  buckets = batching.make_buckets(lengths, recipe)
  data = batches.device_data(whole.train, buckets, utterances=30)
  assert data.language_u.shape == (30,)
  bucket_u = batching.assign(*lengths[0], buckets)
  plan = batching.train_plan(bucket_u, buckets, (1,), 1)
  mixed, seen, gather = 0, [], jax.jit(batches.gather, static_argnums=2)
  for k, index_b in zip(plan.bucket_s, plan.index_skb[:, 0]):
    batch = gather(data, index_b[: buckets[k].batch], buckets[k])
    real_b = index_b[: buckets[k].batch] >= 0
    for b, u in enumerate(index_b[: buckets[k].batch]):
      if u < 0:
        continue
      seen.append(u)
      length = len(whole.train.labels[u])
      assert batch.language_b[b] == whole.train.language_u[u]
      np.testing.assert_array_equal(
        batch.labels_bl[b, :length], whole.train.labels[u]
      )
      np.testing.assert_array_equal(
        batch.x_btf[b, : batch.len_b[b]], whole.train.x_tf(u)
      )
    mixed += len(set(np.asarray(batch.language_b)[real_b].tolist())) > 1
  assert sorted(seen) == list(range(len(whole.train.ids)))
  assert mixed > len(plan.bucket_s) / 2
  # Without languages nothing of them goes to the devices.
  plain = batches.device_data(tiny_corpus.corpus().train, buckets)
  assert plain.language_u is None
