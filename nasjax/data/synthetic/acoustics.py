"""Rooms, noises and channels that make clean synthetic speech hard again.

All is linear and drawn from a NumPy generator, so that it is reproducible:

  room     the direct sound, then a tail of noise that decays by 60 dB in `rt60`
           seconds. The direct sound is not delayed: phone times stay true.
  noise    one of four colours, scaled to a signal-to-noise ratio. The ratio is
           that of mean powers, after the channel, of the reverberant speech
           between first and last phone and of the noise.
  channel  a band from `low_hz` to `high_hz`, second order below and fourth
           above, without delay; then a gain to a drawn peak, and 16 bits.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft

SAMPLE_RATE = 16000

# Power falls as f to minus this; babble is made of the speech itself.
_SLOPES = {'white': 0.0, 'pink': 1.0, 'brown': 2.0}
NOISES = (*_SLOPES, 'babble')
_BABBLE_VOICES = 12
_PREDELAY = 0.002  # Seconds from the direct sound to the tail.
_FULL_SCALE = 32767


class Conditions(NamedTuple):
  """What lies between a speaker and the recording.

  Attributes:
    snr_db: signal-to-noise ratio in dB; None for no noise.
    noise: one of `NOISES`.
    rt60: reverberation time in seconds; None for no room.
    direct_db: energy of the direct sound over that of the tail, in dB.
    low_hz, high_hz: limits of the channel, -3 dB; None for no limits.
    peak_db: peak of the recording against full scale, in dB.
  """

  snr_db: float | None
  noise: str
  rt60: float | None
  direct_db: float
  low_hz: float | None
  high_hz: float | None
  peak_db: float


def draw_conditions(
  rng: np.random.Generator,
  snr_db: tuple[float, float] | None,
  rt60: tuple[float, float] | None,
  band_limit: bool,
) -> Conditions:
  """Draws conditions, uniformly in dB, seconds and the logarithm of Hz.

  Args:
    rng: source of randomness.
    snr_db: range of signal-to-noise ratios in dB; None for no noise.
    rt60: range of reverberation times in seconds; None for no rooms.
    band_limit: whether recordings have limits: 30 to 300 Hz below, 3,400 to
      8,000 Hz above (the ends together are a telephone's).
  """
  # Every number is drawn, used or not: switching one effect off leaves the
  # others as they were.
  snr, room, direct, low, high, peak = rng.uniform(size=6).tolist()
  noise = NOISES[rng.integers(len(NOISES))]
  return Conditions(
    snr_db=None if snr_db is None else _between(snr_db, snr),
    noise=noise,
    rt60=None if rt60 is None else _between(rt60, room),
    direct_db=_between((0.0, 12.0), direct),
    low_hz=30.0 * 10.0**low if band_limit else None,
    high_hz=3400.0 * (8000.0 / 3400.0) ** high if band_limit else None,
    peak_db=_between((-18.0, -1.0), peak),
  )


def _between(limits: tuple[float, float], fraction: float) -> float:
  return limits[0] + fraction * (limits[1] - limits[0])


def record(
  speech_t: np.ndarray,
  spoken: tuple[int, int],
  conditions: Conditions,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what a microphone hears, speech and noise apart.

  Args:
    speech_t: float32 clean speech at 16 kHz.
    spoken: first and last sample (exclusive) of the words in it.
    conditions: room, noise and channel.
    rng: source of the room's tail and the noise.

  Returns:
    (speech_t, noise_t), float32; `quantise` their sum.
  """
  samples = len(speech_t)
  tail = 0 if conditions.rt60 is None else round(conditions.rt60 * SAMPLE_RATE)
  size = scipy.fft.next_fast_len(samples + tail, real=True)
  frequencies_f = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
  channel_f = _channel(frequencies_f, conditions.low_hz, conditions.high_hz)
  speech_f = scipy.fft.rfft(speech_t, size) * channel_f
  if tail:
    room_t = _room(tail, conditions.direct_db, rng)
    speech_f *= scipy.fft.rfft(room_t, size)
  heard_t = scipy.fft.irfft(speech_f, size)[:samples]
  if conditions.snr_db is None:
    return heard_t, np.zeros_like(heard_t)
  if conditions.noise == 'babble':
    noise_f = scipy.fft.rfft(_babble(speech_t, rng), size)
  else:
    noise_f = _coloured(frequencies_f, _SLOPES[conditions.noise], rng)
  noise_t = scipy.fft.irfft(noise_f * channel_f, size)[:samples]
  first, last = spoken
  speech_power = np.mean(np.square(heard_t[first:last], dtype=np.float64))
  noise_power = np.mean(np.square(noise_t, dtype=np.float64))
  wanted = speech_power / 10.0 ** (conditions.snr_db / 10.0)
  return heard_t, noise_t * np.float32(np.sqrt(wanted / noise_power))


def quantise(audio_t: np.ndarray, peak_db: float) -> np.ndarray:
  """Returns int16 audio whose largest sample is `peak_db` below full scale."""
  peak = _FULL_SCALE * 10.0 ** (peak_db / 20.0)
  scale = np.float32(peak / np.abs(audio_t).max())
  return np.rint(audio_t * scale).astype(np.int16)


def _channel(frequencies_f, low_hz, high_hz):
  """Returns the channel's gain by frequency; it has no phase."""
  if low_hz is None:
    return np.float32(1.0)
  above_f = (frequencies_f / np.float32(high_hz)) ** 2
  below_f = (np.float32(low_hz) / np.maximum(frequencies_f, 1.0)) ** 2
  return 1.0 / np.sqrt((1.0 + above_f**4) * (1.0 + below_f**2))


def _room(tail, direct_db, rng):
  """Returns an impulse response: a unit impulse and a decaying tail."""
  room_t = rng.standard_normal(tail, dtype=np.float32)
  room_t *= np.exp(np.linspace(0.0, -3.0 * np.log(10.0), tail)).astype('f4')
  room_t[: round(_PREDELAY * SAMPLE_RATE)] = 0.0
  energy = np.sum(np.square(room_t, dtype=np.float64))
  room_t *= np.float32(np.sqrt(10.0 ** (-direct_db / 10.0) / energy))
  room_t[0] = 1.0
  return room_t


def _coloured(frequencies_f, slope, rng):
  """Returns the spectrum of noise whose power falls as f^-slope above 20 Hz."""
  noise_f = rng.standard_normal(2 * len(frequencies_f), dtype=np.float32).view(
    np.complex64
  )
  if slope:
    noise_f *= np.maximum(frequencies_f, 20.0) ** np.float32(-slope / 2)
  noise_f[0] = 0.0
  return noise_f


def _babble(speech_t, rng):
  """Returns many voices: the speech itself, backwards, from random places."""
  babble_t = np.zeros_like(speech_t)
  backwards_t = speech_t[::-1]
  for shift in rng.integers(len(speech_t), size=_BABBLE_VOICES):
    babble_t += np.roll(backwards_t, shift)
  return babble_t
