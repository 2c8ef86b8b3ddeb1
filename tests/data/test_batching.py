import itertools

import numpy as np
import pytest

from nasjax.data import batching
from nasjax.training import population, recipes

# 19 and 11 utterances in two buckets of 4 and 3: both have a remainder.
BUCKETS = (batching.Bucket(40, 4, 9), batching.Bucket(80, 3, 12))
BUCKET_U = np.array([0] * 19 + [1] * 11)[
  np.random.default_rng(0).permutation(30)
]


def _recipe(**changes):
  base = dict(batch=8, batch_long=8, long_frames=10**6, buckets=3)
  return recipes.Recipe('x', 1, **base | changes)


def _made(frames_u, recipe, label_len_u=None, *others):
  """Buckets of a training split, and of others that are given as lengths."""
  frames_u = np.asarray(frames_u)
  if label_len_u is None:
    label_len_u = np.full(len(frames_u), 3)
  return batching.make_buckets([(frames_u, label_len_u), *others], recipe)


def _plan(seeds=(5,), epoch=1, keep_u=None):
  return batching.train_plan(BUCKET_U, BUCKETS, seeds, epoch, keep_u)


# Plans of training.


@pytest.mark.parametrize('epoch', [1, 2, 77])
def test_every_utterance_exactly_once_for_each_seed(epoch):
  plan = _plan((5, 6, 1234567), epoch)
  for k in range(3):
    index_n = plan.index_skb[:, k].ravel()
    np.testing.assert_array_equal(np.sort(index_n[index_n >= 0]), np.arange(30))
    assert set(index_n[index_n < 0]) <= {-1}


def test_batches_hold_their_buckets_and_keep_the_remainder():
  plan = _plan((5, 6), epoch=3)
  assert plan.index_skb.dtype == plan.bucket_s.dtype == np.int32
  assert plan.index_skb.shape == (5 + 4, 2, 4)
  for bucket, index_kb in zip(*plan):
    size = BUCKETS[bucket].batch
    assert (index_kb[:, size:] == -1).all()
    for index_b in index_kb:
      assert (BUCKET_U[index_b[index_b >= 0]] == bucket).all()
  # Full batches but for one of each bucket: 19 = 4 * 4 + 3, 11 = 3 * 3 + 2.
  for k in range(2):
    counts_s = np.sum(plan.index_skb[:, k] >= 0, 1)
    for bucket, counts in enumerate(([3, 4, 4, 4, 4], [2, 3, 3, 3])):
      assert sorted(counts_s[plan.bucket_s == bucket]) == counts


def test_the_buckets_follow_from_the_epoch_alone():
  sequences = {tuple(_plan((5,), epoch).bucket_s) for epoch in range(1, 30)}
  assert len(sequences) > 20
  for epoch in range(1, 30):
    one, many = _plan((5,), epoch), _plan((99, 7, 5), epoch)
    np.testing.assert_array_equal(one.bucket_s, many.bucket_s)


def test_the_order_follows_from_seed_and_epoch_alone():
  alone = _plan((5,), epoch=4).index_skb[:, 0]
  for seeds in ((5, 6), (6, 5), (1, 2, 5)):
    among = _plan(seeds, epoch=4).index_skb[:, seeds.index(5)]
    np.testing.assert_array_equal(among, alone)
  drawn = {
    _plan((seed,), epoch).index_skb.tobytes()
    for seed in range(6)
    for epoch in range(1, 7)
  }
  assert len(drawn) == 36
  # Swapping seed and epoch makes other batches, not the same in another order.
  one, other = (
    {tuple(sorted(row)) for row in _plan((seed,), epoch).index_skb[:, 0]}
    for seed, epoch in ((3, 4), (4, 3))
  )
  assert len(one & other) < 3


def test_plans_neither_read_nor_change_the_global_generator():
  np.random.seed(0)  # noqa: NPY002
  before = np.random.get_state()[1].copy()  # noqa: NPY002
  first = _plan((5,), 2)
  np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
  np.random.seed(1)  # noqa: NPY002
  np.testing.assert_array_equal(first.index_skb, _plan((5,), 2).index_skb)


def test_orders_are_uniform():
  rows = np.stack([_plan((seed,), 1).index_skb[:, 0] for seed in range(600)])
  # The first utterance of bucket 0: chi-squared, 18 degrees, p = 0.001 at 42.3.
  bucket_s = _plan((0,), 1).bucket_s
  first = rows[:, np.flatnonzero(bucket_s == 0)]
  first = first[:, np.sum(first[0] >= 0, 1) == 4][:, 0, 0]
  _, counts = np.unique(first, return_counts=True)
  assert len(counts) == 19
  assert np.sum((counts - 600 / 19) ** 2) / (600 / 19) < 42.3


def test_a_curriculum_takes_a_subset():
  keep_u = np.arange(30) % 3 == 0
  plan = _plan((5, 6), 1_000_000, keep_u)
  for k in range(2):
    index_n = plan.index_skb[:, k].ravel()
    index_n = np.sort(index_n[index_n >= 0])
    np.testing.assert_array_equal(index_n, np.flatnonzero(keep_u))
  only_first = _plan((5,), 1, BUCKET_U == 0)
  assert set(only_first.bucket_s) == {0} and len(only_first.bucket_s) == 5
  assert len(_plan((5,), 1, np.zeros(30, bool)).bucket_s) == 0


def test_padding_a_plan_adds_empty_batches():
  plan = _plan((5, 6), 1)
  padded = batching.pad_plan(plan, 12)
  assert padded.index_skb.shape == (12, 2, 4)
  np.testing.assert_array_equal(padded.index_skb[:9], plan.index_skb)
  np.testing.assert_array_equal(padded.bucket_s[:9], plan.bucket_s)
  assert (padded.index_skb[9:] == -1).all()
  assert set(padded.bucket_s[9:]) <= {0, 1}
  np.testing.assert_array_equal(batching.pad_plan(plan, 9)[1], plan.index_skb)


# Plans of evaluation.


@pytest.mark.parametrize('extra', [0, 3])
def test_evaluation_gives_back_the_order_of_the_split(extra):
  plan = batching.eval_plan(BUCKET_U, BUCKETS)
  assert plan.index_skb.shape == (9, 1, 4)
  assert (np.diff(plan.bucket_s) >= 0).all()
  plan = batching.pad_plan(plan, 9 + extra)
  # Member p decodes utterance u as [u, p, u, ...], u % 3 + 1 labels.
  labels = np.full((2, 9 + extra, 4, 5), 77, np.int16)
  lengths = np.full((2, 9 + extra, 4), 5, np.int32)
  for s, b in itertools.product(range(9 + extra), range(4)):
    u = plan.index_skb[s, 0, b]
    if u >= 0:
      for p in range(2):
        labels[p, s, b] = [u, p, u, u, u]
        lengths[p, s, b] = u % 3 + 1
  labels_pul, length_pu = population.labels_of(labels, lengths, plan)
  assert labels_pul.shape == (2, 30, 5)
  for p in range(2):
    np.testing.assert_array_equal(labels_pul[p, :, 0], np.arange(30))
    assert (labels_pul[p, :, 1] == p).all()
    np.testing.assert_array_equal(length_pu[p], np.arange(30) % 3 + 1)


# Buckets.


def _padded_frames(frames_u, edges):
  edges = np.sort(edges)
  return edges[np.searchsorted(edges, frames_u)].sum()


@pytest.mark.parametrize('count', [1, 2, 3, 4, 9])
@pytest.mark.parametrize('seed', range(4))
def test_buckets_pad_as_little_as_any_choice_of_edges(count, seed):
  rng = np.random.default_rng(seed)
  frames_u = rng.integers(1, 100, rng.integers(1, 25))
  buckets = _made(frames_u, _recipe(buckets=count))
  rounded_u = -(-frames_u // 8) * 8
  lengths = np.unique(rounded_u)
  best = min(
    _padded_frames(rounded_u, np.array([*chosen, lengths[-1]]))
    for n in range(min(count, len(lengths)))
    for chosen in itertools.combinations(lengths[:-1], n)
  )
  assert len(buckets) == min(count, len(lengths))
  edges = np.array([b.frames for b in buckets])
  assert _padded_frames(frames_u, edges) == best


@pytest.mark.parametrize('seed', range(40))
def test_every_utterance_fits_and_batch_sizes_switch_where_they_should(seed):
  rng = np.random.default_rng(seed)
  frames_u = rng.integers(1, 120, 30)
  label_len_u = 1 + frames_u // rng.integers(2, 9, 30)
  long_frames = int(rng.integers(1, 140))
  recipe = _recipe(
    batch=6,
    batch_long=2,
    long_frames=long_frames,
    buckets=rng.integers(1, 6).item(),
  )
  # Other splits may have longer utterances and transcripts.
  other_u = rng.integers(1, rng.integers(100, 160), 20)
  other_len_u = rng.integers(1, 60, 20)
  splits = (frames_u, label_len_u), (other_u, other_len_u)
  buckets = batching.make_buckets(splits, recipe)
  # One more where batch sizes change, one for what only other splits have.
  assert len(buckets) <= recipe.buckets + 2
  frames = [b.frames for b in buckets]
  assert frames == sorted(set(frames))
  chosen = [batching.assign(*split, buckets) for split in splits]
  for (frames_v, len_v), chosen_v in zip(splits, chosen):
    for v, k in enumerate(chosen_v):
      fits = [frames_v[v] <= b.frames and len_v[v] <= b.labels for b in buckets]
      assert k == fits.index(True)
  # In training the size of a batch follows from the length, as far as there are
  # utterances that fill it.
  for v, k in enumerate(chosen[0]):
    most = max(np.sum(chosen_v == k) for chosen_v in chosen)
    assert buckets[k].batch == min(6 if frames_u[v] < long_frames else 2, most)


@pytest.mark.parametrize('longest', [191, 192, 198, 199, 200, 201, 207, 208])
def test_the_switch_around_a_multiple_of_eight(longest):
  frames_u = np.repeat([30, 100, 190, 191, longest], 64)
  recipe = _recipe(batch=64, batch_long=32, long_frames=200, buckets=2)
  buckets = _made(frames_u, recipe)
  chosen_u = batching.assign(frames_u[::64], np.full(5, 3), buckets)
  sizes = [buckets[k].batch for k in chosen_u]
  assert sizes == [64] * 4 + [64 if longest < 200 else 32]


def test_a_batch_has_no_rows_that_are_always_empty():
  # Two of 20 in training, three elsewhere; one of 180 s is alone.
  train = np.array([20] * 9 + [60] * 2 + [18000]), np.full(12, 3)
  other = np.array([20] + [60] * 3), np.full(4, 3)
  buckets = batching.make_buckets([train, other], _recipe())
  shapes = [(b.frames, b.batch) for b in buckets]
  assert shapes == [(24, 8), (64, 3), (18000, 1)]
  assert batching.largest(buckets) == buckets[2]
  assert batching.largest(buckets[:2]) in buckets[:2]


def test_batches_may_be_counted_in_frames():
  frames_u = np.repeat([24, 48, 96, 4000], 40)
  recipe = _recipe(batch=32, batch_long=32, buckets=4, batch_frames=960)
  buckets = _made(frames_u, recipe)
  assert [b.frames for b in buckets] == [24, 48, 96, 4000]
  assert [b.batch for b in buckets] == [32, 20, 10, 1]


def test_a_few_long_utterances_that_cost_most_are_found():
  rng = np.random.default_rng(0)
  frames_u = rng.integers(100, 400, 1000)
  train = frames_u.copy(), np.full(1000, 3)
  recipe = _recipe(batch=8, buckets=1)
  assert batching.burden([train], recipe) is None
  train[0][:12] = [900] * 3 + [1200] * 9
  found = batching.burden([train, (frames_u[:50], train[1][:50])], recipe)
  assert (found.utterances, found.frames) == (12, 900)
  assert found.others == max(train[0][12:].max(), frames_u[:50].max())
  assert (found.batch.frames, found.batch_without.frames) == (1200, 400)
  # 1000 and 50 utterances are 125 and 7 batches; without 12, 124 and 7.
  assert found.pass_frames == (125 + 7) * 8 * 1200
  assert found.pass_without == (124 + 7) * 8 * 400
  # As few as it takes: where 900 frames are no burden, three remain.
  long = frames_u + 300
  long[:12] = [900] * 3 + [2400] * 9
  found = batching.burden([(long, train[1])], recipe)
  assert (found.utterances, found.frames, found.others) == (9, 2400, 900)
  # More than 2 % are no few.
  long[:21] = 2400
  assert batching.burden([(long, train[1])], recipe) is None


def test_transcripts_are_padded_by_bucket():
  frames_u = np.array([10, 12, 60, 64])
  other = np.array([12] * 8 + [64] * 8), np.array([3] * 15 + [11])
  len_u = np.array([2, 4, 7, 5])
  buckets = _made(frames_u, _recipe(buckets=2), len_u, other)
  assert buckets == (batching.Bucket(16, 8, 4), batching.Bucket(64, 8, 11))
  # A transcript that is long for its frames moves up.
  moved = batching.assign(np.array([12, 12]), np.array([4, 5]), buckets)
  np.testing.assert_array_equal(moved, [0, 1])


def test_empty_transcripts_still_have_a_column():
  (bucket,) = _made([10, 12], _recipe(buckets=1), np.zeros(2, int))
  assert bucket.labels == 1


def test_what_fits_nowhere_is_named():
  with pytest.raises(ValueError, match='utterance 1 with 81 frames and 3 lab'):
    batching.assign(np.array([80, 81]), np.array([3, 3]), BUCKETS)
  with pytest.raises(ValueError, match='utterance 0 with 80 frames and 13 lab'):
    batching.assign(np.array([80, 81]), np.array([13, 3]), BUCKETS)


@pytest.mark.parametrize('devices', [1, 2, 3, 4])
def test_devices_share_a_batch(devices):
  plan = batching.train_plan(BUCKET_U, BUCKETS, (1, 2), 3)
  spread = batching.spread(plan, BUCKETS, devices)
  np.testing.assert_array_equal(spread.bucket_s, plan.bucket_s)
  rows = -(-4 // devices)
  assert spread.index_skb.shape == (*plan.index_skb.shape[:2], devices * rows)
  for k, index_kb, new_kb in zip(*plan, spread.index_skb):
    # A program of a smaller bucket reads the first rows of every device.
    share = -(-BUCKETS[k].batch // devices)
    parts = new_kb.reshape(2, devices, rows)
    assert (parts[:, :, share:] == -1).all()
    joined = parts[:, :, :share].reshape(2, -1)
    np.testing.assert_array_equal(
      joined[:, : BUCKETS[k].batch], index_kb[:, : BUCKETS[k].batch]
    )
    assert (joined[:, BUCKETS[k].batch :] == -1).all()
