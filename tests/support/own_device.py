"""For --own: a small elastic space of encoders for CTC, of 80 filters."""

import dataclasses

from nasjax import spaces
from nasjax.models import families, macros
from nasjax.models.todm import family
from nasjax.spaces import todm

SPACE = todm.elastic('own_device', 2, (4, 8, 16), (2, 1))
MACRO = macros.Todm(
  'own_device',
  blocks=2,
  width=8,
  joined=8,
  stacked=6,
  depth=1,
  states=4,
  predictor='none',
)

OWN = {MACRO.name: MACRO}
families.add(SPACE, dataclasses.replace(family.FAMILY, macros=OWN))


def forget():
  """Lets nobody know of the space any more."""
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    names.pop(SPACE.name, None)
