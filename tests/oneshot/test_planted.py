"""Tests of the planted-operation task."""

import dataclasses

import jax
import numpy as np
import pytest

from nasjax.data.synthetic import planted
from nasjax.oneshot import methods
from nasjax.oneshot import planted as searches
from nasjax.training import population


def test_a_label_is_the_symbol_so_far_before_its_marker():
  corpus = planted.corpus(3, train=20, held_out=4, noise=0.0)
  split = corpus.train
  for u in range(20):
    x_tf = split.x_tf(u)
    # Frames come in threes.
    assert len(x_tf) % 3 == 0
    three_sf = x_tf.reshape(-1, 3, x_tf.shape[1])
    np.testing.assert_array_equal(three_sf[:, 0], three_sf[:, 1])
    np.testing.assert_array_equal(three_sf[:, 0], three_sf[:, 2])
    symbol_s = three_sf[:, 0, :-1].argmax(-1)
    markers = np.flatnonzero(three_sf[:, 0, -1])
    np.testing.assert_array_equal(
      1 + symbol_s[markers - planted.DISTANCE], split.labels[u]
    )


def test_corpora_of_other_seeds_differ_and_say_so():
  one, other = (planted.corpus(s, train=5, held_out=2) for s in (0, 1))
  assert one.fingerprint != other.fingerprint
  assert one.train.features.shape != other.train.features.shape
  assert not np.array_equal(one.validation.labels[0], one.test.labels[0])


def test_a_size_below_one_is_refused():
  with pytest.raises(ValueError, match='held_out 0'):
    planted.corpus(0, held_out=0)


@pytest.mark.slow
def test_st_nas_finds_the_operation(tmp_path):
  # Ten seeds: experiments/planted.py. One here, soon learnt.
  method = dataclasses.replace(methods.ST_NAS, alpha_lr=3e-3)
  mesh = population.member_mesh(jax.devices()[:1])
  result, solved = searches.run(
    method, 2, mesh, tmp_path, warm_up=20, epochs=12
  )
  assert solved, result['names']
  # Nothing else is nearly as good: it alone reads what the labels need.
  assert result['curves']['val_per'][-1] < 0.1
