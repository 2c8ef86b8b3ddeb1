"""A shard in training, its members in parts that take turns.

One part trains an epoch after the other, all with one program. The states of
the others wait on the devices; where these cannot hold the whole population,
on the host.
"""

import dataclasses

import jax
import numpy as np

from nasjax.training.trainer import (
  Point,
  Trainer,
  begun,
  by_member,
  learning_rates,
  recipes_of,
)


def cut(shard, at_once):
  """Cuts a shard into shards of `at_once` members, the last with fewer."""
  if at_once >= shard.size:
    return [shard]
  return [
    dataclasses.replace(
      shard,
      members=shard.members[start : start + at_once],
      size=at_once,
      recipes=shard.recipes[start : start + at_once],
    )
    for start in range(0, len(shard.members), at_once)
  ]


class Parts:
  """Trains a shard, an epoch at a time: a `loop.Trainable`.

  Attributes:
    trainers: one for each part.
  """

  def __init__(
    self, job, shard, prepared, at_once, fitting=None, checkpoint=True
  ):
    """
    Args:
      job: `running.Job`.
      shard: `running.Shard`.
      prepared: of `running.device_corpus`.
      at_once: members that train together.
      fitting: members whose states the devices hold; `at_once` if not given.
      checkpoint: as in `Trainer`.
    """
    self._job, self._shard = job, shard
    fitting = at_once if fitting is None else fitting
    self.trainers = [
      Trainer(job, part, prepared, checkpoint) for part in cut(shard, at_once)
    ]
    self._resident = len(self.trainers) == 1 or fitting >= shard.size
    self._states = []

  def begin(self):
    """Makes the state before the first epoch."""
    self._states = [self._stored(r, r.initial()) for r in self.trainers]

  def resume(self, host):
    """Takes a state that `host` once gave."""
    starts = np.cumsum([len(r.shard.members) for r in self.trainers])[:-1]
    self._states = []
    for i, trainer in enumerate(self.trainers):
      state = by_member(lambda leaf_p, i=i: np.split(leaf_p, starts)[i], host)
      if i:
        # Seconds are of the shard: the first part keeps those that are gone.
        gone_e = host.seconds
        state = state._replace(seconds=np.where(np.isnan(gone_e), gone_e, 0))
      self._states.append(trainer.load(state) if self._resident else state)

  def epoch(self, epoch, since=None, pause=None):
    """Trains a counted epoch (1-based); see `loop.Trainable`."""
    first, point = 0, None
    if since is not None:
      first = since['part']
      losses_p = np.array(since['loss_p'])
      point = Point(**(since['point'] | {'loss_p': losses_p}))
    for i, trainer in enumerate(self.trainers):
      if i < first:
        continue

      def stop(state, at, i=i, trainer=trainer):
        waits = self._states[i]
        self._states[i] = self._stored(trainer, state)
        plain = {k: v for k, v in at._asdict().items() if k != 'loss_p'}
        told = {'part': i, 'point': plain, 'loss_p': at.loss_p.tolist()}
        pause(told)
        self._states[i] = waits

      state = trainer.epoch(
        self._loaded(i), epoch, point, None if pause is None else stop
      )
      self._states[i], point = self._stored(trainer, state), None
      # Before the next part comes, this one must go.
      del state

  def host(self):
    """Returns the state of all real members as a copy on the host."""
    states = self._states
    if self._resident:
      states = [r.unload(s) for r, s in zip(self.trainers, states, strict=True)]
    merged = jax.tree.map(lambda *leaves: np.concatenate(leaves), *states)
    return merged._replace(seconds=np.sum([s.seconds for s in states], 0))

  def over(self, host, epoch):
    """Tells whether a plateau ended the training of all before an epoch."""
    own = recipes_of(self._job, self._shard)
    return not learning_rates(own, host, epoch)[:, -1].any()

  def target(self):
    """Returns a state of what `host` returns, with arbitrary numbers."""
    members = len(self._shard.members)
    member = jax.tree.map(
      lambda leaf: np.empty((members, *leaf.shape[1:]), leaf.dtype),
      self.trainers[0].host_shapes(),
    )
    epochs = self._job.recipe.epochs
    return begun(members, epochs, member, member.params)

  def emitted(self):
    """Returns the `emitted_p` of all real members."""
    return np.concatenate(
      [r.emitted_p[: len(r.shard.members)] for r in self.trainers]
    )

  def test(self):
    """Returns what `Trainer.test` does, of the best weights."""
    found = []
    for i, trainer in enumerate(self.trainers):
      real = len(trainer.shard.members)
      result = trainer.test(self._loaded(i).best)
      found.append(jax.tree.map(lambda v_p, real=real: v_p[:real], result))
    return jax.tree.map(lambda *values: np.concatenate(values), *found)

  def _loaded(self, i):
    state = self._states[i]
    return state if self._resident else self.trainers[i].load(state)

  def _stored(self, trainer, state):
    return state if self._resident else trainer.unload(state)
