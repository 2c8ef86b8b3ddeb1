"""Corpora of several languages as one, an alphabet each.

Labels stay those of their own language: label 3 is the third symbol of the
alphabet of whoever spoke, and a network has an output for each language. So
labels have no meaning without the number of the language (`Split.language_u`),
and `symbols` of the whole are only ids.

Features stay as each corpus has them, normalised by its own training split. As
`frontend.Fitted` those of a language are found by its code, as if it were a
speaker: `fitted.features(recordings, ['sw'])`.
"""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from nasjax.data.corpus import Corpus, Split

SPLITS = ('train', 'validation', 'test')


def joined(corpora: Mapping[str, Corpus]) -> Corpus:
  """Returns the corpora of some languages as one.

  Args:
    corpora: by the code of the language; numbers of languages are in this
      order. One alone stays as it is, and gets a number.

  Raises:
    ValueError: there is none, or their front ends differ; or one is stored in
      files, normalised by speaker, has languages already, or scores several
      symbols as one.
  """
  if not corpora:
    raise ValueError('no corpus to join; give one a language')
  frontends = {corpus.frontend for corpus in corpora.values()}
  if len(frontends) > 1:
    names = {code: corpus.frontend.name for code, corpus in corpora.items()}
    raise ValueError(f'corpora of several front ends {names}; take one for all')
  for code, corpus in corpora.items():
    _check(code, corpus)
  alphabets = {code: corpus.symbols for code, corpus in corpora.items()}
  if len(corpora) == 1:
    ((code, corpus),) = corpora.items()
    return dataclasses.replace(
      corpus,
      name=code,
      fingerprint=f'{code}={corpus.fingerprint}',
      alphabets=alphabets,
      **{name: _split(corpora, name) for name in SPLITS},
    )
  most = max(map(len, alphabets.values()))
  ids = tuple(map(str, range(1, most + 1)))
  told = [f'{code}={corpus.fingerprint}' for code, corpus in corpora.items()]
  return Corpus(
    name='+'.join(corpora),
    fingerprint=hashlib.sha256(' '.join(told).encode()).hexdigest()[:16],
    symbols=ids,
    fold_v=np.arange(most + 1, dtype=np.int32),
    classes=ids,
    mean_f=None,
    variance_f=None,
    frontend=frontends.pop(),
    speakers={
      ('train', code): (corpus.mean_f, corpus.variance_f)
      for code, corpus in corpora.items()
    },
    alphabets=alphabets,
    **{name: _split(corpora, name) for name in SPLITS},
  )


def _check(code, corpus):
  """Says what keeps a corpus from being joined."""
  same = np.array_equal(corpus.fold_v, np.arange(1 + len(corpus.symbols)))
  faults = {
    'has languages already': corpus.alphabets is not None,
    'is normalised by speaker; take a front end that goes by the corpus': (
      corpus.mean_f is None
    ),
    'is kept in files; leave out --stored_features': not isinstance(
      corpus.train.features, np.ndarray
    ),
    'scores several symbols as one; take its own alphabet': not same,
  }
  for fault, found in faults.items():
    if found:
      raise ValueError(f'{code}: the corpus {corpus.name} {fault}')


def _split(corpora, name):
  """Returns a split of all languages, one after the other."""
  splits = {code: getattr(corpus, name) for code, corpus in corpora.items()}
  frames_u = np.concatenate([s.frames_u for s in splits.values()])
  before = np.cumsum([0, *(len(s.features) for s in splits.values())])
  return Split(
    ids=tuple(f'{code}/{i}' for code, s in splits.items() for i in s.ids),
    speakers=tuple(
      who and f'{code}/{who}'
      for code, s in splits.items()
      for who in s.speakers
    ),
    texts=tuple(text for s in splits.values() for text in s.texts),
    features=np.concatenate([s.features for s in splits.values()]),
    offset_u=np.concatenate(
      [s.offset_u + first for s, first in zip(splits.values(), before)]
    ).astype(np.int32),
    frames_u=frames_u,
    labels=tuple(labels for s in splits.values() for labels in s.labels),
    samples_u=np.concatenate([s.samples_u for s in splits.values()]),
    language_u=np.repeat(
      np.arange(len(splits), dtype=np.int32),
      [len(s.labels) for s in splits.values()],
    ),
  )
