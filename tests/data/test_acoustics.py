"""Rooms, noises and channels, against what defines them."""

import numpy as np
import pytest

from nasjax.data.synthetic import acoustics


@pytest.mark.parametrize('noise', acoustics.NOISES)
@pytest.mark.parametrize('snr_db', [-5.0, 20.0])
def test_noise_is_as_loud_as_drawn(noise, snr_db):
  rng = np.random.default_rng(1)
  speech_t = np.zeros(20000, np.float32)
  speech_t[4000:16000] = rng.standard_normal(12000)
  conditions = acoustics.Conditions(snr_db, noise, 0.3, 6.0, 100.0, 4000.0, 0.0)
  heard_t, noise_t = acoustics.record(speech_t, (4000, 16000), conditions, rng)
  ratio = np.mean(heard_t[4000:16000] ** 2) / np.mean(noise_t**2)
  assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)
  assert len(heard_t) == len(noise_t) == 20000


@pytest.mark.parametrize(
  ('noise', 'slope_db'), [('white', 0.0), ('pink', -3.0), ('brown', -6.0)]
)
def test_noises_have_their_colour(noise, slope_db):
  """Decibels an octave, between 100 and 6,400 Hz."""
  speech_t = np.ones(160000, np.float32)
  conditions = acoustics.Conditions(0.0, noise, None, 0.0, None, None, 0.0)
  _, noise_t = acoustics.record(
    speech_t, (0, 160000), conditions, np.random.default_rng(2)
  )
  power_f = np.abs(np.fft.rfft(noise_t)) ** 2
  hertz_f = np.fft.rfftfreq(len(noise_t), 1 / 16000)
  levels = [
    10 * np.log10(power_f[(hertz_f >= low) & (hertz_f < 2 * low)].mean())
    for low in 100 * 2 ** np.arange(6)
  ]
  slope = np.polyfit(np.arange(6), levels, 1)[0]
  assert slope == pytest.approx(slope_db, abs=0.3)


def _impulse_response(conditions):
  impulse_t = np.zeros(32000, np.float32)
  impulse_t[16000] = 1.0
  heard_t, noise_t = acoustics.record(
    impulse_t, (0, 32000), conditions, np.random.default_rng(3)
  )
  assert not noise_t.any()
  return heard_t.astype(float)


@pytest.mark.parametrize('rt60', [0.2, 0.6])
def test_rooms_decay_in_the_time_drawn(rt60):
  conditions = acoustics.Conditions(None, 'white', rt60, 3.0, None, None, 0.0)
  response_t = _impulse_response(conditions)
  assert np.abs(response_t[:16000]).max() < 1e-5
  response_t = response_t[16000:]
  assert response_t[0] == pytest.approx(1.0, abs=1e-5)
  assert np.abs(response_t[1:30]).max() < 1e-5
  assert -10 * np.log10(np.sum(response_t[1:] ** 2)) == pytest.approx(
    3.0, abs=0.01
  )
  # Schroeder's backward integral falls from -5 to -25 dB in a third of rt60.
  decay_t = np.cumsum(response_t[:0:-1] ** 2)[::-1]
  decay_t = 10 * np.log10(decay_t / decay_t[0])
  span = np.argmax(decay_t < -25) - np.argmax(decay_t < -5)
  assert 3 * span / 16000 == pytest.approx(rt60, rel=0.1)


def test_channels_pass_their_band():
  conditions = acoustics.Conditions(None, 'white', None, 0.0, 300, 3400, 0.0)
  gain_f = np.abs(np.fft.rfft(_impulse_response(conditions)))[::2]
  gain_db = 20 * np.log10(gain_f + 1e-9)
  assert np.abs(gain_db[600:2000]).max() < 0.6
  assert gain_db[[300, 3400]] == pytest.approx(-3.0, abs=0.3)
  assert gain_db[75] < -20
  assert gain_db[6800] < -20


def test_without_conditions_speech_passes_unchanged():
  speech_t = np.random.default_rng(4).standard_normal(5000, dtype=np.float32)
  conditions = acoustics.Conditions(None, 'pink', None, 0.0, None, None, 0.0)
  heard_t, _ = acoustics.record(
    speech_t, (0, 5000), conditions, np.random.default_rng(5)
  )
  np.testing.assert_allclose(heard_t, speech_t, atol=1e-5)


def test_conditions_lie_in_their_ranges():
  rng = np.random.default_rng(6)
  drawn = [
    acoustics.draw_conditions(rng, (5.0, 25.0), (0.1, 0.5), True)
    for _ in range(200)
  ]
  assert {c.noise for c in drawn} == set(acoustics.NOISES)
  for name, low, high in (
    ('snr_db', 5, 25),
    ('rt60', 0.1, 0.5),
    ('low_hz', 30, 300),
    ('high_hz', 3400, 8000),
    ('peak_db', -18, -1),
  ):
    values = [getattr(c, name) for c in drawn]
    assert low <= min(values) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < max(values) <= high


def test_audio_peaks_where_drawn():
  audio_t = acoustics.quantise(np.array([0.5, -2.0, 1.0], np.float32), -6.0206)
  assert audio_t.dtype == np.int16
  np.testing.assert_allclose(audio_t, [4096, -16384, 8192], atol=2)
  loudest = acoustics.quantise(np.array([1e-9, -1e-9], np.float32), 0.0)
  assert loudest.tolist() == [32767, -32767]
