"""Supernets whose networks are parts of the largest one: TODM's training.

  OUT/supernets/<name>/<epoch>/     orbax: the whole state, of the last epochs
  OUT/supernets/<name>/portable.npz what its networks need to hear and to speak

Shangguan et al. 2023, "TODM: Train Once Deploy Many". In a step (the sandwich
rule: Yu et al. 2020, "BigNAS") the largest network sees the whole batch; the
smallest, and two that are drawn anew, a quarter of it each, no row twice. Their
gradients are summed, and there is one step of the optimiser. The largest may
teach the others in place: what it said in this step of their rows.

Any family with a record `Family.elastic` goes this way, with any criterion that
its networks go with. Killed at any moment, training goes on from its last epoch
and ends with the same weights.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax.data import batching
from nasjax.layers import dropout
from nasjax.losses import criterion
from nasjax.models import common, counting, families
from nasjax.oneshot import steps as steps_lib
from nasjax.storage import checkpoints
from nasjax.training import (
  batches,
  fitting,
  loop,
  optimisers,
  population,
  portable,
  recipes,
)
from nasjax.training.optimisers import one_pass

# Raise when a change of the code changes what is trained.
VERSION = 1
# A student has this share of the rows of a batch.
SHARE = 4
HEADS = ('none', 'ctc', 'own')
_SCALARS = (
  'train_loss', 'smallest_loss', 'drawn_loss', 'apart', 'val_loss', 'val_error',
  'smallest_val_loss', 'smallest_val_error', 'lr', 'weight', 'seconds', 'steps',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
  """What of TODM trains a supernet: `ROWS` are those of the paper's table 1.

  Attributes:
    students: networks beside the largest, the first of them the smallest and
      the others drawn, every choice of a decision equally likely; 0 to 4, 0 for
      the largest alone.
    fixed: names of decisions that stay as the largest has them.
    adaptive_dropout: whether a layer of c of m channels drops c / m as much.
    distil: `criterion.Distillation` of students from the largest, or None.
    weight: of the distillation beside a student's loss (lambda).
    late: share of the epochs, the last ones, that ScaledAdam trains, from a
      fresh state; 0 for none.
    late_weight: `weight` in these.
    late_lr: the learning rate of ScaledAdam in the first of them; it then falls
      as the recipe says for epochs behind `start`.
    decay: of weights towards 0 a step of the first optimiser, times the rate
      (decoupled).
    heads: auxiliary outputs of the largest network behind the layers where a
      smaller one may end: 'ctc', on frames alone; 'own', of the recipe's loss;
      'none'.
    head_weight: of the mean of their losses.
  """

  students: int = 3
  fixed: tuple[str, ...] = ()
  adaptive_dropout: bool = False
  distil: criterion.Distillation | None = None
  weight: float = 1.0
  late: float = 0.0
  late_weight: float = 0.1
  late_lr: float = 0.045
  decay: float = 0.0
  heads: str = 'none'
  head_weight: float = 0.3

  def __post_init__(self):
    checks = {
      'students': 0 <= self.students <= SHARE,
      'weight': self.weight >= 0,
      'late': 0 <= self.late < 1,
      'late_weight': self.late_weight >= 0,
      'late_lr': self.late_lr > 0,
      'decay': self.decay >= 0,
      'heads': self.heads in HEADS,
      'head_weight': self.head_weight >= 0,
    }
    for field, good in checks.items():
      if not good:
        raise ValueError(f'{field}={getattr(self, field)!r} is out of range')
    if self.distil is not None:
      # They say what is wrong with it.
      _ = self.distil.function, self.distil.symbols
      if not self.students:
        raise ValueError('distil is without effect where students=0')

  def epochs(self, total):
    """Returns how many of so many epochs the first optimiser trains."""
    return total - round(self.late * total)


_ADAPTIVE = Options(adaptive_dropout=True)
_KL = dataclasses.replace(_ADAPTIVE, distil=criterion.Distillation('kl'))
_ALPHA = dataclasses.replace(_ADAPTIVE, distil=criterion.Distillation('alpha'))
# Rows of table 1, each what the one above has and one thing more; A1 is
# networks trained alone. A2 and A3 train the largest one, with heads. What is
# called exits are networks that end early (Wang et al. 2025, "Splitformer").
ROWS = {
  'A2': Options(students=0, heads='ctc'),
  'A3': Options(students=0, heads='own'),
  'B0': Options(fixed=('depth',)),
  'B1': Options(),
  'C': _ADAPTIVE,
  'D': _KL,
  'E': _ALPHA,
  'F': dataclasses.replace(_ALPHA, late=1 / 3),
  'exits': Options(students=0, heads='own', head_weight=1.0),
}


def forwards(options):
  """Returns how many forward passes of a whole batch a step takes.

  1 + 3 / 4 for the sandwich of four; in passes of networks, whatever their
  sizes.
  """
  return 1 + options.students / SHARE


def multiply_accumulates(training, frames=200):
  """Returns those of a step's forward passes for each utterance of a batch.

  Args:
    training: `Training`.
    frames: of an utterance.

  Returns:
    float: the largest network's, and a quarter of each student's, those that
    are drawn having the mean of a few hundred.
  """
  space, macro = training.space, training.macro
  count = families.family(space).macs or counting.macs
  macs = functools.partial(count, space, macro=macro, frames=frames)
  total = float(macs(training.largest))
  if training.options.students:
    total += macs(training.smallest) / SHARE
    drawn = training.drawn(np.random.default_rng(0), 300)
    mean = np.mean([macs(arch) for arch in drawn])
    total += (training.options.students - 1) * mean / SHARE
  return total


@dataclasses.dataclass(frozen=True)
class Training:
  """All that determines a supernet's weights, but for the corpus.

  Attributes:
    space: `spaces.Space` of an elastic family.
    macro: its macro network.
    recipe: `Recipe`: epochs, the first optimiser, batches, dropout, loss.
    options: `Options`.
    seed: of weights, draws, dropout and data order.
  """

  space: object
  macro: object
  recipe: recipes.Recipe
  options: Options = Options()
  seed: int = 1234

  def __post_init__(self):
    self.network()  # says what does not go together
    for name in self.options.fixed:
      if name not in self.space.fields:
        raise ValueError(
          f'fixed: {name!r} is no decision of space {self.space.name}; there '
          f'are {", ".join(self.space.fields)}'
        )
    held = criterion.of(self.recipe)
    if self.options.distil is not None and held.distilled is None:
      raise ValueError(
        f'recipe {self.recipe.name}: loss={self.recipe.loss!r} knows of no '
        'distillation; leave distil out'
      )
    if self.options.heads != 'none' and not self.exits:
      raise ValueError(
        f'heads={self.options.heads!r}: networks of space {self.space.name} '
        'end nowhere but behind the last layer'
      )
    if self.recipe.patience or self.recipe.curriculum:
      raise ValueError(
        f'recipe {self.recipe.name}: patience={self.recipe.patience} and '
        f'curriculum={self.recipe.curriculum} are of single networks; a '
        'supernet wants 0 and none'
      )

  @property
  def elastic(self):
    return families.elastic(self.space)

  @property
  def exits(self):
    """Layers where there is a head."""
    if self.options.heads == 'none':
      return ()
    return self.elastic.exits(self.space)

  @property
  def largest(self):
    return self.elastic.largest(self.space)

  @property
  def smallest(self):
    """The smallest architecture that is trained, int8."""
    return self._fixed(self.elastic.smallest(self.space)[None])[0]

  def _fixed(self, archs_nd):
    here = [self.space.fields.index(name) for name in self.options.fixed]
    archs_nd = archs_nd.copy()
    archs_nd[:, here] = self.largest[here]
    return archs_nd

  def drawn(self, rng, count):
    """Draws so many architectures, every choice equally likely; int8 [n, d]."""
    sizes = np.array(self.space.sizes)
    drawn = rng.integers(0, sizes, (count, len(sizes)))
    return self._fixed(drawn.astype(np.int8))

  def network(self):
    """Returns the module that all networks are parts of."""
    exits = ()
    if self.options.heads != 'none':
      exits = self.exits
    return families.elastic_network(
      self.space,
      self.macro,
      self.recipe,
      self.options.adaptive_dropout,
      exits,
    )

  def describe(self):
    """Returns it as plain values, for JSON."""
    options = dataclasses.asdict(self.options)
    if self.options.distil is not None:
      options['distil'] = self.options.distil._asdict()
    return {
      'space': self.space.name,
      'macro': dataclasses.asdict(self.macro),
      'recipe': recipes.describe(self.recipe),
      'options': options,
      'seed': self.seed,
    }

  def name(self, fingerprint):
    """Returns the name of the supernet on a corpus of this fingerprint."""
    content = self.describe() | {'corpus': fingerprint, 'version': VERSION}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class State(NamedTuple):
  """A supernet in training.

  Attributes:
    params: of the largest network.
    opt: of the first optimiser.
    late: of ScaledAdam; () where it does not train.
    step: int32, updates so far.
    alive: bool, False from the first non-finite loss or gradient on; nothing
      changes any more then.
    key: uint32 (2,), the source of dropout.
    history: float64 arrays [epochs] by name, NaN where nothing is yet; and
      `archs`, int8 [epochs, steps, students, decisions], -1 likewise. On the
      host.
  """

  params: dict
  opt: tuple
  late: tuple
  step: jax.Array
  alive: jax.Array
  key: jax.Array
  history: dict


class Log(NamedTuple):
  """What a step tells: the loss of the largest network, those of students, and
  how far each of these is from it (0 where nobody asks)."""

  loss: jax.Array
  loss_n: jax.Array
  apart_n: jax.Array


def make_gradients(training):
  """Returns the summed gradient of a step.

  Returns:
    function of (params, batch, gates_n, key, weight, constants) that returns
    grads and a `Log`: gates_n are those of the students, stacked; `key` is
    that of dropout, or None for none; `weight` that of the distillation.
  """
  recipe, options, exits = training.recipe, training.options, training.exits
  network = training.network()
  held = criterion.of(recipe)
  of_heads = criterion.CRITERIA['ctc'] if options.heads == 'ctc' else held
  whole = training.elastic.whole(training.space)

  def apply(params, batch, gates, key):
    inputs = (batch.x_btf, batch.len_b, gates, key)
    inputs += families.inputs(network, batch)
    if exits and gates is whole:
      return network.apply({'params': params}, *inputs, method='with_exits')
    return network.apply({'params': params}, *inputs), ()

  def loss_of(held, outputs, batch, constants):
    return held.loss(outputs, batch, constants, recipe, network.kernels, None)

  def largest(params, batch, key, constants):
    outputs, inner = apply(params, batch, whole, key)
    loss = total = loss_of(held, outputs, batch, constants)
    for one in inner:
      told = criterion.frames(one) if options.heads == 'ctc' else one
      share = options.head_weight / len(inner)
      total = total + share * loss_of(of_heads, told, batch, constants)
    if recipe.l2:
      total = total + recipe.l2 * families.l2(network, params)
    return total, (loss, lax.stop_gradient(outputs))

  def student(params, batch, gates, key, teacher, rows_b, weight, constants):
    outputs, _ = apply(params, batch, gates, key)
    if options.distil is None:
      loss = loss_of(held, outputs, batch, constants)
      return loss, (loss, jnp.float32(0))
    loss, apart = held.distilled(
      teacher, rows_b, outputs, batch, recipe, options.distil
    )
    return loss + weight * apart, (loss, apart)

  def gradients(params, batch, gates_n, key, weight, constants=None):
    (_, (loss, teacher)), grads = jax.value_and_grad(largest, has_aux=True)(
      params, batch, key, constants
    )
    if not options.students:
      nothing_n = jnp.zeros(0)
      return grads, Log(loss, nothing_n, nothing_n)

    def add(grads, one):
      number, gates = one
      rows_b = rows_of(batch.len_b.shape[0], number)
      part = jax.tree.map(lambda leaf: leaf[rows_b], batch)
      own = None if key is None else key.at[1].add(number + 1)
      (_, found), more = jax.value_and_grad(student, has_aux=True)(
        params, part, gates, own, teacher, rows_b, weight, constants
      )
      return jax.tree.map(jnp.add, grads, more), found

    # In a loop: students are one program, whose branches are their widths.
    numbers_n = jnp.arange(options.students, dtype=jnp.uint32)
    grads, (loss_n, apart_n) = lax.scan(add, grads, (numbers_n, gates_n))
    return grads, Log(loss, loss_n, apart_n)

  return gradients


def rows_of(batch, number):
  """Returns which rows of a batch a student has: each fourth, from its own on.

  So an epoch's last batch, of which the first rows alone are real, is shared
  out, too. Of a batch below four rows some have the same.
  """
  each = max(batch // SHARE, 1)
  return (jnp.uint32(number) + SHARE * jnp.arange(each, dtype=jnp.uint32)) % (
    jnp.uint32(batch)
  )


def _optimiser(training, late, lr):
  recipe, options = training.recipe, training.options
  if late:
    recipe = dataclasses.replace(recipe, optimiser='scaled_adam')
  return optimisers.of(recipe, 'xla', lr), 0.0 if late else options.decay


def make_step(training, late=False):
  """Returns the update of the shared weights.

  Returns:
    function of (state, batch, gates_n, lr, weight, constants) that returns the
    state, its history left out, and a `Log`.
  """
  gradients = make_gradients(training)

  def step(state, batch, gates_n, lr, weight, constants=None):
    key = jax.random.wrap_key_data(state.key, impl='threefry2x32')
    key = dropout.step_key(key, state.step) if training.recipe.dropout else None
    grads, log = gradients(state.params, batch, gates_n, key, weight, constants)
    pair, decay = _optimiser(training, late, lr)
    ok = state.alive & jnp.isfinite(log.loss) & jnp.isfinite(log.loss_n).all()
    params, opt, made = one_pass.step(
      pair, grads, state.late if late else state.opt, state.params, ok
    )
    if decay:
      shrink = jnp.where(made, lr * decay, 0.0)
      params = jax.tree.map(
        lambda new, old: new - shrink * old, params, state.params
      )
    state = state._replace(
      **{'late' if late else 'opt': opt},
      params=params,
      step=state.step + made,
      alive=made,
    )
    return state, log

  return step


def make_pass(training, buckets, late=False):
  """Returns the program of an epoch.

  Returns:
    function of (state, data, plan, gates_sn, lr, weight, constants) that
    returns the state and a `Log` of each step.
  """
  step = make_step(training, late)

  def run_pass(state, data, plan, gates_sn, lr, weight, constants=None):
    def train(bucket, index_b, gates_n, state):
      batch = batches.gather(data, index_b[: bucket.batch], bucket)
      return step(state, batch, gates_n, lr, weight, constants)

    def body(state, one):
      s, gates_n = one
      return steps_lib.over_buckets(
        buckets, plan, s, lambda b, index_b: train(b, index_b, gates_n, state)
      )

    return lax.scan(body, state, (jnp.arange(len(plan.bucket_s)), gates_sn))

  return run_pass


@functools.lru_cache(maxsize=16)
def _train(training, buckets, late):
  # The seed is not in the program: all seeds of a training share it.
  return jax.jit(make_pass(training, buckets, late), donate_argnums=(0,))


@functools.lru_cache(maxsize=16)
def _evaluate(training, buckets):
  network = training.network()
  return jax.jit(population.make_eval_pass(network, training.recipe, buckets))


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
    self._evaluate = _evaluate(same, prepared.buckets)
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
    early, _ = _optimiser(training, False, recipe.lr)
    late = ()
    if options.late:
      late = _optimiser(training, True, options.late_lr)[0].init(params)
    key = jax.random.fold_in(jax.random.key(training.seed), 1)
    history = {name: np.full(recipe.epochs, np.nan) for name in _SCALARS}
    shape = (recipe.epochs, self.steps, options.students)
    decisions = len(training.space.fields)
    history['archs'] = np.full((*shape, decisions), -1, np.int8)
    return State(
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
    """Returns the students of each step of an epoch, int8 [steps, n, d]."""
    training = self.training
    count = training.options.students
    shape = (self.steps, count, len(training.space.fields))
    if not count:
      return np.zeros(shape, np.int8)
    rng = np.random.default_rng([training.seed, epoch])
    drawn = training.drawn(rng, self.steps * count).reshape(shape)
    drawn[:, 0] = training.smallest
    return drawn

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
      'archs': archs,
    }
    ends = np.stack([self.training.largest, self.training.smallest])
    losses, errors = self._scores(ends, 'validation')
    for n, which in enumerate(('', 'smallest_')):
      values[f'{which}val_loss'] = losses[n]
      values[f'{which}val_error'] = errors[n]
    values['seconds'] = time.perf_counter() - started
    for name, value in values.items():
      history[name][epoch - 1] = value

  # What the networks are worth.

  def evaluate(self, archs, split='validation', int8=False):
    """Returns the error rate of networks of the shared weights.

    All run in one program, which is compiled once.

    Args:
      archs: architectures, [n, d] or a list in any form that the space reads.
      split: 'validation' or 'test'.
      int8: whether their weights are rounded as `fake_quantised` rounds them,
        each network's by its own scales.

    Returns:
      error_n, float64, by the metric that decides.
    """
    return self._scores(archs, split, int8)[1]

  def _scores(self, archs, split, int8=False):
    prepared = self.prepared
    if split not in prepared.eval_plans:
      raise ValueError(
        f'split is {split!r}; it must be one of {tuple(prepared.eval_plans)}'
      )
    plan, steps = prepared.eval_plans[split], prepared.eval_steps[split]
    refs, fold_v = prepared.refs[split], prepared.units.fold_v
    params = jax.tree.map(lambda leaf: leaf[None], self.state.params)
    host = jax.device_get(self.state.params) if int8 else None
    rounded = fake_quantised(host) if int8 else None
    shared = (
      prepared.evaluation[split],
      *self._on_device((plan, np.int32(steps))),
    )
    found = []
    for arch in self.training.space.parse_all(archs):
      gates = self._gates(arch[None])
      if int8:
        own = fake_quantised(self.extract(arch, host))
        params = jax.tree.map(
          lambda leaf: leaf[None], self._on_device(planted(rounded, own))
        )
      loss_ps, count_ps, *hyps = self._evaluate(
        params, self._on_device(gates), *shared, self.constants
      )
      hyps = population.labels_of(*hyps, plan)
      error_p = self.criterion.score(*hyps, refs, fold_v)
      loss_p = population.mean_losses(loss_ps, count_ps, steps)
      found.append((loss_p[0], error_p[0]))
    return np.array(found, np.float64).reshape(-1, 2).T

  def programs_compiled(self):
    """Returns how many programs evaluate networks so far: at most one."""
    return self._evaluate._cache_size()

  def extract(self, arch, params=None):
    """Returns the parameters of `families.single` of an architecture.

    Args:
      arch: in any form that the space reads.
      params: of the largest network; those of the state, on the host, if not
        given.

    Returns:
      tree of NumPy arrays, views of the largest network's.
    """
    training = self.training
    params = jax.device_get(self.state.params) if params is None else params
    arch_d = training.space.parse(arch)
    return self.elastic.extract(training.space, arch_d, training.macro, params)


def _mean(values):
  return float(np.mean(values)) if values.size else np.nan


def fake_quantised(params):
  """Rounds products' weights to 8 bits, as integers times a scale.

  One scale for each output channel, the largest weight being 127; biases,
  normalisations and state-space models stay as they are.

  Args:
    params: tree of arrays on the host.
  """

  def rounded(path, leaf):
    name = path[-1].key
    if not name.endswith(('kernel', 'embedding')):
      return leaf
    axis = -1 if name == 'embedding' else -2
    scale = np.abs(leaf).max(axis=axis, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1)
    return (np.round(leaf / scale) * scale).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(rounded, params)


def planted(params, own):
  """Puts a network's parameters where the largest one's stand.

  Args:
    params: of the largest network, nested dicts of arrays on the host.
    own: of what `extract` returned, each a beginning of the other's.

  Returns:
    A tree like `params`; what the network has not is 0, or as it was.
  """
  if not isinstance(params, dict):
    spare = [(0, n - m) for n, m in zip(params.shape, own.shape)]
    return np.pad(own, spare)
  return {
    name: planted(tree, own[name]) if name in own else tree
    for name, tree in params.items()
  }


def place_of(training, fingerprint, out):
  """Returns the directory of a supernet's checkpoints."""
  return pathlib.Path(out) / 'supernets' / training.name(fingerprint)


def run(
  training,
  prepared,
  fingerprint,
  out,
  on_epoch=lambda epoch, history, resumed: None,
  say=print,
):
  """Trains a supernet, or what is left of it.

  Args:
    training: `Training`.
    prepared: of `trainer.device_corpus`.
    fingerprint: of the corpus.
    out: directory of the run.
    on_epoch: called with an epoch, `State.history`, and whether the epoch was
      read from a checkpoint, after every epoch.
    say: called with a line of text when a checkpoint cannot be restored.

  Returns:
    `SupernetTrainer`, at its last epoch.

  Raises:
    ValueError: a loss or a gradient is not finite. So does every further call.
  """
  trainer = SupernetTrainer(training, prepared)
  place = place_of(training, fingerprint, out)
  about = training.describe() | {'corpus': fingerprint}
  portable.keep(place, prepared, about)

  def tell(epoch, host, resumed):
    on_epoch(epoch, host.history, resumed)

  epochs = training.recipe.epochs
  host = loop.run(trainer, place, epochs, about, tell, say)
  if trainer.state is None or trainer.epochs_done < epochs:
    trainer.resume(host)
  if not host.alive:
    raise ValueError(
      f'supernet of {training.macro.name}, seed {training.seed}, diverged '
      f'behind step {int(host.step)}: a loss or a gradient is not finite; '
      'give a lower learning rate, or clip gradients, in another directory'
    )
  return trainer


def restore(training, prepared, fingerprint, out, say=print):
  """Returns the `SupernetTrainer` of a supernet that was trained.

  Raises:
    ValueError: there is no checkpoint of it.
  """
  trainer = SupernetTrainer(training, prepared)
  place = place_of(training, fingerprint, out)
  with checkpoints.manager(place) as manager:
    epoch, host, _ = checkpoints.restore(manager, place, trainer.target(), say)
  if not epoch:
    raise ValueError(f'{place} has no checkpoint that can be restored')
  trainer.resume(host)
  return trainer
