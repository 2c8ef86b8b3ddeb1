"""A training split that visits the devices in pieces."""

import dataclasses
import tracemalloc
import types

import jax
import numpy as np
import pytest
import tiny_corpus

from nasjax import table
from nasjax.benchmark import running
from nasjax.data import corpus as corpus_lib
from nasjax.training import batches, loop, offloading, population
from nasjax.training import trainer as trainer_lib

MEMBERS = [
  ((0, 1, 0, 1, 1, 5, 0, 1, 1), 7),
  ((0, 1, 0, 1, 1, 5, 0, 1, 1), 8),
]
# Features of two pieces: some six utterances of the 18 each.
BUDGET = 2 * 8 * 40 * tiny_corpus.FEATURES * 4
RECIPE = dataclasses.replace(tiny_corpus.RECIPE, curriculum=(8_000,), epochs=3)


@pytest.fixture(scope='module')
def streamed():
  mesh = population.member_mesh(jax.devices()[:1])
  return running.device_corpus(tiny_corpus.corpus(), RECIPE, mesh, BUDGET)


def _frames(data):
  """The features of each utterance of `Data`, as bytes."""
  x_nf = np.asarray(data.x_rk).reshape(-1, tiny_corpus.FEATURES)
  rows = zip(np.asarray(data.row_u), np.asarray(data.frames_u), strict=True)
  return [
    x_nf[row * batches.ROW :][:frames].tobytes()
    for row, frames in rows
    if frames
  ]


def test_every_utterance_visits_once_an_epoch(streamed):
  train, split = streamed.train, tiny_corpus.corpus().train
  assert train.count >= 3
  whole = sorted(split.x_tf(u).tobytes() for u in range(len(split.ids)))
  orders, shapes = set(), set()
  for epoch in range(1, 5):
    order = train.order(epoch)
    orders.add(tuple(order))
    seen = []
    for piece, data in zip(order, train.visit(order), strict=True):
      own = [split.x_tf(u).tobytes() for u in train.utterances(piece)]
      assert _frames(data) == own
      seen += own
      shapes.add(str(jax.tree.map(lambda leaf: leaf.shape, data)))
      assert data.x_rk.nbytes <= BUDGET / 2
    assert sorted(seen) == whole
  # All of one shape, for one program; and in another order each time.
  assert len(shapes) == 1 and len(orders) > 1
  np.testing.assert_array_equal(train.order(2), train.order(2))


def test_a_plan_is_of_the_utterances_of_its_piece(streamed):
  trainer = trainer_lib.Trainer(
    tiny_corpus.job(RECIPE), tiny_corpus.shard(MEMBERS), streamed
  )
  for piece, plan in zip(
    streamed.train.order(2), trainer.plans(2), strict=True
  ):
    for k in range(2):  # data streams
      drawn = np.sort(plan.index_skb[:, k].ravel())
      own = len(streamed.train.utterances(piece))
      np.testing.assert_array_equal(drawn[drawn >= 0], np.arange(own))


def test_too_small_a_budget_says_which_is_not(streamed):
  del streamed
  mesh = population.member_mesh(jax.devices()[:1])
  with pytest.raises(ValueError, match='do not hold the longest.*twice') as e:
    running.device_corpus(tiny_corpus.corpus(), RECIPE, mesh, 1000)
  told = float(str(e.value).split('twice ')[1].split(' GB')[0])
  running.device_corpus(
    tiny_corpus.corpus(), RECIPE, mesh, 2 * told * 1e9 * 1.02
  )


def _rows(out):
  """All that a run found, but for times."""
  found = table.open(out).to_arrow().to_pylist()
  return [
    {
      k: np.asarray(v).tobytes() if isinstance(v, list) else v
      for k, v in row.items()
      if 'seconds' not in k and k not in ('created', 'versions', 'commit')
    }
    for row in found
  ]


class _Killed(Exception):
  pass


@pytest.mark.parametrize('at_once', [2, 1])
def test_a_run_left_within_an_epoch_goes_on_from_there(
  streamed, tmp_path, monkeypatch, at_once
):
  """To the bit; also where members take turns, in the second one's turn."""
  job = tiny_corpus.job(RECIPE)
  (shard,) = running.plan(job, MEMBERS, 2)
  monkeypatch.setattr(loop, 'MIDWAY_SECONDS', 0.0)
  run = {'together': at_once}
  running.run_shard(job, shard, streamed, tmp_path / 'whole', **run)
  whole = _rows(tmp_path / 'whole')
  assert not list((tmp_path / 'whole/checkpoints').glob('*/midway'))
  kept, visits = offloading.Trainer._pass, []

  def killed(self, *arguments):
    visits.append(self.members[0])
    # In the second epoch's third piece, of the last part.
    most = streamed.train.count * (2 // at_once + 2) + 2
    if len(visits) > most + streamed.train.count * (2 // at_once - 1):
      raise _Killed
    return kept(self, *arguments)

  monkeypatch.setattr(offloading.Trainer, '_pass', killed)
  out = tmp_path / 'killed'
  with pytest.raises(_Killed):
    running.run_shard(job, shard, streamed, out, **run)
  assert list((out / 'checkpoints').glob('*/midway/*'))
  monkeypatch.setattr(offloading.Trainer, '_pass', kept)
  done = []
  monkeypatch.setattr(
    offloading.Trainer,
    '_pass',
    lambda self, *a: (done.append(1), kept(self, *a))[1],
  )
  running.run_shard(job, shard, streamed, out, **run)
  assert _rows(out) == whole
  # It did not begin the epoch again.
  passes = streamed.train.count * (2 // at_once)
  assert len(done) < 2 * passes


class _Speech:
  """Utterances of two seconds, each made when it is asked for."""

  def __init__(self, count):
    self._count = count

  def __iter__(self):
    for u in range(self._count):
      rng = np.random.default_rng(u)
      yield {
        'id': f'u{u}'.encode(),
        'audio': rng.integers(-9_000, 9_000, 32_000, np.int16),
        'tokens': [b'a', b'b'] * 5,
        'speaker': b's',
        'text': b'ab',
      }


def _peak(place, utterances):
  """Returns the most bytes of NumPy and Python, and those of all features."""
  counts = {'train': utterances, 'validation': 2, 'test': 2}
  symbols = {'a': 'a', 'b': 'b'}
  builder = types.SimpleNamespace(
    name='long',
    data_path=place,
    data_dir=place,
    info=types.SimpleNamespace(
      metadata={
        'alphabet': ['a', 'b'],
        'train_map': symbols,
        'score_map': symbols,
        'fingerprint': f'{utterances}',
      },
      splits={
        name: types.SimpleNamespace(num_examples=n)
        for name, n in counts.items()
      },
    ),
    as_data_source=lambda split: _Speech(counts[split]),
  )
  recipe = dataclasses.replace(RECIPE, batch=2, batch_long=2)
  mesh = population.member_mesh(jax.devices()[:1])
  tracemalloc.start()
  try:
    found = corpus_lib.load(
      builder, batch_seconds=1.0, encoding='uint8', place=place
    )
    prepared = running.device_corpus(found, recipe, mesh, 3e5)
    for _ in prepared.train.visit(prepared.train.order(1)):
      pass
    return tracemalloc.get_traced_memory()[1], 4 * np.prod(
      found.train.features.shape
    )
  finally:
    tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(tmp_path):
  """From speech to pieces on the devices; but for labels and names."""
  _peak(tmp_path, 8)  # what is imported and compiled
  small, large = (_peak(tmp_path, utterances) for utterances in (12, 48))
  assert large[1] == 4 * small[1] > 3e6
  assert large[0] - small[0] < 0.1 * (large[1] - small[1])
