"""Which utterances make which batch: plans drawn on the host, run on devices.

A plan is a sequence of batches, each of one bucket, that is: of one padded
shape. Which buckets follow each other is drawn from the epoch alone, so that
members with different seeds walk through the same shapes together; which
utterances stand in a batch is drawn from (seed, epoch).
"""

from typing import NamedTuple

import numpy as np


class Bucket(NamedTuple):
  """One padded shape.

  Attributes:
    frames: utterances of at most so many frames are padded to them.
    batch: utterances in a batch.
    labels: padded length of the transcripts.
  """

  frames: int
  batch: int
  labels: int


class Plan(NamedTuple):
  """Batches of one pass.

  Attributes:
    bucket_s: int32, the bucket of each batch.
    index_skb: int32, the utterances of each batch for each seed; -1 is empty.
  """

  bucket_s: np.ndarray
  index_skb: np.ndarray


def lengths(split):
  """Returns the frames and the number of labels of a split's utterances."""
  return (
    np.asarray(split.frames_u),
    np.array([len(labels) for labels in split.labels]),
  )


def make_buckets(splits, recipe):
  """Cuts lengths into buckets so that the fewest frames are padding.

  A batch has no more rows than a split has utterances for it: nothing is
  computed of rows that are always empty.

  Args:
    splits: `lengths` of each split, that of training first.
    recipe: `Recipe` with the batch sizes and the number of buckets.

  Returns:
    tuple of `Bucket`, shortest first. The last one takes every utterance; no
    utterance of training may be in it.
  """
  frames_u, label_len_u = splits[0]
  longest = int(max(frames_v.max() for frames_v, _ in splits))
  most_labels = int(max(label_len_v.max() for _, label_len_v in splits))
  edges = _edges(frames_u, recipe.buckets)
  # Where batch sizes change, a bucket may not straddle the change.
  if (
    recipe.batch != recipe.batch_long
    and frames_u.min() < recipe.long_frames <= longest
  ):
    edges = np.append(edges, recipe.long_frames - 1)
  # Multiples of 8 keep the shapes of different corpora few.
  last = -(-longest // 8) * 8
  edges = np.unique(edges[edges < last])
  buckets, shorter = [], 0
  for edge in (*edges, last):
    inside_u = (frames_u > shorter) & (frames_u <= edge)
    # The last one is for what is longer in other splits, too.
    if edge < last and not inside_u.any():
      continue
    labels = most_labels if edge == last else label_len_u[inside_u].max()
    short = min(edge, longest) < recipe.long_frames
    batch = recipe.batch if short else recipe.batch_long
    if recipe.batch_frames:
      batch = min(batch, max(1, recipe.batch_frames // int(edge)))
    buckets.append(Bucket(int(edge), batch, int(max(labels, 1))))
    shorter = edge
  most_k = np.max([_counts(split, buckets) for split in splits], 0)
  return tuple(
    bucket._replace(batch=min(bucket.batch, max(1, int(most))))
    for bucket, most in zip(buckets, most_k)
  )


def _counts(split, buckets):
  """Returns how many utterances of a split each bucket takes."""
  return np.bincount(assign(*split, buckets), minlength=len(buckets))


def largest(buckets):
  """Returns the bucket whose batches have the most frames."""
  return max(buckets, key=lambda bucket: bucket.batch * bucket.frames)


class Burden(NamedTuple):
  """What a few long utterances cost.

  Attributes:
    utterances: how many there are, in all splits.
    frames, others: of the shortest of them, and of the longest of all others.
    batch, batch_without: the `Bucket` with the largest batches, and what it
      would be without them.
    pass_frames, pass_without: frames of one pass over all splits, padding
      included.
  """

  utterances: int
  frames: int
  others: int
  batch: Bucket
  batch_without: Bucket
  pass_frames: int
  pass_without: int


def burden(splits, recipe, share=0.02):
  """Finds the few utterances that cost half of the memory or time, or more.

  Args:
    splits: `lengths` of each split, that of training first.
    recipe: `Recipe`.
    share: the most of all utterances that are a few.

  Returns:
    `Burden` of the fewest longest utterances without which the largest batch or
    a pass have at most half as many frames; None if more than a few are needed.
  """
  every_u = np.sort(np.concatenate([frames_u for frames_u, _ in splits]))
  few = max(1, int(share * len(every_u)))
  # Lengths to keep, the longest of which leaves the fewest utterances out.
  kept = np.unique(every_u[len(every_u) - few - 1 : -1])
  longer = len(every_u) - np.searchsorted(every_u, kept, 'right')
  kept = kept[(longer > 0) & (longer <= few)]
  batch, total = _cost(splits, recipe)

  def without(frames):
    shorter = [
      (frames_u[frames_u <= frames], label_len_u[frames_u <= frames])
      for frames_u, label_len_u in splits
    ]
    if not all(frames_u.size for frames_u, _ in shorter):
      return None
    longer_u = every_u[every_u > frames]
    batch_without, total_without = _cost(shorter, recipe)
    return Burden(
      len(longer_u),
      int(longer_u[0]),
      int(frames),
      batch,
      batch_without,
      total,
      total_without,
    )

  def helps(found):
    return found is not None and (
      2 * found.batch_without.batch * found.batch_without.frames
      <= batch.batch * batch.frames
      or 2 * found.pass_without <= total
    )

  first, last = 0, len(kept) - 1
  if last < 0 or not helps(without(kept[0])):
    return None
  while first < last:
    middle = (first + last + 1) // 2
    if helps(without(kept[middle])):
      first = middle
    else:
      last = middle - 1
  return without(kept[first])


def _cost(splits, recipe):
  """Returns the `Bucket` of the largest batches, and the frames of a pass."""
  buckets = make_buckets(splits, recipe)
  frames = sum(
    -(-int(count) // bucket.batch) * bucket.batch * bucket.frames
    for split in splits
    for count, bucket in zip(_counts(split, buckets), buckets)
  )
  return largest(buckets), frames


def _edges(frames_u, count):
  """Returns at most `count` edges that minimise the sum of padded lengths.

  Dynamic programming over the distinct lengths in steps of 8 frames: the cost
  of an utterance is the edge of its bucket.
  """
  length_n, number_n = np.unique(-(-frames_u // 8) * 8, return_counts=True)
  total_n = np.concatenate([[0], np.cumsum(number_n)])
  distinct = len(length_n)
  # best[n]: cost of the n shortest lengths; cuts: where the last bucket began.
  best = np.concatenate([[0], np.full(distinct, np.inf)])
  cuts = []
  for _ in range(min(count, distinct)):
    cost = best[:, None] + (
      (total_n[None, 1:] - total_n[:, None]) * length_n[None, :]
    )
    cost = np.where(
      np.arange(distinct + 1)[:, None] <= np.arange(distinct)[None],
      cost,
      np.inf,
    )
    cuts.append(np.argmin(cost, 0))
    best = np.concatenate([[0], cost.min(0)])
  edges, end = [], distinct
  for cut_n in reversed(cuts):
    if end == 0:
      break
    edges.append(length_n[end - 1])
    end = cut_n[end - 1]
  return np.array(edges[::-1])


def assign(frames_u, label_len_u, buckets):
  """Returns for each utterance the first bucket that it fits into."""
  frames_u, label_len_u = np.asarray(frames_u), np.asarray(label_len_u)
  fits = (frames_u[:, None] <= np.array([b.frames for b in buckets])) & (
    label_len_u[:, None] <= np.array([b.labels for b in buckets])
  )
  if not fits.any(1).all():
    u = int(np.argmin(fits.any(1)))
    raise ValueError(
      f'utterance {u} with {frames_u[u]} frames and {label_len_u[u]} labels '
      f'fits into none of {buckets}'
    )
  return np.argmax(fits, 1)


def _generator(*entropy):
  return np.random.default_rng(np.random.SeedSequence(entropy))


def train_plan(bucket_u, buckets, seeds, epoch, keep_u=None):
  """Draws one pass over the training split.

  Args:
    bucket_u: bucket of each utterance.
    buckets: their shapes.
    seeds: for each of the K seeds of a population, its data stream.
    epoch: of the pass; every pass of a run has another number.
    keep_u: bool, the utterances to use (curriculum); None uses all.

  Returns:
    `Plan`. Every utterance appears once for each seed.
  """
  batches, owners = [], []
  for k, bucket in enumerate(buckets):
    chosen_u = np.flatnonzero(
      (bucket_u == k) if keep_u is None else (bucket_u == k) & keep_u
    )
    if not chosen_u.size:
      continue
    steps = -(-chosen_u.size // bucket.batch)
    rows = [
      _fill(_generator(seed, epoch, k).permutation(chosen_u), steps, bucket)
      for seed in seeds
    ]
    batches.extend(np.stack(rows, 1))
    owners.extend([k] * steps)
  order = _generator(epoch, len(buckets)).permutation(len(owners))
  return _pack(owners, batches, order, buckets, len(seeds))


def eval_plan(bucket_u, buckets):
  """Returns a `Plan` over all utterances of a split, in order of bucket."""
  batches, owners = [], []
  for k, bucket in enumerate(buckets):
    chosen_u = np.flatnonzero(bucket_u == k)
    if chosen_u.size:
      steps = -(-chosen_u.size // bucket.batch)
      batches.extend(_fill(chosen_u, steps, bucket)[:, None])
      owners.extend([k] * steps)
  return _pack(owners, batches, np.arange(len(owners)), buckets, 1)


def _fill(index_u, steps, bucket):
  index = np.full(steps * bucket.batch, -1, np.int32)
  index[: index_u.size] = index_u
  return index.reshape(steps, bucket.batch)


def _pack(owners, batches, order, buckets, seeds):
  widest = max(b.batch for b in buckets)
  index_skb = np.full((len(order), seeds, widest), -1, np.int32)
  for step, which in enumerate(order):
    index_skb[step, :, : batches[which].shape[-1]] = batches[which]
  bucket_s = np.array([owners[i] for i in order], np.int32)
  return Plan(bucket_s, index_skb)


def pad_plan(plan, steps):
  """Pads a plan to `steps` batches, so that all passes share one shape."""
  extra = steps - len(plan.bucket_s)
  return Plan(
    np.pad(plan.bucket_s, (0, extra)),
    np.pad(plan.index_skb, ((0, extra), (0, 0), (0, 0)), constant_values=-1),
  )


def spread(plan, buckets, devices):
  """Lays the rows of each batch out so that devices may have a slice each.

  Every device gets equally many, in order; what is left over is empty.

  Args:
    plan: `Plan`.
    buckets: shapes of its batches.
    devices: among which each batch is divided.

  Returns:
    `Plan` with index_skb [s, k, devices * rows], where device d has the rows
    from d * rows on, as many first as its share of the bucket's batch is.
  """
  if devices == 1:
    return plan
  rows = -(-max(b.batch for b in buckets) // devices)
  steps, seeds, _ = plan.index_skb.shape
  index_skdr = np.full((steps, seeds, devices, rows), -1, np.int32)
  for k, bucket in enumerate(buckets):
    share = -(-bucket.batch // devices)
    spare = share * devices - bucket.batch
    chosen_s = plan.bucket_s == k
    index_skb = np.pad(
      plan.index_skb[chosen_s, :, : bucket.batch],
      ((0, 0), (0, 0), (0, spare)),
      constant_values=-1,
    )
    index_skdr[chosen_s, :, :, :share] = index_skb.reshape(
      -1, seeds, devices, share
    )
  return Plan(plan.bucket_s, index_skdr.reshape(steps, seeds, -1))
