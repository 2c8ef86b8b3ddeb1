"""Synthetic speech in many languages, by eSpeak NG: a manifest for each.

A language is a list of words that everybody knows (numbers, family, house,
nature), and eSpeak NG's name for it; sentences are a few of the words in any
order. Texts are in Unicode's composed form (NFC); phones are eSpeak NG's own
names in IPA, without stress, so each language has its own set of them.

Speakers have the voices, rates, pitches and rooms of `synthesis`. What is
written is a manifest as anybody's corpus (`data.manifest`), and depends on its
`Spec` alone.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from nasjax.data.synthetic import acoustics, espeak_phones, synthesis
from nasjax.data.synthetic.espeak import Espeak
from nasjax.data.synthetic.synthesis import Speaker

# Raise this whenever the same spec makes another corpus than before.
VERSION = 1
SPLITS = {'train': 0.7, 'dev': 0.15, 'test': 0.15}
_PER_SPEAKER = 10
_NO_PHONE = re.compile(r"[ˈˌ'\ufffd()_|]|\(.*?\)")


class Language(NamedTuple):
  """A language that can be spoken.

  Attributes:
    name: in English.
    voice: eSpeak NG's name.
    words: of which sentences are made.
  """

  name: str
  voice: str
  words: tuple[str, ...]


def _language(name, voice, words):
  words = unicodedata.normalize('NFC', words)
  return Language(name, voice, tuple(words.split()))


# By code of ISO 639-1.
LANGUAGES = {
  'vi': _language(
    'Vietnamese',
    'vi',
    """một hai ba bốn năm sáu bảy tám chín mười nhà nước cây mẹ cha con chó mèo
    cá chim sông núi trời đất lửa gió mưa ngày đêm đường sách bàn cơm trắng đen
    đỏ xanh lớn nhỏ""",
  ),
  'sw': _language(
    'Swahili',
    'sw',
    """moja mbili tatu nne tano sita saba nane tisa kumi nyumba maji mti mama
    baba mtoto mbwa paka samaki ndege mto mlima mbingu ardhi moto upepo mvua
    siku usiku njia kitabu meza wali nyeupe nyeusi nyekundu kubwa ndogo""",
  ),
  'ta': _language(
    'Tamil',
    'ta',
    """ஒன்று இரண்டு மூன்று நான்கு ஐந்து ஆறு ஏழு எட்டு ஒன்பது பத்து வீடு நீர்
    மரம் அம்மா அப்பா குழந்தை நாய் பூனை மீன் பறவை நதி மலை வானம் மண் தீ காற்று
    மழை நாள் இரவு வழி புத்தகம் மேசை சோறு வெள்ளை கருப்பு சிவப்பு பெரிய சிறிய""",
  ),
  'ku': _language(
    'Kurdish',
    'ku',
    """yek du sê çar pênc şeş heft heşt neh deh mal av dar dayik bav zarok se
    pisîk masî çûk çem çiya ezman ax agir ba baran roj şev rê pirtûk mase nan
    spî reş sor kesk mezin biçûk""",
  ),
  'bn': _language(
    'Bengali',
    'bn',
    """এক দুই তিন চার পাঁচ ছয় সাত আট নয় দশ বাড়ি জল গাছ মা বাবা শিশু কুকুর
    বিড়াল মাছ পাখি নদী পাহাড় আকাশ মাটি আগুন বাতাস বৃষ্টি দিন রাত পথ বই টেবিল
    ভাত সাদা কালো লাল বড় ছোট""",
  ),
  'id': _language(
    'Indonesian',
    'id',
    """satu dua tiga empat lima enam tujuh delapan sembilan sepuluh rumah air
    pohon ibu bapak anak anjing kucing ikan burung sungai gunung langit tanah
    api angin hujan hari malam jalan buku meja nasi putih hitam merah besar
    kecil""",
  ),
  'tr': _language(
    'Turkish',
    'tr',
    """bir iki üç dört beş altı yedi sekiz dokuz on ev su ağaç anne baba çocuk
    köpek kedi balık kuş nehir dağ gök toprak ateş rüzgar yağmur gün gece yol
    kitap masa pilav beyaz siyah kırmızı büyük küçük""",
  ),
  'ar': _language(
    'Arabic',
    'ar',
    """واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة بيت ماء شجرة أم أب
    ولد كلب قط سمك طائر نهر جبل سماء أرض نار ريح مطر يوم ليل طريق كتاب أرز أبيض
    أسود أحمر كبير صغير""",
  ),
}


@dataclasses.dataclass(frozen=True)
class Spec:
  """All that determines a corpus of one language.

  Attributes:
    language: a code of `LANGUAGES`.
    utterances: at least 10; 70 % of the speakers train, the rest is dev and
      test. Ten of one speaker, fewer where there would be no six speakers.
    seed: of everything drawn.
    words: fewest and most words of a sentence.
    snr_db: range of signal-to-noise ratios in dB; None for no noise.
    rt60: range of reverberation times in seconds; None for no rooms.
  """

  language: str
  utterances: int = 300
  seed: int = 0
  words: tuple[int, int] = (1, 4)
  snr_db: tuple[float, float] | None = (10.0, 30.0)
  rt60: tuple[float, float] | None = (0.1, 0.4)

  def __post_init__(self):
    if self.language not in LANGUAGES:
      raise ValueError(
        f'language {self.language!r}: want one of {", ".join(LANGUAGES)}'
      )
    if self.utterances < 10:
      raise ValueError(f'utterances {self.utterances}: at least 10')
    if self.words is None or not 1 <= self.words[0] <= self.words[1]:
      raise ValueError(f'words {self.words}: want fewest <= most, from 1 on')

  @property
  def per_speaker(self) -> int:
    return max(1, min(_PER_SPEAKER, self.utterances // 6))

  @property
  def speakers(self) -> int:
    return -(-self.utterances // self.per_speaker)

  @property
  def held_out(self) -> int:
    """Speakers of dev, and of test: one at least."""
    return max(1, round(SPLITS['dev'] * self.speakers))

  @property
  def words_said(self) -> tuple[str, ...]:
    """The words of sentences: as many as training says each of."""
    trained = (self.speakers - 2 * self.held_out) * self.per_speaker
    return LANGUAGES[self.language].words[:trained]

  @property
  def digest(self) -> str:
    """Names the corpus: of the spec and of the words."""
    told = dataclasses.asdict(self), LANGUAGES[self.language], VERSION
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:10]


class Utterance(NamedTuple):
  """What was said, and how it sounds.

  Attributes:
    id, speaker: names.
    split: of `SPLITS`.
    text: NFC.
    phones: IPA.
    samples_n: int16, at 16 kHz.
  """

  id: str
  speaker: str
  split: str
  text: str
  phones: list[str]
  samples_n: np.ndarray


def phones_of(events) -> list[str]:
  """Returns the phones of eSpeak NG's events, in IPA without stress."""
  names = (_NO_PHONE.sub('', name).strip() for _, name in events)
  return [unicodedata.normalize('NFC', name) for name in names if name]


def _speaker(spec, number):
  rng = np.random.default_rng([spec.seed, 3, number])
  sex = 'fm'[number % 2]
  voices = synthesis.VOICES[sex]
  return Speaker(
    id=f'{spec.language}_{sex}{number:04d}',
    accent=LANGUAGES[spec.language].voice,
    variant=voices[rng.integers(len(voices))],
    rate=rng.uniform(140.0, 200.0),
    pitch=rng.uniform(30.0, 70.0),
    pitch_range=int(rng.integers(25, 76)),
    tract=1.0,
  )


def _split(spec, number):
  """Returns the split of a speaker: the last are held out."""
  return (
    'test' if number >= spec.speakers - spec.held_out
    else 'dev' if number >= spec.speakers - 2 * spec.held_out
    else 'train'
  )  # fmt: skip


def draw(spec: Spec, number: int, voice: Espeak) -> Utterance:
  """Returns utterance `number` of a corpus."""
  who = number // spec.per_speaker
  speaker = _speaker(spec, who)
  rng = np.random.default_rng([spec.seed, 4, number])
  words = spec.words_said
  # Every word is said in training by somebody, whatever is drawn.
  first = [words[number % len(words)]]
  more = rng.integers(spec.words[0], spec.words[1] + 1) - 1
  text = ' '.join(rng.permutation(first + list(rng.choice(words, more))))
  speech = voice.say(
    text + '.',
    f'{speaker.accent}+{speaker.variant}',
    round(speaker.rate * rng.uniform(0.92, 1.08)),
    round(speaker.pitch),
    speaker.pitch_range,
  )
  speech = espeak_phones.pad(speech, *rng.uniform(0.1, 0.2, size=2))
  clean_t = soxr.resample(
    speech.audio_t.astype(np.float32), speech.rate, acoustics.SAMPLE_RATE
  )
  conditions = acoustics.draw_conditions(rng, spec.snr_db, spec.rt60, False)
  heard_t, noise_t = acoustics.record(
    clean_t, (0, len(clean_t)), conditions, rng
  )
  return Utterance(
    f'{speaker.id}_{number % spec.per_speaker}',
    speaker.id,
    _split(spec, who),
    text,
    phones_of(speech.events),
    acoustics.quantise(heard_t + noise_t, conditions.peak_db),
  )


def written(
  root: str | os.PathLike,
  spec: Spec,
  progress: Callable[[int, int], None] | None = None,
  workers: int = 2,
) -> pathlib.Path:
  """Writes a corpus, unless it is there; it appears whole or not at all.

  Args:
    root: where a folder of it is made, named by language and `Spec.digest`.
    spec: the speech.
    progress: called with (utterances done, of all).
    workers: processes of eSpeak NG; the result does not depend on it.

  Returns:
    its manifest.jsonl.

  Raises:
    RuntimeError: eSpeak NG fails.
  """
  root = pathlib.Path(root).expanduser()
  place = root / f'{spec.language}-{spec.digest}'
  if (place / 'manifest.jsonl').exists():
    return place / 'manifest.jsonl'
  root.mkdir(parents=True, exist_ok=True)
  made = pathlib.Path(tempfile.mkdtemp(prefix=f'.{spec.language}-', dir=root))
  try:
    whole = made / 'whole'
    (whole / 'audio').mkdir(parents=True)
    shares = np.array_split(range(spec.utterances), max(1, workers))
    done = [0] * len(shares)

    def tick(share):
      done[share] += 1
      if progress is not None:
        progress(sum(done), spec.utterances)

    speak = functools.partial(_speak, spec, whole, tick)
    with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
      lines = list(pool.map(speak, range(len(shares)), shares))
    lines = [line for own in lines for line in own]
    (whole / 'manifest.jsonl').write_text('\n'.join(lines) + '\n', 'utf-8')
    try:
      whole.rename(place)
    except OSError:
      # Another process was faster: it wrote the same.
      if not (place / 'manifest.jsonl').exists():
        raise
  finally:
    shutil.rmtree(made, ignore_errors=True)
  return place / 'manifest.jsonl'


def _speak(spec, folder, tick, share, numbers):
  """Writes the audio of some utterances; returns their lines."""
  lines = []
  with Espeak() as voice:
    for number in numbers.tolist():
      u = draw(spec, number, voice)
      path = f'audio/{u.id}.flac'
      soundfile.write(folder / path, u.samples_n, acoustics.SAMPLE_RATE)
      row = {
        'id': u.id,
        'audio_filepath': path,
        'duration': len(u.samples_n) / acoustics.SAMPLE_RATE,
        'text': u.text,
        'phones': u.phones,
        'speaker': u.speaker,
        'language': spec.language,
        'split': u.split,
      }
      lines.append(json.dumps(row, ensure_ascii=False))
      tick(share)
  return lines
