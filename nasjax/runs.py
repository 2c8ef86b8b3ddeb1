"""Runs: cells and seeds become shards, shards become rows of a table.

A shard is one population trained with one recipe. Its name is a hash of all
that determines its result, so running it again is harmless: a finished shard is
skipped, a killed one goes on from its last epoch, and its rows appear whole.

  OUT/table/<shard>.parquet, .json      rows and their commit mark
  OUT/checkpoints/<shard>/<epoch>/      orbax: states, and of which members
"""

import dataclasses
import datetime
import hashlib
import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from nasjax import cells, cost, population, provenance, table
from nasjax.runner import CURVES, Runner
from nasjax.runner import prepare as prepare

# Raise when a change of the code changes what a shard's result is.
TRAINING_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Shard:
  """One population.

  Attributes:
    name: hash of the rest and of the corpus.
    signature: the arithmetic of each node (`cells.signature`).
    members: (architecture, seed) of each member.
    size: members that the program holds; those past `members` are padding.
    streams: seeds of the data streams that the program reads side by side; all
      shards of a signature have equally many, so that they share a program.
  """

  name: str
  signature: tuple[str, ...]
  members: tuple[tuple[tuple[int, ...], int], ...]
  size: int
  streams: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Job:
  """What all shards of a run share: space, macro network, recipe, corpus."""

  space: object
  macro: object
  recipe: object
  corpus_name: str
  corpus_fingerprint: str


class Progress(NamedTuple):
  """What is reported after every epoch.

  Attributes:
    shard: the `Shard`.
    epoch: epochs done.
    curves: float arrays [member, epoch] by name, NaN where nothing is yet.
    seconds: of this epoch.
    resumed: whether the epoch was read from a checkpoint, not trained.
  """

  shard: Shard
  epoch: int
  curves: dict
  seconds: float
  resumed: bool


def plan(job, members, members_per_shard, devices=1):
  """Packs members into shards.

  Members of one signature share a program. They are cut into shards of equal
  size (the last padded), so that each signature is compiled once.

  Args:
    job: `Job`.
    members: iterable of (architecture, seed); duplicates count once.
    members_per_shard: upper bound on a population.
    devices: a population is a multiple of this.

  Returns:
    list of `Shard`, those of one signature together.
  """
  if members_per_shard < 1:
    raise ValueError(f'members_per_shard is {members_per_shard}; at least 1')
  groups = {}
  for arch, seed in members:
    arch = tuple(int(d) for d in job.space.parse(arch))
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**31:
      raise ValueError(f'seed is {seed!r}; want a whole number below 2**31')
    kind = cells.signature(job.space, np.array(arch, np.int8))
    groups.setdefault(kind, set()).add((int(seed), arch))
  if not groups:
    raise ValueError('no members; name at least one cell and seed')
  shards = []
  for kind, group in sorted(groups.items()):
    # Seeds together: a population of one seed shares its batches.
    ordered = [(arch, seed) for seed, arch in sorted(group)]
    limit = max(devices, members_per_shard // devices * devices)
    count = -(-len(ordered) // limit)
    size = -(-len(ordered) // count)
    size = -(-size // devices) * devices
    chunks = [
      tuple(ordered[start : start + size])
      for start in range(0, len(ordered), size)
    ]
    seeds = [sorted({seed for _, seed in chunk}) for chunk in chunks]
    most = max(map(len, seeds))
    for chunk, own in zip(chunks, seeds, strict=True):
      streams = tuple(own + own[-1:] * (most - len(own)))
      shards.append(Shard(_name(job, chunk), kind, chunk, size, streams))
  return shards


def _name(job, members):
  content = describe(job) | {'version': TRAINING_VERSION, 'members': members}
  del content['corpus']  # a name, for people
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _manager(directory):
  return ocp.CheckpointManager(
    directory.absolute(),
    options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True),
  )


def _restore(manager, runner):
  """Returns (epoch, state): the last one saved, or the initial one."""
  state = runner.initial()
  epoch = manager.latest_step()
  if epoch is None:
    return 0, state
  real, size = len(runner.shard.members), runner.shard.size
  host = manager.restore(
    epoch, args=ocp.args.StandardRestore(_without_padding(state, real))
  )

  def pad(leaf_p):
    return np.concatenate([leaf_p, np.repeat(leaf_p[:1], size - real, 0)])

  host = _by_member(pad, host)
  for part in ('members', 'best'):
    host[part] = population.on_members(host[part], runner.prepared.mesh)
  return epoch, host


def _by_member(function, state):
  """Maps every array of a state whose leading axis is members."""
  return {
    part: tree if part == 'seconds' else jax.tree.map(function, tree)
    for part, tree in state.items()
  }


def _without_padding(state, real):
  """Copies the states of real members to the host.

  What is saved must not depend on the padding, which follows the number of
  devices; and it must be a copy, for the next epoch's program writes into the
  devices' buffers while the checkpoint is still on its way to the disk.
  """
  return _by_member(lambda leaf_p: np.array(leaf_p)[:real], state)


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
  rows = table.open(directory).to_arrow().to_pylist()
  planned = {member for shard in shards for member in shard.members}
  names = {shard.name for shard in shards}
  for row in rows:
    if row['recipe'] == job.recipe.name and (
      row['recipe_json'] != _recipe_json(job)
    ):
      raise ValueError(
        f'{directory} has rows of another recipe named {job.recipe.name!r}; '
        'take another recipe name or another directory'
      )
    same = (
      row['recipe'] == job.recipe.name
      and row['macro'] == job.macro.name
      and row['corpus_fingerprint'] == job.corpus_fingerprint
      and row['shard'] not in names
    )
    if same and (tuple(row['arch']), row['seed']) in planned:
      raise ValueError(
        f'{directory} has {job.space.names(np.array(row["arch"], np.int8))} '
        f'with seed {row["seed"]} already, trained in another grouping '
        f'(shard {row["shard"]}); give the cells, seeds, population size and '
        'devices of that run, or another directory'
      )


def run_shard(job, shard, prepared, out, on_epoch=lambda progress: None):
  """Trains a shard, or what is left of it, and writes its rows.

  Args:
    job: `Job`.
    shard: one of `plan`.
    prepared: of `prepare`.
    out: directory of the run.
    on_epoch: called with a `Progress` after every epoch.

  Returns:
    True if there was anything to do.
  """
  out = pathlib.Path(out)
  if shard.name in table.committed(out / 'table'):
    return False
  runner = Runner(job, shard, prepared)
  with _manager(out / 'checkpoints' / shard.name) as manager:
    done, state = _restore(manager, runner)
    about = _about(job, shard)
    for epoch in range(1, job.recipe.epochs + 1):
      if epoch > done:
        state = runner.epoch(state, epoch)
        host = _without_padding(state, len(shard.members))
        manager.save(
          epoch, args=ocp.args.StandardSave(host), custom_metadata=about
        )
      on_epoch(
        Progress(
          shard,
          epoch,
          {
            name: values[: len(shard.members), :epoch]
            for name, values in state['curves'].items()
          },
          float(state['seconds'][epoch - 1]),
          epoch <= done,
        )
      )
    manager.wait_until_finished()
  test_loss_p, test_per_p = runner.evaluate(state['best'], 'test')
  rows = _rows(runner, state, test_loss_p, test_per_p)
  table.write_shard(out / 'table', shard.name, rows, _meta(shard, runner))
  return True


def describe(job):
  """Returns what all shards of a job share, as plain values for JSON."""
  return {
    'space': job.space.name,
    'macro': dataclasses.asdict(job.macro),
    'recipe': dataclasses.asdict(job.recipe),
    'corpus': job.corpus_name,
    'corpus_fingerprint': job.corpus_fingerprint,
  }


def _about(job, shard):
  """Returns what a checkpoint says of itself: whose states it holds."""
  members = [{'arch': list(arch), 'seed': seed} for arch, seed in shard.members]
  return describe(job) | {'shard': shard.name, 'members': members}


def _recipe_json(job):
  return json.dumps(dataclasses.asdict(job.recipe), sort_keys=True)


def _meta(shard, runner):
  return {
    'signature': list(shard.signature),
    'members': len(shard.members),
    'padding': shard.size - len(shard.members),
    'buckets': [list(bucket) for bucket in runner.prepared.buckets],
  }


def _rows(runner, state, test_loss_p, test_per_p):
  """Returns the table's rows of a finished shard."""
  job, shard = runner.job, runner.shard
  epochs = job.recipe.epochs
  rates = [job.recipe.learning_rate(e) for e in range(1, epochs + 1)]
  share = float(state['seconds'].sum()) / len(shard.members)
  common = {
    'space': job.space.name,
    'recipe': job.recipe.name,
    'recipe_json': _recipe_json(job),
    'macro': job.macro.name,
    'corpus': job.corpus_name,
    'corpus_fingerprint': job.corpus_fingerprint,
    'epochs': epochs,
    'learning_rate': rates,
    'epoch_seconds': state['seconds'] / len(shard.members),
    'seconds': share,
    'versions': json.dumps(provenance.versions(), sort_keys=True),
    'commit': provenance.commit(),
    'created': datetime.datetime.now(datetime.UTC).isoformat(),
  }
  rows = []
  for p, (arch, seed) in enumerate(shard.members):
    diverged = int(state['diverged_epoch'][p])
    best = int(state['best_epoch'][p])
    cell = np.array(arch, np.int8)
    rows.append(
      common
      | {name: state['curves'][name][p] for name in CURVES}
      | {
        'arch': cell,
        'key': job.space.key(cell),
        'semantic_key': job.space.semantic_key(cell),
        'seed': seed,
        'test_per': np.nan if diverged else float(test_per_p[p]),
        'test_loss': np.nan if diverged else float(test_loss_p[p]),
        'best_epoch': best or None,
        'params': cost.params(job.space, cell, job.macro),
        'macs': cost.macs(job.space, cell, job.macro, frames=200),
        'status': 'diverged' if diverged else 'ok',
        'diverged_epoch': diverged or None,
      }
    )
  return rows
