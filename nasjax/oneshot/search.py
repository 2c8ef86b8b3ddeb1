"""One search, an epoch at a time: stages, checkpoints, what was found.

  OUT/searches/<name>/<epoch>/     orbax: the whole state, of the last epoch
  OUT/searches/<name>/portable.npz what its networks need to hear and to speak
  OUT/searches/<name>.json         the result, once the search is over

A search is named by the hash of all that determines it. Killed at any moment,
it goes on from its last epoch and ends with the same result. One that diverges
has no result, but a checkpoint of what it was when it did.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from typing import NamedTuple

import chex
import jax
import numpy as np

from nasjax.data import batching
from nasjax.losses import criterion
from nasjax.oneshot import estimators, results
from nasjax.oneshot import steps as steps_lib
from nasjax.programs import keeping
from nasjax.storage import checkpoints
from nasjax.training import loop, plateau, population, portable, recipes

# Raise when a change of the code changes what a search finds.
SEARCH_VERSION = 2
# Numbers the passes over held-out utterances, apart from training's.
_HELD_OUT = 2_000_000
_SCALARS = (
  'train_loss', 'arch_loss', 'held_out_loss', 'val_loss', 'val_per', 'lr',
  'temperature', 'seconds', 'steps',
)  # fmt: skip
_SOFT = 'soft_val_loss', 'soft_val_per'


@dataclasses.dataclass(frozen=True)
class Search:
  """All that determines a search, but for the corpus.

  Attributes:
    supernet: `Supernet`.
    method: `Method`.
    weights: `steps.Weights`.
    stages: tuple of `stages.Stage`.
    seed: of weights, draws, data order and the held-out utterances.
    source: what tells the state that it begins with (`run`) from others; empty
      for a search that begins with nothing.
  """

  supernet: object
  method: object
  weights: object
  stages: tuple
  seed: int
  source: str = ''

  def __post_init__(self):
    if not self.stages:
      raise ValueError('a search needs at least one stage, got none')
    recipe = self.weights.recipe
    if recipe.optimiser != 'adam':
      raise ValueError(
        f'recipe {recipe.name}: optimiser={recipe.optimiser!r} trains no '
        f'shared weights: those of a search have their own, here '
        f'{self.weights.kind!r}'
      )

  @property
  def epochs(self):
    """The most epochs that there can be."""
    return sum(stage.epochs for stage in self.stages)

  def searched(self, stage_e):
    """Says which epochs, given by the numbers of their stages, were search."""
    own = [k for k, stage in enumerate(self.stages) if stage.searches]
    return np.isin(stage_e, own)

  def describe(self):
    """Returns it as plain values, for JSON."""
    # What came later is said only where it is there.
    later = {'kept': self.supernet.kept, 'source': self.source}
    return {
      'space': self.supernet.space.name,
      'ops': self.supernet.ops,
      'skips': self.supernet.skips,
      'macro': dataclasses.asdict(self.supernet.macro),
      'method': self.method.describe(),
      'optimiser': self.weights.kind,
      'momentum': self.weights.momentum,
      'decay': self.weights.decay,
      'recipe': recipes.describe(self.weights.recipe),
      'stages': [stage.describe() for stage in self.stages],
      'seed': self.seed,
    } | {name: value for name, value in later.items() if value}

  def name(self, fingerprint):
    """Returns the name of the search on a corpus of this fingerprint."""
    content = self.describe() | {
      'corpus': fingerprint,
      'version': SEARCH_VERSION,
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class SearchProgress(NamedTuple):
  """What is reported after every epoch.

  Attributes:
    search: `Search`.
    epoch: epochs done, of all stages.
    stage: name of the stage.
    history: float arrays [epochs] by name, NaN where nothing is yet.
    resumed: whether the epoch was read from a checkpoint.
  """

  search: Search
  epoch: int
  stage: str
  history: dict
  resumed: bool


class State(NamedTuple):
  """A search between two epochs, as its checkpoints have it.

  Attributes:
    search: `steps.State`; all else stands on the host.
    history: arrays [epochs, ..] by name, NaN or -1 where nothing is yet.
    stage: int64, the number of the stage, and the epochs done of it.
    judge: the numbers of its `plateau.State`, in their order, as arrays.
    kept: the `search` that goes on where warm-up ends; None where that is the
      last one (`Method.keep_optimiser`).
  """

  search: steps_lib.State
  history: dict
  stage: np.ndarray
  judge: tuple
  kept: steps_lib.State | None

  @property
  def scheduler(self):
    """Its `plateau.State`."""
    return plateau.State(*(v.item() for v in self.judge))


class DivergedError(ValueError):
  """A search met a loss or a gradient that is not finite."""


class _Programs(NamedTuple):
  train: callable
  expected: callable
  evaluate: callable
  soft: callable


# Not all that a study needs: those of a dense supernet are large.
@keeping.kept(4)
def _programs(supernet, method, weights, buckets, train_buckets):
  """Returns the jitted programs that searches of one kind share."""
  shape = (supernet, method, weights, train_buckets)
  one = supernet.network(weights.recipe, 'path')
  soft = supernet.network(weights.recipe, 'mixed')
  return _Programs(
    jax.jit(steps_lib.make_pass(*shape), donate_argnums=(0,)),
    jax.jit(steps_lib.make_expected(*shape)),
    jax.jit(population.make_eval_pass(one, weights.recipe, buckets)),
    jax.jit(population.make_eval_pass(soft, weights.recipe, buckets)),
  )


class SupernetTrainer:
  """Runs a search, an epoch at a time. Keeps what its loop needs."""

  def __init__(self, search, prepared):
    self.search, self.prepared = search, prepared
    self.supernet, self.method = search.supernet, search.method
    recipe = search.weights.recipe
    if prepared.train.count > 1:
      raise ValueError(
        'one-shot searches want the training split whole on the devices; '
        'leave out --device_features_gb'
      )
    self.criterion = criterion.of(recipe)
    self.constants = prepared.constants_of(recipe.loss)
    self.programs = _programs(
      search.supernet,
      search.method,
      search.weights,
      prepared.buckets,
      prepared.train_buckets,
    )
    count = len(prepared.bucket_u)
    rng = np.random.default_rng([search.seed, count])
    held = round(self.method.held_out * count)
    if not 0 < held < count and not self.method.judges_itself:
      raise ValueError(
        f'{self.method.held_out:.0%} of {count} training utterances leave '
        'nothing to train on, or nothing to hold out; give a larger corpus'
      )
    self.held_u = np.zeros(count, bool)
    self.held_u[rng.permutation(count)[:held]] = True
    self.steps = len(self._plan(1, ~self.held_u).bucket_s)
    # Without any, training's stand where no step takes them.
    self.judged_u = self.held_u if held else ~self.held_u
    self.held_steps = len(self._plan(1, self.judged_u).bucket_s)

  def initial(self):
    """Returns the state before the first epoch."""
    key = jax.random.key(self.search.seed)
    state = steps_lib.init(self.supernet, self.method, self.search.weights, key)
    epochs, edges = self.search.epochs, self.supernet.edges
    scalars = _SCALARS + _SOFT * self.method.soft
    history = {name: np.full(epochs, np.nan) for name in scalars}
    history['stage'] = np.full(epochs, -1, np.int64)
    history['improved'] = np.zeros(epochs, np.int64)
    for kind in ('path', 'arch_path'):
      shape = (epochs, self.steps, len(edges))
      history[kind] = np.full(shape, -1, np.int8)
      history[f'{kind}_loss'] = np.full(shape[:2], np.nan, np.float32)
    for name, candidates in edges:
      history[f'alpha_{name}'] = np.full((epochs, len(candidates)), np.nan)
    return State(
      self._on_device(state),
      history,
      np.array([0, 0]),
      _judge(self.search.stages[0].lr),
      _on_host(state) if self.method.keep_optimiser else None,
    )

  def _on_device(self, tree):
    return population.on_all(tree, self.prepared.mesh)

  def _plan(self, number, keep_u):
    prepared = self.prepared
    return batching.train_plan(
      prepared.bucket_u, prepared.buckets, (self.search.seed,), number, keep_u
    )

  def _held_out_plan(self, batch_s):
    """Returns the held-out batches of these numbers.

    Numbers count over passes that follow one another without a break; each has
    an order of its own, or that of the first.
    """
    pass_s, place_s = np.divmod(batch_s, self.held_steps)
    if self.method.replay:
      pass_s = np.zeros_like(pass_s)
    numbers, which_s = np.unique(pass_s, return_inverse=True)
    plans = [self._plan(_HELD_OUT + n, self.judged_u) for n in numbers]
    return batching.Plan(
      *(np.stack(leaves)[which_s, place_s] for leaves in zip(*plans))
    )

  def _held_out_batches(self, history, epoch):
    """Returns the number of the held-out batch before each step of an epoch.

    Only every `arch_every`-th step takes one: none is left out.
    """
    every = max(self.method.arch_every, 1)
    used = int((history['arch_path'][..., 0] >= 0).sum())
    before = int(history['steps'][epoch - 2]) if epoch > 1 else 0
    step_s = before + np.arange(self.steps)
    return used + -(-step_s // every) - -(-before // every)

  def temperature(self, stage, epoch):
    """Temperature in an epoch (1-based) of a stage."""
    start, end = self.method.temperature
    if not stage.searches:
      return start
    share = (epoch - 1) / max(stage.epochs - 1, 1)
    return self.method.cooling(start, end, share)

  def epoch(self, state, epoch):
    """Runs an epoch (1-based, counted over all stages).

    Returns:
      the state after it, and whether the search is over.
    """
    started = time.perf_counter()
    stage_number, in_stage = (int(n) for n in state.stage)
    stage = self.search.stages[stage_number]
    judge, kept = state.scheduler, state.kept
    in_stage += 1
    temperature = self.temperature(stage, in_stage)
    moving = stage.searches and in_stage > self.method.rest_epochs
    batch_s = self._held_out_batches(state.history, epoch)
    found, log = self.programs.train(
      state.search,
      self.prepared.train.example(),
      self._on_device(self._plan(epoch, ~self.held_u)),
      self._on_device(self._held_out_plan(batch_s)),
      *self._on_device(
        (
          np.float32(judge.lr),
          np.float32(temperature),
          np.bool_(stage.searches),
          np.bool_(moving),
        )
      ),
      self.constants,
    )
    soft = self.evaluate_soft(found) if self.method.soft else ()
    held_out_loss = (
      soft[0] if self.method.judges_itself
      else self._held_out_loss(found, temperature)
    )  # fmt: skip
    index_e = results.best_choices(self.search, found.alpha_e)
    val_loss, val_per = self.evaluate(found.params, index_e)
    values = {
      'train_loss': float(np.mean(log.loss_s)),
      'arch_loss': _mean_of_real(log.held_out_s),
      'held_out_loss': held_out_loss,
      'val_loss': val_loss,
      'val_per': val_per,
      'lr': judge.lr,
      'temperature': temperature,
      'steps': float(found.step),
      'stage': stage_number,
      'path': np.asarray(log.path_se),
      'arch_path': np.asarray(log.arch_path_se),
      'path_loss': np.asarray(log.loss_s),
      'arch_path_loss': np.asarray(log.held_out_s),
    } | dict(zip(_SOFT, soft))
    for (name, _), alpha_k in zip(self.supernet.edges, found.alpha_e):
      values[f'alpha_{name}'] = np.asarray(alpha_k)
    if stage.plateau is not None:
      judge = plateau.step(stage.plateau, judge, in_stage, held_out_loss)
      values['improved'] = judge.improved
      if judge.improved and not stage.searches and kept is not None:
        kept = _on_host(found)
    over = judge.stopped or in_stage == stage.epochs
    alive = _alive(found, held_out_loss)
    if over and alive and stage_number + 1 < len(self.search.stages):
      found, judge = self._next_stage(kept, found, judge, stage_number + 1)
      stage_number, in_stage = stage_number + 1, 0
    values['seconds'] = time.perf_counter() - started
    history = {name: v.copy() for name, v in state.history.items()}
    for name, value in values.items():
      history[name][epoch - 1] = value
    stage = np.array([stage_number, in_stage])
    state = State(found, history, stage, _judge(*judge), kept)
    return state, self.over(state, epoch + 1)

  def _held_out_loss(self, found, temperature):
    """Returns the mean loss of held-out utterances."""
    return float(
      self.programs.expected(
        found,
        self.prepared.train.example(),
        self._on_device(self._plan(_HELD_OUT, self.held_u)),
        self._on_device(np.float32(temperature)),
        self.constants,
      )
    )

  def over(self, state, epoch):
    """Tells whether a search ended before an epoch, from the state before."""
    loss = state.history['held_out_loss'][epoch - 2]
    number, in_stage = (int(n) for n in state.stage)
    epochs = self.search.stages[number].epochs
    ended = state.scheduler.stopped or in_stage == epochs
    last = number + 1 == len(self.search.stages)
    return not _alive(state.search, loss) or bool(last and ended)

  def _next_stage(self, kept, found, judge, number):
    """Returns the state and the scheduler with which a stage begins."""
    if self.method.keep_optimiser:
      # Steps are counted on: random numbers go by them.
      if kept.step:
        found = self._on_device(kept)._replace(step=found.step)
      return found, judge._replace(bad=0, improved=False, stopped=False)
    rule = steps_lib.weight_optimiser(self.supernet, self.search.weights)
    opt = rule.init(found.params)
    return (
      found._replace(opt=self._on_device(opt)),
      plateau.State(self.search.stages[number].lr),
    )

  def evaluate(self, params, index_e, split='validation'):
    """Returns loss and PER of one architecture with the shared weights."""
    gates = self.supernet.gates_of(index_e)
    return self._evaluated(self.programs.evaluate, params, gates, split)

  def evaluate_soft(self, state, split='validation'):
    """Returns loss and PER of the mixture that a `steps.State` stands for."""
    gates = self.supernet.gates(
      tuple(estimators.softmax(None, alpha_k, 1.0) for alpha_k in state.alpha_e)
    )
    return self._evaluated(self.programs.soft, state.params, gates, split)

  def worth(self, state, split):
    """Returns what a soft search came to on a split, by name.

    Loss and error rate of the mixture (`soft`), and of the network that is
    derived from it, with the weights that they share (`shared`).
    """
    index_e = results.best_choices(self.search, state.alpha_e)
    return {
      'soft': self.evaluate_soft(state, split),
      'shared': self.evaluate(state.params, index_e, split),
    }

  def _evaluated(self, program, params, gates, split):
    prepared = self.prepared
    plan, steps = prepared.eval_plans[split], prepared.eval_steps[split]
    loss_ps, count_ps, labels, lengths = program(
      *jax.tree.map(lambda leaf: leaf[None], (params, self._on_device(gates))),
      prepared.evaluation[split],
      self._on_device(plan),
      self._on_device(np.int32(steps)),
      self.constants,
    )
    hyps = population.labels_of(labels, lengths, plan)
    fold_v = prepared.units.fold_v
    per_p = self.criterion.score(*hyps, prepared.refs[split], fold_v)
    loss_p = population.mean_losses(loss_ps, count_ps, steps)
    return float(loss_p[0]), float(per_p[0])


def _alive(state, judged_loss):
  # The judge's loss can be the first that is not finite.
  return bool(state.alive) and bool(np.isfinite(judged_loss))


def _absurd(search, prepared, judged_loss):
  """Whether a held-out loss is beyond what a network can be wrong by.

  One that knows nothing, all labels being equally likely in every frame, has at
  most frames * log(labels) for an utterance, however losses are normalised.
  """
  macro = search.supernet.macro
  frames = macro.output_frames(prepared.buckets[-1].frames)
  return judged_loss > 10 * frames * np.log(macro.outputs)


def _on_host(tree):
  """Returns a copy that outlives donated buffers."""
  return jax.tree.map(np.array, tree)


def _judge(lr, best=np.inf, bad=0, improved=False, stopped=False):
  return tuple(np.array(v, float) for v in (lr, best, bad, improved, stopped))


def _mean_of_real(loss_s):
  loss_s = np.asarray(loss_s)
  real_s = loss_s[~np.isnan(loss_s)]
  return float(real_s.mean()) if real_s.size else float('nan')


def restore(search, prepared, fingerprint, out):
  """Returns the `SupernetTrainer` and last state of a search that has begun.

  Raises:
    ValueError: there is no checkpoint of it.
  """
  searcher = SupernetTrainer(search, prepared)
  name = search.name(fingerprint)
  place = pathlib.Path(out) / 'searches' / name
  with checkpoints.manager(place) as manager:
    target = jax.tree.map(np.asarray, searcher.initial())
    epoch, state, _ = checkpoints.restore(manager, place, target, print)
  if not epoch:
    raise ValueError(
      f'{out} has no checkpoint of search {name} that can be restored; remove '
      f'{results.path_of(out, name)}, if it is there, to search again'
    )
  return searcher, state._replace(search=searcher._on_device(state.search))


class _Trainable:
  """A search as `loop.run` takes it."""

  def __init__(self, searcher, start=None):
    self._searcher, self._state, self._start = searcher, None, start

  def target(self):
    return jax.tree.map(np.asarray, self._searcher.initial())

  def begin(self):
    self._state = self._searcher.initial()
    if self._start is not None:
      # A copy: what the program is given is its own to write into.
      found = self._searcher._on_device(_on_host(self._start))
      chex.assert_trees_all_equal_shapes_and_dtypes(found, self._state.search)
      self._state = self._state._replace(search=found)

  def resume(self, host):
    found = self._searcher._on_device(host.search)
    self._state = host._replace(search=found)

  def epoch(self, epoch, since=None, pause=None):
    del since, pause  # It is left at its end alone.
    self._state, _ = self._searcher.epoch(self._state, epoch)

  def host(self):
    return _on_host(self._state)

  def over(self, host, epoch):
    return self._searcher.over(host, epoch)


def run(
  search,
  prepared,
  fingerprint,
  out,
  on_epoch=lambda progress: None,
  say=print,
  start=None,
):
  """Runs a search, or what is left of it, and writes its result.

  Args:
    search: `Search`.
    prepared: of `trainer.device_corpus`.
    fingerprint: of the corpus.
    out: directory of the run.
    on_epoch: called with a `SearchProgress` after every epoch.
    say: called with a line of text when a checkpoint cannot be restored.
    start: `steps.State` that it begins with (`adapting`), which the search's
      `source` names; the first one of its seed if not given.

  Returns:
    the result, as the JSON file has it.

  Raises:
    ValueError: a start without a source, or the reverse.
    DivergedError: with the step, the candidates that ran in it, and where the
      state is that it left unchanged. So does every further call.
  """
  if (start is not None) != bool(search.source):
    raise ValueError(
      f'a search of source {search.source!r} with start={type(start).__name__}'
      '; give both, what it begins with and what that is called, or none'
    )
  name = search.name(fingerprint)
  about = search.describe() | {'corpus': fingerprint}
  place = pathlib.Path(out) / 'searches' / name
  found = results.load(out, name)
  if found is None or place.is_dir():
    portable.keep(place, prepared, about)
  if found is not None:
    return found
  epoch = 0

  def tell(done, host, resumed):
    nonlocal epoch
    epoch = done
    stage = search.stages[int(host.history['stage'][epoch - 1])].name
    on_epoch(SearchProgress(search, epoch, stage, host.history, resumed))

  searcher = SupernetTrainer(search, prepared)
  trainable = _Trainable(searcher, start)
  state = loop.run(trainable, place, search.epochs, about, tell, say)
  loss = state.history['held_out_loss'][epoch - 1]
  if not _alive(state.search, loss) or _absurd(search, prepared, loss):
    raise DivergedError(_divergence(search, state, epoch, place))
  worth = {}
  if search.method.soft:
    last = searcher._on_device(state.search)
    worth = {s: searcher.worth(last, s) for s in ('validation', 'test')}
  return results.publish(out, search, name, fingerprint, state.history, worth)


def _divergence(search, state, epoch, place):
  """Says where a search diverged, and what to look at."""
  history, found = state.history, state.search
  stage = search.stages[int(history['stage'][epoch - 1])].name
  who = f'{search.method.name}, seed {search.seed}, diverged in'
  if found.alive:
    loss = history['held_out_loss'][epoch - 1]
    what = (
      f'epoch {epoch} ({stage}): the loss of held-out utterances behind it is '
      f'{loss:.4g}'
    )
  else:
    before = int(history['steps'][epoch - 2]) if epoch > 1 else 0
    s = int(found.step) - before
    what = (
      f'step {before + s + 1} (epoch {epoch}, {stage}): a loss or a gradient '
      'is not finite'
    )
    for kind, of in (('arch_path', 'architecture'), ('path', 'weights')):
      index_e = history[kind][epoch - 1, s]
      if index_e[0] < 0:
        continue  # no such step was made
      path = ', '.join(
        f'{edge}={names[index]}'
        for index, (edge, names) in zip(index_e, search.supernet.edges)
      )
      loss = history[f'{kind}_loss'][epoch - 1, s]
      what += f'; {of}: loss {loss:.6g} with {path}'
  return (
    f'{who} {what}. The state that it left unchanged is in '
    f'{place / str(epoch)}; search with lower learning rates or clipped '
    'gradients, in another directory'
  )
