"""From eSpeak NG's events to TIMIT's phones with times."""

import itertools

import numpy as np
import pytest

from nasjax.data import phones
from nasjax.data.synthetic import espeak, espeak_phones, sentences, synthesis


@pytest.fixture(scope='module')
def voice():
  with espeak.Espeak() as process:
    yield process


def test_every_word_in_every_accent_has_phones(voice):
  """And together they have all 48 classes."""
  words = sentences.vocabulary(sentences.GRAMMARS['full'])
  for grammar in sentences.GRAMMARS.values():
    words = tuple(sorted({*words, *sentences.vocabulary(grammar)}))
  found = set()
  for accent in synthesis.ACCENTS.values():
    for i in range(0, len(words), 12):
      text = ' '.join(words[i : i + 6]) + ', ' + ' '.join(words[i + 6 : i + 12])
      speech = voice.say(text + '.', accent + '+m3')
      alignment = espeak_phones.align(espeak_phones.pad(speech, 0.1, 0.1))
      found.update(alignment.phones)
  assert found <= set(phones.PHONES_61)
  folded = phones.fold(found, phones.FOLD_61_TO_48)
  assert set(folded) == set(phones.PHONES_48)


def test_every_voice_speaks_and_is_silent_between_phones(voice):
  """Closures are read from exact silence, which an echo would fill."""
  for variant in itertools.chain(*synthesis.VOICES.values()):
    speech = voice.say('a shop, apart.', f'en+{variant}')
    alignment = espeak_phones.align(espeak_phones.pad(speech, 0.1, 0.1))
    assert ' '.join(alignment.phones) in (
      'h# ax sh ao pcl p pau ax pcl p aa tcl t h#',
      'h# ae sh ao pcl p pau ax pcl p aa tcl t h#',
      'h# ey sh ao pcl p pau ax pcl p aa tcl t h#',
    ), variant


def test_a_phone_without_a_counterpart_is_named(voice):
  speech = espeak_phones.pad(voice.say('Bach', 'de+m3'), 0.1, 0.1)
  with pytest.raises(ValueError, match="'x'"):
    espeak_phones.align(speech)


def _speech(*events):
  """Makes speech at 1,000 Hz from (name, loud ms, then silent ms)."""
  audio, marks = [], []
  for name, loud, silent in events:
    if name is not None:
      marks.append((sum(map(len, audio)), name))
    audio += [np.full(loud, 5000), np.zeros(silent)]
  return espeak.Speech(
    np.concatenate(audio).astype(np.int16), 1000, tuple(marks)
  )


@pytest.mark.parametrize(
  ('events', 'expected'),
  [
    # The silence before a stop is its closure.
    (
      [('ɐ', 100, 30), ('ˈtʃ', 60, 0), ('ˌɪ', 50, 0)],
      'h# 0 ax 80 tcl 180 ch 210 ih 270 h# 320',
    ),
    # Without silence, 60 % of the stop, at most 45 ms.
    (
      [('a', 100, 0), ('b', 50, 0), ('a', 50, 0), ('dʒ', 130, 0)],
      'h# 0 ae 80 bcl 180 b 210 ae 230 dcl 280 jh 325 h# 410',
    ),
    # After a pause, and at the start, 50 ms.
    (
      [('k', 40, 0), ('i', 60, 20), ('', 0, 100), ('t', 40, 0)],
      'h# 0 kcl 30 k 80 iy 120 pau 180 tcl 250 t 300 h# 340',
    ),
    # A pause of no more than the closure leaves no pau.
    (
      [('s', 90, 0), ('', 0, 60), ('p', 40, 0)],
      'h# 0 s 80 pcl 170 p 230 h# 270',
    ),
    # Silence before other phones: long enough, too short, a pause.
    (
      [('s', 90, 20), ('n', 50, 10), ('ð', 50, 5), ('', 0, 40), ('m', 50, 0)],
      'h# 0 s 80 epi 170 n 190 dh 250 pau 300 m 345 h# 395',
    ),
    # Two phones of one event; a phone of no length; a glottal stop.
    (
      [
        ('ɔːɹ', 100, 0),
        ('ɛ', 100, 0),
        ('l', 0, 0),
        ('v', 50, 30),
        ('ʔ', 0, 20),
      ],
      'h# 0 ao 80 r 140 eh 180 l 240 v 280 q 330 h# 380',
    ),
    # A glide without a name belongs to the phone before.
    (
      [('i', 50, 0), ('', 50, 0), ('ʌ', 50, 0)],
      'h# 0 iy 80 ah 180 h# 230',
    ),
  ],
)
def test_times_worked_out_by_hand(events, expected):
  speech = _speech((None, 0, 80), *events, ('', 0, 70))
  alignment = espeak_phones.align(speech)
  pairs = zip(alignment.phones, alignment.bounds.tolist())
  assert ' '.join(f'{phone} {start}' for phone, start in pairs) == expected
  assert alignment.bounds[-1] == len(speech.audio_t)


def test_speech_needs_silence_before_it():
  with pytest.raises(ValueError, match='begins with ax; pad it'):
    espeak_phones.align(_speech(('ə', 50, 50)))
  with pytest.raises(ValueError, match='no sound'):
    espeak_phones.align(_speech((None, 0, 50)))
