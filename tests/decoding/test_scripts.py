"""Tests of nasjax/decoding/scripts.py with Arabic, Tamil and Vietnamese."""

import unicodedata

import pytest
from summaries import report_page

from nasjax.decoding import scripts

ARABIC, TAMIL, VIETNAMESE = 'مرحبا بالعالم', 'தமிழ்', 'tiếng Việt'


@pytest.mark.parametrize('text', [ARABIC, TAMIL, VIETNAMESE])
def test_decomposed_letters_are_the_same(text):
  apart = unicodedata.normalize('NFD', text)
  assert scripts.isolated(apart) == scripts.isolated(text)
  assert unicodedata.is_normalized('NFC', scripts.isolated(apart))


def test_only_what_is_read_from_the_right_is_isolated():
  shown = scripts.isolated(ARABIC)
  assert (shown[0], shown[-1]) == ('\u2068', '\u2069')
  assert shown[1:-1] == ARABIC  # in the order in which it is read
  assert scripts.isolated(TAMIL) == TAMIL
  assert scripts.isolated(VIETNAMESE) == VIETNAMESE
  assert scripts.right_to_left('abc ' + ARABIC)
  assert not scripts.right_to_left('12 ' + TAMIL + VIETNAMESE)


def test_marks_take_no_column():
  assert scripts.columns('க்') == 1 and scripts.columns('மீ') == 1
  assert scripts.columns('普通话') == 6
  assert scripts.columns(VIETNAMESE) == 10
  apart = unicodedata.normalize('NFD', VIETNAMESE)
  assert len(apart) > 10 and scripts.columns(apart) == 10
  assert scripts.columns(scripts.isolated(ARABIC)) == len(ARABIC)
  for text in (ARABIC, TAMIL, VIETNAMESE, apart):
    assert scripts.columns(scripts.padded(text, 20)) == 20


def test_a_mark_alone_stands_on_a_circle():
  assert scripts.alone('ி') == '◌ி' and scripts.alone('\u0301') == '◌\u0301'
  assert scripts.alone('த') == 'த' and scripts.alone('é') == 'é'
  assert scripts.alone('') == ''


def test_pages_leave_it_to_the_browser():
  page = report_page.table(['a'], [[ARABIC], [TAMIL]])
  assert f'<td dir="auto">{ARABIC}</td>' in page and f'<td>{TAMIL}</td>' in page
  assert report_page.paragraph(ARABIC) == f'<p dir="auto">{ARABIC}</p>'
  assert report_page.paragraph('a', 'b') == '<p>a b</p>'
