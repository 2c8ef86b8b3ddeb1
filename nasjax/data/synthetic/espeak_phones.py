"""From eSpeak NG's phone events to TIMIT's 61 symbols with times.

eSpeak NG names the phone it makes in IPA, accent by accent: `V` of 'cup' is
called 'ʌ' in American English and 'ʊ' in Lancaster. So one table from IPA
serves all accents; it holds every name that occurs for the vocabulary and the
accents of the synthetic corpora, and a name it lacks is an error.

  vowels      the nearest of TIMIT; long and short British vowels by quality
              ('ɒ' of 'box' is ao), monophthongs of Scotland and Lancaster by
              their diphthongs ('oː' is ow), centring diphthongs as two phones
              ('iə' is iy ax), fronted 'ʉ' as ux
  r-coloured  'ɚ' is axr, 'ɜː' is er, others are a vowel and r ('ɔːɹ' is ao r)
  stops       closure and release (`tcl t`), affricates likewise (`tcl ch`);
              'ɾ' is dx; 'ʔ' is q, with the silence before it
  syllabic    'əl' is el, 'n̩' is en

ax-h, em, eng, hv and nx are never produced: eSpeak NG has no such allophones.

Times. eSpeak NG marks where a phone begins; what is not marked follows from the
signal before any noise, in which silence is exact.
  - The silence before a stop is its closure. After a pause, the closure is the
    last 50 ms of the pause. A voiced stop after a vowel has no silence but a
    voice bar: 60 % of its interval, at most 45 ms, is closure and the rest
    release.
  - Other silence is h# at both ends, pau where the text has a pause, and epi
    (TIMIT's epenthetic silence) elsewhere if it lasts 15 ms; shorter gaps
    belong to the phone before.
  - A phone of no length (l and r after a vowel, made as the vowel's end) takes
    the last 40 % of the vowel. Two phones from one event are split alike.
"""

from typing import NamedTuple

import numpy as np

from nasjax.data.synthetic.espeak import Speech

_VOWELS = {
  'i': 'iy',
  'iː': 'iy',
  'ɪ': 'ih',
  'ᵻ': 'ix',
  'ɛ': 'eh',
  'e': 'ey',
  'eː': 'ey',
  'eɪ': 'ey',
  'ei': 'ey',
  'əɪ': 'ey',
  'æ': 'ae',
  'ɛə': 'ae',
  'a': 'ae',
  'a:': 'aa',
  'aː': 'aa',
  'aa': 'aa',
  'ɑː': 'aa',
  'ɒ': 'ao',
  'ɔ': 'ao',
  'ɔː': 'ao',
  'o': 'ow',
  'oː': 'ow',
  'oʊ': 'ow',
  'əʊ': 'ow',
  'ʌʊ': 'ow',
  'əu': 'ow',
  'ʌ': 'ah',
  'ʊ': 'uh',
  'uː': 'uw',
  'ʉ': 'ux',
  'ʉː': 'ux',
  'ə': 'ax',
  'ɐ': 'ax',
  'ɜ': 'ax',
  'ɜː': 'er',
  'ɚ': 'axr',
  'aɪ': 'ay',
  'aʊ': 'aw',
  'æʊ': 'aw',
  'ʌʉ': 'aw',
  'ɔɪ': 'oy',
  'oɪ': 'oy',
  'əɹ': 'er',
  'ʌɹ': 'er',
  'aɪə': 'ay ax',
  'aɪɚ': 'ay axr',
  'iə': 'iy ax',
  'eə': 'eh ax',
  'ɑə': 'aa ax',
  'oə': 'ao ax',
  'ɔə': 'ao ax',
  'ʊə': 'uh ax',
  'ɪɹ': 'ih r',
  'ɛɹ': 'eh r',
  'ɑːɹ': 'aa r',
  'ɔːɹ': 'ao r',
  'ʊɹ': 'uh r',
  'ʉɹ': 'ux r',
}

_CONSONANTS = {
  'f': 'f',
  'v': 'v',
  'θ': 'th',
  'ð': 'dh',
  's': 's',
  'z': 'z',
  'ʃ': 'sh',
  'ʒ': 'zh',
  'h': 'hh',
  'm': 'm',
  'n': 'n',
  'n̩': 'en',
  'ŋ': 'ng',
  'l': 'l',
  'əl': 'el',
  'r': 'r',
  'ɹ': 'r',
  'w': 'w',
  'ʍ': 'w',
  'j': 'y',
  'ɾ': 'dx',
  'ʔ': 'q',
}

# Phones of every event but stops; two names share its interval.
PHONES_OF_IPA: dict[str, tuple[str, ...]] = {
  name: tuple(phones.split())
  for name, phones in (_VOWELS | _CONSONANTS).items()
}

# Closure and release of every stop and affricate.
STOPS_OF_IPA: dict[str, tuple[str, str]] = {
  'p': ('pcl', 'p'),
  'b': ('bcl', 'b'),
  't': ('tcl', 't'),
  't̪': ('tcl', 't'),
  'd': ('dcl', 'd'),
  'k': ('kcl', 'k'),
  'ɡ': ('gcl', 'g'),
  'tʃ': ('tcl', 'ch'),
  'dʒ': ('dcl', 'jh'),
}

_STRESS = 'ˈˌ'
# Events that name no phone: pauses, and glides between two phones.
_NAMELESS = ('', 'ʲ')

_SILENCE = 32  # Largest sample that counts as silence, of 32,767.
_SHORTEST = 0.005  # Seconds below which a phone shares its neighbour's time.
_SHORTEST_GAP = 0.015
_CLOSURE = 0.05  # Seconds of closure after a pause.
_VOICE_BAR = 0.045  # Seconds of closure of a voiced stop, at most.
_FIRST_SHARE = 0.6


class Alignment(NamedTuple):
  """Phones and the samples between which they lie.

  Attributes:
    phones: n symbols of the 61, h# first and last.
    bounds: n + 1 samples; phone i lies in [bounds[i], bounds[i + 1]). The
      first is 0, the last the length of the audio.
  """

  phones: tuple[str, ...]
  bounds: np.ndarray


class _Span(NamedTuple):
  """An event that made sound, from `start` up to `stop`."""

  name: str
  start: int
  stop: int
  paused: bool


def align(speech: Speech) -> Alignment:
  """Returns the phones of an utterance with their times.

  Args:
    speech: an utterance with at least 50 ms of silence around the words (see
      `pad`), without noise.

  Raises:
    ValueError: an event whose name has no entry in the tables, no sound, or
      no silence before it.
  """
  marks = []
  spans = _share(_spans(speech), round(_SHORTEST * speech.rate))
  if not spans:
    raise ValueError('eSpeak NG made no sound for this text')
  silent_from = 0
  for index, span in enumerate(spans):
    pause = 'h#' if index == 0 else 'pau' if span.paused else 'epi'
    marks += _marks_of(span, silent_from, pause, speech.rate)
    silent_from = span.stop
  marks.append(('h#', silent_from))
  phones, starts = zip(*marks)
  if phones[0] != 'h#':
    raise ValueError(f'the utterance begins with {phones[0]}; pad it first')
  return Alignment(phones, np.array([*starts, len(speech.audio_t)]))


def pad(speech: Speech, lead: float, trail: float) -> Speech:
  """Adds `lead` and `trail` seconds of silence before and after."""
  before, after = round(lead * speech.rate), round(trail * speech.rate)
  return Speech(
    np.pad(speech.audio_t, (before, after)),
    speech.rate,
    tuple((sample + before, name) for sample, name in speech.events),
  )


def _spans(speech: Speech) -> list[_Span]:
  """Cuts the audio at the events, and silence off the end of each."""
  length = len(speech.audio_t)
  positions = np.arange(length)
  loud = (speech.audio_t > _SILENCE) | (speech.audio_t < -_SILENCE)
  last_loud = np.maximum.accumulate(np.where(loud, positions, -1))
  starts = [sample for sample, _ in speech.events]
  spans, paused = [], False
  for (start, name), end in zip(speech.events, [*starts[1:], length]):
    name = name.lstrip(_STRESS)
    stop = max(start, int(last_loud[end - 1]) + 1)
    if name in _NAMELESS:
      if stop == start:
        paused = True
      elif spans:
        spans[-1] = spans[-1]._replace(stop=stop)
      continue
    if name not in STOPS_OF_IPA and name not in PHONES_OF_IPA:
      raise ValueError(
        f'no TIMIT phone for the eSpeak NG phone {name!r}; '
        'add it to the tables of nasjax/data/synthetic/espeak_phones.py'
      )
    # A glottal stop is made of silence.
    spans.append(_Span(name, start, end if name == 'ʔ' else stop, paused))
    paused = False
  return spans


def _share(spans: list[_Span], shortest: int) -> list[_Span]:
  """Gives phones of no length a part of the phone before."""
  shared: list[_Span] = []
  for span in spans:
    if shared and span.stop - span.start < shortest:
      before = shared[-1]
      cut = before.start + round(_FIRST_SHARE * (span.stop - before.start))
      shared[-1] = before._replace(stop=cut)
      span = span._replace(start=cut)
    shared.append(span)
  return shared


def _marks_of(
  span: _Span, silent_from: int, pause: str, rate: int
) -> list[tuple[str, int]]:
  """Returns the phones that begin between the last span and this one's end."""
  gap = span.start - silent_from
  inside = span.start + round(_FIRST_SHARE * (span.stop - span.start))
  if span.name == 'ʔ':
    return [('q', silent_from)]
  if span.name not in STOPS_OF_IPA:
    phones = PHONES_OF_IPA[span.name]
    marks = list(zip(phones, (span.start, inside)))
    if gap >= _SHORTEST_GAP * rate:
      marks.insert(0, (pause, silent_from))
    return marks
  closure, release = STOPS_OF_IPA[span.name]
  if gap < _SHORTEST * rate:
    voice_bar = span.start + round(_VOICE_BAR * rate)
    return [(closure, span.start), (release, min(inside, voice_bar))]
  if pause == 'epi':
    return [(closure, silent_from), (release, span.start)]
  closed_from = max(silent_from, span.start - round(_CLOSURE * rate))
  marks = [(closure, closed_from), (release, span.start)]
  if closed_from - silent_from >= _SHORTEST_GAP * rate:
    marks.insert(0, (pause, silent_from))
  else:
    marks[0] = (closure, silent_from)
  return marks
