"""A corpus that is learnt in seconds, and populations trained on it.

Every label sounds as a pattern of its own. Features are drawn, not computed
from audio: training does not know how they came about.
"""

import dataclasses
import functools

import jax
import numpy as np

from nasjax import cells, spaces, table
from nasjax.benchmark import running
from nasjax.data import corpus as corpus_lib
from nasjax.models import macros
from nasjax.table import schema
from nasjax.training import population, recipes

SYMBOLS = ('a', 'b', 'c', 'd', 'e')
# b and c are scored as one, e not at all.
FOLD_V = np.array([0, 1, 2, 2, 3, 0], np.int32)
FEATURES = 8
MACRO = macros.Cells(
  'pocket', (8,), (1,), (2,), 8, outputs=6, groups=4, features=FEATURES
)
# One bucket, greedy decoding: what is compiled most often.
RECIPE = recipes.Recipe(
  'pocket',
  2,
  lr=2e-2,
  decay=0.5,
  start=1,
  dropout=0.2,
  l2=0.01,
  clip=0.5,
  batch=4,
  batch_long=4,
  buckets=1,
  curriculum=(),
  decoder='greedy',
)
SPACE = spaces.NB_ASR


def split(patterns_vf, utterances, seed):
  """Returns a `Split` of utterances of 2 to 9 labels, 4 to 7 frames each."""
  rng = np.random.default_rng(seed)
  labels, features = [], []
  for _ in range(utterances):
    labels.append(rng.integers(1, 6, rng.integers(2, 10)).astype(np.int32))
    # The first is scored, so that no reference is empty.
    labels[-1][0] = rng.integers(1, 5)
    frames = rng.integers(4, 8, len(labels[-1]))
    x_tf = patterns_vf[np.repeat(labels[-1], frames)]
    noise_tf = rng.normal(0, 0.5, x_tf.shape)
    features.append((x_tf + noise_tf).astype(np.float32))
  return corpus_lib.drawn(f'u{seed}', features, labels)


@functools.cache
def corpus(train=18, validation=5, test=6, seed=0):
  """Returns a `Corpus` of so many utterances."""
  rng = np.random.default_rng(seed)
  patterns_vf = rng.normal(size=(1 + len(SYMBOLS), FEATURES))
  return corpus_lib.Corpus(
    name='tiny',
    fingerprint=f'tiny-{train}-{validation}-{test}-{seed}',
    symbols=SYMBOLS,
    fold_v=FOLD_V,
    classes=('A', 'B', 'D'),
    train=split(patterns_vf, train, seed + 1),
    validation=split(patterns_vf, validation, seed + 2),
    test=split(patterns_vf, test, seed + 3),
    mean_f=np.zeros(FEATURES, np.float32),
    variance_f=np.ones(FEATURES, np.float32),
  )


def shard(members, size=None):
  """Returns a `Shard` of (nested lists, seed) in just this order."""
  members = tuple(
    (tuple(int(d) for d in SPACE.parse(cell)), seed) for cell, seed in members
  )
  kind = cells.signature(SPACE, np.array(members[0][0], np.int8))
  streams = tuple(sorted({seed for _, seed in members}))
  return running.Shard('by-hand', kind, members, size or len(members), streams)


@functools.cache
def prepared(recipe=RECIPE, devices=1):
  """Returns the corpus on the first devices."""
  mesh = population.member_mesh(jax.devices()[:devices])
  return running.device_corpus(corpus(), recipe, mesh)


def job(recipe=RECIPE, macro=MACRO):
  """Returns the `Job` of the corpus."""
  tiny = corpus()
  return running.Job(SPACE, macro, recipe, tiny.name, tiny.fingerprint)


def trainer(members, recipe=RECIPE, devices=1, size=None, macro=MACRO):
  """Returns a `Trainer` of (nested lists, seed)."""
  return running.Trainer(
    job(recipe, macro), shard(members, size), prepared(recipe, devices)
  )


def variant(**changes):
  """Returns `RECIPE` with changes."""
  return dataclasses.replace(RECIPE, **changes)


def results(out):
  """Rows of a table by member, without what two honest runs may differ in."""
  rows = table.open(out).to_arrow().to_pylist()
  for row in rows:
    for name in schema.VOLATILE:
      if name != 'shard':
        del row[name]
  return {(tuple(row['arch']), row['seed']): row for row in rows}


def assert_same_table(out, other):
  """Compares the results of two runs, floats bit for bit."""
  one, two = results(out), results(other)
  assert one.keys() == two.keys()
  for member, row in one.items():
    assert row.keys() == two[member].keys()
    for name, value in row.items():
      np.testing.assert_array_equal(value, two[member][name], err_msg=name)


def assert_same_rows(one, other, tolerance):
  """Compares `results`: losses to a relative tolerance, all else exactly."""
  assert one.keys() == other.keys()
  for member, row in one.items():
    for name, value in row.items():
      if 'loss' in name:
        np.testing.assert_allclose(value, other[member][name], rtol=tolerance)
      else:
        np.testing.assert_array_equal(value, other[member][name], err_msg=name)
