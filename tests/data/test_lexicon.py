"""Tests of nasjax/data/lexicon.py."""

import layout_files
import pytest

from nasjax.data import lexicon
from nasjax.data.layouts import reading


def _lexicon(tmp_path, *texts, **options):
  found, read = lexicon.Lexicon(**options), reading.Reading()
  for n, text in enumerate(texts):
    path = tmp_path / f'{n}.dict'
    path.write_text(text)
    found.read(path, read)
  return found, [(p.line, p.rule) for p in read.problems]


@pytest.mark.parametrize(
  ('text', 'phones'),
  [
    ('GO ON', 'G OW AA N'),
    ('Go, on!', 'G OW AA N'),
    ('and \u2013 go', 'AH N D G OW'),
    ('Don\u2019t', 'D OW N T'),
    ('"go-on"', 'G OW AA N'),
    ('a', 'AH'),
    ('--', ''),
  ],
)
def test_words_are_looked_up(tmp_path, text, phones):
  found, faults = _lexicon(tmp_path, layout_files.LEXICON)
  assert not faults and found.variants == 2
  assert found.look_up(text) == (tuple(phones.split()), [])
  assert not found.missing


def test_missing_words_are_counted(tmp_path):
  found, _ = _lexicon(tmp_path, layout_files.LEXICON)
  assert found.look_up('go Home, home go-home') == (
    ('G', 'OW'),
    ['home', 'home', 'go-home'],
  )
  assert found.missing == {'home': 2, 'go-home': 1}
  assert lexicon.shown(found.missing.most_common()) == 'home (2), go-home (1)'
  assert lexicon.shown([('a', 3), ('b', 1)], 1) == 'a (3) and 1 more'


def test_words_are_spelled_with_letters_that_there_are(tmp_path):
  found, _ = _lexicon(tmp_path, layout_files.LEXICON)
  assert found.look_up('A.B.', spell=True)[0] == ('EY', 'B', 'IY')
  assert found.look_up('ABC', spell=True) == ((), ['abc'])


def test_the_first_file_that_has_a_word_tells_it(tmp_path):
  found, _ = _lexicon(tmp_path, 'go X\n', layout_files.LEXICON)
  assert found.look_up('Go on')[0] == ('X', 'AA', 'N')


def test_stress_is_kept_on_request_and_tones_always(tmp_path):
  text = 'GO G OW1\nma m a3\n'
  assert _lexicon(tmp_path, text)[0].look_up('go ma')[0] == (
    *('G', 'OW', 'm'),
    'a3',
  )
  stressed, _ = _lexicon(tmp_path, text, stress=True)
  assert stressed.look_up('go')[0] == ('G', 'OW1')


def test_lexicons_of_kaldi(tmp_path):
  text = '<noise> 0.5 NSN\ngo 1.0 g o\n'
  found, faults = _lexicon(tmp_path, text)
  assert not faults
  assert found.look_up('<noise> go')[0] == ('NSN', 'g', 'o')


def test_what_is_wrong_is_told_with_its_line(tmp_path):
  _, faults = _lexicon(tmp_path, 'go g o\n\nalone\n', '# nothing\n')
  assert faults == [(3, 'bad_field'), (0, 'missing_field')]
  _, faults = _lexicon(tmp_path, '')
  assert faults == [(0, 'missing_field')]


def test_plain_texts():
  assert lexicon.plain('\u201eWell,\u201c he DID-n\u2019t \u2014 (so)!') == (
    "well he did-n't so"
  )
