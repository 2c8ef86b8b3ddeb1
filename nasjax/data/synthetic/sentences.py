"""Small grammars of English from which the synthetic corpora draw sentences.

A grammar is a lexicon (words by category) and a set of patterns. A pattern is a
row of categories; one followed by `?` may be left out, and `,` is a pause
without a word. A sentence of n words is drawn by choosing one of the patterns
that can have n words, then which optional places to fill, then the words, all
uniformly.

  digits   10 words, sequences of digits
  small    30 words, commands: 'now put the red cup under the bird'
  full     423 words, statements: 'the proud sailor found seven golden coins'

The words of `full` together have all 39 scored phones, most in many contexts.
"""

from typing import NamedTuple

import numpy as np


class Grammar(NamedTuple):
  """Words by category, and the rows of categories that make a sentence."""

  lexicon: dict[str, tuple[str, ...]]
  patterns: tuple[str, ...]


def _words(lexicon: dict[str, str]) -> dict[str, tuple[str, ...]]:
  return {name: tuple(words.split()) for name, words in lexicon.items()}


_DIGITS = Grammar(
  _words({'digit': 'zero one two three four five six seven eight nine'}),
  ('digit' + ' digit?' * 11,),
)

_SMALL = Grammar(
  _words(
    {
      'do': 'put move take bring',
      'the': 'the this that',
      'colour': 'red blue green white yellow black',
      'thing': 'box cup ball fish chair boy bird dog key house',
      'where': 'near under behind',
      'when': 'now again soon please',
    }
  ),
  (
    'do the colour? thing when?',
    'when? do the colour? thing where the colour? thing',
    'do the colour? thing where the colour? thing , when? do the thing',
  ),
)

_FULL = Grammar(
  _words(
    {
      'det': 'the the the this that every each my your our his her their',
      'adj': """
        little old young green yellow red blue black white brown huge tiny
        quiet gentle clever foolish noisy proud shy rough smooth heavy bright
        dark warm cold strange purple golden wooden rotten broken hidden modern
        ancient curious thirsty hungry lazy joyful precious cautious thick thin
        sharp dull wide narrow usual loyal royal rural sudden common major
        casual stubborn poor cotton certain""",
      'person': """
        boy girl doctor teacher farmer sailor painter cousin uncle brother
        mother father king queen judge thief child woman soldier writer baker
        singer captain neighbor stranger pilot nurse visitor student actor
        dancer merchant butcher shepherd youth giant prince""",
      'animal': """
        fox horse bird dog cat mouse sheep goose fish bear wolf lion rabbit
        turtle eagle beetle donkey spider puppy monkey pigeon lizard kitten""",
      'thing': """
        box bottle button treasure chair table window mirror kettle ladder
        hammer basket letter paper pencil picture jacket shirt feather engine
        wagon bicycle watch clock coin toy spoon book cup bowl knife shoe glove
        lamp candle bell rope wheel bag butter cheese onion apple orange carrot
        bread sugar pudding sausage camera television cushion hook voice
        curtain""",
      'things': """
        boys girls sailors birds dogs boxes bottles buttons watches houses
        judges gardens letters books pictures knives teeth leaves wheels oranges
        foxes churches roads coins thieves measures treasures puddings garages
        voices months clothes""",
      'verb': """
        saw found took chased followed painted moved carried washed watched
        heard touched opened closed pushed pulled measured changed judged
        enjoyed avoided caught bought brought sold lost loved thanked joined
        warned needed wanted started pointed covered borrowed counted hid broke
        shook threw drew chose kept left held noticed admired imagined""",
      'do': """
        take bring move keep hold watch wash measure open close paint choose
        show push pull hide join follow destroy""",
      'prep': """
        near under behind beside above below across inside outside around
        through toward without beyond by from""",
      'place': """
        river mountain valley harbor village city castle station market kitchen
        cellar attic church school farm field forest beach island tower office
        library museum theater hospital airport highway corner barn lake ocean
        desert cave tunnel playground courtyard garage garden bridge mall wall
        crossing""",
      'how': """
        slowly quickly loudly softly suddenly finally rarely happily early late
        twice once often usually again calmly thoroughly""",
      'when': """
        today tomorrow yesterday now soon monday tuesday wednesday thursday
        friday saturday sunday""",
      'number': """
        two three four five six seven eight nine ten eleven twelve thirteen
        fourteen fifteen sixteen seventeen eighteen nineteen""",
      'tens': 'twenty thirty forty fifty sixty seventy eighty ninety',
      'unit': 'one two three four five six seven eight nine',
      'name': """
        mary john george susan thomas ruth hugh joyce judith victor zoe charles
        beth arthur ethan vaughn""",
      'and': 'and',
      'while': 'and but because while before after when if',
    }
  ),
  (
    'name how? verb det adj? thing',
    'det adj? person how? verb number adj? things when?',
    'det adj? person verb det adj? animal prep det adj? place',
    'how , name verb tens unit adj? things prep det place when?',
    'do det adj? adj? thing prep det adj? place , while? do det thing',
    'det adj? animal how? verb det thing , while name how? verb det adj? place',
    'det adj? person and det adj? animal verb tens unit adj? things prep det '
    'adj? place how',
  ),
)

GRAMMARS: dict[str, Grammar] = {
  'digits': _DIGITS,
  'small': _SMALL,
  'full': _FULL,
}


def vocabulary(grammar: Grammar) -> tuple[str, ...]:
  """Returns every word of a grammar once, sorted."""
  return tuple(sorted({w for words in grammar.lexicon.values() for w in words}))


def word_range(grammar: Grammar) -> tuple[int, int]:
  """Returns the fewest and the most words a sentence can have."""
  ranges = [_pattern_range(pattern) for pattern in grammar.patterns]
  return min(low for low, _ in ranges), max(high for _, high in ranges)


def draw_sentence(
  grammar: Grammar, words: int, rng: np.random.Generator
) -> str:
  """Draws a sentence of exactly `words` words, with its pauses as commas.

  Raises:
    ValueError: no pattern of the grammar has that many words.
  """
  fitting = [
    pattern
    for pattern in grammar.patterns
    if _pattern_range(pattern)[0] <= words <= _pattern_range(pattern)[1]
  ]
  if not fitting:
    low, high = word_range(grammar)
    raise ValueError(f'no sentence of {words} words; ask for {low} to {high}')
  places = fitting[rng.integers(len(fitting))].split()
  optional = [i for i, place in enumerate(places) if place.endswith('?')]
  spare = sum(place != ',' for place in places) - words
  dropped = set(rng.permutation(optional)[:spare].tolist())
  sentence = ''
  for i, place in enumerate(places):
    if i in dropped:
      continue
    if place == ',':
      sentence += ','
    else:
      choices = grammar.lexicon[place.rstrip('?')]
      sentence += ' ' + choices[rng.integers(len(choices))]
  return sentence.strip()


def _pattern_range(pattern: str) -> tuple[int, int]:
  places = [place for place in pattern.split() if place != ',']
  return sum(not place.endswith('?') for place in places), len(places)
