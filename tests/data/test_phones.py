"""TIMIT's alphabets and foldings."""

import itertools

import pytest
import reference

from nasjax.data import phones

_FACTS = reference.DIRECTORY / 'timit.md'


def test_the_61_phones_in_string_order():
  assert ' '.join(phones.PHONES_61) == (
    'aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er '
    'ey f g gcl h# hh hv ih ix iy jh k kcl l m n ng nx ow oy p pau pcl q r s '
    'sh t tcl th uh uw ux v w y z zh'
  )


def test_the_48_classes_in_string_order():
  assert ' '.join(phones.PHONES_48) == (
    'aa ae ah ao aw ax ay b ch cl d dh dx eh el en epi er ey f g hh ih ix iy '
    'jh k l m n ng ow oy p r s sh sil t th uh uw v vcl w y z zh'
  )


def test_the_39_classes_in_string_order():
  assert ' '.join(phones.PHONES_39) == (
    'aa ae ah aw ay b ch d dh dx eh er ey f g hh ih iy jh k l m n ng ow oy p r '
    's sh sil t th uh uw v w y z'
  )


def test_sizes_and_domains():
  sizes = len(phones.PHONES_61), len(phones.PHONES_48), len(phones.PHONES_39)
  assert sizes == (61, 48, 39)
  assert tuple(phones.FOLD_61_TO_48) == phones.PHONES_61
  assert tuple(phones.FOLD_48_TO_39) == phones.PHONES_48


def test_what_folds_into_each_class():
  def sources(mapping):
    merged = {}
    for phone, target in mapping.items():
      merged.setdefault(target, []).append(phone)
    return {t: ' '.join(p) for t, p in merged.items() if p != [t]}

  assert sources(phones.FOLD_61_TO_48) == {
    'ax': 'ax ax-h',
    'er': 'axr er',
    'vcl': 'bcl dcl gcl',
    'cl': 'kcl pcl tcl',
    'sil': 'h# pau',
    'm': 'em m',
    'ng': 'eng ng',
    'hh': 'hh hv',
    'n': 'n nx',
    'uw': 'uw ux',
    None: 'q',
  }
  assert sources(phones.FOLD_48_TO_39) == {
    'aa': 'aa ao',
    'ah': 'ah ax',
    'ih': 'ih ix',
    'l': 'el l',
    'n': 'en n',
    'sh': 'sh zh',
    'sil': 'cl epi sil vcl',
  }


def test_classes_that_stay_themselves_fold_to_themselves():
  for phone in phones.PHONES_39:
    assert phones.FOLD_48_TO_39[phone] == phone
  for phone in set(phones.PHONES_48) & set(phones.PHONES_61):
    assert phones.FOLD_61_TO_48[phone] == phone


def test_fold_deletes_and_does_not_merge():
  transcript = 'h# bcl b ah q en pau kcl k ao h#'
  folded = phones.fold(transcript.split(), phones.FOLD_61_TO_48)
  assert ' '.join(folded) == 'sil vcl b ah en sil cl k ao sil'
  scored = phones.fold(folded, phones.FOLD_48_TO_39)
  assert ' '.join(scored) == 'sil sil b ah n sil sil k aa sil'
  assert phones.fold([], phones.FOLD_61_TO_48) == []


def test_fold_leaves_its_input_alone():
  transcript = ['q', 'ao']
  phones.fold(transcript, phones.FOLD_61_TO_48)
  assert transcript == ['q', 'ao']


def test_fold_names_an_unknown_phone_and_its_place():
  with pytest.raises(ValueError, match="'AA' at position 1"):
    phones.fold(['aa', 'AA'], phones.FOLD_61_TO_48)


def test_class_ids_leave_0_to_the_blank():
  ids = phones.class_ids(phones.PHONES_48)
  assert sorted(ids.values()) == list(range(1, 49))
  assert ids['aa'] == 1
  assert ids['zh'] == 48
  ordered = sorted(ids, key=ids.get)
  assert all(a < b for a, b in itertools.pairwise(ordered))


@pytest.mark.skipif(not _FACTS.exists(), reason=f'no {_FACTS}')
def test_the_61_phones_are_those_of_the_reference():
  text = _FACTS.read_text()
  listed = text.split('61 phones: ')[1].split('- Layout')[0].split()
  assert sorted(listed) == list(phones.PHONES_61)
