"""Log-mel features of 16 kHz speech, computed on the device.

Frames of 25 ms every 10 ms, without centring and without padding at the end;
a periodic Hann window; the power spectrum of 400 points; 80 triangular filters
between 0 and 8,000 Hz, with straight sides on the mel scale and peaks of one;
the natural logarithm of the energy plus 1e-10. No pre-emphasis, no dither.
These are the features of NAS-Bench-ASR (Mehrotra et al., ICLR 2021), TensorFlow
edition.

Every frame depends on its own 400 samples alone, so padding an utterance
changes none of its frames, and a corpus can be cut into blocks of any size.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 160
MELS = 80
FLOOR = 1e-10
VARIANCE_FLOOR = 1e-3
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
def mel_weights() -> np.ndarray:
  """Returns the float64 filters [201, 80] on the bins of the power spectrum.

  The scale is 1127 ln(1 + f / 700). Bin 0 (the constant part) has no weight in
  any filter, nor has bin 200 (8,000 Hz), where the last filter ends.
  """
  bins = WINDOW // 2 + 1
  mel_n = _hertz_to_mel(np.linspace(0.0, SAMPLE_RATE / 2, bins))
  edges = np.linspace(0.0, _hertz_to_mel(SAMPLE_RATE / 2), MELS + 2)
  left_f, centre_f, right_f = edges[:-2], edges[1:-1], edges[2:]
  rising_nf = (mel_n[:, None] - left_f) / (centre_f - left_f)
  falling_nf = (right_f - mel_n[:, None]) / (right_f - centre_f)
  weights_nf = np.maximum(0.0, np.minimum(rising_nf, falling_nf))
  weights_nf[[0, -1]] = 0.0
  weights_nf.flags.writeable = False  # shared by all callers
  return weights_nf


@functools.cache
def _window() -> np.ndarray:
  """Returns the periodic Hann window, float32 [400]."""
  turns_k = 2 * np.pi * np.arange(WINDOW) / WINDOW
  return (0.5 - 0.5 * np.cos(turns_k)).astype(np.float32)


def _as_float(samples):
  """Returns float32 in [-1, 1]; 16-bit integers are divided by 32,768."""
  if samples.dtype == jnp.int16:
    return samples.astype(jnp.float32) / 32768.0
  if not jnp.issubdtype(samples.dtype, jnp.floating):
    raise ValueError(
      f'samples have type {samples.dtype}: give int16, or floats in [-1, 1]'
    )
  return samples.astype(jnp.float32)


@jax.jit
def log_mel_of_frames(frames_nk: jax.Array) -> jax.Array:
  """Returns x_nf, float32 [frames, 80], of frames that are already cut.

  Args:
    frames_nk: [frames, 400], int16 or float in [-1, 1], not yet windowed.

  Raises:
    ValueError: samples of another type, or windows of another length.
  """
  if frames_nk.shape[-1] != WINDOW:
    raise ValueError(f'windows of {frames_nk.shape[-1]} samples, not {WINDOW}')
  spectrum_nk = jnp.fft.rfft(_as_float(frames_nk) * _window()[None, :])
  power_nk = jnp.square(spectrum_nk.real) + jnp.square(spectrum_nk.imag)
  # HIGHEST: accelerators would round the factors to 10 bits or fewer, and the
  # logarithm would show it.
  energy_nf = jnp.matmul(
    power_nk,
    mel_weights().astype(np.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.log(energy_nf + FLOOR)


@jax.jit
def log_mel(
  audio_bn: jax.Array, num_samples_b: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the features of a padded batch of utterances.

  Args:
    audio_bn: samples at 16 kHz, int16 or float in [-1, 1], padded at the end
      with anything.
    num_samples_b: samples of each utterance, at most the width of `audio_bn`.

  Returns:
    x_btf, float32 [batch, 1 + floor((N - 400) / 160), 80], not normalised, with
    zeros beyond each utterance's frames; and frames_b, int32. An utterance
    shorter than one window has no frame.

  Raises:
    ValueError: samples that are neither int16 nor floating point.
  """
  batch, width = audio_bn.shape
  frames = num_frames(width)
  if not frames:
    empty_btf = jnp.zeros((batch, 0, MELS), jnp.float32)
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
  x_btf = log_mel_of_frames(frames_btk.reshape(-1, WINDOW))
  x_btf = x_btf.reshape(batch, frames, MELS)
  frames_b = jnp.clip(num_frames(num_samples_b), 0, frames).astype(jnp.int32)
  valid_bt = jnp.arange(frames)[None, :] < frames_b[:, None]
  return jnp.where(valid_bt[:, :, None], x_btf, 0.0), frames_b


def statistics(x_nf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean_f and variance_f, float32, over the frames of a split.

  Summed in float64, in blocks, with the mean known before the squares are
  taken: float32 sums over a million frames would lose digits.

  Raises:
    ValueError: no frame to average, or a feature that is not finite.
  """
  if not len(x_nf):
    raise ValueError('no frame to take statistics of')
  blocks = [x_nf[i : i + 16_384] for i in range(0, len(x_nf), 16_384)]
  mean_f = sum(b.sum(0, dtype=np.float64) for b in blocks) / len(x_nf)
  squares = (np.square(b.astype(np.float64) - mean_f).sum(0) for b in blocks)
  variance_f = sum(squares) / len(x_nf)
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
