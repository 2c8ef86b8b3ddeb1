"""Runs that are killed end with the table of those that are not."""

import json
import os
import signal
import subprocess
import sys

import jax
import killed_runs
import numpy as np
import pytest
import tiny_corpus
import tiny_run

from nasjax import table
from nasjax.storage import checkpoints


def _ends(place, kills):
  """Returns the ends of processes by run, those killed and the last, not."""
  work = [
    [str(place / name), kill]
    for name, these in kills.items()
    for kill in [*these, None]
  ]
  done = subprocess.run(
    [sys.executable, tiny_run.SUPPORT / 'killed_runs.py', json.dumps(work)],
    env=os.environ | {'PYTHONPATH': tiny_run.PYTHONPATH},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  ends = iter(json.loads(done.stdout))
  return {
    name: [next(ends) for _ in range(len(these) + 1)]
    for name, these in kills.items()
  }


@pytest.fixture(scope='module')
def chosen(tmp_path_factory):
  """Where all runs are; of one that was let be, and one that was not."""
  place = tmp_path_factory.mktemp('killed')
  first, second = (shard.name for shard in killed_runs.shards())
  rng = np.random.default_rng(20)

  def moment():
    return float(rng.uniform(0, 0.05))

  kills = [
    # Nothing is there yet.
    ['file', 3],
    # The first checkpoint is half written.
    ['path', '/default'],
    ['epoch', 0, 2, moment()],
    # All epochs are done; then the rows are there, but not their mark.
    ['path', '/table/'],
    ['path', f'table/._{first}.json.'],
    ['epoch', 1, 1, moment()],
  ]
  return place, _ends(place, {'whole': [], 'chosen': kills})


@pytest.fixture(scope='module')
def random(chosen):
  """Of a run that was killed wherever it stood."""
  place, _ = chosen
  numbers = np.random.default_rng(20).integers(15, 70, 2)
  return place, _ends(place, {'random': [['file', int(n)] for n in numbers]})


RUNS = ['chosen', pytest.param('random', marks=pytest.mark.slow)]


@pytest.mark.parametrize('name', RUNS)
def test_a_killed_run_ends_with_the_table_of_one_that_was_not(name, request):
  place, ends = request.getfixturevalue(name)
  *dead, last = ends[name]
  assert {end['status'] for end in dead} == {-signal.SIGKILL}
  assert last['status'] == 0
  tiny_corpus.assert_same_table(place / 'whole', place / name)
  report = table.verify(place / name / 'table')
  assert len(report.shards) == 2 and not report.problems
  assert not report.uncommitted and not report.leftovers


@pytest.mark.parametrize('name', RUNS)
def test_a_killed_run_goes_on_from_its_last_epoch(name, request):
  _, ends = request.getfixturevalue(name)
  done = [0, 0]
  for end in ends[name]:
    told = {shard: [] for shard in (0, 1)}
    for shard, epoch, resumed in end['epochs']:
      told[shard].append((epoch, resumed))
    for shard, epochs in told.items():
      if not epochs:
        continue
      assert [epoch for epoch, _ in epochs] == list(range(1, len(epochs) + 1))
      # The last epoch told of may not have reached the disk, all others have.
      resumed = sum(resumed for _, resumed in epochs)
      assert done[shard] - 1 <= resumed <= done[shard]
      done[shard] = max(len(epochs), resumed)
  assert done == [5, 5]


@pytest.mark.parametrize('name', RUNS)
def test_a_killed_run_ends_with_the_same_bits(name, request):
  """Weights, moments, curves: also where it was killed within an epoch."""
  place, _ = request.getfixturevalue(name)
  for shard in killed_runs.shards():
    one, other = (
      checkpoints.last(place / run / 'checkpoints' / shard.name)[1]
      for run in ('whole', name)
    )
    assert set(one) == set(other) > {'best', 'members', 'curves', 'seconds'}
    for state in (one, other):
      del state['seconds']
    leaves = jax.tree.leaves_with_path(one)
    assert len(leaves) > 20
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def test_the_interesting_moments_were_met(chosen):
  _, ends = chosen
  chosen = ends['chosen']
  assert chosen[0]['epochs'] == [] and chosen[0]['leftovers'] == []
  # Killed before there was a whole checkpoint: begun again.
  (left,) = chosen[1]['leftovers']
  assert left.startswith('1.orbax-checkpoint-tmp')
  assert chosen[2]['epochs'][0] == [0, 1, False]
  # Killed between the last epoch and the rows: no epoch is trained again.
  assert chosen[4]['epochs'] == [[0, n, True] for n in range(1, 6)]
  assert chosen[5]['epochs'][:5] == chosen[4]['epochs']
  # The shard that stands is not opened again.
  assert {shard for shard, _, _ in chosen[6]['epochs']} == {1}
  assert not ends['whole'][0]['leftovers'] and not chosen[-1]['leftovers']
