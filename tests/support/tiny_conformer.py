"""A space of conformer-like encoders that are trained on the tiny corpus."""

import contextlib
import dataclasses

import tiny_corpus

from nasjax import spaces
from nasjax.models import families, macros
from nasjax.models.conformer import family
from nasjax.spaces import conformer

SPACE = conformer.space(
  'tiny_conformer', 2, ('none', 1, 2), ('none', 3, 5), (1.5, 3), (1, 2, 3)
)
MACRO = macros.Conformer(
  'tiny_conformer',
  blocks=2,
  width=8,
  head=4,
  stacked=1,
  outputs=6,
  features=tiny_corpus.FEATURES,
)
CAUSAL = dataclasses.replace(MACRO, name='tiny_causal', attention='causal')
CHUNKED = dataclasses.replace(
  MACRO, name='tiny_chunked', attention='chunked', chunk=2, left=1
)
RECIPE = tiny_corpus.variant(l2=0.0)


def arch(**changes):
  """Returns the largest architecture but for decisions by name."""
  largest = SPACE.names_of_choices(conformer.largest(SPACE))
  return SPACE.parse(dict(zip(SPACE.fields, largest)) | changes)


@contextlib.contextmanager
def registered():
  """Lets all know of the family, while it is used."""
  named = {m.name: m for m in (MACRO, CAUSAL, CHUNKED)}
  families.add(SPACE, dataclasses.replace(family.FAMILY, macros=named))
  yield
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    del names[SPACE.name]
