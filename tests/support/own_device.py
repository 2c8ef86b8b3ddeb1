"""For --own: a small elastic space of encoders for CTC, of 80 filters."""

import dataclasses

from nasjax import spaces
from nasjax.models import families, macros
from nasjax.models.conformer import family
from nasjax.spaces import conformer

SPACE = conformer.space(
  'own_device', 1, ('none', 1, 2), ('none', 3), (1.5, 3), (1, 2)
)
MACRO = macros.Conformer('own_device', blocks=1, width=8, head=4)

OWN = {MACRO.name: MACRO}
families.add(SPACE, dataclasses.replace(family.FAMILY, macros=OWN))


def forget():
  """Lets nobody know of the space any more."""
  for names in (spaces.SPACES, macros.BY_SPACE, families.FAMILIES):
    names.pop(SPACE.name, None)
