"""Runs: shards become rows of a table.

A shard's name is a hash of all that determines its result, so running it again
is harmless: a finished shard is skipped, a killed one goes on from its last
epoch, and its rows appear whole.

  OUT/table/<shard>.parquet, .json      rows and their commit mark
  OUT/checkpoints/<shard>/<epoch>/      orbax: states, and of which members
  OUT/checkpoints/<shard>/portable.npz  what they need to hear and to speak
  OUT/attempts/<shard>.json             how many members stand on the devices
  OUT/failures/<shard>.json             what it failed of
"""

import gc
import pathlib
from typing import NamedTuple

import numpy as np

from nasjax import kernels, table
from nasjax.benchmark import attempts, failures, rows
from nasjax.benchmark.shards import Job as Job
from nasjax.benchmark.shards import Shard as Shard
from nasjax.benchmark.shards import describe as describe
from nasjax.benchmark.shards import plan as plan
from nasjax.programs import memory
from nasjax.storage import checkpoints
from nasjax.training import loop, portable, recipes
from nasjax.training.offloading import Parts
from nasjax.training.trainer import Trainer as Trainer
from nasjax.training.trainer import begun
from nasjax.training.trainer import device_corpus as device_corpus


class ShardProgress(NamedTuple):
  """What is reported after every epoch.

  Attributes:
    shard: the `Shard`.
    epoch: epochs done.
    curves: float arrays [member, epoch] by name, NaN where nothing is yet.
    seconds: of this epoch.
    resumed: whether the epoch was read from a checkpoint, not trained.
    diverged: members that have diverged.
    emitted: labels that each member emitted on the validation split, for each
      label of the references; NaN where the epoch was not trained now.
  """

  shard: Shard
  epoch: int
  curves: dict
  seconds: float
  resumed: bool
  diverged: int = 0
  emitted: np.ndarray | None = None


def check_table(job, shards, out):
  """Refuses a table into which the rows of these shards would not fit.

  Args:
    job: `Job`.
    shards: of `plan`.
    out: directory of the run.

  Raises:
    TableError: the table is damaged.
    ValueError: the same network was trained in another grouping, or the
      recipe's name stands for other values there.
  """
  directory = pathlib.Path(out) / 'table'
  if not table.committed(directory):
    return
  written = table.open(directory)
  # Columns, not rows: a table may have more of them than fit as Python's.
  columns = {
    name: written.column(name)
    for name in ('recipe', 'recipe_json', 'space', 'macro', 'shard', 'seed')
    + ('corpus_fingerprint',)
  }
  named_r = columns['recipe'] == job.recipe.name
  if (columns['recipe_json'][named_r] != rows.recipe_json(job)).any():
    raise ValueError(
      f'{directory} has rows of another recipe named {job.recipe.name!r}; '
      'take another recipe name or another directory'
    )
  names = {shard.name for shard in shards}
  same_r = named_r & (columns['space'] == job.space.name)
  same_r &= columns['macro'] == job.macro.name
  same_r &= columns['corpus_fingerprint'] == job.corpus_fingerprint
  same_r &= [name not in names for name in columns['shard']]
  if not same_r.any():
    return
  planned = {member for shard in shards for member in shard.members}
  archs = written.select(space=job.space.name).row_archs
  place_r = np.cumsum(columns['space'] == job.space.name) - 1
  for r in np.nonzero(same_r)[0]:
    arch, seed = archs[place_r[r]], int(columns['seed'][r])
    if (tuple(arch.tolist()), seed) in planned:
      raise ValueError(
        f'{directory} has {job.space.names(arch)} '
        f'with seed {seed} already, trained in another grouping '
        f'(shard {columns["shard"][r]}); give the cells, seeds, population '
        'size of that run, or another directory'
      )


def run_shard(
  job,
  shard,
  prepared,
  out,
  on_epoch=lambda progress: None,
  at_once=None,
  say=print,
  together=None,
  checkpoint=True,
  guard=lambda: None,
  every=1,
):
  """Trains a shard, or what is left of it, and writes its rows.

  Where memory runs out, half as many members stand on the devices at a time,
  and the shard goes on from its last checkpoint. Members that do not fit even
  alone get rows of status 'oom'.

  Args:
    job: `Job`.
    shard: one of `plan`.
    prepared: of `prepare`.
    out: directory of the run.
    on_epoch: called with a `ShardProgress` after every epoch.
    at_once: dict from signatures to the members that fit on the devices; what
      is learnt of it is written there, for the shards that follow.
    say: called with a line of text when memory ran out, or a checkpoint cannot
      be restored.
    together: members that one program trains, while the others wait on the
      devices; all that fit if not given.
    checkpoint: as in `Trainer`; where memory runs out, it is.
    guard: called before anything of the shard is written; raises where it has
      become another process's.
    every: epochs between two that are saved.

  Returns:
    True if there was anything to do.

  Raises:
    TooLargeError: memory ran out where it once was enough.
    whatever training raised; it is in OUT/failures/ then (`failures`).
  """
  with failures.noted(out, shard.name):
    return _run_shard(
      *(job, shard, prepared, pathlib.Path(out), on_epoch),
      *(at_once, say, together, checkpoint, guard, every),
    )


def _run_shard(
  job,
  shard,
  prepared,
  out,
  on_epoch,
  at_once,
  say,
  together,
  checkpoint,
  guard,
  every,
):
  place = out / 'checkpoints' / shard.name
  done = table.is_committed(out / 'table', shard.name)
  if not done or place.is_dir():
    # Also beside what was trained before there was such a file.
    about = _about(job, shard) | {'metric': job.metric}
    portable.keep(place, prepared, about)
  if done:
    return False
  told = 0

  def tell(progress):
    # What is read again from a checkpoint was told of before.
    nonlocal told
    if progress.epoch > told:
      told = progress.epoch
      on_epoch(progress)

  at_once = {} if at_once is None else at_once
  size = min(at_once.get(shard.signature, shard.size), shard.size)
  while size:
    attempts.begin(out, shard, size)
    try:
      group = min(size, together or size)
      parts = Parts(job, shard, prepared, group, size, checkpoint)
      state, scores = _train(job, shard, parts, out, tell, say, guard, every)
      break
    except (MemoryError, RuntimeError) as e:
      if not memory.exhausted(e):
        raise
      reason = str(e).partition('\n')[0]
    finally:
      attempts.end(out, shard)
    # Here the error is gone, and with it all that its frames held.
    parts, checkpoint = None, True
    gc.collect()
    size = _less(shard, prepared, out, size, reason, say)
    if size:
      at_once[shard.signature] = size
  if not size:
    state, scores = _untrained(job, shard)
  kind = kernels.choose(prepared.mesh.devices.flat[0].platform)
  loss_p, per_p, *errors = scores
  found = rows.rows_of(
    job, shard, state, loss_p, per_p, 'ok' if size else 'oom', kind
  )
  meta = rows.meta(job, shard, prepared, size, found, *errors)
  guard()
  table.write_shard(out / 'table', shard.name, found, meta)
  return True


def _less(shard, prepared, out, size, reason, say):
  """Returns how many members to train at a time where `size` were too many.

  Args:
    shard: in training.
    prepared: of `prepare`.
    out: directory of the run.
    size: members that were on the devices when memory ran out.
    reason: what was said then.
    say: called with what is done about it.

  Returns:
    half of them, rounded up to what the devices divide; 0 if that are no
    fewer.

  Raises:
    TooLargeError: they are no fewer, but some epochs had enough memory.
  """
  devices = prepared.mesh.shape['member']
  half = -(-size // (2 * devices)) * devices
  epoch = _last_epoch(out, shard)
  fault = f'shard {shard.name}: out of memory with {size} networks on'
  if half < size:
    say(
      f'{fault} the devices; going on from epoch {epoch + 1} with {half} of '
      f'its {len(shard.members)} at a time ({reason})'
    )
    return half
  if epoch:
    raise memory.TooLargeError(
      f'{fault} {devices} devices, the fewest there can be, though the first '
      f'{epoch} epochs had enough; make room and give the same command again '
      f'({reason})'
    )
  say(
    f'{fault} {devices} devices, the fewest there can be; its rows get the '
    f'status oom ({reason})'
  )
  return 0


def _last_epoch(out, shard):
  with checkpoints.manager(out / 'checkpoints' / shard.name) as saved:
    return saved.latest_step() or 0


def _train(job, shard, parts, out, tell, say, guard, every):
  """Returns the last state of a shard, and what `Parts.test` does."""

  def on_epoch(epoch, host, resumed):
    tell(_progress(shard, epoch, host, resumed, parts.emitted()))

  place = out / 'checkpoints' / shard.name
  about = _about(job, shard)
  epochs = job.recipe.epochs
  last = loop.run(parts, place, epochs, about, on_epoch, say, guard, every)
  return last, parts.test()


def _progress(shard, epoch, state, resumed, emitted_p):
  curves = {name: v[:, :epoch] for name, v in state.curves.items()}
  diverged_p = state.diverged_epoch
  return ShardProgress(
    shard,
    epoch,
    curves,
    float(state.seconds[epoch - 1]),
    resumed,
    int(np.sum((diverged_p > 0) & (diverged_p <= epoch))),
    emitted_p,
  )


def _untrained(job, shard):
  """Returns the state and the scores of members that do not fit."""
  members, epochs = len(shard.members), job.recipe.epochs
  state = begun(members, epochs)._replace(seconds=np.zeros(epochs))
  score_p = np.full(members, np.nan)
  return state, (score_p, score_p, np.zeros((members, 3), np.int64), {})


def _about(job, shard):
  """Returns what a checkpoint says of itself: whose states it holds."""
  members = [{'arch': list(arch), 'seed': seed} for arch, seed in shard.members]
  for member, own in zip(members, shard.recipes):
    member['recipe'] = recipes.describe(own)
  if job.initial is not None:
    for member in members:
      told = job.initial.described(member['arch'], member['seed'])
      member['initial'] = told
  return describe(job) | {'shard': shard.name, 'members': members}
