"""Writers that are killed, that race, and that run out of disk."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import textwrap

import pytest
import tiny_run
from table_rows import row

from nasjax import table

# A writer that forks, so that a kill at each system call costs milliseconds.
# Nothing of pyarrow runs in the parent, which keeps its threads out of forks;
# pandas, which pyarrow imports when it first converts, is there beforehand.
KILLER = """
import json, os, pathlib, shutil, signal, sys
import pandas
from nasjax import table
from table_rows import row

CELLS = ([[0, 1], [0, 0, 1], [0, 1, 0, 0]], [[1, 0], [0, 1, 0], [4, 1, 0, 1]])
ROWS = [row(cell) for cell in CELLS]

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

def write_and_die(directory, at):
  calls = 0
  def count(event, args):
    nonlocal calls
    if event in ('open', 'os.link', 'os.rename', 'os.remove', 'os.fsync'):
      if str(directory) in str(args[0]) or event == 'os.fsync':
        calls += 1
        if calls == at:
          os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(count)
  os.fsync = lambda fd: count('os.fsync', (fd,))
  table.write_shard(directory, 'new', ROWS, {'a': 1})

def prepare(directory, damaged):
  table.write_shard(directory, 'old', [row(CELLS[0], 99)])
  if damaged:
    table.write_shard(directory, 'new', [row(CELLS[0], 98)])
    path = directory / 'new.parquet'
    path.write_bytes(path.read_bytes()[:-1])

def look(directory):
  report = table.verify(directory)
  state = {
    'good': [s.name for s in report.shards],
    'problems': sorted(report.problems),
    'uncommitted': report.uncommitted,
    'leftovers': len(report.leftovers),
  }
  table.write_shard(directory, 'new', ROWS, {'a': 1})
  t = table.open(directory)
  state['rows'] = len(t)
  state['right'] = [
    t.query(r['arch'], 'test_per', seed=1234) == r['test_per'] for r in ROWS
  ]
  state['left'] = sorted(p.name for p in directory.iterdir())
  return state

def look_at_all(killed):
  states = [
    look(d) | {'killed': k, 'damaged': d.name.startswith('damaged')}
    for d, k in killed.items()
  ]
  print(json.dumps(states), flush=True)

root = pathlib.Path(sys.argv[1])
os.fsync = lambda fd: None  # matters when machines die, not when processes do
killed = {}
for damaged in (False, True):
  first = root / f'first-{damaged}'
  assert in_child(lambda: prepare(first, damaged)) == 0
  for at in range(1, 99):
    directory = root / f'{"damaged" if damaged else "clean"}-{at}'
    shutil.copytree(first, directory)
    status = in_child(lambda: write_and_die(directory, at))
    killed[directory] = status == signal.SIGKILL
    if status == 0:
      break
assert in_child(lambda: look_at_all(killed)) == 0
"""


def run_script(code, *args):
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *map(str, args)],
    env=os.environ | {'PYTHONPATH': tiny_run.PYTHONPATH},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_a_kill_at_any_call_leaves_nothing_or_all(tmp_path):
  states = json.loads(run_script(KILLER, tmp_path))
  for damaged in (False, True):
    group = [s for s in states if s['damaged'] == damaged]
    assert sum(s['killed'] for s in group) >= 13
    # The interesting moments were all met.
    assert any(s['uncommitted'] == ['new'] for s in group)
    assert any(s['leftovers'] == 1 for s in group)
    assert any(s['killed'] and 'new' in s['good'] for s in group)
  for state in states:
    assert 'old' in state['good']
    # The shard damaged beforehand may still stand; the writer damages none.
    assert state['problems'] == [] or state['damaged']
    # Written again, everything is there once, and no debris.
    assert state['rows'] == 3 and state['right'] == [True, True]
    assert state['left'] == [
      '.lock',
      '_new.json',
      '_old.json',
      'new.parquet',
      'old.parquet',
    ]


def test_writers_at_once(tmp_path):
  code = """
    import os, pathlib, sys
    import pandas
    from nasjax import table
    from table_rows import row
    cell = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
    os.fsync = lambda fd: None
    for n in range(10):
      pids = []
      for w in range(4):
        pids.append(os.fork())
        if not pids[-1]:
          rows = [row(cell, s, seconds=float(w)) for s in range(20)]
          table.write_shard(pathlib.Path(sys.argv[1]), f's{n}', rows)
          os._exit(0)
      assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
  """
  run_script(code, tmp_path)
  report = table.verify(tmp_path)
  assert len(report.shards) == 10 and not report.problems
  assert not report.leftovers and not report.uncommitted


def test_a_full_disk_commits_nothing(tmp_path):
  code = """
    import resource, signal, sys
    from nasjax import table
    from table_rows import row
    rows = [row([[0, 1], [0, 0, 1], [0, 1, 0, 0]], s) for s in range(99)]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
      table.write_shard(sys.argv[1], 'a', rows)
    except OSError as e:
      print(type(e).__name__)
  """
  assert 'OSError' in run_script(code, tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['.lock']
  with pytest.raises(table.TableError, match='no committed shard'):
    table.open(tmp_path)


@pytest.mark.parametrize('locks', [True, False])
def test_rows_without_a_mark_are_vouched_for_or_replaced(
  tmp_path, monkeypatch, locks
):
  """Those of a writer who is dead, or late, or on another machine."""
  if not locks:

    def none(*_):
      raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', none)
  cell = [[0, 1], [0, 0, 1], [0, 1, 0, 0]]
  for name, changes, kept in [
    ('same', {'seconds': 7.0}, True),
    ('other', {'test_per': 0.5}, False),
    ('torn', None, False),
  ]:
    table.write_shard(tmp_path / name, 'new', [row(cell, **(changes or {}))])
    path = tmp_path / name / 'new.parquet'
    (tmp_path / name / '_new.json').unlink()
    if changes is None:
      path.write_bytes(path.read_bytes()[:-9])
    before = path.read_bytes()
    table.write_shard(tmp_path / name, 'new', [row(cell)])
    assert (path.read_bytes() == before) == kept
    report = table.verify(tmp_path / name)
    assert not report.problems and len(report.shards) == 1
    assert not report.uncommitted and not report.leftovers
