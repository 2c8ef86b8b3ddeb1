"""What the table keeps of a shard: a row for each member, and a mark."""

import datetime
import json

import numpy as np

from nasjax import cost
from nasjax.storage import provenance
from nasjax.training import recipes
from nasjax.training.trainer import CURVES, learning_rates, padded, recipes_of


def recipe_json(job):
  """Returns the recipe of a job as a row has it."""
  return _json(job.recipe)


def _json(recipe):
  return json.dumps(recipes.describe(recipe), sort_keys=True)


def meta(job, shard, prepared, at_once, rows, edits_pk, rates):
  """Returns what the mark of a shard says of how it was trained.

  `metric` is what the columns `val_per` and `test_per` hold: PER, CER or LER.
  `padding` are members that only filled the program that holds all, `at_once`
  those on the devices together when it ended. `left_out` is what of the corpus
  was left out, `notes` what was done to the rest. `edits` are the errors behind
  `test_per`: for each row its substitutions, deletions and insertions, null
  where there is no `test_per`. `rates` are other error rates on the test split
  by name, one a row, null as `edits` are; the key is not there where there are
  none. `initial` says for each row whose weights it began with, likewise.
  """

  def of_rows(values_p):
    return [
      None if np.isnan(row['test_per']) else value
      for row, value in zip(rows, values_p.tolist(), strict=True)
    ]

  more = {}
  if rates:
    more['rates'] = {name: of_rows(rate_p) for name, rate_p in rates.items()}
  if job.initial is not None:
    more['initial'] = [job.initial.described(*m) for m in shard.members]
  return {
    'metric': job.metric,
    'signature': list(shard.signature),
    'members': len(shard.members),
    'padding': padded(shard.size, prepared.mesh) - len(shard.members),
    'at_once': at_once,
    'mesh': dict(prepared.mesh.shape),
    'buckets': [list(bucket) for bucket in prepared.buckets],
    'left_out': list(job.left_out),
    'notes': list(job.notes),
    'edits': of_rows(edits_pk),
  } | more


def rows_of(job, shard, state, test_loss_p, test_per_p, status, kernels):
  """Returns the table's rows of a shard, `status` those of who did not diverge.

  `kernels` are those that trained it, as `kernels.choose` names them.

  NaN stands where nothing was trained: so it does where a plateau ended the
  training, in the curves and in the learning rates.
  """
  epochs = job.recipe.epochs
  own = recipes_of(job, shard)
  lr_pe = learning_rates(own, state, epochs)
  # Epochs after all have stopped took no time at all.
  share = float(np.nansum(state.seconds)) / len(shard.members)
  common = {
    'space': job.space.name,
    'macro': job.macro.name,
    'corpus': job.corpus_name,
    'corpus_fingerprint': job.corpus_fingerprint,
    'epochs': epochs,
    'epoch_seconds': state.seconds / len(shard.members),
    'seconds': share,
    'versions': json.dumps(
      provenance.versions() | {'kernels': kernels}, sort_keys=True
    ),
    'commit': provenance.commit(),
    'created': datetime.datetime.now(datetime.UTC).isoformat(),
  }
  rows = []
  for p, (arch, seed) in enumerate(shard.members):
    diverged = int(state.diverged_epoch[p])
    best = int(state.best_epoch[p])
    cell = np.array(arch, np.int8)
    rows.append(
      common
      | {name: state.curves[name][p] for name in CURVES}
      | {
        'arch': cell,
        'key': job.space.key(cell),
        'semantic_key': job.space.semantic_key(cell),
        'seed': seed,
        'recipe': own[p].name,
        'recipe_json': _json(own[p]),
        'learning_rate': np.where(lr_pe[p] > 0, lr_pe[p], np.nan),
        'test_per': np.nan if diverged else float(test_per_p[p]),
        'test_loss': np.nan if diverged else float(test_loss_p[p]),
        'best_epoch': best or None,
        'params': cost.params(job.space, cell, job.macro),
        'macs': cost.macs(job.space, cell, job.macro, frames=200),
        'status': 'diverged' if diverged else status,
        'diverged_epoch': diverged or None,
      }
    )
  return rows
