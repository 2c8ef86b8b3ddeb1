"""eSpeak NG in its own process: determinism, voices, failures."""

import numpy as np
import pytest

from nasjax.data.synthetic import espeak


@pytest.fixture(scope='module')
def voice():
  with espeak.Espeak() as process:
    yield process


def test_speech_does_not_depend_on_what_was_said_before(voice):
  text = 'the little bottle of water, and a button.'
  first = voice.say(text, 'en-us+m3', rate=190, pitch=40)
  voice.say('something else', 'en-029+Annie', rate=300, pitch=90)
  second = voice.say(text, 'en-us+m3', rate=190, pitch=40)
  with espeak.Espeak() as other:
    third = other.say(text, 'en-us+m3', rate=190, pitch=40)
  for again in (second, third):
    assert np.array_equal(first.audio_t, again.audio_t)
    assert first.events == again.events
  assert len(first.audio_t) > first.rate


def test_rate_and_pitch_are_heard(voice):
  slow = voice.say('measure the garden', 'en-us+m3', rate=120)
  fast = voice.say('measure the garden', 'en-us+m3', rate=240)
  assert len(slow.audio_t) > 1.5 * len(fast.audio_t)

  def fundamental(speech):
    signal = speech.audio_t.astype(float)
    spectrum = np.abs(np.fft.rfft(signal, 2 * len(signal))) ** 2
    autocorrelation = np.fft.irfft(spectrum)
    lags = np.arange(speech.rate // 400, speech.rate // 60)
    return speech.rate / lags[np.argmax(autocorrelation[lags])]

  low = voice.say('loyal owl', 'en-us+f1', pitch=20, pitch_range=0)
  high = voice.say('loyal owl', 'en-us+f1', pitch=70, pitch_range=0)
  assert fundamental(high) > 1.5 * fundamental(low)


def test_an_unknown_voice_is_named_and_the_process_lives_on(voice):
  with pytest.raises(RuntimeError, match="no voice 'en-xx'"):
    voice.say('yes', 'en-xx')
  assert len(voice.say('yes', 'en-us+m3').audio_t)


def test_a_process_that_cannot_start_says_what_to_install(
  tmp_path, monkeypatch
):
  broken = tmp_path / 'broken.py'
  broken.write_text('raise SystemExit(1)')
  monkeypatch.setattr(espeak, '_WORKER', broken)
  with pytest.raises(RuntimeError, match='pip install espeakng-loader'):
    espeak.Espeak()


def test_a_process_that_died_is_reported():
  process = espeak.Espeak()
  process._process.kill()
  process._process.wait()
  with pytest.raises(RuntimeError, match='eSpeak NG'):
    process.say('yes', 'en-us')
  process.close()
