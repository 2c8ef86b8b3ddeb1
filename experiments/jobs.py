"""The way from flags to a corpus in memory and the workers that train on it."""

from typing import NamedTuple

import corpora
import devices
import training


class Work(NamedTuple):
  """What launchers that train have in common.

  Attributes:
    job: `runs.Job`.
    corpus: `data.corpus.Corpus`.
    builder: the prepared TFDS builder that it comes from.
    prepareds: of `runs.prepare`, one for each worker.
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
    job: `runs.Job`, that of the work or like it.
    members: (architecture, seed) pairs.
    together: the most members of a shard.
    out: directory of the run.
  """
  import monitor

  from nasjax import runs, workers

  # Workers that train a member after the other share out the members, and one
  # program of one member serves them all; others map the members.
  alone = work.mesh.devices.flat[0].platform == 'cpu'
  shards = runs.plan(job, members, 1 if alone else together)
  with monitor.Bar(shards, job) as bar:
    say = monitor.CONSOLE.print
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


def prepare(recipe, most, macro=None, topology=None):
  """Makes the corpus of the flags ready for training.

  Args:
    recipe: `recipes.Recipe`.
    most: networks that are trained together.
    macro: `models.Macro`; that of the flags if not given.
    topology: as in `devices.meshes`.

  Returns:
    Work.

  Raises:
    ValueError: the macro network does not read what the front end makes.
  """
  devices.configure(most)
  own_space = training.space()
  macro, frontend = macro or training.macro(), corpora.frontend()
  if macro.features != frontend.width:
    raise ValueError(
      f'--macro={macro.name} reads {macro.features} features a frame, '
      f'--frontend={frontend.name} makes {frontend.width}; change one of them'
    )
  import monitor

  from nasjax import runs
  from nasjax.data import corpus as corpus_lib

  with monitor.counter('preparing speech') as tick:
    builder = corpora.prepare(tick)
  with monitor.counter('computing features') as tick:
    corpus = corpus_lib.load(builder, frontend=frontend, progress=tick)
  macro = macro.with_outputs(1 + len(corpus.symbols))
  job = runs.Job(
    own_space,
    macro,
    recipe,
    corpus.name,
    corpus.fingerprint,
    corpora.metric(),
    tuple(corpora.left_out(builder)),
    tuple(corpora.notes(builder)),
  )
  meshes = devices.meshes(topology)
  prepareds = [runs.prepare(corpus, recipe, mesh) for mesh in meshes]
  return Work(job, corpus, builder, prepareds)
