"""Repair with the real generator: it makes the damaged shard, and no other."""

import shutil

import pytest
import tiny_corpus
from table_rows import file

from nasjax import table
from nasjax.benchmark import running
from nasjax.training import offloading

# Those of test_runs.py, whose programs are compiled already.
MEMBERS = (
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 7),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 9),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 11),
)


def plan():
  return running.plan(tiny_corpus.job(), MEMBERS, 2)


def generate(out):
  """Gives the generator its command; returns which shards it worked on."""
  job, shards = tiny_corpus.job(), plan()
  running.check_table(job, shards, out)
  prepared = tiny_corpus.prepared()
  return {
    shard.name
    for shard in shards
    if running.run_shard(job, shard, prepared, out, say=lambda line: None)
  }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A finished run of two shards, the second padded."""
  out = tmp_path_factory.mktemp('finished')
  assert generate(out) == {shard.name for shard in plan()}
  return out


@pytest.fixture
def trained(monkeypatch):
  """The (shard, epoch) of every epoch trained from here on."""
  found = []
  epoch_of = offloading.Trainer.epoch

  def epoch(self, state, number, *more):
    found.append((self.shard.name, number))
    return epoch_of(self, state, number, *more)

  monkeypatch.setattr(offloading.Trainer, 'epoch', epoch)
  return found


@pytest.mark.parametrize('suffix', ['.parquet', '.json'])
def test_only_the_damaged_shard_is_trained_again(
  finished, tmp_path, trained, suffix
):
  # A table that came without its checkpoints.
  out = tmp_path / 'out'
  shutil.copytree(finished / 'table', out / 'table')
  bad, good = (shard.name for shard in plan())
  path = file(out / 'table', bad, suffix)
  payload = bytearray(path.read_bytes())
  payload[len(payload) // 2] ^= 1
  path.write_bytes(payload)
  before = {p.name: p.read_bytes() for p in (out / 'table').glob(f'*{good}.*')}

  with pytest.raises(table.DamagedShardError, match=r'table\.repair'):
    generate(out)
  assert trained == []
  assert table.repair(out) == (bad,)
  assert generate(out) == {bad}
  assert trained == [(bad, 1), (bad, 2)]

  assert not table.verify(out).problems
  tiny_corpus.assert_same_table(finished, out)
  for name, payload in before.items():
    assert (out / 'table' / name).read_bytes() == payload
  # Nothing is left to do.
  assert generate(out) == set() and len(trained) == 2


def test_with_checkpoints_nothing_is_trained_again(finished, tmp_path, trained):
  out = tmp_path / 'out'
  shutil.copytree(finished, out)
  bad, _ = (shard.name for shard in plan())
  (out / 'table' / f'{bad}.parquet').write_bytes(b'PAR1')
  assert table.repair(out) == (bad,)
  assert generate(out) == {bad}
  assert trained == []
  tiny_corpus.assert_same_table(finished, out)


def test_a_damaged_latency_shard_is_no_matter_of_the_generator(
  finished, tmp_path, trained
):
  from table_rows import latency_row

  out = tmp_path / 'out'
  shutil.copytree(finished / 'table', out / 'table')
  table.write_shard(out / 'table', 'latency-a', [latency_row(MEMBERS[0][0])])
  file(out / 'table', 'latency-a').write_bytes(b'')
  assert table.repair(out) == ('latency-a',)
  assert generate(out) == set() and trained == []
