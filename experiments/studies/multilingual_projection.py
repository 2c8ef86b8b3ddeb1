"""What a multilingual study would cost: a few epochs of each kind of network.

On drawn features of the lengths that the flags ask for, through the training of
the study, and without other work beside it. What networks hear after training,
by a 5-gram, is not counted.
"""

import time
from typing import NamedTuple

import numpy as np
from absl import flags
from common import corpus_flags, device_flags
from studies import multilingual_study

FLAGS = flags.FLAGS

# Of the utterances of a language, those that train. A sixth judges: a batch for
# each four of training.
TRAINED = 2 / 3
# Of a language, about as many as they have.
SYMBOLS = 40
# Pruned: three operations an edge, as `multilingual_study.WAYS` has it.
PRUNED = 'darts_asr_pruned'


class Cost(NamedTuple):
  """What one kind of network costs.

  Attributes:
    trainings: how many there are.
    programs: that are compiled, one for each corpus and way of training.
    utterance: seconds of one in training, an epoch's evaluation included.
    compile: seconds of each program.
    utterances: that all its trainings train with, all epochs together.
  """

  trainings: int
  programs: int
  utterance: float
  compile: float
  utterances: int

  @property
  def seconds(self):
    return self.utterance * self.utterances + self.programs * self.compile


def kind_of(task):
  """Returns which network a task trains: a model, discretised or pruned."""
  return PRUNED if task.way == 'c' else task.model


def utterances(task, sources, epochs):
  """Returns the utterances that a task trains with, all epochs together."""
  languages = len(sources) if task.setting == 'sources' else 1
  return round(TRAINED * FLAGS.utterances) * languages * epochs


def frames(words):
  """Returns the frames of so many words.

  0.55 s a word and 0.3 s of silence, measured on the languages spoken.
  """
  return int(100 * (0.3 + 0.55 * words))


def measured(tasks, sources):
  """Returns the `Cost` of each kind of network, timed on the device at hand.

  Args:
    tasks: all `multilingual_study.Task`s.
    sources: codes of the source languages.
  """
  from common import training_flags

  device_flags.configure(1)
  recipe = training_flags.recipe()
  prepared = _prepared(recipe)
  found = {}
  for kind in dict.fromkeys(map(kind_of, tasks)):
    own = [task for task in tasks if kind_of(task) == kind]
    utterance, compile_s = _timed(kind, prepared)
    # Adapted as they were trained, networks run the program of that training.
    ways = {(t.language, t.way if t.way != 'b' else '') for t in own}
    total = sum(utterances(task, sources, recipe.epochs) for task in own)
    found[kind] = Cost(len(own), len(ways), utterance, compile_s, total)
  return found


def _prepared(recipe):
  """Returns a drawn corpus on the device: four batches of each bucket."""
  from nasjax.benchmark import running
  from nasjax.data import corpus

  rng, (fewest, most) = np.random.default_rng(0), map(int, FLAGS.sentence_words)
  features = corpus_flags.frontend().width

  def split(name, batches):
    count = batches * recipe.batch * recipe.buckets
    lengths = [frames(words) for words in np.linspace(fewest, most, count)]
    drawn = [rng.normal(size=(n, features)) for n in lengths]
    # A symbol each 0.1 s.
    labels = [rng.integers(1, SYMBOLS + 1, 1 + n // 10) for n in lengths]
    return corpus.drawn(name, drawn, [own.astype(np.int32) for own in labels])

  symbols = tuple(f's{n:02}' for n in range(SYMBOLS))
  made = corpus.Corpus(
    'drawn', 'drawn', symbols, np.arange(SYMBOLS + 1, dtype=np.int32), symbols,
    split('train', 4), split('validation', 1), split('test', 1),
    np.zeros(features, np.float32), np.ones(features, np.float32),
  )  # fmt: skip
  return running.device_corpus(made, recipe, device_flags.meshes()[0])


def _timed(kind, prepared):
  """Returns seconds of an utterance in training, and of compiling."""
  from nasjax.oneshot import search as searching

  search = searching.Search(
    _supernet(kind), multilingual_study.method_of(),
    multilingual_study.weights_of(), multilingual_study.stages(), 0,
  )  # fmt: skip
  trainer = searching.SupernetTrainer(search, prepared)
  state, spent = trainer.initial(), []
  for epoch in (1, 2, 3):
    wall, processor = time.perf_counter(), time.process_time()
    state = trainer.epoch(state, min(epoch, search.epochs))[0]
    gone = time.perf_counter() - wall
    if prepared.mesh.devices.flat[0].platform == 'cpu':
      # Other work lengthens the one, several cores of this work the other.
      gone = min(gone, time.process_time() - processor)
    spent.append(gone)
  least = min(spent[1:])
  return least / len(prepared.bucket_u), max(0.0, spent[0] - least)


def _supernet(kind):
  """Returns the `Supernet` of a kind; what is kept of it is drawn."""
  model = multilingual_study.SEARCHED if kind == PRUNED else kind
  macro = multilingual_study.macro_of(
    model, [SYMBOLS + 1], corpus_flags.frontend().width
  )
  if kind not in (multilingual_study.DISCRETE, PRUNED):
    return multilingual_study.supernet_of(model, macro)
  from nasjax.oneshot import adapting

  whole = multilingual_study.supernet_of(multilingual_study.SEARCHED, macro)
  rng = np.random.default_rng(0)
  alpha_e = [rng.normal(size=len(names)) for _, names in whole.mains]
  count = adapting.KEPT if kind == PRUNED else 1
  return adapting.pruned_supernet(whole, alpha_e, count)
