"""Stages `resume` and `resume_part`: killed runs end as those left alone.

A small run on features drawn in memory: once as it is, once killed in the
middle of an epoch and started again. XLA is told to use nothing whose result
changes from run to run; then the tables must be the same to the bit.
"""

import json
import os
import shutil
import signal
import subprocess
import threading

import numpy as np
from card import gpu_plan

from nasjax.models import macros

_EPOCHS, _KILLED_AFTER = 4, 2
_SYMBOLS, _FEATURES = 5, 16
# Of one signature, in one shard.
_MEMBERS = [
  ([[1, 1], [0, 1, 0], [1, 1, 0, 1]], 1),
  ([[3, 1], [0, 0, 1], [4, 0, 1, 1]], 1),
  ([[2, 0], [0, 1, 1], [1, 0, 1, 1]], 2),
]
_SAME_BITS = '--xla_gpu_deterministic_ops=true'


def resume(stage):
  """Runs the processes and compares the tables."""
  flags = f'{os.environ.get("XLA_FLAGS", "")} {_SAME_BITS}'
  environment = os.environ | {'XLA_FLAGS': flags.strip()}

  def start(name, kill):
    options = {'run': name, 'kill': kill}
    words = gpu_plan.command(
      'resume_part', stage.out, stage.left, stage.rehearse, **options
    )
    return subprocess.Popen(
      words, env=environment, stderr=subprocess.PIPE, text=True
    )

  def end(process):
    _, said = process.communicate()
    return {'status': process.returncode, 'said': said.strip()[-1000:]}

  for name in ('whole', 'killed'):
    shutil.rmtree(stage.out / f'resume_{name}', ignore_errors=True)
  started = {'whole': start('whole', False), 'killed': start('killed', True)}
  ends = {name: end(process) for name, process in started.items()}
  ends['resumed'] = end(start('killed', False))
  found = {'processes': ends, 'passed': False}
  stage.publish(found)
  stage.publish(found | _compared(stage.out, ends))


def _compared(out, ends):
  from nasjax import table
  from nasjax.table import schema

  statuses = [ends[name]['status'] for name in ('whole', 'killed', 'resumed')]
  if statuses != [0, -signal.SIGKILL, 0]:
    return {'problem': f'statuses {statuses}; want 0, -9, 0'}

  def rows(name):
    found = table.open(out / f'resume_{name}').to_arrow().to_pylist()
    return sorted(found, key=lambda row: (row['arch'], row['seed']))

  whole, resumed = rows('whole'), rows('killed')
  trained = json.loads((out / 'resume_killed' / 'epochs.json').read_text())
  differences = [
    abs(a / b - 1)
    for one, other in zip(whole, resumed, strict=True)
    for a, b in zip(one['val_loss'], other['val_loss'], strict=True)
  ]
  equal = all(map(schema.same_results, whole, resumed))
  return {
    'rows': len(whole),
    'same_bits': equal,
    'largest_difference': max(differences),
    'val_loss': [row['val_loss'] for row in whole],
    'epochs_of_the_resumed': trained,
    # It went on, and did not begin again.
    'passed': equal and trained[0][1] and not trained[-1][1],
  }


def resume_part(stage):
  """One process: a run that kills itself in the third epoch, or does not."""
  import jax

  from nasjax import spaces
  from nasjax.benchmark import running
  from nasjax.training import population, recipes

  corpus = _corpus(40 if stage.rehearse else 400)
  width = 16 if stage.rehearse else 64
  macro = macros.Cells(
    'resumed', (width,), (1,), (2,), width, 1 + _SYMBOLS, 8, features=_FEATURES
  )
  recipe = recipes.Recipe(
    'resumed', _EPOCHS, lr=1e-2, batch=8, batch_long=8, buckets=1,
    curriculum=(), decoder='greedy',
  )  # fmt: skip
  job = running.Job(
    spaces.NB_ASR, macro, recipe, corpus.name, corpus.fingerprint
  )
  mesh = population.member_mesh(jax.devices()[:1])
  prepared = running.device_corpus(corpus, recipe, mesh)
  out = stage.out / f'resume_{stage.options["run"]}'
  epochs = []

  def on_epoch(progress):
    epochs.append([progress.epoch, progress.resumed])
    if stage.options['kill'] and progress.epoch == _KILLED_AFTER:
      threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()

  for shard in running.plan(job, _MEMBERS, members_per_shard=4):
    running.run_shard(job, shard, prepared, out, on_epoch)
  (out / 'epochs.json').write_text(json.dumps(epochs))


def _corpus(utterances):
  """Every label sounds as a pattern of its own, in noise."""
  from nasjax.data import corpus as corpus_lib

  rng = np.random.default_rng(4)
  patterns_vf = rng.normal(size=(1 + _SYMBOLS, _FEATURES))

  def split(name, utterances):
    labels, features = [], []
    for _ in range(utterances):
      own = rng.integers(1, 1 + _SYMBOLS, rng.integers(3, 9))
      x_tf = patterns_vf[np.repeat(own, rng.integers(4, 8, len(own)))]
      labels.append(own.astype(np.int32))
      features.append(x_tf + rng.normal(0, 0.5, x_tf.shape))
    return corpus_lib.drawn(name, features, labels)

  symbols = tuple('abcde'[:_SYMBOLS])
  return corpus_lib.Corpus(
    name='drawn',
    fingerprint='drawn',
    symbols=symbols,
    fold_v=np.arange(1 + _SYMBOLS, dtype=np.int32),
    classes=symbols,
    train=split('train', utterances),
    validation=split('validation', 40),
    test=split('test', 40),
    mean_f=np.zeros(_FEATURES, np.float32),
    variance_f=np.ones(_FEATURES, np.float32),
  )
