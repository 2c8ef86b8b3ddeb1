"""The phone alphabets of TIMIT, and the foldings between them.

Transcripts have 61 symbols, networks are trained on 48 and scored on 39.
Every alphabet is in Python's string order; class ids count from 1, and 0 is
left to the blank and to padding. Silence is a phone like any other: it is
recognised, and it counts in the error rate.

Folding never merges neighbours: `bcl b` stays two phones, and `h# pau` becomes
`sil sil`.

K.-F. Lee and H.-W. Hon, Speaker-independent phone recognition using hidden
Markov models, IEEE Transactions on ASSP 37(11), 1989.
"""

from collections.abc import Iterable, Mapping, Sequence

_VOWELS = 'aa ae ah ao aw ax ax-h axr ay eh er ey ih ix iy ow oy uh uw ux'
_STOPS = 'b bcl ch d dcl dx g gcl jh k kcl p pcl q t tcl'
_FRICATIVES = 'dh f hh hv s sh th v z zh'
_SONORANTS = 'el em en eng l m n ng nx r w y'
_SILENCES = 'epi h# pau'

PHONES_61: tuple[str, ...] = tuple(
  sorted(
    ' '.join((_VOWELS, _STOPS, _FRICATIVES, _SONORANTS, _SILENCES)).split()
  )
)

_MERGED_61_TO_48: dict[str, str | None] = {
  'ax-h': 'ax',
  'axr': 'er',
  'bcl': 'vcl',
  'dcl': 'vcl',
  'gcl': 'vcl',
  'pcl': 'cl',
  'tcl': 'cl',
  'kcl': 'cl',
  'h#': 'sil',
  'pau': 'sil',
  'em': 'm',
  'eng': 'ng',
  'hv': 'hh',
  'nx': 'n',
  'ux': 'uw',
  'q': None,
}

_MERGED_48_TO_39: dict[str, str] = {
  'ao': 'aa',
  'ax': 'ah',
  'ix': 'ih',
  'el': 'l',
  'en': 'n',
  'zh': 'sh',
  'cl': 'sil',
  'vcl': 'sil',
  'epi': 'sil',
}

# The training alphabet of every transcript symbol; None deletes it.
FOLD_61_TO_48: dict[str, str | None] = {
  phone: _MERGED_61_TO_48.get(phone, phone) for phone in PHONES_61
}

PHONES_48: tuple[str, ...] = tuple(
  sorted({phone for phone in FOLD_61_TO_48.values() if phone is not None})
)

# The scoring alphabet of every training symbol.
FOLD_48_TO_39: dict[str, str] = {
  phone: _MERGED_48_TO_39.get(phone, phone) for phone in PHONES_48
}

PHONES_39: tuple[str, ...] = tuple(sorted(set(FOLD_48_TO_39.values())))


def fold(phones: Iterable[str], mapping: Mapping[str, str | None]) -> list[str]:
  """Maps every phone, dropping those that map to None.

  Args:
    phones: symbols of the alphabet that `mapping` starts from.
    mapping: for instance `FOLD_61_TO_48` or `FOLD_48_TO_39`.

  Returns:
    The folded symbols in order; equal neighbours are kept apart.

  Raises:
    ValueError: a symbol that `mapping` does not know, with its position.
  """
  folded = []
  for position, phone in enumerate(phones):
    if phone not in mapping:
      raise ValueError(
        f'unknown phone {phone!r} at position {position}; '
        f'known are {" ".join(sorted(mapping))}'
      )
    if mapping[phone] is not None:
      folded.append(mapping[phone])
  return folded


def class_ids(alphabet: Sequence[str]) -> dict[str, int]:
  """Returns the class of every symbol: 1, 2, ... in the order given."""
  return {symbol: index for index, symbol in enumerate(alphabet, start=1)}
