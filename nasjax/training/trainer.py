"""Training of one population, an epoch at a time, and all that it reads."""

import functools
import time
from typing import NamedTuple

import jax
import numpy as np

from nasjax.data import batching
from nasjax.decoding import error_rates, metrics
from nasjax.losses import criterion
from nasjax.models import families
from nasjax.programs import costs as program_costs
from nasjax.programs import keeping
from nasjax.training import fitting, optimisers, population
from nasjax.training import pieces as pieces_lib
from nasjax.training import step as step_lib

# Numbers the curriculum's passes, apart from those of counted epochs; and the
# pieces of a pass, if there are several.
_CURRICULUM_PASS, _PIECE = 1_000_000, 10_000_000
CURVES = ('train_loss', 'val_loss', 'val_per')


class DeviceCorpus(NamedTuple):
  """A corpus on the devices, ready for any shard of a job.

  `constants` are those of the recipe's loss (`criterion.Criterion`). The last
  bucket may be of other splits alone. `fitted`, `classes` and `pieces` are
  those of the `data.corpus.Corpus`.
  """

  mesh: jax.sharding.Mesh
  buckets: tuple
  bucket_u: np.ndarray
  samples_u: np.ndarray
  units: metrics.Units
  refs: dict
  train: pieces_lib.Whole | pieces_lib.Pieces
  evaluation: dict
  eval_plans: dict
  eval_steps: dict
  loss: str
  constants: object = None
  fitted: object = None
  classes: tuple = ()
  pieces: bytes | None = None

  @property
  def train_buckets(self):
    """The buckets that utterances of training are in."""
    return self.buckets[: 1 + int(self.bucket_u.max())]

  def constants_of(self, loss):
    """Returns the constants of a loss, None if others are prepared.

    A search may have another loss than the networks that it finds.
    """
    return self.constants if loss == self.loss else None


def device_corpus(corpus, recipe, mesh, budget=None):
  """Puts a `data.corpus.Corpus` on the devices of `mesh`.

  Args:
    corpus: the corpus.
    recipe: `Recipe`.
    mesh: of `population.member_mesh`.
    budget: bytes of training features on each device; None for all of them.

  Raises:
    ValueError: the recipe's loss is unknown, or the budget too small.
  """
  constants = criterion.of(recipe).constants(corpus, recipe)
  splits = {
    'train': corpus.train,
    'validation': corpus.validation,
    'test': corpus.test,
  }
  lengths = {name: batching.lengths(split) for name, split in splits.items()}
  buckets = batching.make_buckets([*lengths.values()], recipe)
  held_out = [corpus.validation, corpus.test]
  frames = max(len(split.features) for split in held_out)
  utterances = max(len(split.labels) for split in held_out)
  dtype = population.features_dtype(recipe, mesh.devices.flat[0].platform)
  evaluation, plans = {}, {}
  for name, split in zip(('validation', 'test'), held_out, strict=True):
    evaluation[name] = population.on_all(
      population.device_data(split, buckets, frames, utterances, dtype), mesh
    )
    plans[name] = batching.eval_plan(
      batching.assign(*lengths[name], buckets), buckets
    )
  steps = {name: len(p.bucket_s) for name, p in plans.items()}
  most = max(steps.values())
  return DeviceCorpus(
    mesh,
    buckets,
    batching.assign(*lengths['train'], buckets),
    np.asarray(corpus.train.samples_u),
    metrics.Units(tuple(corpus.symbols), np.asarray(corpus.fold_v)),
    {n: splits[n].labels for n in plans},
    pieces_lib.of(corpus.train, buckets, mesh, dtype, budget),
    evaluation,
    {n: batching.pad_plan(p, most) for n, p in plans.items()},
    steps,
    recipe.loss,
    population.on_all(constants, mesh),
    corpus.fitted,
    tuple(corpus.classes),
    corpus.pieces,
  )


class State(NamedTuple):
  """A population in training. All but the first two stand on the host.

  Attributes:
    members: `Member`, the leading axis of each array being members.
    best: params of each member's best epoch.
    curves: float64 [member, epoch] by name of `CURVES`, NaN where nothing is.
    seconds: of each epoch, for all members together.
    best_epoch: of each member, 0 for none yet.
    diverged_epoch: of each member, 0 for none.
  """

  members: step_lib.Member | None
  best: dict | None
  curves: dict
  seconds: np.ndarray
  best_epoch: np.ndarray
  diverged_epoch: np.ndarray


class Point(NamedTuple):
  """A place within an epoch, where training can go on.

  Attributes:
    visits: pieces of the training split that are done.
    steps: their batches.
    loss_p: sum over these of each member's training loss.
    seconds: that it took.
  """

  visits: int
  steps: int
  loss_p: np.ndarray
  seconds: float


def begun(members, epochs, networks_p=None, best=None):
  """Returns the `State` of so many members before the first epoch."""
  return State(
    networks_p,
    best,
    {name: np.full((members, epochs), np.nan) for name in CURVES},
    np.full(epochs, np.nan),
    np.zeros(members, np.int64),
    np.zeros(members, np.int64),
  )


def recipes_of(job, shard):
  """Returns the recipe of each member of a shard, a tuple.

  All train by one program: they differ in their learning rates at most.
  """
  return shard.recipes or (job.recipe,) * len(shard.members)


def learning_rates(recipes_p, state, epochs):
  """Returns lr_pe of counted epochs, those before the last being over.

  It follows from the validation losses alone, so that a state that comes back
  from a checkpoint goes on as it would have.

  Args:
    recipes_p: the `Recipe` of each member.
    state: `State`.
    epochs: how many.

  Returns:
    float64 [members, epochs]; with a plateau 0 from where a member has stopped
    or diverged.
  """
  loss_pe = state.curves['val_loss'][:, : epochs - 1]
  return np.array(
    [
      recipe.learning_rates(loss_e)
      for recipe, loss_e in zip(recipes_p, loss_pe, strict=True)
    ]
  )


def by_member(function, state):
  """Maps every array of a `State` whose leading axis is members."""
  return jax.tree.map(function, state._replace(seconds=()))._replace(
    seconds=state.seconds
  )


def padded(members, mesh):
  """Returns how many members a program holds that is to hold so many.

  Every device of the member axis has equally many.
  """
  devices = mesh.shape['member']
  return -(-members // devices) * devices


# Who sizes shards and who plans asks for the same programs, and a large one
# takes minutes.
@keeping.kept(4)
def _compiled(train, tree, kinds):
  return train.lower(*jax.tree.unflatten(tree, kinds)).compile()


class Trainer:
  """Trains one shard, an epoch at a time. Keeps the state of the loop.

  Attributes:
    size: members that the program holds; those past the shard's are padding.
    emitted_p: labels that each member emitted when it was last evaluated, for
      each label of the references; NaN before.
    waited: seconds for which the devices have waited for a piece of the
      training split.
  """

  def __init__(self, job, shard, prepared, checkpoint=True):
    """
    Args:
      job: `running.Job`.
      shard: `running.Shard`.
      prepared: of `prepare`.
      checkpoint: as in `families.network`; changes no result.
    """
    self.job, self.shard, self.prepared = job, shard, prepared
    space, recipe, mesh = job.space, job.recipe, prepared.mesh
    # Padding repeats the first member; its results are dropped.
    self.size = padded(shard.size, mesh)
    spare = self.size - len(shard.members)
    self.members = shard.members + shard.members[:1] * spare
    own = recipes_of(job, shard)
    self.recipes_p = own + own[:1] * spare
    self.emitted_p = np.full(self.size, np.nan)
    self.criterion = criterion.of(recipe)
    archs = [np.array(arch, np.int8) for arch, _ in self.members]
    self.network = families.network(
      space,
      archs[0],
      job.macro,
      recipe,
      mesh.devices.flat[0].platform,
      checkpoint,
    )
    self.form = families.form(self.network)
    self.host_gates = families.stack([families.gates(space, a) for a in archs])
    self.programs = population.programs(
      self.network,
      recipe,
      prepared.buckets,
      mesh,
      train_buckets=prepared.train_buckets,
    )
    if self.criterion.working_bytes is not None:
      shapes = self.shapes().params
      fitting.check(job.macro, recipe, prepared.buckets, mesh, shapes)
    self.gates = population.on_members(self.host_gates, mesh)
    rows = [shard.streams.index(seed) for _, seed in self.members]
    self.row_p = population.on_members(np.array(rows, np.int32), mesh)
    pieces = range(prepared.train.count)
    self.steps = max(len(self.plan(1, piece=k).bucket_s) for k in pieces)
    self.waited = 0.0

  def initial(self):
    """Returns the state before the first epoch."""
    members_p = self.programs.init(self._keys(), self.host_gates)
    if self.job.initial is not None:
      members_p = self._begun_with(self.job.initial, members_p)
    best = jax.tree.map(np.array, members_p.params)
    return begun(
      self.size,
      self.job.recipe.epochs,
      population.on_members(members_p, self.prepared.mesh),
      population.on_members(best, self.prepared.mesh),
    )

  def _begun_with(self, initial, members_p):
    """Returns new members with the weights of an `initial.Initial`."""
    params_p = jax.tree.map(np.array, members_p.params)
    params_p = self.form.unpack(params_p, lead=1)
    initial.fill(params_p, self.members)
    params_p = self.form.pack(params_p, lead=1)
    pair = optimisers.of(self.job.recipe, self.network.kernels)
    return members_p._replace(
      params=params_p, opt_state=jax.vmap(pair.init)(params_p)
    )

  def _keys(self):
    keys = [
      population.member_key(seed, self.job.space.key(np.array(arch)))
      for arch, seed in self.members
    ]
    return np.stack([np.asarray(jax.random.key_data(key)) for key in keys])

  def shapes(self):
    """Returns the `Member` of the population as shapes; nothing is computed."""
    keys_p = jax.ShapeDtypeStruct((self.size, 2), np.uint32)
    return jax.eval_shape(self.programs.init, keys_p, self.host_gates)

  def host_shapes(self):
    """Returns the `Member` of the population as `unload` has it, as shapes."""
    unpack = functools.partial(self.form.unpack, lead=1)
    return jax.eval_shape(
      lambda members_p: step_lib.reordered(members_p, unpack), self.shapes()
    )

  def load(self, host):
    """Returns a state from what `unload` made of it, padded again."""
    real = len(self.shard.members)

    def pad(leaf_p):
      spare = np.repeat(leaf_p[:1], self.size - real, 0)
      return np.concatenate([leaf_p, spare])

    state = self._reordered(by_member(pad, host), self.form.pack)
    members, best = population.on_members(
      (state.members, state.best), self.prepared.mesh
    )
    return state._replace(members=members, best=best)

  def unload(self, state):
    """Copies the states of real members to the host.

    What is saved must not depend on the padding, which follows the number of
    devices, nor on the order of parameters there; and it must be a copy, for
    the next epoch's program writes into the devices' buffers while the
    checkpoint is still on its way to the disk.
    """
    real = len(self.shard.members)
    copied = by_member(lambda leaf_p: np.array(leaf_p)[:real], state)
    return self._reordered(copied, self.form.unpack)

  def _reordered(self, state, function):
    """Takes parameters on the host to the form of the devices, or back."""
    function = functools.partial(function, lead=1)
    return state._replace(
      members=step_lib.reordered(state.members, function),
      best=function(state.best),
    )

  def plan(self, number, keep_u=None, piece=0):
    """Returns the `batching.Plan` of a pass over a piece of the split."""
    bucket_u = self.prepared.bucket_u
    only_n = self.prepared.train.utterances(piece)
    if only_n is not None:
      bucket_u = bucket_u[only_n]
      keep_u = None if keep_u is None else keep_u[only_n]
      number += _PIECE * (1 + int(piece))
    return batching.train_plan(
      bucket_u, self.prepared.buckets, self.shard.streams, number, keep_u
    )

  def plans(self, number, keep_u=None):
    """Returns the plans of a pass, one of each piece, in their order."""
    order = self.prepared.train.order(number)
    return [self.plan(number, keep_u, piece) for piece in order]

  @property
  def curriculum(self):
    """The plans of all passes before the first epoch."""
    return [p for one in self._curriculum() for p in self.plans(*one)]

  def _curriculum(self):
    """Yields number and utterances of the passes before the first epoch."""
    for i, limit in enumerate(self.job.recipe.curriculum):
      keep_u = self.prepared.samples_u < limit
      if keep_u.any():
        yield _CURRICULUM_PASS + i, keep_u

  def visits(self, number, keep_u=None, since=0):
    """Yields (`Plan`, `Data`) of the pieces of a pass, but the first `since`.

    Whoever takes them has to be done with one before asking for the next.
    """
    train = self.prepared.train
    order = train.order(number)[since:]
    visits = train.visit(order)
    for piece in order:
      started = time.perf_counter()
      data = next(visits)
      self.waited += time.perf_counter() - started
      yield self.plan(number, keep_u, piece), data
      del data

  def train_arguments(self, members_p, plan, lr, data=None):
    """Returns the arguments of the training program for one pass.

    Args:
      members_p: `Member` of the population.
      plan: of `plan`.
      lr: learning rate, one for all members or one for each.
      data: `Data` of the piece that the plan is of; the first if not given.
    """
    # All of it is put there now: a pass moves nothing between host and device.
    prepared = self.prepared
    rows = population.on_rows(
      batching.pad_plan(plan, self.steps), prepared.buckets, prepared.mesh
    )
    lr_p = np.full(self.size, lr, np.float32)
    return (
      members_p,
      self.gates,
      self.row_p,
      population.on_members(lr_p, prepared.mesh),
      prepared.train.example() if data is None else data,
      rows,
      population.on_all(np.int32(len(plan.bucket_s)), prepared.mesh),
      prepared.constants,
    )

  def compiled(self):
    """Returns the training program as it will run, before there is a state."""
    leaves, tree = jax.tree.flatten(self._shapes_of_arguments())
    kinds = tuple(
      jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
      for leaf in leaves
    )
    return _compiled(self.programs.train, tree, kinds)

  def flops(self):
    """Returns FLOPs of a training step on each device.

    Of the products, in the largest bucket; those of taps that no member of a
    shard uses do not count (`families.spared_flops`).
    """
    total = program_costs.flops(
      self.programs.train, *self._shapes_of_arguments()
    )
    mesh = self.prepared.mesh
    bucket = batching.largest(self.prepared.train_buckets)
    spared = sum(
      families.spared_flops(
        self.network,
        self.job.space,
        np.array(arch, np.int8),
        bucket.frames,
        -(-bucket.batch // mesh.shape['data']),
      )
      for arch, _ in self.members
    )
    return total - spared / mesh.shape['member']

  def _shapes_of_arguments(self):
    """The arguments of a pass, the members' states as shapes."""
    sharding = population.member_sharding(self.prepared.mesh)

    def spread(leaf):
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    members_p = jax.tree.map(spread, self.shapes())
    return self.train_arguments(members_p, self.plan(1), self.job.recipe.lr)

  def some_steps(self, members_p, steps):
    """Trains for the first `steps` batches of an epoch, to time them."""
    plan = self.plan(1)
    plan = type(plan)(plan.bucket_s[:steps], plan.index_skb[:steps])
    members_p, _ = self._pass(members_p, plan, self.job.recipe.lr)
    return jax.block_until_ready(members_p)

  def _pass(self, members_p, plan, lr, data=None):
    return self.programs.train(*self.train_arguments(members_p, plan, lr, data))

  def _decode(self, params_p, split):
    """Returns loss_p and the decoded labels of a split, as NumPy."""
    prepared = self.prepared
    plan, steps = prepared.eval_plans[split], prepared.eval_steps[split]
    loss_ps, count_ps, labels, lengths = self.programs.evaluate(
      params_p,
      self.gates,
      prepared.evaluation[split],
      population.on_rows(plan, prepared.buckets, prepared.mesh),
      population.on_all(np.int32(steps), prepared.mesh),
      prepared.constants,
    )
    hyps = population.labels_of(
      labels,
      lengths,
      batching.spread(plan, prepared.buckets, prepared.mesh.shape['data']),
    )
    return population.mean_losses(loss_ps, count_ps, steps), hyps

  def evaluate(self, params_p, split):
    """Returns (loss_p, per_p) of a split, as NumPy."""
    loss_p, hyps = self._decode(params_p, split)
    refs = self.prepared.refs[split]
    self.emitted_p = hyps[1].sum(1) / max(sum(map(len, refs)), 1)
    return loss_p, self.criterion.score(*hyps, refs, self.prepared.units.fold_v)

  def test(self, params_p):
    """Returns what networks are worth on the test split.

    That is loss_p, per_p, the errors by kind, edits_pk as
    `error_rates.population_edits` has them, and a dict of rate_p, the other
    error rates by name.
    """
    loss_p, hyps = self._decode(params_p, 'test')
    refs, units = self.prepared.refs['test'], self.prepared.units
    edits_pk, _ = error_rates.population_edits(*hyps, refs, units.fold_v)
    per_p = self.criterion.score(*hyps, refs, units.fold_v)
    rates = {
      name: np.array(
        [
          metrics.METRICS[name](error_rates.unpad(*one), refs, units).rate
          for one in zip(*hyps, strict=True)
        ]
      )
      for name in metrics.beside(self.job.metric.lower(), units)
    }
    return loss_p, per_p, edits_pk, rates

  def epoch(self, state, epoch, since=None, pause=None):
    """Runs a counted epoch (1-based) and returns the state after it.

    A member that has stopped stays as it is: curves hold NaN, as nothing was
    trained. Its best weights are those of its lowest validation PER, past the
    recipe's minimum of epochs.

    Args:
      state: before the epoch, or within it.
      epoch: its number.
      since: `Point` that the state is at; None for the beginning.
      pause: called with a state and its `Point` after each piece of the
        training split but the last.
    """
    started = time.perf_counter()
    recipe = self.job.recipe
    members_p = state.members
    if epoch == 1 and since is None:
      first_p = [own.lr for own in self.recipes_p]
      for number, keep_u in self._curriculum():
        for plan, data in self.visits(number, keep_u):
          members_p, _ = self._pass(members_p, plan, first_p, data)
          jax.block_until_ready(members_p)
    lr_p = learning_rates(self.recipes_p, state, epoch)[:, -1]
    at = since or Point(0, 0, np.zeros(self.size), 0.0)
    gone, pieces = at.seconds, self.prepared.train.count
    for plan, data in self.visits(epoch, since=at.visits):
      members_p, loss_p = self._pass(members_p, plan, lr_p, data)
      if pieces > 1:
        jax.block_until_ready(members_p)
        steps = len(plan.bucket_s)
        sum_p = at.loss_p + steps * np.asarray(loss_p, np.float64)
        seconds = gone + time.perf_counter() - started
        at = Point(at.visits + 1, at.steps + steps, sum_p, seconds)
        if pause is not None and at.visits < pieces:
          pause(state._replace(members=members_p), at)
    if pieces > 1:
      loss_p = at.loss_p / max(at.steps, 1)
    val_loss_p, val_per_p = self.evaluate(members_p.params, 'validation')
    # The last step of an epoch may break what no further step would notice.
    alive_p = (
      np.asarray(members_p.alive)
      & np.isfinite(val_loss_p)
      & (state.diverged_epoch == 0)
    )
    trained_p = alive_p & (lr_p > 0)
    found = dict(
      zip(CURVES, (np.asarray(loss_p), val_loss_p, val_per_p), strict=True)
    )
    curves = {name: values.copy() for name, values in state.curves.items()}
    for name, values in found.items():
      curves[name][:, epoch - 1] = np.where(trained_p, values, np.nan)
    diverged = state.diverged_epoch.copy()
    diverged[~alive_p & (diverged == 0)] = epoch
    # Among equals the latest epoch is kept, as the released code does.
    earlier = curves['val_per'][:, recipe.minimum_epochs : epoch - 1]
    lowest_p = np.nanmin(earlier, 1, initial=np.inf)
    better_p = trained_p & (val_per_p <= lowest_p)
    better_p &= epoch > recipe.minimum_epochs
    best = self.programs.keep_best(
      population.on_members(better_p, self.prepared.mesh),
      members_p.params,
      state.best,
    )
    jax.block_until_ready(best)
    seconds = state.seconds.copy()
    seconds[epoch - 1] = gone + time.perf_counter() - started
    best_epoch = np.where(better_p, epoch, state.best_epoch)
    return State(members_p, best, curves, seconds, best_epoch, diverged)
