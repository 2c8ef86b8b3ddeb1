"""Tests of nasjax/layers/elastic.py against networks cut to size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.layers import elastic, ssm
from nasjax.models.todm import network
from nasjax.programs import costs

WIDTHS = 4, 8, 16
RANKED = tuple(elastic.Factored(w, rank) for w in (4, 8) for rank in (1, 3))


def speech(frames=9, channels=6):
  x_btc = np.random.default_rng(0).normal(size=(2, frames, channels))
  return x_btc.astype(np.float32)


@functools.cache
def feed_forward(widths=WIDTHS):
  params = jax.jit(elastic.ElasticFeedForward(widths).init)(
    jax.random.key(0), speech(), 0
  )
  return jax.tree.map(lambda p: p + 0.1, params)['params']


@functools.partial(jax.jit, static_argnames=('rate', 'widths'))
def value_and_grads(params, x_btc, choice, key=None, rate=0.0, widths=WIDTHS):
  module = elastic.ElasticFeedForward(widths, rate)

  def total(params, x_btc):
    y_btc = module.apply({'params': params}, x_btc, choice, key)
    return jnp.sin(y_btc).sum(), y_btc

  return jax.grad(total, (0, 1), has_aux=True)(params, x_btc)


@pytest.mark.parametrize(
  'widths, choice',
  [
    (WIDTHS, 0),
    (RANKED, 1),
    *(pytest.param(WIDTHS, n, marks=pytest.mark.slow) for n in (1, 2)),
    *(pytest.param(RANKED, n, marks=pytest.mark.slow) for n in (0, 2, 3)),
  ],
)
def test_a_width_is_a_network_cut_to_size(widths, choice):
  x_btc, params = speech(), feed_forward(widths)
  width = widths[choice]
  (grads, dx_btc), y_btc = value_and_grads(params, x_btc, choice, widths=widths)
  alone = ssm.FeedForward(width)

  @jax.jit
  def expected(params, x_btc):
    def total(params, x_btc):
      y_btc = alone.apply({'params': params}, x_btc)
      return jnp.sin(y_btc).sum(), y_btc

    return jax.grad(total, (0, 1), has_aux=True)(params, x_btc)

  cut = elastic.sliced(params, width)
  (cut_grads, cut_dx_btc), cut_y_btc = expected(cut, x_btc)
  np.testing.assert_allclose(y_btc, cut_y_btc, atol=1e-6)
  np.testing.assert_allclose(dx_btc, cut_dx_btc, atol=1e-5)
  found = jax.tree.leaves(elastic.sliced(grads, width))
  for one, other in zip(found, jax.tree.leaves(cut_grads)):
    np.testing.assert_allclose(one, other, atol=1e-5)
  if widths is WIDTHS:
    assert (grads['into']['kernel'][:, width:] == 0).all()
    assert (grads['out']['kernel'][width:] == 0).all()
  else:
    width, rank = width
    into, out = grads['into'], grads['out']
    assert (into['left_kernel'][:, rank:] == 0).all()
    assert (into['right_kernel'][:, width:] == 0).all()
    assert (into['right_kernel'][rank:] == 0).all()
    assert (out['left_kernel'][width:] == 0).all()
    assert (out['right_kernel'][rank:] == 0).all()


@pytest.mark.parametrize(
  'widths, factors',
  # Per channel of what comes in: whole products have the width; of low rank
  # there are `rank` there, and as many a channel between them.
  [(WIDTHS, WIDTHS), (RANKED, [rank * (6 + w) / 6 for w, rank in RANKED])],
)
def test_narrow_widths_multiply_less(widths, factors):
  module, params = elastic.ElasticFeedForward(widths), feed_forward(widths)
  x_btc = speech()

  def total(params, x_btc, choice):
    return module.apply({'params': params}, x_btc, choice).sum()

  jaxpr = jax.make_jaxpr(jax.grad(total, (0, 1)))(params, x_btc, 0)
  switches = [
    eqn.params['branches']
    for eqn in jax.tree.leaves(list(_equations(jaxpr.jaxpr)))
    if eqn.primitive.name == 'cond'
  ]
  node = 2 * x_btc.size
  for branches, products in zip(switches, (2, 5), strict=True):
    counted = [
      costs.flops(jax.extend.core.jaxpr_as_fun(branch), *branch.in_avals)
      for branch in branches
    ]
    expected = [products * node * factor for factor in factors]
    if widths is RANKED and products == 5:
      # What is between the second product's matrices comes again, too.
      again = [node * rank * width / 6 for width, rank in RANKED]
      expected = np.add(expected, again)
    np.testing.assert_allclose(counted, expected, rtol=1e-12)


def _equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    if eqn.primitive.name != 'cond':
      for inner in jax.extend.core.jaxprs_in_params(eqn.params):
        yield from _equations(inner)


def test_dropout_falls_with_the_width():
  x_btc, params = speech(frames=400), feed_forward()
  key = jnp.array([3, 4], jnp.uint32)
  for choice, width in enumerate(WIDTHS):
    _, y_btc = value_and_grads(params, x_btc, choice, key, rate=0.4)
    dropped = float((y_btc == 0).mean())
    assert abs(dropped - 0.4 * width / WIDTHS[-1]) < 0.03


@pytest.mark.parametrize(
  'widths',
  [
    (8, 4), (4, 4), (), (0, 4),
    (elastic.Factored(4, 2), elastic.Factored(4, 1)), (elastic.Factored(4, 0),),
  ],
)  # fmt: skip
def test_bad_widths_are_named(widths):
  with pytest.raises(ValueError, match='widths are'):
    jax.eval_shape(
      elastic.ElasticFeedForward(widths).init, jax.random.key(0), speech(), 0
    )


# An encoder of three layers, of which two or more run.
ENCODER = network.Encoder(
  *((WIDTHS,) * 3, 6, 5), states=4, depth=1, causal=True, least=2
)


@functools.cache
def encoder_params():
  x_btf, len_b = speech(), np.array([9, 5])
  params = jax.jit(ENCODER.init)(jax.random.key(0), x_btf, len_b)['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params
  )


@functools.partial(jax.jit, static_argnames='encoder')
def encode(encoder, params, choice=None):
  len_b = np.array([9, 5])

  def total(params):
    enc_btd, _ = encoder.apply(
      {'params': params}, speech(), len_b, choice=choice
    )
    return jnp.sin(enc_btd).sum(), enc_btd

  return jax.grad(total, has_aux=True)(params)


def chosen(widths):
  width_n = [WIDTHS.index(w) for w in widths] + [0] * (3 - len(widths))
  return network.Choice(jnp.array(width_n), jnp.int32(len(widths)))


@pytest.mark.slow
@pytest.mark.parametrize(
  'widths',
  [(4, 16), (8, 4, 16)],
)
def test_an_encoder_cut_to_size_is_the_elastic_one(widths):
  params = encoder_params()
  grads, enc_btd = encode(ENCODER, params, chosen(widths))
  cut, cut_params = network.alone(ENCODER, params, widths)
  cut_grads, cut_btd = encode(cut, cut_params)
  np.testing.assert_allclose(enc_btd, cut_btd, atol=1e-5)
  _, found = network.alone(ENCODER, grads, widths)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(cut_grads)):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  for n in range(len(widths), 3):
    left = jax.tree.leaves(grads[f'layer{n}'])
    assert all((g == 0).all() for g in left)


@pytest.mark.slow
def test_without_a_choice_it_is_the_largest():
  params = encoder_params()
  run = jax.jit(
    lambda choice: ENCODER.apply(
      {'params': params}, speech(), np.array([9, 5]), choice=choice
    )[0]
  )
  np.testing.assert_allclose(run(None), run(chosen((16,) * 3)), atol=1e-6)


def test_sizes_that_no_network_has_are_named():
  params = jax.eval_shape(
    ENCODER.init, jax.random.key(0), speech(), np.array([9, 5])
  )['params']
  with pytest.raises(ValueError, match='layer 0: width 5 is none of'):
    network.alone(ENCODER, params, (5, 4))
  with pytest.raises(ValueError, match='1 layers; there are 2 to 3'):
    network.alone(ENCODER, params, (4,))
