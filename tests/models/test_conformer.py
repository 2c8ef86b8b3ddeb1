"""Tests of nasjax/models/conformer: its networks by themselves and elastic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_conformer

from nasjax import cost, spaces
from nasjax.models import common, counting, families, macros
from nasjax.models.conformer import layer, network
from nasjax.spaces import conformer

SPACE, MACRO = tiny_conformer.SPACE, tiny_conformer.MACRO
LENGTHS = np.array([13, 8, 3])
KEY = np.array([1, 2], np.uint32)
# Architectures that have all there is between them.
ARCHS = [
  conformer.largest(SPACE),
  conformer.smallest(SPACE),
  tiny_conformer.arch(
    heads1='none', kernel2='3', norm1='layer', activation2='gelu',
    downsample='2', expansion2='1.5',
  ),
  tiny_conformer.arch(
    kernel1='none', heads2='1', activation1='relu', norm2='layer', skip2='no',
    downsample='1',
  ),
  tiny_conformer.arch(skip2='yes', kernel1='3', heads1='1', downsample='2'),
]  # fmt: skip


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_conformer.registered():
    yield


def features(frames=13, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(3, frames, 8)).astype(np.float32)


def unlike(params):
  """Returns parameters of which none is 0 and statistics are unlike."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: np.asarray(p + rng.uniform(0.05, 0.2, p.shape), np.float32),
    params,
  )


@functools.cache
def elastic(macro):
  """Returns what runs parts of the largest network, and its weights."""
  made = families.elastic_network(SPACE, macro, tiny_conformer.RECIPE)
  whole = families.elastic(SPACE).whole(SPACE)
  params = jax.jit(lambda key: common.initial_params(made, key, whole))(
    jax.random.key(0)
  )

  def apply(params, x_btf, len_b, gates):
    return made.apply({'params': params}, x_btf, len_b, gates)

  return jax.jit(apply), unlike(params)


def valid(x_btc, len_b):
  there_bt = np.arange(x_btc.shape[1])[None] < np.asarray(len_b)[:, None]
  return np.where(there_bt[..., None], x_btc, 0)


def gates_of(arch):
  return families.elastic(SPACE).gates(SPACE, arch)


alike = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-6)


def slopes(apply, params, x_btf, len_b, gates):
  """Gradients by weights and features of a mean over valid logits."""

  def total(params, x_btf):
    logits_btv, out_b = apply(params, x_btf, len_b, gates)
    there_bt = jnp.arange(logits_btv.shape[1])[None] < out_b[:, None]
    sines_btv = jnp.where(there_bt[..., None], jnp.sin(logits_btv), 0)
    return jnp.sum(sines_btv) / jnp.sum(there_bt)

  return jax.grad(total, (0, 1))(params, x_btf)


@pytest.fixture(scope='module')
def slopes_of():
  """The gradients of any network in one program."""
  apply, _ = elastic(MACRO)
  return jax.jit(functools.partial(slopes, apply))


@pytest.mark.parametrize('arch', ARCHS)
def test_padding_reaches_nothing(arch, slopes_of):
  apply, params = elastic(MACRO)
  gates = gates_of(arch)
  x_btf = features()
  bad_btf = x_btf.copy()
  for b, length in enumerate(LENGTHS):
    bad_btf[b, length:] = np.nan
  clean, len_b = apply(params, x_btf, LENGTHS, gates)
  dirty, _ = apply(params, bad_btf, LENGTHS, gates)
  assert len_b.tolist() == [7, 4, 2]
  np.testing.assert_array_equal(valid(dirty, len_b), valid(clean, len_b))
  assert np.ptp(valid(clean, len_b)) > 0.1
  for found, expected in zip(
    jax.tree.leaves(slopes_of(params, bad_btf, LENGTHS, gates)),
    jax.tree.leaves(slopes_of(params, x_btf, LENGTHS, gates)),
  ):
    np.testing.assert_array_equal(found, expected)
  _, dx_btf = slopes_of(params, x_btf, LENGTHS, gates)
  for b, length in enumerate(LENGTHS):
    assert not np.asarray(dx_btf[b, length:]).any()
    assert np.asarray(dx_btf[b, :length]).any(axis=-1).all()


@pytest.mark.parametrize(
  'arch',
  [
    pytest.param(arch, marks=[pytest.mark.slow] if n else [])
    for n, arch in enumerate(ARCHS[::2])
  ],
)
def test_a_part_of_the_largest_is_the_network_by_itself(arch, slopes_of):
  apply, params = elastic(MACRO)
  whole = families.elastic(SPACE)
  own = whole.extract(SPACE, arch, MACRO, params)
  single = families.single(SPACE, arch, MACRO)

  def alone(own, x_btf, len_b, gates):
    return single.apply({'params': own}, x_btf, len_b, gates)

  @jax.jit
  def run(own, x_btf):
    found = slopes(alone, own, x_btf, LENGTHS, ())
    return alone(own, x_btf, LENGTHS, ()), found

  x_btf = features()
  (expected, len_b), (own_slopes, expected_dx) = run(own, x_btf)
  found, _ = apply(params, x_btf, LENGTHS, gates_of(arch))
  np.testing.assert_allclose(
    valid(found, len_b), valid(expected, len_b), atol=1e-5
  )
  grads, dx_btf = slopes_of(params, x_btf, LENGTHS, gates_of(arch))
  alike(dx_btf, expected_dx)
  cut = whole.extract(SPACE, arch, MACRO, jax.device_get(grads))
  jax.tree.map(alike, cut, own_slopes)
  # What is left out has no gradient.
  total = sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(grads))
  kept = sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(cut))
  np.testing.assert_allclose(kept, total, rtol=1e-5)
  shapes = jax.eval_shape(
    lambda key: common.initial_params(single, key, ()), jax.random.key(0)
  )
  assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, shapes)


def hears(apply):
  """Returns bool [b, t, s]: whether output t has a slope by input s."""
  x_btf = features()

  def frame(t):
    def total(x_btf):
      return jnp.sum(jnp.sin(apply(x_btf)[0][:, t]))

    return jnp.any(jax.grad(total)(x_btf) != 0, axis=-1)

  return jnp.swapaxes(jax.vmap(frame)(jnp.arange(7)), 0, 1)


def hears_its_chunk_alone(heard_bts, arch, macro):
  heard_bts = np.asarray(heard_bts)
  attends = any(one and one.heads for one in conformer.layers(SPACE, arch))
  for b, length in enumerate(LENGTHS):
    for t in range(-(-length // 2)):
      size = macro.chunk if macro.attention == 'chunked' else 1
      end = min((t // size + 1) * size * 2, length)
      assert not heard_bts[b, t, end:].any()
      assert heard_bts[b, t, min(2 * t, end - 1)]
      # The chunk is heard to its end where there is attention.
      assert heard_bts[b, t, end - 1] or not attends
      if macro.attention == 'causal' and attends:
        assert heard_bts[b, t, :end].all()


@pytest.mark.slow
@pytest.mark.parametrize(
  'macro', [tiny_conformer.CAUSAL, tiny_conformer.CHUNKED], ids=lambda m: m.name
)
def test_no_output_hears_what_is_beyond_its_chunk(macro):
  apply, params = elastic(macro)
  run = jax.jit(lambda gates: hears(lambda x: apply(params, x, LENGTHS, gates)))
  for arch in ARCHS:
    hears_its_chunk_alone(run(gates_of(arch)), arch, macro)


def test_one_layer_in_chunks_hears_to_their_ends():
  arch, macro = tiny_conformer.arch(skip2='yes'), tiny_conformer.CHUNKED
  single = families.single(SPACE, arch, macro)
  params = unlike(
    jax.jit(lambda key: common.initial_params(single, key, ()))(
      jax.random.key(0)
    )
  )
  given = LENGTHS, ()
  heard_bts = jax.jit(
    lambda: hears(lambda x: single.apply({'params': params}, x, *given))
  )()
  hears_its_chunk_alone(heard_bts, arch, macro)


def test_activations_and_norms_are_data():
  one = tiny_conformer.arch(activation1='relu', norm2='layer', skip2='no')
  other = tiny_conformer.arch(norm1='layer', activation2='gelu')
  signature = families.signature(SPACE, one)
  assert signature == ('heads2_kernel5_x3', 'heads2_kernel5_x3', 'down3')
  assert signature == families.signature(SPACE, other)
  for changes in ({'heads1': '1'}, {'skip2': 'yes'}, {'downsample': '2'}):
    changed = tiny_conformer.arch(**changes)
    assert families.signature(SPACE, changed) != signature
  found = families.gates(SPACE, one).layers
  assert found.activation.tolist() == [0, 2] and found.norm.tolist() == [1, 0]
  shared = families.network(SPACE, one, MACRO, tiny_conformer.RECIPE)
  plain = families.single(SPACE, one, MACRO)
  shapes, alone = (
    jax.eval_shape(
      lambda key, made=made, gates=gates: common.initial_params(
        made, key, gates
      ),
      jax.random.key(0),
    )
    for made, gates in ((shared, families.gates(SPACE, one)), (plain, ()))
  )
  assert 'mean' in shapes['layer1']['norm_ffn']
  own = families.unpack(SPACE, one, shapes)
  assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, alone)
  assert 'mean' not in own['layer1']['norm_ffn']


@pytest.mark.slow
def test_a_population_is_its_networks():
  """Activations and norms are data; all in one program, mapped."""
  archs = [
    tiny_conformer.arch(activation1=a, norm1=n, norm2=m, activation2=b)
    for a, b, n, m in (
      ('relu', 'gelu', 'layer', 'batch'), ('gelu', 'swish', 'batch', 'layer'),
    )
  ]  # fmt: skip
  assert len({families.signature(SPACE, arch) for arch in archs}) == 1
  shared = families.network(SPACE, archs[0], MACRO, tiny_conformer.RECIPE)
  gates_p = jax.tree.map(
    lambda *leaves: np.stack(leaves), *(families.gates(SPACE, a) for a in archs)
  )
  keys_p = jax.random.split(jax.random.key(0), 2)
  x_btf = features()

  def both(made, params, gates):
    """Returns valid logits in training and without, and statistics."""
    given = params, x_btf, LENGTHS, gates
    (trained_btv, len_b), seen = families.observed(made, *given, KEY)
    still_btv, _ = families.form(made).apply(*given, None)
    return trained_btv, still_btv, len_b, seen

  @jax.jit
  @jax.vmap
  def run(key, gates):
    params = common.initial_params(shared, key, gates)
    params = jax.tree.map(lambda p: p + 0.1, params)
    return params, both(shared, params, gates)

  params_p, found_p = run(keys_p, gates_p)
  for p, arch in enumerate(archs):
    single = families.single(SPACE, arch, MACRO, tiny_conformer.RECIPE.dropout)
    own, found = jax.tree.map(lambda leaf, p=p: leaf[p], (params_p, found_p))
    own = families.unpack(SPACE, arch, own)
    held = jax.eval_shape(
      lambda key, single=single: common.initial_params(single, key, ()),
      jax.random.key(0),
    )
    assert jax.tree.map(np.shape, held) == jax.tree.map(np.shape, own)
    alone = jax.jit(functools.partial(both, single, gates=()))(own)
    for one, other in zip(found[:2], alone[:2]):
      np.testing.assert_allclose(
        valid(one, found[2]), valid(other, alone[2]), atol=1e-5
      )
    assert set(alone[3]) == {
      f'layer{n}' for n, layer_ in enumerate(conformer.layers(SPACE, arch))
      if layer_.norm == 'batch'
    }  # fmt: skip
    for name, norms in alone[3].items():
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        norms, {norm: found[3][name][norm] for norm in norms},
      )  # fmt: skip


def test_batches_are_normalised_by_their_valid_frames():
  norm = layer.Norm('batch', 1e-5, 0.25)
  x_btc = features()
  params = norm.init(jax.random.key(0), x_btc, LENGTHS, False)['params']
  params = params | {'scale': np.full(8, 2.0), 'shift': np.full(8, 0.5)}
  there_rc = np.concatenate([x[:n] for x, n in zip(x_btc, LENGTHS)])
  x_btc[1, 8:] = np.nan
  found, told = norm.apply(
    {'params': params}, x_btc, LENGTHS, True, mutable=['statistics']
  )
  mean_c, variance_c = there_rc.mean(0), there_rc.var(0)
  expected = 2 * (there_rc - mean_c) / np.sqrt(variance_c + 1e-5) + 0.5
  np.testing.assert_allclose(found[0], expected[:13], atol=1e-5)
  seen = jax.device_get(told['statistics'])
  np.testing.assert_allclose(seen['mean'], mean_c / 4, atol=1e-6)
  np.testing.assert_allclose(seen['variance'], 0.75 + variance_c / 4, rtol=1e-5)
  new = families.replaced(params, seen)
  later = norm.apply({'params': new}, x_btc, LENGTHS, False)
  expected = 2 * (there_rc - seen['mean']) / np.sqrt(seen['variance'] + 1e-5)
  np.testing.assert_allclose(later[0], expected[:13] + 0.5, atol=1e-5)


@pytest.mark.parametrize(
  'name, count',
  [
    ('conformer_small', 1),
    pytest.param('conformer', 4, marks=pytest.mark.slow),
  ],
)
def test_costs_are_those_of_the_network(name, count):
  space = spaces.SPACES[name]
  drawn = np.asarray(space.sample(jax.random.key(3), count))
  largest = families.elastic(space).largest(space)
  named = macros.BY_SPACE[name]
  for macro, archs in (
    (named[name], [*drawn, largest]),
    (named[f'{name}_chunked'], drawn[1:2]),
  ):
    for arch in archs:
      _, _, shapes = counting._network(space, arch, macro)
      running = ('mean', 'variance')
      counted = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if path[-1].key not in running
      )
      assert cost.params(space, arch, macro) == counted
      # Taps are multiplied element by element, which is not counted there.
      frames, taps = -(-37 // macro.stacked), 0
      place = conformer.downsample(space, arch)
      for n, one in enumerate(conformer.layers(space, arch), 1):
        frames = -(-frames // 2) if n == place else frames
        taps += frames * one.kernel * macro.width if one else 0
      products = counting.macs(space, arch, macro, 37)
      assert cost.macs(space, arch, macro, 37) == products + taps


def test_frames_are_those_of_where_they_are_halved():
  for place in (1, 2, 3):
    for skip in ('yes', 'no'):
      arch = tiny_conformer.arch(downsample=str(place), skip2=skip)
      single = families.single(SPACE, arch, MACRO)
      _, told = jax.eval_shape(
        lambda key, single=single: single.init_with_output(
          key, features(14), LENGTHS, (), capture_intermediates=True,
        ),
        jax.random.key(0),
      )  # fmt: skip
      layers = {
        name: inner['__call__'][0].shape[1]
        for name, inner in told['intermediates'].items()
        if name.startswith('layer')
      }
      expected = {'layer0': 7 if place == 1 else 14}
      if skip == 'no':
        expected['layer1'] = 14 if place == 3 else 7
      assert layers == expected
  assert MACRO.output_frames(13) == 7 and macros.CONFORMER.output_frames(9) == 3


def test_halving_is_the_mean_of_what_is_there():
  x_btc = jnp.arange(10.0).reshape(2, 5, 1) + 1
  x_btc = x_btc.at[1, 3:].set(0)
  y_btc, len_b = network.halved(x_btc, jnp.array([5, 3]))
  assert len_b.tolist() == [3, 2]
  assert y_btc[:, :, 0].tolist() == [[1.5, 3.5, 5.0], [6.5, 8.0, 0.0]]


def test_narrower_parts_of_an_elastic_layer_drop_less():
  made = families.elastic_network(SPACE, MACRO, tiny_conformer.RECIPE, True)
  one = layer.Layer(
    layer.read('heads0_kernel0_x3'), MACRO, rate=0.4, adaptive=made.adaptive
  )
  x_btc = jax.random.normal(jax.random.key(1), (1, 4000, 8))
  seen, choice = jnp.ones((1, 1, 1), bool), layer.Choice(0, 0, 0, 0, 1500, 1)
  len_b = jnp.array([4000])
  params = jax.jit(one.init)(
    jax.random.key(0), x_btc, len_b, seen, None, choice
  )
  run, dropped = jax.jit(one.apply), []
  for expansion in (1500, 3000):
    choice = choice._replace(expansion=expansion)
    y_btc = run(params, x_btc, len_b, seen, KEY, choice)
    dropped.append(float(jnp.mean(y_btc == x_btc)))
  np.testing.assert_allclose(dropped, [0.2, 0.4], atol=0.02)


def test_what_does_not_go_together_is_refused():
  with pytest.raises(ValueError, match='2 blocks, space conformer_small has 4'):
    families.check(spaces.SPACES['conformer_small'], MACRO)
  with pytest.raises(ValueError, match='attention is'):
    macros.Conformer('odd', attention='past')
  with pytest.raises(ValueError, match='heads have 5 channels'):
    macros.Conformer('odd', head=5)
  with pytest.raises(ValueError, match='are not mixed'):
    recipe = tiny_conformer.RECIPE
    families.supernet(SPACE, SPACE.choices, MACRO, recipe, 'mixed')
  with pytest.raises(ValueError, match='is no layer'):
    layer.read('heads2')
  with pytest.raises(ValueError, match='1 layers, but macro'):
    network.Network(MACRO, (('skip',), ('down1',))).init(
      jax.random.key(0), features(), LENGTHS, ()
    )


def test_taps_are_those_around_a_frame():
  assert layer.shifts(5, False) == (0, -1, 1, -2, 2)
  assert layer.shifts(3, True) == (0, -1, -2)
  for causal in (False, True):
    conv = layer.Conv(5, causal)
    kernel_kc = np.arange(1.0, 11).reshape(5, 2)
    x_btc = jnp.zeros((1, 7, 2)).at[0, 3].set(1)
    found = conv.apply({'params': {'kernel': kernel_kc}}, x_btc, 3)
    at = [3, 4, 5] if causal else [3, 4, 2]
    expected = np.zeros((7, 2))
    expected[at] = kernel_kc[:3]
    np.testing.assert_allclose(found[0], expected)
