"""Curves of searches as JSON: what --json writes, and --add reads.

  {"name of the searcher": {
     "cost": [1, 2, 4.5, .., 150],
     "test_by_cost": [[0.61, 0.58, .., 0.45], ..],
     "metric": "PER", "recipe": "e14", "corpus": "..", "seconds": 12.3}, ..}

`cost` rises, in trained models: epochs trained over those of a full training.
`test_by_cost` is the error rate on test, a fraction, of the best by validation
among what was trained to the end at that cost: a list for each repeat, or one
list alone; null before there is any. Between two costs the earlier value holds.
The rest may be left out; what is there must be as here. search.py also writes

  test_per_at_budget   the last of each repeat, as many digits as there are
  against_random       the verdict at the budget: lies, difference, low, high,
                       p, visible, n; see `nasjax/analysis/verdicts.py`
  better_from          the cost from which on it beats random search, or null
  expected_by_cost     of random: its exact expectation in the table
  oracle               of random: the lowest mean test error of a cell
"""

import json
import math
import pathlib
from typing import NamedTuple

import numpy as np

# Digits of an error rate in a curve.
DIGITS = 6


class Curve(NamedTuple):
  """What a stranger's searches found: cost_c, and test_rc, NaN for null."""

  cost_c: np.ndarray
  test_rc: np.ndarray

  def at(self, cost_k):
    """Returns test_rk; NaN before the first cost."""
    place_k = np.searchsorted(self.cost_c, np.asarray(cost_k) + 1e-9, 'right')
    none = np.full((len(self.test_rc), 1), np.nan)
    return np.concatenate([none, self.test_rc], axis=1)[:, place_k]


def record(cost_k, test_rk, verdict, since, about):
  """Returns what is written of a searcher."""
  return about | {
    'test_per_at_budget': test_rk[:, -1].tolist(),
    'cost': cost_k.tolist(),
    'test_by_cost': [
      [None if np.isnan(v) else round(float(v), DIGITS) for v in test_k]
      for test_k in test_rk
    ],
    'against_random': None if verdict is None else plain(verdict),
    'better_from': since,
  }


def plain(verdict):
  """Returns a Verdict as JSON can have it: None for NaN."""
  return {
    name: None if isinstance(value, float) and math.isnan(value) else value
    for name, value in verdict._asdict().items()
  }


def text(records):
  """Returns records as JSON, a line each."""
  lines = [
    f'{json.dumps(name)}: {json.dumps(one, allow_nan=False)}'
    for name, one in records.items()
  ]
  return '{\n' + ',\n'.join(lines) + '\n}\n'


def read(path, budget, about):
  """Reads the Curves of a file, by name.

  Args:
    path: of the file.
    budget: up to which they are to go.
    about: `{name: value}` that they must not contradict, as metric.

  Raises:
    ValueError: in one line, what is wrong with which of them.
  """
  told = f'--add={path}'
  try:
    text = pathlib.Path(path).expanduser().read_text('utf-8')
    records = json.loads(text, object_pairs_hook=_once)
  except OSError as e:
    raise ValueError(f'{told}: {e.strerror}') from None
  except json.JSONDecodeError as e:
    raise ValueError(f'{told}: line {e.lineno} is no JSON: {e.msg}') from None
  except UnicodeDecodeError as e:
    raise ValueError(f'{told} is no text in UTF-8: {e}') from None
  except ValueError as e:
    raise ValueError(f'{told}: {e}') from None
  if not isinstance(records, dict) or not records:
    raise ValueError(
      f'{told} has {_short(records)}; want {{"name": {{"cost": [..], '
      '"test_by_cost": [[..], ..]}}'
    )
  return {
    name: _curve(f'{told}: {name!r}', one, budget, about)
    for name, one in records.items()
  }


def _once(pairs):
  """Returns what JSON calls an object, of which nothing is to be lost."""
  record = dict(pairs)
  if len(record) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'{twice!r} stands there twice; rename one')
  return record


def _curve(told, one, budget, about):
  if not isinstance(one, dict):
    raise ValueError(f'{told} is {_short(one)}; want cost and test_by_cost')
  for name in 'cost', 'test_by_cost':
    if name not in one:
      raise ValueError(f'{told} lacks {name!r}; want cost and test_by_cost')
  for name, here in about.items():
    if one.get(name, here) != here:
      raise ValueError(
        f'{told}: {name} is {_short(one[name])}, here {here!r}; compare what '
        'was searched alike'
      )
  cost, tests = one['cost'], one['test_by_cost']
  if isinstance(tests, list) and tests and not isinstance(tests[0], list):
    tests = [tests]
  if not _numbers(cost) or not cost or min(cost) <= 0:
    raise ValueError(f'{told}: cost is {_short(cost)}; want numbers above 0')
  cost_c = np.array(cost, np.float64)
  if (np.diff(cost_c) <= 0).any():
    c = int(np.argmax(np.diff(cost_c) <= 0))
    raise ValueError(
      f'{told}: cost has {cost[c + 1]:g} after {cost[c]:g}; want rising ones'
    )
  if not isinstance(tests, list) or not tests:
    raise ValueError(f'{told}: test_by_cost is {_short(tests)}; want lists')
  for r, test in enumerate(tests):
    if not isinstance(test, list) or len(test) != len(cost):
      count = len(test) if isinstance(test, list) else _short(test)
      raise ValueError(
        f'{told}: repeat {r + 1} of test_by_cost has {count} values; want '
        f'{len(cost)}, one for each cost'
      )
    wrong = [v for v in test if v is not None and not _fraction(v)]
    if wrong:
      raise ValueError(
        f'{told}: repeat {r + 1} of test_by_cost has {_short(wrong[0])}; want '
        'fractions from 0 to 1, or null'
      )
  test_rc = np.array(
    [[np.nan if v is None else v for v in test] for test in tests], np.float64
  )
  if cost_c[-1] < budget:
    raise ValueError(
      f'{told} ends at cost {cost[-1]:g}, before --budget={budget}; give '
      f'--budget={math.floor(cost[-1])}, or a longer curve'
    )
  curve = Curve(cost_c, test_rc)
  if np.isnan(curve.at([budget])).any():
    raise ValueError(
      f'{told} has a repeat with nothing at --budget={budget}; raise it'
    )
  if (np.diff(np.isnan(test_rc).astype(int), axis=1) > 0).any():
    raise ValueError(f'{told} has null after a number; want it before alone')
  return curve


def _numbers(values):
  return isinstance(values, list) and all(
    isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9
    for v in values
  )


def _fraction(value):
  return _numbers([value]) and 0 <= value <= 1


def _short(value):
  shown = json.dumps(value, default=repr)
  return shown if len(shown) <= 60 else f'{shown[:60]} ..'


def listed(words):
  """Returns 'a', 'a and b', 'a, b and c'."""
  *first, last = words
  return f'{", ".join(first)} and {last}' if first else last
