"""What a study of elastic networks would cost: by formula, or timed here.

By formula there need be neither corpus nor device: multiply-accumulates of a
mean utterance, the chip's published peak, and the share of it that training is
said to reach.
"""

import functools
import time
from typing import NamedTuple

import jax
import numpy as np

from nasjax import cost
from nasjax.data import batching
from nasjax.losses import criterion
from nasjax.models import families
from nasjax.models.todm import cost as todm_cost
from nasjax.models.todm import family as todm_family
from nasjax.oneshot.sandwich_steps import SHARE
from nasjax.spaces import todm as todm_spaces
from nasjax.training import population

# What backward passes cost, forward passes being 1: of products twice as much,
# and joiners are computed again, chunk by chunk.
_TRAINED, _JOINED = 3, 4
# Networks by which the mean of those that are drawn is known.
DRAWN = 300


class Speech(NamedTuple):
  """A corpus in four numbers.

  Attributes:
    hours: of speech, of the training split.
    utterances: of it.
    labels: mean number of an utterance.
    epochs: of training.
  """

  hours: float
  utterances: int
  labels: float
  epochs: int

  @property
  def frames(self):
    """Mean frames of an utterance, 10 ms each."""
    return max(1, round(self.hours * 360_000 / self.utterances))


def flops(space, arch, macro, frames, labels):
  """Returns FLOPs of an utterance in training: of the network, of its joiner.

  A multiply-accumulate is two; the joiner is that of one pass forward, which
  distillation adds to.
  """
  built = todm_family.encoder(macro, todm_family.hidden_of(space, arch))
  frames = macro.output_frames(frames)
  body = todm_cost.encoder_macs(built, macro.features, frames)
  joiner = 0
  if macro.transduces:
    predictor = todm_family.predictor(macro)
    body += (labels + 1) * todm_cost.predictor_macs(predictor)
    joiner = frames * (labels + 1) * macro.joined * macro.outputs
  return 2.0 * body, 2.0 * joiner


def training(made, speech):
  """Returns the FLOPs of a whole training, padding and decoding left out.

  Args:
    made: `sandwich.Training`.
    speech: `Speech`.
  """
  space, macro, options = made.space, made.macro, made.options

  def one(arch):
    return flops(space, arch, macro, speech.frames, speech.labels)

  largest, joiner = one(made.largest)
  if options.others:
    drawn_nd = made.drawn(np.random.default_rng(0), DRAWN)
    drawn = np.mean([one(arch)[0] for arch in drawn_nd])
  if options.paths:
    total = _TRAINED * drawn + _JOINED * joiner
  else:
    total = _TRAINED * largest + _JOINED * joiner
    total += len(made.exits) * _head(made, speech, joiner)
  if options.students:
    others = options.students - 1
    body = one(made.smallest)[0] + others * drawn
    total += (_TRAINED * body + _JOINED * options.students * joiner) / SHARE
    if options.distil is not None:
      # Teachers' scores are computed with those of students, twice.
      total += options.students * 2 * joiner / SHARE
  return total * speech.utterances * speech.epochs


def _head(made, speech, joiner):
  """Returns the FLOPs of an utterance of an output behind an inner layer."""
  macro, frames = made.macro, made.macro.output_frames(speech.frames)
  if not macro.transduces:
    return _TRAINED * 2.0 * frames * macro.width * macro.outputs
  projection = _TRAINED * 2.0 * frames * macro.width * macro.joined
  if made.options.heads == 'own':
    return projection + _JOINED * joiner
  return projection + _TRAINED * 2.0 * frames * macro.joined * macro.outputs


def seconds(total, chip, share):
  """Returns seconds on one chip of a share of its peak for bfloat16."""
  return total / (share * chip.bf16_flops_per_second)


def memory(space, macro, recipe, frames, labels):
  """Returns bytes that a step takes at least, float32, of a mean batch.

  Weights, their gradients and two moments; of every layer of the largest
  encoder ten numbers a channel and frame, and its widest part; what the loss
  says of itself.
  """
  layers = todm_spaces.layers(space)
  channels = 10 * macro.width + max(map(int, space.choices[0]))
  each = 4 * recipe.batch * macro.output_frames(frames)
  params = cost.params(space, todm_spaces.largest(space), macro)
  total = 16 * params + each * layers * channels
  working = criterion.of(recipe).working_bytes
  if working is not None:
    total += working(macro, recipe.batch, frames, labels, recipe)
  return total


class Row(NamedTuple):
  """What one kind of training costs.

  Attributes:
    what: its name.
    trainings: how many there are.
    seconds: of each, on one device.
    search: seconds of its search.
    bytes: of a step.
    compile: seconds, of the program of an epoch; 0 where that is not timed.
  """

  what: str
  trainings: int
  seconds: float
  search: float
  bytes: int
  compile: float = 0.0

  @property
  def total(self):
    return self.trainings * (self.seconds + self.search) + self.compile


def by_formula(study, speech, chip, share, make):
  """Returns the `Row`s of a study on a chip that need not be there.

  Args:
    study: `Plan`.
    speech: `Speech`.
    chip: `chips.Chip`.
    share: of its peak that training reaches; forward passes alone, too.
    make: as in `timed`.
  """
  space, macro = study.space, study.macro
  spoken = speech.frames, round(speech.labels)
  need = memory(space, macro, study.recipe, *spoken)
  alone = training(make(None), speech)
  largest = flops(space, todm_spaces.largest(space), macro, *spoken)
  rows = []
  for size in study.sizes:
    own = flops(space, size.arch, macro, *spoken)
    ratio = (_TRAINED * own[0] + _JOINED * own[1]) / (
      _TRAINED * largest[0] + _JOINED * largest[1]
    )
    rows.append(
      Row(
        f'A1 {size.name}', len(study.seeds),
        seconds(ratio * alone, chip, share), 0.0, need,
      )
    )  # fmt: skip
  # Decoding a frame runs the joiner once, not once a label.
  one = largest[0] + largest[1] / (speech.labels + 1)
  search = seconds(study.evaluated * study.judged * one, chip, share)
  for way in study.ways:
    total = training(make(way), speech)
    rows.append(
      Row(
        way.label, len(study.seeds), seconds(total, chip, share),
        search if way.options.others else 0.0, need,
      )
    )  # fmt: skip
  return rows


class Plan(NamedTuple):
  """What a study would train.

  Attributes:
    space, macro, recipe, sizes, seeds: of its networks.
    ways: list of `todm_study.Way`.
    evaluated: networks that a search judges.
    judged: utterances that each is judged by.
  """

  space: object
  macro: object
  recipe: object
  sizes: list
  seeds: list
  ways: list
  evaluated: int
  judged: int


def timed(study, prepared, make):
  """Returns the `Row`s of a study, by a few steps of each way on a device.

  Args:
    study: `Plan`.
    prepared: of `running.device_corpus`.
    make: way -> `sandwich.Training`; None for the largest network alone.
  """
  largest = _timed(make(None), prepared)
  rows = []
  macs = functools.partial(cost.macs, study.space, macro=study.macro)
  most = macs(families.elastic(study.space).largest(study.space))
  epochs = study.recipe.epochs
  for size in study.sizes:
    # Others by their multiply-accumulates.
    ratio = macs(size.arch) / most
    each = epochs * (ratio * largest.steps * largest.step + largest.judge)
    rows.append(
      Row(
        f'A1 {size.name}', len(study.seeds), each, 0.0, largest.bytes,
        largest.compile,
      )
    )  # fmt: skip
  for way in study.ways:
    own = _timed(make(way), prepared)
    each = epochs * (own.steps * own.step + 2 * own.judge)
    search = study.evaluated * own.judge if way.options.others else own.judge
    rows.append(
      Row(way.label, len(study.seeds), each, search, own.bytes, own.compile)
    )
  return rows


class _Timed(NamedTuple):
  steps: int
  step: float
  judge: float
  compile: float
  bytes: int


def _timed(training, prepared, steps=3):
  """Times a few steps of a training, and how long one network is judged."""
  from nasjax.oneshot import sandwich, sandwich_steps
  from nasjax.programs import memory as memory_lib

  trainer = sandwich.SupernetTrainer(training, prepared)
  trainer.begin()
  state = trainer.state._replace(history={})
  arguments = state, prepared.train.example(), *population.on_all(
    (
      _first(prepared, training, steps),
      students(training, trainer.archs(1)[:steps]),
      np.float32(training.recipe.lr),
      np.float32(training.options.weight),
    ),
    prepared.mesh,
  ), trainer.constants  # fmt: skip
  started = time.perf_counter()
  program = sandwich_steps.make_pass(training, prepared.train_buckets)
  compiled = jax.jit(program).lower(*arguments).compile()
  compile_s = time.perf_counter() - started
  step_s = _least(lambda: compiled(*arguments)) / steps
  trainer.evaluate(training.largest[None])  # compiles
  judge_s = _least(lambda: trainer.evaluate(training.largest[None]))
  need = memory_lib.program_bytes(compiled)
  return _Timed(trainer.steps, step_s, judge_s, compile_s, need)


def _least(function, times=5, seconds=10.0):
  """Returns the least seconds that a call takes, of several if they are short.

  Other work on the machine lengthens one call, seldom all of them.
  """
  found = []
  while len(found) < times and sum(found) < seconds:
    started = time.perf_counter()
    jax.block_until_ready(function())
    found.append(time.perf_counter() - started)
  return min(found)


def _first(prepared, training, steps):
  """Returns a plan of the first batches of an epoch."""
  plan = batching.train_plan(
    prepared.bucket_u, prepared.buckets, (training.seed,), 1
  )
  return batching.Plan(*(leaf[:steps] for leaf in plan))


def students(training, archs_snd):
  """Returns the gates of students, stacked by step and student."""
  elastic, space = training.elastic, training.space
  steps, students, _ = archs_snd.shape
  if not students:
    one = jax.tree.map(np.asarray, elastic.gates(space, training.largest))
    return jax.tree.map(
      lambda leaf: np.zeros((steps, 0, *leaf.shape), leaf.dtype), one
    )
  gates = [elastic.gates(space, arch) for row in archs_snd for arch in row]
  return jax.tree.map(
    lambda *leaves: np.stack(leaves).reshape(
      steps, students, *np.shape(leaves[0])
    ),
    *gates,
  )
