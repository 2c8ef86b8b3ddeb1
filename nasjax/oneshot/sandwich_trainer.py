"""A supernet in training, an epoch at a time; what its networks are worth."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from nasjax.data import batching
from nasjax.decoding import error_rates, metrics
from nasjax.losses import criterion
from nasjax.models import common, families
from nasjax.oneshot import rounding, sandwich_steps, selection
from nasjax.programs import keeping
from nasjax.training import fitting, population, recipes

_SCALARS = (
  'train_loss', 'smallest_loss', 'drawn_loss', 'apart', 'val_loss', 'val_error',
  'smallest_val_loss', 'smallest_val_error', 'lr', 'weight', 'seconds', 'steps',
)  # fmt: skip
# Batches that a network's statistics are of.
_HEARD = 8


# A program of a small supernet holds a gigabyte of the host's memory: those of
# the last training are kept, for its other seeds.
@keeping.kept(2)
def _train(training, buckets, late):
  # The seed is not in the program: all seeds of a training share it.
  return jax.jit(
    sandwich_steps.make_pass(training, buckets, late), donate_argnums=(0,)
  )


@keeping.kept(4)
def _evaluate(network, recipe, buckets):
  # Ways to train the same network share it.
  return jax.jit(population.make_eval_pass(network, recipe, buckets))


@keeping.kept(2)
def _statistics(training, buckets):
  return jax.jit(sandwich_steps.make_statistics(training, buckets))


class SupernetTrainer:
  """Trains a supernet, an epoch at a time; `loop.run` takes it as it is.

  Attributes:
    training: `Training`.
    prepared: of `trainer.device_corpus`.
    state: `State`; None before `begin` or `resume`.
    epochs_done: how many.
  """

  def __init__(self, training, prepared):
    self.training, self.prepared = training, prepared
    recipe = training.recipe
    if prepared.train.count > 1:
      raise ValueError(
        'supernets want the training split whole on the devices; leave out '
        '--device_features_gb'
      )
    self.state, self.epochs_done = None, 0
    self.criterion = criterion.of(recipe)
    self.constants = prepared.constants_of(recipe.loss)
    same = dataclasses.replace(training, seed=0)
    buckets = prepared.train_buckets
    self._train_early = _train(same, buckets, False)
    self._train_late = _train(same, buckets, True)
    self._evaluate = _evaluate(training.network(), recipe, prepared.buckets)
    self._statistics = None
    if families.family(training.space).statistics:
      self._statistics = _statistics(same, buckets)
    self.steps = len(self._plan(1).bucket_s)
    self.elastic = training.elastic
    copies = 4 + (2 if training.options.late else 0)
    fitting.check(
      training.macro,
      recipe,
      prepared.buckets,
      prepared.mesh,
      jax.eval_shape(self._initial_params),
      copies,
    )

  # The state, as the loop has it.

  def _initial_params(self):
    training = self.training
    gates = self.elastic.gates(training.space, training.largest)
    key = jax.random.fold_in(jax.random.key(training.seed), 0)
    return common.initial_params(training.network(), key, gates)

  def _initial(self):
    training = self.training
    recipe, options = training.recipe, training.options
    params = jax.jit(self._initial_params)()
    early, _ = sandwich_steps.optimiser(training, False, recipe.lr)
    late = ()
    if options.late:
      late = sandwich_steps.optimiser(training, True, options.late_lr)[0].init(
        params
      )
    key = jax.random.fold_in(jax.random.key(training.seed), 1)
    history = {name: np.full(recipe.epochs, np.nan) for name in _SCALARS}
    if options.others:
      shape = (recipe.epochs, *self.archs(1).shape)
      history['archs'] = np.full(shape, -1, np.int8)
    if options.selects:
      first = selection.initial(options.selection, len(training.parts))
      history['scores'] = np.full((recipe.epochs, *first.shape), np.nan)
    return sandwich_steps.State(
      params,
      early.init(params),
      late,
      jnp.zeros((), jnp.int32),
      jnp.ones((), bool),
      jax.random.key_data(key),
      history,
    )

  def target(self):
    return jax.tree.map(np.asarray, self._initial())

  def begin(self):
    self.resume(self.target())

  def resume(self, host):
    """Goes on from a state that `host` once gave."""
    self.state = self._on_device(host._replace(history={}))._replace(
      history=host.history
    )
    done_e = ~np.isnan(host.history['steps'])
    self.epochs_done = int(done_e.sum())

  def host(self):
    """Returns the state as a copy on the host."""
    return jax.tree.map(np.array, self.state)

  def over(self, host, epoch):
    """Tells whether training ended before an epoch: only where it diverged."""
    del epoch
    return not bool(host.alive)

  def _on_device(self, tree):
    return population.on_all(tree, self.prepared.mesh)

  # Training.

  def _plan(self, epoch):
    prepared = self.prepared
    return batching.train_plan(
      prepared.bucket_u, prepared.buckets, (self.training.seed,), epoch
    )

  def archs(self, epoch):
    """Returns the students of each step of an epoch, int8 [steps, n, d].

    Or its path.
    """
    training = self.training
    count = training.options.others
    shape = (self.steps, count, len(training.space.fields))
    if not count:
      return np.zeros(shape, np.int8)
    if training.options.selects:
      return np.broadcast_to(self._selected(epoch), shape)
    rng = np.random.default_rng([training.seed, epoch])
    drawn = training.drawn(rng, self.steps * count).reshape(shape)
    if not training.options.paths:
      drawn[:, 0] = training.smallest
    return drawn

  def scores(self, epoch=None):
    """Returns the scores of parts before an epoch; the latest if not given."""
    epoch = self.epochs_done + 1 if epoch is None else epoch
    if epoch == 1:
      return selection.initial(
        self.training.options.selection, len(self.training.parts)
      )
    return self.state.history['scores'][epoch - 2]

  def _selected(self, epoch):
    """Returns the students of an epoch that scores choose, int8 [n, d]."""
    training, scores = self.training, self.scores(epoch)
    least, most = map(training.params, (training.smallest, training.largest))
    count = training.options.students
    middle = [
      training.selected(scores, least + (most - least) * n // count)
      for n in range(1, count)
    ]
    return np.stack([training.smallest, *middle])

  def _gates(self, archs):
    """Returns the gates of architectures [.., d], stacked likewise."""
    space, shape = self.training.space, archs.shape[:-1]
    archs_nd = archs.reshape(-1, archs.shape[-1])
    if not len(archs_nd):
      one = self.elastic.gates(space, self.training.largest)
      return jax.tree.map(
        lambda leaf: np.zeros(
          (*shape, *np.shape(leaf)), np.asarray(leaf).dtype
        ),
        one,
      )
    gates_n = [self.elastic.gates(space, arch) for arch in archs_nd]
    return jax.tree.map(
      lambda *leaves: np.stack(leaves).reshape(*shape, *np.shape(leaves[0])),
      *gates_n,
    )

  def phase(self, epoch):
    """Returns learning rate, weight and whether ScaledAdam trains an epoch."""
    recipe, options = self.training.recipe, self.training.options
    first = options.epochs(recipe.epochs)
    rate = recipes.schedule(recipe)
    if epoch <= first:
      return rate(epoch - 1), options.weight, False
    fallen = rate(epoch - 1) / rate(first)
    return options.late_lr * fallen, options.late_weight, True

  def epoch(self, epoch=None, since=None, pause=None):
    """Trains an epoch, counted from 1; the next one if not told which."""
    del since, pause  # It is left at its end alone.
    started = time.perf_counter()
    epoch = self.epochs_done + 1 if epoch is None else epoch
    lr, weight, late = self.phase(epoch)
    archs = self.archs(epoch)
    history = {name: v.copy() for name, v in self.state.history.items()}
    run = self._train_late if late else self._train_early
    state, log = run(
      self.state._replace(history={}),
      self.prepared.train.example(),
      *self._on_device((
        self._plan(epoch),
        self._gates(archs),
        np.float32(lr),
        np.float32(weight),
      )),
      self.constants,
    )  # fmt: skip
    self.state = state._replace(history=history)
    self.epochs_done = epoch
    loss_sn, apart_sn = np.asarray(log.loss_n), np.asarray(log.apart_n)
    values = {
      'train_loss': float(np.mean(log.loss)),
      'smallest_loss': _mean(loss_sn[:, :1]),
      'drawn_loss': _mean(loss_sn[:, 1:]),
      'apart': _mean(apart_sn),
      'lr': lr,
      'weight': weight,
      'steps': float(state.step),
    }
    if self.training.options.others:
      values['archs'] = archs
    if self.training.options.selects:
      values['scores'] = self._moved(epoch, archs[0], np.asarray(log.pull_nu))
    ends = np.stack([self.training.largest, self.training.smallest])
    losses, errors = self._scores(ends, 'validation')
    for n, which in enumerate(('', 'smallest_')):
      values[f'{which}val_loss'] = losses[n]
      values[f'{which}val_error'] = errors[n]
    values['seconds'] = time.perf_counter() - started
    for name, value in values.items():
      history[name][epoch - 1] = value

  def _moved(self, epoch, students, pull_snu):
    training = self.training
    kept_nu = [
      selection.kept(training.space, arch, training.parts)
      for arch in (training.largest, *students)
    ]
    return selection.moved(
      training.options.selection,
      self.scores(epoch),
      pull_snu.mean(0),
      np.stack(kept_nu),
      training.options.selection_rate,
    )

  # What the networks are worth.

  def evaluate(self, archs, split='validation', int8=False, metric=None):
    """Returns the error rate of networks of the shared weights.

    All run in one program, which is compiled once.

    Args:
      archs: architectures, [n, d] or a list in any form that the space reads.
      split: 'validation' or 'test'.
      int8: whether their weights are rounded (`rounding.fake_quantised`), each
        network's by its own scales.
      metric: name of the error rate, a key of `metrics.METRICS`; None for what
        decides.

    Returns:
      error_n, float64.
    """
    return self._scores(archs, split, int8, metric)[1]

  def _scores(self, archs, split, int8=False, metric=None):
    prepared = self.prepared
    if split not in prepared.eval_plans:
      raise ValueError(
        f'split is {split!r}; it must be one of {tuple(prepared.eval_plans)}'
      )
    plan, steps = prepared.eval_plans[split], prepared.eval_steps[split]
    refs, fold_v = prepared.refs[split], prepared.units.fold_v
    params = self.state.params
    host = jax.device_get(self.state.params) if int8 else None
    rounded = rounding.fake_quantised(host) if int8 else None
    shared = (
      prepared.evaluation[split],
      *self._on_device((plan, np.int32(steps))),
    )
    found = []
    for arch in self.training.space.parse_all(archs):
      gates = self._gates(arch[None])
      if int8:
        own = rounding.fake_quantised(self.extract(arch, host))
        params = self._on_device(rounding.planted(rounded, own))
      loss_ps, count_ps, *hyps = self._evaluate(
        jax.tree.map(lambda leaf: leaf[None], self._with_own(params, arch)),
        *(self._on_device(gates), *shared, self.constants),
      )
      hyps = population.labels_of(*hyps, plan)
      if metric is None:
        error = self.criterion.score(*hyps, refs, fold_v)[0]
      else:
        said = error_rates.unpad(*(one_p[0] for one_p in hyps))
        error = metrics.METRICS[metric](said, refs, prepared.units).rate
      loss_p = population.mean_losses(loss_ps, count_ps, steps)
      found.append((loss_p[0], error))
    return np.array(found, np.float64).reshape(-1, 2).T

  def _with_own(self, params, arch):
    """Returns the shared weights with the statistics of one of its networks."""
    if self._statistics is None:
      return params
    return families.replaced(params, self._heard(params, arch))

  def _heard(self, params, arch):
    plan = jax.tree.map(lambda leaf: leaf[:_HEARD], self._plan(1))
    gates = self.elastic.gates(self.training.space, arch)
    gates, plan = self._on_device((gates, plan))
    return self._statistics(params, gates, self.prepared.train.example(), plan)

  def statistics(self, arch):
    """Returns what an architecture normalises batches by.

    Args:
      arch: int8.

    Returns:
      tree of NumPy arrays, some of those of the largest network's parameters
      (`families.replaced`); None where networks have no statistics.
    """
    if self._statistics is None:
      return None
    return jax.device_get(self._heard(self.state.params, arch))

  def programs_compiled(self):
    """Returns how many programs evaluate networks so far: at most one."""
    return self._evaluate._cache_size()

  def extract(self, arch, params=None):
    """Returns the parameters of `families.single` of an architecture.

    Args:
      arch: in any form that the space reads.
      params: of the largest network, on the host; those of the state, with
        the statistics of this network where there are any, if not given.

    Returns:
      tree of NumPy arrays, views of the largest network's.
    """
    training = self.training
    arch_d = training.space.parse(arch)
    if params is None:
      params = jax.device_get(self._with_own(self.state.params, arch_d))
    return self.elastic.extract(training.space, arch_d, training.macro, params)


def _mean(values):
  return float(np.mean(values)) if values.size else np.nan
