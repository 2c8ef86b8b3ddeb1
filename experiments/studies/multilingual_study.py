"""The trainings of a multilingual study: alone, on sources, adapted.

All networks go through one training, that of DARTS-ASR: a network without a
choice is a supernet of one candidate an edge. So front ends alone differ.
"""

import dataclasses
import threading
from typing import NamedTuple

from absl import flags
from common import corpus_flags
from studies import multilingual_corpora, multilingual_hearing

from nasjax import spaces
from nasjax.models import macros

FLAGS = flags.FLAGS

# By name: space, macro network, and what is kept of the choices: all of them,
# or one for all places.
MODELS = {
  'vgg_small': ('vgg', 'vgg', 'small'),
  'vgg_large': ('vgg', 'vgg', 'large'),
  'darts_asr': ('darts_asr', 'darts_asr', None),
  'conv3x3': ('darts_asr', 'darts_asr_conv3', 'conv3x3'),
}
SEARCHED = 'darts_asr'
DISCRETE = 'darts_asr_discretised'
WAYS = {'a': 'parameters', 'b': 'both', 'c': 'pruned'}
# Of `--size`: what is changed of the macro networks of the paper. VGG halves
# time twice by itself: with these strides all have an output every 40 ms
# ('quick') or 80 ms ('tiny'), so that it is not resolution that decides.
SIZES = {
  'paper': {},
  'quick': {'lstm': 64, 'lstms': 2, 'stride': 4},
  'tiny': {'lstm': 12, 'lstms': 1, 'stride': 8},
}
_WIDTHS = {
  'quick': {
    'vgg': {'small': 16, 'large': 32, 'stride': 1},
    'darts_asr': {'width': 8},
    'darts_asr_conv3': {'width': 16},
  },
  'tiny': {
    'vgg': {'small': 3, 'large': 6, 'stride': 2},
    'darts_asr': {'width': 2},
    'darts_asr_conv3': {'width': 4},
  },
}


class Task(NamedTuple):
  """A training.

  Attributes:
    setting: 'alone' on its language, on all 'sources', 'adapted' from there, or
      'discretised': what was found alone, trained anew.
    model: of `MODELS`, or `DISCRETE`.
    language: code of the target; '' for the sources.
    seed: of all.
    way: a key of `WAYS` for those that are adapted, else ''.
  """

  setting: str
  model: str
  language: str
  seed: int
  way: str = ''

  @property
  def label(self):
    words = [self.model, self.language or 'sources', f'seed {self.seed}']
    if self.setting == 'adapted':
      words.append(f'adapted ({self.way})')
    return ', '.join(words)


class Done(NamedTuple):
  """What a training came to.

  Attributes:
    task: `Task`.
    result: of `oneshot.search.run`.
    heard: of `multilingual_hearing.judge`.
    params: parameters that are trained, all candidates counted.
  """

  task: Task
  result: dict
  heard: dict
  params: int


class Study(NamedTuple):
  """A study that is over.

  Attributes:
    done: list of `Done`.
    corpora: `multilingual_corpora.Corpora`.
    seeds: of training.
  """

  done: list
  corpora: object
  seeds: list


def models():
  """Returns the names of the models that flags name, VGG-Small first.

  Raises:
    ValueError: there is none of that name, or none to compare with.
  """
  for name in FLAGS.models:
    if name not in MODELS:
      raise ValueError(f'--models: {name!r}; there are {", ".join(MODELS)}')
  if not FLAGS.models:
    raise ValueError(f'--models is empty; there are {", ".join(MODELS)}')
  return [name for name in MODELS if name in FLAGS.models]


def ways():
  """Returns the ways of adaptation that flags name, 'b' always.

  Raises:
    ValueError: there is none of that name.
  """
  for way in FLAGS.ways:
    if way not in WAYS:
      told = ', '.join(f'{key} ({name})' for key, name in WAYS.items())
      raise ValueError(f'--ways: {way!r}; there are {told}')
  return [way for way in WAYS if way in FLAGS.ways or way == 'b']


def tasks():
  """Returns the trainings of the flags, in three rounds that need each other.

  Networks without a choice have one way to be adapted, 'b'.
  """
  from common import training_flags

  _, targets = multilingual_corpora.codes()
  own_models, seeds = models(), training_flags.seeds()
  if len(set(seeds)) < len(seeds):
    raise ValueError(
      f'--seeds={",".join(map(str, seeds))}: want each once; what is trained '
      'twice alike tells no spread'
    )
  first = [
    Task('sources', model, '', seed) for model in own_models for seed in seeds
  ]
  first += [
    Task('alone', model, code, seed)
    for model in own_models
    for code in targets
    for seed in seeds
  ]
  second = [
    Task('adapted', model, code, seed, way)
    for model in own_models
    for way in (ways() if model == SEARCHED else ['b'])
    for code in targets
    for seed in seeds
  ]
  if SEARCHED in own_models:
    second += [
      Task('discretised', DISCRETE, code, seed)
      for code in targets
      for seed in seeds
    ]
  return first, second


def macro_of(model, heads, features):
  """Returns the macro network of a model with an output for each language.

  Args:
    model: of `MODELS`, or `DISCRETE`.
    heads: outputs of each.
    features: of a frame.
  """
  space, name, _ = MODELS[SEARCHED if model == DISCRETE else model]
  found = macros.BY_SPACE[space][name]
  size = FLAGS.size
  changes = SIZES[size] | _WIDTHS.get(size, {}).get(name, {})
  if size != 'paper':
    changes['name'] = f'{name}_{size}_multilingual'
  found = dataclasses.replace(found, features=features, **changes)
  return found.with_heads(heads)


def supernet_of(model, macro):
  """Returns a model's `Supernet`, of one candidate where nothing chooses."""
  from nasjax.oneshot.supernet import Supernet

  name, _, kept = MODELS[model]
  space = spaces.SPACES[name]
  ways = () if kept is None else ((kept,),) * len(space.fields)
  return Supernet(space, macro, kept=ways)


def stages():
  """Returns the stages of every training."""
  from common import training_flags

  from nasjax.oneshot import stages as stages_lib

  return stages_lib.darts_asr(0, training_flags.recipe().epochs, FLAGS.sgd_lr)


def method_of():
  """Returns the `Method`: DARTS-ASR's, or on two levels."""
  from nasjax.oneshot import methods

  found = methods.DARTS_ASR_BILEVEL if FLAGS.bilevel else methods.DARTS_ASR
  return dataclasses.replace(found, alpha_lr=FLAGS.alpha_lr)


def weights_of():
  """Returns the `steps.Weights` of every training."""
  from common import training_flags

  from nasjax.oneshot import steps
  from nasjax.training import recipes

  # Rates are those of the stages; L2 is the decay of SGD.
  own = recipes.plain(training_flags.recipe())
  own = dataclasses.replace(own, l2=0.0, decoder='greedy')
  return steps.Weights('sgd', own, FLAGS.momentum, FLAGS.weight_decay)


class Runner:
  """Runs tasks; keeps the corpora on the devices, each once a mesh."""

  def __init__(self, corpora, meshes, out, on_epoch, say):
    """
    Args:
      corpora: `multilingual_corpora.Corpora`.
      meshes: of `device_flags.meshes`, one a worker.
      out: directory of the study.
      on_epoch: called with a label and a `SearchProgress`.
      say: called with lines of text.
    """
    self._corpora, self._out = corpora, out
    self._on_epoch, self._say = on_epoch, say
    self._prepareds = {id(mesh): {} for mesh in meshes}
    self._lock = threading.Lock()
    self._sources = {}

  def corpus(self, task):
    """Returns the corpus of a task."""
    if task.setting == 'sources':
      return self._corpora.sources
    return self._corpora.targets[task.language]

  def _prepared(self, task, mesh):
    from common import training_flags

    from nasjax.benchmark import running

    corpus = self.corpus(task)
    held = self._prepareds[id(mesh)]  # of one worker alone
    if corpus.name not in held:
      recipe = training_flags.recipe()
      held[corpus.name] = running.device_corpus(corpus, recipe, mesh)
    return held[corpus.name]

  def _heads(self, task):
    alphabets = self.corpus(task).alphabets
    return [1 + len(symbols) for symbols in alphabets.values()]

  def _search(self, task):
    """Returns the `Search` of a task that begins with nothing."""
    from nasjax.oneshot import search as searching

    features = corpus_flags.frontend().width
    macro = macro_of(task.model, self._heads(task), features)
    return searching.Search(
      supernet_of(task.model, macro), method_of(), weights_of(), stages(),
      task.seed,
    )  # fmt: skip

  def _restored(self, task, mesh):
    """Returns search, state and name of a task that is done."""
    from nasjax.oneshot import search as searching

    search, prepared = self._search(task), self._prepared(task, mesh)
    fingerprint = self.corpus(task).fingerprint
    _, state = searching.restore(search, prepared, fingerprint, self._out)
    return search, state.search, search.name(fingerprint)

  def _begun(self, task, mesh):
    """Returns the `Search` of a task, and the state with which it begins."""
    from nasjax.oneshot import adapting

    if task.setting == 'adapted':
      source = Task('sources', task.model, '', task.seed)
      found, state, name = self._restored(source, mesh)
      own, way = self._search(task), WAYS[task.way]
      supernet = adapting.supernet(
        found.supernet, way, state.alpha_e, own.supernet.macro
      )
      method = adapting.method(own.method, way)
      search = dataclasses.replace(
        own, supernet=supernet, method=method, source=name
      )
      return search, adapting.begun(search, found.supernet, state)
    if task.setting == 'discretised':
      alone = Task('alone', SEARCHED, task.language, task.seed)
      found, state, _ = self._restored(alone, mesh)
      supernet = adapting.pruned_supernet(found.supernet, state.alpha_e, 1)
      return dataclasses.replace(found, supernet=supernet), None
    return self._search(task), None

  def __call__(self, task, mesh, check):
    """Trains, or what is left of it, and lets the network hear; see `Done`."""
    from nasjax.oneshot import search as searching

    prepared, corpus = self._prepared(task, mesh), self.corpus(task)
    search, start = self._begun(task, mesh)

    def on_epoch(progress):
      self._on_epoch(task.label, progress)
      check()

    result = searching.run(
      search, prepared, corpus.fingerprint, self._out, on_epoch, self._say,
      start,
    )  # fmt: skip

    def judged():
      searcher, state = searching.restore(
        search, prepared, corpus.fingerprint, self._out
      )
      return multilingual_hearing.judge(searcher, state.search, corpus) | {
        '': {'params': _count(state.search.params)}
      }

    heard = multilingual_hearing.kept(self._out, result['name'], judged)
    params = heard.pop('')['params']
    return Done(task, result, heard, params)


def _count(params):
  """Returns how many parameters are trained: running statistics are none."""
  import jax

  return sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key not in ('mean', 'variance')
  )


def run(out, record) -> Study:
  """Runs the study that the flags describe.

  Args:
    out: directory of the study.
    record: `command.Record`, written before the first training.
  """
  from common import device_flags, training_flags

  first, second = tasks()
  device_flags.configure(len(first))
  corpora = multilingual_corpora.prepare()
  from common import console

  from nasjax.benchmark import workers

  meshes = device_flags.meshes()
  record.write('CER')
  say = console.CONSOLE.print
  say(
    f'{len(first) + len(second)} trainings on '
    + ', '.join(
      f'{code} ({len(symbols)} symbols)'
      for code, symbols in corpora.alphabets.items()
    )
  )
  with console.Trainings(len(first) + len(second)) as bar:
    runner = Runner(corpora, meshes, out, bar, say)
    done = []
    for round_ in (first, second):
      for found in workers.share(runner, round_, meshes):
        done.append(found)
        bar.finish(found.task.label)
  return Study(done, corpora, training_flags.seeds())


def multiply_accumulates(model, macro, frames):
  """Returns those of a forward pass.

  Of a model that searches all candidates are counted, of what is discretised a
  mean candidate an edge.
  """
  from nasjax import cost

  supernet = supernet_of(SEARCHED if model == DISCRETE else model, macro)
  space, mains = supernet.space, supernet.mains
  most = max(len(names) for _, names in mains)
  archs = [
    supernet.arch([min(k, len(names) - 1) for _, names in mains])
    for k in range(most)
  ]
  each = [cost.macs(space, arch, macro, frames) for arch in archs]
  # What all have counts once: skips and pools have no product.
  least = min(each)
  candidates = sum(macs - least for macs in each)
  return least + candidates / (most if model == DISCRETE else 1)
