"""Searches: stages, held-out utterances, what a kill and damage do."""

import dataclasses
import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_corpus
import toy_supernet

from nasjax import spaces
from nasjax.models import families, macros
from nasjax.oneshot import methods, results, stages
from nasjax.oneshot import search as searching
from nasjax.oneshot import steps as steps_lib
from nasjax.oneshot.supernet import Supernet
from nasjax.training import plateau

TOY, WEIGHTS = toy_supernet.SUPERNET, toy_supernet.WEIGHTS
LR = 0.02
FINGERPRINT = 'of the corpus'
ONE_BLOCK = dataclasses.replace(spaces.ST_NAS, skips=(0,))
TDNN = Supernet(
  ONE_BLOCK,
  macros.Tdnn('narrow', 8, 1, 0, outputs=6, features=tiny_corpus.FEATURES),
  ('tdnn_c1d1', 'tdnn_c2d2'),
  (),
)
NB_ASR = Supernet(
  spaces.NB_ASR,
  dataclasses.replace(tiny_corpus.MACRO, lstm=0),
  ('linear', 'conv5'),
  ('s00',),
)
REAL = {'st_nas': TDNN, 'nb_asr': NB_ASR}
# Of one node, as the other is of one block.
SEARCHED = REAL | {
  'nb_asr': dataclasses.replace(
    NB_ASR, space=dataclasses.replace(spaces.NB_ASR, skips=(1,))
  )
}


def _prepared():
  return tiny_corpus.prepared(toy_supernet.RECIPE)


@pytest.fixture
def toy(monkeypatch):
  """Steps on the toy, compiled once a method; nothing is decoded."""
  toy_supernet.install(monkeypatch)
  monkeypatch.setattr(
    searching.SupernetTrainer,
    'evaluate',
    lambda self, params, index_e, split='validation': (
      float(np.abs(params['head']).sum()),
      0.5,
    ),
  )


def _search(method=methods.ST_NAS, plan=(1, 2), seed=3, **changes):
  search = searching.Search(TOY, method, WEIGHTS, stages.fixed(*plan, LR), seed)
  return dataclasses.replace(search, **changes)


def _run(search, out, on_epoch=lambda progress: None):
  return searching.run(search, _prepared(), FINGERPRINT, out, on_epoch)


def _timeless(result):
  """A result without what two honest runs may differ in."""
  result = json.loads(json.dumps(result))
  del result['seconds'], result['curves']['seconds']
  return result


# One of each kind: estimator, mode, level, order, schedule.
@pytest.mark.parametrize(
  'name', ['darts_differences', 'snas', 'proxyless', 'st_nas', 'uniform']
)
def test_every_kind_of_method_ends_with_an_architecture(toy, tmp_path, name):
  method = methods.METHODS[name]
  search = _search(method, plan=(1, 3))
  seen = []
  result = _run(search, tmp_path, seen.append)
  assert result['epochs'] == 4
  assert [p.stage for p in seen] == ['warm-up', 'search', 'search', 'search']
  # What is written is what is returned, and a second call computes nothing.
  assert results.load(tmp_path, search.name(FINGERPRINT)) == result
  assert _run(search, tmp_path) == result
  arch = TOY.space.parse(result['arch'])
  assert TOY.space.names(arch) == result['names']
  if not method.derive_zero:
    assert 'zero' not in result['names']
  for curve in ('train_loss', 'held_out_loss', 'val_per', 'lr'):
    assert np.isfinite(result['curves'][curve]).all()
  _check_alpha(method, result)
  _check_counts(search, result, seen[-1].history)


def _check_alpha(method, result):
  """Warm-up leaves alpha as it began, the search does not."""
  for edge, _ in TOY.edges:
    alpha_ek = np.array(result['curves'][f'alpha_{edge}'])
    moved_e = (np.diff(alpha_ek, axis=0) != 0).any(1)
    if method.arch_every == 0:
      assert not moved_e.any()
  if method.name == 'st_nas':
    assert not alpha_ek[0].any()
  every = [np.array(result['curves'][f'alpha_{edge}']) for edge, _ in TOY.edges]
  moved = any((alpha_ek[-1] != alpha_ek[0]).any() for alpha_ek in every)
  assert moved == (method.arch_every > 0)


def _check_counts(search, result, history):
  method = search.method
  steps = history['path'].shape[1]
  assert (history['path'] >= 0).all()
  arch = history['arch_path'][..., 0] >= 0
  bilevel = method.arch_every and not method.single_level
  expected = np.zeros((4, steps), bool)
  if bilevel:
    for s in range((1 + method.rest_epochs) * steps, 4 * steps):
      expected.flat[s] = s % method.arch_every == 0
  np.testing.assert_array_equal(arch, expected)
  each = {'mixed': 9, 'straight': 9, 'recomputed': 9, 'pair': 6}
  # For the step ahead, there, and two for the mixed derivative.
  passes = 4 if method.order == 2 else 1
  forwards = 4 * steps * each.get(method.weight_mode, 3)
  forwards += expected.sum() * passes * each.get(method.arch_mode, 3)
  found = result['executions']
  assert found['weight_steps'] == 4 * steps
  assert found['arch_steps'] == expected.sum()
  assert found['candidate_forwards'] == forwards


class _Killed(Exception):
  pass


def _die_after(epoch):
  def on_epoch(progress):
    if progress.epoch == epoch:
      raise _Killed

  return on_epoch


def test_warm_up_and_search_share_one_program(toy, monkeypatch, tmp_path):
  chex.clear_trace_counter()
  make = steps_lib.make_pass
  monkeypatch.setattr(
    steps_lib, 'make_pass', lambda *args: chex.assert_max_traces(make(*args), 1)
  )
  # Weights that no other test has.
  assert _run(_search(weights=WEIGHTS._replace(momentum=0.5)), tmp_path)


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_a_killed_search_ends_with_the_same_bits(toy, tmp_path, epoch):
  search = _search(plan=(1, 2))
  whole = _run(search, tmp_path / 'whole')
  with pytest.raises(_Killed):
    _run(search, tmp_path / 'killed', _die_after(epoch))
  assert not results.path_of(
    tmp_path / 'killed', search.name(FINGERPRINT)
  ).exists()
  seen = []
  again = _run(search, tmp_path / 'killed', seen.append)
  assert [p.resumed for p in seen] == [e <= epoch for e in (1, 2, 3)]
  assert _timeless(again) == _timeless(whole)
  states = [
    searching.restore(search, _prepared(), FINGERPRINT, tmp_path / name)[1]
    for name in ('whole', 'killed')
  ]
  for state in states:
    del state.history['seconds']
  chex.assert_trees_all_equal(*states)


def test_nothing_is_restored_where_nothing_was_run(toy, tmp_path):
  with pytest.raises(ValueError, match='no checkpoint of search'):
    searching.restore(_search(), _prepared(), FINGERPRINT, tmp_path)


@pytest.mark.parametrize(
  'damage', ['{"arch": [0', '[1, 2]', '{"name": "another"}', '\0']
)
def test_a_damaged_result_is_named(tmp_path, damage):
  name = _search().name(FINGERPRINT)
  path = results.path_of(tmp_path, name)
  path.parent.mkdir()
  path.write_text(damage)
  with pytest.raises(ValueError, match=f'{name}.*remove the file'):
    _run(_search(), tmp_path)


def test_names_tell_searches_apart():
  changed = [
    _search(),
    _search(methods.ST_NAS_CODE),
    _search(plan=(1, 3)),
    _search(seed=4),
    _search(weights=WEIGHTS._replace(kind='sgd')),
    _search(method=dataclasses.replace(methods.ST_NAS, alpha_lr=1.0)),
  ]
  names = {search.name(FINGERPRINT) for search in changed}
  assert len(names | {_search().name('another')}) == len(changed) + 1
  assert _search().name(FINGERPRINT) == _search().name(FINGERPRINT)


def test_held_out_utterances_are_disjoint_and_complete(toy):
  searcher = searching.SupernetTrainer(_search(), _prepared())
  count = len(_prepared().bucket_u)
  assert searcher.held_u.sum() == round(0.1 * count)
  for number in (1, 2):
    train = searcher._plan(number, ~searcher.held_u).index_skb
    held = searcher._plan(number, searcher.held_u).index_skb
    seen = [sorted(index[index >= 0].tolist()) for index in (train, held)]
    assert sorted(seen[0] + seen[1]) == list(range(count))
    assert seen[1] == np.flatnonzero(searcher.held_u).tolist()
  again = searching.SupernetTrainer(_search(), _prepared())
  other = searching.SupernetTrainer(_search(seed=4), _prepared())
  np.testing.assert_array_equal(searcher.held_u, again.held_u)
  assert (searcher.held_u != other.held_u).any()


@pytest.mark.parametrize('share', [0.0, 0.01, 1.0])
def test_too_few_utterances_are_named(toy, share):
  method = dataclasses.replace(methods.ST_NAS, held_out=share)
  with pytest.raises(ValueError, match='of 18 training utterances'):
    searching.SupernetTrainer(_search(method), _prepared())


@pytest.mark.parametrize('replay', [False, True])
def test_held_out_batches_come_round_again(toy, replay):
  method = dataclasses.replace(methods.DARTS, replay=replay)
  searcher = searching.SupernetTrainer(_search(method), _prepared())
  size = searcher.held_steps
  assert size == searcher.steps == 3
  plans = [searcher._held_out_plan(first + np.arange(3)) for first in range(13)]
  stream = [plan.index_skb[0, 0] for plan in plans]
  # A plan is a window of one endless sequence.
  for first, plan in enumerate(plans[:10]):
    for s in range(3):
      np.testing.assert_array_equal(plan.index_skb[s, 0], stream[first + s])
  passes = [np.concatenate(stream[n : n + size]) for n in (0, 3, 6, 9)]
  held = np.flatnonzero(searcher.held_u).tolist()
  for index in passes:
    assert sorted(index[index >= 0].tolist()) == held
  same = [np.array_equal(index, passes[0]) for index in passes[1:]]
  assert all(same) if replay else not any(same)


@pytest.mark.parametrize('every', [1, 5])
def test_no_held_out_batch_is_left_out(toy, tmp_path, every):
  # Fewer held-out batches than steps: epochs end within a pass.
  method = dataclasses.replace(methods.ST_NAS, arch_every=every)
  search, seen = _search(method, plan=(1, 3)), []
  _run(search, tmp_path, seen.append)
  searcher = searching.SupernetTrainer(search, _prepared())
  moved = seen[-1].history['arch_path'][..., 0] >= 0
  used = []
  for epoch in range(1, 5):
    history = searcher.initial().history
    if epoch > 1:
      history = {k: v.copy() for k, v in seen[epoch - 2].history.items()}
    batch_s = searcher._held_out_batches(history, epoch)
    used += batch_s[moved[epoch - 1]].tolist()
  assert used == list(range(moved.sum()))


def test_temperatures_of_the_stages(toy):
  searcher = searching.SupernetTrainer(
    _search(methods.GDAS, (2, 5)), _prepared()
  )
  warm_up, search = searcher.search.stages
  assert [searcher.temperature(warm_up, e) for e in (1, 2)] == [10.0, 10.0]
  cooling = [searcher.temperature(search, e) for e in range(1, 6)]
  assert (cooling[0], cooling[-1]) == (10.0, 0.1)
  np.testing.assert_allclose(np.diff(cooling), -9.9 / 4)
  one = stages.Stage('search', 1, LR)
  assert searcher.temperature(one, 1) == 10.0


def _scripted(monkeypatch, losses):
  """Lets the judge see these losses, one an epoch."""
  script = iter(losses)
  real = searching._programs

  def programs(*arguments):
    found = real(*arguments)
    return found._replace(expected=lambda *_: jnp.float32(next(script)))

  monkeypatch.setattr(searching, '_programs', programs)


# Warm-up: one epoch that does not count, then until two bad ones.
JUDGED = (
  stages.Stage('warm-up', 9, 1e-3, plateau.Plateau(1, 2, 0.5, 1e-3)),
  stages.Stage('search', 9, 1e-3, plateau.Plateau(0, 2, 0.5, 1e-4)),
)
WARM_UP_LOSSES = [9.0, 8.0, 7.75, 7.75]


def _judged(method, search_losses, monkeypatch, out):
  _scripted(monkeypatch, WARM_UP_LOSSES + search_losses)
  seen = []
  _run(_search(method, stages=JUDGED), out, seen.append)
  return seen[-1].history, len(seen)


def test_the_scheduler_ends_stages_and_decays(toy, monkeypatch, tmp_path):
  # The search begins anew: any loss is its first best.
  history, epochs = _judged(
    methods.ST_NAS, [20.0, 19.0, 19.0, 19.0, 19.0], monkeypatch, tmp_path
  )
  assert epochs == 9
  np.testing.assert_array_equal(history['stage'][:9], [0] * 4 + [1] * 5)
  np.testing.assert_array_equal(
    history['improved'][:9], [0, 1, 0, 0, 1, 1, 0, 0, 0]
  )
  decayed = 1e-3 * 0.1
  np.testing.assert_array_equal(history['lr'][:9], [1e-3] * 8 + [decayed])
  assert np.isnan(history['lr'][9:]).all()
  np.testing.assert_array_equal(
    history['held_out_loss'][:9], WARM_UP_LOSSES + [20.0] + [19.0] * 4
  )


def test_the_released_code_must_beat_the_loss_of_warm_up(
  toy, monkeypatch, tmp_path
):
  # 7.75 is within 0.5 of the best of warm-up, 7.25 below it.
  history, epochs = _judged(
    methods.ST_NAS_CODE, [7.75, 7.25, 7.0, 7.0, 7.0], monkeypatch, tmp_path
  )
  assert epochs == 9
  np.testing.assert_array_equal(
    history['improved'][:9], [0, 1, 0, 0, 0, 1, 0, 0, 0]
  )


def test_a_rate_that_cannot_fall_any_more_stops_the_search(
  toy, monkeypatch, tmp_path
):
  _scripted(monkeypatch, [*WARM_UP_LOSSES, 7.75, 7.75, 7.75])
  search = _search(methods.ST_NAS_CODE, stages=JUDGED)
  # Killed behind its last epoch, and there is no loss left to go on with.
  with pytest.raises(_Killed):
    _run(search, tmp_path, _die_after(7))
  assert _run(search, tmp_path)['epochs'] == 7


def test_the_released_code_goes_on_from_the_best_epoch_of_warm_up(
  toy, monkeypatch, tmp_path
):
  # Warm-up improves in its second epoch and ends with its fourth.
  seen = {}
  monkeypatch.setattr(
    searching.SupernetTrainer,
    '_next_stage',
    _watched(searching.SupernetTrainer._next_stage, seen),
  )
  _judged(methods.ST_NAS_CODE, [7.0] * 5, monkeypatch, tmp_path)
  best, last, given = seen['kept'], seen['found'], seen['given']
  assert int(best.step) < int(last.step) == int(given.step)
  for name in ('params', 'opt'):
    chex.assert_trees_all_equal(getattr(given, name), getattr(best, name))
  assert (np.asarray(given.params['head']) != last.params['head']).any()


def _watched(function, seen):
  """The function, which leaves what it got and gave in `seen`."""

  def call(self, kept, found, judge, number):
    given, judge = function(self, kept, found, judge, number)
    seen.update(
      kept=kept,
      found=jax.device_get(found),
      given=jax.device_get(given),
    )
    return given, judge

  return call


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'order': 3}, 'order 3; want 1 or 2'),
    ({'order': 2}, 'second order is that of mixed candidates'),
  ],
)
def test_methods_that_make_no_sense_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(methods.ST_NAS, **changes)


@pytest.mark.parametrize('method', [methods.ST_NAS, methods.ST_NAS_CODE])
def test_the_optimiser_between_stages(toy, method):
  kept = method is methods.ST_NAS_CODE
  searcher = searching.SupernetTrainer(_search(method), _prepared())
  initial = searcher.initial().search
  params = jax.device_get(initial.params)
  state, over = searcher.epoch(searcher.initial(), 1)
  assert not over
  np.testing.assert_array_equal(state.stage, [1, 0])
  opt = state.search.opt
  assert (state.search.params['head'] != params['head']).any()
  assert (opt.count_g.max() > 0) == kept
  assert bool((opt.first['head'] != 0).any()) == kept


def _told(improved, stage, firsts, method):
  """What is derived where op1's best candidate is firsts[e] in epoch e."""
  search = _search(method, plan=(2, 3))
  epochs = len(firsts)
  history = {
    'stage': np.array(stage),
    'improved': np.array(improved),
    'alpha_op1': np.eye(3)[firsts],
  }
  for edge, names in TOY.edges[1:]:
    history[f'alpha_{edge}'] = np.zeros((epochs, len(names)))
  return TOY.choices(results.derive(search, history))[0]


def test_what_is_derived():
  firsts, stage = [0, 0, 1, 2, 2], [0, 0, 1, 1, 1]
  improved = [1, 1, 1, 0, 0]
  assert _told(improved, stage, firsts, methods.ST_NAS) == 2
  assert _told(improved, stage, firsts, methods.ST_NAS_CODE) == 1
  # Improvements of warm-up say nothing about architectures.
  assert _told([1, 1, 0, 0, 0], stage, firsts, methods.ST_NAS_CODE) == 2
  # Epochs that never were do not count.
  stopped = [0, 0, 1, 1, -1]
  assert _told([0] * 5, stopped, firsts, methods.ST_NAS_CODE) == 2
  assert _told([0] * 5, stopped, firsts, methods.ST_NAS) == 2


def test_zero_is_not_derived_where_the_method_says_so():
  search = _search(methods.DARTS)
  alpha_e = (np.array([0.1, 0.2, 0.3]),) * 3 + (np.array([0.5, 0.1]),)
  found = results.best_choices(search, alpha_e)
  np.testing.assert_array_equal(found, [1, 1, 1, 0])
  found = results.best_choices(_search(methods.SNAS), alpha_e)
  np.testing.assert_array_equal(found, [2, 2, 2, 0])


def test_a_search_that_diverges_says_so(toy, tmp_path, monkeypatch):
  # Nor does it go on: one epoch of four.
  weights = WEIGHTS._replace(
    kind='sgd', recipe=tiny_corpus.variant(clip=float('inf'))
  )
  search = _search(
    methods.ST_NAS,
    stages=stages.fixed(2, 2, 3e38),
    weights=weights,
  )
  place = tmp_path / 'searches' / search.name(FINGERPRINT)
  for _ in range(2):  # and when it is asked again
    with pytest.raises(searching.DivergedError) as fault:
      _run(search, tmp_path)
    words = str(fault.value)
    found = re.match(
      r'st_nas, seed 3, diverged in step (\d+) \(epoch 1, warm-up\): a loss or '
      r'a gradient is not finite; weights: loss ([^ ]+) with op1=(\w+), '
      r'op2=(\w+), op3=(\w+), ',
      words,
    )
    assert found and 1 <= int(found[1]) <= 3
    assert set(found.groups()[2:]) <= set(TOY.ops)
    assert f'is in {place / "1"};' in words and (place / '1').is_dir()
  assert results.load(tmp_path, search.name(FINGERPRINT)) is None
  # What to look at is what the step did not change.
  _, state = searching.restore(search, _prepared(), FINGERPRINT, tmp_path)
  assert not state.search.alive
  assert int(state.search.step) == int(found[1]) - 1
  chex.assert_tree_all_finite(state.search.params)


def test_the_loss_of_the_judge_may_be_the_first_that_is_not_finite(
  toy, tmp_path, monkeypatch
):
  _scripted(monkeypatch, [1.0, np.inf])
  with pytest.raises(
    searching.DivergedError,
    match=r'epoch 2 \(search\): the loss of held-out .*inf',
  ):
    _run(_search(plan=(1, 2), seed=9), tmp_path)


def test_nothing_is_derived_from_an_absurd_loss(toy, tmp_path, monkeypatch):
  # It may come and go; what counts is the loss behind the last epoch.
  _scripted(monkeypatch, [1.0, 1e20, 2.0])
  assert _run(_search(plan=(1, 2), seed=10), tmp_path / 'goes')['arch']
  _scripted(monkeypatch, [1.0, 2.0, 1e20])
  with pytest.raises(
    searching.DivergedError,
    match=r'epoch 3 \(search\): the loss of held-out .* is 1e\+20',
  ):
    _run(_search(plan=(1, 2), seed=10), tmp_path / 'stays')


def test_an_architecture_step_that_diverges_is_told_with_its_path(
  toy, tmp_path, monkeypatch
):
  method = dataclasses.replace(methods.DARTS, alpha_lr=float('inf'))
  with pytest.raises(searching.DivergedError) as fault:
    _run(_search(method, plan=(1, 2)), tmp_path)
  assert 'architecture: loss' in str(fault.value)
  assert '(epoch 2, search)' in str(fault.value)


@pytest.mark.parametrize('epochs', [0, -1])
def test_stages_without_epochs_are_refused(epochs):
  with pytest.raises(ValueError, match='out of range'):
    stages.Stage('search', epochs, LR)
  with pytest.raises(ValueError, match="'retrain'; want 'warm-up'"):
    stages.Stage('retrain', 1, LR)
  with pytest.raises(ValueError, match='at least one stage'):
    _search(plan=(0, 0))
  lion = WEIGHTS._replace(recipe=tiny_corpus.variant(optimiser='lion'))
  with pytest.raises(ValueError, match="optimiser='lion' trains no.*'adam'"):
    _search(weights=lion)
  assert [s.name for s in stages.fixed(0, 2, LR)] == ['search']


def test_the_stages_of_the_paper():
  warm_up, search = stages.st_nas()
  assert (warm_up.lr, search.lr) == (1e-3, 1e-3)
  assert (warm_up.plateau, search.plateau) == (plateau.WARM_UP, plateau.SEARCH)
  assert (warm_up.searches, search.searches) == (False, True)


# What follows runs the networks themselves.


def _index(supernet, seed):
  rng = np.random.default_rng(seed)
  return np.array([rng.integers(len(names)) for _, names in supernet.edges])


def _own_params(supernet, arch, params):
  """Parameters that one architecture uses; NaN in all the others' places."""
  used = set(supernet.space.main_ops(arch))

  def names_of(tree, poisoned):
    out = {}
    for name, child in tree.items():
      prefix, _, op = name.partition('_')
      mine = prefix.startswith(('node', 'block')) and op in supernet.ops
      number = prefix[4:] if prefix.startswith('node') else prefix[5:]
      if mine and supernet.space.main_ops(arch)[int(number)] != op:
        if poisoned:
          out[name] = jax.tree.map(lambda x: np.full_like(x, np.nan), child)
      elif isinstance(child, dict):
        out[name] = names_of(child, poisoned)
      else:
        out[name] = child
    return out

  assert used
  return names_of(params, False), names_of(params, True)


@pytest.mark.parametrize('name', REAL)
def test_the_path_of_a_supernet_is_the_single_network(name):
  supernet = REAL[name]
  recipe = tiny_corpus.variant(dropout=0.3)
  network = supernet.network(recipe, 'path')
  params = steps_lib.init(
    supernet, methods.ST_NAS, WEIGHTS._replace(recipe=recipe), jax.random.key(0)
  ).params
  rng = np.random.default_rng(0)
  x_btf = rng.normal(size=(2, 24, tiny_corpus.FEATURES)).astype(np.float32)
  len_b, key = np.array([24, 15]), jnp.array([1, 2], jnp.uint32)

  @jax.jit
  def path(params, index_e, key):
    gates = supernet.gates_of(index_e)
    return network.apply({'params': params}, x_btf, len_b, gates, key)

  for seed in (0, 1):
    index_e = _index(supernet, seed)
    arch = supernet.arch(index_e)
    np.testing.assert_array_equal(supernet.choices(arch), index_e)
    own, poisoned = _own_params(supernet, arch, jax.device_get(params))
    single = families.single(supernet.space, arch, supernet.macro, 0.3)
    plain_gates = families.gates(supernet.space, arch)
    found, _ = path(poisoned, index_e, key)
    expected, _ = jax.jit(single.apply)(
      {'params': own}, x_btf, len_b, plain_gates, key
    )
    valid_bt = np.arange(found.shape[1])[None] < (
      -(-len_b // supernet.macro.reduction)[:, None]
    )
    np.testing.assert_allclose(
      found[valid_bt], expected[valid_bt], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
  ('name', 'method'),
  [('st_nas', methods.ST_NAS_CODE), ('nb_asr', methods.PROXYLESS_TWO)],
)
def test_a_search_of_networks(tmp_path, name, method):
  search = _search(
    dataclasses.replace(method, arch_every=1, rest_epochs=0),
    plan=(1, 1),
    supernet=SEARCHED[name],
    weights=WEIGHTS._replace(recipe=tiny_corpus.variant(l2=0.0)),
  )
  seen = []
  result = _run(search, tmp_path, seen.append)
  assert result['epochs'] == 2
  assert [p.stage for p in seen] == ['warm-up', 'search']
  for curve in ('train_loss', 'held_out_loss', 'val_loss', 'val_per'):
    assert np.isfinite(result['curves'][curve]).all()
  assert result['executions']['arch_steps'] > 0
  shutil.rmtree(tmp_path / 'searches' / result['name'])
  assert _run(search, tmp_path) == result
