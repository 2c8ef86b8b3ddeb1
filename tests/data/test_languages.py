"""Tests of nasjax/data/synthetic/languages.py with the real eSpeak NG."""

import json
import unicodedata

import pytest
import soundfile
from absl.testing import flagsaver
from common import corpus_flags

from nasjax.data import corpus, manifest
from nasjax.data.synthetic import languages
from nasjax.data.synthetic.espeak import Espeak


def test_words_are_composed_letters_and_no_more():
  assert {'vi', 'sw', 'ta', 'ku', 'bn'} <= set(languages.LANGUAGES)
  assert len(languages.LANGUAGES) >= 7
  for code, language in languages.LANGUAGES.items():
    assert len(set(language.words)) == len(language.words) >= 35, code
    for word in language.words:
      assert unicodedata.is_normalized('NFC', word)
      assert all(unicodedata.category(c)[0] in 'LM' for c in word), word


def test_every_language_is_spoken():
  with Espeak() as voice:
    for code in languages.LANGUAGES:
      spec = languages.Spec(code, 30, words=(2, 2))
      u, again = (languages.draw(spec, 7, voice) for _ in range(2))
      assert len(u.text.split()) == 2
      assert 0.4 < len(u.samples_n) / 16_000 < 3
      assert len(u.phones) >= 3 and all(u.phones)
      assert not {'ˈ', 'ˌ', '\ufffd'} & set(''.join(u.phones))
      assert u.phones == again.phones
      assert (u.samples_n == again.samples_n).all()


def test_a_corpus_is_a_manifest(tmp_path):
  spec = languages.Spec('vi', 60, words=(1, 2))
  calls = []
  path = languages.written(tmp_path, spec, lambda *call: calls.append(call))
  assert calls[-1] == (60, 60) and len(calls) == 60
  assert languages.written(tmp_path, spec) == path  # as it is there
  assert [p.name for p in tmp_path.iterdir()] == [path.parent.name]
  rows = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
  speakers = {s: {r['speaker'] for r in rows if r['split'] == s}
              for s in languages.SPLITS}  # fmt: skip
  assert all(speakers.values())
  assert sum(map(len, speakers.values())) == len(set.union(*speakers.values()))
  heard, rate = soundfile.read(path.parent / rows[0]['audio_filepath'])
  assert rate == 16_000 and len(heard) / rate == rows[0]['duration']
  found = manifest.examine(path, manifest.Options(targets='characters'))
  assert not found.problems
  assert all(unicodedata.is_normalized('NFC', s) for s in found.symbols)
  # All words are in training, so nothing is unknown elsewhere.
  assert set(found.symbols) == set(' '.join(languages.LANGUAGES['vi'].words))
  few = languages.Spec('vi', 10)
  assert few.speakers == 10 and len(few.words_said) == 6
  other = languages.Spec('vi', 60, seed=1, words=(1, 2))
  assert other.digest != spec.digest


@pytest.mark.parametrize(
  'given, words',
  [
    ({'language': 'xx'}, "language 'xx': want one of vi, sw, ta, ku, bn"),
    ({'language': 'vi', 'utterances': 9}, 'utterances 9: at least 10'),
    ({'language': 'vi', 'words': (3, 2)}, r'words \(3, 2\)'),
  ],
)
def test_specs_that_mean_nothing(given, words):
  with pytest.raises(ValueError, match=words):
    languages.Spec(**given)


def test_every_launcher_can_have_it(tmp_path):
  given = {
    'corpus': 'synthetic_languages',
    'language': 'ta',
    'targets': 'characters',
    'synth_utterances': 100,
    'synth_words': ['1', '1'],
    'data_dir': str(tmp_path),
  }
  corpus_flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**given):
    corpus_flags.check()
    builder = corpus_flags.prepare()
    symbols = builder.info.metadata['alphabet']
    assert corpus_flags.metric(symbols) == 'CER'
    assert corpus_flags.prepare().data_dir == builder.data_dir
  assert set(symbols) <= set(''.join(languages.LANGUAGES['ta'].words))
  heard = list(corpus.utterances(builder, 'test'))
  assert all(''.join(symbols[v - 1] for v in u.labels) == u.text for u in heard)
  with (
    flagsaver.flagsaver(**given | {'language': 'xx'}),
    pytest.raises(ValueError, match="language 'xx': want one of vi, sw, ta"),
  ):
    corpus_flags.check()
