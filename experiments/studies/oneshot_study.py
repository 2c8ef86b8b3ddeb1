"""The searches of a study, and the networks that they are judged by."""

import dataclasses
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np
from absl import flags
from common import jobs, training_flags

from nasjax import spaces

FLAGS = flags.FLAGS


class Found(NamedTuple):
  """What one way of finding architectures came to.

  Attributes:
    label: of the way: a method, or a baseline.
    archs: what it found, one for each search seed.
    batches: what each search cost, in batches of training one network.
  """

  label: str
  archs: list
  batches: list


class Study(NamedTuple):
  """A study that is over.

  Attributes:
    work: `jobs.Work`.
    supernet: `Supernet`.
    labels: of each search, its method and perhaps its warm-up.
    searches: list of `Search`, seeds of a label together.
    results: what each came to, as `search.run` returns it.
    found: list of `Found`, methods first, then baselines.
    lab: `lab.Lab` that has all networks.
    seeds: of retraining.
    ranks: for each search whose supernet was asked, its index and the PER that
      it gives to every architecture of the benchmark table.
  """

  work: object
  supernet: object
  labels: list
  searches: list
  results: list
  found: list
  lab: object
  seeds: list
  ranks: dict


def make_supernet(macro):
  """Returns the `Supernet` of the flags."""
  from nasjax.oneshot.supernet import Supernet

  space = training_flags.space()
  if not isinstance(space, spaces.Chain):
    named = FLAGS.ops or (), FLAGS.skips or ()
    return Supernet(space, macro, *map(tuple, named))
  skips = tuple(f for f in space.fields if f.startswith('s'))
  if FLAGS.ops is not None or FLAGS.skips is not None:
    skips = tuple(FLAGS.skips or ())
  ops = space.ops if FLAGS.ops is None else FLAGS.ops
  return Supernet(space, macro, tuple(ops), skips)


def plan(methods, search_seeds, stages, supernet, recipe):
  """Returns labels and `Search`es, of every method, warm-up and seed."""
  from nasjax.oneshot import search as searching
  from nasjax.oneshot import steps as oneshot_training
  from nasjax.training import recipes

  # A search minimises CTC, whatever the recipe of retraining says, and its
  # stages have schedules of their own; L2 would move weights that did not run;
  # shared weights have their own optimiser.
  own = dataclasses.replace(recipes.plain(recipe), l2=0.0, optimiser='adam')
  weights = oneshot_training.Weights(
    FLAGS.optimiser, own, FLAGS.momentum, FLAGS.weight_decay
  )
  labels, searches = [], []
  for method in methods:
    for warm_up, own_stages in stages.items():
      label = method.name
      if len(stages) > 1:
        label += f', {warm_up} epochs of warm-up'
      for seed in search_seeds:
        labels.append(label)
        searches.append(
          searching.Search(supernet, method, weights, own_stages, seed)
        )
  return labels, searches


def search_all(searches, work, out, bar):
  """Runs all searches, one on each worker at a time; returns their results."""
  from common import console

  from nasjax.benchmark import workers
  from nasjax.oneshot import search as searching

  fingerprint = work.job.corpus_fingerprint

  def one(search, prepared, check):
    def on_epoch(progress):
      bar(progress)
      check()

    say = console.CONSOLE.print
    return searching.run(search, prepared, fingerprint, out, on_epoch, say)

  return list(workers.share(one, searches, work.prepareds))


def largest(supernet):
  """Returns the architecture of the most parameters, with all skips.

  The first of those that have as many.
  """
  from nasjax import cost

  skips = [1] * len(supernet.skips)
  mains = [0] * len(supernet.mains)

  def count(e, k):
    arch = supernet.arch([*mains[:e], k, *mains[e + 1 :], *skips])
    return cost.params(supernet.space, arch, supernet.macro)

  # What a candidate has does not depend on the others.
  largest_e = [
    int(np.argmax([count(e, k) for k in range(len(names))]))
    for e, (_, names) in enumerate(supernet.mains)
  ]
  return supernet.arch([*largest_e, *skips])


def baselines(supernet):
  """Returns the architectures that need no search, by label."""
  from nasjax.models import families

  found = {'largest operation': largest(supernet)}
  for name, arch in families.family(supernet.space).baselines.items():
    try:
      supernet.choices(arch)
    except ValueError:  # it has what is not searched
      continue
    found[name] = np.array(arch, np.int8)
  return found


def found_on(folders, supernet):
  """Returns what methods found on other corpora, a `Found` each.

  Their searches cost nothing here.

  Args:
    folders: directories of studies whose searches are over.
    supernet: `Supernet` of this study.

  Raises:
    ValueError: a directory has no search, or one of another space.
  """
  from nasjax.oneshot import methods

  found = []
  for folder in folders:
    given, archs = f'--found_on={folder}', {}
    paths = sorted(pathlib.Path(folder).expanduser().glob('searches/*.json'))
    results = [_read(path, given) for path in paths]
    for result in sorted(results, key=lambda r: r['search']['seed']):
      search = result['search']
      if search['space'] != supernet.space.name:
        raise ValueError(
          f'{given} is of space {search["space"]}, the search of '
          f'{supernet.space.name}'
        )
      name = search['method']['name']
      if name in methods.METHODS and not methods.METHODS[name].searches:
        continue  # it decides nothing
      arch = np.array(result['arch'], np.int8)
      try:
        supernet.choices(arch)
      except ValueError as e:
        raise ValueError(f'{given}: {name}: {e}') from None
      archs.setdefault(name, []).append(arch)
    if not archs:
      raise ValueError(
        f'{given} has no search that is over (searches/*.json); name what '
        '--out of experiments/oneshot.py named'
      )
    for name, own in sorted(archs.items()):
      found.append(Found(f'{name} of {folder}', own, [0.0] * len(own)))
  return found


def _read(path, given):
  try:
    return json.loads(path.read_bytes())
  except ValueError as e:
    raise ValueError(f'{given}: {path} is damaged: {e}') from None


def functions(supernet):
  """Returns all distinct functions of a supernet; None if they are too many."""
  if supernet.size > spaces.MOST_LISTED:
    return None
  if isinstance(supernet.space, spaces.Chain):
    return supernet.space.product(supernet.ops, supernet.skips)
  return supernet.space.among(map(range, supernet.space.sizes))


def random_archs(supernet, seed, count):
  """Draws distinct functions of a supernet, int8 [count, d]."""
  space, rng = supernet.space, np.random.default_rng([seed, 1])
  archs = functions(supernet)
  if archs is None:
    sizes = [len(names) for _, names in supernet.edges]
    drawn = rng.integers(0, sizes, (2 * count + 100, len(sizes)))
    archs = np.stack([supernet.arch(index_e) for index_e in drawn])
    _, first = np.unique(space.semantic_keys(archs), return_index=True)
    return archs[np.sort(first)][:count]
  return archs[rng.choice(len(archs), min(count, len(archs)), replace=False)]


def random_search(study_seeds, supernet, count, lab, seeds, say):
  """Trains `count` architectures a seed; returns the best ones by validation.

  All are trained with the first seed of retraining, which judges them.
  """
  draws = {s: random_archs(supernet, s, count) for s in study_seeds}
  first = seeds[0]
  lab.train([(a, first) for archs in draws.values() for a in archs], say)
  best = []
  for archs in draws.values():
    per = [lab.value(arch, first, 'val_per') for arch in archs]
    best.append(archs[int(np.argmin(per))])
  return best


def supernet_ranks(searches, work, lab, out, tick):
  """Lets supernets judge every architecture of the benchmark table.

  Returns:
    dict from the index of a search to val_per_n, in the order of
    `benchmark_archs`.
  """
  from nasjax.oneshot import search as searching

  if lab.benchmark is None:
    return {}
  archs = benchmark_archs(searches[0].supernet, lab)
  found = {}
  wanted = [
    i
    for i, search in enumerate(searches)
    if search.method.name in FLAGS.rank_methods
  ]
  for i in wanted:
    searcher, state = searching.restore(
      searches[i], work.prepareds[0], work.job.corpus_fingerprint, out
    )
    pers = []
    for arch in archs:
      choices = searches[i].supernet.choices(arch)
      pers.append(searcher.evaluate(state.search.params, choices)[1])
      tick(len(found) * len(archs) + len(pers), len(wanted) * len(archs))
    found[i] = np.array(pers)
  return found


def benchmark_archs(supernet, lab):
  """Returns the architectures of the benchmark table that the supernet has."""
  found = []
  for arch in np.unique(lab.benchmark.row_archs, axis=0):
    try:
      supernet.choices(arch)
    except ValueError:
      continue
    found.append(arch)
  return np.array(found, np.int8)


def run(methods, search_seeds, stages, out, record):
  """Runs the study that the flags describe; returns a `Study`.

  `record`, a `command.Record`, is written before the first search.
  """
  recipe = training_flags.recipe()
  seeds = training_flags.seeds()
  # What is wrong with these is said at once.
  elsewhere = found_on(FLAGS.found_on, make_supernet(training_flags.macro()))
  work = jobs.prepare(recipe, len(methods) * len(search_seeds))
  from common import console
  from common import lab as lab_lib

  from nasjax import table
  from nasjax.data import batching
  from nasjax.decoding import metrics

  units = work.prepareds[0].units
  metrics.named(FLAGS.metric, work.job.metric, units, '--metric')
  say = console.CONSOLE.print
  benchmark = (
    None if FLAGS.table is None
    else table.open(pathlib.Path(FLAGS.table).expanduser())
  )  # fmt: skip
  supernet = make_supernet(work.job.macro)
  labels, searches = plan(methods, search_seeds, stages, supernet, recipe)
  lab = lab_lib.Lab(work, out, benchmark)
  if FLAGS.table is not None and lab.benchmark is None:
    raise ValueError(
      f'--table={FLAGS.table} has no row of this space, macro network, recipe '
      'and corpus; give the flags that it was made with'
    )
  if lab.benchmark is not None:
    lab.benchmark.errors(FLAGS.metric)  # says so where it has none
  say(
    f'{supernet.space.name}: {len(supernet.edges)} edges, {supernet.size:,} '
    f'choices; {len(searches)} searches of at most {searches[0].epochs} epochs'
  )
  record.write(work.job.metric)
  with console.Searches(searches, work.job.metric) as bar:
    results = search_all(searches, work, out, bar)
  found = []
  for label in dict.fromkeys(labels):
    own = [i for i, other in enumerate(labels) if other == label]
    if not searches[own[0]].method.searches:
      continue
    found.append(
      Found(
        label,
        [np.array(results[i]['arch'], np.int8) for i in own],
        [results[i]['executions']['batches'] for i in own],
      )
    )
  found += elsewhere
  for label, arch in baselines(supernet).items():
    found.append(Found(label, [arch], [0.0]))
  lab.train(
    [(arch, seed) for f in found for arch in f.archs for seed in seeds], say
  )
  prepared = work.prepareds[0]
  plan_of_epoch = batching.train_plan(
    prepared.bucket_u, prepared.buckets, (seeds[0],), 1
  )
  one = len(plan_of_epoch.bucket_s) * recipe.epochs
  dearest = max(max(f.batches) for f in found)
  count = FLAGS.random_archs or max(1, math.ceil(dearest / one))
  best = random_search(search_seeds, supernet, count, lab, seeds, say)
  lab.train([(arch, seed) for arch in best for seed in seeds], say)
  found.append(
    Found(f'random search of {count}', best, [float(count * one)] * len(best))
  )
  with console.counter('ranking by shared weights') as tick:
    ranks = supernet_ranks(searches, work, lab, out, tick)
  return Study(
    work, supernet, labels, searches, results, found, lab, seeds, ranks
  )
