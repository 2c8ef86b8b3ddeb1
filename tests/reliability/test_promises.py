"""The list of promises in WORKSPACE.md names tests that there are."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_every_promise_has_its_tests():
  text = (ROOT / 'WORKSPACE.md').read_text()
  section = text.partition('## 8. Fifteen promises')[2].partition('\n## ')[0]
  row = re.compile(r'^\| (?!promise|-)(.+?) \| (.+) \|$', re.MULTILINE)
  rows = row.findall(section)
  assert len(rows) == 15
  for promise, cell in rows:
    tests = re.findall(r'`([\w/]+\.py)::(\w+)`', cell)
    assert tests, promise
    for path, name in tests:
      assert f'def {name}(' in (ROOT / path).read_text(), (path, name)
