"""Synthetic corpora: specs, speakers, sentences, utterances."""

import itertools

import numpy as np
import pytest

from nasjax.data.synthetic import espeak, sentences, synthesis

_CLEAN = {'snr_db': None, 'rt60': None, 'band_limit': False}
_SMALL = synthesis.Spec(num_utterances=100, grammar='small', words=(3, 5))
_CLOSURES = {
  'p': 'pcl',
  't': 'tcl',
  'k': 'kcl',
  'b': 'bcl',
  'd': 'dcl',
  'g': 'gcl',
  'ch': 'tcl',
  'jh': 'dcl',
}


@pytest.fixture(scope='module')
def voice():
  with espeak.Espeak() as process:
    yield process


@pytest.fixture(scope='module')
def small():
  """All utterances of a small corpus by split."""
  return {
    split: list(synthesis.synthesise(_SMALL, split, workers=1))
    for split in synthesis.SPLITS
  }


@pytest.fixture(scope='module')
def clean():
  """The test split of a corpus without noise, room and channel."""
  spec = synthesis.Spec(num_utterances=100, **_CLEAN)
  return list(synthesis.synthesise(spec, 'test'))


def _same(first, second):
  """Whether two utterances are equal to the last bit."""
  arrays = ('audio_t', 'bounds')
  return all(
    np.array_equal(a, b) if name in arrays else a == b
    for name, a, b in zip(first._fields, first, second)
  )


def test_closures_are_quieter_than_releases(clean):
  """The times agree with the sound: voiceless closures are silent."""
  power = {'closed': [], 'open': []}
  for utterance in clean:
    audio_t = utterance.audio_t.astype(float) / np.abs(utterance.audio_t).max()
    for phone, (first, last) in zip(utterance.phones, utterance.bounds):
      kind = 'closed' if phone in ('pcl', 'tcl', 'kcl', 'pau', 'h#') else 'open'
      inside = slice(first + 32, last - 32)  # 2 ms are the resampler's ringing
      if last - first > 100:
        power[kind].append(np.sqrt(np.mean(audio_t[inside] ** 2)))
  assert len(power['closed']) > 100
  assert np.max(power['closed']) < 0.01
  assert np.quantile(power['open'], 0.1) > 0.01


def test_transcripts_and_times_are_consistent(small, clean):
  for utterance in itertools.chain(clean, *small.values()):
    first_u, last_u = utterance.bounds.T
    symbols = utterance.phones
    assert utterance.bounds.dtype == np.int32
    assert len(symbols) == len(first_u)
    assert first_u[0] == 0
    assert last_u[-1] == len(utterance.audio_t)
    assert np.array_equal(last_u[:-1], first_u[1:])
    assert np.all(last_u > first_u)
    assert symbols[0] == symbols[-1] == 'h#'
    assert 'h#' not in symbols[1:-1]
    for before, after in itertools.pairwise(symbols):
      closures = set(_CLOSURES.values())
      assert (before in closures) == (after in _CLOSURES)
      assert after not in _CLOSURES or before == _CLOSURES[after]


@pytest.mark.parametrize('name', sentences.GRAMMARS)
def test_sentences_have_as_many_words_as_asked(name):
  grammar = sentences.GRAMMARS[name]
  rng = np.random.default_rng(0)
  fewest, most = sentences.word_range(grammar)
  known = set(sentences.vocabulary(grammar))
  for words in range(fewest, most + 1):
    drawn = [sentences.draw_sentence(grammar, words, rng) for _ in range(20)]
    assert len(set(drawn)) > 5
    for sentence in drawn:
      assert len(sentence.replace(',', '').split()) == words
      assert set(sentence.replace(',', '').split()) <= known
  for words in (fewest - 1, most + 1):
    with pytest.raises(ValueError, match=f'{fewest} to {most}'):
      sentences.draw_sentence(grammar, words, rng)


@pytest.mark.parametrize(
  ('utterances', 'sizes'),
  [
    (100, (6, 2, 2)),
    (101, (7, 2, 2)),
    (400, (30, 5, 5)),
    (6300, (530, 50, 50)),
  ],
)
def test_splits_share_no_speaker(utterances, sizes):
  spec = synthesis.Spec(num_utterances=utterances)
  splits = [synthesis.speakers_of(spec, s) for s in synthesis.SPLITS]
  assert tuple(map(len, splits)) == sizes
  numbers = [n for split in splits for n in split]
  assert numbers == list(range(len(numbers)))
  spoken = [u for n in numbers for u in spec.utterances_of(n)]
  assert spoken == list(range(utterances))


def test_speakers_differ_and_take_turns():
  spec = synthesis.Spec()
  drawn = [synthesis.draw_speaker(spec, n) for n in range(32)]
  assert len({s.id for s in drawn}) == 32
  assert len({(s.rate, s.pitch, s.tract) for s in drawn}) == 32
  for start in range(17):
    some = drawn[start : start + 16]
    assert len({(s.id[0], s.accent) for s in some}) >= 15
  assert all(s.variant in synthesis.VOICES[s.id[0]] for s in drawn)


def test_splits_hold_what_was_asked(small):
  assert [len(small[s]) for s in synthesis.SPLITS] == [60, 20, 20]
  speakers = [{u.speaker for u in small[s]} for s in synthesis.SPLITS]
  assert sum(map(len, speakers)) == len(set.union(*speakers)) == 10
  everything = [u for split in small.values() for u in split]
  assert len({u.id for u in everything}) == 100
  for utterance in everything:
    assert utterance.id.startswith(utterance.speaker)
    assert 3 <= len(utterance.text.replace(',', '').split()) <= 5
    assert utterance.audio_t.dtype == np.int16


@pytest.mark.parametrize('workers', [2, 3])
def test_the_number_of_workers_changes_nothing(small, workers):
  again = list(synthesis.synthesise(_SMALL, 'train', workers))
  assert len(again) == len(small['train'])
  assert all(_same(a, b) for a, b in zip(small['train'], again))


def test_utterances_depend_on_the_seed_but_not_on_the_corpus_size(voice):
  def draw(**changes):
    spec = synthesis.Spec(**changes)
    return synthesis.draw_utterance(
      spec, synthesis.draw_speaker(spec, 3), 31, voice
    )

  assert _same(draw(num_utterances=100), draw(num_utterances=200))
  assert not _same(draw(seed=0), draw(seed=1))


def test_effects_change_the_sound_and_nothing_else(voice):
  speaker = synthesis.draw_speaker(synthesis.Spec(), 5)
  drawn = [
    synthesis.draw_utterance(synthesis.Spec(**changes), speaker, 57, voice)
    for changes in ({}, _CLEAN, {'snr_db': None}, {'rt60': None})
  ]
  for other in drawn[1:]:
    assert other.phones == drawn[0].phones
    assert np.array_equal(other.bounds, drawn[0].bounds)
    assert len(other.audio_t) == len(drawn[0].audio_t)
    assert not np.array_equal(other.audio_t, drawn[0].audio_t)


def test_no_utterance_is_longer_than_asked(voice):
  spec = synthesis.Spec(words=(4, 17), max_seconds=2.75, **_CLEAN)
  speaker = synthesis.draw_speaker(spec, 0)
  lengths = [
    len(synthesis.draw_utterance(spec, speaker, n, voice).audio_t)
    for n in range(10)
  ]
  assert max(lengths) <= 2.75 * 16000


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('num_utterances', 99),
    ('num_utterances', 6301),
    ('num_utterances', 200.0),
    ('num_utterances', True),
    ('seed', -1),
    ('seed', None),
    ('grammar', 'large'),
    ('words', (5, 4)),
    ('words', (0, 4)),
    ('words', (4, 18)),
    ('words', 5),
    ('words', (4, 5.5)),
    ('words', (4, 5, 6)),
    ('accents', ()),
    ('accents', 'en-us'),
    ('accents', ('en-us', 'en-au')),
    ('snr_db', (25.0, 5.0)),
    ('snr_db', (float('nan'), 5.0)),
    ('snr_db', 10.0),
    ('snr_db', ('5', '25')),
    ('rt60', (0.0, 0.5)),
    ('rt60', (0.1, 3.0)),
    ('band_limit', 'yes'),
    ('max_seconds', 2.0),
    ('max_seconds', float('inf')),
    ('max_seconds', '8'),
  ],
)
def test_specs_refuse_what_cannot_be(name, value):
  with pytest.raises(ValueError, match=f'^{name} is '):
    synthesis.Spec(**{name: value})


def test_every_field_of_a_spec_changes_its_name():
  changes = [
    {},
    {'num_utterances': 400},
    {'seed': 1},
    {'grammar': 'small'},
    {'words': (4, 11)},
    {'accents': ('en-us',)},
    {'snr_db': None},
    {'snr_db': (5.0, 26.0)},
    {'rt60': None},
    {'band_limit': False},
    {'max_seconds': 7.5},
  ]
  names = {synthesis.Spec(**change).name() for change in changes}
  assert len(names) == len(changes)
  same = synthesis.Spec(
    num_utterances=np.int64(6300), words=[4, 12], snr_db=[5, 25], max_seconds=8
  )
  assert same == synthesis.Spec()
  assert same.name() == synthesis.Spec().name()


def test_at_least_one_worker():
  with pytest.raises(ValueError, match='workers is 0'):
    next(synthesis.synthesise(_SMALL, 'train', workers=0))


def test_without_espeak_the_remedy_is_told(tmp_path, monkeypatch):
  broken = tmp_path / 'broken.py'
  broken.write_text('raise SystemExit(1)')
  monkeypatch.setattr(espeak, '_WORKER', broken)
  with pytest.raises(RuntimeError, match='pip install espeakng-loader'):
    list(synthesis.synthesise(_SMALL, 'test'))
