"""Tests of `custom_vjps.depthwise_conv` against loops over taps and frames."""

import functools

import jax
import numpy as np

from nasjax.layers import custom_vjps


def by_hand(x_btc, kernel_kc, shifts):
  y_btc = np.zeros_like(x_btc)
  for t in range(x_btc.shape[1]):
    for k, shift in enumerate(shifts):
      if 0 <= t + shift < x_btc.shape[1]:
        y_btc[:, t] += x_btc[:, t + shift] * kernel_kc[k]
  return y_btc


def test_a_filter_a_channel_and_its_gradient():
  rng = np.random.default_rng(0)
  x_pbtc = rng.normal(size=(2, 3, 5, 4))
  kernel_pkc = rng.normal(size=(2, 3, 4))
  dy_pbtc = rng.normal(size=x_pbtc.shape)
  # In any order, and further than there are frames.
  for shifts in ((0, -1, 1), (2, -7, 0)):

    @jax.jit
    @jax.vmap
    def run(x_btc, kernel_kc, dy_btc, shifts=shifts):
      conv = functools.partial(custom_vjps.depthwise_conv, shifts=shifts)
      y_btc, pull = jax.vjp(conv, x_btc, kernel_kc)
      return y_btc, *pull(dy_btc)

    given = (x_pbtc, kernel_pkc, dy_pbtc)
    y_pbtc, dx_pbtc, dk_pkc = run(*(a.astype(np.float32) for a in given))
    for p in range(2):
      x_btc, kernel_kc, dy_btc = (part[p] for part in given)
      expected = by_hand(x_btc, kernel_kc, shifts)
      np.testing.assert_allclose(y_pbtc[p], expected, atol=1e-5)
      back = by_hand(dy_btc, kernel_kc, [-s for s in shifts])
      np.testing.assert_allclose(dx_pbtc[p], back, atol=1e-5)
      for k, c in np.ndindex(3, 4):
        one = np.zeros_like(kernel_kc)
        one[k, c] = 1
        slope = (by_hand(x_btc, one, shifts) * dy_btc).sum()
        np.testing.assert_allclose(dk_pkc[p, k, c], slope, atol=1e-5)


def test_libraries_of_accelerators_are_given_the_same_filters():
  rng = np.random.default_rng(1)
  x_btc = rng.normal(size=(2, 6, 4)).astype(np.float32)
  kernel_kc = rng.normal(size=(3, 4)).astype(np.float32)
  shifts = (0, -1, 2)
  found = custom_vjps.depthwise_conv(x_btc, kernel_kc, shifts, 'gpu')
  np.testing.assert_allclose(
    found, by_hand(x_btc, kernel_kc, shifts), atol=1e-5
  )
