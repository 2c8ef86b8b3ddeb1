import dataclasses
import hashlib
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from nasjax import table
from nasjax.training import plateau, recipes

ROOT = pathlib.Path(__file__).parents[2]


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
    rate = recipes.schedule(recipe)(epoch - 1)
    assert rate == pytest.approx(expected, rel=1e-12)
    # The same bits as from the formula.
    assert rate == recipe.lr * recipe.decay ** max(0, epoch - recipe.start)
  # All three end at a fortieth of where they began.
  assert rate == pytest.approx(2.5e-6, rel=0.01)


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
  assert {recipes.schedule(recipe)(count) for count in range(9)} == {3e-3}


def test_a_schedule_counts_updates_too_and_is_traced():
  recipe = recipes.Recipe('x', 9, lr=1e-2, decay=0.5, start=2)
  rates = list(map(recipes.schedule(recipe), range(4)))
  assert rates == [1e-2, 1e-2, 5e-3, 2.5e-3]
  by_update = recipes.schedule(recipe, steps=3)
  assert [by_update(count) for count in range(12)] == list(np.repeat(rates, 3))
  found = jax.jit(jax.vmap(by_update))(np.arange(12))
  np.testing.assert_allclose(found, np.repeat(rates, 3), rtol=1e-6)
  with pytest.raises(ValueError, match='st_nas.*patience=1.*follow the losses'):
    recipes.schedule(recipes.ST_NAS)


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
    ('loss', ''),
    ('loss', None),
    ('ctc_weight', -0.1),
    ('ctc_weight', math.inf),
    ('ctc_weight', math.nan),
    ('lm_order', 1),
    ('lm_order', 5),
    ('lm_order', 3.0),
    ('patience', -1),
    ('patience', 1.5),
    ('minimum_epochs', -1),
    ('delta', -0.5),
    ('delta', math.nan),
    ('stop_lr', -1e-5),
    ('stop_lr', 2e-4),  # above lr
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


# What came later.


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'ctc_weight': 0.1}, r"ctc_weight=0.1 is without effect where loss='ctc'"),
    ({'lm_order': 2}, "lm_order=2 is without effect where loss='ctc'"),
    ({'minimum_epochs': 1}, 'minimum_epochs=1 .* where patience=0'),
    ({'delta': 0.5}, 'delta=0.5 is without effect where patience=0'),
    ({'stop_lr': 1e-5}, 'stop_lr=1e-05 is without effect where patience=0'),
    ({'patience': 1}, 'stop_lr=0.0 never ends'),
    ({'patience': 1, 'stop_lr': 1e-5, 'decay': 1.0}, 'decay=1.0 and .* never'),
    (
      {'patience': 1, 'stop_lr': 1e-5, 'minimum_epochs': 5},
      'minimum_epochs=5 leaves none of 5 epochs',
    ),
  ],
)
def test_values_without_effect_and_endless_ones_are_refused(changes, named):
  with pytest.raises(ValueError, match=named):
    dataclasses.replace(recipes.E5, **changes)


@pytest.mark.parametrize(
  'recipe, digest',
  [
    (recipes.E40, '9c9a3dc9dd25d6bb'),
    (recipes.E10, '13046649d41d51cc'),
    (recipes.E5, '0b5f5e758f531fd8'),
    (recipes.E40_TF, '2e373e05cbe6e2b3'),
  ],
)
def test_first_recipes_are_described_as_ever(recipe, digest):
  """Names of shards and of changed recipes are hashes of this text."""
  text = json.dumps(recipes.describe(recipe), sort_keys=True)
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_rows_of_the_repository_describe_their_recipes():
  rows = table.open(ROOT / 'experiments' / 'tables' / 'synthetic_timit')
  texts = set(rows.column('recipe_json'))
  assert len(texts) == 2
  for text in texts:
    recipe = recipes.Recipe(**json.loads(text))
    assert json.dumps(recipes.describe(recipe), sort_keys=True) == text


LATER = {
  'loss': 'ctc_crf',
  'ctc_weight': 0.1,
  'lm_order': 2,
  'patience': 3,
  'minimum_epochs': 2,
  'delta': 0.5,
  'stop_lr': 1e-5,
}


def test_descriptions_tell_all_that_is_not_a_default():
  recipe = dataclasses.replace(recipes.E5, **LATER)
  found = recipes.describe(recipe)
  assert found == recipes.describe(recipes.E5) | LATER
  one = dataclasses.replace(recipe, ctc_weight=0.01)
  assert recipes.describe(one) == {
    name: value for name, value in found.items() if name != 'ctc_weight'
  }
  # JSON of anyone, without words for what is no finite number.
  for plain in (recipe, one, *recipes.RECIPES.values()):
    text = json.dumps(recipes.describe(plain), allow_nan=False)
    assert recipes.Recipe(**json.loads(text)) == plain


def test_the_recipe_of_st_nas():
  """Sections 4 of the paper and its code: three rates, then the end."""
  recipe = recipes.ST_NAS
  assert recipe.plateau == plateau.RETRAIN
  assert recipes.E40.plateau is None
  assert (recipe.batch, recipe.batch_long) == (128, 128)
  assert (recipe.dropout, recipe.l2, recipe.curriculum) == (0.5, 0.0, ())
  assert (recipe.loss, recipe.ctc_weight) == ('ctc_crf', 0.01)
  assert recipe.loss_norm == 'none' and recipe.adam_epsilon == 1e-8
  assert np.isfinite(np.float32(recipe.clip)) and recipe.clip > 1e29
  # Ten epochs do not count; each that is not better takes a tenth of the rate.
  losses = [5.0] * 10 + [4.0, 4.0, 3.0, 3.5, 2.0, 2.0, 1.0]
  rates = recipe.learning_rates(losses)
  expected = [1e-3] * 12 + [1e-4] * 2 + [1e-5] * 2 + [0.0] * 2
  np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_rates_end_where_losses_do():
  recipe = dataclasses.replace(
    recipes.E5, patience=2, stop_lr=1e-5, delta=0.1, decay=0.5
  )
  assert recipe.learning_rates([]) == [1e-4]
  # Only a fall by more than delta counts, and what came before bad epochs.
  rates = recipe.learning_rates([2.0, 1.95, 1.7, 1.65, 1.62, 1.61, 1.5])
  np.testing.assert_allclose(
    rates, np.array([1, 1, 1, 1, 1, 0.5, 0.25, 0.25]) * 1e-4
  )
  nothing = recipe.learning_rates([2.0, math.nan, 1.0, 0.5])
  assert nothing == [1e-4, 1e-4, 0.0, 0.0, 0.0]
  # The schedule by epochs does not look at losses.
  assert recipes.E5.learning_rates([math.nan] * 4) == [
    recipes.schedule(recipes.E5)(epoch) for epoch in range(5)
  ]


def _from_flags(*flags):
  """Returns what the launchers' flags make, in a process of its own."""
  code = (
    'import json, sys; from common import training_flags; '
    'from absl import flags; from nasjax.training import recipes; '
    'flags.FLAGS(sys.argv); '
    'print(json.dumps(recipes.describe(training_flags.recipe())))'
  )
  told = subprocess.run(
    [sys.executable, '-c', code, *flags],
    cwd=ROOT / 'experiments',
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(told.stdout)


def test_flags_carry_every_field():
  # A name of the time before there were the later fields.
  old = _from_flags('--recipe=e10', '--epochs=3', '--decoder=greedy',
                    '--curriculum=')  # fmt: skip
  assert old['name'] == 'e3-9f8dba'
  new = _from_flags(
    '--recipe=e5', *(f'--{name}={value}' for name, value in LATER.items())
  )
  assert new.pop('name').startswith('e5-')
  assert new | {'name': 'e5'} == json.loads(
    json.dumps(recipes.describe(recipes.E5) | LATER)
  )


def test_a_plain_recipe_is_without_what_came_later():
  found = recipes.plain(recipes.ST_NAS)
  assert (found.loss, found.plateau) == ('ctc', None)
  assert (found.lr, found.dropout) == (1e-3, 0.5)
  assert not set(recipes.describe(found)) & set(LATER)
  assert recipes.plain(recipes.E40) == recipes.E40
