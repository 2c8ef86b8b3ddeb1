"""Texts of any script where people read them: terminal, figure, page.

Terminals. Most of them (xterm, those of Windows and of editors) write letters
in the order in which they come, from left to right, and do not join those of
Arabic; some (VTE, Konsole, mlterm, Apple's) know Unicode's bidirectional
algorithm. Texts are written in the order in which they are read, and those with
letters from right to left stand in an isolate (U+2068, U+2069): who knows the
algorithm shows them right and leaves the rest of the line alone, who does not
shows nothing for both marks, and what is copied is right everywhere. Turned
round for the first kind, a text would be wrong in the second, and in what is
copied.

Figures. matplotlib, from 3.11 on, goes through libraqm, which orders and joins
letters by itself: texts go in as they are. Only a font is wanted
(`plots.drawing.drawable`).

Pages. `dir="auto"` at each text; a browser does the rest.

A symbol that is a mark for another letter (a vowel of Tamil, an accent that has
no letter of its own with it) stands on a dotted circle where it is alone.
"""

import unicodedata

ISOLATE, END = '\u2068', '\u2069'
CIRCLE = '\u25cc'
_RIGHT_TO_LEFT = ('R', 'AL', 'AN')


def composed(text: str) -> str:
  """Returns a text in Unicode's composed form (NFC)."""
  return unicodedata.normalize('NFC', text)


def right_to_left(text: str) -> bool:
  """Tells whether a text has letters that are read from right to left."""
  return any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text)


def isolated(text: str) -> str:
  """Returns a text for a line of a terminal, or of Markdown, among others."""
  text = composed(text)
  if not right_to_left(text):
    return text
  return f'{ISOLATE}{text}{END}'


def alone(symbol: str) -> str:
  """Returns a symbol as it can stand by itself: marks on a dotted circle."""
  if symbol and unicodedata.category(symbol[0]).startswith('M'):
    return CIRCLE + symbol
  return symbol


def columns(text: str) -> int:
  """Returns the columns that a text takes in a terminal.

  Marks above and below letters and signs of format take none, letters of East
  Asia two.
  """
  return sum(map(_columns, text))


def _columns(character):
  if unicodedata.category(character) in ('Mn', 'Me', 'Cf'):
    return 0
  return 2 if unicodedata.east_asian_width(character) in 'WF' else 1


def padded(text: str, width: int) -> str:
  """Returns an isolated text with blanks behind it, `width` columns wide."""
  shown = isolated(text)
  return shown + ' ' * max(0, width - columns(shown))
