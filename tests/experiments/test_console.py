"""What a run prints while it works: one line each, and only what it knows."""

import types
from typing import NamedTuple

import numpy as np
import pytest
import tiny_corpus
from common import console

from nasjax.benchmark import running

NAN = float('nan')
JOB = types.SimpleNamespace(
  space=tiny_corpus.job().space,
  recipe=types.SimpleNamespace(epochs=14),
  metric='PER',
)


class _Search(NamedTuple):
  """What of a search is shown."""

  method: types.SimpleNamespace
  seed: int
  epochs: int

  __hash__ = object.__hash__


@pytest.fixture
def clock(monkeypatch):
  """A clock that goes on where it is told to."""
  now = types.SimpleNamespace(seconds=0.0)
  monkeypatch.setattr(console.time, 'perf_counter', lambda: now.seconds)
  return now


def _shard(name, count):
  members = [((0,) * 9, seed) for seed in range(count)]
  return types.SimpleNamespace(name=name, members=members)


def _epoch(shard, epoch, per, diverged=0, resumed=False):
  curve_pe = np.full((len(shard.members), 14), per)
  curves = {'val_per': curve_pe[:, :epoch]}
  emitted_p = np.full(len(shard.members), 0.9)
  return running.ShardProgress(
    shard, epoch, curves, 9.9, resumed, diverged, emitted_p
  )


def test_an_epoch_is_one_line_with_units_that_fits_a_screen(clock, capsys):
  shards = [_shard(str(n), 8) for n in range(5)]
  with console.Bar(shards, JOB) as bar:
    for shard in shards[:2]:
      bar.begin(shard)
    clock.seconds = 32
    bar.update(_epoch(shards[1], 1, 0.728))
    bar.update(_epoch(shards[0], 1, 0.713))
    clock.seconds = 41
    bar.update(_epoch(shards[1], 2, 0.5))
    clock.seconds = 3000
    bar.update(_epoch(shards[0], 2, NAN, diverged=8))
  head, *lines = capsys.readouterr().out.splitlines()
  assert 'best validation PER of the shard' in head
  assert lines == [
    # Of epochs that compile nothing can be told.
    '0:32 shard 2/5 epoch 1/14: PER 72.8% (72.8%), 8/560 network-epochs',
    '0:32 shard 1/5 epoch 1/14: PER 71.3% (71.3%), 16/560 network-epochs',
    '0:41 shard 2/5 epoch 2/14: PER 50.0% (50.0%), 24/560 network-epochs, '
    '10:03 left',
    # However long it is it stays one line.
    '50:00 shard 1/5 epoch 2/14: PER none (50.0%), 8 diverged, 32/560 '
    'network-epochs, 27:12:24 left',
  ]
  assert len(head) < 80 and max(map(len, lines[:3])) <= 80


def test_epochs_of_checkpoints_say_nothing_of_the_speed(clock, capsys):
  first, second = shards = [_shard('a', 2), _shard('b', 2)]
  with console.Bar(shards, JOB) as bar:
    bar.begin(first)
    for epoch in range(1, 11):
      bar.update(_epoch(first, epoch, 0.5, resumed=True))
    clock.seconds = 10
    bar.update(_epoch(first, 11, 0.5))
    clock.seconds = 20
    bar.update(_epoch(first, 12, 0.5))
    # It stopped early: what is left of it is not to come.
    bar.finish(first, skipped=False)
    bar.begin(second)
    clock.seconds = 30
    bar.update(_epoch(second, 1, 0.5))
  lines = capsys.readouterr().out.splitlines()[1:]
  assert not any('left' in line for line in lines[:11])
  assert lines[11].endswith('24/56 network-epochs, 2:40 left')
  assert lines[12].endswith('30/56 network-epochs, 2:10 left')


def test_a_search_says_what_it_does_in_one_line(clock, capsys):
  search = _Search(types.SimpleNamespace(name='st_nas'), 0, 12)
  curves = {'held_out_loss': [2.5, 2.25, 2.0], 'val_per': [0.9, 0.8, 0.7]}
  with console.Searches([search]) as bar:
    for epoch in (1, 2, 3):
      clock.seconds = 60 * epoch
      bar(
        types.SimpleNamespace(
          search=search,
          epoch=epoch,
          stage='warm-up',
          history=curves,
          resumed=False,
        )  # fmt: skip
      )
  lines = capsys.readouterr().out.splitlines()[1:]
  assert lines == [
    '1:00 st_nas, seed 0: warm-up epoch 1/12: loss 2.50, PER 90.0%, 1/12 '
    'search-epochs',
    '2:00 st_nas, seed 0: warm-up epoch 2/12: loss 2.25, PER 80.0%, 2/12 '
    'search-epochs',
    '3:00 st_nas, seed 0: warm-up epoch 3/12: loss 2.00, PER 70.0%, 3/12 '
    'search-epochs, 9:00 left',
  ]


@pytest.mark.parametrize(
  'seconds, text',
  [(0, '0:00'), (5.4, '0:05'), (79, '1:19'), (600, '10:00'), (3723, '1:02:03')],
)
def test_times_are_short(seconds, text):
  assert console.short(seconds) == text
