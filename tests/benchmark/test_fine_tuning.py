"""Training on: which recipe it has, and what it refuses."""

import dataclasses

import pytest

from nasjax.benchmark import fine_tuning
from nasjax.models import families, macros
from nasjax.spaces import SPACES
from nasjax.training import recipes


@dataclasses.dataclass
class _Network:
  recipe: recipes.Recipe
  about: dict = dataclasses.field(default_factory=dict)
  place: str = 'searches/abc'


def test_its_recipe_is_the_networks_own_but_for_few_numbers():
  for own in (recipes.E40, recipes.ST_NAS, recipes.DARTS_ASR):
    found = fine_tuning.recipe_of(_Network(own), 3)
    assert (found.precision, found.epochs, found.loss) == ('int8', 3, own.loss)
    rates = found.learning_rates([1.0, 2.0, 3.0])
    assert rates[:3] == [pytest.approx(own.lr / 10)] * 3
  found = fine_tuning.recipe_of(_Network(recipes.E5), 2, 1e-3, 'float32')
  assert (found.name, found.lr) == ('e5-float32-e2', 1e-3)
  assert recipes.Recipe(**recipes.describe(found)) == found
  with pytest.raises(ValueError, match='epochs=0'):
    fine_tuning.recipe_of(_Network(recipes.E5), 0)


def test_shared_weights_are_refused():
  with pytest.raises(ValueError, match='is a search'):
    fine_tuning.run(_Network(recipes.E5), None, 'out', 1)


def test_networks_that_do_not_round_are_refused():
  recipe = dataclasses.replace(recipes.E5, name='q', precision='int8')
  space = SPACES['nb_asr']
  arch = space.parse([[0, 1], [2, 1, 1], [0, 1, 1, 1]])
  assert families.network(space, arch, macros.TINY, recipe).precision == 'int8'
  ops = (('linear', 'zero'),) * 3
  with pytest.raises(ValueError, match='supernet cannot be trained for eight'):
    families.supernet(space, ops, macros.TINY, recipe, 'path')
  other = SPACES['darts_asr']
  arch = other.parse([0] * len(other.sizes))
  macro = next(iter(families.family(other).macros.values()))
  with pytest.raises(ValueError, match='space darts_asr cannot .* nb_asr, st'):
    families.network(other, arch, macro, recipe)
