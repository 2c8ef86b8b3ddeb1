"""Criteria: one that is made here trains like those that come with nasjax.

Nothing is patched: it is an entry of `CRITERIA` (`toy_criterion`), and recipes
name it.
"""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import plain_training
import pytest
import tiny_corpus
import tiny_run
import toy_criterion

from nasjax import spaces
from nasjax import table as table_lib
from nasjax.benchmark import running
from nasjax.losses import criterion
from nasjax.oneshot import methods, stages, steps
from nasjax.oneshot import search as searching
from nasjax.oneshot.supernet import Supernet
from nasjax.training import population, recipes

OWN = tuple(criterion.CRITERIA)
PAIR = (
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 9),
)
RECIPE = tiny_corpus.variant(
  name='even', loss='even', epochs=8, l2=0.0, dropout=0.0, decay=1.0
)


toy_criterion.register()


def _prepared(recipe=RECIPE):
  mesh = population.member_mesh(jax.devices()[:1])
  return running.device_corpus(tiny_corpus.corpus(), recipe, mesh)


def test_a_criterion_of_ones_own_trains_into_a_table(tmp_path):
  job = tiny_corpus.job(RECIPE)
  (shard,) = running.plan(job, PAIR, 2)
  prepared = _prepared()
  assert running.run_shard(job, shard, prepared, tmp_path)
  t = table_lib.open(tmp_path)
  assert list(t.column('status')) == ['ok', 'ok']
  (text,) = set(t.column('recipe_json'))
  assert '"loss": "even"' in text
  loss_re, per_re = t.curves('val_loss'), t.curves('val_per')
  # Who knows nothing has a loss of about 5 log 6 = 9.
  assert (loss_re[:, 0] > 6).all() and (loss_re[:, -1] < 3).all()
  assert (per_re[:, -1] < 0.5).all() and (per_re[:, 0] > 0.5).all()
  assert np.isfinite(t.column('test_loss')).all()
  # What is written is its own score: all labels, none of them folded.
  labels = sum(map(len, tiny_corpus.corpus().test.labels))
  edits_r = t.column('test_per') * labels
  np.testing.assert_allclose(edits_r, edits_r.round(), atol=1e-9)


def test_a_validation_loss_is_a_mean_over_what_is_valid():
  """Of those with fewer frames than labels nothing is asked."""
  prepared = _prepared()
  trainer = running.Trainer(
    tiny_corpus.job(RECIPE), tiny_corpus.shard(PAIR), prepared
  )
  params_p = trainer.initial().members.params
  tiny = tiny_corpus.corpus()
  labels = list(tiny.validation.labels)
  assert tiny.validation.frames_u[1] == 8
  kept = np.arange(len(labels)) != 1
  labels[1] = np.array([1, 2, 3, 4, 5, 1, 2, 3, 4], np.int32)
  changed = dataclasses.replace(
    tiny,
    validation=dataclasses.replace(tiny.validation, labels=tuple(labels)),
  )
  again = running.Trainer(
    trainer.job,
    trainer.shard,
    running.device_corpus(changed, RECIPE, prepared.mesh),
  )
  loss_p, _ = again.evaluate(params_p, 'validation')
  (bucket,) = prepared.buckets
  x_btf, frames_b, *_ = plain_training.batch_of(
    tiny.validation, range(len(labels)), bucket._replace(batch=len(labels))
  )
  apply = jax.jit(trainer.network.apply)
  weight_v = np.asarray(prepared.constants['weight_v'])
  for p in range(2):
    params, gates = jax.tree.map(
      lambda leaf, p=p: leaf[p], (params_p, trainer.host_gates)
    )
    logits_btv, len_b = apply({'params': params}, x_btf, frames_b, gates)
    log_btv = np.asarray(jax.nn.log_softmax(logits_btv))
    losses = []
    for u in np.flatnonzero(kept):
      place_t = np.arange(len_b[u]) * len(labels[u]) // int(len_b[u])
      target_t = labels[u][place_t]
      told_t = log_btv[u, np.arange(len_b[u]), target_t]
      losses.append(-np.mean(weight_v[target_t] * told_t))
    np.testing.assert_allclose(loss_p[p], np.mean(losses), rtol=1e-4)


def test_a_search_trains_with_it():
  one_node = dataclasses.replace(spaces.NB_ASR, skips=(1,))
  supernet = Supernet(
    one_node, tiny_corpus.MACRO, ('linear', 'conv5'), ('s00',)
  )
  search = searching.Search(
    supernet,
    dataclasses.replace(methods.DARTS, held_out=0.25),
    steps.Weights('adam', RECIPE),
    stages.fixed(0, 8, 0.02),
    seed=1,
  )
  searcher = searching.SupernetTrainer(search, _prepared())
  state = searcher.initial()
  for epoch in range(1, 9):
    state, over = searcher.epoch(state, epoch)
  assert over
  for name in ('train_loss', 'held_out_loss', 'val_loss'):
    loss_e = state.history[name]
    assert np.isfinite(loss_e).all() and loss_e[-1] < 0.8 * loss_e[0]
  # DeviceCorpus for another loss there are no constants of this one.
  other = _prepared(tiny_corpus.RECIPE)
  assert searching.SupernetTrainer(search, other).constants is None
  assert searcher.constants.keys() == {'weight_v'}


def test_an_unknown_loss_is_refused_with_the_names_there_are():
  recipe = dataclasses.replace(RECIPE, loss='CTC')
  for use in (criterion.of, _prepared):
    with pytest.raises(ValueError, match="loss='CTC' is unknown.*ctc, ctc_crf"):
      use(recipe)
  # Recipes of a table are read without any loss at hand.
  assert recipes.Recipe(**recipes.describe(recipe)) == recipe


def test_the_flag_names_what_there_is_and_is_quick_to_refuse():
  told = subprocess.run(
    [
      sys.executable, '-X', 'importtime',
      'experiments/benchmark.py', '--loss=even',
    ],
    cwd=tiny_run.ROOT, capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert told.returncode
  lines = told.stderr.splitlines()
  assert not any(' jax' in line for line in lines if '|' in line)
  message = [line for line in lines if '--loss=even' in line]
  assert len(message) == 1
  assert f'<{"|".join(OWN)}>' in message[0]
