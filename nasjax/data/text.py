"""Transcripts in one form, by a rule that is stated here.

1. Unicode's composed form (NFC), at the end, too; typographic apostrophes
   become '; what nobody sees (joiners and non-joiners, marks of direction, soft
   hyphens) goes, so that no word falls apart, but for a space without width.
2. Digits, and the signs & % @ + =, are read aloud by everybody in their own
   way, so they are refused; or spelled in English (`digits='spell'`). 1984 is
   'one thousand nine hundred eighty four', 1,250.5 has commas and a point,
   3rd is an ordinal; a number that begins with 0, or has more than 15 digits,
   is read digit by digit. Other symbols ($, <, ..) are refused in any case.
3. Upper case (or lower, or as it is).
4. An apostrophe beside a letter is kept: DON'T, 'TIS, BOYS'. All other
   punctuation, hyphens too, becomes a space.
5. One space between words, none at the ends.
"""

import re
import unicodedata

CASES = ('upper', 'lower', 'keep')
DIGITS = ('refuse', 'spell')
_APOSTROPHES = str.maketrans(
  dict.fromkeys('\u2019\u2018\u02bc\uff07\u00b4`', "'")
)
_SPOKEN = {'&': 'and', '%': 'percent', '@': 'at', '+': 'plus', '=': 'equals'}
_ONES = (
  'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight',
  'nine', 'ten', 'eleven', 'twelve', 'thirteen', 'fourteen', 'fifteen',
  'sixteen', 'seventeen', 'eighteen', 'nineteen',
)  # fmt: skip
_TENS = (
  *('twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty'),
  'ninety',
)
_SCALES = ('', ' thousand', ' million', ' billion', ' trillion')
_ORDINALS = {
  'one': 'first', 'two': 'second', 'three': 'third', 'five': 'fifth',
  'eight': 'eighth', 'nine': 'ninth', 'twelve': 'twelfth',
}  # fmt: skip
_NUMBER = re.compile(
  r'(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)'
  r'(?:\.(?P<point>\d+))?(?P<order>(?:st|nd|rd|th)\b)?',
  re.IGNORECASE,
)


class TextError(ValueError):
  """A transcript that the rule refuses."""


def normalised(text: str, case: str = 'upper', digits: str = 'refuse') -> str:
  """Returns a transcript in the form of the rule at the head of this file.

  Args:
    text: words.
    case: 'upper', 'lower' or 'keep'.
    digits: 'refuse' or 'spell'.

  Raises:
    TextError: it has digits or symbols that are refused; names the first.
    ValueError: no such case, or no such way with digits.
  """
  if case not in CASES or digits not in DIGITS:
    raise ValueError(
      f'case {case!r}, digits {digits!r}: want one of {", ".join(CASES)}, and '
      f'one of {", ".join(DIGITS)}'
    )
  text = unicodedata.normalize('NFC', text).translate(_APOSTROPHES)
  if digits == 'spell':
    text = _NUMBER.sub(_spelled, text)
    text = re.sub('[&%@+=]', lambda sign: f' {_SPOKEN[sign[0]]} ', text)
  for sign in text:
    kind = unicodedata.category(sign)
    if kind[0] in 'NS' or sign in _SPOKEN:
      raise TextError(f'{sign!r} in {_around(text, sign)!r} is no letter')
  text = ''.join(c for c in text if not _is_unseen(c))
  if case != 'keep':
    text = text.upper() if case == 'upper' else text.lower()
    text = unicodedata.normalize('NFC', text)
  # Letters come with the marks that stand on them.
  text = ''.join(c if c == "'" or _is_letter(c) else ' ' for c in text)
  words = (word for word in text.split() if word.strip("'"))
  return ' '.join(words)


def _is_unseen(character: str) -> bool:
  return unicodedata.category(character) == 'Cf' and character != '\u200b'


def _is_letter(character: str) -> bool:
  return unicodedata.category(character)[0] in 'LM'


def _around(text: str, sign: str) -> str:
  """Returns the word that a sign stands in."""
  return next(word for word in text.split() if sign in word)


def _spelled(match: re.Match) -> str:
  """Returns a number in English words, with spaces around."""
  digits = match['whole'].replace(',', '')
  ascii_digits = ''.join(str(int(d)) for d in digits)
  if len(digits) > 15 or (digits[0] == '0' and len(digits) > 1):
    words = ' '.join(_ONES[int(d)] for d in ascii_digits)
  else:
    words = cardinal(int(ascii_digits))
  if match['point']:
    words += ' point ' + ' '.join(_ONES[int(d)] for d in match['point'])
  if match['order']:
    first, last = words[: words.rfind(' ') + 1], words.split()[-1]
    usual = (last[:-1] + 'ie' if last.endswith('y') else last) + 'th'
    words = first + _ORDINALS.get(last, usual)
  return f' {words} '


def cardinal(number: int) -> str:
  """Returns a whole number from 0 to 10^15 - 1 in English words."""
  if number < 20:
    return _ONES[number]
  groups = []
  for scale in _SCALES:
    number, group = divmod(number, 1000)
    if group:
      groups.append(_below_thousand(group) + scale)
  return ' '.join(reversed(groups))


def _below_thousand(number: int) -> str:
  hundreds, rest = divmod(number, 100)
  words = [f'{_ONES[hundreds]} hundred'] if hundreds else []
  if rest >= 20:
    words.append(_TENS[rest // 10 - 2])
    rest %= 10
  if rest:
    words.append(_ONES[rest])
  return ' '.join(words)
