"""The report of a table: one page, whole, that needs nothing else."""

import base64
import html.parser
import json
import re

import numpy as np
import planted_table
import pytest
import table_rows
import tiny_run
from summaries import (
  report_page,
  report_rankings,
  report_sections,
)
from summaries import report_words as words

from nasjax import analysis, table

VOID = {'meta', 'img', 'link', 'br'}
NAN = float('nan')


class Page(html.parser.HTMLParser):
  """What a page contains; every element must be closed in order."""

  def __init__(self, text):
    super().__init__()
    self.open, self.pictures, self.addresses, self.words = [], [], [], []
    self.tables = []
    self.tags = set()
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    if tag not in VOID:
      self.open.append(tag)
    if tag == 'table':
      self.tables.append([])
    if tag == 'tr':
      self.tables[-1].append([])
    if tag in ('td', 'th'):
      self.tables[-1][-1].append('')
    for name, value in attrs:
      if name in ('src', 'href', 'srcset', 'action'):
        self.addresses.append(value)
      if tag == 'img' and name == 'src':
        self.pictures.append(base64.b64decode(value.partition(',')[2]))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] != 'style':
      self.words.append(data)
    if self.open and self.open[-1] in ('td', 'th'):
      self.tables[-1][-1][-1] += data

  @property
  def text(self):
    return ' '.join(self.words)


def check(text):
  """Returns the Page of a text, which must be whole and stand alone."""
  page = Page(text)
  assert {'html', 'head', 'title', 'body', 'h1', 'h2'} <= page.tags
  assert not page.tags & {'script', 'link', 'iframe', 'object'}
  assert all(a.startswith('data:image/png;base64,') for a in page.addresses)
  assert 'http' not in text and 'url(' not in text and '@import' not in text
  for picture in page.pictures:
    assert picture.startswith(b'\x89PNG') and picture.endswith(
      b'IEND\xaeB`\x82'
    )
  # What cannot be known is said so, not printed as a number.
  assert not re.search(r'\bnan\b|\bNone\b|\binf\b', page.text)
  return page


def report(t):
  study = report_sections.study(t, repeats=100)
  return check(report_page.page('A table', report_sections.build(study)))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A table of two recipes, three seeds and failures, and what it reports."""
  path = tmp_path_factory.mktemp('planted') / 'planted'
  cells = planted_table.cells(60)
  planted_table.write(path, cells, failed=2)
  table.write_shard(
    path, 'latency-a', [table_rows.latency_row(arch) for arch in cells[:20]]
  )
  (path.parent / 'search.json').write_text(
    json.dumps(
      {
        'random': {'test_per_at_budget': [0.3] * 20, 'seconds': 1.0},
        'evolution': {'test_per_at_budget': [0.2] * 20, 'seconds': 2.0},
        'other': {'test_per_at_budget': [0.2, 0.4] * 10, 'seconds': 3.0},
      }
    )
  )
  return path


@pytest.fixture(scope='module')
def page(place):
  out = place.parent / 'new' / 'report.html'
  status, output, errors = tiny_run.forked(
    f'--table={place}',
    f'--out={out}',
    f'--search={place.parent / "search.json"}',
    '--resamples=100',
    launcher='report',
  )
  assert status == 0, errors
  assert str(out) in output
  assert [p.name for p in out.parent.iterdir()] == ['report.html']
  return check(out.read_text())


def test_page_says_what_was_run(page):
  assert '360 runs: 60 cells of the 13,824 of nb_asr' in page.text
  assert 'seeds 1, 2 and 3' in page.text
  assert 'recipes e5 (5 epochs) and e40 (40 epochs)' in page.text
  assert 'corpus synthetic_timit (fingerprint 5f0c)' in page.text
  assert '2 diverged, 178 ok' in page.text
  assert 'No latencies' not in page.text
  assert len(page.pictures) == 13


def test_every_correlation_has_its_interval_and_its_count(page):
  tables = [t for t in page.tables if 'validation with test' in t[0]]
  tables += [t for t in page.tables if 'seed with seed' in t[0]]
  tables += [
    t for t in page.tables if t[0][-1] in ('correlation', 'cost with PER')
  ]
  assert len(tables) == 6
  number = r'-?[01]\.\d{3}'
  form = re.compile(
    rf'{number} \[{number}, {number}\] \(\d+ cells\)'
    rf'|{number}, too few cells for an interval \(\d+\)|none \(\d+ cells?\)'
  )
  checked = 0
  for rows in tables:
    head = rows[0]
    for row in rows[1:]:
      for name, cell in zip(head, row):
        if name in (
          'validation with test', 'seed with seed', 'means', 'correlation',
          'cost with PER', 'seed with seed, top cells',
        ):  # fmt: skip
          assert form.fullmatch(cell), cell
          checked += 1
  # Of decisions: three nodes of six operations, six skips.
  assert checked == 20 + 20 + 12 + 16 + 3 + 3 * 6 + 6 * 2


def test_numbers_are_those_of_the_analysis(place, page):
  found = analysis.results(table.open(place), 'e40')
  for part, c in analysis.by_slice(
    found.val_n, found.test_n, repeats=100
  ).items():
    row = ['e40, mean of seeds', part, words.correlation(c)]
    assert any(row in t for t in page.tables)
  best = np.nanargmin(found.val_n)
  (rows,) = [t for t in page.tables if 'rank, validation' in t[0]]
  assert rows[1][0] == planted_table.SPACE.names(found.archs_nd[best])
  assert rows[1][1] == '1'
  assert rows[1][2].startswith(f'{100 * found.val_n[best]:.2f} ± ')


def test_latency_is_a_cost_where_it_was_measured(place, page):
  (rows,) = [t for t in page.tables if t[0][-1] == 'cost with PER']
  name, cells, front, _ = rows[-1]
  assert name == 'milliseconds on abacus, batch 1, 200 frames'
  t = table.open(place)
  measured = t.latency_archs()
  test_n = t.query(measured, 'test_per', reduce='mean', recipe='e40')
  seconds_n = t.latency(measured)
  assert int(cells) == (~np.isnan(test_n)).sum() < 20
  assert int(front) == analysis.pareto_front(seconds_n, test_n).sum()


def test_overlapping_intervals_are_not_ordered(page):
  assert (
    'Lower for evolution than for random search: -10.00 points [-10.00 points'
    in page.text
  )
  assert 'No significant difference between other and random' in page.text
  assert 'overlap: neither can be called the lower' in page.text
  assert 'better' not in page.text


def test_order_of_two_numbers_is_said_only_if_they_are_apart():
  def at(value, half):
    return analysis.Correlation(value, value - half, value + half, 50)

  said = words.order('a', at(0.5, 0.1), 'b', at(0.8, 0.1))
  assert said.startswith('Lower for a, 0.500 [0.400, 0.600] (50 cells), than')
  assert words.order('b', at(0.8, 0.1), 'a', at(0.5, 0.1)) == said
  said = words.order('a', at(0.5, 0.2), 'b', at(0.8, 0.2))
  assert 'overlap' in said and 'Lower' not in said
  none = analysis.Correlation(0.9, NAN, NAN, 4)
  assert 'too little' in words.order('a', at(0.5, 0.2), 'b', none)
  assert 'no agreement' in words.sign('x', at(0.1, 0.2))
  assert words.sign('x', at(0.5, 0.2)) == 'x: agreement.'
  assert words.sign('x', at(-0.5, 0.2)) == 'x: the reverse order.'
  assert 'too few' in words.sign('x', none)


def test_text_is_escaped():
  text = report_page.page(
    '<b>',
    [
      report_page.Section(
        'a & b',
        [
          report_page.paragraph('<script>', '', 'x < y'),
          report_page.table(('<i>',), [('<u>',)]),
        ],
      )
    ],
  )
  found = Page(text)
  assert not found.tags & {'b', 'script', 'i', 'u'}
  assert '<script> x < y' in found.words and 'a & b' in found.words


def _table(path, cells, seeds=(1,), recipes=('e40',), failed=0):
  return planted_table.write(
    path, planted_table.cells(cells), seeds, recipes, failed
  )


def test_one_cell(tmp_path):
  found = report(_table(tmp_path, 1))
  assert '1 run: 1 cell of' in found.text and 'seed 1, recipe e40' in found.text
  assert 'No latencies' in found.text
  assert 'One seed only' in found.text and 'One recipe only' in found.text
  assert 'none (1 cell)' in found.text


def test_nothing_but_failures(tmp_path):
  found = report(_table(tmp_path, 1, seeds=(1, 2), failed=2))
  assert '2 diverged' in found.text
  assert 'No cell has all of its runs.' in found.text


def test_uneven_recipes(tmp_path):
  archs = planted_table.cells(15)
  rows = [planted_table.row(a, s) for a in archs for s in (1, 2)]
  rows[3] = table_rows.diverged(archs[1], 4, 2)
  short = [planted_table.row(a, 2, 'e5') for a in archs[:11]]
  table.write_shard(tmp_path, 'long', rows)
  table.write_shard(tmp_path, 'short', short)
  t = table.open(tmp_path)
  study = report_sections.study(t, repeats=100)
  parts = (report_sections.overview, report_rankings.seeds)
  sections = [part(study) for part in (*parts, report_rankings.budgets)]
  found = check(report_page.page('A table', sections))
  # Of 15 cells with two seeds, one failed; the short recipe has 11 runs of 30.
  assert '19 pairs of cell and seed were not run' in found.text
  assert 'Where nothing else is said, numbers are of recipe e40' in found.text
  (rows,) = [t for t in found.tables if t[0][-1] == 'correlation']
  assert ['e40 with e5, validation', 'seed 1', 'none (0 cells)'] in rows
  assert any(r[1] == 'seed 2' and '(10 cells)' in r[2] for r in rows[1:])
  study = report_sections.study(t, 'e5')
  assert study.main.recipe == 'e5' and len(study.found) == 2


def test_what_is_wrong_is_said_in_a_line(place, tmp_path):
  (tmp_path / 'search.json').write_text('{"random": {"seconds": 1}}')
  mistakes = {
    '--table=/nowhere': '/nowhere',
    '--out=': "--out='' is no name of a file",
    f'--search={tmp_path / "search.json"}': 'is not what search.py writes',
  }
  own = f'--table={place}', f'--out={tmp_path / "r.html"}'
  found = tiny_run.tried([[*own, flag] for flag in mistakes], 'report')
  for (status, _, errors), message in zip(found, mistakes.values()):
    assert status == 1
    assert message in errors and 'Traceback' not in errors
  assert not (tmp_path / 'r.html').exists()


def test_an_unknown_recipe_is_refused(place):
  with pytest.raises(ValueError, match="no recipe 'e10'.*'e5', 'e40'"):
    report_sections.study(table.open(place), 'e10')
