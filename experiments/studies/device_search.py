"""The elastic network of device.py, and the evolution of its parts."""

import concurrent.futures
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import flags
from studies import device_latency

from nasjax import analysis
from nasjax.oneshot import sandwich
from nasjax.search import generations
from nasjax.search.algorithms import pareto

FLAGS = flags.FLAGS


class Functions(NamedTuple):
  """A space as evolution takes it: networks of one function are one."""

  name: str
  sizes: tuple
  keys: Callable


class Evolved(NamedTuple):
  """What evolution has evaluated, by rising error, then cost.

  Attributes:
    archs_nd: int8.
    error_n: on validation, by the weights of the elastic network.
    cost_n: as the limit has it.
    front_n: what nothing beats in both.
    supernet: name of the elastic network.
  """

  archs_nd: np.ndarray
  error_n: np.ndarray
  cost_n: np.ndarray
  front_n: np.ndarray
  supernet: str


def trained(training, work, out, steps):
  """Trains the elastic network, or what is left of it; a trainer a worker."""
  epochs, metric = training.recipe.epochs, work.job.metric

  def on_epoch(epoch, history, resumed):
    if resumed and epoch < epochs:
      return
    errors = (
      history[name][epoch - 1] for name in ('val_error', 'smallest_val_error')
    )
    told = ', of the smallest '.join(f'{error:.1%}' for error in errors)
    tell = steps.say if epoch == epochs else _print
    tell(f'epoch {epoch} of {epochs}: {metric} of the largest {told}')

  given = training, work.prepareds[0], work.job.corpus_fingerprint, out
  trainers = [sandwich.run(*given, on_epoch, _print)]
  for prepared in work.prepareds[1:]:
    trainer = sandwich.SupernetTrainer(training, prepared)
    trainer.resume(trainers[0].host())
    trainers.append(trainer)
  return trainers


def _print(line):
  from common import console

  console.print_line(f'  {line}')


def evolved(trainers, name, limit, first, out, steps):
  """Searches the elastic network under a limit; returns `Evolved`.

  Args:
    trainers: of `trained`.
    name: of the elastic network.
    limit: `device_latency.Limit`.
    first: architectures that the first generation begins with, [n, d].
    out: directory of the study.
    steps: `device_steps.Steps`.
  """
  training = trainers[0].training
  space = training.space
  search = pareto.evolution(
    Functions(space.name, space.sizes, space.semantic_keys),
    limit.costs, 0.0, limit.most, limit.most / FLAGS.bins,
    seed=training.seed, population=FLAGS.population, mutants=FLAGS.mutants,
    crossings=FLAGS.crossings, generations=FLAGS.generations,
    rate=FLAGS.mutation_rate, first=np.stack([limit.least, *first]),
  )  # fmt: skip
  place = out / 'evolution'
  place.mkdir(exist_ok=True)
  read = [False]

  def evaluate(arch_nd):
    read[0] = True
    parts = np.array_split(arch_nd, len(trainers))
    with concurrent.futures.ThreadPoolExecutor(len(trainers)) as pool:
      errors = pool.map(
        lambda trainer, part: trainer.evaluate(part), trainers, parts
      )
      return np.concatenate(list(errors))

  def tell(state):
    if read[0] and not state.generation % 10:
      _print(
        f'generation {state.generation} of {FLAGS.generations}: '
        f'{len(state.error_n)} networks, the best '
        f'{np.nanmin(state.error_n, initial=np.inf):.1%}'
      )

  # Of another profile, costs are others.
  some = limit.costs(device_latency.drawn(space, 8, 0))
  about = {'supernet': name, 'costs': [f'{cost:.5g}' for cost in some]}
  state = generations.run(
    search, evaluate, place / f'{name}.json', about, tell
  )
  there = np.flatnonzero(np.isfinite(state.error_n))
  order = there[np.lexsort((state.cost_n[there], state.error_n[there]))]
  cost_n, error_n = state.cost_n[order], state.error_n[order]
  return Evolved(
    state.arch_nd[order], error_n, cost_n,
    analysis.pareto_front(cost_n, error_n), name,
  )  # fmt: skip


def redundant(space, count, seed):
  """Counts single changes of networks: what changes no function, and all.

  Args:
    space: search space.
    count: networks that are drawn, whose neighbours are looked at.
    seed: of the draw.
  """
  rng = np.random.default_rng([seed, 7])
  same = total = 0
  for _ in range(count):
    arch_d = rng.integers(0, space.sizes).astype(np.int8)
    keys = space.semantic_keys(space.neighbours(arch_d))
    same += int((keys == space.semantic_key(arch_d)).sum())
    total += len(keys)
  return same, total
