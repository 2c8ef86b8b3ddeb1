"""Tests of small shards put together into large files."""

import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pytest
import tiny_run
from table_rows import SPACE, diverged, latency_row, row

from nasjax import table
from nasjax.table import compaction, contents, schema, shards

CELLS = SPACE.from_index(np.arange(100, 112))
PACKED = '_packed'


def fill(directory, names, first=0):
  """Writes a shard a name, of two rows each, one of them of one."""
  for n, name in enumerate(names, first):
    rows = [row(CELLS[n], 1), row(CELLS[n], 2)]
    if n == 1:
      rows = [diverged(CELLS[1], 3)]
    edits = [None if np.isnan(r['test_per']) else [n, 2, 3] for r in rows]
    rates = {'wer': [0.5 + n / 100] * len(rows)}
    meta = {'metric': 'PER', 'edits': edits, 'rates': rates, 'notes': ['loud']}
    table.write_shard(directory, name, rows, meta)


def answers(path):
  """Returns all that a table answers, comparable, NaN and all."""
  t = table.open(path)
  plain = t.to_arrow().to_pylist()
  return repr((
    plain,
    [(s.name, s.sha256, s.size, s.rows, s.meta) for s in t.shards],
    [t.column(n).tolist() for n in ('test_per', 'seed', 'shard', 'best_epoch')],
    [t.curves(n).tolist() for n in table.CURVES],
    (t.metric, t.metrics, t.notes, t.edits.tolist(), t.rates('wer').tolist()),
    (t.seeds, t.recipes, t.archs.tolist(), t.row_archs.tolist(), t.conflicts),
    [t.query(SPACE.nested(CELLS[n]), 'val_per', reduce='mean', epoch=2)
     for n in (0, 2)],
    table.committed(path, kind=None),
  ))  # fmt: skip


@pytest.fixture
def small(tmp_path):
  fill(tmp_path, 'gbdacfe')
  table.write_shard(tmp_path, 'latency-x', [latency_row(CELLS[0])])
  return tmp_path


def listing(directory):
  return {
    str(p.relative_to(directory)): p.stat().st_mtime_ns
    for p in directory.rglob('*')
    if p.is_file() and p.name != '.lock'
  }


def test_answers_stay_as_they_were(small):
  before, opened = answers(small), table.open(small)
  digests = {s.name: s.sha256 for s in opened.shards}
  packs = table.compact(small, pack_rows=6)
  # The row of b is one: a, b and c, then d, e and f; g has no neighbour left.
  assert len(packs) == 2 and answers(small) == before
  assert sorted(p.stem for p in small.glob('*.parquet')) == sorted(
    [*packs, 'g']
  )
  # Who had opened it before goes on reading.
  assert opened.column('shard').tolist() == [n for n in 'aabccddeeffgg']
  assert opened.to_arrow().num_rows == 13
  report = table.verify(small)
  assert not report.problems and not report.uncommitted
  found = {s.name: s.sha256 for s in report.shards if s.name in digests}
  assert found == digests and not report.leftovers
  files = listing(small)
  assert table.compact(small, pack_rows=6) == () and listing(small) == files


def test_what_comes_later_stands_in_order(small, tmp_path_factory):
  other = tmp_path_factory.mktemp('other')
  fill(other, 'gbdacfe')
  for directory in (small, other):
    fill(directory, ['aa', 'da'], 7)
  table.write_shard(other, 'latency-x', [latency_row(CELLS[0])])
  for path in (small / 'aa.parquet', small / 'da.parquet'):
    path.unlink()
    shards.mark_path(path).unlink()
  table.compact(small)
  fill(small, ['aa', 'da'], 7)
  assert answers(small) == answers(other)
  assert table.open(small).select(recipe='e40').column('shard').tolist() == (
    table.open(other).column('shard').tolist()
  )
  # A second time only what is new is packed.
  (pack,) = table.compact(small)
  assert answers(small) == answers(other)
  assert {s.name for s in contents.members(small, pack)} == {'aa', 'da'}


def test_a_packed_shard_is_written_no_second_time(small):
  before = answers(small)
  table.compact(small)
  files = listing(small)
  fill(small, 'gbdacfe')
  assert listing(small) == files and answers(small) == before
  with pytest.raises(
    table.ConflictError, match="shard 'a' of .* with other results"
  ):
    table.write_shard(small, 'a', [row(CELLS[9], 1)])
  assert table.is_committed(small, 'a') and not table.is_committed(small, 'z')
  assert table.load(small, 'c').rows == 2
  with pytest.raises(table.TableError, match='begins the names of packs'):
    table.write_shard(small, 'packed-a', [row(CELLS[9], 1)])


def test_one_bit_in_a_pack_costs_the_rows_around_it(small, monkeypatch):
  monkeypatch.setattr(compaction, 'GROUP_ROWS', 5)
  before = table.open(small).to_arrow()
  (pack,) = table.compact(small)
  path = small / f'{pack}.parquet'
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 3] ^= 4
  path.write_bytes(raw)
  with pytest.raises(table.DamagedShardError, match=f'{pack}.parquet has SHA'):
    table.open(small)
  assert set(table.verify(small).problems) == set('abcdefg')
  lost = table.repair(small)
  assert 0 < len(lost) < 4
  # What could be read has the digests that it had at first.
  report = table.verify(small)
  assert not report.problems and not list(small.glob('packed-*'))
  found = {s.name for s in report.shards if not s.name.startswith('latency')}
  assert found == set('abcdefg') - set(lost)
  fill(small, 'gbdacfe')
  same = compaction._alike
  volatile = before.column_names.index('created')
  assert same(
    table.open(small).to_arrow().remove_column(volatile),
    before.remove_column(volatile),
  )


def test_the_second_mark_stands_in_for_the_first(small):
  before = answers(small)
  (pack,) = table.compact(small)
  mark = small / PACKED / f'{pack}.json'
  mark.write_bytes(mark.read_bytes().replace(b'"rows": 13', b'"rows": 14'))
  assert table.committed(small) == (pack,)
  with pytest.raises(table.DamagedShardError, match='does not have the digest'):
    table.open(small)
  assert table.repair(small) == () and answers(small) == before
  # Without it the pack is set aside, and all of its shards can be made again.
  for path in (mark, mark.with_suffix('.copy')):
    path.write_bytes(b'{}')
  assert table.repair(small) == (pack,)
  assert table.committed(small) == () and not list(small.glob('*.parquet'))
  fill(small, 'gbdacfe')
  assert answers(small) == before


@pytest.mark.parametrize('what', ['names', 'rows', 'text'])
def test_a_mark_that_lies_is_refused(small, what):
  (pack,) = table.compact(small)
  path = small / PACKED / f'{pack}.json'
  content = json.loads(path.read_text())
  del content['mark_sha256']
  plain = json.loads(content['meta']['packed'])
  if what == 'names':
    plain['shard'].pop()
  elif what == 'rows':
    plain['rows'][0] += 1
  else:
    plain = []
  content['meta']['packed'] = json.dumps(plain)
  path.write_bytes(shards.seal(content))
  with pytest.raises(table.DamagedShardError, match='is no mark of a pack'):
    table.open(small)


def test_a_damaged_shard_is_left_where_it_is(small):
  path = small / 'c.parquet'
  path.write_bytes(path.read_bytes()[:-1])
  (pack,) = table.compact(small)
  assert {s.name for s in contents.members(small, pack)} == set('abdefg')
  assert set(table.verify(small).problems) == {'c'}
  assert table.repair(small) == ('c',)


def test_merged_tables_may_be_packed(small, tmp_path_factory):
  before, one, two = (
    answers(small),
    tmp_path_factory.mktemp('one'),
    tmp_path_factory.mktemp('two'),
  )
  fill(one, 'gbd')
  fill(two, 'acfe', 3)
  table.write_shard(two, 'latency-x', [latency_row(CELLS[0])])
  fill(two, 'd', 2)
  table.compact(one)
  table.compact(two)
  out = tmp_path_factory.mktemp('out')
  table.merge([one, two], out)
  assert answers(out) == before
  table.merge([one, two], out)
  assert answers(out) == before and not table.verify(out).problems


# As in test_kills: a fork for each call at which the process is killed.
KILLER = """
import json, os, pathlib, shutil, signal, sys
import pandas
import test_compaction as ours
from nasjax import table

def in_child(function):
  pid = os.fork()
  if not pid:
    try:
      function()
      os._exit(0)
    except BaseException as e:
      print(repr(e), file=sys.stderr, flush=True)
      os._exit(1)
  return os.waitpid(pid, 0)[1]

def compact_and_die(directory, at):
  calls = 0
  def count(event, args):
    nonlocal calls
    if event in ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.fsync'):
      if str(directory) in str(args[0]) or event == 'os.fsync':
        calls += 1
        if calls == at:
          os.kill(os.getpid(), signal.SIGKILL)
  os.fsync = lambda fd: count('os.fsync', (fd,))
  sys.addaudithook(count)
  table.compact(directory, pack_rows=6)

def look(directory):
  states = ours.answers(directory) == WANTED
  packs = table.compact(directory, pack_rows=6)
  report = table.verify(directory)
  return {
    'at once': states,
    'in the end': ours.answers(directory) == WANTED,
    'leftovers': report.leftovers,
    'problems': sorted(report.problems),
    'uncommitted': report.uncommitted,
    'files': sorted(ours.listing(directory)),
    'made': len(packs),
  }

def look_at_all():
  global WANTED
  WANTED = ours.answers(root / 'first')
  print(json.dumps([look(d) for d in killed]), flush=True)

root = pathlib.Path(sys.argv[1])
os.fsync = lambda fd: None  # matters when machines die, not when processes do
killed = []
assert in_child(lambda: ours.fill(root / 'first', 'gbdacfe')) == 0
for at in range(1, 999, int(sys.argv[2])):
  directory = root / str(at)
  shutil.copytree(root / 'first', directory)
  status = in_child(lambda: compact_and_die(directory, at))
  if status == 0:
    break
  assert status == signal.SIGKILL, status
  killed.append(directory)
assert in_child(look_at_all) == 0
"""


def _run(code, *args):
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *map(str, args)],
    env=os.environ
    | {'PYTHONPATH': f'{tiny_run.PYTHONPATH}:{os.path.dirname(__file__)}'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


# In short at every seventh call.
@pytest.mark.parametrize('every', [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_call_shows_each_shard_once(tmp_path, every):
  states = json.loads(_run(KILLER, tmp_path, every))
  assert len(states) > 60 / every
  # Killed before anything was packed, between packs, and after all.
  assert {state['made'] for state in states} == {0, 1, 2}
  for state in states:
    assert state['at once'] and state['in the end'], state
    assert not state['problems'] + state['uncommitted'] + state['leftovers']
  # Whenever it was killed, the same files stand there in the end.
  assert len({tuple(state['files']) for state in states}) == 1


def test_others_read_while_it_goes_on(tmp_path):
  fill(tmp_path, 'abcdefghijkl')
  wanted = answers(tmp_path)
  pid = os.posix_spawn(
    sys.executable,
    [
      sys.executable,
      '-c',
      'import sys; from nasjax import table; '
      'print(table.compact(sys.argv[1], pack_rows=4))',
      str(tmp_path),
    ],
    os.environ | {'PYTHONPATH': tiny_run.PYTHONPATH},
  )
  looks, ended = 0, 0
  deadline = time.monotonic() + 120
  while not ended and time.monotonic() < deadline:
    ended, status = os.waitpid(pid, os.WNOHANG)
    assert answers(tmp_path) == wanted
    looks += 1
  assert ended and status == 0 and looks > 1
  assert len(contents.packs(tmp_path)) == 6


@pytest.mark.parametrize(
  'count',
  [
    2000,
    pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.reliability]),
  ],
)
def test_many_packed_shards_open_at_once(tmp_path, count):
  """By the clock of the processor: that of the wall is others', too."""
  one = table.write_shard(tmp_path / 'one', 'x', [row(CELLS[0], 1)])
  rows = shards.read(one)
  group = [
    one._replace(name=f'{n:016x}', meta={'edits': [[n, 1, 2]], 'members': 1})
    for n in range(count)
  ]
  seeds = pa.array(range(count), pa.int32())
  whole = pa.concat_tables([rows] * count)
  for name, values in (
    ('seed', seeds),
    ('shard', pa.array([s.name for s in group])),
  ):
    at = whole.column_names.index(name)
    whole = whole.set_column(at, schema.SCHEMA.field(at), values)
  out = tmp_path / 'many'
  out.mkdir()
  for first in range(0, count, compaction.PACK_ROWS):
    some = slice(first, first + compaction.PACK_ROWS)
    part = whole.slice(first, compaction.PACK_ROWS)
    compaction.write_pack(out, group[some], part)
  begun = time.process_time()
  t = table.open(out)
  spent = time.process_time() - begun
  print(f'{count} shards: {spent:.2f} s')
  assert spent < 2
  assert len(contents.packs(out)) == -(-count // compaction.PACK_ROWS)
  assert len(t.shards) == count and t.edits[:, 0].tolist() == list(range(count))
