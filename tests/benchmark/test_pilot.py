"""A grid of schedules as one population."""

import dataclasses

import numpy as np
import pytest
import tiny_corpus

from nasjax import listening, table
from nasjax.benchmark import running, shards
from nasjax.training import recipes

CELL = tuple(
  tiny_corpus.SPACE.parse([[1, 1], [0, 1, 1], [5, 0, 1, 1]]).tolist()
)
RATES = 2e-2, 1e-3


def point(lr, **changes):
  return dataclasses.replace(
    tiny_corpus.RECIPE, name=f'lr{lr:g}', lr=lr, **changes
  )


def test_each_member_trains_at_its_own_rates(tmp_path):
  """As it would alone, but for what another size of program rounds."""
  job = tiny_corpus.job()
  own = [point(lr) for lr in RATES]
  (shard,) = shards.grid(job, [(CELL, 7)], own, 8)
  prepared = tiny_corpus.prepared()
  running.run_shard(job, shard, prepared, tmp_path / 'grid')
  found = table.open(tmp_path / 'grid')
  assert set(found.recipes) == {recipe.name for recipe in own}
  for recipe in own:
    alone = tiny_corpus.job(recipe)
    (single,) = running.plan(alone, [(CELL, 7)], 8)
    out = tmp_path / recipe.name
    running.run_shard(alone, single, prepared, out)
    row, one = (
      t.select(recipe=recipe.name).to_arrow().to_pylist()[0]
      for t in (found, table.open(out))
    )
    assert row['recipe_json'] == one['recipe_json']
    for name in ('learning_rate', 'train_loss', 'val_loss', 'val_per'):
      np.testing.assert_allclose(row[name], one[name], atol=1e-5)
    network = listening.load_network(tmp_path / 'grid', recipe=recipe.name)
    assert network.recipe == recipe
  first, second = found.curves('train_loss')
  assert (first != second).any()
  # Nothing is trained twice.
  assert not running.run_shard(job, shard, prepared, tmp_path / 'grid')


def test_grids_are_packed_by_signature():
  job = tiny_corpus.job()
  own = [point(lr / 100) for lr in range(1, 6)]
  other = tuple(
    tiny_corpus.SPACE.parse([[0, 1], [0, 1, 1], [5, 0, 1, 1]]).tolist()
  )
  found = shards.grid(job, [(CELL, 7), (CELL, 8), (other, 7)], own, 4)
  assert [len(s.members) for s in found] == [4, 4, 2, 3, 2]
  trained = [
    (*member, recipe.name)
    for s in found
    for member, recipe in zip(s.members, s.recipes, strict=True)
  ]
  assert len(set(trained)) == 15
  assert len({s.name for s in found}) == 5
  for s in found:
    assert set(s.streams) == {seed for _, seed in s.members}


def test_what_one_program_cannot_train_is_refused():
  job = tiny_corpus.job()
  with pytest.raises(
    ValueError, match='lr0.1 differs .* more than lr, decay, s'
  ):
    shards.grid(job, [(CELL, 7)], [point(0.1, dropout=0.3)], 8)
  with pytest.raises(ValueError, match='names of their own'):
    shards.grid(job, [(CELL, 7)], [point(0.1)] * 2, 8)
  assert {'lr', 'decay', 'start'} == set(shards.SCHEDULE)
  assert set(shards.SCHEDULE) <= recipes.describe(job.recipe).keys()
