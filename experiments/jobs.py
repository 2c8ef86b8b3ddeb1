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


def prepare(recipe, most, macro=None):
  """Makes the corpus of the flags ready for training.

  Args:
    recipe: `recipes.Recipe`.
    most: networks that are trained together.
    macro: `models.Macro`; that of the flags if not given.

  Returns:
    Work.
  """
  devices.configure(most)
  import monitor

  from nasjax import runs, spaces
  from nasjax.data import corpus as corpus_lib

  with monitor.counter('preparing speech') as tick:
    builder = corpora.prepare(tick)
  with monitor.counter('computing features') as tick:
    corpus = corpus_lib.load(builder, progress=tick)
  macro = (macro or training.macro()).with_outputs(1 + len(corpus.symbols))
  job = runs.Job(spaces.NB_ASR, macro, recipe, corpus.name, corpus.fingerprint)
  prepareds = [runs.prepare(corpus, recipe, mesh) for mesh in devices.meshes()]
  return Work(job, corpus, builder, prepareds)
