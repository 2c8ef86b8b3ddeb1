"""A space of transducers that are trained in seconds on the tiny corpus."""

import contextlib
import dataclasses

import tiny_corpus

from nasjax import spaces
from nasjax.benchmark import running
from nasjax.models import families, macros
from nasjax.models.todm import family
from nasjax.spaces import todm

SPACE = todm.elastic('tiny_todm', 2, (4, 8), (2, 1))
MACRO = macros.Todm(
  'tiny_todm',
  blocks=2,
  width=8,
  joined=8,
  stacked=2,
  depth=1,
  states=4,
  predictor='stateless',
  predictor_width=8,
  outputs=6,
  features=tiny_corpus.FEATURES,
)
CTC = dataclasses.replace(MACRO, name='tiny_todm_ctc', predictor='none')
RECIPE = tiny_corpus.variant(
  loss='transducer',
  l2=0.0,
  batch=8,
  batch_long=8,
  loss_norm='labels',
  decay=1.0,
)
CTC_RECIPE = dataclasses.replace(RECIPE, loss='ctc')


@contextlib.contextmanager
def registered():
  """Lets all know of the family, while it is used."""
  named = {m.name: m for m in (MACRO, CTC)}
  families.add(SPACE, dataclasses.replace(family.FAMILY, macros=named))
  yield
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    del names[SPACE.name]


def job(recipe=RECIPE, macro=MACRO):
  """Returns the `Job` of the tiny corpus."""
  tiny = tiny_corpus.corpus()
  return running.Job(SPACE, macro, recipe, tiny.name, tiny.fingerprint)
