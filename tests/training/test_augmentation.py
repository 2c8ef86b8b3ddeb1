"""SpecAugment's masks, CR-CTC's two views, and training with both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus

from nasjax.layers import dropout
from nasjax.losses import ctc
from nasjax.training import augmentation, recipes, step

RECIPE = dataclasses.replace(
  tiny_corpus.RECIPE,
  frequency_masks=2,
  frequency_mask_bins=5,
  time_masks=2,
  time_mask_frames=30,
  time_mask_share=0.25,
)
LENGTHS = np.array([100, 60, 8, 0], np.int32)


def key_of(seed):
  return dropout.step_key(jax.random.key(seed), 3)


@jax.jit
def shown(key):
  """Where 400 x 4 utterances of ones are not hidden, by kind of mask."""
  keys = jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(key, n)))(
    jnp.arange(400)
  )
  x_btf, len_b = jnp.ones((4, 100, 20)), jnp.asarray(LENGTHS)

  def masked(**off):
    recipe = dataclasses.replace(RECIPE, **off)
    return jax.vmap(lambda key: augmentation.masked(x_btf, len_b, key, recipe))(
      keys
    )

  bands = masked(time_masks=0, time_mask_frames=100, time_mask_share=1.0)
  stretches = masked(frequency_masks=0, frequency_mask_bins=27)
  return bands, stretches, masked()


def test_bands_and_stretches_are_as_wide_as_may_be():
  bands, stretches, both = map(np.asarray, shown(jax.random.key(0)))
  np.testing.assert_array_equal(both, bands * stretches)
  # A band hides its filters in all frames, a stretch all filters.
  assert (bands == bands[:, :, :1]).all()
  assert (stretches == stretches[..., :1]).all()
  hidden_nbf = bands[:, :, 0] == 0
  widths = hidden_nbf.sum(-1)
  assert widths.min() == 0 and 8 <= widths.max() <= 10
  # Two of 0 to 5 filters, of 20: anywhere, the edges a little less often.
  share_f = hidden_nbf.mean((0, 1))
  assert share_f[0] > 0.02 and 0.15 < share_f.mean() < 0.25
  hidden_nbt = stretches[..., 0] == 0
  for b, length in enumerate(LENGTHS):
    assert not hidden_nbt[:, b, length:].any()
    longest = min(30, int(0.25 * length))
    assert hidden_nbt[:, b].sum(-1).max() <= 2 * longest
    expected = longest  # The mean of two of 0 to `longest` frames.
    assert hidden_nbt[:, b].sum(-1).mean() == pytest.approx(
      expected, rel=0.2, abs=0.3
    )


def test_rows_and_steps_have_masks_of_their_own_wherever_rows_are():
  x_btf, len_b = np.ones((4, 100, 20), np.float32), np.full(4, 100, np.int32)
  key = key_of(0)
  whole = augmentation.masked(x_btf, len_b, key, RECIPE)
  assert len({row.tobytes() for row in np.asarray(whole)}) == 4
  late = augmentation.masked(
    x_btf[2:], len_b[2:], dropout.from_row(key, jnp.int32(2)), RECIPE
  )
  np.testing.assert_array_equal(whole[2:], late)
  for other in (key_of(1), dropout.another(key)):
    assert (np.asarray(whole) != augmentation.masked(
      x_btf, len_b, other, RECIPE
    )).any()  # fmt: skip


def test_two_views_are_held_against_each_other():
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, 3, 7, 5)).astype(np.float32)
  len_b = np.array([7, 4, 0])
  second[1, 4:] = np.nan
  loss_b = ctc.consistency_loss(first, second, len_b)
  p, q = (np.array(jax.nn.softmax(x)) for x in (first, second))
  expected = 0.5 * ((p - q) * (np.log(p) - np.log(q))).sum(-1)
  expected[1, 4:] = 0
  np.testing.assert_allclose(
    loss_b, [expected[0].sum(), expected[1].sum(), 0], rtol=1e-5
  )
  # Each is drawn to the other as it is: softmax minus the other's, halved.
  gradient = jax.grad(lambda x: ctc.consistency_loss(x, second, len_b).sum())
  found = np.asarray(gradient(first))
  np.testing.assert_allclose(found[0], 0.5 * (p - q)[0], atol=1e-6)
  assert np.isfinite(found).all() and (found[1, 4:] == 0).all()


def test_recipes_name_what_is_without_effect():
  with pytest.raises(ValueError, match='time_mask_share.* without effect'):
    dataclasses.replace(tiny_corpus.RECIPE, time_mask_share=0.1)
  for field, value in [
    ('frequency_masks', -1),
    ('time_mask_share', 1.5),
    ('consistency', -0.1),
  ]:
    with pytest.raises(ValueError, match=f'{field}={value} is out of range'):
      dataclasses.replace(RECIPE, **{field: value})
  # Older recipes are described, and so named, as they were.
  assert (
    not {'consistency', 'time_masks'}
    & recipes.describe(tiny_corpus.RECIPE).keys()
  )
  told = recipes.describe(RECIPE)
  assert recipes.Recipe(**told) == RECIPE


def test_a_population_trains_under_masks_with_two_views():
  """Validation sees no mask; a loss that cannot be compared is refused."""
  recipe = dataclasses.replace(
    RECIPE,
    epochs=6,
    frequency_mask_bins=2,
    time_mask_frames=4,
    consistency=0.2,
    decay=1.0,
  )
  trainer = tiny_corpus.trainer(
    [([[1, 1], [0, 1, 1], [5, 0, 1, 1]], 7)], recipe=recipe
  )
  state = trainer.initial()
  for epoch in range(1, 7):
    state = trainer.epoch(state, epoch)
  train_e, val_e = (state.curves[n][0] for n in ('train_loss', 'val_loss'))
  assert train_e[-1] < 0.8 * train_e[0] and val_e[-1] < 0.8 * val_e[0]
  again, _ = trainer.evaluate(state.members.params, 'validation')
  assert again[0] == val_e[-1]


def test_losses_that_cannot_be_compared_are_refused(monkeypatch):
  recipe = dataclasses.replace(RECIPE, consistency=0.2, loss='mute')
  held = step.criterion.CRITERIA['ctc']._replace(consistency=None)
  monkeypatch.setitem(step.criterion.CRITERIA, 'mute', held)
  with pytest.raises(ValueError, match="consistency=0.2 .* loss='mute'"):
    tiny_corpus.trainer(
      [([[1, 1], [0, 1, 1], [5, 0, 1, 1]], 7)], recipe=recipe
    ).compiled()
