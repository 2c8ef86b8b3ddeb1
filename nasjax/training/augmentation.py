"""Masks over the features of training: SpecAugment.

Park et al. 2019, "SpecAugment: A Simple Data Augmentation Method for Automatic
Speech Recognition", section 2, without time warping (of the least effect there,
section 5). What is hidden becomes 0, the mean of normalised features.
"""

import jax.numpy as jnp

from nasjax.layers import dropout

# Beyond the places in networks, which count from 0.
_BANDS, _STRETCHES = 1_000_003, 1_000_033


def masked(x_btf, len_b, key, recipe):
  """Hides bands of filters and stretches of frames, other ones in each row.

  A band has w filters, w uniform from 0 to `frequency_mask_bins`, and lies
  anywhere among the F; a stretch has w frames, from 0 to `time_mask_frames` and
  to `time_mask_share` of the utterance, and lies anywhere in it. They may
  overlap.

  Args:
    x_btf: features; where the front end stacks several of a filter bank (with
      deltas), all of them count as filters.
    len_b: frames of each utterance.
    key: as in `dropout.keep_mask`.
    recipe: `Recipe`.

  Returns:
    features like x_btf.
  """
  frames, filters = x_btf.shape[1:]
  hidden_btf = jnp.zeros((1, 1, 1), bool)
  if recipe.frequency_masks:
    all_b = jnp.full(len_b.shape, filters)
    most_b = jnp.minimum(all_b, recipe.frequency_mask_bins)
    hidden_bf = _hidden(
      key, _BANDS, recipe.frequency_masks, most_b, all_b, filters
    )
    hidden_btf = hidden_btf | hidden_bf[:, None, :]
  if recipe.time_masks:
    share_b = jnp.floor(recipe.time_mask_share * len_b).astype(len_b.dtype)
    most_b = jnp.minimum(share_b, recipe.time_mask_frames)
    hidden_bt = _hidden(
      key, _STRETCHES, recipe.time_masks, most_b, len_b, frames
    )
    hidden_btf = hidden_btf | hidden_bt[:, :, None]
  return jnp.where(hidden_btf, jnp.zeros((), x_btf.dtype), x_btf)


def _hidden(key, site, masks, most_b, length_b, size):
  """Returns bool [b, size]: what any of the masks hides.

  Args:
    key, site: of the draws.
    masks: how many.
    most_b: of how many elements one may be.
    length_b: within how many it lies.
    size: of the axis.
  """
  drawn_bm2 = dropout.uniform(key, site, (len(length_b), masks, 2))
  width_bm = jnp.floor(drawn_bm2[..., 0] * (most_b[:, None] + 1))
  free_bm = length_b[:, None] - width_bm
  start_bm = jnp.floor(drawn_bm2[..., 1] * (free_bm + 1))
  at_11s = jnp.arange(size)[None, None]
  end_bm = start_bm + width_bm
  inside_bms = (at_11s >= start_bm[..., None]) & (at_11s < end_bm[..., None])
  return inside_bms.any(1)
