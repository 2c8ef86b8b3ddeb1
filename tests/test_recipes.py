import dataclasses
import json
import math

import pytest

from nasjax import recipes


@pytest.mark.parametrize(
  'name, epochs, factor, start',
  [('e40', 40, 0.9, 5), ('e10', 10, 0.631, 2), ('e5', 5, 0.398, 1)],
)
def test_schedules_of_the_paper(name, epochs, factor, start):
  recipe = recipes.RECIPES[name]
  assert (recipe.name, recipe.epochs) == (name, epochs)
  expected = 1e-4
  for epoch in range(1, epochs + 1):
    if epoch > start:
      expected *= factor
    assert recipe.learning_rate(epoch) == pytest.approx(expected, rel=1e-12)
  # All three end at a fortieth of where they began.
  assert recipe.learning_rate(epochs) == pytest.approx(2.5e-6, rel=0.01)


def test_the_rest_is_the_papers_too():
  for recipe in (recipes.E40, recipes.E10, recipes.E5):
    assert (recipe.batch, recipe.batch_long, recipe.long_frames) == (
      64,
      32,
      200,
    )
    assert recipe.curriculum == (16000, 16000, 32000, 32000)
    assert (recipe.dropout, recipe.l2, recipe.lr) == (0.2, 0.01, 1e-4)
    assert (recipe.decoder, recipe.beam_width) == ('beam', 12)
    assert recipe.adam_epsilon == 1e-7


def test_no_decay():
  recipe = recipes.Recipe('x', 9, lr=3e-3, decay=1.0, start=0)
  assert {recipe.learning_rate(e) for e in range(1, 10)} == {3e-3}


def test_names_are_those_of_the_recipes():
  assert all(name == r.name for name, r in recipes.RECIPES.items())


@pytest.mark.parametrize(
  'field, value',
  [
    ('epochs', 0),
    ('epochs', 1.5),
    ('epochs', True),
    ('lr', 0.0),
    ('lr', -1e-3),
    ('lr', math.nan),
    ('lr', math.inf),
    ('decay', 0.0),
    ('decay', 1.1),
    ('start', -1),
    ('dropout', 1.0),
    ('dropout', -0.1),
    ('l2', -1.0),
    ('l2', math.nan),
    ('clip', 0.0),
    ('adam_epsilon', 0.0),
    ('batch', 0),
    ('batch', 8.0),
    ('batch_long', 0),
    ('long_frames', 0),
    ('buckets', 0),
    ('curriculum', (16000, 0)),
    ('loss_norm', 'label'),
    ('decoder', 'Beam'),
    ('beam_width', 0),
  ],
)
def test_what_makes_no_sense_is_refused(field, value):
  with pytest.raises(ValueError, match=f'recipe e5: {field}=') as caught:
    dataclasses.replace(recipes.E5, **{field: value})
  assert repr(value) in str(caught.value)


def test_recipes_are_values():
  """They name programs and shards: hashable, comparable, plain in JSON."""
  listed = dataclasses.replace(recipes.E5, curriculum=[16000])
  assert listed == dataclasses.replace(recipes.E5, curriculum=(16000,))
  assert hash(listed) == hash(dataclasses.replace(listed))
  assert listed != recipes.E5
  read = json.loads(json.dumps(dataclasses.asdict(recipes.E5)))
  assert recipes.Recipe(**read) == recipes.E5
  with pytest.raises(dataclasses.FrozenInstanceError):
    recipes.E5.lr = 1.0
