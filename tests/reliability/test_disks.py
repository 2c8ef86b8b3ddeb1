"""Disks that are full, and disks that nobody may write to: nothing is lost.

The fifteen promises that nasjax keeps, and the tests that hold it to them, are
listed in WORKSPACE.md, section 8.
"""

import contextlib
import errno
import os
import subprocess

import numpy as np
import pytest
from table_rows import SPACE, row

from nasjax import table
from nasjax.benchmark import failures
from nasjax.training import loop

pytestmark = pytest.mark.reliability

CELLS = SPACE.from_index(np.arange(100, 112))


@pytest.fixture
def disk(tmp_path):
  """A file system of 2 MB of its own."""
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(tmp_path)]
  if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('only root can make a small file system')
  try:
    yield tmp_path
  finally:
    subprocess.run(['umount', '-l', str(tmp_path)], check=True)


@contextlib.contextmanager
def full(disk, left=0):
  """Takes the room of a disk but for some bytes."""
  path = disk / 'filler'
  with path.open('wb', buffering=0) as f, contextlib.suppress(OSError):
    while True:
      f.write(bytes(4096))
  os.truncate(path, path.stat().st_size - left)
  try:
    yield
  finally:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def read_only(disk):
  subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
  try:
    yield
  finally:
    subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)


def fill(directory, names):
  for name in names:
    rows = [row(CELLS[ord(name) - ord('a')], seed) for seed in (1, 2)]
    table.write_shard(directory, name, rows)


def answers(directory):
  return repr(table.open(directory).to_arrow().to_pylist())


@pytest.mark.parametrize('left', [0, 4096, 12288])
def test_a_shard_on_a_full_disk_is_written_later(disk, left):
  fill(disk / 'table', 'ab')
  before = answers(disk / 'table')
  with full(disk, left):
    with pytest.raises(OSError, match='No space left') as raised:
      fill(disk / 'table', 'c')
    assert raised.value.errno == errno.ENOSPC
    report = table.verify(disk / 'table')
    assert not report.problems and not report.leftovers
    assert answers(disk / 'table') == before
  fill(disk / 'table', 'c')
  assert table.committed(disk / 'table') == ('a', 'b', 'c')
  assert not table.verify(disk / 'table').uncommitted


def test_cut_at_any_byte_it_is_refused_and_written_again(tmp_path):
  """Every byte of the mark, and of the end of the rows."""
  fill(tmp_path, 'ab')
  before = answers(tmp_path)
  for name, last in (('_b.json', None), ('b.parquet', 400)):
    path = tmp_path / name
    good = path.read_bytes()
    for length in range(len(good) - (last or len(good)), len(good)):
      path.write_bytes(good[:length])
      with pytest.raises(table.DamagedShardError, match=name) as raised:
        table.open(tmp_path)
      assert last is None or f'has {length} bytes' in str(raised.value)
      if not length % 64:
        fill(tmp_path, 'b')
        assert answers(tmp_path) == before
      else:
        path.write_bytes(good)


@pytest.mark.parametrize('left', [0, 8192, 24576])
def test_compacting_on_a_full_disk_loses_nothing(disk, left):
  fill(disk / 'table', 'abcdefgh')
  before = answers(disk / 'table')
  with full(disk, left):
    with pytest.raises(OSError, match='No space left'):
      table.compact(disk / 'table')
    assert answers(disk / 'table') == before
  assert len(table.compact(disk / 'table')) == 1
  assert answers(disk / 'table') == before
  assert not table.verify(disk / 'table').uncommitted


def test_a_release_on_a_full_disk_is_none(disk):
  fill(disk / 'table', 'abcd')
  out = disk / 'r.tar'
  with full(disk, 20_000):
    with pytest.raises(OSError, match='No space left'):
      table.release(disk / 'table', out)
    assert not out.exists() and not list(disk.glob('.*'))
  table.release(disk / 'table', out)
  with full(disk, 20_000), pytest.raises(OSError, match='No space left'):
    table.unpack(out, disk / 'copy')
  assert not (disk / 'copy').exists() and not list(disk.glob('.*'))


def test_what_nobody_may_write_to_can_be_read(disk):
  fill(disk / 'table', 'abcd')
  table.compact(disk / 'table')
  fill(disk / 'table', 'ef')
  before = answers(disk / 'table')
  with read_only(disk):
    assert answers(disk / 'table') == before
    assert not table.verify(disk / 'table').problems
    for change in (
      lambda: fill(disk / 'table', 'g'),
      lambda: table.compact(disk / 'table'),
      lambda: table.repair(disk / 'table'),
    ):
      with pytest.raises(OSError) as raised:
        change()
      assert raised.value.errno == errno.EROFS
    # What fails there is said; that it cannot be written down hides nothing.
    with pytest.raises(ValueError, match='its own'), failures.noted(disk, 'a'):
      raise ValueError('its own')
  fill(disk / 'table', 'g')
  assert len(table.open(disk / 'table')) == 14


class _Weights:
  """What the loop trains: 100 kB of numbers."""

  def target(self):
    return {'w': np.zeros(12_500)}

  def begin(self):
    self._state = self.target()

  def resume(self, host):
    self._state = host

  def epoch(self, epoch, since=None, pause=None):
    del since, pause
    noise = np.random.default_rng(epoch).normal(size=12_500)
    self._state = {'w': 0.5 * self._state['w'] + noise}

  def host(self):
    return self._state

  def over(self, host, epoch):
    return False


def test_a_checkpoint_that_failed_is_heard_of_within_an_epoch(disk):
  """Checkpoints are written beside the training, by threads of a library."""
  told, fills, stack = [], [full(disk)], contextlib.ExitStack()

  def tell(epoch, host, resumed):
    told.append((epoch, resumed))
    if epoch == 3 and fills:
      stack.enter_context(fills.pop())

  def run():
    return loop.run(
      _Weights(), disk / 'place', 8, {'of': 'w'}, tell, pytest.fail
    )

  with stack, pytest.raises(Exception, match='No space left|ENOSPC|exhausted'):
    run()
  # The fourth epoch could not be saved, or not the end of the third.
  assert told[-1][0] in (3, 4)
  told.clear()
  state = run()
  assert [e for e, resumed in told if resumed][-1] in (2, 3)
  weights = np.zeros(12_500)
  for epoch in range(1, 9):
    noise = np.random.default_rng(epoch).normal(size=12_500)
    weights = 0.5 * weights + noise
  assert state['w'].tobytes() == weights.tobytes()
