"""Tests of nasjax/data/pitch.py on sounds whose pitch is known."""

import itertools

import numpy as np
import pytest
import soundfile

from nasjax.data import audio, features, pitch

RATE = features.SAMPLE_RATE


def voiced(hertz_n, partials=6):
  """Returns int16 samples of a sound of some pitch at each of them."""
  turns_n = 2 * np.pi * np.cumsum(hertz_n) / RATE
  x = sum(np.sin(k * turns_n) / k for k in range(1, partials))
  return (8_000 * x / np.abs(x).max()).astype(np.int16)


def tone(hertz, seconds=1.0):
  time_n = np.arange(int(RATE * seconds)) / RATE
  return (8_000 * np.sin(2 * np.pi * hertz * time_n)).astype(np.int16)


# Lags are 0.5 % apart; a hum of 60 Hz is flat around its period, and its lags
# look at what is behind the end.
@pytest.mark.parametrize('hertz', [60, 100, 155.5, 220, 333, 390])
@pytest.mark.parametrize('sound', [tone, lambda f: voiced(np.full(RATE, f))])
def test_tones(hertz, sound):
  found = pitch.track(sound(hertz))
  assert found.hertz_t.shape == found.nccf_t.shape == (98,)
  apart_t = np.abs(found.hertz_t - hertz)
  assert apart_t[:-3].max() <= (0.0125 if hertz == 60 else 0.0075) * hertz
  assert apart_t.max() <= 0.0225 * hertz
  assert found.nccf_t[:-3].min() > 0.97
  x_tf = pitch.of(sound(hertz))
  assert x_tf.shape == (98, 3) and x_tf.dtype == np.float32
  # A straight pitch is its own mean, and has no slope.
  assert np.abs(x_tf[5:-5, 1:]).max() < 0.05


def test_a_glide_of_an_octave():
  hertz_n = 100 * 2.0 ** (np.arange(RATE) / RATE)
  samples_n = voiced(hertz_n)
  centre_t = hertz_n[features.WINDOW // 2 :: features.HOP][:98]
  found = pitch.track(samples_n)
  assert np.abs(found.hertz_t / centre_t - 1).max() < 0.0125
  x_tf = pitch.of(samples_n)
  # ln 2 a second, in 100 frames: times 10; and a mean of what is around.
  slope = 10 * np.log(2) / 100
  np.testing.assert_allclose(x_tf[5:-5, 2].mean(), slope, rtol=0.03)
  want_t = 2 * (np.log(centre_t) - [
    np.log(centre_t[max(0, t - 75) : t + 76]).mean() for t in range(98)
  ])  # fmt: skip
  np.testing.assert_allclose(x_tf[:, 1], want_t, atol=0.03)


def test_the_path_is_the_cheapest_of_all():
  rng = np.random.default_rng(0)
  local_tl = rng.uniform(0, 1e-4, (5, 4)).astype(np.float32)
  apart_l = np.arange(4) * np.log1p(0.005)

  def cost(path):
    moves = np.diff(apart_l[list(path)])
    return local_tl[range(5), list(path)].sum() + 0.1 * (moves**2).sum()

  want = min(itertools.product(range(4), repeat=5), key=cost)
  assert len(set(want)) > 1
  assert pitch._path(local_tl).tolist() == list(want)


def test_silence_and_noise_are_not_voiced():
  np.testing.assert_allclose(
    pitch.of(np.zeros(RATE // 2, np.int16)), 0, atol=1e-4
  )
  rng = np.random.default_rng(0)
  noise = pitch.track((3_000 * rng.normal(size=RATE)).astype(np.int16))
  assert pitch.voicing(noise.nccf_t).mean() < 0.35
  hum = pitch.track(tone(150))
  assert pitch.voicing(hum.nccf_t[:-3]).min() > 0.95
  # Silence in between: finite, and the path finds the tone again.
  gap = np.concatenate([tone(150, 0.3), np.zeros(4_800, np.int16), tone(150)])
  found = pitch.track(gap)
  assert np.isfinite(pitch.of(gap)).all()
  assert np.abs(found.hertz_t[62:-3] - 150).max() < 1.2


def test_scale_does_not_matter_and_short_recordings_do():
  loud, quiet = pitch.of(tone(200)), pitch.of(tone(200) // 16)
  np.testing.assert_allclose(loud, quiet, atol=0.05)
  for samples in (400, 559, 560, 801):
    x_tf = pitch.of(tone(200)[:samples])
    assert x_tf.shape == (features.num_frames(samples), 3)
    assert np.isfinite(x_tf).all()
  with pytest.raises(ValueError, match='399 samples: no frame of 400'):
    pitch.of(tone(200)[:399])


def test_recordings_of_8_khz(tmp_path):
  time_n = np.arange(8_000) / 8_000
  x = 0.3 * np.sin(2 * np.pi * 180 * time_n)
  soundfile.write(tmp_path / 'a.wav', x, 8_000)
  heard = audio.read(tmp_path / 'a.wav')
  found = pitch.track(audio.at_16_khz(heard))
  assert np.abs(found.hertz_t[:-3] - 180).max() < 0.0075 * 180
