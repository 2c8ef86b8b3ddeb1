"""Synthetic corpora of TIMIT's shape: speakers, sentences, recordings.

A corpus is a pure function of its `Spec`. Every speaker and every utterance has
a random generator of its own, from the seed and its number, so that nothing
depends on the order or the number of processes.

Speakers say ten sentences each, as TIMIT's do. A speaker has a sex, an accent,
one of eSpeak NG's voices, a rate, a pitch and its range, and the length of a
vocal tract, which stretches the voice's formants: the audio is resampled by
that factor, and rate and pitch are corrected for it. Sexes and accents take
turns, so that every split has both sexes and, from 16 speakers on, all accents.

The last speakers are the test split, those before them validation: an eighth of
all each, at least 2, at most TIMIT's 50.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import queue
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soxr

from nasjax.data.synthetic import acoustics, espeak_phones, sentences
from nasjax.data.synthetic.espeak import Espeak

# Raise this whenever the same spec makes other audio or phones than before.
SYNTHESIS_VERSION = 1

SAMPLE_RATE = acoustics.SAMPLE_RATE
SENTENCES_PER_SPEAKER = 10
SPLITS = ('train', 'validation', 'test')

# Accents by eSpeak NG's names for them. TIMIT has eight dialect regions.
ACCENTS: dict[str, str] = {
  'en-us': 'en-us',
  'en-gb': 'en',
  'en-us-nyc': 'en-us-nyc',
  'en-gb-scotland': 'en-gb-scotland',
  'en-gb-x-rp': 'en-gb-x-rp',
  'en-gb-x-gbclan': 'en-gb-x-gbclan',
  'en-029': 'en-029',
  'en-gb-x-gbcwmd': 'en-gb-x-gbcwmd',
}

# Variants that sound like people. Those with an echo are left out: an echo
# fills the silences from which closures are read.
VOICES: dict[str, tuple[str, ...]] = {
  'f': (
    *('f1', 'Andrea', 'Annie', 'aunty', 'belinda', 'linda'),
    *('anika', 'steph', 'steph2', 'steph3', 'grandma', 'shelby'),
  ),
  'm': (
    *('m1', 'm3', 'm4', 'm5', 'm6', 'm7', 'm8', 'Alex'),
    *('Andy', 'Denis', 'Gene', 'Michael', 'Mike', 'max', 'antonio', 'boris'),
  ),
}


@dataclasses.dataclass(frozen=True)
class Spec:
  """All that determines a synthetic corpus.

  Attributes:
    num_utterances: 100 to 6,300.
    seed: of everything drawn.
    grammar: 'digits', 'small' or 'full'; see `sentences`.
    words: fewest and most words of a sentence.
    accents: names from `ACCENTS`; speakers take turns, so a name that stands
      there twice has twice the speakers.
    snr_db: range of signal-to-noise ratios in dB; None for no noise.
    rt60: range of reverberation times in seconds; None for no rooms.
    band_limit: whether recordings have a lower and an upper frequency limit.
    max_seconds: longest utterance; a longer one is drawn again, shorter.

  Raises:
    ValueError: a value that cannot be, with the remedy.
  """

  num_utterances: int = 6300
  seed: int = 0
  grammar: str = 'full'
  words: tuple[int, int] = (4, 12)
  accents: tuple[str, ...] = tuple(ACCENTS)
  snr_db: tuple[float, float] | None = (5.0, 25.0)
  rt60: tuple[float, float] | None = (0.1, 0.5)
  band_limit: bool = True
  max_seconds: float = 8.0

  def __post_init__(self):
    _check_whole('num_utterances', self.num_utterances, 100, 6300)
    _check_whole('seed', self.seed, 0, 2**32 - 1)
    if self.grammar not in tuple(sentences.GRAMMARS):
      known = ', '.join(sentences.GRAMMARS)
      raise ValueError(f'grammar is {self.grammar!r}; choose from {known}')
    _check_accents(self.accents)
    low, high = sentences.word_range(sentences.GRAMMARS[self.grammar])
    _check_range('words', self.words, low, high)
    for count in self.words:
      _check_whole('words', count, low, high)
    if self.snr_db is not None:
      _check_range('snr_db', self.snr_db, -30.0, 100.0)
    if self.rt60 is not None:
      _check_range('rt60', self.rt60, 0.05, 2.0)
    if not isinstance(self.band_limit, bool):
      raise ValueError(f'band_limit is {self.band_limit!r}; give True or False')
    _check_seconds(self.max_seconds, self.words[0])
    self._normalise()

  def _normalise(self):
    """Makes equal specs of lists, tuples, ints and floats of equal value."""

    def pair(values, kind):
      return None if values is None else tuple(kind(v) for v in values)

    for name, value in {
      'num_utterances': int(self.num_utterances),
      'seed': int(self.seed),
      'words': pair(self.words, int),
      'accents': tuple(self.accents),
      'snr_db': pair(self.snr_db, float),
      'rt60': pair(self.rt60, float),
      'max_seconds': float(self.max_seconds),
    }.items():
      object.__setattr__(self, name, value)

  def utterances_of(self, speaker: int) -> range:
    """Returns the numbers of a speaker's utterances."""
    first = speaker * SENTENCES_PER_SPEAKER
    last = min(first + SENTENCES_PER_SPEAKER, self.num_utterances)
    return range(first, last)

  def fingerprint(self) -> str:
    """Returns a SHA-256 digest of all that determines the corpus."""
    content = {
      'spec': dataclasses.asdict(self),
      'synthesis': SYNTHESIS_VERSION,
      'espeakng-loader': _espeak_package(),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def name(self) -> str:
    """Returns a short name that differs whenever the corpus does."""
    digest = self.fingerprint()[:12]
    return f'{self.grammar}-{self.num_utterances}-{digest}'


def _check_whole(name, value, low, high):
  if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
    raise ValueError(f'{name} is {value!r}; give a whole number')
  if not low <= value <= high:
    raise ValueError(f'{name} is {value}; give {low} to {high}')


def _check_range(name, value, low, high):
  """Raises unless `value` is a pair low <= first <= second <= high."""
  try:
    first, second = value
    fits = bool(low <= first <= second <= high)
  except (TypeError, ValueError):  # not two, or no numbers
    fits = False
  if not fits:
    raise ValueError(
      f'{name} is {value!r}; give two numbers, the smaller first, '
      f'between {low:g} and {high:g}'
    )


def _check_seconds(seconds, fewest):
  # What the slowest voice needs, by measurement, with some to spare.
  least = 0.75 + 0.5 * fewest
  number = isinstance(seconds, (int, float, np.number))
  if not number or not least <= seconds <= 60.0:
    raise ValueError(
      f'max_seconds is {seconds!r}; give {least:g} (for {fewest} words) to 60'
    )


def _check_accents(accents):
  known = isinstance(accents, (tuple, list)) and all(
    isinstance(accent, str) and accent in ACCENTS for accent in accents
  )
  if not known or not accents:
    raise ValueError(
      f'accents is {accents!r}; give a tuple of {", ".join(ACCENTS)}'
    )


def _espeak_package() -> str:
  """Returns the version of the package that carries eSpeak NG and its data."""
  try:
    return importlib.metadata.version('espeakng-loader')
  except importlib.metadata.PackageNotFoundError as error:
    raise RuntimeError(
      'eSpeak NG is not installed; use: pip install espeakng-loader'
    ) from error


class Speaker(NamedTuple):
  """A synthetic speaker.

  Attributes:
    id: 'f0012' or 'm0013': sex and number.
    accent: a name from `ACCENTS`.
    variant: a name from `VOICES`.
    rate: words a minute.
    pitch, pitch_range: in eSpeak NG's units, 0 to 99.
    tract: factor on the variant's formants.
  """

  id: str
  accent: str
  variant: str
  rate: float
  pitch: float
  pitch_range: int
  tract: float


class Utterance(NamedTuple):
  """A recording and what was said.

  Attributes:
    id: the speaker's id and the number of the sentence.
    audio_t: int16 samples at 16 kHz.
    phones: symbols of TIMIT's 61.
    bounds: first and last sample (exclusive) of each phone, int32 (phones, 2).
    text: the words, with commas for pauses.
    speaker: the speaker's id.
  """

  id: str
  audio_t: np.ndarray
  phones: tuple[str, ...]
  bounds: np.ndarray
  text: str
  speaker: str


def speakers_of(spec: Spec, split: str) -> range:
  """Returns the numbers of a split's speakers."""
  count = math.ceil(spec.num_utterances / SENTENCES_PER_SPEAKER)
  held_out = min(50, max(2, round(count / 8)))
  ends = {
    'train': (0, count - 2 * held_out),
    'validation': (count - 2 * held_out, count - held_out),
    'test': (count - held_out, count),
  }
  return range(*ends[split])


def draw_speaker(spec: Spec, number: int) -> Speaker:
  """Returns speaker `number` of a corpus."""
  order = np.random.default_rng([spec.seed, 0]).permutation(len(spec.accents))
  sex = 'fm'[number % 2]
  accent = spec.accents[order[number // 2 % len(order)]]
  rng = np.random.default_rng([spec.seed, 1, number])
  return Speaker(
    id=f'{sex}{number:04d}',
    accent=accent,
    variant=VOICES[sex][rng.integers(len(VOICES[sex]))],
    rate=rng.uniform(140.0, 215.0),
    pitch=rng.uniform(30.0, 70.0),
    pitch_range=int(rng.integers(25, 76)),
    tract=rng.uniform(0.88, 1.12),
  )


def draw_utterance(
  spec: Spec, speaker: Speaker, number: int, voice: Espeak
) -> Utterance:
  """Returns utterance `number` of a corpus, spoken by `speaker`."""
  rng = np.random.default_rng([spec.seed, 2, number])
  text, speech = _speak(spec, speaker, rng, voice)
  speech = espeak_phones.pad(speech, *rng.uniform(0.1, 0.25, size=2))
  alignment = espeak_phones.align(speech)
  clean_t = soxr.resample(
    speech.audio_t.astype(np.float32), speech.rate * speaker.tract, SAMPLE_RATE
  )
  scale = SAMPLE_RATE / (speech.rate * speaker.tract)
  edges = np.rint(alignment.bounds * scale).astype(np.int32)
  edges[-1] = len(clean_t)
  conditions = acoustics.draw_conditions(
    rng, spec.snr_db, spec.rt60, spec.band_limit
  )
  heard_t, noise_t = acoustics.record(
    clean_t, (edges[1], edges[-2]), conditions, rng
  )
  return Utterance(
    id=f'{speaker.id}_{number % SENTENCES_PER_SPEAKER}',
    audio_t=acoustics.quantise(heard_t + noise_t, conditions.peak_db),
    phones=alignment.phones,
    bounds=np.stack([edges[:-1], edges[1:]], axis=1),
    text=text,
    speaker=speaker.id,
  )


def _speak(spec, speaker, rng, voice):
  """Draws sentences until one is short enough; returns it and its speech."""
  grammar = sentences.GRAMMARS[spec.grammar]
  fewest, most = spec.words
  words = int(rng.integers(fewest, most + 1))
  # Resampling by the tract raises the pitch and the rate; these undo it. One
  # unit of eSpeak NG's pitch is about 1 % (measured).
  rate = round(speaker.rate * rng.uniform(0.92, 1.08) / speaker.tract)
  pitch = round(speaker.pitch - math.log(speaker.tract) / 0.01)
  longest = spec.max_seconds - 0.5
  for _ in range(100):
    text = sentences.draw_sentence(grammar, words, rng)
    speech = voice.say(
      text + '.',
      f'{ACCENTS[speaker.accent]}+{speaker.variant}',
      rate,
      pitch,
      speaker.pitch_range,
    )
    if len(speech.audio_t) / (speech.rate * speaker.tract) <= longest:
      return text, speech
    words = max(fewest, words - 1)
  raise ValueError(
    f'no sentence of {fewest} words is shorter than max_seconds '
    f'{spec.max_seconds:g}; raise it, or allow fewer words'
  )


def synthesise(spec: Spec, split: str, workers: int = 2) -> Iterator[Utterance]:
  """Yields the utterances of a split, speaker by speaker.

  Args:
    spec: the corpus.
    split: 'train', 'validation' or 'test'.
    workers: threads, each with a process of eSpeak NG; the result does not
      depend on it.

  Raises:
    ValueError: `workers` below 1. RuntimeError: eSpeak NG fails.
  """
  if workers < 1:
    raise ValueError(f'workers is {workers}; give at least 1')
  voices = queue.SimpleQueue()
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  pending = collections.deque()
  try:
    for _ in range(workers):
      voices.put(Espeak())
    for number in speakers_of(spec, split):
      pending.append(pool.submit(_session, spec, number, voices))
      if len(pending) > 2 * workers:
        yield from pending.popleft().result()
    while pending:
      yield from pending.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)
    while not voices.empty():
      voices.get().close()


def _session(spec, number, voices):
  """Returns all utterances of one speaker."""
  speaker = draw_speaker(spec, number)
  voice = voices.get()
  try:
    return [
      draw_utterance(spec, speaker, i, voice)
      for i in spec.utterances_of(number)
    ]
  finally:
    voices.put(voice)
