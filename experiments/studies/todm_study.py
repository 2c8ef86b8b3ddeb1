"""The trainings of a study of train once, deploy many, and their searches."""

import dataclasses
import json
import math
import re
from typing import NamedTuple

import numpy as np
from absl import flags
from common import metering
from studies import todm_sizes

FLAGS = flags.FLAGS

ALONE = 'A1'
# The row that Table 2 varies.
DISTILLED = 'D'
_TOLD = {
  'A2': 'largest alone, CTC heads on inner layers',
  'A3': 'largest alone, transducer heads on inner layers',
  'B0': 'supernet, widths',
  'B1': 'supernet, widths and depth',
  'C': 'and dropout by width',
  'D': 'and distillation by KL',
  'E': 'distillation by alpha-divergence',
  'F': 'E, at last by ScaledAdam',
  'exits': 'largest alone, networks end at inner layers',
  'topk': 'C, networks of the best scores',
  'orthosoftmax': 'C, networks by OrthoSoftmax',
  'paths': 'one drawn network a step, no largest',
}
_ABLATION = re.compile(r'(kl|alpha)_(?:top([1-9]\d*)|label_blank)')


class Way(NamedTuple):
  """A way to train a supernet.

  Attributes:
    label: row of Table 1, or name of what is varied for Table 2.
    what: in words.
    table: 1 or 2.
    options: `sandwich.Options`.
  """

  label: str
  what: str
  table: int
  options: object


def ways(rows, ablation):
  """Returns the `Way`s that names stand for, and whether A1 is among them.

  Raises:
    ValueError: a name is unknown, or there is none.
  """
  from nasjax.oneshot import sandwich

  known = [ALONE, *sandwich.ROWS]
  found = []
  for row in dict.fromkeys(rows):
    if row not in known:
      raise ValueError(f'--rows: {row!r}; there are {", ".join(known)}')
    if row != ALONE:
      found.append(Way(row, _TOLD.get(row, row), 1, sandwich.ROWS[row]))
  for name in dict.fromkeys(ablation):
    found.append(_varied(name, sandwich.ROWS[DISTILLED]))
  if not rows and not found:
    raise ValueError('--rows is empty; name at least one')
  return found, ALONE in rows


def check_search():
  """Raises a ValueError where flags make no search."""
  if not 0 < FLAGS.mutation_rate <= 1:
    raise ValueError(
      f'--mutation_rate={FLAGS.mutation_rate}: want a probability above 0, at '
      'most 1'
    )
  if not FLAGS.mutants + FLAGS.crossings:
    raise ValueError('--mutants=0, --crossings=0: want at least one child')


def alike(chosen):
  """Returns lists of ways, those of one list being the same training."""
  found = {}
  for way in chosen:
    found.setdefault(way.options, []).append(way)
  return list(found.values())


def _varied(name, options):
  match = _ABLATION.fullmatch(name)
  if not match:
    raise ValueError(
      f'--ablation: {name!r}; want a divergence, kl or alpha, and what it is '
      'over, topN or label_blank, as kl_top2 or alpha_label_blank'
    )
  differ, count = match.groups()
  changes = {'differ': differ, 'select': 'top' if count else 'label_blank'}
  if count:
    changes['count'] = int(count)
  divergence = {'kl': 'KL', 'alpha': 'alpha-divergence'}[differ]
  over = f'the {count} likeliest symbols' if count else 'next label and blank'
  return Way(
    name,
    f'{divergence} over {over}',
    2,
    dataclasses.replace(options, distil=options.distil._replace(**changes)),
  )


class Searched:
  """The networks that a training has trained, as a search takes a space.

  Decisions that stay as the largest network has them have one value.
  """

  def __init__(self, training, costs):
    space = training.space
    self._space, self._costs = space, costs
    self.name = space.name
    self._fixed = [space.fields.index(f) for f in training.options.fixed]
    self._largest = training.largest
    self.sizes = tuple(
      1 if d in self._fixed else size for d, size in enumerate(space.sizes)
    )

  def archs(self, arch_nd):
    """Returns the architectures of its vectors."""
    arch_nd = np.array(arch_nd, np.int8)
    arch_nd[:, self._fixed] = self._largest[self._fixed]
    return arch_nd

  def vectors(self, archs_nd):
    """Returns the vectors of architectures that it has, and of no others."""
    archs_nd = np.asarray(archs_nd, np.int8)
    mine = self.archs(archs_nd) == archs_nd
    found = archs_nd[mine.all(axis=1)].copy()
    found[:, self._fixed] = 0
    return found

  def keys(self, arch_nd):
    return self._space.keys(self.archs(arch_nd))

  def costs(self, arch_nd):
    return self._costs(self.archs(arch_nd))


def evolution(training, costs, sizes):
  """Returns the search of a supernet, and what it searches.

  Its first networks are the smallest, the largest and those of the sizes: so
  that each size has at least what one would have taken unsearched.
  """
  from nasjax.search.algorithms import pareto

  searched = Searched(training, costs)
  least, most = costs.of(training.smallest), costs.most
  first = [training.smallest, training.largest, *(s.arch for s in sizes)]
  step = max(1.0, (most - least) / FLAGS.bins)
  search = pareto.evolution(
    searched, searched.costs, least, most, step,
    seed=training.seed, population=FLAGS.population, mutants=FLAGS.mutants,
    crossings=FLAGS.crossings, generations=FLAGS.generations,
    rate=FLAGS.mutation_rate, first=searched.vectors(first),
  )  # fmt: skip
  return search, searched


def unsearched(training):
  """Returns the networks of a training of the largest alone.

  That one; with heads of its own kind also those that end at them.
  """
  archs, space = [training.largest], training.space
  if training.options.heads == 'own' and training.options.head_weight == 1:
    for depth in range(1, space.sizes[-1]):
      archs.append(np.array([*training.largest[:-1], depth], np.int8))
  return np.array(archs)


def kept(errors, params, best):
  """Returns places of what nothing beats, and of the best of each bin."""
  from nasjax import analysis

  front = np.flatnonzero(
    analysis.non_dominated(np.stack([params, errors], axis=1))
  )
  both = np.union1d(front, best)
  return both[np.argsort(params[both], kind='stable')]


def at_sizes(sizes, errors, params):
  """Returns (name of a size, place of the best network no larger) pairs."""
  found = []
  for size in sizes:
    below = np.flatnonzero((params <= size.params) & np.isfinite(errors))
    if below.size:
      order = np.lexsort((params[below], errors[below]))
      found.append((size.name, int(below[order[0]])))
  return found


class Study:
  """What all trainings of a study share.

  Attributes:
    work: `jobs.Work`.
    costs: `todm_sizes.Costs`.
    sizes: list of `todm_sizes.Size`.
    recipe: of all.
    seeds: of all.
    out: directory.
  """

  def __init__(self, work, recipe, seeds, out):
    from nasjax.decoding import metrics

    self.work, self.recipe, self.out = work, recipe, out
    self.space, self.macro = work.job.space, work.job.macro
    self.costs = todm_sizes.Costs(self.space, self.macro)
    self.sizes = todm_sizes.named(FLAGS.sizes, self.costs)
    self.seeds = seeds
    units = metrics.Units(tuple(work.corpus.symbols))
    decides = work.job.metric
    self.metric = metrics.named(FLAGS.metric, decides, units, '--metric')
    # As trainers take it.
    self._metric = None if self.metric == decides else self.metric.lower()

  def training(self, way, seed):
    from nasjax.oneshot import sandwich

    return sandwich.Training(
      self.space, self.macro, self.recipe, way.options, seed
    )

  def supernets(self, same, seed, prepared, tell, say):
    """Trains and searches one supernet, or what is left of it.

    Args:
      same: list of `Way`, all of the same options: E is alpha_top10, too.

    Returns:
      a record for each of them, plain values, as OUT/supernets/NAME.json has
      it; those of further ways are NAME_WAY.json.
    """
    from nasjax.storage import disk

    way, *others = same
    training = self.training(way, seed)
    name = training.name(self.work.job.corpus_fingerprint)
    record = self._finished(name)
    if record is None:
      record = self._made(way, training, name, prepared, tell, say)
    else:
      parts = self.recipe.epochs + FLAGS.generations
      for _ in range(parts):
        tell(f'{way.label}, seed {seed}: searched before', True)
    records = [record | _told(one) for one in same]
    names = [name, *(f'{name}_{other.label}' for other in others)]
    for name, record in zip(names, records):
      text = json.dumps(record, indent=1).encode()
      disk.publish(self.out / 'supernets' / f'{name}.json', text)
    return records

  def _finished(self, name):
    """Returns the record of a supernet that was searched, or None.

    It needs no weights: so a study goes on from its records alone.
    """
    path = self.out / 'supernets' / f'{name}.json'
    if not path.exists():
      return None
    from nasjax import deploying

    record = deploying.read(path, 'at_sizes', 'metric', 'int8')
    same = record['metric'], record['int8'], record['name']
    sizes = {row['size'] for row in record['at_sizes']}
    if same != (self.metric, FLAGS.int8, name) or not sizes <= {
      size.name for size in self.sizes
    }:
      return None
    return record | {'prepared_corpus': str(self.work.builder.data_dir)}

  def _made(self, way, training, name, prepared, tell, say):
    """Trains and searches a supernet; returns its record."""
    from nasjax.oneshot import sandwich
    from nasjax.storage import disk
    from nasjax.training import recipes

    seed, fingerprint = training.seed, self.work.job.corpus_fingerprint
    times = self.out / 'times'
    disk.make_directory(times)
    epochs = metering.Meter(times / f'{name}.json', prepared.mesh.size)

    def on_epoch(epoch, history, resumed):
      epochs.lap(f'epoch {epoch}') if not resumed else epochs.begin()
      error = history['val_error'][epoch - 1]
      smallest = history['smallest_val_error'][epoch - 1]
      tell(
        f'{way.label}, seed {seed}: epoch {epoch}/{self.recipe.epochs}: '
        f'{self.work.job.metric} of the largest {error:.1%}, of the smallest '
        f'{smallest:.1%}',
        resumed,
      )

    trainer = sandwich.run(
      training, prepared, fingerprint, self.out, on_epoch, say
    )
    searches = metering.Meter(times / f'{name}_search.json', prepared.mesh.size)
    archs_nd, errors, best, evaluated = self._searched(
      way, trainer, name, searches, tell
    )
    params = self.costs(archs_nd)
    places = kept(errors, params, best)
    self._keep_statistics(trainer, name, archs_nd[places])
    chosen = at_sizes(self.sizes, errors, params)
    places_tested = sorted({n for _, n in chosen})
    tests = trainer.evaluate(
      archs_nd[places_tested], 'test', FLAGS.int8, self._metric
    )
    tested = dict(zip(places_tested, tests.tolist()))
    steps = int(trainer.state.step)
    return {
      'name': name,
      'seed': seed,
      'space': self.space.name,
      'macro': dataclasses.asdict(self.macro),
      'recipe': recipes.describe(self.recipe),
      'corpus': self.work.job.corpus_name,
      'fingerprint': fingerprint,
      'prepared_corpus': str(self.work.builder.data_dir),
      'metric': self.metric,
      'int8': FLAGS.int8,
      'widths': widths(self.space),
      'store': [self._row(archs_nd[n], errors[n]) for n in places],
      'evaluated': evaluated,
      'hypervolume': self._volume(errors, params),
      'at_sizes': [
        self._row(archs_nd[n], errors[n])
        | {'size': size, 'seed': seed, 'test': tested[n]}
        for size, n in chosen
      ],
      'batches': steps * sandwich.forwards(way.options),
      'seconds': epochs.seconds,
      'joules': epochs.joules,
      'search_seconds': searches.seconds,
      'search_joules': searches.joules,
    }

  def _keep_statistics(self, trainer, name, archs_nd):
    from nasjax import deploying

    own = {tuple(arch.tolist()): trainer.statistics(arch) for arch in archs_nd}
    if None not in own.values():
      deploying.keep_statistics(self.out, name, own)

  def _searched(self, way, trainer, name, meter, tell):
    """Returns architectures, errors, places of the best of bins, their count.

    Those are on validation.
    """
    from nasjax.search import generations
    from nasjax.storage import disk

    training = trainer.training

    def evaluate(archs_nd):
      return trainer.evaluate(
        archs_nd, 'validation', FLAGS.int8, self._metric
      )

    if not training.options.others:
      archs_nd = unsearched(training)
      errors = evaluate(archs_nd)
      meter.lap('all')
      return archs_nd, errors, np.arange(len(archs_nd)), len(archs_nd)
    search, searched = evolution(training, self.costs, self.sizes)
    place = self.out / 'evolution'
    disk.make_directory(place)
    begun = False

    def evaluated(arch_nd):
      nonlocal begun
      begun = True
      return evaluate(searched.archs(arch_nd))

    def on_generation(state):
      if begun:
        meter.lap(f'generation {state.generation}')
      lowest = np.nanmin(state.error_n, initial=np.inf)
      tell(
        f'{way.label}, seed {training.seed}: generation {state.generation}/'
        f'{FLAGS.generations}: {len(state.error_n)} networks, '
        f'{len(search.store(state))} bins, best {self.metric} {lowest:.1%}',
        not begun,
      )

    state = generations.run(
      search,
      evaluated,
      place / f'{name}.json',
      {'supernet': name, 'int8': FLAGS.int8}
      | ({} if self._metric is None else {'metric': self._metric}),
      on_generation,
    )
    archs_nd = searched.archs(state.arch_nd)
    return archs_nd, state.error_n, search.store(state), len(state.error_n)

  def _row(self, arch, error):
    space = self.space
    return {
      'arch': [int(digit) for digit in arch],
      'names': space.names(arch),
      'widths': layer_widths(space, arch),
      'params': self.costs.of(arch),
      'validation': None if math.isnan(error) else float(error),
    }

  def _volume(self, errors, params):
    """Returns the hypervolume of all, in shares of the largest and of 100 %."""
    from nasjax import analysis

    points = np.stack([params / self.costs.most, errors], axis=1)
    return analysis.hypervolume(points, (1.001, 1.0))

  def alone(self, say):
    """Trains the networks of all sizes by themselves; returns a row each."""
    from common import lab as lab_lib

    from nasjax.programs import energy

    lab = lab_lib.Lab(self.work, self.out)
    pairs = [(s.arch, seed) for s in self.sizes for seed in self.seeds]
    meter = metering.Meter(self.out / 'times' / 'alone.json')
    if energy.joules() is None:
      lab.train(pairs, say)
    else:  # one after the other, for devices count all that they do
      for arch, seed in pairs:
        if lab.has(arch, seed):
          continue
        meter.begin()
        lab.train([(arch, seed)], say)
        meter.lap(_pair(arch, seed))
    found = []
    for size in self.sizes:
      for seed in self.seeds:
        # Curves of single networks know what decides alone.
        val = math.nan
        if self._metric is None:
          val = lab.value(size.arch, seed, 'val_per')
        values = {
          'test': lab.value(size.arch, seed, 'test_per', self._metric),
          'seconds': lab.value(size.arch, seed, 'seconds'),
        }
        found.append(
          self._row(size.arch, val)
          | values
          | {
            'size': size.name,
            'seed': seed,
            'joules': meter.of(_pair(size.arch, seed)),
          }
        )
    return found

  def record(self, supernets, alone):
    """Returns all that a report is made of; see `todm_summary`."""
    from nasjax.programs import energy

    job = self.work.job
    networks = self.space.size
    if self.space.fields[-1] == 'depth':
      from nasjax.spaces import todm

      networks = todm.networks(self.space)
    return {
      'space': self.space.name,
      'macro': self.macro.name,
      'corpus': job.corpus_name,
      'metric': self.metric,
      'recipe': self.recipe.name,
      'seeds': list(self.seeds),
      'epochs': self.recipe.epochs,
      'int8': FLAGS.int8,
      'networks': networks,
      'range': [self.costs.least, self.costs.most],
      'widths': widths(self.space),
      'sizes': [
        {
          'name': s.name, 'params': s.params, 'arch': s.arch.tolist(),
          'names': self.space.names(s.arch),
        }
        for s in self.sizes
      ],
      'supernets': supernets,
      'alone': alone,
      'energy': energy.why_not(),
    }  # fmt: skip


def _told(way):
  return {
    'way': way.label, 'label': way.label, 'what': way.what, 'table': way.table
  }  # fmt: skip


def _pair(arch, seed):
  return f'{"-".join(map(str, arch))} {seed}'


def widths(space):
  """Returns all widths that layers of a space may have, rising."""
  if space.fields[-1] != 'depth':
    return list(range(1, 1 + max(space.sizes)))
  from nasjax.spaces import todm

  own = space.choices[: todm.layers(space)]
  return sorted({int(width) for names in own for width in names})


def layer_widths(space, arch):
  """Returns the width of each layer of a network; of others its choices."""
  if space.fields[-1] != 'depth':
    return [1 + int(digit) for digit in arch]
  from nasjax.spaces import todm

  return list(todm.widths(space, arch))


def run(chosen, with_alone, out, record):
  """Runs the study that the flags describe; returns the record of a report.

  Args:
    chosen: list of `Way`.
    with_alone: whether networks of the sizes are trained alone.
    out: directory of the study.
    record: a `command.Record`, written before the first training.
  """
  from common import jobs, training_flags

  recipe, seeds = training_flags.recipe(), training_flags.seeds()
  work = jobs.prepare(recipe, max(1, len(chosen) * len(seeds)))
  study = Study(work, recipe, seeds, out)
  for way in chosen:  # what is wrong with one is said at once
    training = study.training(way, seeds[0])
    if training.options.others:
      evolution(training, study.costs, study.sizes)
  from common import console

  from nasjax.benchmark import workers

  say = console.CONSOLE.print
  say(
    f'{study.space.name} on {work.job.corpus_name}: networks of '
    f'{study.costs.least:,} to {study.costs.most:,} parameters; '
    f'{len(chosen)} ways, {len(seeds)} seeds'
  )
  record.write(work.job.metric)
  tasks = [(ways, seed) for ways in alike(chosen) for seed in seeds]
  parts = recipe.epochs + FLAGS.generations
  with console.Parts(len(tasks) * parts) as bar:

    def one(task, prepared, check):
      def tell(line, known):
        bar(line, known)
        check()

      return study.supernets(*task, prepared, tell, say)

    records = workers.share(one, tasks, work.prepareds)
    supernets = [record for several in records for record in several]
  order = [way.label for way in chosen]
  supernets.sort(key=lambda record: order.index(record['label']))
  alone = study.alone(say) if with_alone else []
  return study.record(supernets, alone)
