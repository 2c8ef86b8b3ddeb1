"""Pitch of speech: three features a frame, after Ghahremani et al. 2014.

A pitch extraction algorithm tuned for automatic speech recognition (ICASSP
2014), with the numbers that Kaldi took from it. Speech goes down to 4 kHz,
below 1 kHz. In each frame the 25 ms that the log-mel energies are of are held
against the same length some lag later, by their normalised cross-correlation
(NCCF), at all lags from 2 to 20 ms (500 to 50 Hz); sinc interpolation takes it
to 417 lags from 2.5 to 20 ms, 0.5 % apart. The pitch is the path of least cost
through them (Viterbi): 1 - NCCF (1 - 10 Hz * lag), so that of multiples of a
period the shortest wins, plus 0.1 times the squared change of ln lag from a
frame to the next. For the path the NCCF is weakened by 7,000 times the square
of the recording's mean energy under its root, so quiet frames follow loud ones.

What Kaldi does otherwise: it reckons the mean energy as a recording comes in
and leaves out the last frames, whose lags would end behind the recording. Here
it is that of the whole, and what is behind the end is silence: there are as
many frames as of the energies.
"""

import functools
from typing import NamedTuple

import numpy as np

from nasjax.data import features

WIDTH = 3  # features a frame
LOWEST, HIGHEST = 50.0, 400.0  # Hz
_RATE = 4_000
_CUTOFF = 1_000.0
_STEP = 0.005
_ZEROS = 5  # of the sinc that interpolates, to each side
_SOFT_LOWEST = 10.0
_BALLAST = 7_000.0
_PENALTY = 0.1
# Frames to each side whose mean is taken off the log pitch: 1.5 s in all.
_CONTEXT = 75


class Track(NamedTuple):
  """The pitch of a recording.

  Attributes:
    hertz_t: of each frame, also where nothing is voiced: the path goes on.
    nccf_t: -1 to 1, how much the signal repeats itself at that pitch, without
      what weakens it for the path; 0 in digital silence.
  """

  hertz_t: np.ndarray
  nccf_t: np.ndarray


def _sinc(seconds, cutoff, zeros):
  """Returns a windowed low-pass at some times, per second."""
  inside = np.abs(seconds) < zeros / (2 * cutoff)
  hann = 0.5 * (1 + np.cos(2 * np.pi * cutoff / zeros * seconds))
  return np.where(
    inside, hann * 2 * cutoff * np.sinc(2 * cutoff * seconds), 0.0
  )


def _downsampled(samples_n):
  """Returns a recording at 4 kHz, float64 of about [-1, 1]."""
  ratio = features.SAMPLE_RATE // _RATE
  reach = round(features.SAMPLE_RATE / (2 * _CUTOFF))
  seconds_k = np.arange(-reach, reach + 1) / features.SAMPLE_RATE
  taps_k = _sinc(seconds_k, _CUTOFF, 1) / features.SAMPLE_RATE
  samples_n = np.asarray(samples_n, np.float64)
  return np.convolve(samples_n, taps_k, 'same')[::ratio]


@functools.cache
def _lags():
  """Returns the lags measured, in samples; those of the path, in seconds; and
  what interpolates, [measured, path]."""
  margin = _ZEROS / (2 * _RATE)
  first = int(np.ceil(_RATE * (1 / HIGHEST - margin)))
  last = int(np.floor(_RATE * (1 / LOWEST + margin)))
  measured = np.arange(first, last + 1)
  count = 1 + int(np.log(HIGHEST / LOWEST) / np.log1p(_STEP))
  lag_l = (1 + _STEP) ** np.arange(count) / HIGHEST
  apart_ml = lag_l[None] - measured[:, None] / _RATE
  return measured, lag_l, _sinc(apart_ml, _RATE / 2, _ZEROS) / _RATE


def _correlations(wave_n, frames):
  """Returns inner products and products of energies, [frames, lags]."""
  measured, _, _ = _lags()
  window = features.WINDOW * _RATE // features.SAMPLE_RATE
  hop = features.HOP * _RATE // features.SAMPLE_RATE
  whole = window + measured[-1]
  missing = max(0, (frames - 1) * hop + whole - len(wave_n))
  wave_n = np.pad(wave_n, (0, missing))
  view_tk = np.lib.stride_tricks.sliding_window_view(wave_n, whole)
  x_tk = view_tk[::hop][:frames]
  x_tk = x_tk - x_tk[:, :window].mean(1, keepdims=True)
  lagged_tmk = np.lib.stride_tricks.sliding_window_view(x_tk, window, axis=1)
  # A view: a copy of an hour's would take 20 GB.
  lagged_tmk = lagged_tmk[:, measured[0] :]
  inner_tm = np.einsum('tk,tmk->tm', x_tk[:, :window], lagged_tmk)
  energy_tm = np.einsum('tmk,tmk->tm', lagged_tmk, lagged_tmk)
  own_t1 = np.square(x_tk[:, :window]).sum(1, keepdims=True)
  return inner_tm, own_t1 * energy_tm


def _ratio(inner_tm, product_tm):
  return inner_tm / np.sqrt(np.where(product_tm > 0, product_tm, 1.0))


def _path(local_tl):
  """Returns the lag of each frame on the path of least cost, int [frames]."""
  frames, count = local_tl.shape
  apart_l = np.arange(count) * np.log1p(_STEP)
  move_ll = _PENALTY * np.square(apart_l[:, None] - apart_l[None])
  move_ll = move_ll.astype(np.float32)
  cost_l, from_tl = local_tl[0], np.zeros((frames, count), np.int32)
  for t in range(1, frames):
    total_ll = move_ll + cost_l[None]
    from_tl[t] = total_ll.argmin(1)
    cost_l = local_tl[t] + total_ll[np.arange(count), from_tl[t]]
    cost_l -= cost_l.min()  # single precision stays fine
  lag_t = np.zeros(frames, np.int32)
  lag_t[-1] = cost_l.argmin()
  for t in range(frames - 1, 0, -1):
    lag_t[t - 1] = from_tl[t, lag_t[t]]
  return lag_t


def track(samples_n: np.ndarray) -> Track:
  """Returns the pitch of a recording, a `Track` of its frames.

  Args:
    samples_n: at 16 kHz, of any scale; speech of other rates goes through
      `audio` first. As of `features.num_frames`, 25 ms are a frame.

  Raises:
    ValueError: shorter than one frame.
  """
  frames = features.num_frames(len(samples_n))
  if not frames:
    raise ValueError(
      f'{len(samples_n)} samples: no frame of {features.WINDOW}, so no pitch'
    )
  wave_n = _downsampled(samples_n)
  _, lag_l, weights_ml = _lags()
  inner_tm, product_tm = _correlations(wave_n, frames)
  window = features.WINDOW * _RATE // features.SAMPLE_RATE
  ballast = _BALLAST * (wave_n.var() * window) ** 2
  nccf_tl = _ratio(inner_tm, product_tm + ballast) @ weights_ml
  local_tl = 1 - nccf_tl * (1 - _SOFT_LOWEST * lag_l)
  lag_t = _path(local_tl.astype(np.float32))
  plain_tl = _ratio(inner_tm, product_tm) @ weights_ml
  return Track(1 / lag_l[lag_t], plain_tl[np.arange(frames), lag_t])


def voicing(nccf_t):
  """Returns the probability that frames are voiced, of their NCCF.

  A curve that was fitted to marked speech (Ghahremani et al., section 4).
  """
  n = np.minimum(np.abs(nccf_t), 1.0)
  odds = -5.2 + 5.4 * np.exp(7.5 * (n - 1)) + 4.8 * n
  odds += -2.0 * np.exp(-10 * n) + 4.2 * np.exp(20 * (n - 1))
  return 1 / (1 + np.exp(-odds))


def of(samples_n: np.ndarray) -> np.ndarray:
  """Returns the three features of a recording, float32 [frames, 3].

  2 ((1.0001 - NCCF)^0.15 - 1), which falls as voicing is more probable and is
  nearly Gaussian; 2 (ln pitch minus its mean over 1.5 s, in which frames count
  as `voicing` says); 10 times the slope of ln pitch over five frames. Kaldi
  adds noise to the last, for models with Gaussians; here is none.

  Args:
    samples_n: as of `track`.
  """
  hertz_t, nccf_t = track(samples_n)
  log_t, weight_t = np.log(hertz_t), voicing(nccf_t)
  window = np.ones(2 * _CONTEXT + 1)

  def around(x_t):
    return np.convolve(x_t, window)[_CONTEXT : _CONTEXT + len(x_t)]

  x_tf = np.stack(
    [
      2 * ((1.0001 - np.clip(nccf_t, -1, 1)) ** 0.15 - 1),
      2 * (log_t - around(weight_t * log_t) / around(weight_t)),
      10 * features.deltas(log_t[:, None])[:, 0],
    ],
    1,
  )
  return x_tf.astype(np.float32)
