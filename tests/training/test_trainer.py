"""Runners: evaluation, the choice of the best epoch, the curriculum."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import plain_training
import pytest
import tiny_corpus

from nasjax import cells, decoding, models
from nasjax.models import common
from nasjax.programs import memory
from nasjax.training import trainer

SPACE, RECIPE, MACRO = tiny_corpus.SPACE, tiny_corpus.RECIPE, tiny_corpus.MACRO
PAIR = (
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 9),
)
# Two buckets, of four and of two utterances, and the beam.
BEAM = tiny_corpus.variant(
  batch_long=2, long_frames=41, decoder='beam', beam_width=3
)


def _params(seed=0):
  """Parameters of a pair that answers with many symbols, and all of them."""
  network = tiny_corpus.trainer(PAIR).network
  gates = cells.gates(SPACE, SPACE.parse(PAIR[0][0]))
  shapes = jax.eval_shape(
    lambda key: common.initial_params(network, key, gates), jax.random.key(0)
  )
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    small = path[-1].key == 'bias'
    drawn = rng.normal(0, 0.1 if small else 1.0, (2, *leaf.shape))
    return drawn.astype(np.float32)

  params_p = jax.tree_util.tree_map_with_path(draw, shapes)
  params_p['head']['kernel'] *= 3
  return params_p


def _of(tree, p):
  return jax.tree.map(lambda leaf: leaf[p], tree)


def _collapsed(symbols):
  merged = [s for s, before in zip(symbols, [None, *symbols]) if s != before]
  return [s for s in merged if s != 0]


def _decoded(recipe, logits_btv, len_b):
  if recipe.decoder == 'greedy':
    return _collapsed(np.argmax(logits_btv[0, : len_b[0]], 1).tolist())
  labels_bu, count_b, _ = decoding.beam_search(
    logits_btv, len_b, width=recipe.beam_width
  )
  return labels_bu[0, : count_b[0]].tolist()


def _distance(hyp, ref):
  """Levenshtein's, row by row."""
  row = list(range(len(ref) + 1))
  for i, h in enumerate(hyp, start=1):
    diagonal, row[0] = row[0], i
    for j, r in enumerate(ref, start=1):
      diagonal, row[j] = (
        row[j],
        min(row[j] + 1, row[j - 1] + 1, diagonal + (h != r)),
      )
  return row[-1]


def _folded(labels):
  return [c for c in (tiny_corpus.FOLD_V[label] for label in labels) if c]


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, x_btf, len_b, gates):
  return network.apply({'params': params}, x_btf, len_b, gates)


def _scored(recipe, cell, params, split):
  """Loss, PER and transcripts of one plain network, an utterance at a time."""
  arch = SPACE.parse(cell)
  network = models.single(SPACE, arch, MACRO)
  params = models.unpack(SPACE, arch, params)
  edits = total = 0
  losses, transcripts = [], []
  for u, labels in enumerate(split.labels):
    frames = split.frames_u[u]
    # What stands behind the utterance must not matter.
    x_btf = np.full((1, 59, tiny_corpus.FEATURES), 9, np.float32)
    x_btf[0, :frames] = split.x_tf(u)
    logits_btv, len_b = _apply(
      network, params, x_btf, np.array([frames]), cells.gates(SPACE, arch)
    )
    label_len_b = np.array([len(labels)])
    labels_bl = np.zeros((1, 9), np.int32)
    labels_bl[0, : len(labels)] = labels
    loss_b = plain_training.losses_of(logits_btv, len_b, labels_bl, label_len_b)
    repeats = np.sum(labels[1:] == labels[:-1])
    if len_b[0] >= len(labels) + repeats:
      losses.append(float(loss_b[0]))
    hyp = _decoded(recipe, np.asarray(logits_btv), np.asarray(len_b))
    transcripts.append(hyp)
    edits += _distance(_folded(hyp), _folded(labels))
    total += len(_folded(labels))
  return np.mean(losses), edits / total, transcripts


@pytest.mark.parametrize('recipe', [RECIPE, BEAM], ids=['greedy', 'beam'])
def test_scores_equal_those_of_single_utterances(recipe):
  params_p = _params()
  pair = tiny_corpus.trainer(PAIR, recipe)
  assert len(pair.prepared.buckets) == (1 if recipe is RECIPE else 2)
  heard = set()
  for name in ('validation', 'test'):
    split = getattr(tiny_corpus.corpus(), name)
    loss_p, per_p = pair.evaluate(params_p, name)
    for p, (cell, _) in enumerate(PAIR):
      loss, per, transcripts = _scored(recipe, cell, _of(params_p, p), split)
      np.testing.assert_allclose(loss_p[p], loss, rtol=1e-4)
      assert per_p[p] == pytest.approx(per, abs=1e-12)
      heard |= set(sum(transcripts, []))
      assert 0.3 < per < 3
  # It is a test only if there are symbols that are folded and left out.
  assert {2, 3, 5} <= heard


def test_labels_that_are_emitted_and_errors_by_kind():
  params_p = _params()
  pair = tiny_corpus.trainer(PAIR)
  assert np.isnan(pair.emitted_p).all()
  split = tiny_corpus.corpus().test
  loss_p, per_p = pair.evaluate(params_p, 'test')
  labels = sum(map(len, split.labels))
  emitted = [
    sum(map(len, _scored(RECIPE, cell, _of(params_p, p), split)[2]))
    for p, (cell, _) in enumerate(PAIR)
  ]
  np.testing.assert_allclose(pair.emitted_p * labels, emitted)
  tested = pair.test(params_p)
  np.testing.assert_array_equal(tested[0], loss_p)
  np.testing.assert_array_equal(tested[1], per_p)
  total = sum(len(_folded(labels)) for labels in split.labels)
  np.testing.assert_allclose(tested[2].sum(1), per_p * total)
  # A network that knows the blank alone leaves out all there is.
  bias_pv = np.zeros_like(params_p['head']['bias'])
  bias_pv[:, 0] = 1e4
  silent_p = dict(params_p, head=dict(params_p['head'], bias=bias_pv))
  _, per_p, edits_pk, rates = pair.test(silent_p)
  assert rates == {}  # of phones there are no words
  np.testing.assert_array_equal(edits_pk, [[0, total, 0]] * 2)
  pair.evaluate(silent_p, 'validation')
  np.testing.assert_array_equal(pair.emitted_p, 0)
  np.testing.assert_array_equal(per_p, 1)


def test_decoders_differ():
  split = tiny_corpus.corpus().test
  params = _of(_params(), 0)
  greedy, beam = (
    _scored(recipe, PAIR[0][0], params, split)[2] for recipe in (RECIPE, BEAM)
  )
  assert greedy != beam


def test_loss_is_a_mean_over_what_has_an_alignment():
  """8 frames make 4 outputs: too few for 9 labels. PER counts them still."""
  tiny = tiny_corpus.corpus()
  labels = list(tiny.validation.labels)
  assert tiny.validation.frames_u[1] == 8
  labels[1] = np.array([1, 2, 1, 2, 1, 2, 1, 2, 1], np.int32)
  split = dataclasses.replace(tiny.validation, labels=tuple(labels))
  changed = dataclasses.replace(tiny, validation=split)
  pair = tiny_corpus.trainer(PAIR)
  prepared = trainer.device_corpus(changed, RECIPE, pair.prepared.mesh)
  pair = trainer.Trainer(pair.job, pair.shard, prepared)
  loss_p, per_p = pair.evaluate(_params(), 'validation')
  loss, per, _ = _scored(RECIPE, PAIR[1][0], _of(_params(), 1), split)
  np.testing.assert_allclose(loss_p[1], loss, rtol=1e-4)
  assert per_p[1] == pytest.approx(per, abs=1e-12)


def test_a_long_recording_elsewhere_is_none_of_training():
  """It makes a bucket that training is not compiled for."""
  tiny = tiny_corpus.corpus()
  rng = np.random.default_rng(0)
  test = tiny_corpus.corpus_lib.drawn(
    't', [rng.normal(size=(800, 8))], [np.array([1, 2], np.int32)]
  )
  pair = tiny_corpus.trainer(PAIR)
  prepared = trainer.device_corpus(
    dataclasses.replace(tiny, test=test), RECIPE, pair.prepared.mesh
  )
  assert prepared.train_buckets == pair.prepared.train_buckets
  assert [(b.frames, b.batch) for b in prepared.buckets[1:]] == [(800, 1)]
  longer = trainer.Trainer(pair.job, pair.shard, prepared)
  assert longer.flops() == pair.flops()
  state = longer.epoch(longer.initial(), 1)
  assert np.isfinite(longer.test(state.best)[1]).all()


# Epochs.

PERS = {
  # By epoch: the last of equals is kept.
  'last': ([0.5, 0.4, 0.3, 0.2], 4),
  'first': ([0.2, 0.3, 0.4, 0.5], 1),
  'tie': ([0.5, 0.3, 0.4, 0.3], 4),
  'plateau': ([0.3, 0.3, 0.3, 0.9], 3),
  'middle': ([1.2, 1.1, 0.7, 0.8], 3),
  'constant': ([1.0, 1.0, 1.0, 1.0], 4),
}


def test_the_best_epoch_is_the_latest_of_the_lowest(monkeypatch):
  names = list(PERS)
  for first, second in zip(names[::2], names[1::2], strict=True):
    pair = tiny_corpus.trainer(PAIR, tiny_corpus.variant(epochs=4))
    given = np.array([PERS[first][0], PERS[second][0]])
    calls = iter(given.T)
    monkeypatch.setattr(
      pair,
      'evaluate',
      lambda params_p, split, calls=calls: (np.zeros(2), next(calls)),
    )
    state, params = pair.initial(), []
    for epoch in range(1, 5):
      state = pair.epoch(state, epoch)
      params.append(jax.tree.map(np.array, state.members.params))
    for p, name in enumerate((first, second)):
      best = PERS[name][1]
      assert state.best_epoch[p] == best
      chex.assert_trees_all_equal(_of(state.best, p), _of(params[best - 1], p))
      kernels = [tree['head']['kernel'][p] for tree in params]
      assert not np.array_equal(kernels[0], kernels[-1])


def test_a_curriculum_comes_before_the_first_epoch():
  train = tiny_corpus.corpus().train
  limits = tuple(int(np.sort(train.samples_u)[n]) for n in (5, 5, 11))
  # 5, 5 and 11 utterances in batches of 4; below 100 samples there is none.
  recipe = tiny_corpus.variant(curriculum=(100, *limits))
  pair = tiny_corpus.trainer(PAIR, recipe)
  sizes = [[], [], []]
  for found, plan in zip(sizes, pair.curriculum, strict=True):
    for k in range(2):
      index_n = plan.index_skb[:, k].ravel()
      found.append(np.sort(index_n[index_n >= 0]))
  for limit, (one, other) in zip(limits, sizes, strict=True):
    np.testing.assert_array_equal(one, np.flatnonzero(train.samples_u < limit))
    np.testing.assert_array_equal(one, other)
  # The same utterances come in another order the second time.
  first, second, _ = pair.curriculum
  assert not np.array_equal(first.index_skb, second.index_skb)
  state = pair.epoch(pair.initial(), 1)
  np.testing.assert_array_equal(state.members.step, 2 + 2 + 3 + 5)
  state = pair.epoch(state, 2)
  np.testing.assert_array_equal(state.members.step, 12 + 5)
  # It takes the first learning rate and its own passes, then epoch 1 as ever.
  plain = tiny_corpus.trainer(PAIR)
  members_p = plain.initial().members
  for plan in pair.curriculum:
    arguments = plain.train_arguments(members_p, plan, recipe.lr)
    members_p, _ = plain.programs.train(*arguments)
  by_hand = plain.epoch(plain.initial()._replace(members=members_p), 1)
  again = pair.epoch(pair.initial(), 1)
  chex.assert_trees_all_equal(
    by_hand._replace(seconds=0), again._replace(seconds=0)
  )


def test_what_is_compiled_ahead_is_what_runs():
  """The program whose memory was read is not compiled a second time."""
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **kwargs: (
      compiled.append(kwargs.get('fun_name'))
      if name == '/jax/core/compile/backend_compile_duration'
      else None
    )
  )
  try:
    # A recipe that no other test has.
    pair = tiny_corpus.trainer(PAIR, tiny_corpus.variant(clip=0.4321))
    program = pair.compiled()
    assert compiled.count('jit(train)') == 1
    compiled.clear()
    state = pair.epoch(pair.initial(), 1)
  finally:
    jax.monitoring.clear_event_listeners()
  assert 'jit(train)' not in compiled and 'jit(keep_best)' in compiled
  inside = jax.tree.leaves((state.members, pair.prepared.train.example()))
  assert memory.program_bytes(program) > sum(leaf.nbytes for leaf in inside)


def test_shapes_are_those_of_the_first_state():
  pair = tiny_corpus.trainer(PAIR, size=3)
  chex.assert_trees_all_equal_shapes_and_dtypes(
    pair.shapes(),
    pair.initial().members,
  )


def test_states_come_back_from_the_host_with_new_padding():
  pair = tiny_corpus.trainer(PAIR, size=3)
  state = pair.epoch(pair.initial(), 1)
  host = pair.unload(state)
  assert {len(leaf) for leaf in jax.tree.leaves(host.members)} == {2}
  chex.assert_trees_all_equal(pair.load(host), state)


def test_some_steps_are_some_steps():
  pair = tiny_corpus.trainer(PAIR)
  members_p = pair.some_steps(pair.initial().members, 3)
  np.testing.assert_array_equal(members_p.step, 3)
