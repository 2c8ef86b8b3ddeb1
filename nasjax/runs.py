"""Runs: cells and seeds become shards, shards become rows of a table.

A shard is one population trained with one recipe. Its name is a hash of all
that determines its result, so running it again is harmless: a finished shard is
skipped, a killed one goes on from its last epoch, and its rows appear whole.

  OUT/table/<shard>.parquet, .json      rows and their commit mark
  OUT/checkpoints/<shard>/<epoch>/      orbax: members, best, curves
"""

import dataclasses
import datetime
import hashlib
import json
import pathlib
import platform
import subprocess
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import nasjax
from nasjax import cells, cost, error_rates, population, table
from nasjax.data import batching

# Raise when a change of the code changes what a shard's result is.
TRAINING_VERSION = 1
# Numbers the curriculum's passes, apart from those of counted epochs.
_CURRICULUM_PASS = 1_000_000
CURVES = ('train_loss', 'val_loss', 'val_per')


@dataclasses.dataclass(frozen=True)
class Shard:
  """One population.

  Attributes:
    name: hash of the rest and of the corpus.
    signature: the arithmetic of each node (`cells.signature`).
    members: (architecture, seed) of each member.
    size: members that the program holds; those past `members` are padding.
  """

  name: str
  signature: tuple[str, ...]
  members: tuple[tuple[tuple[int, ...], int], ...]
  size: int

  @property
  def seeds(self):
    return tuple(sorted({seed for _, seed in self.members}))


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
    if seed < 0:
      raise ValueError(f'seed {seed} is negative')
    kind = cells.signature(job.space, np.array(arch, np.int8))
    groups.setdefault(kind, set()).add((int(seed), arch))
  shards = []
  for kind, group in sorted(groups.items()):
    # Seeds together: a population of one seed shares its batches.
    ordered = sorted(group)
    limit = max(devices, members_per_shard // devices * devices)
    count = -(-len(ordered) // limit)
    size = -(-len(ordered) // count)
    size = -(-size // devices) * devices
    for start in range(0, len(ordered), size):
      chunk = tuple((a, s) for s, a in ordered[start : start + size])
      shards.append(Shard(_name(job, chunk), kind, chunk, size))
  return shards


def _name(job, members):
  content = {
    'version': TRAINING_VERSION,
    'space': job.space.name,
    'macro': dataclasses.asdict(job.macro),
    'recipe': dataclasses.asdict(job.recipe),
    'corpus': job.corpus_fingerprint,
    'members': members,
  }
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class Prepared(NamedTuple):
  """A corpus on the devices, ready for any shard of a job."""

  mesh: jax.sharding.Mesh
  buckets: tuple
  bucket_u: np.ndarray
  samples_u: np.ndarray
  fold_v: np.ndarray
  refs: dict
  train: population.Data
  evaluation: dict
  eval_plans: dict
  eval_steps: dict


def prepare(corpus, recipe, mesh):
  """Puts a `data.corpus.Corpus` on the devices of `mesh`."""
  splits = {
    'train': corpus.train,
    'validation': corpus.validation,
    'test': corpus.test,
  }
  lengths = {
    name: (
      np.asarray(split.frames_u),
      np.array([len(labels) for labels in split.labels]),
    )
    for name, split in splits.items()
  }
  buckets = batching.make_buckets(
    *lengths['train'],
    recipe,
    longest=int(max(frames.max() for frames, _ in lengths.values())),
    most_labels=int(max(labels.max() for _, labels in lengths.values())),
  )
  held_out = [corpus.validation, corpus.test]
  frames = max(len(split.features) for split in held_out)
  utterances = max(len(split.labels) for split in held_out)
  evaluation, plans = {}, {}
  for name, split in zip(('validation', 'test'), held_out, strict=True):
    evaluation[name] = population.on_all(
      population.device_data(split, buckets, frames, utterances), mesh
    )
    plans[name] = batching.eval_plan(
      batching.assign(*lengths[name], buckets), buckets
    )
  steps = {name: len(p.bucket_s) for name, p in plans.items()}
  most = max(steps.values())
  return Prepared(
    mesh,
    buckets,
    batching.assign(*lengths['train'], buckets),
    np.asarray(corpus.train.samples_u),
    np.asarray(corpus.fold_v),
    {n: splits[n].labels for n in plans},
    population.on_all(population.device_data(corpus.train, buckets), mesh),
    evaluation,
    {n: batching.pad_plan(p, most) for n, p in plans.items()},
    steps,
  )


class Runner:
  """Trains one shard, an epoch at a time. Keeps the state of the loop."""

  def __init__(self, job, shard, prepared):
    self.job, self.shard, self.prepared = job, shard, prepared
    space, recipe, mesh = job.space, job.recipe, prepared.mesh
    # Padding repeats the first member; its results are dropped.
    spare = shard.size - len(shard.members)
    self.members = shard.members + shard.members[:1] * spare
    archs = [np.array(arch, np.int8) for arch, _ in self.members]
    self.network = population.network_of(space, archs[0], job.macro, recipe)
    self.programs = population.programs(
      self.network, recipe, prepared.buckets, mesh
    )
    self.host_gates = cells.stack([cells.gates(space, a) for a in archs])
    self.gates = population.on_members(self.host_gates, mesh)
    rows = [shard.seeds.index(seed) for _, seed in self.members]
    self.row_p = population.on_members(np.array(rows, np.int32), mesh)
    self.steps = len(self._plan(1).bucket_s)

  def initial(self):
    """Returns the state before the first epoch."""
    keys_p = np.stack(
      [
        np.asarray(
          jax.random.key_data(
            population.member_key(seed, self.job.space.key(np.array(arch)))
          )
        )
        for arch, seed in self.members
      ]
    )
    members_p = self.programs.init(keys_p, self.host_gates)
    epochs = self.job.recipe.epochs
    return {
      'members': population.on_members(members_p, self.prepared.mesh),
      'best': population.on_members(
        jax.tree.map(np.array, members_p.params), self.prepared.mesh
      ),
      'curves': {
        name: np.full((self.shard.size, epochs), np.nan) for name in CURVES
      },
      'seconds': np.full(epochs, np.nan),
      'best_epoch': np.zeros(self.shard.size, np.int64),
      'diverged_epoch': np.zeros(self.shard.size, np.int64),
    }

  def _plan(self, number, keep_u=None):
    return batching.train_plan(
      self.prepared.bucket_u,
      self.prepared.buckets,
      self.shard.seeds,
      number,
      keep_u,
    )

  def train_arguments(self, members_p, plan, lr):
    """Returns the arguments of the training program for one pass."""
    padded = batching.pad_plan(plan, self.steps)
    return (
      members_p,
      self.gates,
      self.row_p,
      self.prepared.train,
      population.on_all(padded, self.prepared.mesh),
      jnp.int32(len(plan.bucket_s)),
      jnp.float32(lr),
    )

  def memory(self, state):
    """Returns bytes that the training program needs on one device."""
    arguments = self.train_arguments(
      state['members'], self._plan(1), self.job.recipe.lr
    )
    analysis = self.programs.train.lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.argument_size_in_bytes

  def some_steps(self, members_p, steps):
    """Trains for the first `steps` batches of an epoch, to time them."""
    plan = self._plan(1)
    plan = type(plan)(plan.bucket_s[:steps], plan.index_skb[:steps])
    members_p, _ = self._pass(members_p, plan, self.job.recipe.lr)
    return jax.block_until_ready(members_p)

  def _pass(self, members_p, plan, lr):
    return self.programs.train(*self.train_arguments(members_p, plan, lr))

  def evaluate(self, params_p, split):
    """Returns (loss_p, per_p) of a split, as NumPy."""
    prepared = self.prepared
    plan, steps = prepared.eval_plans[split], prepared.eval_steps[split]
    loss_ps, labels, lengths = self.programs.evaluate(
      params_p,
      self.gates,
      prepared.evaluation[split],
      population.on_all(plan, prepared.mesh),
      jnp.int32(steps),
    )
    refs = prepared.refs[split]
    loss_p = np.asarray(loss_ps, np.float64)[:, :steps].sum(1) / len(refs)
    hyps = population.labels_of(labels, lengths, plan)
    return loss_p, error_rates.population_per(*hyps, refs, prepared.fold_v)

  def epoch(self, state, epoch):
    """Runs a counted epoch (1-based) and returns the state after it."""
    started = time.perf_counter()
    recipe = self.job.recipe
    members_p = state['members']
    if epoch == 1:
      for i, limit in enumerate(recipe.curriculum):
        keep_u = self.prepared.samples_u < limit
        if keep_u.any():
          plan = self._plan(_CURRICULUM_PASS + i, keep_u)
          members_p, _ = self._pass(members_p, plan, recipe.lr)
    members_p, loss_p = self._pass(
      members_p, self._plan(epoch), recipe.learning_rate(epoch)
    )
    val_loss_p, val_per_p = self.evaluate(members_p.params, 'validation')
    alive_p = np.asarray(members_p.alive)
    found = dict(
      zip(CURVES, (np.asarray(loss_p), val_loss_p, val_per_p), strict=True)
    )
    curves = {name: values.copy() for name, values in state['curves'].items()}
    for name, values in found.items():
      curves[name][:, epoch - 1] = np.where(alive_p, values, np.nan)
    diverged = state['diverged_epoch'].copy()
    diverged[~alive_p & (diverged == 0)] = epoch
    # Among equals the latest epoch is kept, as the released code does.
    earlier = curves['val_per'][:, : epoch - 1]
    lowest_p = np.nanmin(earlier, 1, initial=np.inf)
    better_p = alive_p & (val_per_p <= lowest_p)
    best = self.programs.keep_best(
      population.on_members(better_p, self.prepared.mesh),
      members_p.params,
      state['best'],
    )
    jax.block_until_ready(best)
    seconds = state['seconds'].copy()
    seconds[epoch - 1] = time.perf_counter() - started
    return {
      'members': members_p,
      'best': best,
      'curves': curves,
      'seconds': seconds,
      'best_epoch': np.where(better_p, epoch, state['best_epoch']),
      'diverged_epoch': diverged,
    }


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
  host = jax.tree.map(np.asarray, state)
  host = manager.restore(epoch, args=ocp.args.StandardRestore(host))
  for part in ('members', 'best'):
    host[part] = population.on_members(host[part], runner.prepared.mesh)
  return epoch, host


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
    for epoch in range(1, job.recipe.epochs + 1):
      if epoch > done:
        state = runner.epoch(state, epoch)
        # A copy: the next epoch's program writes into the devices' buffers
        # while the checkpoint is still on its way to the disk.
        host = jax.tree.map(np.array, state)
        manager.save(epoch, args=ocp.args.StandardSave(host))
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
    'recipe_json': json.dumps(dataclasses.asdict(job.recipe), sort_keys=True),
    'macro': job.macro.name,
    'corpus': job.corpus_name,
    'corpus_fingerprint': job.corpus_fingerprint,
    'epochs': epochs,
    'learning_rate': rates,
    'epoch_seconds': state['seconds'] / len(shard.members),
    'seconds': share,
    'versions': json.dumps(versions(), sort_keys=True),
    'commit': commit(),
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


def versions():
  """Returns what else a result depends on: versions and device."""
  import flax

  device = jax.devices()[0]
  return {
    'nasjax': nasjax.__version__,
    'jax': jax.__version__,
    'flax': flax.__version__,
    'python': platform.python_version(),
    'device': f'{len(jax.devices())} x {device.device_kind}',
  }


def commit():
  """Returns the commit of the code, marked if the tree differs from it."""
  here = pathlib.Path(__file__).parent
  command = ['git', '-C', str(here), 'describe', '--always', '--dirty']
  try:
    return subprocess.run(
      [*command, '--abbrev=40', '--exclude=*'],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
