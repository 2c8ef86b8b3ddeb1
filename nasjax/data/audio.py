"""Reading recordings, refusing those that cannot be trusted.

libsndfile does the reading; it shortens a truncated file without a word, so
the length is compared with what the header promises.
"""

import collections
import hashlib
import math
import os
import pathlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from nasjax.data import features

# How far a declared duration may be from the file's: they are often rounded, to
# a tenth of a second at the coarsest.
DURATION_TOLERANCE = 0.06
# What is beyond full scale by no more than this factor is clipped. Decoders of
# lossy audio overshoot by nature: a square wave at 0.99 came back from ffmpeg's
# encoders with peaks of 1.14 (Opus), 1.32 (MP3) and 1.48 (Vorbis).
_OVERSHOOT = 1.05
_LOSSY_OVERSHOOT = 2.0
_LOSSY = ('VORBIS', 'OPUS', 'MPEG_LAYER_I', 'MPEG_LAYER_II', 'MPEG_LAYER_III')
_RATES = (8_000, 192_000)
# Streams are written with absurd lengths when theirs is not known: 12 hours.
_MOST_SAMPLES = 12 * 3600 * _RATES[1]
_BLOCK = 2**20  # samples read at a time where there is no telling


class Fault(NamedTuple):
  """A broken rule before it is known which line names the file."""

  rule: str
  message: str


class AudioError(ValueError):
  """Audio that cannot be used; holds one `Fault`."""

  def __init__(self, rule: str, message: str):
    super().__init__(message)
    self.fault = Fault(rule, message)


class Recording(NamedTuple):
  """Samples as they are in the file.

  Attributes:
    samples_n: int16, or float32 of full scale 1, which may overshoot a little.
    rate: samples a second.
  """

  samples_n: np.ndarray
  rate: int

  @property
  def seconds(self) -> float:
    return len(self.samples_n) / self.rate

  def digest(self) -> str:
    """Returns the SHA-256 of the sampling rate and the samples."""
    digest = hashlib.sha256(f'{self.rate} {self.samples_n.dtype} '.encode())
    digest.update(np.ascontiguousarray(self.samples_n))
    return digest.hexdigest()

  def sound(self) -> str:
    """Returns the digest of the samples however many bits they are kept in."""
    if self.samples_n.dtype == np.int16:
      return self.digest()
    scaled_n = np.clip(32768 * self.samples_n, -32768, 32767)
    integers_n = scaled_n.astype(np.int16)
    exact = np.array_equal(integers_n, scaled_n)
    return (
      self._replace(samples_n=integers_n).digest() if exact else self.digest()
    )

  def clipped(self) -> int:
    """Returns how many samples are beyond full scale."""
    if self.samples_n.dtype == np.int16:
      return 0
    return int(np.count_nonzero(np.abs(self.samples_n) > 1))


def read(
  path: str | os.PathLike,
  start: float = 0.0,
  seconds: float | None = None,
  channel: int | None = None,
) -> Recording:
  """Reads one recording, or a stretch of it.

  Args:
    path: WAV, FLAC, NIST SPHERE, or whatever else libsndfile reads.
    start: seconds left out at the beginning.
    seconds: length of the stretch; None reads to the end.
    channel: which one, from 0; None where there is one.

  Raises:
    AudioError: with the first of these rules that the file breaks:
      missing_file, empty_audio (no byte, or no sample), unreadable_audio,
      stereo, unsupported_rate, truncated_audio (less than its header says),
      nan_samples (or infinite), out_of_range (floats well beyond 1), bad_field
      (it starts past the end, has no length, or there is no such channel),
      shorten (compressed SPHERE).
  """
  path = pathlib.Path(path)
  if not os.path.isfile(path):  # False as well for names that no file can have
    raise AudioError('missing_file', f'no file {path}')
  if not os.access(path, os.R_OK):
    raise AudioError('missing_file', f'{path} may not be read by this user')
  if not path.stat().st_size:
    raise AudioError('empty_audio', f'{path} has no byte')
  try:
    with soundfile.SoundFile(path) as audio:
      lossy = audio.subtype in _LOSSY
      recording = _samples(audio, path, start, seconds, channel)
  except (soundfile.LibsndfileError, OSError) as error:
    if _is_shorten(path):
      raise AudioError(
        'shorten', f'{path} is SPHERE compressed by shorten'
      ) from error
    raise AudioError('unreadable_audio', f'{path}: {error}') from error
  if not len(recording.samples_n):
    if seconds is not None and not round(seconds * recording.rate):
      raise AudioError(
        'bad_field', f'duration is {seconds} s, no sample of {path}'
      )
    raise AudioError('empty_audio', f'{path} has no sample')
  _check_range(
    recording.samples_n, path, _LOSSY_OVERSHOOT if lossy else _OVERSHOOT
  )
  return recording


def _samples(audio, path, start, seconds, channel) -> Recording:
  """Reads the samples of an open file; see `read`."""
  if channel is not None and channel >= audio.channels:
    raise AudioError(
      'bad_field',
      f'channel is {channel}, but {path} has {audio.channels}, from 0',
    )
  if audio.channels != 1 and channel is None:
    raise AudioError('stereo', f'{path} has {audio.channels} channels, not 1')
  rate = audio.samplerate
  if not _RATES[0] <= rate <= _RATES[1]:
    raise AudioError(
      'unsupported_rate',
      f'{path} has {rate} samples a second, not {_RATES[0]} to {_RATES[1]}',
    )
  missing = _missing_bytes(path)
  if missing:
    raise AudioError(
      'truncated_audio', f'{path} ends {missing} bytes before its header says'
    )
  integers = audio.subtype == 'PCM_16'
  dtype = 'int16' if integers else 'float32'
  if audio.frames > _MOST_SAMPLES:
    return _to_the_end(path, start, seconds, dtype, channel)
  first = _first(start, rate, audio.frames, path)
  wanted = audio.frames - first
  if seconds is not None:
    wanted = min(wanted, round(seconds * rate))
  try:
    # A file cut short may seek or read with an error, or read too little.
    audio.seek(first)
    samples_n = audio.read(wanted, dtype=dtype)
  except soundfile.LibsndfileError as error:
    raise AudioError('truncated_audio', f'{path}: {error}') from error
  if len(samples_n) < wanted:
    raise AudioError(
      'truncated_audio',
      f'{path} holds {len(samples_n)} of the {wanted} samples in its header',
    )
  return Recording(_one(samples_n, channel), rate)


def _one(samples, channel):
  """Returns a channel of [n] or [n, channels]."""
  return samples if samples.ndim == 1 else samples[:, channel]


def _first(start, rate, length, path):
  """Returns the number of the first sample from `start` seconds on."""
  first = round(start * rate)
  if start > 0 and first >= length:
    raise AudioError(
      'bad_field',
      f'offset is {start} s, but {path} lasts {length / rate:.3f} s',
    )
  return first


class _Stream(soundfile.SoundFile):
  """A file that is read from its beginning to its end, without seeking."""

  def seekable(self):
    # Where the length is not known, libsndfile cannot seek to the end.
    return False


def _to_the_end(path, start, seconds, dtype, channel) -> Recording:
  """Reads a stream whose header does not say how long it is."""
  parts = []
  try:
    with _Stream(path) as audio:
      rate = audio.samplerate
      while len(part := audio.read(_BLOCK, dtype=dtype)):
        parts.append(_one(part, channel))
  except soundfile.LibsndfileError as error:
    raise AudioError('unreadable_audio', f'{path}: {error}') from error
  samples_n = np.concatenate([np.zeros(0, dtype), *parts])
  first = _first(start, rate, len(samples_n), path)
  last = None if seconds is None else first + round(seconds * rate)
  return Recording(samples_n[first:last], rate)


def _is_shorten(path: pathlib.Path) -> bool:
  with path.open('rb') as file:
    header = file.read(1024)
  return header.startswith(b'NIST_1A') and b'shorten' in header


def _missing_bytes(path: pathlib.Path) -> int:
  """Returns how many bytes of samples the header of a WAV promises in vain.

  libsndfile shortens such files without a word. Sizes that programs write when
  they do not know the length (0, or near the limit of 32 bits) promise nothing.
  """
  size = path.stat().st_size
  with path.open('rb') as file:
    start = file.read(12)
    if start[:4] == b'NIST':
      return _missing_sphere_bytes(file, size)
    if start[:4] != b'RIFF' or start[8:] != b'WAVE':
      return 0
    while len(chunk := file.read(8)) == 8:
      name, length = struct.unpack('<4sI', chunk)
      if name == b'data':
        known = 0 < length < 0x7FFF_0000
        return max(0, file.tell() + length - size) if known else 0
      file.seek(length + length % 2, os.SEEK_CUR)
  return 0


def _missing_sphere_bytes(file, size: int) -> int:
  """Returns the bytes of samples missing from an open SPHERE file."""
  file.seek(0)
  header = file.read(1024)
  if b'shorten' in header:  # compressed: the file is shorter than its samples
    return 0
  start, *counts = (
    re.search(pattern, header)
    for pattern in (
      rb'^NIST_1A\s+(\d+)',
      rb'sample_count -i (\d+)',
      rb'sample_n_bytes -i (\d+)',
      rb'channel_count -i (\d+)',
    )
  )
  if start is None or counts[0] is None:
    return 0
  length = math.prod(int(match[1]) for match in counts if match)
  return max(0, int(start[1]) + length - size)


def _check_range(samples_n: np.ndarray, path, most: float) -> None:
  """Refuses floats that are not finite, or beyond `most`."""
  if samples_n.dtype == np.int16:
    return
  bad = np.count_nonzero(~np.isfinite(samples_n))
  if bad:
    raise AudioError(
      'nan_samples', f'{path}: {bad} samples are not a finite number'
    )
  peak = float(np.abs(samples_n).max())
  if peak > most:
    raise AudioError(
      'out_of_range', f'{path}: samples reach {peak:.4g}, full scale is 1'
    )


def given(samples_n, rate, name='samples') -> Recording:
  """Returns a `Recording` of samples from elsewhere.

  Args:
    samples_n: one channel, int16, or floats of full scale 1.
    rate: samples a second.
    name: what errors call them.

  Raises:
    AudioError: naming what of this they are not.
  """
  samples_n = np.asarray(samples_n)
  kind = samples_n.dtype
  if kind != np.int16 and kind.kind != 'f':
    raise AudioError(
      'unreadable_audio',
      f'{name} have type {kind}: give int16, or floats of full scale 1',
    )
  if samples_n.ndim != 1:
    raise AudioError(
      'stereo', f'{name} have shape {samples_n.shape}: give one channel, [n]'
    )
  if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
    raise AudioError(
      'unsupported_rate',
      f'{name}: rate={rate!r}; say how many there are a second, as 16000',
    )
  if not _RATES[0] <= rate <= _RATES[1]:
    raise AudioError(
      'unsupported_rate',
      f'{name}: {rate} samples a second, not {_RATES[0]} to {_RATES[1]}',
    )
  if not samples_n.size:
    raise AudioError('empty_audio', f'{name}: there is none')
  if kind != np.int16:
    samples_n = samples_n.astype(np.float32)
  _check_range(samples_n, name, _OVERSHOOT)
  return Recording(samples_n, int(rate))


def length_mismatch(
  recording: Recording,
  path,
  seconds: float,
  tolerance: float = DURATION_TOLERANCE,
  start: float = 0.0,
) -> Fault | None:
  """Compares a recording with its declared seconds, which may be rounded.

  Args:
    recording: as it was read, from `start` on.
    path: its file.
    seconds: declared.
    tolerance: seconds by which that may be wrong.
    start: seconds of the file before the recording.
  """
  missing = seconds - recording.seconds
  lasts = start + recording.seconds
  message = f'{path} lasts {lasts:.3f} s, declared are {seconds} s'
  if start:
    message += f' from {start} s on'
  if missing > tolerance:
    return Fault('truncated_audio', message)
  if missing < -tolerance:
    return Fault('duration_mismatch', message)
  return None


def header(path: str | os.PathLike) -> tuple[int, int] | None:
  """Returns rate and samples of a file by its header; None if it has none."""
  try:
    with soundfile.SoundFile(path) as audio:
      return audio.samplerate, audio.frames
  except (soundfile.LibsndfileError, OSError):
    return None


def flac_mismatch(recording: Recording, path) -> Fault | None:
  """Compares the samples of a whole FLAC file with the MD5 in its header.

  libsndfile reads on behind a broken frame as if nothing were missing. Files
  without a digest, of several channels or of more than 16 bits are not held
  against anything, nor are those of other formats.
  """
  with pathlib.Path(path).open('rb') as file:
    head = file.read(42)
  # 20 bits of the rate, 3 of the channels less one, 5 of the bits less one.
  if head[:4] != b'fLaC' or len(head) < 42 or head[20] & 14:
    return None
  bits = 1 + ((head[20] & 1) << 4 | head[21] >> 4)
  stored = head[26:]
  if bits != 16 or not any(stored) or recording.samples_n.dtype != np.int16:
    return None
  heard = hashlib.md5(
    recording.samples_n.astype('<i2').tobytes(), usedforsecurity=False
  )
  if heard.digest() == stored:
    return None
  return Fault(
    'unreadable_audio', f'{path}: its samples are not those of its MD5 digest'
  )


def resampled_length(samples: int, rate: int) -> int:
  """Returns the length of `at_16_khz` without computing it."""
  return (2 * samples * features.SAMPLE_RATE + rate) // (2 * rate)


def at_16_khz(recording: Recording) -> np.ndarray:
  """Returns int16 samples at 16 kHz; what is that already stays bit-equal."""
  samples_n, rate = recording
  if samples_n.dtype == np.int16:
    if rate == features.SAMPLE_RATE:
      return samples_n
    samples_n = samples_n.astype(np.float32) / 32768.0
  if rate != features.SAMPLE_RATE:
    samples_n = soxr.resample(samples_n, rate, features.SAMPLE_RATE)
  scaled_n = np.rint(samples_n * 32768.0)
  return np.clip(scaled_n, -32768, 32767).astype(np.int16)


def change_speed(samples_n: np.ndarray, speed: float) -> np.ndarray:
  """Returns int16 speech at 16 kHz, spoken `speed` times as fast.

  Time and pitch change together, as with the effect `speed` of SoX: the samples
  are taken for a recording at `speed` times 16 kHz (to the nearest hertz), and
  resampled. Beyond 1, what would rise above 8 kHz is filtered out.

  Args:
    samples_n: at 16 kHz, int16 or float in [-1, 1].
    speed: above 1 is faster and shorter; at 1 int16 samples stay bit-equal.
  """
  return at_16_khz(Recording(samples_n, round(speed * features.SAMPLE_RATE)))


def length_at_speed(samples: int, speed: float) -> int:
  """Returns the length of `change_speed` without computing it."""
  return resampled_length(samples, round(speed * features.SAMPLE_RATE))


def map_parallel(function: Callable, items: Iterable) -> Iterator:
  """Yields `function(item)` in order, computed by threads slightly ahead.

  libsndfile and hashing leave Python's lock, so threads are enough; only a few
  results a thread are held at a time.
  """
  workers = min(32, 2 * (os.cpu_count() or 1))
  with futures.ThreadPoolExecutor(workers) as pool:
    pending = collections.deque()
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > 4 * workers:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
