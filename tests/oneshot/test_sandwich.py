"""Tests of nasjax/oneshot/sandwich.py against networks by themselves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import tiny_todm

from nasjax import spaces
from nasjax.losses import criterion
from nasjax.models import common, families, macros
from nasjax.oneshot import rounding, sandwich, sandwich_steps
from nasjax.programs import memory
from nasjax.training import batches, fitting
from nasjax.training import step as step_lib

SPACE, MACRO = tiny_todm.SPACE, tiny_todm.MACRO
# Without dropout, so that networks can be held against each other.
STILL = dataclasses.replace(tiny_todm.RECIPE, dropout=0.0)
STILL_CTC = dataclasses.replace(tiny_todm.CTC_RECIPE, dropout=0.0)
ALL = SPACE.fields


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_todm.registered():
    yield


def training(recipe=STILL, macro=MACRO, **options):
  return sandwich.Training(SPACE, macro, recipe, sandwich.Options(**options), 3)


@functools.cache
def params(macro=MACRO, recipe=STILL):
  """Weights of the largest network, none of them 0."""
  elastic = families.elastic(SPACE)
  gates = elastic.gates(SPACE, elastic.largest(SPACE))
  network = families.elastic_network(SPACE, macro, recipe)
  made = jax.jit(
    lambda key: common.initial_params(network, key, gates)
  )(jax.random.key(0))  # fmt: skip
  return jax.tree.map(lambda p: np.asarray(p + 0.05), made)


def batch(rows=8):
  rng = np.random.default_rng(0)
  labels_bl = rng.integers(1, 6, (rows, 7)).astype(np.int32)
  return batches.Batch(
    jnp.asarray(rng.normal(size=(rows, 10, 8)), jnp.float32),
    jnp.asarray([10, 7, 10, 4, 9, 10, 3, 8][:rows]),
    jnp.asarray(labels_bl),
    # More labels than the five frames that the encoder leaves, among them.
    jnp.asarray([7, 2, 3, 1, 6, 4, 1, 5][:rows]),
    jnp.ones(rows),
  )


def gates_of(archs):
  elastic = families.elastic(SPACE)
  found = [elastic.gates(SPACE, arch) for arch in archs]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@functools.cache
def own_gradient(arch):
  """A function of a batch: one network's loss and gradient by itself."""
  macro, recipe = tiny_todm.CTC, STILL_CTC
  network = families.single(SPACE, arch, macro)
  elastic = families.elastic(SPACE)
  own = elastic.extract(SPACE, arch, macro, params(macro, recipe))

  @jax.jit
  def run(own, rows):
    return jax.value_and_grad(
      lambda p: step_lib.forward(network, recipe, p, (), rows)[0]
    )(own)

  def planted(rows):
    loss, grads = run(own, rows)
    zeros = jax.tree.map(np.zeros_like, params(macro, recipe))
    return float(loss), rounding.planted(zeros, jax.device_get(grads))

  return planted


@pytest.mark.slow
def test_the_gradient_is_the_sum_of_the_four_networks_own():
  """Each a network cut to size, on rows of its own; of CTC, which compiles."""
  one = training(STILL_CTC, tiny_todm.CTC)
  archs = [(0, 0, 1), (0, 1, 0), (0, 0, 1)]
  run = jax.jit(sandwich_steps.make_gradients(one))
  whole = batch()._replace(label_len_b=jnp.asarray([2, 2, 3, 1, 2, 1, 1, 2]))
  given = params(tiny_todm.CTC, STILL_CTC), whole, gates_of(archs)
  grads, log = run(*given, None, 1.0)
  alone = [own_gradient((1, 1, 0))(whole)]
  for n, arch in enumerate(archs):
    rows = jax.tree.map(lambda leaf, n=n: leaf[n::4], whole)
    alone.append(own_gradient(arch)(rows))
  losses = [loss for loss, _ in alone]
  assert np.isfinite(losses).all() and min(losses) > 0
  np.testing.assert_allclose([log.loss, *log.loss_n], losses, rtol=1e-5)
  expected = jax.tree.map(lambda *parts: sum(parts), *(g for _, g in alone))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    jax.device_get(grads),
    expected,
  )
  assert not np.asarray(log.apart_n).any()


@pytest.mark.slow
def test_who_is_like_the_largest_learns_nothing_from_it():
  """All students are the largest network, on rows of their own."""
  one = training(fixed=ALL, distil=criterion.Distillation(count=2))
  run = jax.jit(sandwich_steps.make_gradients(one))
  given = params(), batch(), gates_of([(1, 1, 0)] * 3), None
  (grads, log), (taught, _) = run(*given, 0.0), run(*given, 1.0)
  np.testing.assert_allclose(log.apart_n, 0, atol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    grads,
    taught,
  )


@pytest.mark.slow
def test_the_largest_alone_is_plain_training():
  one = training(students=0)
  member = step_lib.Member(
    params(),
    jax.device_get(sandwich_steps.optimiser(one, False, 0.1)[0].init(params())),
    jnp.int32(0),
    jnp.bool_(True),
    jnp.zeros(2, jnp.uint32),
  )
  state = sandwich_steps.State(
    member.params, member.opt_state, (), member.step, member.alive, member.key,
    {},
  )  # fmt: skip
  nothing = jax.tree.map(lambda leaf: leaf[:0], gates_of([(0, 0, 0)]))
  found, log = jax.jit(sandwich_steps.make_step(one))(
    state, batch(), nothing, 0.1, 1.0
  )
  network = families.single(SPACE, one.largest, MACRO)
  plain, loss = jax.jit(step_lib.make_train_step(network, STILL))(
    member, (), batch(), 0.1
  )
  # Some transcripts have more labels than frames.
  assert np.isfinite(loss)
  np.testing.assert_allclose(log.loss, loss, rtol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-6),
    found.params,
    plain.params,
  )


class _Stopped(Exception):
  pass


@pytest.mark.slow
def test_a_supernet_learns_and_goes_on_where_it_was_killed(tmp_path):
  prepared = tiny_corpus.prepared(tiny_todm.RECIPE)
  how = criterion.Distillation('alpha', count=2)
  options = dataclasses.replace(sandwich.ROWS['topk'], distil=how)
  one = sandwich.Training(SPACE, MACRO, tiny_todm.RECIPE, options, seed=2)
  told = []

  def tell(epoch, history, resumed):
    told.append((epoch, resumed))
    if told == [(1, False)]:
      raise _Stopped

  with pytest.raises(_Stopped):
    sandwich.run(one, prepared, 'tiny', tmp_path / 'a', tell)
  killed = sandwich.run(one, prepared, 'tiny', tmp_path / 'a', tell)
  assert told == [(1, False), (1, True), (2, False)]
  whole = sandwich.run(one, prepared, 'tiny', tmp_path / 'b')
  jax.tree.map(
    np.testing.assert_array_equal,
    killed.host()._replace(history={}),
    whole.host()._replace(history={}),
  )
  history = whole.state.history
  assert history['train_loss'][1] < 0.9 * history['train_loss'][0]
  assert history['smallest_loss'][1] < 0.9 * history['smallest_loss'][0]
  # The smallest is in every step, the others are those of scores that move.
  assert (history['archs'][:, :, 0] == one.smallest).all()
  np.testing.assert_array_equal(killed.scores(), whole.scores())
  assert np.isfinite(history['scores']).all() and whole.scores().any()
  every = SPACE.enumerate()
  error_n = whole.evaluate(every, 'test')
  assert error_n.shape == (8,) and (error_n > 0).all()
  named_n = whole.evaluate(every, 'test', metric='per')
  np.testing.assert_array_equal(named_n, error_n)
  # Layers that are not there make no difference.
  assert error_n[SPACE.index([0, 0, 1])] == error_n[SPACE.index([0, 1, 1])]
  assert np.isfinite(whole.evaluate(every[:2], int8=True)).all()
  assert whole.programs_compiled() == 1
  again = sandwich.restore(one, prepared, 'tiny', tmp_path / 'a')
  np.testing.assert_array_equal(again.evaluate(every, 'test'), error_n)


@pytest.mark.slow
def test_all_that_a_row_may_have_learns_together(tmp_path):
  """In one program: heads, distillation, selection, ScaledAdam."""
  recipe = dataclasses.replace(tiny_todm.RECIPE, epochs=3)
  options = dataclasses.replace(
    sandwich.ROWS['F'],
    distil=criterion.Distillation('alpha', 'label_blank'),
    selection='orthosoftmax',
    heads='own',
    late=0.9,  # that is, from the first of three on
  )
  one = sandwich.Training(SPACE, MACRO, recipe, options, seed=2)
  prepared = tiny_corpus.prepared(recipe)
  trainer = sandwich.run(one, prepared, 'tiny', tmp_path)
  history, state = trainer.state.history, trainer.host()
  losses = history['train_loss']
  assert np.isfinite(losses).all() and losses[2] < 0.9 * losses[0], losses
  assert np.isfinite(history['apart']).all() and trainer.scores().any()
  np.testing.assert_allclose(history['weight'], [options.late_weight] * 3)
  # What began at 0 has moved, by ScaledAdam alone.
  assert state.params['encoder']['exit1']['bias'].any()
  assert any(np.any(leaf) for leaf in jax.tree.leaves(state.late))
  error_n = trainer.evaluate([[1, 1, 0], [1, 1, 1]])
  assert np.isfinite(error_n).all()


def test_rows_are_shared_out_without_one_twice():
  rows = [np.asarray(sandwich_steps.rows_of(9, n)) for n in range(3)]
  np.testing.assert_array_equal(rows, [[0, 4], [1, 5], [2, 6]])
  assert sandwich_steps.rows_of(2, 2).tolist() == [0]
  assert sandwich.forwards(sandwich.Options()) == 1 + 3 / 4
  assert sandwich.forwards(sandwich.ROWS['A3']) == 1


def test_rows_of_the_table_are_settings_one_upon_the_other():
  rows = sandwich.ROWS
  assert list(rows)[:8] == ['A2', 'A3', 'B0', 'B1', 'C', 'D', 'E', 'F']
  assert rows['topk'].selects and not rows['C'].selects
  assert rows['B0'].fixed == ('depth',) and not rows['B1'].adaptive_dropout
  assert rows['C'] == dataclasses.replace(rows['B1'], adaptive_dropout=True)
  assert rows['D'].distil.differ == 'kl' and rows['E'].distil.differ == 'alpha'
  assert dataclasses.replace(rows['F'], late=0.0) == rows['E']
  assert rows['F'].epochs(180) == 120 and rows['E'].epochs(180) == 180


def test_what_is_drawn_leaves_fixed_decisions_alone():
  one = training(fixed=('depth',))
  drawn = one.drawn(np.random.default_rng(0), 100)
  assert set(drawn[:, 0]) == {0, 1} and set(drawn[:, 2]) == {0}
  assert one.smallest.tolist() == [0, 0, 0]
  free = training()
  assert free.smallest.tolist() == [0, 0, 1]
  macs = [sandwich.multiply_accumulates(t) for t in (free, one)]
  largest = sandwich.multiply_accumulates(training(students=0))
  assert largest < macs[0] < macs[1] < 1.75 * largest
  assert one.name('a') != free.name('a') != free.name('b')


def in_training(options, epochs=6, **changes):
  recipe = dataclasses.replace(
    tiny_todm.RECIPE, epochs=epochs, decay=0.5, start=5, **changes
  )
  one = sandwich.Training(SPACE, MACRO, recipe, options, 3)
  return sandwich.SupernetTrainer(one, tiny_corpus.prepared(tiny_todm.RECIPE))


def test_the_last_third_has_another_optimiser_and_weight():
  how = criterion.Distillation('alpha', count=2)
  options = dataclasses.replace(sandwich.ROWS['F'], distil=how, late_lr=0.1)
  phases = [in_training(options).phase(n) for n in range(1, 7)]
  lr = tiny_todm.RECIPE.lr
  assert phases[:4] == [(lr, 1.0, False)] * 4
  # It begins at a rate of its own, which then falls as the recipe says.
  assert phases[4:] == [(0.1, 0.1, True), (0.05, 0.1, True)]
  plain = in_training(sandwich.ROWS['C'])
  assert plain.phase(6) == (lr / 2, 1.0, False)


def test_students_are_drawn_anew_and_alike_in_every_run():
  one, two = (in_training(sandwich.ROWS['C']) for _ in range(2))
  archs = one.archs(3)
  assert archs.shape == (one.steps, 3, 3)
  np.testing.assert_array_equal(archs, two.archs(3))
  assert (archs != one.archs(4)).any()
  assert (archs[:, 0] == one.training.smallest).all()
  # Those of scores are the same in all steps of an epoch.
  scored = in_training(sandwich.ROWS['topk']).archs(1)
  assert (scored == scored[:1]).all()
  sizes = [training().params(arch) for arch in scored[0]]
  assert sizes[0] == min(sizes) and sizes[0] <= sizes[1] <= sizes[2]


def test_weights_are_rounded_to_eight_bits_each_channel_by_itself():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(5, 3)).astype(np.float32) * [[1, 10, 0]]
  tree = {'ffn': {'kernel': kernel, 'bias': kernel[0]}}
  found = rounding.fake_quantised(tree)['ffn']
  np.testing.assert_array_equal(found['bias'], kernel[0])
  step = np.abs(kernel).max(0) / 127
  assert (np.abs(found['kernel'] - kernel) <= step / 2 + 1e-6).all()
  assert len(np.unique(found['kernel'][:, 2])) == 1
  # Of a part the scales are its own.
  part = {'ffn': {'kernel': kernel[:2], 'bias': kernel[0]}}
  put = rounding.planted(tree, rounding.fake_quantised(part))['ffn']['kernel']
  assert put.shape == (5, 3) and not put[2:].any()
  np.testing.assert_allclose(put[:2], kernel[:2], atol=step.max() / 2 + 1e-6)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'students': 5}, 'students=5'), ({'heads': 'all'}, "heads='all'"),
    ({'late': 1.0}, 'late=1.0'),
    ({'distil': criterion.Distillation('mse')}, "differ is 'mse'"),
    ({'distil': criterion.Distillation(select='all')}, "select is 'all'"),
    ({'distil': criterion.Distillation(count=0)}, 'count is 0; it must be 1'),
    ({'students': 0, 'distil': criterion.Distillation()}, 'without effect'),
    ({'fixed': ('width9',)}, "'width9' is no decision"),
    ({'distil': criterion.Distillation()}, '10 of 6 outputs leave no rest'),
  ],
)  # fmt: skip
def test_options_without_sense_are_refused(changes, words):
  with pytest.raises(ValueError) as caught:
    training(**changes)
  assert words in str(caught.value)


def test_what_does_not_go_together_is_refused():
  nb_asr = spaces.NB_ASR, macros.TINY, tiny_corpus.RECIPE
  with pytest.raises(ValueError, match='no network of space nb_asr is a part'):
    sandwich.Training(*nb_asr)
  with pytest.raises(ValueError, match="give loss='transducer'"):
    training(tiny_corpus.RECIPE)
  tdnns = spaces.ST_NAS, macros.ST_NAS_TINY, tiny_todm.CTC_RECIPE
  for row, words in (('A3', 'end nowhere'), ('topk', 'nobody has told')):
    with pytest.raises(ValueError, match=words):
      sandwich.Training(*tdnns, sandwich.ROWS[row])
  with pytest.raises(ValueError, match='wants 0 and none'):
    training(dataclasses.replace(STILL, curriculum=(16000,)))


def test_what_does_not_fit_is_refused_with_its_bytes():
  prepared = tiny_corpus.prepared(tiny_todm.RECIPE)
  huge = dataclasses.replace(MACRO, outputs=10**10)
  shapes = {'w': jax.ShapeDtypeStruct((3, 4), jnp.float32)}
  arguments = tiny_todm.RECIPE, prepared.buckets, prepared.mesh, shapes
  with pytest.raises(memory.TooLargeError) as caught:
    fitting.check(huge, *arguments)
  (bucket,) = prepared.buckets
  nodes = bucket.batch * (bucket.labels + 1)
  frames = -(-bucket.frames // 2)
  needed = 4 * 48 + 4 * nodes * (2 * 10**10 + 8 * frames)
  share = -(-needed // prepared.mesh.devices.size)
  assert f'at least {share:,} bytes' in str(caught.value)
  fitting.check(MACRO, *arguments)


def test_utterances_without_labels_are_refused():
  tiny = tiny_corpus.corpus()
  labels = list(tiny.train.labels)
  labels[4] = np.zeros(0, np.int32)
  odd = dataclasses.replace(
    tiny, train=dataclasses.replace(tiny.train, labels=labels)
  )
  held = criterion.of(tiny_todm.RECIPE)
  assert held.constants(tiny, tiny_todm.RECIPE) is None
  with pytest.raises(ValueError) as caught:
    held.constants(odd, tiny_todm.RECIPE)
  words = '1 utterances of train have no labels, the first of them'
  assert f'{words} {odd.train.ids[4]}' in str(caught.value)


@pytest.mark.slow
def test_a_supernet_of_tdnns_comes_for_one_record():
  macro = dataclasses.replace(
    macros.ST_NAS_TINY, width=4, features=8, outputs=6
  )
  space = spaces.ST_NAS
  one = sandwich.Training(space, macro, tiny_todm.CTC_RECIPE)
  elastic, network = one.elastic, one.network()
  whole = elastic.whole(space)
  made = jax.jit(
    lambda key: common.initial_params(network, key, whole)
  )(jax.random.key(0))  # fmt: skip
  x_btf, len_b = batch().x_btf, batch().len_b
  run = jax.jit(network.apply)
  for arch in (one.largest, one.smallest):
    own = elastic.extract(space, arch, macro, made)
    alone = families.single(space, arch, macro)
    expected, _ = jax.jit(alone.apply)(
      {'params': own}, x_btf, len_b, families.gates(space, arch)
    )
    found, _ = run({'params': made}, x_btf, len_b, elastic.gates(space, arch))
    np.testing.assert_allclose(found, expected, atol=1e-5)
