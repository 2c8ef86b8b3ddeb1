"""Log-mel features of 16 kHz speech, computed on the device.

Frames of 25 ms every 10 ms, without centring and without padding at the end;
a periodic Hann window (or Hamming's); the power spectrum of 400 points;
triangular filters (80 if not said otherwise) between 0 and 8,000 Hz, with
straight sides on the mel scale and peaks of one; the natural logarithm of the
energy plus 1e-10. No pre-emphasis, no dither. With 80 filters these are the
features of NAS-Bench-ASR (Mehrotra et al., ICLR 2021), TensorFlow edition.

Every frame depends on its own 400 samples alone, so padding an utterance
changes none of its frames, and a corpus can be cut into blocks of any size.
"""

import functools
import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 160
MELS = 80
FLOOR = 1e-10
VARIANCE_FLOOR = 1e-3
# By name: a - b cos(x).
WINDOWS = {'hann': (0.5, 0.5), 'hamming': (0.54, 0.46)}
# The slope of a straight line through five frames; and its slope.
_DELTA_K = np.arange(-2, 3) / 10
_DELTA_TAPS = (_DELTA_K, np.convolve(_DELTA_K, _DELTA_K))
_STEP = math.gcd(WINDOW, HOP)


def num_frames(num_samples):
  """Returns 1 + floor((N - 400) / 160), or 0 below one window.

  Works on Python integers and on integer arrays of NumPy and JAX.
  """
  frames = 1 + (num_samples - WINDOW) // HOP
  return frames * (num_samples >= WINDOW)


def _hertz_to_mel(hertz):
  return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


@functools.cache
def mel_weights(mels: int = MELS) -> np.ndarray:
  """Returns the float64 filters [201, mels] on the bins of the power spectrum.

  The scale is 1127 ln(1 + f / 700). Bin 0 (the constant part) has no weight in
  any filter, nor has bin 200 (8,000 Hz), where the last filter ends.

  Raises:
    ValueError: so many filters that one lies between two bins, or none at all.
  """
  if mels < 1:
    raise ValueError(f'{mels} mel filters: take at least one')
  bins = WINDOW // 2 + 1
  mel_n = _hertz_to_mel(np.linspace(0.0, SAMPLE_RATE / 2, bins))
  edges = np.linspace(0.0, _hertz_to_mel(SAMPLE_RATE / 2), mels + 2)
  left_f, centre_f, right_f = edges[:-2], edges[1:-1], edges[2:]
  rising_nf = (mel_n[:, None] - left_f) / (centre_f - left_f)
  falling_nf = (right_f - mel_n[:, None]) / (right_f - centre_f)
  weights_nf = np.maximum(0.0, np.minimum(rising_nf, falling_nf))
  weights_nf[[0, -1]] = 0.0
  empty = np.flatnonzero(~weights_nf.any(axis=0))
  if empty.size:
    raise ValueError(
      f'{mels} mel filters: {empty.size} of them, from number {empty[0]} on, '
      f'fall between bins {SAMPLE_RATE // WINDOW} Hz apart; take fewer'
    )
  weights_nf.flags.writeable = False  # shared by all callers
  return weights_nf


@functools.cache
def window(kind: str = 'hann') -> np.ndarray:
  """Returns a periodic window, float32 [400]: 'hann', or 'hamming'.

  Hamming's, which NAS-Bench-ASR takes for LibriSpeech, ends at 0.08, not at 0.

  Raises:
    ValueError: no such window.
  """
  if kind not in WINDOWS:
    raise ValueError(f'window {kind!r}: want one of {", ".join(WINDOWS)}')
  floor, swing = WINDOWS[kind]
  turns_k = 2 * np.pi * np.arange(WINDOW) / WINDOW
  return (floor - swing * np.cos(turns_k)).astype(np.float32)


def _as_float(samples):
  """Returns float32 in [-1, 1]; 16-bit integers are divided by 32,768."""
  if samples.dtype == jnp.int16:
    return samples.astype(jnp.float32) / 32768.0
  if not jnp.issubdtype(samples.dtype, jnp.floating):
    raise ValueError(
      f'samples have type {samples.dtype}: give int16, or floats in [-1, 1]'
    )
  return samples.astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=('mels', 'kind'))
def log_mel_of_frames(
  frames_nk: jax.Array, mels: int = MELS, kind: str = 'hann'
) -> jax.Array:
  """Returns x_nf, float32 [frames, mels], of frames that are already cut.

  Args:
    frames_nk: [frames, 400], int16 or float in [-1, 1], not yet windowed.
    mels: number of filters.
    kind: of `window`.

  Raises:
    ValueError: samples of another type, or windows of another length.
  """
  if frames_nk.shape[-1] != WINDOW:
    raise ValueError(f'windows of {frames_nk.shape[-1]} samples, not {WINDOW}')
  spectrum_nk = jnp.fft.rfft(_as_float(frames_nk) * window(kind)[None, :])
  power_nk = jnp.square(spectrum_nk.real) + jnp.square(spectrum_nk.imag)
  # HIGHEST: accelerators would round the factors to 10 bits or fewer, and the
  # logarithm would show it.
  energy_nf = jnp.matmul(
    power_nk,
    mel_weights(mels).astype(np.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.log(energy_nf + FLOOR)


@functools.partial(jax.jit, static_argnames='mels')
def log_mel(
  audio_bn: jax.Array, num_samples_b: jax.Array, mels: int = MELS
) -> tuple[jax.Array, jax.Array]:
  """Returns the features of a padded batch of utterances.

  Args:
    audio_bn: samples at 16 kHz, int16 or float in [-1, 1], padded at the end
      with anything.
    num_samples_b: samples of each utterance, at most the width of `audio_bn`.
    mels: number of filters.

  Returns:
    x_btf, float32 [batch, 1 + floor((N - 400) / 160), mels], not normalised,
    with zeros beyond each utterance's frames; and frames_b, int32. An utterance
    shorter than one window has no frame.

  Raises:
    ValueError: samples that are neither int16 nor floating point.
  """
  chex.assert_rank(audio_bn, 2)
  chex.assert_shape(num_samples_b, audio_bn.shape[:1])
  batch, width = audio_bn.shape
  frames = num_frames(width)
  if not frames:
    empty_btf = jnp.zeros((batch, 0, mels), jnp.float32)
    return empty_btf, jnp.zeros(batch, jnp.int32)
  # A window is 5 and a hop is 2 steps of 80 samples: strided slices cut the
  # frames, and no gather is needed.
  steps = WINDOW // _STEP + (frames - 1) * HOP // _STEP
  audio_bsk = audio_bn[:, : steps * _STEP].reshape(batch, steps, _STEP)
  stride = HOP // _STEP
  pieces = [
    audio_bsk[:, first : first + (frames - 1) * stride + 1 : stride]
    for first in range(WINDOW // _STEP)
  ]
  frames_btk = jnp.concatenate(pieces, axis=-1)
  x_btf = log_mel_of_frames(frames_btk.reshape(-1, WINDOW), mels)
  x_btf = x_btf.reshape(batch, frames, mels)
  frames_b = jnp.clip(num_frames(num_samples_b), 0, frames).astype(jnp.int32)
  valid_bt = jnp.arange(frames)[None, :] < frames_b[:, None]
  return jnp.where(valid_bt[:, :, None], x_btf, 0.0), frames_b


def statistics(x_nf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean_f and variance_f, float32, over the frames of a split.

  Raises:
    ValueError: no frame to average, or a feature that is not finite.
  """
  return pooled_statistics(
    [x_nf[i : i + 16_384] for i in range(0, len(x_nf), 16_384)]
  )


def pooled_statistics(
  pieces: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean_f and variance_f, float32, over the frames of all pieces.

  Summed in float64, a piece [frames, features] at a time, with the mean known
  before the squares are taken: float32 sums over a million frames would lose
  digits.

  Raises:
    ValueError: no frame to average, or a feature that is not finite.
  """
  frames = sum(map(len, pieces))
  if not frames:
    raise ValueError('no frame to take statistics of')
  mean_f = sum(x_nf.sum(0, dtype=np.float64) for x_nf in pieces) / frames
  squares = (np.square(x.astype(np.float64) - mean_f).sum(0) for x in pieces)
  variance_f = sum(squares) / frames
  if not np.isfinite(variance_f).all():
    raise ValueError(
      f'dimensions {np.flatnonzero(~np.isfinite(variance_f)).tolist()} hold '
      'features that are not finite: look for such samples in the audio'
    )
  return mean_f.astype(np.float32), variance_f.astype(np.float32)


def normalise(x, mean_f, variance_f):
  """Returns (x - mean) / sqrt(variance + 1e-3), over the last axis of x."""
  rank = (1,) * (x.ndim - 1)
  scale_f = 1.0 / np.sqrt(np.asarray(variance_f, np.float32) + VARIANCE_FLOOR)
  mean_f = np.asarray(mean_f, np.float32)
  shape = (*rank, mean_f.size)
  return (x - mean_f.reshape(shape)) * scale_f.astype(np.float32).reshape(shape)


def deltas(x_tf: np.ndarray) -> np.ndarray:
  """Returns the slopes of an utterance's features over time, and their slopes.

  A delta is the slope of the straight line that fits frames t - 2 to t + 2
  best, in units a frame. The delta-delta applies the same five taps twice, as
  one filter of nine, so frames missing at the ends are copies of the first and
  last of `x_tf`, never of a delta. This is what Kaldi's add-deltas computes.

  Args:
    x_tf: floats [frames, features].

  Returns:
    [frames, 2 * features] of the same type: all deltas, then all delta-deltas.

  Raises:
    ValueError: no frame.
  """
  frames, width = x_tf.shape
  if not frames:
    raise ValueError('no frame to take the deltas of')
  y_tf = np.zeros((frames, 2 * width), x_tf.dtype)
  for order, taps_k in enumerate(_DELTA_TAPS):
    reach = len(taps_k) // 2
    padded_nf = np.pad(x_tf, ((reach, reach), (0, 0)), mode='edge')
    sums_tf = y_tf[:, order * width : (order + 1) * width]
    for k, tap in enumerate(taps_k.tolist()):
      sums_tf += tap * padded_nf[k : k + frames]
  return y_tf
