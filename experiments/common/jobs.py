"""The way from flags to a corpus in memory and the workers that train on it."""

import contextlib
from typing import NamedTuple

from absl import flags
from common import command, corpus_flags, device_flags, training_flags

FLAGS = flags.FLAGS


class Work(NamedTuple):
  """What launchers that train have in common.

  Attributes:
    job: `running.Job`.
    corpus: `data.corpus.Corpus`.
    builder: the prepared TFDS builder that it comes from.
    prepareds: of `running.device_corpus`, one for each worker.
  """

  job: object
  corpus: object
  builder: object
  prepareds: list

  @property
  def mesh(self):
    """The mesh of a worker; all are alike."""
    return self.prepareds[0].mesh


def train(work, job, members, together, out):
  """Trains members, those of a signature together, into the table of `out`.

  Args:
    work: Work.
    job: `running.Job`, that of the work or like it.
    members: (architecture, seed) pairs.
    together: the most members of a shard.
    out: directory of the run.
  """
  from common import console

  from nasjax.benchmark import running, workers

  # Workers that train a member after the other share out the members, and one
  # program of one member serves them all; others map the members.
  alone = work.mesh.devices.flat[0].platform == 'cpu'
  shards = running.plan(job, members, 1 if alone else together)
  with console.Bar(shards, job) as bar:
    say = console.CONSOLE.print
    workers.run(job, shards, work.prepareds, out, bar, say)


def rows(job, table):
  """Returns the rows of a table that are of this job.

  Raises:
    table.MissingEntryError: there are none.
  """
  return table.select(
    space=job.space.name,
    recipe=job.recipe.name,
    macro=job.macro.name,
    corpus_fingerprint=job.corpus_fingerprint,
  )


def prepare(recipe, most, macro=None, topology=None, initial=None, members=()):
  """Makes the corpus of the flags ready for training.

  Args:
    recipe: `recipes.Recipe`.
    most: networks that are trained together.
    macro: `macros.Cells`; that of the flags if not given.
    topology: as in `devices.meshes`.
    initial: path of the weights that training begins with, as --initial.
    members: (architecture, seed) pairs that it has to have.

  Returns:
    Work.

  Raises:
    ValueError: the macro network does not read what the front end makes, or
      `initial` is not what it should be.
  """
  device_flags.configure(most)
  own_space = training_flags.space()
  macro, frontend = macro or training_flags.macro(), corpus_flags.frontend()
  if macro.features != frontend.width:
    raise ValueError(
      f'--macro={macro.name} reads {macro.features} features a frame, '
      f'--frontend={frontend.name} makes {frontend.width}; change one of them'
    )
  from common import console

  from nasjax.benchmark import running
  from nasjax.data import corpus as corpus_lib
  from nasjax.training import initial as initial_lib

  begun = None
  if initial is not None:
    with _initial(initial):
      begun = initial_lib.Initial(initial, own_space, macro, members)
  with console.counter('preparing speech') as tick:
    builder = corpus_flags.prepare(tick)
  with console.counter('computing features') as tick:
    corpus = corpus_lib.load(
      builder,
      frontend=frontend,
      progress=tick,
      encoding=FLAGS.stored_features,
      place=command.directory('data_dir'),
    )
  macro = macro.with_outputs(1 + len(corpus.symbols))
  meshes, budget = device_flags.meshes(topology), FLAGS.device_features_gb
  if budget is not None:
    budget *= 1e9
  prepareds = [
    running.device_corpus(corpus, recipe, mesh, budget) for mesh in meshes
  ]
  # Where the corpus comes in pieces, its order is another.
  pieces = prepareds[0].train.count
  marks = [f'{pieces}pieces'] if pieces > 1 else []
  notes = corpus_flags.notes(builder)
  if begun is not None:
    with _initial(initial):
      begun.take(macro, recipe, corpus.symbols)
    marks.append(begun.mark)
    head = 'the head with them' if begun.head else 'the head drawn anew'
    notes.append(f'begun with the weights of {initial}, {head}')
    console.CONSOLE.print(notes[-1], soft_wrap=True)
  job = running.Job(
    own_space,
    macro,
    recipe,
    corpus.name,
    '+'.join([corpus.fingerprint, *marks]),
    corpus_flags.metric(corpus.symbols),
    tuple(corpus_flags.left_out(builder)),
    tuple(notes),
    begun,
  )
  return Work(job, corpus, builder, prepareds)


@contextlib.contextmanager
def _initial(path):
  """Says of what is wrong with weights which flag they come from."""
  try:
    yield
  except ValueError as e:
    raise ValueError(f'--initial={path}: {e}') from None
