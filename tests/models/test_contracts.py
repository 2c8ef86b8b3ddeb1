"""Shapes that do not fit are named where they come in, before anything runs.

Each of these would else be spread over another axis, or fail far inside.
"""

import jax
import jax.numpy as jnp
import pytest
import tiny_corpus

from nasjax import spaces
from nasjax.data import features
from nasjax.layers import mixed_op
from nasjax.losses import ctc
from nasjax.models import families, macros
from nasjax.oneshot import estimators

POCKET = macros.Tdnn('pocket', 8, 3, 3, outputs=6, features=8)
NARROW = macros.Conformer('narrow', 4, 8, 2, outputs=6, features=8)


def _network(space, macro, x_btf, len_b):
  arch = space.parse(space.sample(jax.random.key(0), 1)[0])
  network = families.single(space, arch, macro)
  held = families.gates(space, arch)
  network.init(jax.random.key(0), x_btf, len_b, held)


def _mean_loss(weight_b):
  labels_bu, len_b = jnp.ones((2, 3), int), jnp.full(2, 3)
  ctc.mean_ctc_loss(jnp.zeros((2, 8, 6)), len_b + 5, labels_bu, len_b, weight_b)


def _mix(weight_k):
  double = mixed_op.Candidates((lambda *_: _[1],) * 2, lambda *_: _[1])
  edge = mixed_op.Edge(weight_k, jnp.int32(0), jnp.int32(0))
  mixed_op.mix(
    'path', double, ({}, {}), ({}, {}), edge, jnp.ones((2, 3, 4)), ()
  )


@pytest.mark.parametrize(
  'function, arguments, seen',
  [
    (_mean_loss, [jnp.ones((2, 1))], r'\(2, 1\)'),
    (_mix, [jnp.ones(3)], r'\(3,\)'),
    (
      estimators.draw,
      [estimators.softmax, None, (jnp.ones((2, 2)),)],
      'rank 2',
    ),
    (features.log_mel, [jnp.ones((2, 999)), jnp.ones(3)], r'\(3,\)'),
    *(
      (_network, [space, macro, jnp.ones(x), jnp.ones(len_b, int)], seen)
      for space, macro in (
        (spaces.NB_ASR, tiny_corpus.MACRO), (spaces.ST_NAS, POCKET),
        (spaces.CONFORMER_SMALL, NARROW),
      )
      for x, len_b, seen in (
        ((2, 9, 7), 2, r'\(2, 9, 7\)'),
        ((9, 8), 2, r'\(9, 8\)'),
        ((2, 9, 8), 1, r'\(1,\)'),
      )
    ),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_named(function, arguments, seen):
  with pytest.raises(AssertionError, match=seen):
    function(*arguments)
