"""Tests of nasjax/data/text.py."""

import pytest

from nasjax.data import text


@pytest.mark.parametrize(
  ('given', 'form'),
  [
    ("  don't   stop  ", "DON'T STOP"),
    ('\u2018Tis o\u2019clock, sir!', "'TIS O'CLOCK SIR"),
    ("the boys' -- well-known -- hats.", "THE BOYS' WELL KNOWN HATS"),
    ("rock ' n ' roll", 'ROCK N ROLL'),
    ('cafe\u0301', 'CAF\u00c9'),
    ('\u6211\u4eec\u3002\u597d', '\u6211\u4eec \u597d'),
    ('\u0939\u093f\u0902\u0926\u0940', '\u0939\u093f\u0902\u0926\u0940'),
    # A word of Persian and one of Bengali, with what keeps letters apart; one
    # of Arabic behind a mark of direction; and a space without width.
    ('\u0645\u06cc\u200c\u0631\u0648\u0645', '\u0645\u06cc\u0631\u0648\u0645'),
    ('\u09b0\u200d\u09cd\u09af\u09be', '\u09b0\u09cd\u09af\u09be'),
    ('\u200f\u2067\u0628\u0627\u0628\u2069', '\u0628\u0627\u0628'),
    ('co\u00adop a\u200bb', 'COOP A B'),
    # In upper case three letters, two of which are composed.
    ('\u0390', '\u03aa\u0301'),
    ('...', ''),
  ],
)
def test_form(given, form):
  assert text.normalised(given) == form
  assert text.normalised(form) == form


def test_case():
  assert text.normalised('Don\u2019t!', 'lower') == "don't"
  assert text.normalised('Don\u2019t!', 'keep') == "Don't"
  with pytest.raises(ValueError, match="'title'.*upper, lower, keep"):
    text.normalised('a', 'title')
  with pytest.raises(ValueError, match="'drop'.*refuse, spell"):
    text.normalised('a', 'upper', 'drop')


@pytest.mark.parametrize(
  ('given', 'sign', 'word'),
  [
    ('room 42b', '4', '42b'),
    ('black & white', '&', '&'),
    ('a \u00bd cup', '\u00bd', '\u00bd'),
    ('5\u00b2', '5', '5\u00b2'),
  ],
)
def test_what_is_read_aloud_is_refused(given, sign, word):
  with pytest.raises(text.TextError) as error:
    text.normalised(given)
  assert repr(sign) in str(error.value) and repr(word) in str(error.value)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ('0', 'zero'),
    ('room 42b', 'room forty two b'),
    ('1984', 'one thousand nine hundred eighty four'),
    ('1,250.5 km', 'one thousand two hundred fifty point five km'),
    ('10,20', 'ten twenty'),
    ('007', 'zero zero seven'),
    ('1000000001', 'one billion one'),
    ('9' * 16, ' '.join(['nine'] * 16)),
    ('the 3rd of 20th, 11th, 22nd', 'the third of twentieth eleventh twenty '
     'second'),
    ('5% & more', 'five percent and more'),
    ('\u0663', 'three'),
  ],
)  # fmt: skip
def test_spelled(given, words):
  assert text.normalised(given, 'lower', 'spell') == words


def test_what_nobody_can_spell():
  with pytest.raises(text.TextError, match=r"'\$'"):
    text.normalised('$5', digits='spell')
