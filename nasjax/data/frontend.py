"""Front ends: what is done to speech before a network sees it.

A `Frontend` is a record of choices. `corpus.load` carries them out, in the
order of Kaldi's recipes: speed perturbation (`audio.change_speed`), log-mel
energies (`features.log_mel_of_frames`) and pitch (`pitch.of`), normalisation,
deltas (`features.deltas`).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nasjax.data import features, pitch


@dataclasses.dataclass(frozen=True)
class Frontend:
  """How a corpus becomes features.

  Attributes:
    name: what flags and fingerprints call it.
    mels: log-mel energies a frame.
    deltas: whether their deltas and delta-deltas follow. They are taken of
      normalised energies, and not normalised again: a line through five frames
      is flatter than its frames vary, so most deltas are well below one.
    normalise: over whose frames mean and variance are taken. 'corpus': those of
      the training split, for all splits. 'speaker': those of the same speaker
      in the same split; an utterance of unknown speaker stands alone.
    speeds: at which the training split is spoken, 1 among them. Each other
      speed adds a copy of all utterances, with the same transcripts.
    window: what frames are multiplied by, of `features.WINDOWS`.
    pitch: whether the three features of `pitch.of` follow the energies; they
      are normalised, and have deltas, as these.
  """

  name: str
  mels: int = features.MELS
  deltas: bool = False
  normalise: str = 'corpus'
  speeds: tuple[float, ...] = (1.0,)
  window: str = 'hann'
  pitch: bool = False

  def __post_init__(self):
    object.__setattr__(self, 'speeds', tuple(map(float, self.speeds)))
    if isinstance(self.mels, bool) or not isinstance(self.mels, int):
      raise ValueError(
        f'front end {self.name}: mels={self.mels!r} is no whole number'
      )
    try:
      features.mel_weights(self.mels)
    except ValueError as e:
      raise ValueError(f'front end {self.name}: {e}') from None
    checks = {
      'deltas': isinstance(self.deltas, bool),
      'pitch': isinstance(self.pitch, bool),
      'normalise': self.normalise in ('corpus', 'speaker'),
      'window': self.window in features.WINDOWS,
      'speeds': all(0.5 <= speed <= 2.0 for speed in self.speeds)
      and 1.0 in self.speeds
      and len(set(map(prefix, self.speeds))) == len(self.speeds),
    }
    remedies = {
      'deltas': 'True or False',
      'pitch': 'True or False',
      'normalise': "'corpus' or 'speaker'",
      'window': ' or '.join(map(repr, features.WINDOWS)),
      'speeds': 'distinct speeds from 0.5 to 2, 1 among them',
    }
    for field, good in checks.items():
      if not good:
        raise ValueError(
          f'front end {self.name}: {field}={getattr(self, field)!r}; want '
          f'{remedies[field]}'
        )

  @property
  def width(self) -> int:
    """Features a frame: those that a network reads."""
    return self.measured * (3 if self.deltas else 1)

  @property
  def measured(self) -> int:
    """Features a frame before deltas: energies, then pitch."""
    return self.mels + (pitch.WIDTH if self.pitch else 0)

  @property
  def training_speeds(self) -> tuple[float, ...]:
    """The speeds in the order of the training split: first 1, unchanged."""
    return (1.0, *(speed for speed in self.speeds if speed != 1.0))

  def fingerprint(self, contents: str) -> str:
    """Returns the digest of a corpus that went through this front end.

    Tables keep results of different fingerprints apart. What is not `NB_ASR` is
    marked by its name and a digest of its choices; under `NB_ASR`, which stood
    alone once, the digest of the contents is that of the corpus.

    Args:
      contents: digest of samples, transcripts and splits.
    """
    if self == NB_ASR:
      return contents
    choices = dataclasses.asdict(self)
    if self.window == 'hann':  # there was no other once
      del choices['window']
    if not self.pitch:
      del choices['pitch']
    text = json.dumps(choices, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f'{contents}+{self.name}-{digest}'


def prefix(speed: float) -> str:
  """Returns what begins the ids of utterances and speakers at a speed.

  Nothing at speed 1, else `sp0.9-`, as in Kaldi.
  """
  return '' if speed == 1.0 else f'sp{speed:g}-'


# Mehrotra et al., NAS-Bench-ASR, ICLR 2021, as in their TensorFlow code.
NB_ASR = Frontend('nb_asr')
# Zheng, An and Ou, "Efficient neural architecture search for end-to-end speech
# recognition via straight-through gradients", SLT 2021, section 4. Order and
# options are those of their recipe for WSJ, which perturbs its validation split
# as well. Windows and filters are those of `features`, not Kaldi's (Povey
# window, pre-emphasis, from 20 Hz): pre-emphasis and scale add little but a
# constant to each logarithm, which normalisation takes out.
ST_NAS = Frontend(
  'st_nas', mels=40, deltas=True, normalise='speaker', speeds=(0.9, 1.0, 1.1)
)
# As NB_ASR; the paper says of its features for LibriSpeech alone that their
# windows are Hamming's.
NB_ASR_HAMMING = Frontend('nb_asr_hamming', window='hamming')
# Chen et al., DARTS-ASR, Interspeech 2020: 80 energies and pitch.
DARTS_ASR = Frontend('darts_asr', pitch=True)
FRONTENDS = {f.name: f for f in (NB_ASR, ST_NAS, NB_ASR_HAMMING, DARTS_ASR)}


# Speech on the device at a time. Blocks of another size may round otherwise.
BLOCK_SECONDS = 80.0


class Fitted(NamedTuple):
  """A front end with what it normalises by: all that makes speech features.

  Attributes:
    frontend: `Frontend`.
    mean_f, variance_f: float32 [measured], of the training split; None where
      each speaker has their own.
    speakers: by split and name, (mean_f, variance_f) of each known speaker at
      speed 1; empty where the corpus has one mean.
  """

  frontend: Frontend
  mean_f: np.ndarray | None = None
  variance_f: np.ndarray | None = None
  speakers: Mapping[tuple[str, str], tuple] = {}

  @property
  def sample_rate(self) -> int:
    return features.SAMPLE_RATE

  @property
  def hop(self) -> int:
    """Samples from one frame to the next."""
    return features.HOP

  @property
  def window_k(self) -> np.ndarray:
    """float32 [400], what the samples of a frame are multiplied by."""
    return features.window(self.frontend.window)

  @property
  def filters_nf(self) -> np.ndarray:
    """float64 [201, mels], filters on the bins of the power spectrum."""
    return features.mel_weights(self.frontend.mels)

  def of_speaker(self, speaker: str | None):
    """Returns (mean_f, variance_f) for a speaker; None for who is not known.

    Of a speaker of several splits those of test, else of validation.
    """
    if self.mean_f is not None:
      return self.mean_f, self.variance_f
    for split in ('test', 'validation', 'train'):
      if (split, speaker) in self.speakers:
        return self.speakers[split, speaker]
    return None

  def features(
    self,
    recordings: Sequence[np.ndarray],
    speakers: Sequence[str | None] | None = None,
  ) -> list[np.ndarray]:
    """Returns x_tf, float32 [frames, width], of each recording.

    They are those that a network was trained on, to the bit.

    Args:
      recordings: int16 samples at 16 kHz, each at least one window.
      speakers: of each; one who is not known, or None, is normalised by the
        recording itself where the front end goes by speakers.
    """
    measured = self.frontend.measured
    frames = [features.num_frames(len(samples_n)) for samples_n in recordings]
    x_nf = np.empty((sum(frames), self.frontend.width), np.float32)
    measure(x_nf, recordings, self.frontend, block(), lambda: None)
    utterances = np.split(x_nf, np.cumsum(frames)[:-1])
    for x_tf, speaker in zip(utterances, speakers or [None] * len(frames)):
      measured_tf = x_tf[:, :measured]
      known = self.of_speaker(speaker)
      known = known or features.pooled_statistics([measured_tf])
      measured_tf[:] = features.normalise(measured_tf, *known)
    if self.frontend.deltas:
      fill_deltas(utterances, measured)
    return utterances


def block(seconds: float = BLOCK_SECONDS) -> int:
  """Returns the frames of so many seconds, at least one."""
  return max(1, round(seconds * features.SAMPLE_RATE / features.HOP))


def measure(
  x_nf: np.ndarray,
  recordings: Iterable[np.ndarray],
  frontend: Frontend,
  block: int,
  tick: Callable[[], None],
) -> None:
  """Writes energies, and pitch, of utterances into an array.

  Args:
    x_nf: float32 [frames, width], written but for the columns of deltas.
    recordings, block, tick: as in `fill_log_mel`.
    frontend: which features.
  """
  if frontend.pitch:
    pitch_nf = x_nf[:, frontend.mels : frontend.measured]
    recordings = _with_pitch(recordings, pitch_nf)
  energies_nf = x_nf[:, : frontend.mels]
  fill_log_mel(energies_nf, recordings, block, tick, frontend.window)


def _with_pitch(recordings, x_nf):
  """Yields recordings as they come, having written the pitch of each."""
  done = 0
  for samples_n in recordings:
    found_tf = pitch.of(samples_n)
    x_nf[done : done + len(found_tf)] = found_tf
    done += len(found_tf)
    yield samples_n


def fill_log_mel(
  x_nf: np.ndarray,
  recordings: Iterable[np.ndarray],
  block: int,
  tick: Callable[[], None],
  kind: str = 'hann',
) -> None:
  """Writes the log-mel energies of utterances into an array.

  Args:
    x_nf: float32 [frames, mels], written: one utterance after another.
    recordings: int16 samples at 16 kHz of each utterance, `x_nf` frames
      together.
    block, tick, kind: as in `log_mel_blocks`.
  """
  done = 0
  for found_nf in log_mel_blocks(recordings, block, tick, x_nf.shape[1], kind):
    x_nf[done : done + len(found_nf)] = found_nf
    done += len(found_nf)


def log_mel_blocks(
  recordings: Iterable[np.ndarray],
  block: int,
  tick: Callable[[], None],
  mels: int,
  kind: str = 'hann',
) -> Iterator[np.ndarray]:
  """Computes the log-mel energies of utterances, `block` frames at a time.

  Frames do not depend on each other, so the blocks take no notice of where
  utterances end: one shape, one compilation, and no padding but at the end.

  Args:
    recordings: int16 samples at 16 kHz of each utterance.
    block: frames that are computed together.
    tick: called after each utterance.
    mels: energies a frame.
    kind: of window, as in `features.window`.

  Yields:
    float32 [frames, mels], one utterance after another; the last is shorter.
  """
  frames_nk = np.zeros((block, features.WINDOW), np.int16)
  filled = 0
  log_mel = functools.partial(features.log_mel_of_frames, mels=mels, kind=kind)
  for samples_n in recordings:
    windows_tk = np.lib.stride_tricks.sliding_window_view(
      samples_n, features.WINDOW
    )[:: features.HOP]
    while len(windows_tk):
      piece_tk = windows_tk[: block - filled]
      frames_nk[filled : filled + len(piece_tk)] = piece_tk
      filled += len(piece_tk)
      windows_tk = windows_tk[len(piece_tk) :]
      if filled == block:
        yield np.asarray(log_mel(frames_nk))
        filled = 0
    tick()
  if filled:
    yield np.asarray(log_mel(frames_nk))[:filled]


def normalise(x_nf: np.ndarray, mean_f, variance_f, block: int) -> None:
  """Normalises in place, a block at a time: no second copy of a corpus."""
  for first in range(0, len(x_nf), block):
    rows = slice(first, first + block)
    x_nf[rows] = features.normalise(x_nf[rows], mean_f, variance_f)


def normalise_speakers(
  utterances: Sequence[np.ndarray], speakers: Sequence[str]
) -> dict[str, tuple]:
  """Normalises in place, each speaker by the mean and variance of their own.

  Args:
    utterances: float32 [frames, mels] each.
    speakers: of the utterances; '' is somebody else each time.

  Returns:
    mean_f and variance_f of each speaker with a name.
  """
  voices = {}
  for u, (x_tf, speaker) in enumerate(zip(utterances, speakers, strict=True)):
    # An unknown speaker is known by the utterance's position, an integer.
    voices.setdefault(speaker or u, []).append(x_tf)
  found = {}
  for speaker, own in voices.items():
    mean_f, variance_f = features.pooled_statistics(own)
    for x_tf in own:
      x_tf[:] = features.normalise(x_tf, mean_f, variance_f)
    if isinstance(speaker, str):
      found[speaker] = mean_f, variance_f
  return found


def fill_deltas(utterances: Sequence[np.ndarray], measured: int) -> None:
  """Writes the deltas of the first `measured` columns into the others.

  Args:
    utterances: float32 [frames, 3 * measured] each.
    measured: columns that are there already.
  """
  for x_tf in utterances:
    x_tf[:, measured:] = features.deltas(x_tf[:, :measured])
