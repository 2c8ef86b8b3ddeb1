"""Searches whose suggestions are trained, a population at a time."""

import dataclasses
import functools
import math

import numpy as np
from absl import flags
from common import jobs, training_flags

FLAGS = flags.FLAGS


class Trainer:
  """Trains architectures, or finds that they were trained already.

  Rows of all searches and repeats stand in one table: who suggests the function
  and the epochs of another gets the same run, at the same cost.
  """

  def __init__(self, work, out, seed, metric=None):
    """
    Args:
      work: `jobs.Work`.
      out: directory of the run.
      seed: of the trainings.
      metric: name of the error rate on test; None for what decides.
    """
    self._work, self._out, self._seed = work, out, seed
    self._metric = metric

  def __call__(self, archs_nd, epochs_n):
    """Returns (val_n, test_n), the lowest validation error and that of test.

    A run that failed has 1.0, and so has what was not suggested (0 epochs).
    """
    from nasjax.search import landscape

    val_n = np.full(len(archs_nd), landscape.FAILED, np.float32)
    test_n = val_n.copy()
    for epochs in sorted(set(epochs_n.tolist()) - {0}):
      at = np.flatnonzero(epochs_n == epochs)
      rows = self._trained(archs_nd[at], epochs)
      for per_n, column, epoch, metric in (
        (val_n, 'val_per', 'best', None),
        (test_n, 'test_per', None, self._metric),
      ):
        found = rows.query(
          archs_nd[at], column, seed=self._seed, epoch=epoch, metric=metric
        )
        per_n[at] = np.minimum(
          np.nan_to_num(found, nan=landscape.FAILED), landscape.FAILED
        )
    return val_n, test_n

  def _trained(self, archs_nd, epochs):
    """Returns the rows that have these architectures, trained so long."""
    from nasjax import table

    job = self._work.job
    if epochs != job.recipe.epochs:
      # The first epochs of the whole training: rates go by the epoch alone.
      recipe = dataclasses.replace(
        job.recipe, name=f'{job.recipe.name}-first{epochs}', epochs=epochs
      )
      job = dataclasses.replace(job, recipe=recipe)
    missing = self._missing(job, archs_nd)
    if missing:
      members = [(arch, self._seed) for arch in missing]
      jobs.train(self._work, job, members, len(archs_nd), self._out)
    return jobs.rows(job, table.open(self._out, verify=False))

  def _missing(self, job, archs_nd):
    """Returns an architecture of each function that the table lacks."""
    from nasjax import table

    there = set()
    if table.committed(self._out / 'table'):
      try:
        rows = jobs.rows(job, table.open(self._out))
        own = rows.column('seed') == self._seed
        there = set(rows.column('semantic_key')[own])
      except table.MissingEntryError:
        pass  # nothing of this recipe yet
    keys = job.space.semantic_keys(archs_nd)
    first = dict(zip(keys[::-1].tolist(), archs_nd[::-1]))
    return [arch for key, arch in first.items() if key not in there]


def values():
  """Returns for each digit the values to search among."""
  from nasjax.search import landscape

  space = training_flags.space()
  if FLAGS.ops is None:
    return tuple(tuple(range(size)) for size in space.sizes)
  return landscape.values_of(space.product(FLAGS.ops, FLAGS.skips or ()))


def study(names, out):
  """Searches by training, `names` of `searchers.named`; returns the Study."""
  import time

  recipe = training_flags.recipe()
  seed = training_flags.seeds()[0]
  work = jobs.prepare(recipe, FLAGS.suggestions)
  from studies import constrained, searchers
  from summaries import search_summary

  from nasjax import spaces
  from nasjax.decoding import metrics
  from nasjax.predictors import gcn
  from nasjax.search import constraints, driver, landscape

  decides = work.job.metric
  metric = metrics.named(
    FLAGS.metric, decides, work.prepareds[0].units, '--metric'
  )
  chosen = values()
  sizes = tuple(len(v) for v in chosen)
  if 'gcn' in names and math.prod(sizes) > spaces.MOST_LISTED:
    raise ValueError(
      '--searchers: gcn ranks all architectures, at most '
      f'{spaces.MOST_LISTED:,}, but the choices make {math.prod(sizes):,}; '
      'name other searchers, or fewer choices'
    )
  answers = driver.Training(
    chosen, recipe.epochs, Trainer(work, out, seed, FLAGS.metric)
  )
  costs = constrained.costs(
    training_flags.space(),
    work.job.macro,
    functools.partial(constraints.cheapest, chosen),
  )
  if costs and costs.constraint:
    answers = constraints.Penalised(
      answers,
      lambda vectors: costs.of_archs(landscape.archs_of(chosen, vectors)),
      costs.constraint,
    )
  names = constrained.joined(names, costs, chosen)

  def graphs():
    vectors = landscape.vectors_of(chosen)
    keys = training_flags.space().semantic_keys(
      landscape.archs_of(chosen, vectors)
    )
    _, first = np.unique(keys, return_index=True)
    vectors = vectors[np.sort(first)]
    archs = landscape.archs_of(chosen, vectors)
    return vectors, gcn.graphs(training_flags.space(), archs)

  about = {
    'metric': metric, 'recipe': recipe.name, 'corpus': work.job.corpus_name
  }  # fmt: skip
  added = searchers.added(about, names)
  # All are made before any trains, for what is wrong is to be said at once.
  made = {
    name: searchers.made(
      name, make, sizes, recipe.epochs, FLAGS.suggestions, graphs
    )
    for name, make in names.items()
  }
  traces, seconds = {}, {}
  for name, searcher in made.items():
    started = time.perf_counter()
    traces[name] = driver.joined(
      [
        driver.search(
          searcher, answers, [FLAGS.search_seed, repeat], FLAGS.budget
        )
        for repeat in range(searchers.repeats(name))
      ]
    )
    seconds[name] = time.perf_counter() - started
  return search_summary.Study(
    traces,
    seconds,
    recipe.epochs,
    FLAGS.budget,
    None,
    metric,
    decides,
    added,
    about,
  )
