"""Tests of nasjax/data/features.py against two independent implementations."""

import jax
import jax.numpy as jnp
import kaldi_native_fbank
import numpy as np
import pytest

from nasjax.data import features


def speech_like(seconds=2.0, seed=0, noise=1e-3):
  """Returns int16 pulses of a gliding pitch through a resonance, and noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(int(seconds * 16_000)) / 16_000
  phase = np.cumsum(2 * np.pi * (110 + 40 * np.sin(3 * t)) / 16_000)
  voice = sum(
    np.sin(k * phase) / (1 + abs(k * 120 - 900 * (1 + np.sin(t))) / 300)
    for k in range(1, 50)
  )
  loudness = 0.5 + 0.5 * np.sin(7 * t)
  x = 0.3 * voice / np.abs(voice).max() * loudness
  return ((x + noise * rng.normal(size=t.size)) * 32767).astype(np.int16)


def filters_by_loop(mels=80):
  """Triangles on the mel scale, one weight at a time."""
  mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
  edges = [mel(8000) * i / (mels + 1) for i in range(mels + 2)]
  weights = np.zeros((201, mels))
  for band in range(mels):
    left, centre, right = edges[band : band + 3]
    for k in range(1, 201):
      m = mel(40.0 * k)
      if left < m <= centre:
        weights[k, band] = (m - left) / (centre - left)
      elif centre < m < right:
        weights[k, band] = (right - m) / (right - centre)
  return weights


def log_mel_by_loop(x_n, mels=80):
  """Features of one utterance in float64, frame by frame."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
  weights = filters_by_loop(mels)
  rows = []
  for start in range(0, len(x_n) - 399, 160):
    frame = np.asarray(x_n[start : start + 400], np.float64) * window
    rows.append(np.log(np.abs(np.fft.rfft(frame)) ** 2 @ weights + 1e-10))
  return np.array(rows).reshape(-1, mels)


def log_mel(x_n, mels=80):
  x_btf, frames_b = features.log_mel(x_n[None], np.array([len(x_n)]), mels)
  assert x_btf.dtype == jnp.float32
  assert frames_b.tolist() == [x_btf.shape[1]]
  return np.asarray(x_btf[0])


@pytest.mark.parametrize('mels', [80, 40, 1])
def test_filters_agree_with_a_loop(mels):
  weights_nf = features.mel_weights(mels)
  np.testing.assert_allclose(weights_nf, filters_by_loop(mels), atol=1e-9)
  # Every filter reads something, and the constant part is read by none.
  assert (weights_nf.sum(0) > 0).all()
  assert not weights_nf[0].any()
  if mels == 80:
    np.testing.assert_array_equal(weights_nf, features.mel_weights())


@pytest.mark.parametrize(
  'mels, words', [(0, 'at least one'), (128, '128 mel filters: .* take fewer')]
)
def test_filters_that_read_nothing_are_refused(mels, words):
  with pytest.raises(ValueError, match=words):
    features.mel_weights(mels)


@pytest.mark.parametrize('noise', [1e-4, 1e-2])
def test_agrees_with_float64(noise):
  audio = speech_like(noise=noise)
  expected = log_mel_by_loop(audio / 32768)
  np.testing.assert_allclose(log_mel(audio), expected, atol=5e-4)
  as_float = (audio / 32768).astype(np.float32)
  np.testing.assert_array_equal(log_mel(as_float), log_mel(audio))


def test_forty_filters_agree_with_float64():
  audio = speech_like(noise=1e-2)
  expected = log_mel_by_loop(audio / 32768, mels=40)
  np.testing.assert_allclose(log_mel(audio, mels=40), expected, atol=5e-4)
  assert log_mel(audio[:399], mels=40).shape == (0, 40)


def test_agrees_with_kaldi_native_fbank():
  options = kaldi_native_fbank.FbankOptions()
  frame, mel = options.frame_opts, options.mel_opts
  frame.dither = 0
  frame.preemph_coeff = 0
  frame.remove_dc_offset = False
  frame.window_type = 'hann'  # the periodic one; 'hanning' is symmetric
  frame.round_to_power_of_two = False
  frame.snip_edges = True
  mel.num_bins, mel.low_freq, mel.high_freq = 80, 0, 8000
  options.use_log_fbank = False  # its floor is another one
  options.use_energy = False
  audio = speech_like(seed=1)
  bank = kaldi_native_fbank.OnlineFbank(options)
  bank.accept_waveform(16_000, (audio / 32768).tolist())
  bank.input_finished()
  energy = np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])
  x_tf = log_mel(audio)
  assert x_tf.shape == energy.shape == (198, 80)
  np.testing.assert_allclose(x_tf, np.log(energy + 1e-10), atol=5e-4)


@pytest.mark.parametrize(
  'samples, frames',
  [(0, 0), (1, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98)],
)
def test_frames(samples, frames):
  assert features.num_frames(samples) == frames
  np.testing.assert_array_equal(
    features.num_frames(np.array([samples, 400])), [frames, 1]
  )
  x_tf = log_mel(np.ones(samples, np.int16))
  assert x_tf.shape == (frames, 80)


def test_padding_changes_nothing():
  long, short = speech_like(1.0), speech_like(0.5, seed=2)[:7_919]
  lengths_b = np.array([len(long), len(short), 300])
  rng = np.random.default_rng(3)
  noisy = rng.integers(-32768, 32768, (3, 20_000)).astype(np.int16)
  quiet = np.zeros_like(noisy)
  for batch in (noisy, quiet):
    batch[0, : len(long)], batch[1, : len(short)] = long, short
  x_btf, frames_b = features.log_mel(noisy, lengths_b)
  assert frames_b.dtype == jnp.int32
  assert frames_b.tolist() == [98, 47, 0]
  np.testing.assert_array_equal(x_btf, features.log_mel(quiet, lengths_b)[0])
  for x_tf, frames in zip(x_btf, frames_b):
    assert not np.asarray(x_tf[int(frames) :]).any()
  # Another number of frames may add the bins up in another order.
  np.testing.assert_allclose(x_btf[0, :98], log_mel(long), atol=3e-6)
  np.testing.assert_allclose(x_btf[1, :47], log_mel(short), atol=3e-6)


def test_more_samples_than_given_make_no_frames():
  _, frames_b = features.log_mel(np.zeros((1, 800), np.int16), np.array([9999]))
  assert frames_b.tolist() == [3]


def test_frames_already_cut():
  audio = speech_like(0.3)
  frames_nk = np.lib.stride_tricks.sliding_window_view(audio, 400)[::160]
  np.testing.assert_allclose(
    features.log_mel_of_frames(frames_nk), log_mel(audio), atol=3e-6
  )
  with pytest.raises(ValueError, match='399'):
    features.log_mel_of_frames(frames_nk[:, :399])


def test_silence_is_the_floor():
  np.testing.assert_allclose(log_mel(np.zeros(800)), np.log(1e-10), rtol=1e-6)


def test_a_tone_is_where_it_belongs():
  for hertz in (300.0, 1000.0, 5000.0):
    tone = 0.5 * np.sin(2 * np.pi * hertz / 16_000 * np.arange(1600))
    edges = 1127 * np.log(1 + 8000 / 700) / 81 * np.arange(82)
    nearest = np.abs(edges[1:-1] - 1127 * np.log(1 + hertz / 700)).argmin()
    peak = log_mel(tone.astype(np.float32)).mean(0).argmax()
    assert abs(int(peak) - int(nearest)) <= 1


def test_works_inside_jit_and_gradients_are_finite():
  audio = jnp.asarray(speech_like(0.1) / 32768)
  total = lambda x: features.log_mel(x[None], jnp.array([x.size]))[0].sum()  # noqa: E731
  assert np.isfinite(jax.jit(jax.grad(total))(audio)).all()


@pytest.mark.parametrize('dtype', [np.int32, np.uint8, bool])
def test_other_integers_are_refused(dtype):
  with pytest.raises(ValueError, match='int16'):
    features.log_mel(np.zeros((1, 800), dtype), np.array([800]))


def test_statistics_are_those_of_float64():
  rng = np.random.default_rng(0)
  # A large mean beside a small spread: float32 sums would be far off.
  x_nf = (1000 + rng.normal(size=(40_000, 3)) * [0.1, 1, 5]).astype(np.float32)
  mean_f, variance_f = features.statistics(x_nf)
  np.testing.assert_allclose(mean_f, x_nf.astype(np.float64).mean(0), rtol=1e-7)
  np.testing.assert_allclose(
    variance_f, x_nf.astype(np.float64).var(0), rtol=1e-6
  )
  assert mean_f.dtype == variance_f.dtype == np.float32


def test_normalised_training_frames_have_mean_0_and_variance_1():
  x_tf = log_mel(speech_like())
  mean_f, variance_f = features.statistics(x_tf)
  y_tf = features.normalise(x_tf, mean_f, variance_f)
  expected = (x_tf.astype(np.float64) - mean_f) / np.sqrt(variance_f + 1e-3)
  np.testing.assert_allclose(y_tf, expected, atol=1e-5)
  np.testing.assert_allclose(y_tf.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(y_tf.std(0), 1, atol=1e-2)
  batched = features.normalise(jnp.asarray(x_tf)[None], mean_f, variance_f)
  np.testing.assert_allclose(batched[0], y_tf, rtol=1e-6, atol=1e-6)


def test_statistics_refuse_what_has_none():
  with pytest.raises(ValueError, match='no frame'):
    features.statistics(np.zeros((0, 80), np.float32))
  bad_nf = np.zeros((5, 80), np.float32)
  bad_nf[3, 7] = np.nan
  with pytest.raises(ValueError, match=r'\[7\]'):
    features.statistics(bad_nf)


def test_statistics_of_pieces_are_those_of_the_whole():
  x_nf = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
  pieces = [x_nf[:1], x_nf[1:1], x_nf[1:400], x_nf[400:]]
  mean_f, variance_f = features.pooled_statistics(pieces)
  np.testing.assert_allclose(mean_f, x_nf.astype(np.float64).mean(0), rtol=1e-6)
  np.testing.assert_allclose(
    variance_f, x_nf.astype(np.float64).var(0), rtol=1e-6
  )
  with pytest.raises(ValueError, match='no frame'):
    features.pooled_statistics([])


def deltas_by_loop(x_tf):
  """Slopes of least-squares lines, and the same of their own formula.

  The second slope is that of slopes whose frames are all taken from the
  original, clamped to its first and last.
  """
  last = len(x_tf) - 1

  def frame(t):
    return x_tf[min(max(t, 0), last)].astype(np.float64)

  def slope(of, t):
    return sum(k * of(t + k) for k in range(-2, 3)) / sum(
      k * k for k in range(-2, 3)
    )

  return np.array(
    [
      [*slope(frame, t), *slope(lambda s: slope(frame, s), t)]
      for t in range(last + 1)
    ]
  )


@pytest.mark.parametrize('frames', [1, 2, 3, 8, 40])
def test_deltas_agree_with_a_loop(frames):
  x_tf = np.random.default_rng(frames).normal(size=(frames, 5))
  x_tf = x_tf.astype(np.float32)
  y_tf = features.deltas(x_tf)
  assert y_tf.dtype == np.float32
  np.testing.assert_allclose(y_tf, deltas_by_loop(x_tf), atol=1e-6)
  # Copies of the last delta at the ends, as HTK has them, are something else.
  again_tf = features.deltas(y_tf[:, :5])[:, :5]
  np.testing.assert_allclose(y_tf[4:-4, 5:], again_tf[4:-4], atol=1e-6)
  if frames > 2:
    assert np.abs(y_tf[:, 5:] - again_tf).max() > 1e-2


def test_deltas_are_slopes():
  t = np.arange(30.0)
  y_tf = features.deltas(np.stack([3 * t, t**2, np.full(30, 7.0)], axis=1))
  inner = slice(4, -4)
  np.testing.assert_allclose(y_tf[inner, 0], 3)
  np.testing.assert_allclose(y_tf[inner, 1], 2 * t[inner])
  np.testing.assert_allclose(y_tf[inner, 3:5], [[0, 2]] * 22, atol=1e-12)
  np.testing.assert_allclose(y_tf[:, [2, 5]], 0, atol=1e-12)
  with pytest.raises(ValueError, match='no frame'):
    features.deltas(np.zeros((0, 4), np.float32))
