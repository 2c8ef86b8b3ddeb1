"""TDNNs against plain NumPy, and as populations; what runs which space."""

import ast
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import plain_training
import pytest
import table_rows
import tiny_corpus
import tiny_run

from nasjax import cost, models, spaces, table
from nasjax.benchmark import latency, running
from nasjax.layers import dropout
from nasjax.models import common, families, macros
from nasjax.models.st_nas import network as tdnn
from nasjax.spaces.st_nas import CANDIDATES

SPACE = spaces.ST_NAS
MACRO = macros.Tdnn('pocket', width=8, outputs=6, features=5)
MIXED = (0, 3, 1, 2, 3, 1)
WIDE = (5, 4, 0, 3, 4, 5)  # of ST_NAS_SWBD
# One block on either side of the subsampling: what is compiled most often.
SHORT = dataclasses.replace(SPACE, skips=(0, 0))
POCKET = dataclasses.replace(MACRO, before=1, after=1)
PAIR = (0, 3)
TWIN = (1, 2)  # the same taps, each with the other dilation


# Compiled as a whole: one operation at a time, a test takes seconds.
@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, x_btf, len_b, gates, key=None):
  return network.apply({'params': params}, x_btf, len_b, gates, key)


def _shapes(network, gates):
  return jax.eval_shape(
    lambda key: common.initial_params(network, key, gates), jax.random.key(0)
  )


def _drawn(network, gates, seed=0):
  """Parameters that are drawn, biases, scales and shifts too."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32),
    _shapes(network, gates),
  )


def _features(batch, frames, width=POCKET.features, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(batch, frames, width)).astype(np.float32)


def _pocket(arch=PAIR):
  """Network, gates and parameters of one architecture."""
  network = families.single(SHORT, arch, POCKET)
  gates = tdnn.gates(SHORT, arch)
  return network, gates, _drawn(network, gates)


# The oracle: one utterance, one frame and one tap at a time, in float64.


def _layer(x_tc, params, reads, frames_out, mask_tc, epsilon):
  """Convolution, ReLU, layer norm, dropout; `reads(t, k)` is tap k's frame."""
  kernel_kcn = np.float64(params['kernel'])
  y_tn = np.tile(np.float64(params['bias']), (frames_out, 1))
  for t in range(frames_out):
    for k, kernel_cn in enumerate(kernel_kcn):
      if 0 <= reads(t, k) < len(x_tc):
        y_tn[t] += x_tc[reads(t, k)] @ kernel_cn
  y_tn = np.where(y_tn > 0, y_tn, 0)
  for t in range(frames_out):
    mean, deviation = y_tn[t].mean(), np.sqrt(y_tn[t].var() + epsilon)
    y_tn[t] = (y_tn[t] - mean) / deviation * params['scale'] + params['shift']
  return y_tn * mask_tc


def _by_hand(names, params, x_tf, masks_stc, macro):
  """Logits of one utterance without padding.

  `masks_stc` has what each layer's dropout multiplies with: of the blocks, then
  of the subsampling layer.
  """
  x_tc, stride = np.float64(x_tf), macro.subsampling
  for n, name in enumerate(names):
    if n == macro.before:
      x_tc = _layer(
        x_tc,
        params['subsampling_tdnn'],
        lambda t, k: stride * t + k - (stride - 1) // 2,
        -(-len(x_tc) // stride),
        masks_stc[-1],
        macro.epsilon,
      )
    context, dilation = int(name[6]), int(name[8])  # tdnn_c{c}d{d}
    x_tc = _layer(
      x_tc,
      params[f'block{n}_{name}'],
      lambda t, k, c=context, d=dilation: t + d * (k - c),
      len(x_tc),
      masks_stc[n],
      macro.epsilon,
    )
  head = params['head']
  return x_tc @ np.float64(head['kernel']) + np.float64(head['bias'])


@pytest.mark.parametrize(
  'space, arch, subsampling',
  [(SPACE, MIXED, 3), (spaces.ST_NAS_SWBD, WIDE, 2)],
)
def test_logits_are_those_of_plain_loops(space, arch, subsampling):
  """Ragged lengths, and frames that dropout takes away in every layer."""
  macro = dataclasses.replace(MACRO, subsampling=subsampling)
  rate, frames = 0.5, 23
  network = families.single(space, arch, macro, rate)
  gates = tdnn.gates(space, arch)
  params = _drawn(network, gates)
  x_btf, len_b = _features(4, frames), np.array([23, 12, 7, 1])
  key = np.array([3, 4], np.uint32)
  logits_btv, out_b = _apply(network, params, x_btf, len_b, gates, key)
  np.testing.assert_array_equal(out_b, np.ceil(len_b / subsampling))
  sites = [frames] * 3 + [-(-frames // subsampling)] * 4
  keep = [
    dropout.keep_mask(key, site, (4, long, macro.width), rate)
    for site, long in enumerate(sites)
  ]
  for b, (valid, out) in enumerate(zip(len_b, np.asarray(out_b))):
    masks_stc = [
      2.0 * np.asarray(mask_btc)[b, : valid if site < 3 else out]
      for site, mask_btc in enumerate(keep)
    ]
    names = space.main_ops(arch)
    expected_tv = _by_hand(names, params, x_btf[b, :valid], masks_stc, macro)
    np.testing.assert_allclose(
      logits_btv[b, :out], expected_tv, rtol=2e-4, atol=2e-4
    )


@pytest.mark.parametrize('frames, padded', [(1, 2), (1, 21), (2, 9), (12, 14)])
def test_padding_never_reaches_valid_logits(frames, padded):
  network, gates, params = _pocket()
  x_btf, len_b = _features(2, frames), np.full(2, frames)
  alone_btv, out_b = _apply(network, params, x_btf, len_b, gates)
  assert out_b[0] == POCKET.output_frames(frames) == -(-frames // 3)
  for junk in (50.0, np.nan):
    junk_btf = np.full((2, padded, POCKET.features), junk, np.float32)
    junk_btf[:, :frames] = x_btf
    padded_btv, padded_b = _apply(network, params, junk_btf, len_b, gates)
    np.testing.assert_array_equal(padded_b, out_b)
    np.testing.assert_allclose(
      padded_btv[:, : out_b[0]], alone_btv, rtol=1e-5, atol=1e-5
    )


def test_nan_in_padding_reaches_no_gradient():
  network, gates, params = _pocket()
  len_b = np.array([9, 4, 0])
  used_bt = jnp.arange(4)[None] < jnp.array([3, 2, 0])[:, None]

  @jax.jit
  def gradient(params, x_btf):
    def total(params):
      logits_btv, _ = network.apply({'params': params}, x_btf, len_b, gates)
      return jnp.sum(jnp.where(used_bt[..., None], logits_btv**2, 0))

    return jax.grad(total)(params)

  x_btf = _features(3, 11)
  clean = gradient(params, x_btf)
  x_btf[np.arange(11) >= len_b[:, None]] = np.nan
  dirty = gradient(params, x_btf)
  assert np.abs(clean['block0_tdnn_c1d1']['kernel']).max() > 1e-3
  chex.assert_trees_all_equal(clean, dirty)


# The convolution.


@pytest.mark.parametrize('name', ['tdnn_c1d2', 'tdnn_c3d1'])
def test_convolution_equals_xlas(name):
  context, dilation = CANDIDATES[name]
  rng = np.random.default_rng(0)
  x_btc, dy_btn = (rng.normal(size=(2, 9, n)).astype('f') for n in (4, 3))
  kernel_kcn = rng.normal(size=(2 * context + 1, 4, 3)).astype('f')
  shift_k = np.array(tdnn.shifts(name), np.int32)

  def xlas(x_btc, kernel_kcn):
    reach = context * dilation
    return jax.lax.conv_general_dilated(
      x_btc,
      kernel_kcn,
      (1,),
      [(reach, reach)],
      rhs_dilation=(dilation,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )

  def ours(x_btc, kernel_kcn):
    return tdnn.conv(x_btc, kernel_kcn, shift_k)

  found, expected = (
    (y, *pull(dy_btn))
    for y, pull in (jax.vjp(f, x_btc, kernel_kcn) for f in (ours, xlas))
  )
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_convolution_can_be_differentiated_twice():
  rng = np.random.default_rng(0)
  x_btc, kernel_kcn = rng.normal(size=(1, 4, 2)), rng.normal(size=(3, 2, 2))
  shift_k = jnp.array(tdnn.shifts('tdnn_c1d2'))

  def squared(x_btc, kernel_kcn):
    return jnp.sum(tdnn.conv(x_btc, kernel_kcn, shift_k) ** 2)

  arguments = jnp.float32(x_btc), jnp.float32(kernel_kcn)
  jax.test_util.check_grads(
    jax.jit(squared), arguments, order=2, modes=['rev'], atol=0.02, rtol=0.02
  )


def test_bfloat16_rounds_the_factors_of_the_convolution():
  rng = np.random.default_rng(0)
  x_btc = rng.normal(size=(2, 9, 4)).astype('f')
  kernel_kcn = rng.normal(size=(3, 4, 3)).astype('f')
  shift_k = jnp.array([-1, 0, 1])
  rounded = (jnp.asarray(a, jnp.bfloat16) for a in (x_btc, kernel_kcn))
  exact_btn = tdnn.conv(*(a.astype(jnp.float32) for a in rounded), shift_k)
  found_btn = tdnn.conv(x_btc, kernel_kcn, shift_k, 'bfloat16')
  assert found_btn.dtype == jnp.float32
  np.testing.assert_allclose(found_btn, exact_btn, rtol=1e-5, atol=1e-6)


# Populations, supernets, parameters.


def test_population_program_equals_plain_networks():
  archs = [SHORT.parse(arch) for arch in (PAIR, TWIN)]
  kinds = families.signature(SHORT, archs[0])
  assert kinds == families.signature(SHORT, archs[1]) == ('tdnn3', 'tdnn5')
  network = tdnn.Network(POCKET, tuple((kind,) for kind in kinds))
  each = [families.gates(SHORT, arch) for arch in archs]
  drawn = [_drawn(network, gates, seed) for seed, gates in enumerate(each)]
  params_p = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
  x_btf, len_b = _features(2, 14), np.array([14, 8])
  dy_btv = _features(2, 5, POCKET.outputs, seed=1)
  dy_btv[1, 3:] = 0

  def pulled(network, params, gates):
    logits_btv, pull = jax.vjp(
      lambda p: network.apply({'params': p}, x_btf, len_b, gates)[0], params
    )
    return logits_btv, pull(dy_btv)[0]

  found_p = jax.jit(jax.vmap(functools.partial(pulled, network)))(
    params_p, families.stack(each)
  )
  for p, (arch, gates) in enumerate(zip(archs, each)):
    own = jax.tree.map(lambda leaf, p=p: leaf[p], (params_p, found_p))
    plain = families.single(SHORT, arch, POCKET)
    params = families.unpack(SHORT, arch, own[0])
    assert params.keys() == _shapes(plain, gates).keys()
    logits_btv, gradient = jax.jit(functools.partial(pulled, plain))(
      params, gates
    )
    np.testing.assert_allclose(own[1][0], logits_btv, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(
      families.unpack(SHORT, arch, own[1][1]),
      gradient,
      rtol=1e-3,
      atol=1e-3,
    )


def test_dilation_changes_the_network():
  """Else the population above would be equal however it read its taps."""
  network, gates, params = _pocket()
  twin = families.single(SHORT, TWIN, POCKET)
  other = {
    twin_name: params[name]
    for name, twin_name in zip(
      sorted(params), sorted(_shapes(twin, gates)), strict=True
    )
  }
  x_btf, len_b = _features(1, 14), np.array([14])
  one, two = (
    _apply(n, p, x_btf, len_b, gates)[0]
    for n, p in ((network, params), (twin, other))
  )
  assert np.abs(one - two).max() > 0.1


@pytest.mark.parametrize('mode', ['mixed', 'path'])
def test_supernet_that_chose_equals_the_single_network(mode):
  supernet = tdnn.Network(POCKET, (SPACE.ops,) * 2, mode=mode)
  gates = tdnn.gates(SHORT, PAIR)._replace(
    op_no=tuple(np.eye(4, dtype=np.float32)[np.array(PAIR)]),
    index_n=np.array(PAIR, np.int32),
  )
  params = _drawn(supernet, gates)
  x_btf, len_b = _features(2, 14), np.array([14, 8])
  found_btv, _ = _apply(supernet, params, x_btf, len_b, gates)
  plain = families.single(SHORT, PAIR, POCKET)
  cut = {name: params[name] for name in _shapes(plain, gates)}
  assert len(params) == len(cut) + 6
  plain_btv, _ = _apply(plain, cut, x_btf, len_b, gates)
  np.testing.assert_allclose(found_btv, plain_btv, rtol=1e-5, atol=1e-5)


def test_candidates_of_a_supernet_know_their_taps():
  names = (('tdnn3', 'tdnn_c1d2'), ('tdnn3',))
  network, gates = tdnn.Network(POCKET, names), tdnn.gates(SHORT, PAIR)
  params = _drawn(network, gates)
  with pytest.raises(ValueError, match='block 0: .*tdnn3'):
    network.apply({'params': params}, _features(1, 3), jnp.array([3]), gates)


def test_initialisation_is_pytorchs_default():
  macro = dataclasses.replace(macros.ST_NAS_TINY, before=1, after=1)
  gates, plain = tdnn.gates(SHORT, PAIR), families.single(SHORT, PAIR, macro)
  init = jax.jit(common.initial_params, static_argnums=0)
  params = init(plain, jax.random.key(5), gates)
  for name, fan_in in (
    ('block0_tdnn_c1d1', 3 * 120),
    ('block1_tdnn_c2d2', 5 * 16),
    ('subsampling_tdnn', 3 * 16),
    ('head', 16),
  ):
    limit, layer = fan_in**-0.5, params[name]
    assert 0.95 * limit < np.abs(layer['kernel']).max() <= limit
    assert np.std(layer['kernel']) == pytest.approx(limit / 3**0.5, rel=0.05)
    assert 0.5 * limit < np.abs(layer['bias']).max() <= limit
    if name != 'head':
      np.testing.assert_array_equal(layer['scale'], 1)
      np.testing.assert_array_equal(layer['shift'], 0)
  # A member of a population starts as its own network does.
  kinds = tuple((kind,) for kind in families.signature(SHORT, PAIR))
  member = init(tdnn.Network(macro, kinds), jax.random.key(5), gates)
  member = families.unpack(SHORT, PAIR, member)
  chex.assert_trees_all_equal(params, member)


def test_l2_reaches_all_convolutions():
  _, _, params = _pocket()
  kernels = [tree['kernel'] for name, tree in params.items() if name != 'head']
  assert len(kernels) == 3
  expected = sum(np.sum(np.float64(kernel) ** 2) for kernel in kernels)
  assert common.conv_kernel_norm(params) == pytest.approx(expected, rel=1e-5)


def test_signatures_are_few():
  for space, count in ((SPACE, 2**6), (spaces.ST_NAS_SWBD, 3**6)):
    some = space.product(space.ops[::2], ())  # undilated: they have them all
    assert len({families.signature(space, arch) for arch in some}) == count
    rng = np.random.default_rng(0)
    for arch in rng.permutation(space.enumerate())[:50]:
      assert families.signature(space, arch) == families.signature(
        space, arch // 2 * 2
      )


# What it costs.


def test_published_parameter_counts():
  """640 (in (2c + 1) + 3) a layer, 641 V the output layer."""
  layer = {c: 640 * (640 * (2 * c + 1) + 3) for c in (1, 2)}
  for ops, first, c, count in ((0, 3, 1, 7.66e6), (2, 5, 2, 11.91e6)):
    found = cost.params(SPACE, [ops] * 6, macros.ST_NAS)
    assert found == 640 * (120 * first + 3) + 5 * layer[c] + layer[1] + 641 * 72
    assert found == pytest.approx(count, abs=5e3)
  largest = cost.params(
    spaces.ST_NAS_SWBD, [2] + [4] * 5, macros.ST_NAS.with_outputs(46)
  )
  assert largest == pytest.approx(15.99e6, abs=5e3)


@pytest.mark.parametrize(
  'macro', macros.BY_SPACE['st_nas'].values(), ids=lambda m: m.name
)
@pytest.mark.parametrize('arch', [spaces.TDNN_D, MIXED, WIDE])
def test_costs_count_the_real_tree(arch, macro):
  space, frames = spaces.ST_NAS_SWBD, 200
  shapes = _shapes(families.single(space, arch, macro), tdnn.gates(space, arch))
  sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
  assert sum(sizes) == cost.params(space, arch, macro)
  early = ('block0', 'block1', 'block2')
  total = sum(
    tree['kernel'].size * (frames if name.startswith(early) else 67)
    for name, tree in shapes.items()
  )
  assert cost.macs(space, arch, macro, frames) == total


# Training and tables.

_CORPUS_MACRO = dataclasses.replace(
  POCKET, subsampling=2, features=tiny_corpus.FEATURES
)
_MEMBERS = ((PAIR, 7), (TWIN, 7))


def _job(space=SHORT, macro=_CORPUS_MACRO):
  tiny = tiny_corpus.corpus()
  # Adam with so large an epsilon does not blow up what is rounded.
  recipe = tiny_corpus.variant(epochs=1, dropout=0.5, adam_epsilon=1e-2)
  return running.Job(space, macro, recipe, tiny.name, tiny.fingerprint)


def test_a_population_trains_as_plain_steps_do():
  job = _job()
  (shard,) = running.plan(job, _MEMBERS, 2)
  assert shard.size == 2
  prepared = tiny_corpus.prepared()
  trainer = running.Trainer(job, shard, prepared)
  state = trainer.initial()
  start_p = jax.tree.map(np.array, state.members.params)
  state = trainer.epoch(state, 1)
  assert state.members.step[0] == 5 and not state.diverged_epoch.any()
  for p, member in enumerate(shard.members):
    params = jax.tree.map(lambda leaf, p=p: leaf[p], start_p)
    ((loss, after),), steps, _ = plain_training.train(
      job, member, prepared, tiny_corpus.corpus().train, params, 1
    )
    assert steps == 5
    assert state.curves['train_loss'][p, 0] == pytest.approx(loss, rel=1e-4)
    jax.tree.map(
      lambda one, two, p=p: np.testing.assert_allclose(
        one[p], two, rtol=1e-4, atol=1e-5
      ),
      state.members.params,
      after,
    )
    moved = np.abs(after['head']['kernel'] - params['head']['kernel'])
    assert moved.max() > 1e-2


def test_a_stopwatch_shares_programs_of_equal_taps():
  watch = latency.Stopwatch(SHORT, POCKET, 1, 12)
  assert watch.time(PAIR).median > 0
  forward = watch._forward
  assert watch.time(TWIN).median > 0
  assert watch._forward is forward
  found_btv = forward(
    watch._params, watch._x_btf, watch._len_b, tdnn.gates(SHORT, TWIN)
  )
  expected_btv, _ = _apply(
    families.single(SHORT, TWIN, POCKET),
    tdnn.unpack(SHORT, TWIN, watch._params),
    watch._x_btf,
    watch._len_b,
    tdnn.gates(SHORT, TWIN),
  )
  np.testing.assert_allclose(found_btv, expected_btv, rtol=1e-4, atol=1e-4)


def _row(space, arch, job):
  arch_d = space.parse(arch)
  return table_rows.row([0] * 9, seed=7) | {
    'space': space.name,
    'arch': arch_d,
    'key': space.key(arch_d),
    'semantic_key': space.semantic_key(arch_d),
    'recipe': job.recipe.name,
    'recipe_json': running.rows.recipe_json(job),
    'macro': job.macro.name,
    'corpus_fingerprint': job.corpus_fingerprint,
    'params': cost.params(space, arch, job.macro),
  }


def test_a_table_holds_networks_of_both_spaces(tmp_path):
  """They share the macro network, and MIXED is a member of either."""
  macro = macros.ST_NAS_TINY.with_outputs(9)
  jobs = [_job(space, macro) for space in (SPACE, spaces.ST_NAS_SWBD)]
  table.write_shard(tmp_path / 'table', 'first', [_row(SPACE, MIXED, jobs[0])])
  with pytest.raises(ValueError, match='another grouping'):
    running.check_table(
      jobs[0], running.plan(jobs[0], [(MIXED, 7)], 1), tmp_path
    )
  running.check_table(jobs[1], running.plan(jobs[1], [(MIXED, 7)], 1), tmp_path)
  table.write_shard(
    tmp_path / 'table',
    'second',
    [_row(spaces.ST_NAS_SWBD, WIDE, jobs[1])],
  )
  t = table.open(tmp_path)
  own = t.select(space='st_nas')
  assert own.space is SPACE and len(own) == 1
  assert own.query(MIXED, 'params', seed=7) == cost.params(SPACE, MIXED, macro)
  assert latency.macro_of(own) == macro
  other = t.select(space='st_nas_swbd')
  assert other.space.names(other.archs[0]).startswith('tdnn_c3d2, tdnn_c3d1, ')


# What does not go together.


@pytest.mark.parametrize(
  'space, macro, named',
  [
    (SPACE, models.TINY, "'tiny' is none of space st_nas; take one of st_nas,"),
    (spaces.NB_ASR, macros.ST_NAS_TINY, "'st_nas_tiny' is none of space nb"),
    (SPACE, POCKET, r'1 \+ 1 blocks, space st_nas has 6'),
    (
      dataclasses.replace(SPACE, name='other'),
      macros.ST_NAS_TINY,
      "no network for space 'other'",
    ),
  ],
)
def test_a_macro_of_another_space_is_refused(space, macro, named):
  arch = space.from_index(0)
  recipe = tiny_corpus.RECIPE
  for ask in (
    lambda: families.check(space, macro),
    lambda: families.network(space, arch, macro, recipe),
    lambda: families.single(space, arch, macro),
    lambda: cost.params(space, arch, macro),
    lambda: cost.macs(space, arch, macro),
  ):
    with pytest.raises(ValueError, match=named):
      ask()


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'width': 0}, 'below 1'),
    ({'subsampling': 0}, 'below 1'),
    ({'before': 0, 'after': 0}, 'below 1'),
    ({'before': -1, 'after': 3}, 'below 1'),
  ],
)
def test_impossible_macros_are_refused(changes, named):
  with pytest.raises(ValueError, match=named):
    dataclasses.replace(POCKET, **changes)


def test_blocks_must_be_as_many_as_the_macro_has():
  network = tdnn.Network(POCKET, (('tdnn_c1d1',),) * 5)
  with pytest.raises(ValueError, match=r'5 blocks, but macro pocket has 1 \+'):
    network.init(jax.random.key(0), _features(1, 3), jnp.array([3]), None)


def _said(tmp_path, script):
  """Runs a script in a fork: flags of two launchers in one process clash."""
  path = tmp_path / 'script.py'
  path.write_text(script)
  status, output, errors = tiny_run.forked(launcher=path.with_suffix(''))
  assert status == 0, errors
  return output


def test_the_flags_know_the_macros_of_each_space(tmp_path):
  script = (
    'from common import training_flags as t\n'
    'print({name: list(named) for name, named in t.MACROS.items()})'
  )
  named = ast.literal_eval(_said(tmp_path, script))
  assert set(named) == set(spaces.SPACES)
  for name, fitting in named.items():
    for macro in fitting:
      families.check(spaces.SPACES[name], families.MACROS[macro])
  assert {m for names in named.values() for m in names} == set(families.MACROS)


def test_a_macro_flag_of_another_space_is_one_line():
  status, output, errors = tiny_run.forked(
    '--space=st_nas', '--macro=small', '--random_cells=2'
  )
  assert status == 1 and output == ''
  assert errors == (
    'benchmark.py: --macro=small is no network of --space=st_nas; give '
    '--macro=st_nas, st_nas_small or st_nas_tiny\n'
  )


def test_a_macro_network_and_a_front_end_that_fit_the_space_are_the_default(
  tmp_path,
):
  script = """
from common import corpus_flags, jobs, training_flags
for space in training_flags.MACROS:
  flags = training_flags.FLAGS
  flags.unparse_flags()
  flags(['', f'--space={space}'])
  flags.macro = flags.frontend = None
  macro, frontend = training_flags.macro(), corpus_flags.frontend()
  assert flags.macro in training_flags.MACROS[space]
  assert macro.features == frontend.width
"""
  _said(tmp_path, script)
