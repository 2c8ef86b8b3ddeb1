"""What the documents say is there: links, flags, snippets."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
  *ROOT.glob('*.md'),
  *(ROOT / 'experiments').glob('*.md'),
]
# Of other programs, and of shell scripts.
OTHERS = {
  'all', 'flagfile', 'help', 'inplace', 'model', 'reliability', 'word_list',
}  # fmt: skip


def flags():
  """Names of the flags that launchers define."""
  defined = set(OTHERS)
  for folder in ('experiments', 'launch', 'tests/reliability'):
    for path in (ROOT / folder).rglob('*.py'):
      text = path.read_text()
      defined |= set(re.findall(r"DEFINE_\w+\(\s*'(\w+)'", text))
      defined |= set(re.findall(r"\badd(?:_argument)?\(\s*'--(\w+)'", text))
  recipes = (ROOT / 'nasjax/training/recipes.py').read_text()
  defined |= set(re.findall(r'^  (\w+): (?:int|float|str|bool)', recipes, re.M))
  return defined


def anchors(path):
  """Anchors of the headings of a page, as GitHub makes them."""
  headings = re.findall(r'^#+ (.*)$', path.read_text(), re.M)
  plain = [re.sub(r'[^\w\- ]', '', h.lower()) for h in headings]
  return {h.replace(' ', '-') for h in plain}


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
    if '://' in target:
      continue
    name, _, anchor = target.partition('#')
    path = page.parent / name if name else page
    assert path.exists(), f'{page.name}: {target}'
    assert not anchor or anchor in anchors(path), f'{page.name}: {target}'


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_flags_are_defined(page):
  used = set(re.findall(r'(?<![\w-])--(\w+)(?![\w-])', page.read_text()))
  unknown = {name for name in used - flags() if not name.startswith('xla_')}
  assert {name.removeprefix('no') for name in unknown} <= flags(), page.name


def test_the_guides_snippets_run(monkeypatch):
  """Those that need no run of the reader's own; each block by itself."""
  monkeypatch.chdir(ROOT)
  blocks = re.findall(
    r'^```python\n(.*?)^```',
    (ROOT / 'experiments/GUIDE.md').read_text(),
    re.M | re.S,
  )
  run = [block for block in blocks if 'results/' not in block]
  assert len(run) >= 2
  for block in run:
    exec(compile(block, 'GUIDE.md', 'exec'), {})  # noqa: S102
