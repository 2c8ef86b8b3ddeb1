"""Tests of nasjax/data/audio.py."""

import hashlib
import struct

import numpy as np
import pytest
import soundfile
from manifests import noise

from nasjax.data import audio


@pytest.mark.parametrize(
  'rate, subtype, kind',
  [
    (8_000, 'PCM_16', 'wav'),
    (11_025, 'PCM_16', 'flac'),
    (16_000, 'FLOAT', 'wav'),
    (16_000, 'PCM_24', 'flac'),
    (44_100, 'PCM_24', 'wav'),
    (48_000, 'PCM_U8', 'wav'),
  ],
)
def test_any_rate_and_width_becomes_16_khz(tmp_path, rate, subtype, kind):
  seconds = 0.8
  tone = 0.5 * np.sin(2 * np.pi * 440 / rate * np.arange(round(seconds * rate)))
  path = tmp_path / f'tone.{kind}'
  soundfile.write(path, tone, rate, subtype=subtype)
  recording = audio.read(path)
  samples_n = audio.at_16_khz(recording)
  assert samples_n.dtype == np.int16
  assert len(samples_n) == 12_800
  assert len(samples_n) == audio.resampled_length(len(tone), rate)
  expected = 16384 * np.sin(2 * np.pi * 440 / 16_000 * np.arange(12_800))
  middle = slice(1000, -1000)  # the ends ring
  tolerance = 300 if subtype == 'PCM_U8' else 16
  assert np.abs(samples_n - expected)[middle].max() < tolerance


def test_resampling_does_not_wrap_round():
  square = np.where(np.arange(8000) // 40 % 2, 32767, -32768).astype(np.int16)
  up_n = audio.at_16_khz(audio.Recording(square, 8_000))
  assert (np.sign(up_n[100:-100:20]) == np.sign(square[50:-50:10])).mean() > 0.9
  assert up_n.max() == 32767 and up_n.min() == -32768


def test_digests_tell_samples_and_rates_apart():
  x = noise(0.01)
  one = audio.Recording(x, 16_000).digest()
  assert one == audio.Recording(x.copy(), 16_000).digest()
  assert one != audio.Recording(x, 8_000).digest()
  assert one != audio.Recording(x[::-1], 16_000).digest()
  assert len(one) == len(hashlib.sha256().hexdigest())


def rule(path):
  """Returns the rule that a file breaks."""
  with pytest.raises(audio.AudioError) as error:
    audio.read(path)
  assert str(path) in error.value.fault.message
  return error.value.fault.rule


@pytest.mark.parametrize('kind', ['wav', 'flac', 'aiff'])
def test_stretches(tmp_path, kind):
  path = tmp_path / f'x.{kind}'
  soundfile.write(path, noise(), 16_000)
  whole_n = audio.read(path).samples_n
  np.testing.assert_array_equal(whole_n, noise())
  part = audio.read(path, start=0.25, seconds=0.5)
  np.testing.assert_array_equal(part.samples_n, noise()[4_000:12_000])
  assert part.seconds == 0.5
  assert len(audio.read(path, start=0.75, seconds=9.0).samples_n) == 4_000
  with pytest.raises(audio.AudioError, match='offset is 1.0 s, but .* lasts'):
    audio.read(path, start=1.0)


@pytest.mark.parametrize('length', [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_streams_of_unknown_length_are_whole(tmp_path, length):
  path = tmp_path / 'stream.wav'
  soundfile.write(path, noise(), 16_000)
  data = bytearray(path.read_bytes())
  place = data.index(b'data') + 4
  data[place : place + 4] = struct.pack('<I', length)
  path.write_bytes(data)
  np.testing.assert_array_equal(audio.read(path).samples_n, noise())
  data[place : place + 4] = struct.pack('<I', 40_000)  # a length it should have
  path.write_bytes(data)
  assert rule(path) == 'truncated_audio'


def test_chunks_before_the_samples_are_stepped_over(tmp_path):
  path = tmp_path / 'list.wav'
  soundfile.write(path, noise(), 16_000)
  data = path.read_bytes()
  place = data.index(b'data')
  extra = b'LIST' + struct.pack('<I', 5) + b'data\xff\x00'  # odd: padded
  path.write_bytes(data[:place] + extra + data[place:])
  np.testing.assert_array_equal(audio.read(path).samples_n, noise())
  path.write_bytes(data[:place] + extra + data[place:-2])
  assert rule(path) == 'truncated_audio'


@pytest.mark.parametrize('fraction', [0.05, 0.3, 0.9, 0.99])
@pytest.mark.parametrize('kind', ['wav', 'flac'])
def test_every_cut_is_seen(tmp_path, kind, fraction):
  path = tmp_path / f'x.{kind}'
  soundfile.write(path, noise(), 16_000)
  data = path.read_bytes()
  path.write_bytes(data[: int(fraction * len(data))])
  assert rule(path) == 'truncated_audio'


def test_lengths_are_compared_with_rounding_in_mind():
  recording = audio.Recording(noise(1.0), 16_000)
  for seconds in (0.96, 1.0, 1.04):
    assert audio.length_mismatch(recording, 'x', seconds) is None
  assert audio.length_mismatch(recording, 'x', 1.06).rule == 'truncated_audio'
  assert audio.length_mismatch(recording, 'x', 0.94).rule == 'duration_mismatch'


def test_samples_are_the_same_in_more_bits(tmp_path):
  one = audio.Recording(noise(0.1), 16_000)
  for kind, subtype in (('wav', 'FLOAT'), ('flac', 'PCM_24')):
    path = tmp_path / f'x.{kind}'
    soundfile.write(path, noise(0.1) / 32768, 16_000, subtype=subtype)
    other = audio.read(path)
    assert other.sound() == one.sound() and other.digest() != one.digest()
  loud = audio.Recording(np.array([0.1, -1.02, 1.0, 1.001], np.float32), 16_000)
  assert (one.clipped(), loud.clipped()) == (0, 2)
  assert loud.sound() == loud.digest()


@pytest.mark.parametrize('kind', ['ogg', 'mp3'])
def test_decoders_overshoot(tmp_path, kind):
  x = 0.99 * np.sign(np.sin(2 * np.pi * 150 / 16_000 * np.arange(16_000)))
  path = tmp_path / f'x.{kind}'
  soundfile.write(path, x, 16_000)
  recording = audio.read(path)
  assert np.abs(recording.samples_n).max() > 1.05 and recording.clipped() > 0
  assert audio.at_16_khz(recording).max() == 32767


def test_map_parallel_keeps_order_and_passes_errors_on():
  assert list(audio.map_parallel(lambda x: x * x, range(500))) == [
    x * x for x in range(500)
  ]
  with pytest.raises(ZeroDivisionError):
    list(audio.map_parallel(lambda x: 1 // x, [2, 1, 0, 3]))


def test_resampled_length_is_exact():
  for rate in (8_000, 11_025, 22_050, 44_100, 48_000, 8_001):
    for length in (1, 2, 17, 399, 12_345):
      recording = audio.Recording(np.zeros(length, np.float32), rate)
      expected = audio.resampled_length(length, rate)
      assert len(audio.at_16_khz(recording)) == expected


@pytest.mark.parametrize('peak', [1.002, 1.035])
def test_a_hair_above_full_scale_is_clipped(tmp_path, peak):
  samples = np.zeros(1_000, np.float32)
  samples[500] = peak
  path = tmp_path / 'x.wav'
  soundfile.write(path, samples, 16_000, subtype='FLOAT')
  assert audio.at_16_khz(audio.read(path)).max() == 32_767


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path):
  path = tmp_path / 'x.flac'
  soundfile.write(path, noise(), 16_000)
  data = bytearray(path.read_bytes())
  # STREAMINFO: four bits of byte 21 and four bytes more count the samples.
  data[21] &= 0xF0
  data[22:26] = bytes(4)
  path.write_bytes(data)
  np.testing.assert_array_equal(audio.read(path).samples_n, noise())
  part_n = audio.read(path, start=0.25, seconds=0.5).samples_n
  np.testing.assert_array_equal(part_n, noise()[4_000:12_000])


def test_a_channel_is_chosen(tmp_path):
  path = tmp_path / 'x.wav'
  both = np.stack([noise(), noise()[::-1]], 1)
  soundfile.write(path, both, 8_000)
  for channel in (0, 1):
    found_n = audio.read(path, channel=channel).samples_n
    np.testing.assert_array_equal(found_n, both[:, channel])
  with pytest.raises(audio.AudioError, match='channel is 2, but .* has 2'):
    audio.read(path, channel=2)
