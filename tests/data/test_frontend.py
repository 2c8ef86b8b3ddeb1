"""Tests of nasjax/data/frontend.py, and of corpora that went through it."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
import scipy.signal
import soundfile
import tiny_run as launcher
from common import corpus_flags

from nasjax.data import audio, corpus, features, frontend, manifest, pitch

SPEECH = pathlib.Path(os.environ.get('NASJAX_SPEECH_DIR', ''))


# Records of choices.


def test_front_ends():
  assert frontend.NB_ASR.width == 80 and frontend.ST_NAS.width == 120
  assert frontend.ST_NAS.training_speeds == (1.0, 0.9, 1.1)
  assert all(name == f.name for name, f in frontend.FRONTENDS.items())
  listed = dataclasses.replace(frontend.ST_NAS, speeds=[1, 2])
  assert listed.speeds == (1.0, 2.0) and isinstance(hash(listed), int)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'mels': 40.0}, 'mels=40.0 is no whole number'),
    ({'mels': 200}, 'take fewer'),
    ({'normalise': 'utterance'}, "'utterance'; want 'corpus' or 'speaker'"),
    ({'deltas': 2}, 'deltas=2; want True or False'),
    ({'speeds': ()}, r'speeds=\(\); want distinct'),
    ({'speeds': (0.9, 1.1)}, '1 among them'),
    ({'speeds': (1.0, 0.9, 0.9)}, 'distinct'),
    ({'speeds': (1.0, 0.0)}, 'from 0.5 to 2'),
    ({'speeds': (1.0, float('nan'))}, 'from 0.5 to 2'),
  ],
)
def test_choices_that_mean_nothing(changes, words):
  with pytest.raises(ValueError, match=f'front end mine: .*{words}'):
    frontend.Frontend('mine', **changes)


def test_fingerprints_keep_results_apart():
  st_nas = frontend.ST_NAS
  variants = [
    frontend.NB_ASR,
    st_nas,
    dataclasses.replace(frontend.NB_ASR, mels=40),  # under the same name
    dataclasses.replace(st_nas, normalise='corpus'),
    dataclasses.replace(st_nas, deltas=False),
    dataclasses.replace(st_nas, speeds=(1.0,)),
  ]
  prints = [v.fingerprint('f00d') for v in variants]
  assert prints[0] == 'f00d'
  assert prints[1].startswith('f00d+st_nas-')
  assert len(set(prints)) == len(variants)
  assert st_nas.fingerprint('f00d') != st_nas.fingerprint('beef')
  assert st_nas.fingerprint('f00d') == prints[1]


# Speeds.


@pytest.mark.parametrize('speed', [0.9, 1.1, 2.0])
def test_a_tone_is_shorter_by_the_speed_and_higher_by_it(speed):
  time_n = np.arange(16_000) / 16_000
  tone_n = (16_384 * np.sin(2 * np.pi * 1_000 * time_n)).astype(np.int16)
  heard_n = audio.change_speed(tone_n, speed)
  assert heard_n.dtype == np.int16
  assert len(heard_n) == audio.length_at_speed(16_000, speed)
  assert abs(len(heard_n) - 16_000 / speed) <= 0.5
  time_n = np.arange(len(heard_n)) / 16_000
  expected = 16_384 * np.sin(2 * np.pi * 1_000 * speed * time_n)
  middle = slice(1000, -1000)  # the ends ring
  assert np.abs(heard_n - expected)[middle].max() < 16


def test_speed_agrees_with_a_polyphase_filter():
  rng = np.random.default_rng(0)
  low = scipy.signal.firwin(401, 3_000, fs=16_000)
  x = scipy.signal.lfilter(low, 1, rng.normal(size=16_000))
  speech_n = (8_000 * x / np.abs(x).max()).astype(np.int16)
  for speed, up, down in ((0.9, 10, 9), (1.1, 10, 11)):
    other = scipy.signal.resample_poly(
      speech_n.astype(np.float64), up, down, window=('kaiser', 14.0)
    )
    heard_n = audio.change_speed(speech_n, speed)
    frames = min(len(other), len(heard_n))
    apart = np.abs(heard_n[:frames] - other[:frames])[500:-500]
    assert apart.max() < 8


def test_what_would_rise_above_half_the_rate_is_filtered_out():
  tone = np.sin(2 * np.pi * 7_800 / 16_000 * np.arange(16_000))
  heard_n = audio.change_speed((16_384 * tone).astype(np.int16), 1.1)
  assert np.abs(heard_n[1000:-1000]).max() < 16


def test_speed_1_keeps_the_bits():
  x = np.random.default_rng(0).integers(-32768, 32768, 999).astype(np.int16)
  np.testing.assert_array_equal(audio.change_speed(x, 1.0), x)


# Normalisation.


def test_each_speaker_gets_mean_0_and_variance_1():
  rng = np.random.default_rng(0)
  speakers = ('a', 'b', '', 'a', '', 'b')
  utterances = [
    (rng.normal(size=(30 + u, 4)) * (1 + u) + 100 * u).astype(np.float32)
    for u in range(6)
  ]
  raw = [x_tf.astype(np.float64) for x_tf in utterances]
  frontend.normalise_speakers(utterances, speakers)
  for group in ([0, 3], [1, 5], [2], [4]):
    pooled = np.concatenate([raw[u] for u in group])
    for u in group:
      expected = (raw[u] - pooled.mean(0)) / np.sqrt(pooled.var(0) + 1e-3)
      np.testing.assert_allclose(utterances[u], expected, atol=1e-4)
    mine = np.concatenate([utterances[u] for u in group])
    np.testing.assert_allclose(mine.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(mine.var(0), 1, atol=2e-3)
  with pytest.raises(ValueError):
    frontend.normalise_speakers(utterances, speakers[:-1])


def test_a_speaker_of_one_frame_is_zero():
  utterances = [np.full((1, 3), 5.0, np.float32)]
  frontend.normalise_speakers(utterances, ('a',))
  np.testing.assert_array_equal(utterances[0], 0)


# Corpora.

LENGTHS = [8_123, 16_000, 441, 5_000, 9_999, 4_000, 7_000, 3_333]
SPEAKERS = ['a', 'b', 'a', None, None, 'c', 'd', 'd']
SPLITS = ['train'] * 5 + ['val', 'test', 'test']


def prepared(folder, names=None, lengths=LENGTHS):
  """Prepares 8 utterances of noises: 5 to train, 1 and 2 to judge by."""
  names = names or [f'u{i}' for i in range(len(lengths))]
  rows = []
  for i, (name, length) in enumerate(zip(names, lengths, strict=True)):
    rng = np.random.default_rng(i)
    tone = np.sin(np.arange(length) * rng.uniform(0.05, 1.0))
    x = 0.2 * tone + 0.02 * rng.normal(size=length)
    samples_n = (32768 * x).astype(np.int16)
    soundfile.write(folder / f'{i}.wav', samples_n, 16_000)
    row = {
      'id': name,
      'audio_filepath': f'{i}.wav',
      'duration': length / 16_000,
      'text': f'word {i}',
      'phones': ['S', 'A'] if length > 4_500 else ['A'],
      'split': SPLITS[i],
    }
    if SPEAKERS[i]:
      row['speaker'] = SPEAKERS[i]
    rows.append(json.dumps(row))
  (folder / 'manifest.jsonl').write_text('\n'.join(rows))
  builder = manifest.builder(
    folder / 'manifest.jsonl', data_dir=folder / 'prepared'
  )
  corpus.prepare(builder)
  return builder


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  return prepared(tmp_path_factory.mktemp('spoken'))


@pytest.fixture(scope='module')
def loaded(builder):
  return corpus.load(builder, frontend=frontend.ST_NAS, batch_seconds=1.0)


def test_originals_come_first_then_each_speed(loaded):
  train, own = loaded.train, [f'u{i}' for i in range(5)]
  slow, fast = ([f'sp{s}-{name}' for name in own] for s in ('0.9', '1.1'))
  assert train.ids == (*own, *slow, *fast)
  assert train.speakers == (
    *('a', 'b', 'a', '', ''),
    *('sp0.9-a', 'sp0.9-b', 'sp0.9-a', '', ''),
    *('sp1.1-a', 'sp1.1-b', 'sp1.1-a', '', ''),
  )
  assert train.texts == tuple(f'word {i}' for i in range(5)) * 3
  for u in range(15):
    np.testing.assert_array_equal(train.labels[u], train.labels[u % 5])
    speed = (1.0, 0.9, 1.1)[u // 5]
    assert abs(train.samples_u[u] - LENGTHS[u % 5] / speed) <= 0.5
  assert [len(labels) for labels in train.labels[:5]] == [2, 2, 1, 2, 2]
  np.testing.assert_array_equal(
    train.frames_u, features.num_frames(train.samples_u)
  )
  assert train.frames_u[12] == 1  # 441 samples became 401
  assert train.audio_seconds == pytest.approx(train.samples_u.sum() / 16_000)
  # Nothing but training is spoken at another speed.
  assert loaded.validation.ids == ('u5',) and loaded.test.ids == ('u6', 'u7')
  assert loaded.test.samples_u.tolist() == LENGTHS[6:]


def energies(builder, split, utterance, speed):
  """Returns log-mel energies of one utterance alone, float64."""
  samples_n = corpus.audio(builder, split, utterance)
  samples_n = audio.change_speed(samples_n, speed)
  padded_bn = np.zeros((1, 20_000), np.int16)
  padded_bn[0, : len(samples_n)] = samples_n
  lengths_b = np.array([len(samples_n)])
  x_btf, frames_b = features.log_mel(padded_bn, lengths_b, 40)
  return np.asarray(x_btf[0, : frames_b[0]], np.float64)


def slopes(x_tf):
  """Returns least-squares slopes over five frames, of clamped frames."""
  ts = np.arange(len(x_tf))[:, None] + np.arange(-2, 3)
  x_tkf = x_tf[ts.clip(0, len(x_tf) - 1)]
  return np.einsum('tkf,k->tf', x_tkf, np.arange(-2, 3)) / 10


def test_features_are_energies_normalised_by_speaker_and_their_slopes(
  builder, loaded
):
  assert loaded.frontend == frontend.ST_NAS
  assert loaded.mean_f is None and loaded.variance_f is None
  voices = [('train', [0, 2], s) for s in (1.0, 0.9, 1.1)]
  voices += [('train', [1], 0.9), ('train', [3], 1.0), ('train', [4], 1.1)]
  voices += [('validation', [5], 1.0), ('test', [6, 7], 1.0)]
  for name, numbers, speed in voices:
    split = getattr(loaded, name)
    assert split.features.shape == (split.frames_u.sum(), 120)
    assert split.features.dtype == np.float32
    raw = [energies(builder, name, f'u{i}', speed) for i in numbers]
    pooled = np.concatenate(raw)
    scale = np.sqrt(pooled.var(0) + 1e-3)
    heard = []
    for i, x_tf in zip(numbers, raw, strict=True):
      u = split.ids.index(f'{frontend.prefix(speed)}u{i}')
      heard.append(split.x_tf(u))
      expected = (x_tf - pooled.mean(0)) / scale
      np.testing.assert_allclose(heard[-1][:, :40], expected, atol=1e-4)
      np.testing.assert_allclose(
        heard[-1][:, 40:80], slopes(expected), atol=1e-4
      )
      if len(expected) > 8:  # what is near the ends, test_features knows
        np.testing.assert_allclose(
          heard[-1][4:-4, 80:], slopes(slopes(expected))[4:-4], atol=1e-4
        )
    statics = np.concatenate(heard)[:, :40].astype(np.float64)
    np.testing.assert_allclose(statics.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(
      statics.var(0), pooled.var(0) / scale**2, atol=1e-4
    )


def test_what_is_fitted_makes_the_features_of_the_corpus(builder, loaded):
  fitted = loaded.fitted
  assert sorted(fitted.speakers) == sorted(
    {
      (name, who)
      for name, numbers in (('train', range(5)), ('validation', [5]),
                            ('test', [6, 7]))
      for who in (SPEAKERS[i] for i in numbers)
      if who
    }
  )  # fmt: skip
  whole = corpus.load(builder, frontend=frontend.ST_NAS)
  for name, numbers in (('test', [6, 7]), ('train', [1, 3, 4])):
    own = [corpus.audio(builder, name, f'u{i}') for i in numbers]
    speakers = [SPEAKERS[i] for i in numbers]
    heard = whole.fitted.features(own, speakers)
    split = getattr(whole, name)
    for i, x_tf in zip(numbers, heard, strict=True):
      known = split.x_tf(split.ids.index(f'u{i}'))
      np.testing.assert_array_equal(x_tf, known)
  assert fitted.window_k.shape == (400,) and fitted.filters_nf.shape[1] == 40


def test_blocks_change_nothing_and_bits_come_again(builder, loaded):
  for seconds, tolerance in ((0.17, 1e-4), (1.0, 0)):
    again = corpus.load(
      builder, frontend=frontend.ST_NAS, batch_seconds=seconds
    )
    for name in ('train', 'validation', 'test'):
      np.testing.assert_allclose(
        getattr(again, name).features,
        getattr(loaded, name).features,
        rtol=0,
        atol=tolerance,
      )


def test_deltas_and_speeds_go_with_the_normalisation_of_the_corpus(builder):
  mixed = frontend.Frontend('mixed', 40, True, 'corpus', (1.1, 1.0))
  calls = []
  found = corpus.load(
    builder,
    frontend=mixed,
    batch_seconds=1.0,
    progress=lambda *call: calls.append(call),
  )
  # Five utterances are read twice and heard once more, three are read twice.
  assert calls == [(i, 21) for i in range(1, 22)]
  assert found.mean_f.shape == found.variance_f.shape == (40,)
  raw = np.concatenate(
    [
      energies(builder, 'train', f'u{i}', s)
      for s in (1.0, 1.1)
      for i in range(5)
    ]
  )
  np.testing.assert_allclose(found.mean_f, raw.mean(0), atol=1e-5)
  np.testing.assert_allclose(found.variance_f, raw.var(0), rtol=1e-4)
  x_tf = energies(builder, 'test', 'u6', 1.0)
  expected = (x_tf - raw.mean(0)) / np.sqrt(raw.var(0) + 1e-3)
  heard_tf = found.test.x_tf(0)
  np.testing.assert_allclose(heard_tf[:, :40], expected, atol=1e-4)
  np.testing.assert_allclose(heard_tf[:, 40:80], slopes(expected), atol=1e-4)


def test_fingerprints_name_the_front_end(builder, loaded):
  contents = builder.info.metadata['fingerprint']
  assert loaded.fingerprint == frontend.ST_NAS.fingerprint(contents) != contents


def test_what_speeds_make_impossible_is_refused(tmp_path):
  for name in ('short', 'twice'):
    (tmp_path / name).mkdir()
  short = prepared(
    tmp_path / 'short', lengths=[*LENGTHS[:4], 439, *LENGTHS[5:]]
  )
  with pytest.raises(ValueError, match="'u4' has 399 samples at speed 1.1"):
    corpus.load(short, frontend=frontend.ST_NAS)
  names = ['a', 'sp0.9-a', 'c', 'd', 'e', 'f', 'g', 'h']
  twice = prepared(tmp_path / 'twice', names)
  with pytest.raises(ValueError, match='perturbed already'):
    corpus.load(twice, frontend=frontend.ST_NAS)


# Flags.


def test_flags_name_every_front_end():
  assert tuple(frontend.FRONTENDS) == corpus_flags.FRONTENDS
  assert corpus_flags.frontend_for(80) == 'nb_asr'
  assert corpus_flags.frontend_for(120, 'librispeech') == 'st_nas'
  assert corpus_flags.frontend_for(80, 'librispeech') == 'nb_asr_hamming'
  for name, made in frontend.FRONTENDS.items():
    assert corpus_flags._WIDTHS[name] == made.width


def test_windows():
  # Tables have the fingerprint of before there were two.
  assert frontend.ST_NAS.fingerprint('x') == 'x+st_nas-548b946c'
  other = dataclasses.replace(frontend.ST_NAS, window='hamming')
  assert other.fingerprint('x') != frontend.ST_NAS.fingerprint('x')
  with pytest.raises(ValueError, match="window='hanning'; want 'hann' or"):
    frontend.Frontend('own', window='hanning')
  fitted = frontend.Fitted(frontend.NB_ASR_HAMMING, np.zeros(80), np.ones(80))
  window_k = scipy.signal.get_window('hamming', 400, fftbins=True)
  np.testing.assert_allclose(fitted.window_k, window_k, atol=1e-7)
  audio_n = np.random.default_rng(0).normal(0, 3000, 960).astype(np.int16)
  frames = np.lib.stride_tricks.sliding_window_view(audio_n, 400)[::160]
  power = np.abs(np.fft.rfft(frames / 32768 * window_k)) ** 2
  energies = np.log(power @ features.mel_weights() + features.FLOOR)
  (x_tf,) = fitted.features([audio_n])
  scale = np.sqrt(1 + features.VARIANCE_FLOOR)
  np.testing.assert_allclose(x_tf * scale, energies, atol=1e-3)


def test_a_macro_network_of_another_width_is_refused(tmp_path):
  status, _, errors = launcher.forked(
    f'--out={tmp_path / "out"}',
    f'--data_dir={tmp_path / "data"}',
    '--random_cells=1',
    '--frontend=st_nas',
    '--macro=tiny',
  )
  assert status == 1 and errors.count('\n') == 1
  assert '--macro=tiny reads 80 features a frame' in errors
  assert '--frontend=st_nas makes 120' in errors
  # Said before speech is made.
  assert not list((tmp_path / 'data').glob('*'))


@pytest.mark.skipif(
  not (SPEECH / 'an4' / 'manifest.jsonl').is_file(),
  reason=f'no speech in {SPEECH} (set NASJAX_SPEECH_DIR)',
)
def test_speech_of_many_speakers(tmp_path):
  builder = manifest.builder(
    SPEECH / 'an4' / 'manifest.jsonl', data_dir=tmp_path
  )
  corpus.prepare(builder)
  found = corpus.load(builder, frontend=frontend.ST_NAS)
  for split in (found.train, found.validation, found.test):
    for speaker in set(split.speakers):
      own = [u for u, name in enumerate(split.speakers) if name == speaker]
      statics = np.concatenate([split.x_tf(u)[:, :40] for u in own])
      np.testing.assert_allclose(statics.mean(0), 0, atol=1e-3)
      np.testing.assert_allclose(statics.var(0), 1, atol=1e-2)
  # Slopes of speech are small, and those of training like those of the rest.
  spread = [split.features.std(0) for split in (found.train, found.test)]
  assert 0.1 < spread[0][40:80].mean() < 0.3
  np.testing.assert_allclose(spread[0], spread[1], rtol=0.25)


def test_pitch_follows_the_energies(builder):
  found = corpus.load(builder, frontend=frontend.DARTS_ASR)
  assert frontend.DARTS_ASR.width == 83 == found.train.features.shape[1]
  assert found.fingerprint != corpus.load(builder).fingerprint
  plain = corpus.load(builder)
  np.testing.assert_array_equal(
    found.train.features[:, :80], plain.train.features
  )
  raw = [
    pitch.of(corpus.audio(builder, 'train', f'u{i}')).astype(np.float64)
    for i in range(5)
  ]
  pooled = np.concatenate(raw)
  np.testing.assert_allclose(found.mean_f[80:], pooled.mean(0), atol=1e-5)
  want = (raw[1] - pooled.mean(0)) / np.sqrt(pooled.var(0) + 1e-3)
  np.testing.assert_allclose(found.train.x_tf(1)[:, 80:], want, atol=1e-4)
  own = [corpus.audio(builder, 'test', 'u6')]
  np.testing.assert_array_equal(
    found.fitted.features(own)[0], found.test.x_tf(0)
  )
  with pytest.raises(ValueError, match='darts_asr wants whole'):
    corpus.load(builder, frontend=frontend.DARTS_ASR, encoding='float32')
  # Those without pitch are called as before there was any.
  assert frontend.ST_NAS.fingerprint('f00d') == 'f00d+st_nas-548b946c'
