"""Rows of a benchmark table for tests: the form of real ones, values drawn.

And two means of damage: marks that vouch for whatever stands there, and bombs.
"""

import hashlib
import json
import os

import numpy as np

from nasjax import spaces
from nasjax.table import shards

SPACE = spaces.NB_ASR
RECIPES = {'e5': 5, 'e40': 40}


def row(arch, seed=1234, recipe='e40', **changes):
  """Returns one row; its values follow from cell, seed and recipe alone."""
  arch_d = SPACE.parse(arch)
  epochs = RECIPES[recipe]
  rng = np.random.default_rng([SPACE.index(arch_d), seed, epochs])
  val_per = np.sort(rng.uniform(0.2, 1.0, epochs))[::-1]
  loss = 3 * val_per.astype(np.float32)
  return {
    'space': SPACE.name,
    'arch': arch_d,
    'key': SPACE.key(arch_d),
    'semantic_key': SPACE.semantic_key(arch_d),
    'seed': seed,
    'recipe': recipe,
    'recipe_json': json.dumps({'epochs': epochs, 'learning_rate': 1e-4}),
    'macro': 'SMALL',
    'corpus': 'synthetic_timit',
    'corpus_fingerprint': '5f0c',
    'epochs': epochs,
    'train_loss': loss,
    'val_loss': loss,
    'val_per': val_per,
    'learning_rate': np.full(epochs, 1e-4, np.float32),
    'epoch_seconds': np.ones(epochs, np.float32),
    'test_per': float(val_per[-1] + rng.normal(0, 0.01)),
    'test_loss': float(loss[-1]),
    'best_epoch': epochs,
    'params': 26_338_848,
    'macs': 1_500_000_000,
    'seconds': float(epochs),
    'status': 'ok',
    'diverged_epoch': None,
    'versions': json.dumps({'nasjax': '0.1.0'}),
    'commit': '0' * 40,
    'created': '2026-11-20T12:00:00Z',
  } | changes


def diverged(arch, epoch, seed=1234, recipe='e40'):
  """Returns the row of a run that stopped at an epoch."""
  good = row(arch, seed, recipe)
  curves = (
    'train_loss',
    'val_loss',
    'val_per',
    'learning_rate',
    'epoch_seconds',
  )
  return (
    good
    | {name: good[name][: epoch - 1] for name in curves}
    | {
      'status': 'diverged',
      'diverged_epoch': epoch,
      'best_epoch': None,
      'test_per': np.nan,
      'test_loss': np.nan,
    }
  )


def latency_row(arch, **changes):
  """Returns one row of latency; its seconds follow from the cell alone."""
  arch_d = SPACE.parse(arch)
  seconds = 1e-3 + 1e-6 * SPACE.index(arch_d)
  return {
    'space': SPACE.name,
    'arch': arch_d,
    'semantic_key': SPACE.semantic_key(arch_d),
    'macro': 'SMALL',
    'device': 'abacus',
    'batch': 1,
    'frames': 200,
    'median': seconds,
    'quartile_low': 0.9 * seconds,
    'quartile_high': 1.2 * seconds,
    'runs': 50,
    'warmup': 10,
    'versions': json.dumps({'nasjax': '0.1.0'}),
    'commit': '0' * 40,
    'created': '2026-11-20T12:00:00+00:00',
  } | changes


def file(directory, name, suffix='.parquet'):
  """Returns the path of a shard's rows, or of its mark for `.json`."""
  rows = shards.rows_path(directory, name)
  return rows if suffix == '.parquet' else shards.mark_path(rows)


def reseal(directory, name, **changes):
  """Rewrites a commit mark so that all of its digests are right again."""
  path = shards.find_mark(directory, name)
  content = json.loads(path.read_text())
  del content['mark_sha256']
  payload = shards.rows_of(path).read_bytes()
  content |= {
    'sha256': hashlib.sha256(payload).hexdigest(),
    'size': len(payload),
  }
  path.write_bytes(shards.seal(content | changes))


class Bomb:
  """Leaves a mark on whoever unpickles it."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)
