"""The loop of ask and tell: searchers of both kinds, a table and training."""

import importlib.util
import pathlib
import textwrap

import numpy as np
import planted_table
import pytest
import table_rows

from nasjax import search, table
from nasjax.search import driver, landscape

EXAMPLES = pathlib.Path(__file__).parents[2] / 'experiments' / 'examples'


@pytest.fixture(scope='module')
def scape(tmp_path_factory):
  """Of functions with an identity path and without, of one run and of two."""
  archs = table_rows.SPACE.product(['linear', 'conv5'], ['s00', 's20'])
  path = tmp_path_factory.mktemp('driver')
  written = [
    planted_table.row(arch, seed)
    for n, arch in enumerate(archs)
    for seed in ((1, 2) if n % 2 else (1,))
  ]
  table.write_shard(path, 'a', written)
  return landscape.landscape(table.open(path))


def _example(name):
  spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _search(scape, make, batch=1, budget=20, seed=(0, 0)):
  made = driver.made(make, scape.sizes, scape.epochs, budget, batch, 'mine')
  return driver.search(made, driver.Lookup(scape), list(seed), budget)


@pytest.mark.parametrize('name', ['evolution', 'hyperband'])
def test_one_loop_comes_to_what_mapped_repeats_come_to(scape, name):
  made = search.SEARCHERS[name](scape.sizes, scape.epochs, 20, batch=3)
  mapped = landscape.simulate(made, scape, 5, 2, 20)
  trace = driver.search(made, driver.Lookup(scape), [5, 1], 20)
  for one, many in zip(trace, mapped):
    np.testing.assert_array_equal(one[0], many[1, : one.shape[1]])
  assert 20 * scape.epochs <= trace.epochs.sum() < 23 * scape.epochs


def test_what_is_trained_is_asked_for_as_architectures(scape):
  told = []

  def train(archs_nd, epochs_n):
    told.append((archs_nd, epochs_n))
    error_n = archs_nd.sum(axis=1, dtype=np.float32) / 100
    return error_n, error_n + 0.1

  made = search.SEARCHERS['random'](scape.sizes, 7, 4, batch=2)
  trace = driver.search(
    made, driver.Training(scape.values, 7, train), [0, 0], 4
  )
  archs_nd = np.concatenate([archs for archs, _ in told])
  assert archs_nd.shape == (4, 9) and trace.epochs.tolist() == [[7] * 4]
  np.testing.assert_allclose(trace.test[0], archs_nd.sum(axis=1) / 100 + 0.1)
  vectors = landscape.vectors_of(scape.values)
  found = landscape.archs_of(scape.values, vectors[trace.place[0].astype(int)])
  np.testing.assert_array_equal(found, archs_nd)


def test_the_search_of_the_docstring(scape):
  lines = driver.__doc__.split('\n')
  first = next(n for n, line in enumerate(lines) if 'class Climber' in line)
  last = next(n for n, line in enumerate(lines) if 'best_test' in line)
  code = textwrap.dedent('\n'.join(lines[first : last + 1]))
  *code, result = (
    code.replace(
      "landscape.landscape(table.open('experiments/tables/synthetic_timit'))",
      'scape',
    )
    .replace('repeats=100', 'repeats=10')
    .splitlines()
  )
  names = {'np': np, 'scape': scape, 'driver': driver, 'landscape': landscape}
  exec('\n'.join(code), names)
  found, many = eval(result, names), landscape.expected_random(scape, 150)
  assert abs(found - many) < 0.01 and names['trace'].test.shape == (10, 150)


class Scripted:
  """Asks for what stands in a list, and keeps what it is told."""

  def __init__(self, sizes, script):
    self.script, self.told, self.sizes = iter(script), [], sizes

  def ask(self):
    return next(self.script, None)

  def tell(self, vector, error):
    self.told.append((tuple(vector), error))


def test_a_plain_searcher_is_asked_and_told(scape):
  low = [0] * 9
  high = tuple(size - 1 for size in scape.sizes)
  kept = []

  def make(sizes, epochs, budget, rng):
    assert (sizes, epochs, budget) == (scape.sizes, scape.epochs, 20)
    kept.append(Scripted(sizes, [low, (np.array(high), 3), high]))
    return kept[-1]

  trace = _search(scape, make)
  assert trace.epochs.tolist() == [[40, 3, 40]]
  ((one, first), (two, short), (_, whole)) = kept[0].told
  assert one == tuple(low) and two == high and short > whole
  np.testing.assert_allclose(trace.val[0], [first, short, whole])
  # Asked twice before it is told, and ends when it has nothing left.
  batched = _search(scape, make, batch=2)
  assert batched.place.tolist() == trace.place.tolist()
  assert _search(scape, lambda sizes, e, b, rng: Scripted(sizes, [])).test.shape
  many = driver.on_table(
    driver.made(make, scape.sizes, scape.epochs, 20), scape, 0, 3, 20
  )
  assert many.epochs.shape == (3, 3)


@pytest.mark.parametrize(
  ('said', 'words'),
  [
    ([0] * 8, 'want 9 integers'),
    ([9] * 9, r'want 9 integers, from 0 to below \(2, 2'),
    ([-1] + [0] * 8, 'returned \\[-1, 0'),
    ([0.5] * 9, '0.5'),
    ('abc', "'abc'"),
    (([0] * 9, 41), 'wants 41 epochs; want an integer from 1 to 40'),
    (([0] * 9, 0), 'wants 0 epochs'),
  ],
)
def test_suggestions_that_cannot_be_evaluated(scape, said, words):
  with pytest.raises(ValueError, match=words) as e:
    _search(scape, lambda sizes, e, b, rng: Scripted(sizes, [said]))
  assert str(e.value).startswith('mine: ask() ') and '\n' not in str(e.value)


def test_searchers_that_are_none(scape):
  def broken(sizes, epochs, budget, rng):
    return [][1]

  for make, words in (
    (lambda sizes, epochs, budget, batch: 3, 'mine returned 3; want'),
    (lambda sizes, epochs, budget: 3, 'TypeError'),
    (lambda sizes, epochs, budget, rng: 3, r'ask\(\) and tell'),
    (broken, r'mine: .*test_driver.py, line \d+: IndexError'),
  ):
    with pytest.raises(ValueError, match=words):
      _search(scape, make)


@pytest.mark.parametrize(
  'name', ['own_searcher.Annealing', 'optuna_searcher.TPE']
)
def test_the_examples_search(scape, name):
  if name.startswith('optuna'):
    pytest.importorskip('optuna', exc_type=ImportError)
  module, _, make = name.partition('.')
  make = getattr(_example(module), make)
  made = driver.made(make, scape.sizes, scape.epochs, 40)
  trace = driver.on_table(made, scape, 0, 4, 40)
  assert trace.epochs.shape == (4, 40) and (trace.epochs == scape.epochs).all()
  # A repeat is the same again, and none is as another.
  again = _search(scape, make, budget=40, seed=(0, 1))
  np.testing.assert_array_equal(trace.place[1], again.place[0])
  assert not np.array_equal(trace.place[0], trace.place[1])
  # They learn: the later ones are better.
  assert np.median(trace.val[:, 20:]) < np.median(trace.val[:, :10])
  assert len((EXAMPLES / f'{module}.py').read_text().splitlines()) < 60
